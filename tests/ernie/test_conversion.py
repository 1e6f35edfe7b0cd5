"""Checkpoints from elsewhere, by names. Numbers are compared in tests/parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from ernie import ErnieConfig, ErnieForEntityTyping, ErnieForPreTraining, InputError
from ernie.conversion import (
    config_from_first_release,
    ernie_from_bert,
    from_first_release,
    load_first_release,
    to_first_release,
)

OLD_CONFIG = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_types": ["sim", "mix", "norm"],
}


def old_release(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A folder as that release is: pickle, gamma and beta, a dead dense_1, one decoder bias."""
    torch.manual_seed(0)
    model = ErnieForPreTraining(config_from_first_release(OLD_CONFIG))
    state = {}
    for name, tensor in to_first_release(model.state_dict()).items():
        if "LayerNorm" in name and "layer.0" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        state[name] = torch.randn_like(tensor).to(dtype)
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    dead = {"bert.encoder.layer.1.intermediate.dense_1.weight": torch.zeros(200, 8)}
    torch.save({**state, **dead}, folder / "pytorch_model.bin")
    (folder / "ernie_config.json").write_text(json.dumps(OLD_CONFIG))
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_first_release_folder_loads(tmp_path: Path, dtype: torch.dtype) -> None:
    """Every weight arrives under its new name, in fp32; layers beyond the list are plain text layers."""
    state = old_release(tmp_path, dtype)
    model = load_first_release(tmp_path)
    assert model.config.layer_types == ["text", "mix", "fuse", "text"]
    assert (model.config.entity_size, model.config.num_entity_attention_heads) == (100, 4)
    ours = model.state_dict()
    for name, tensor in state.items():
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], tensor.float()), name


def test_missing_and_surplus_keys_are_named(tmp_path: Path) -> None:
    """A lenient loader leaves a layer fresh and says nothing."""
    state = old_release(tmp_path)
    state["bert.extra"] = state.pop("bert.encoder.layer.2.intermediate.dense_ent.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"1 missing \(bert.*dense_ent.weight\) and 1 surplus \(bert.extra\)"):
        load_first_release(tmp_path)
    with pytest.raises(InputError, match=r"expected ernie_config.json and pytorch_model.bin"):
        load_first_release(tmp_path / "none")


def test_the_typing_head_has_no_bias_on_the_other_side() -> None:
    """A bias that silently vanishes on the way out would change every score."""
    model = ErnieForEntityTyping(config_from_first_release(OLD_CONFIG, num_labels=3))
    state = model.state_dict()
    there = to_first_release(state, typing=True)
    assert "typing.weight" in there
    assert "classifier.bias" not in there
    back = from_first_release(there)
    assert back.keys() == state.keys()
    state["classifier.bias"][1] = 0.5
    with pytest.raises(InputError, match="no bias"):
        to_first_release(state, typing=True)


def test_a_bare_bert_gets_fresh_parts_and_a_tied_decoder(tmp_path: Path) -> None:
    """An encoder without heads, saved as BertModel without prefix: the token side must arrive whole."""
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=30,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            layer_norm_eps=1e-7,
        )
    )
    bert.save_pretrained(tmp_path)
    model = ernie_from_bert(tmp_path, entity_size=6, no_entity_candidate=False)
    assert model.config == ErnieConfig.from_bert(bert.config, entity_size=6, no_entity_candidate=False)
    assert model.config.layer_norm_eps == 1e-7
    for name, tensor in bert.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], tensor), name
    layer = model.bert.encoder.layer[0].state_dict()
    assert not layer["intermediate.dense_ent.bias"].any()
    assert 0.01 < layer["intermediate.dense_ent.weight"].std() < 0.03
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def test_what_is_no_bert_is_refused(tmp_path: Path) -> None:
    """Other architectures share key names; half of one would load."""
    with pytest.raises(InputError, match=r"expected a folder with config\.json"):
        ernie_from_bert(tmp_path, entity_size=4)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(InputError, match="'roberta' model"):
        ernie_from_bert(tmp_path, entity_size=4)
    BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no weights"):
        ernie_from_bert(tmp_path, entity_size=4)


def test_a_fine_tuned_release_and_a_pretrained_one_become_a_task_model(tmp_path: Path) -> None:
    """The typing head's other name, and a pre-trained folder's heads, which a task model has no use for."""
    state = old_release(tmp_path)
    fresh = load_first_release(tmp_path, ErnieForEntityTyping, num_labels=3)
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(fresh.state_dict()[words], state[words])
    assert fresh.classifier.weight.shape == (3, 8)
    tuned = {key: tensor for key, tensor in state.items() if key.startswith("bert.")} | {
        "typing.weight": torch.ones(3, 8)
    }
    torch.save(tuned, tmp_path / "pytorch_model.bin")
    model = load_first_release(tmp_path, ErnieForEntityTyping, num_labels=3)
    assert torch.equal(model.classifier.weight, torch.ones(3, 8))
    assert not model.classifier.bias.any()
    with pytest.raises(InputError, match=r"classifier.weight is \(3, 8\) there and \(5, 8\) by the config"):
        load_first_release(tmp_path, ErnieForEntityTyping, num_labels=5)


class _Runs:
    def __reduce__(self):
        return (print, ("a pickle ran",))


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint from a stranger is a program; and a download cut short is one line, not a traceback."""
    state = old_release(tmp_path)
    torch.save({**state, "x": _Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="no pickle of tensors alone"):
        load_first_release(tmp_path)
    assert "a pickle ran" not in capsys.readouterr().out
    torch.save(state, tmp_path / "pytorch_model.bin")
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut short"):
            load_first_release(tmp_path)
