"""Features of single examples into one padded batch, as the table of inputs says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ernie.errors import InputError
from ernie.inputs import INPUTS, ModelInput

Feature = Mapping[str, Any]
_ADDED = {"attention_mask", "entity_attention_mask"}


def pad_batch(features: Sequence[Feature], *, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad each input of INPUTS to the longest of the batch, along word pieces or entities.

    features: one mapping an example, all with the same keys; arrays (or lists) without batch dimension. Added where
    absent: attention_mask, 1 at a real word piece, and, with entities, entity_attention_mask, 1 at an entity whose id
    is not 0 (a removed entity keeps its slot, its position and its label). A single number, or an array of floats,
    under `labels` is the example's own label: it is stacked, not padded.

    Example: lengths 2 and 3 of input_ids give (2, 3); no entity anywhere gives entity_ids of shape (2, 0).
    """
    if not features:
        raise InputError("a batch needs at least one example, got none")
    _check_keys(features)
    batch: dict[str, torch.Tensor] = {}
    lengths = {
        axis: [_length(feature, axis, number) for number, feature in enumerate(features)]
        for axis in ("tokens", "entities")
    }
    for name in features[0]:
        spec, values = INPUTS[name], [np.asarray(feature[name]) for feature in features]
        if name == "labels" and (values[0].ndim == 0 or values[0].dtype.kind == "f"):
            batch[name] = _stack_labels(values)
        elif spec.axis == "none":
            batch[name] = torch.from_numpy(np.stack(values)).to(spec.dtype)
        else:
            padding = pad_token_id if name == "input_ids" else spec.padding
            batch[name] = _pad(name, values, spec, padding, lengths[spec.axis])
    if "attention_mask" not in batch and "input_ids" in batch:
        batch["attention_mask"] = _mask(lengths["tokens"])
    if "entity_attention_mask" not in batch and ("entity_ids" in batch or "entity_embeds" in batch):
        mask = _mask(lengths["entities"])
        batch["entity_attention_mask"] = mask * (batch["entity_ids"] != 0) if "entity_ids" in batch else mask
    return batch


def _check_keys(features: Sequence[Feature]) -> None:
    for number, feature in enumerate(features):
        for name in feature:
            if name not in INPUTS:
                near = difflib.get_close_matches(name, INPUTS, n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise InputError(f"the model takes {', '.join(INPUTS)}; got {name!r}{hint}")
        if feature.keys() != features[0].keys():
            raise InputError(
                f"all examples of a batch have the same inputs: example 0 has {sorted(features[0])}, "
                f"example {number} has {sorted(feature)}"
            )


def _length(feature: Feature, axis: str, number: int) -> int:
    """The one length of an example's arrays along `axis`; 0 when it has none."""
    found = {
        name: len(value)
        for name, value in feature.items()
        if INPUTS[name].axis == axis and np.ndim(value) and not _own_label(name, value)
    }
    if len(set(found.values())) > 1:
        raise InputError(f"example {number}: inputs along {axis} differ in length: {found}")
    return next(iter(found.values()), 0)


def _own_label(name: str, value: Any) -> bool:
    return name == "labels" and np.asarray(value).dtype.kind == "f"


def _stack_labels(values: list[np.ndarray]) -> torch.Tensor:
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise InputError(f"labels of a batch have one shape, got {sorted(shapes)}")
    dtype = torch.float32 if values[0].dtype.kind == "f" else torch.long
    return torch.from_numpy(np.stack(values)).to(dtype)


def _pad(name: str, values: list[np.ndarray], spec: ModelInput, padding: float, lengths: list[int]) -> torch.Tensor:
    width = values[0].shape[1:]
    out = torch.full((len(values), max(lengths), *width), padding, dtype=spec.dtype)
    for row, value in enumerate(values):
        if value.shape[1:] != width:
            raise InputError(f"{name} of example {row} is {value.shape[1:]} wide, example 0 is {width}")
        if len(value):
            out[row, : len(value)] = torch.from_numpy(value).to(spec.dtype)
    return out


def _mask(lengths: list[int]) -> torch.Tensor:
    """(batch, longest), 1 up to each length."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
