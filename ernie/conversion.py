"""Weights from elsewhere, by visible tables: plain BERT folders, and the first ERNIE release both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from ernie.configuration import ErnieConfig
from ernie.errors import InputError
from ernie.heads import ErnieForPreTraining

FIRST_RELEASE_LAYERS = {"sim": "text", "mix": "mix", "norm": "fuse"}
"""Layer names of the first release -> ours."""

RENAMED_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}
"""LayerNorm parameters of checkpoints from TensorFlow days -> ours."""

IGNORED_PARTS = (".intermediate.dense_1", ".position_ids")
"""Keys that hold no part of the model: a dead earlier design, a buffer of counting numbers."""

HEAD_NAMES = {"typing.weight": "classifier.weight", "typing.bias": "classifier.bias"}
"""Task heads of the first release -> ours."""

_HALVES = (torch.float16, torch.bfloat16)


def config_from_first_release(config: Mapping[str, Any], **settings: Any) -> ErnieConfig:
    """ErnieConfig of an `ernie_config.json`.

    Entity width 100 and 4 entity heads are that code's constants; `settings` override fields. A list of layers shorter
    than num_hidden_layers is filled up with text layers at the end, as that code did.
    """
    given = [FIRST_RELEASE_LAYERS.get(kind, kind) for kind in config.get("layer_types") or []]
    missing = int(config["num_hidden_layers"]) - len(given)
    fields: dict[str, Any] = {"entity_size": 100, **config, "layer_types": given + ["text"] * missing, **settings}
    return ErnieConfig(**fields)


def from_first_release(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of the first release -> names of ErnieForPreTraining or of a task class.

    fp16 becomes fp32. The encoder's and heads' names are ours already; what differs is in the tables above. That
    release's typing head has no bias, ours has one: zeros.
    """
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if any(part in key for part in IGNORED_PARTS):
            continue
        for old, new in RENAMED_SUFFIXES.items():
            key = key.removesuffix(old) + new if key.endswith(old) else key
        converted[HEAD_NAMES.get(key, key)] = tensor.float() if tensor.dtype in _HALVES else tensor
    if "classifier.weight" in converted and "classifier.bias" not in converted:
        weight = converted["classifier.weight"]
        converted["classifier.bias"] = weight.new_zeros(weight.shape[0])
    if "cls.predictions.bias" in converted:
        converted.setdefault("cls.predictions.decoder.bias", converted["cls.predictions.bias"])
        words = "bert.embeddings.word_embeddings.weight"
        if words in converted:
            converted.setdefault("cls.predictions.decoder.weight", converted[words])
    return converted


def to_first_release(state: Mapping[str, torch.Tensor], *, typing: bool = False) -> dict[str, torch.Tensor]:
    """Our state dict -> names of the first release. typing: name the classifier `typing.*`, which has no bias there;
    one that is not zero is an InputError."""
    names = {ours: theirs for theirs, ours in HEAD_NAMES.items()} if typing else {}
    converted = {}
    for key, tensor in state.items():
        if key == "cls.predictions.decoder.bias":
            continue  # tied to cls.predictions.bias; that release has the one name only
        if typing and key == "classifier.bias":
            if bool(tensor.any()):
                raise InputError("the first release's typing head has no bias, this model's is not zero")
            continue
        converted[names.get(key, key)] = tensor
    return converted


def load_first_release(folder: str | Path, **settings: Any) -> ErnieForPreTraining:
    """ErnieForPreTraining from a folder with `ernie_config.json` (or config.json) and `pytorch_model.bin`.

    The pickle is read with weights_only. Keys that neither fit nor are known to be dead are an InputError.
    """
    path = Path(folder)
    config_file = next((path / name for name in ("ernie_config.json", "config.json") if (path / name).is_file()), None)
    if config_file is None or not (path / "pytorch_model.bin").is_file():
        raise InputError(f"{path} is no folder of the first release: expected ernie_config.json and pytorch_model.bin")
    config = config_from_first_release(json.loads(config_file.read_text()), **settings)
    state = torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    model = ErnieForPreTraining(config)
    load_exactly(model, from_first_release(state), source=str(path))
    return model


def load_exactly(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str,
    fresh: Sequence[str] = (),
) -> None:
    """Load `state` into `model`; a missing or surplus key is an InputError naming it.

    fresh: parts of names whose absence is meant (weights that stay as initialised).
    """
    missing, surplus = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not any(part in key for part in fresh)]
    if missing or surplus:
        listed = [f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
                  for what, keys in (("missing", missing), ("surplus", surplus)) if keys]  # fmt: skip
        raise InputError(f"the weights of {source} do not fit {type(model).__name__}: {' and '.join(listed)}")


FRESH_ON_BERT = ("_ent.", "bert.entities.", "bert.pooler.", "cls.")
"""Parts of an ERNIE that a BERT folder may lack: the knowledge parts, pooler and pre-training heads."""


def ernie_from_bert(
    folder: str | Path, *, entity_size: int, layer_types: Sequence[str] | None = None, **settings: Any
) -> ErnieForPreTraining:
    """An ERNIE for pre-training on top of a BERT checkpoint, in float32.

    folder: config.json of model_type bert, with model.safetensors or pytorch_model.bin; with or without MLM and NSP
    heads. layer_types: None = the paper's proportions. settings: further fields of ErnieConfig. Token-side weights are
    the BERT's; knowledge parts and absent pooler or heads start fresh (N(0, initializer_range), biases 0) from
    torch's global random state; the MLM decoder is the word embedding.

    A fresh ERNIE starts near its BERT: on MiniLM-L6 and Wikipedia paragraphs the cosine of token states is 0.999
    without entities and 0.994 with eight of them, but 0.95 at the entities' own pieces and 0.97 at [CLS]
    (LayerNorm_ent lifts a fresh entity state to norm sqrt(entity_size), whatever the vector's was): warm the learning
    rate up.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"no BERT at {path}: expected a folder with config.json and weights")
    described = json.loads((path / "config.json").read_text())
    if described.get("model_type") != "bert":
        raise InputError(f"{path} holds a {described.get('model_type')!r} model, knowledge layers go onto 'bert'")
    config = ErnieConfig.from_bert(
        BertConfig.from_dict(described), entity_size=entity_size, layer_types=layer_types, **settings
    )
    model = ErnieForPreTraining(config)
    state = from_first_release(_read_weights(path))
    if not any(key.startswith("bert.") for key in state):
        state = {f"bert.{key}": tensor for key, tensor in state.items()}
    words = state["bert.embeddings.word_embeddings.weight"]
    state.setdefault("cls.predictions.decoder.weight", words)
    load_exactly(model, state, source=str(path), fresh=FRESH_ON_BERT)
    model.tie_weights()
    return model


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if (path / "model.safetensors").is_file():
        return load_file(path / "model.safetensors")
    if (path / "pytorch_model.bin").is_file():
        return torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    raise InputError(f"no weights in {path}: expected model.safetensors or pytorch_model.bin")
