"""Plain BERT and TinyBERT, there and back, by numbers. The first release's way is in test_golden_ernie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertForPreTraining, BertForSequenceClassification, BertModel

from ernie import (
    ErnieConfig,
    ErnieForPreTraining,
    ErnieForRelationClassification,
    ErnieForTokenClassification,
    ErnieModel,
    InputError,
)
from ernie.conversion import (
    bert_from_ernie,
    config_from_tinybert,
    ernie_from_bert,
    from_tinybert,
    is_tinybert,
    to_tinybert,
)

pytestmark = pytest.mark.parity

WIDTHS: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
}


def text() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(1, 41, (3, 11), generator=generator),
        "token_type_ids": torch.randint(0, 2, (3, 11), generator=generator),
        "attention_mask": (torch.arange(11) < torch.tensor([11, 4, 7])[:, None]).long(),
    }


def disturbed(model: Any) -> Any:
    """Off the initial zeros and ones, so that a lost bias or LayerNorm shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


@pytest.mark.parametrize(
    "model_class", [ErnieModel, ErnieForPreTraining, ErnieForRelationClassification, ErnieForTokenClassification]
)
def test_an_ernie_without_entities_is_a_bert(model_class: type) -> None:
    """A student or a plain deployment takes the text side: the entities' bias belongs to every token and goes along."""
    torch.manual_seed(0)
    config = ErnieConfig(**WIDTHS, entity_size=8, layer_types=["text", "mix", "fuse"], cls_entity=False, num_labels=5)
    ours = disturbed(model_class(config))
    theirs = bert_from_ernie(ours)
    wanted, got = ours(**text()), theirs(**text())
    real = text()["attention_mask"] == 1
    if model_class is ErnieModel:
        pairs = [
            (wanted.last_hidden_state[real], got.last_hidden_state[real]),
            (wanted.pooler_output, got.pooler_output),
        ]
    elif model_class is ErnieForPreTraining:
        pairs = [(wanted.logits[real], got.prediction_logits[real])]
        pairs.append((wanted.seq_relationship_logits, got.seq_relationship_logits))
    else:
        by_token = model_class is ErnieForTokenClassification
        pairs = [(wanted.logits[real], got.logits[real])] if by_token else [(wanted.logits, got.logits)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-10)


def test_a_bert_comes_back_as_it_went(tmp_path: Path) -> None:
    """Through a folder, into an ERNIE of text layers, and out: bit for bit, heads included."""
    torch.manual_seed(0)
    bert = disturbed(BertForPreTraining(BertConfig(**WIDTHS))).float()
    bert.save_pretrained(tmp_path / "bert")
    ernie = ernie_from_bert(tmp_path / "bert", entity_size=8, layer_types=["text"] * 3)
    back = bert_from_ernie(ernie)
    assert type(back) is BertForPreTraining
    for name, tensor in bert.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    back.save_pretrained(tmp_path / "back")
    assert type(AutoModel.from_pretrained(tmp_path / "back")) is BertModel
    assert back.config.layer_norm_eps == bert.config.layer_norm_eps


TINY_CONFIG = {**WIDTHS, "hidden_act": "gelu", "type_vocab_size": 2, "cell": {}, "emb_size": 24, "structure": [],
               "pre_trained": "", "training": "", "initializer_range": 0.02, "hidden_dropout_prob": 0.1,
               "attention_probs_dropout_prob": 0.1}  # fmt: skip


def tinybert(version: str) -> tuple[BertForPreTraining, dict[str, torch.Tensor]]:
    """A state dict as that release names it; v1 of TensorFlow age, saved out of DataParallel."""
    torch.manual_seed(0)
    bert = disturbed(BertForPreTraining(config_from_tinybert(TINY_CONFIG))).float()
    names = ["fit_dense"] if version == "v1" else [f"fit_denses.{n}" for n in range(WIDTHS["num_hidden_layers"] + 1)]
    state = {k: v for k, v in bert.state_dict().items() if k != "cls.predictions.decoder.bias"}
    for name in names:
        state |= {f"{name}.weight": torch.randn(32, 24), f"{name}.bias": torch.randn(32)}
    return bert, state


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tinybert_layouts_there_and_back(version: str, prefix: str, tmp_path: Path) -> None:
    """Both layouts end in the same BERT, and an ERNIE stands on it; what only training used comes back too."""
    bert, state = tinybert(version)
    old = {
        prefix + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(TINY_CONFIG))
    assert is_tinybert(TINY_CONFIG)
    ernie = ernie_from_bert(tmp_path, entity_size=8, layer_types=["text"] * 3).eval()
    wanted, got = bert(**text()), ernie(**text())
    real = text()["attention_mask"] == 1
    torch.testing.assert_close(got.logits[real], wanted.prediction_logits[real], rtol=0.0, atol=1e-5)
    plain, projections = from_tinybert(state)
    assert plain.keys() == state.keys() - {key for key in state if key.startswith("fit_dense")}
    assert len(projections) == (1 if version == "v1" else 4)
    back = to_tinybert(bert_from_ernie(ernie).state_dict(), projections)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_tinybert_task_head_is_refused() -> None:
    """It reads relu(pooled): in any BERT class it loads without a word and gives other logits."""
    _, state = tinybert("v2")
    with pytest.raises(InputError, match=r"relu\(pooled\) .* drop its classifier"):
        from_tinybert({**state, "classifier.weight": torch.zeros(2, 24), "classifier.bias": torch.zeros(2)})
    student = BertForSequenceClassification(BertConfig(**WIDTHS)).state_dict()
    assert from_tinybert(student)[0].keys() == student.keys(), "a plain BERT's own head passes"
    with pytest.raises(InputError, match="give 1"):
        to_tinybert(student, [])
