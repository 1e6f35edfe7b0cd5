"""Weights from elsewhere and back, by visible tables: plain BERT, the first ERNIE release, TinyBERT.

Entity vectors of the first release: `first_release_vectors`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)

from ernie.configuration import ErnieConfig
from ernie.errors import InputError
from ernie.heads import ErnieForPreTraining, ErnieForTokenClassification, PooledClassifier
from ernie.modeling import ErnieModel, ErniePreTrainedModel

FIRST_RELEASE_LAYERS = {"sim": "text", "mix": "mix", "norm": "fuse"}
"""Layer names of the first release -> ours."""

RENAMED_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}
"""LayerNorm parameters of checkpoints from TensorFlow days -> ours."""

IGNORED_PARTS = (".intermediate.dense_1", ".position_ids")
"""Keys that hold no part of the model: a dead earlier design, a buffer of counting numbers."""

HEAD_NAMES = {"typing.weight": "classifier.weight", "typing.bias": "classifier.bias"}
"""Task heads of the first release -> ours."""

TINYBERT_CONFIG_KEYS = ("cell", "emb_size", "pre_trained", "structure", "training")
"""Fields of a TinyBERT config.json that a BertConfig does not have."""

Projections = list[tuple[torch.Tensor, torch.Tensor]]
"""Weight (teacher width, width) and bias (teacher width,) of TinyBERT's map to its teacher's states: one for all layers
(v1) or one for the embeddings and one a layer (v2). Training used them; the model does not."""

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


Model = TypeVar("Model", bound=ErniePreTrainedModel)


@overload
def load_first_release(folder: str | Path, **settings: Any) -> ErnieForPreTraining: ...


@overload
def load_first_release(folder: str | Path, model_class: type[Model], **settings: Any) -> Model: ...


def load_first_release(
    folder: str | Path, model_class: type[ErniePreTrainedModel] = ErnieForPreTraining, **settings: Any
) -> ErniePreTrainedModel:
    """A model from a folder with `ernie_config.json` (or config.json) and `pytorch_model.bin`, fp32 whatever it holds.

    The pickle is read with weights_only. Keys that neither fit nor are known to be dead are an InputError. model_class:
    a class with pooled [CLS] takes a fine-tuned folder with its head (num_labels=... among the settings), or a
    pre-trained one, whose heads it leaves behind and whose own head starts fresh.
    """
    path = Path(folder)
    config_file = next((path / name for name in ("ernie_config.json", "config.json") if (path / name).is_file()), None)
    if config_file is None or not (path / "pytorch_model.bin").is_file():
        raise InputError(f"{path} is no folder of the first release: expected ernie_config.json and pytorch_model.bin")
    config = config_from_first_release(json.loads(config_file.read_text()), **settings)
    state, fresh = from_first_release(_read_pickle(path / "pytorch_model.bin")), ()
    if model_class is not ErnieForPreTraining:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("cls.")}
        fresh = () if "classifier.weight" in state else ("classifier.",)
    model = model_class(config)
    load_exactly(model, state, source=str(path), fresh=fresh)
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
    own = model.state_dict()
    other = [name for name, tensor in state.items() if name in own and own[name].shape != tensor.shape]
    if other:
        name = other[0]
        raise InputError(
            f"the weights of {source} do not fit {type(model).__name__}: {name} is {tuple(state[name].shape)} there "
            f"and {tuple(own[name].shape)} by the config ({len(other)} such in all); give the config they came with"
        )
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

    folder: config.json of model_type bert (or a TinyBERT's, which has none), with model.safetensors or
    pytorch_model.bin; with or without MLM and NSP heads. layer_types: None = the paper's proportions. settings: further
    fields of ErnieConfig. Token-side weights are the BERT's; knowledge parts and absent pooler or heads start fresh
    (N(0, initializer_range), biases 0) from torch's global random state; the MLM decoder is the word embedding.

    A fresh ERNIE starts near its BERT: on MiniLM-L6 and Wikipedia paragraphs the cosine of token states is 0.999
    without entities and 0.994 with eight of them, but 0.95 at the entities' own pieces and 0.97 at [CLS]
    (LayerNorm_ent lifts a fresh entity state to norm sqrt(entity_size), whatever the vector's was): warm the learning
    rate up.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"no BERT at {path}: expected a folder with config.json and weights")
    described = json.loads((path / "config.json").read_text())
    if is_tinybert(described):
        described = config_from_tinybert(described).to_dict()
    if described.get("model_type") != "bert":
        raise InputError(f"{path} holds a {described.get('model_type')!r} model, knowledge layers go onto 'bert'")
    config = ErnieConfig.from_bert(
        BertConfig.from_dict(described), entity_size=entity_size, layer_types=layer_types, **settings
    )
    model = ErnieForPreTraining(config)
    state, _ = from_tinybert(from_first_release(read_weights(path)))
    if not any(key.startswith("bert.") for key in state):
        state = {f"bert.{key}": tensor for key, tensor in state.items()}
    words = state["bert.embeddings.word_embeddings.weight"]
    state.setdefault("cls.predictions.decoder.weight", words)
    load_exactly(model, state, source=str(path), fresh=FRESH_ON_BERT)
    model.tie_weights()
    return model


BERT_CLASSES: dict[type[ErniePreTrainedModel], type[PreTrainedModel]] = {
    ErnieForPreTraining: BertForPreTraining,
    ErnieForTokenClassification: BertForTokenClassification,
    PooledClassifier: BertForSequenceClassification,
    ErnieModel: BertModel,
}
"""The BERT class with the same head."""


def bert_config(config: ErnieConfig) -> BertConfig:
    """The BertConfig of an ERNIE's text side."""
    names = BertConfig().to_dict().keys() & config.to_dict().keys() - {"model_type", "architectures", "layer_types"}
    fields = {name: value for name, value in config.to_dict().items() if name in names}
    return BertConfig.from_dict(fields)


