"""What a user may get wrong: one line with what was expected and what came, before anything trains on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, ElectraConfig, ModernBertConfig, RobertaConfig

from ernie import (
    EntityTable,
    ErnieConfig,
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForRelationClassification,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
    InputError,
)

CONFIG: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "entity_size": 8,
}
NAN = float("nan")


def built(model_class: type = ErnieForPreTraining, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = model_class(ErnieConfig(**{**CONFIG, **settings})).eval()
    model.attach_entity_table(EntityTable(torch.cat([torch.zeros(1, 8), torch.randn(8, 8)])))
    return model


def full(*shape: int, value: float = 1) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.long if isinstance(value, int) else torch.float32)


TEXT = {"input_ids": full(2, 8, value=5)}
ENTITY = {"entity_ids": full(2, 1, value=3), "entity_positions": full(2, 1)}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"attention_mask": full(2, 7)}, r"attention_mask .* = \(2, 8\), got \(2, 7\)"),
        ({"attention_mask": full(8)}, r"attention_mask .* got \(8,\)"),
        ({"attention_mask": full(2, 8, 8)}, r"attention_mask .* got \(2, 8, 8\)"),
        ({"token_type_ids": full(2, 7)}, r"token_type_ids .* = \(2, 8\), got \(2, 7\)"),
        ({"token_type_ids": full(2, 8, value=2)}, "token_type_ids lie in 0..1, got 2"),
        ({"position_ids": full(1, 8, value=12)}, "position_ids lie in 0..11, got 12"),
        ({"input_ids": full(2, 8, value=31)}, "input_ids lie in 0..30, got 31: a tokenizer with another vocabulary"),
        ({"input_ids": full(2, 8, value=-1)}, "input_ids lie in 0..30, got -1"),
        ({"input_ids": full(8)}, r"input_ids have shape \(batch, seq_len\), got \(8,\)"),
        ({"input_ids": full(2, 8, value=1.0)}, "input_ids are integers, got torch.float32"),
        ({"input_ids": full(2, 0)}, r"at least one text and one word piece, got shape \(2, 0\)"),
        ({"input_ids": full(0, 4)}, r"got shape \(0, 4\)"),
        ({"inputs_embeds": full(2, 8, 16, value=0.0)}, "input_ids or inputs_embeds, one of them"),
        ({"input_ids": None, "inputs_embeds": full(2, 8, 15, value=0.0)}, r"seq_len, 16\), got \(2, 8, 15\)"),
        ({"entity_positions": full(2, 1)[:, :0], "entity_attention_mask": full(2, 1)}, "mask without entities"),
        ({**ENTITY, "entity_ids": full(2, 1, value=1.0)}, "entity_ids are integers"),
        ({**ENTITY, "entity_ids": full(3, 1)}, r"= \(2, num_entities\), got \(3, 1\)"),
        ({**ENTITY, "entity_ids": full(2, 1, value=9)}, r"entity row 9 is not in the table"),
        ({**ENTITY, "entity_positions": full(2, 1, value=1.5)}, "entity_positions are integers"),
        ({**ENTITY, "entity_positions": full(2, 1, value=8)}, "0..7 for 8 word pieces, got 8 at example 0, entity 0"),
        ({**ENTITY, "entity_positions": full(2, 1, value=-1)}, "got -1 at example 0"),
        (
            {**ENTITY, "attention_mask": torch.tensor([[1] * 8, [1] + [0] * 7])},
            "entity 0 of example 1 sits on piece 1, which attention_mask calls padding",
        ),
        ({**ENTITY, "entity_attention_mask": full(2, 1, value=5)}, "entity_attention_mask is 0 or 1, got 5"),
        ({**ENTITY, "entity_attention_mask": full(2, 8)}, r"= \(2, 1\), got \(2, 8\)"),
        (
            {"entity_embeds": full(2, 1, 8, value=NAN), "entity_positions": full(2, 1)},
            "vector of example 0, entity 0 is not finite",
        ),
        ({"labels": full(2, 8, value=31)}, "labels lie in 0..30 or are -100 .ignored., got 31"),
        ({"labels": full(2, 8, value=-1)}, "got -1"),
        ({"labels": full(2, 7)}, r"\(2, 8\), got \(2, 7\)"),
        ({"next_sentence_label": full(2, value=2)}, "next_sentence_label lie in 0..1"),
        ({"next_sentence_label": full(1)}, r"\(2,\), got \(1,\)"),
        ({"next_sentence_label": full(2, value=1.0)}, "next_sentence_label are integers, got torch.float32"),
        ({**ENTITY, "entity_labels": full(2, 1)}, "entity_labels need entity_candidate_ids"),
        ({**ENTITY, "entity_labels": full(2, 2), "entity_candidate_ids": full(1)}, r"\(2, 1\), got \(2, 2\)"),
        ({**ENTITY, "entity_labels": full(2, 1, value=3), "entity_candidate_ids": full(1)}, "0..1 .* got 3"),
        ({**ENTITY, "entity_candidate_ids": full(1, 2)}, r"\(num_candidates,\), got \(1, 2\)"),
        ({**ENTITY, "entity_candidate_ids": full(2)}, "hold row 1 more than once"),
        ({**ENTITY, "entity_candidate_ids": full(1, value=0)}, "leave 0 out"),
        ({**ENTITY, "entity_candidate_ids": full(1, value=99)}, "entity row 99 is not in the table"),
        ({**ENTITY, "entity_candidates": full(3, 5, value=0.0)}, r"\(\.\.\., 8\), got \(3, 5\)"),
        ({**ENTITY, "entity_candidates": full(8, value=0.0)}, r"\(num_candidates, entity_size\), got \(8,\)"),
    ],
)
def test_each_wrong_input_is_one_line(inputs: dict[str, Any], words: str) -> None:
    """Before, a mask of another length was taken as it was, and equal candidates shared a probability."""
    with pytest.raises(InputError, match=words) as caught:
        built()(**{**TEXT, **inputs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_class", "settings", "labels", "words"),
    [
        (ErnieForEntityTyping, {}, full(2, 2, value=7.0), "lie in 0..1, got 7: one column a label"),
        (ErnieForEntityTyping, {}, full(2, 2, value=NAN), "finite numbers, got nan"),
        (ErnieForEntityTyping, {}, full(2), r"shape \(2, 2\), got \(2,\)"),
        (ErnieForRelationClassification, {}, full(2, value=1.0), "are integers .* got torch.float32"),
        (ErnieForSequenceClassification, {}, full(2, 2), r"got torch.int64 \(2, 2\): several labels a text are config"),
        (ErnieForRelationClassification, {}, full(2, value=2), "lie in 0..1 .* got 2"),
        (
            ErnieForSequenceClassification,
            {"num_labels": 1, "problem_type": "regression"},
            full(2, value=NAN),
            "finite numbers, got nan",
        ),
        (ErnieForTokenClassification, {}, full(2, 7), r"\(2, 8\), got \(2, 7\)"),
        (ErnieForTokenClassification, {}, full(2, 8, value=2), "lie in 0..1 .* got 2"),
    ],
)
def test_targets_that_cannot_be_are_refused(
    model_class: type, settings: dict[str, Any], labels: torch.Tensor, words: str
) -> None:
    """A NaN or a class number among 0/1 columns lowers no loss, it only ruins the run."""
    with pytest.raises(InputError, match=words):
        built(model_class, **settings)(**TEXT, labels=labels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"problem_type": "ranking"}, "problem_type is one of single_label.*got 'ranking'"),
        ({"num_labels": 0}, "num_labels of at least 1, got 0"),
        ({"entitysize": 3}, "no field 'entitysize', did you mean entity_size"),
        ({"hidden_size": "a"}, "hidden_size is a whole number of at least 1, got 'a'"),
        ({"num_attention_heads": 0}, "num_attention_heads is a whole number of at least 1, got 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is a whole number of at least 1, got True"),
        ({"num_trained_entity_rows": 1.5}, "num_trained_entity_rows is 0 .* got 1.5"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is a probability from 0 to below 1, got 1.5"),
        ({"classifier_dropout": -0.1}, "classifier_dropout is a probability from 0 to below 1, got -0.1"),
        ({"initializer_range": -1.0}, "initializer_range is a standard deviation .* got -1.0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is a number above 0 .in YAML 1e-12 is a text.* got '1e-12'"),
        ({"cls_entity": "yes"}, "cls_entity is true or false, got 'yes'"),
        ({"pad_token_id": 31}, "pad_token_id is a row of the 31 word pieces or None, got 31"),
    ],
)
def test_a_config_that_means_something_else_is_refused(settings: dict[str, Any], words: str) -> None:
    """transformers keeps unknown fields without a word: a misspelt width leaves the default in place."""
    with pytest.raises(InputError, match=words):
        built(ErnieForSequenceClassification, **settings)


@pytest.mark.parametrize("model_class", [ErnieForRelationClassification, ErnieForTokenClassification])
def test_one_label_is_no_choice(model_class: type) -> None:
    """Cross entropy over one class is 0 with gradient 0: a training that learns nothing and looks perfect."""
    with pytest.raises(InputError, match="one label is no choice"):
        built(model_class, num_labels=1)


def test_a_config_is_not_changed_by_the_head_that_takes_it() -> None:
    """A typing model's problem type leaked into the config, and from there into the next model."""
    config = ErnieConfig(**CONFIG)
    assert ErnieForEntityTyping(config).config.problem_type == "multi_label_classification"
    assert config.problem_type is None
    assert ErnieForRelationClassification(config).config.problem_type == "single_label_classification"


