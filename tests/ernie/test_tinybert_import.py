"""Released TinyBERTs: general checkpoints of both versions, and task models with their ReLU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
)

from ernie.errors import InputError
from ernie.tinybert import TinyBertForSequenceClassification, load_tinybert

SIZES = {"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
IDS = torch.tensor([[2, 7, 9, 3]])


def _released(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """A folder as the release has it: no model_type, its own keys beside BERT's."""
    folder.mkdir()
    described = {**SIZES, "cell": {}, "emb_size": 12, "structure": [], "pre_trained": "", "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(described))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def _general(seed: int = 0) -> BertForPreTraining:
    torch.manual_seed(seed)
    return BertForPreTraining(BertConfig(**SIZES, layer_norm_eps=1e-12)).eval()


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("names", [["fit_dense"], ["fit_denses.0", "fit_denses.1", "fit_denses.2"]], ids=["v1", "v2"])
def test_general_checkpoints_answer_as_the_encoder_they_hold(tmp_path, names):
    """Both layouts of the projection are left behind; a key too many or too few fails the load."""
    model = _general()
    fits = {f"{name}.{part}": torch.zeros(24, 12) if part == "weight" else torch.zeros(24) for name in names
            for part in ("weight", "bias")}  # fmt: skip
    state = {key: t for key, t in model.state_dict().items() if key != "cls.predictions.decoder.bias"}
    loaded = load_tinybert(_released(tmp_path / "v", {**{f"module.{key}": t for key, t in state.items()}, **fits}))
    found, expected = (m.bert(input_ids=IDS).last_hidden_state for m in (loaded, model))
    torch.testing.assert_close(found, expected)


@pytest.mark.parity
@torch.no_grad()
def test_a_task_model_keeps_its_relu_wherever_it_is_loaded(tmp_path):
    """transformers' own class answers otherwise with the same weights, without a warning: the reason for ours."""
    torch.manual_seed(0)
    plain = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3, layer_norm_eps=1e-12)).eval()
    state = {**plain.state_dict(), "fit_dense.weight": torch.zeros(24, 12), "fit_dense.bias": torch.zeros(24)}
    loaded = load_tinybert(_released(tmp_path / "task", state))
    assert isinstance(loaded, TinyBertForSequenceClassification)
    pooled = plain.bert(input_ids=IDS).pooler_output
    expected = plain.classifier(pooled.relu())
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected)
    assert not torch.allclose(plain(input_ids=IDS).logits, expected)
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(again(input_ids=IDS).logits, expected)


def test_what_is_no_released_tinybert_is_named(tmp_path):
    _general().save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="holds a 'bert' model"):
        load_tinybert(tmp_path / "bert")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_tinybert(tmp_path)
    cut = {key: t for key, t in _general().state_dict().items() if "layer.1" not in key}
    with pytest.raises(InputError, match="missing"):
        load_tinybert(_released(tmp_path / "cut", cut))