def to_bert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An ERNIE's state dict -> names of transformers' BERT classes, the text side alone.

    `dense_ent.bias` reaches every token of a knowledge layer and is added to `dense.bias`. The result answers as the
    ERNIE does without entities where config.cls_entity is False or every layer is text; else but for the zero-vector
    entity of [CLS], which no BERT has.
    """
    kept = {
        key: tensor
        for key, tensor in state.items()
        if not any(part in key for part in ("_ent.", "predictions_ent.", "bert.entities."))
        and not key.startswith("entities.")
    }
    for key, tensor in state.items():
        if key.endswith("intermediate.dense_ent.bias"):
            there = key.replace("dense_ent", "dense")
            kept[there] = kept[there] + tensor
    return kept


def bert_from_ernie(model: ErniePreTrainedModel) -> PreTrainedModel:
    """The text side of `model` (see `to_bert`) as the BERT class that has its head, in eval mode, weights copied."""
    state, config = to_bert(model.state_dict()), bert_config(model.config)
    bert_class = next((theirs for ours, theirs in BERT_CLASSES.items() if isinstance(model, ours)), BertModel)
    if bert_class is BertForTokenClassification:  # which has no pooler
        state = {key: tensor for key, tensor in state.items() if not key.startswith("bert.pooler.")}
    bert: torch.nn.Module = bert_class(config)
    bert.to(model.dtype)
    load_exactly(bert, state, source=type(model).__name__)
    bert.eval()
    return cast("PreTrainedModel", bert)


def is_tinybert(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of the TinyBERT release: no model_type, but an `emb_size` or `cell`."""
    return "model_type" not in config and any(key in config for key in TINYBERT_CONFIG_KEYS)


def config_from_tinybert(config: Mapping[str, Any]) -> BertConfig:
    """The BertConfig of a TinyBERT config.json."""
    fields = {key: value for key, value in config.items() if key not in TINYBERT_CONFIG_KEYS}
    return BertConfig.from_dict({**fields, "layer_norm_eps": 1e-12})


def from_tinybert(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Projections]:
    """TinyBERT's state dict (v1: `fit_dense`, v2: `fit_denses.N`) -> names of transformers' BERT classes, projections.

    Its task models read relu(pooled), which no BERT class does: a `classifier` beside a projection is an InputError
    (load such a state without it, and train a head anew). States of other models pass as they are.
    """
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    numbers = sorted({int(key.split(".")[1]) for key in plain if key.startswith("fit_denses.")})
    names = [f"fit_denses.{number}" for number in numbers] + ["fit_dense"] * ("fit_dense.weight" in plain)
    projections = [(plain.pop(f"{name}.weight"), plain.pop(f"{name}.bias")) for name in names]
    if projections and "classifier.weight" in plain:
        raise InputError(
            "this TinyBERT's task head reads relu(pooled) and would answer otherwise in any BERT: "
            "drop its classifier.* keys and train a head anew"
        )
    return plain, projections


def to_tinybert(state: Mapping[str, torch.Tensor], projections: Projections) -> dict[str, torch.Tensor]:
    """Names of transformers' BERT classes -> TinyBERT's; one projection gives the v1 layout, several v2's."""
    if not projections:
        raise InputError(
            "TinyBERT's layouts hold the projection to the teacher's width: give 1 (v1) or layers + 1 (v2)"
        )
    converted = {key: tensor for key, tensor in state.items() if key != "cls.predictions.decoder.bias"}
    for number, (weight, bias) in enumerate(projections):
        name = "fit_dense" if len(projections) == 1 else f"fit_denses.{number}"
        converted |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return converted


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a folder's model.safetensors, or of its pytorch_model.bin; InputError where it has neither."""
    from safetensors.torch import load_file

    if (path / "model.safetensors").is_file():
        return load_file(path / "model.safetensors")
    if (path / "pytorch_model.bin").is_file():
        return _read_pickle(path / "pytorch_model.bin")
    raise InputError(f"no weights in {path}: expected model.safetensors or pytorch_model.bin")


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Tensors and nothing that runs."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is no pickle of tensors alone (read with weights_only), or was cut short: {reason[:120]}; "
            f"fetch it again, or save its state_dict anew"
        ) from error
