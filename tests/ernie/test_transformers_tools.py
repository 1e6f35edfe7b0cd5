"""Trainer and pipelines take the model as one of their own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    BertTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from ernie import (
    EntityTable,
    ErnieConfig,
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForRelationClassification,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
    ErnieModel,
    pad_batch,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def _leave_accelerate_as_found() -> Iterator[None]:
    """accelerate keeps one precision a process: a Trainer in bf16 would decide for every training that follows."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def built(model_class: type, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = ErnieConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        entity_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
    model = model_class(config)
    vectors = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    model.attach_entity_table(EntityTable(vectors))
    return model


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, seed=0, save_strategy="no", **settings
    )


def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return pad_batch(features, pad_token_id=0)


def test_entity_columns_survive_the_trainer(tmp_path: Path) -> None:
    """Trainer drops columns that it does not find in forward's signature: entities, and nobody would notice.

    The text of all examples is the same; only the entity tells the label, so only a model that gets it learns.
    """
    rows = [
        {
            "input_ids": [2, 5, 6, 3],
            "entity_ids": [1 + n % 2],
            "entity_positions": [1],
            "labels": n % 2,
            "note": "unused",
        }
        for n in range(16)
    ]
    model = built(ErnieForRelationClassification, num_labels=2)
    trainer = Trainer(
        model=model,
        args=arguments(
            tmp_path, max_steps=150, per_device_train_batch_size=16, learning_rate=1e-2, gradient_accumulation_steps=1
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        data_collator=collate,
    )
    trainer.train()
    predicted = trainer.predict(Dataset.from_list(rows))
    assert predicted.predictions.shape == (16, 2)
    assert predicted.predictions.argmax(-1).tolist() == [n % 2 for n in range(16)]
    assert trainer.evaluate()["eval_loss"] < 0.2


def test_pretraining_under_the_trainer_uses_all_labels(tmp_path: Path) -> None:
    """Label columns are found by name; candidates are one list a batch and come from the collator."""
    row = {
        "input_ids": [2, 5, 6, 3],
        "labels": [-100, 7, -100, -100],
        "entity_ids": [3],
        "entity_positions": [1],
        "entity_labels": [0],
        "next_sentence_label": 1,
    }

    def with_candidates(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {**collate(features), "entity_candidate_ids": torch.tensor([3, 4])}

    model = built(ErnieForPreTraining)
    settings: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, activation_checkpointing=True, bf16=True, **settings),
        train_dataset=Dataset.from_list([row] * 4),
        data_collator=with_candidates,
    )
    trainer.train()
    out = model(**with_candidates([row, row]))
    assert out.mlm_loss > 0
    assert out.nsp_loss > 0
    assert out.dea_loss > 0
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged[0] == pytest.approx(
        float(built(ErnieForPreTraining)(**with_candidates([row, row])).loss.detach()), rel=0.05
    )


@pytest.mark.parametrize(
    "model_class",
    [
        ErnieForEntityTyping,
        ErnieForPreTraining,
        ErnieForRelationClassification,
        ErnieForSequenceClassification,
        ErnieForTokenClassification,
    ],
)
def test_every_head_shows_the_models_inputs(model_class: type) -> None:
    """Signatures are what Trainer, exporters and editors read."""
    shown = inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
    inputs = inspect.signature(ErnieModel.forward).parameters
    assert not [p for p in shown.values() if p.kind is p.VAR_KEYWORD]
    assert set(shown) >= {name for name in inputs if name != "kwargs"}


def test_pipelines_read_plain_text() -> None:
    """Text without entities is first class, so what transformers does with text must work."""
    tokenizer = BertTokenizer(vocab={word: row for row, word in enumerate(WORDS)})
    typing = pipeline(
        "text-classification", model=built(ErnieForEntityTyping, num_labels=3).eval(), tokenizer=tokenizer
    )
    assert len(typing("a b", top_k=None)) == 3
    pair = pipeline(
        "text-classification", model=built(ErnieForSequenceClassification, num_labels=2).eval(), tokenizer=tokenizer
    )
    assert set(pair({"text": "a", "text_pair": "b"})) == {"label", "score"}
    tokens = pipeline(
        "token-classification", model=built(ErnieForTokenClassification, num_labels=2).eval(), tokenizer=tokenizer
    )
    assert [found["word"] for found in tokens("a b c")] == ["a", "b", "c"]
    features = pipeline("feature-extraction", model=built(ErnieModel).eval(), tokenizer=tokenizer)
    assert len(features("a b")[0]) == 4
    mask = pipeline("fill-mask", model=built(ErnieForPreTraining).eval(), tokenizer=tokenizer)
    assert len(mask("a [MASK] b")) == 5


def test_every_task_opens_a_folder_by_its_path(tmp_path: Path) -> None:
    """A path is what users hand over; transformers then chooses the class, by the config's name if nothing better."""
    tokenizer = BertTokenizer(vocab={word: row for row, word in enumerate(WORDS)})
    for task, model in {
        "fill-mask": built(ErnieForPreTraining),
        "text-classification": built(ErnieForEntityTyping, num_labels=3),
        "token-classification": built(ErnieForTokenClassification, num_labels=2),
        "feature-extraction": built(ErnieModel),
    }.items():
        folder = str(tmp_path / task)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        opened: Any = pipeline(task, model=folder)
        assert type(opened.model).__module__.startswith("ernie.")
        assert opened("a [MASK] b")
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "fill-mask")) is ErnieForPreTraining


def test_a_missing_head_is_told_and_no_other_model_is_built(tmp_path: Path) -> None:
    """transformers has an ErnieConfig too (Baidu's) and looks classes up by that name: it built its own from ours."""
    built(ErnieModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    other = AutoConfig.for_model("ernie", hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    assert type(AutoModel.from_config(other)).__module__ == "transformers.models.ernie.modeling_ernie"
    made = type(built(ErnieModel).config)
    assert getattr(sys.modules[made.__module__], made.__qualname__) is made, "workers find a config's class by its name"


@pytest.mark.parametrize("settings", [{}, {"bf16": True, "activation_checkpointing": True}])
def test_the_trainer_resumes_from_its_checkpoint(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Trainer reads config.json with transformers' base class, which has layer types of its own and refused ours."""
    row = {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1], "entity_ids": [3], "entity_positions": [1]}
    data = Dataset.from_list([{**row, "labels": number / 2} for number in range(4)])
    weights = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        model = built(ErnieForSequenceClassification, num_labels=1)
        given = arguments(tmp_path, max_steps=4, per_device_train_batch_size=2, **settings)
        given.save_strategy, given.save_steps = "steps", 2
        trainer = Trainer(model=model, args=given, train_dataset=data, data_collator=collate)
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 4
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=lambda text, n=name: f"{n}: {text}")
