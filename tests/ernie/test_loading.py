"""A checkpoint that does not fit is an error, where transformers prints a table and trains on noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForTokenClassification,
    BertModel,
)

from ernie import (
    ErnieConfig,
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForTokenClassification,
    ErnieModel,
    InputError,
)

SIZES: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
}
CLASSES = (ErnieModel, ErnieForPreTraining, ErnieForEntityTyping, ErnieForTokenClassification)
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def config(**settings: Any) -> ErnieConfig:
    return ErnieConfig(**SIZES, entity_size=4, **settings)


def saved(folder: Path, model_class: type, change: Change = lambda state: state) -> Path:
    """A folder whose weights went through `change`."""
    model_class(config(num_labels=3)).save_pretrained(folder)
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(part: str) -> Change:
    return lambda state: {key: tensor for key, tensor in state.items() if part not in key}


@pytest.mark.parametrize("saved_as", CLASSES)
@pytest.mark.parametrize("model_class", CLASSES)
def test_every_class_opens_every_class(tmp_path: Path, saved_as: type, model_class: Any) -> None:
    """A head that is missing is trained next; another task's is not needed. Neither is a fault."""
    folder = saved(tmp_path, saved_as)
    model = model_class.from_pretrained(folder)
    words = next(value for key, value in load_file(folder / "model.safetensors").items() if "word_embeddings" in key)
    assert torch.equal(model.get_input_embeddings().weight, words)


@pytest.mark.parametrize("bert_class", [BertModel, BertForMaskedLM, BertForPreTraining, BertForTokenClassification])
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_berts_folder_lacks_all_knowledge(tmp_path: Path, bert_class: Any, model_class: Any) -> None:
    """Fine-tuning begins from a plain BERT as well; its checkpoints differ in prefix, pooler and heads."""
    bert = BertConfig(**SIZES)
    bert_class(bert).save_pretrained(tmp_path)
    model_class.from_pretrained(tmp_path, config=ErnieConfig.from_bert(bert, entity_size=4))


@pytest.mark.parametrize(
    ("model_class", "change", "words"),
    [
        (ErnieModel, without("layer.1.attention.self.query"), r"2 missing \(encoder.layer.1.attention.self.query.bias"),
        (ErnieForEntityTyping, without("LayerNorm_ent.bias"), "2 missing .*layer.0.output.LayerNorm_ent.bias"),
        (ErnieForEntityTyping, without("classifier.bias"), r"1 missing \(classifier.bias\)"),
        (ErnieForPreTraining, without("cls.predictions.bias"), r"1 missing \(cls.predictions.bias\)"),
        (ErnieForPreTraining, without("pooler.dense.bias"), r"1 missing \(bert.pooler.dense.bias\)"),
        (ErnieModel, lambda state: {f"other.{key}": value for key, value in state.items()}, r"missing \(emb.*, \.\.\."),
        (
            ErnieForEntityTyping,
            lambda state: {**state, "bert.encoder.layer.2.output.dense.bias": torch.zeros(8)},
            r"1 surplus \(bert.encoder.layer.2.output.dense.bias\)",
        ),
        (
            ErnieModel,
            lambda state: {**state, "encoder.layer.2.output.dense.bias": torch.zeros(8)},
            r"1 surplus \(encoder.layer.2.output.dense.bias\)",
        ),
        (
            ErnieForEntityTyping,
            lambda state: {**state, "classifier.weight": torch.zeros(5, 8)},
            r"classifier.weight is \(5, 8\) there and \(3, 8\) by the config",
        ),
    ],
)
def test_half_a_checkpoint_is_refused_in_one_line(tmp_path: Path, model_class: Any, change: Change, words: str) -> None:
    """A part that is there by half was cut or renamed; fresh numbers in the middle of a model train well enough to be
    believed."""
    folder = saved(tmp_path, model_class, change)
    with pytest.raises(InputError, match=words) as caught:
        model_class.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_what_is_meant_can_be_said(tmp_path: Path) -> None:
    """Layers cut off, a head of another size, what is missing as a list: transformers' own ways stay open."""
    folder = saved(tmp_path, ErnieForEntityTyping)
    cut: dict[str, Any] = {"num_hidden_layers": 1, "layer_types": ["mix"]}
    with pytest.raises(InputError, match=r"surplus .* strict=False"):
        ErnieModel.from_pretrained(folder, **cut)
    for model_class in (ErnieModel, AutoModel):
        assert len(model_class.from_pretrained(folder, **cut, strict=False).encoder.layer) == 1
    wider = ErnieForEntityTyping.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert wider.classifier.weight.shape == (5, 8)
    _, report = ErnieForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert report["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    assert ErnieModel.from_pretrained(folder, num_trained_entity_rows=5, entity_input_size=6).entities.width == 6