def test_positions_alone_ask_a_text_for_its_entities() -> None:
    """Which entity is at this piece, when none was given? The head reads token states, so it can be asked."""
    model = built()
    out = model(**TEXT, entity_positions=full(2, 1), entity_candidate_ids=torch.tensor([1, 2]))
    assert out.entity_logits.shape == (2, 1, 3)


def test_a_masked_entity_may_sit_anywhere() -> None:
    """Padding of the entity axis points at piece 0 or at garbage; only real entities must sit on real pieces."""
    mask = torch.tensor([[1] * 8, [1] + [0] * 7])
    built()(**TEXT, **ENTITY, attention_mask=mask, entity_attention_mask=torch.tensor([[1], [0]]))


def test_fields_of_other_configs_are_kept() -> None:
    """transformers' own and other models' fields pass: a check that took them for slips would refuse checkpoints."""
    for other in (BertConfig(), RobertaConfig(), DistilBertConfig(), ElectraConfig(), ModernBertConfig()):
        fields = {k: v for k, v in other.to_dict().items() if k not in ErnieConfig(**CONFIG).to_dict()}
        assert ErnieConfig(**CONFIG, **fields).hidden_size == 16


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RobertaConfig(), "go onto a 'bert' config, got 'roberta'"),
        (BertConfig(is_decoder=True), "a BERT with is_decoder=False, got True"),
        (BertConfig(position_embedding_type="relative_key"), "position_embedding_type='absolute', got 'relative_key'"),
    ],
)
def test_knowledge_goes_onto_bert_alone(config: Any, words: str) -> None:
    """A RoBERTa's fields have a BERT's names; its positions begin at 2, and nothing would say so."""
    with pytest.raises(InputError, match=words):
        ErnieConfig.from_bert(config, entity_size=8)
