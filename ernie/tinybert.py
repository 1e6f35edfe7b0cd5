"""TinyBERT's released checkpoints: general models of both versions, and task models with the ReLU of their head.

General checkpoints hold a masked-LM head that was never trained: it comes along, but fills no masks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    PreTrainedModel,
)

from ernie.conversion import (
    RENAMED_SUFFIXES,
    config_from_tinybert,
    from_tinybert,
    is_tinybert,
    load_exactly,
    read_weights,
)
from ernie.errors import InputError

FRESH = ("cls.", "position_ids", "bert.pooler.")
"""Parts that a checkpoint may lack."""


class TinyBertTaskConfig(BertConfig):
    """A BertConfig whose classifier reads relu(pooled); a model type of its own, so that no BERT class loads it."""

    model_type = "tinybert-task"


class TinyBertForSequenceClassification(BertForSequenceClassification):
    """classifier(relu(tanh(dense([CLS])))), as the released task models were trained.

    transformers' class leaves the ReLU out, and would answer otherwise without a warning.
    """

    config_class = TinyBertTaskConfig

    def __init__(self, config: TinyBertTaskConfig) -> None:
        super().__init__(config)
        # Where transformers has its dropout, just before the classifier: the weights keep their names.
        self.dropout = nn.Sequential(nn.ReLU(), self.dropout)  # pyrefly: ignore[bad-assignment]
        self.post_init()


AutoConfig.register(TinyBertTaskConfig.model_type, TinyBertTaskConfig)
AutoModelForSequenceClassification.register(TinyBertTaskConfig, TinyBertForSequenceClassification)


def load_tinybert(folder: str | Path) -> PreTrainedModel:
    """A released TinyBERT: BertForPreTraining of a general checkpoint (v1 or v2), or the class above of a task's.

    folder: config.json as released (no model_type) with pytorch_model.bin or model.safetensors. In eval mode, fp32; the
    projections to the teacher's width are left behind.

    Raises:
        InputError: no TinyBERT's config, no weights, weights that do not fit.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json; expected the folder of a released TinyBERT")
    described = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if not is_tinybert(described):
        raise InputError(
            f"{path} holds a {described.get('model_type')!r} model, no released TinyBERT (whose config.json has no "
            f"model_type, but an emb_size or cell); load it as what it says it is"
        )
    state = {name.removeprefix("module."): tensor for name, tensor in read_weights(path).items()}
    head = {name: state.pop(name) for name in ("classifier.weight", "classifier.bias") if name in state}
    state, _ = from_tinybert(state)
    config = config_from_tinybert(described)
    model: Any = _task_model(config, head) if head else BertForPreTraining(config)
    state = {_renamed(name): tensor.float() for name, tensor in state.items() if "position_ids" not in name}
    if head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
        state |= {name: tensor.float() for name, tensor in head.items()}
    load_exactly(model, state, source=str(path), fresh=FRESH)
    model.tie_weights()
    return model.eval()


def _task_model(config: BertConfig, head: dict[str, Tensor]) -> TinyBertForSequenceClassification:
    fields = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    task: Any = TinyBertTaskConfig.from_dict({**fields, "num_labels": len(head["classifier.weight"])})
    return TinyBertForSequenceClassification(task)


def _renamed(name: str) -> str:
    old = next((suffix for suffix in RENAMED_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(old) + RENAMED_SUFFIXES.get(old, "")
