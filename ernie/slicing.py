"""A smaller model's first weights cut out of a larger one's: layers by a map, widths by importance.

The residual stream keeps one set of dimensions in all layers; every layer keeps its own heads, dimensions inside a
head, and intermediate neurons. Importance is read from the weights alone: what a dimension's readers and writers weigh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ernie.errors import InputError

AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embeddings\.(word|position|token_type)_embeddings\.weight", (None, "hidden")),
    (r"(embeddings|attention\.output|\d\.output)\.LayerNorm\.", ("hidden",)),
    (r"attention\.self\.(query|key)\.", ("query_key", "hidden")),
    (r"attention\.self\.value\.", ("value", "hidden")),
    (r"attention\.output\.dense\.", ("hidden", "value")),
    (r"intermediate\.dense\.", ("neurons", "hidden")),
    (r"\d\.output\.dense\.", ("hidden", "neurons")),
    (r"attention\.self_ent\.(query|key)\.", ("entity_query_key", "entity")),
    (r"attention\.self_ent\.value\.", ("entity_value", "entity")),
    (r"attention\.output_ent\.dense\.", ("entity", "entity_value")),
    (r"(attention\.output_ent\.LayerNorm|output\.LayerNorm_ent)\.", ("entity",)),
    (r"intermediate\.dense_ent\.", ("neurons", "entity")),
    (r"output\.dense_ent\.", ("entity", "neurons")),
    (r"span_pooler\.dense\.", ("hidden", "spans")),
    (r"pooler\.dense\.", ("hidden", "hidden")),
    (r"cls\.predictions\.transform\.dense\.", ("hidden", "hidden")),
    (r"cls\.predictions\.transform\.LayerNorm\.", ("hidden",)),
    (r"cls\.predictions\.(bias|decoder\.bias)", (None,)),
    (r"cls\.predictions\.decoder\.weight", (None, "hidden")),
    (r"cls\.predictions_ent\.transform\.dense\.", ("entity", "hidden")),
    (r"cls\.predictions_ent\.transform\.LayerNorm\.", ("entity",)),
    (r"(cls\.seq_relationship|classifier)\.", (None, "hidden")),
    (r"entities\.projection\.weight", ("entity", None)),
)
"""Names of parameters and what their dimensions count; None stays whole. A bias has the first alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """hidden: of the residual stream. heads, head_size: of each layer's attention. neurons: of each intermediate layer.
    entity…: of the entity stream, 0 without one."""

    hidden: int
    heads: int
    neurons: int
    entity: int = 0
    entity_heads: int = 0

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def entity_head_size(self) -> int:
        return self.entity // self.entity_heads if self.entity_heads else 0


def sliced(state: Mapping[str, Tensor], layer_map: Sequence[int], *, old: Widths, new: Widths) -> dict[str, Tensor]:
    """The state dict of a model with layers g(1) … g(M) of `state`'s (1-based), of the new widths.

    A narrower entity stream gets a projection that hands on the kept dimensions of the vectors.

    Raises:
        InputError: a new width is larger than the old: there is nothing to cut it from.
    """
    _check_widths(old, new)
    layers = [_layer(state, g) for g in layer_map]
    whole = {name: tensor for name, tensor in state.items() if ".layer." not in name}
    kept = {"hidden": _top(_hidden_importance(layers), new.hidden)}
    kept["spans"] = torch.cat([kept["hidden"] + span * old.hidden for span in range(_num_spans(state, old.hidden))])
    if new.entity:
        kept["entity"] = _top(_entity_importance(layers, old.entity), new.entity)
    prefix = next((name.split("encoder.layer.")[0] for name in state if "encoder.layer." in name), "")
    found = {name: _cut(name, tensor, kept) for name, tensor in whole.items()}
    if 0 < new.entity < old.entity:
        found.setdefault(f"{prefix}entities.projection.weight", torch.eye(old.entity)[kept["entity"]])
    for m, layer in enumerate(layers):
        own, gain = _kept_of_layer(layer, old, new)
        for name, tensor in layer.items():
            full = f"{prefix}encoder.layer.{m}.{name}"
            cut = _cut(full, tensor, kept | own)
            found[full] = cut * gain if name.startswith("attention.self.query.") else cut
    return found


def _num_spans(state: Mapping[str, Tensor], width: int) -> int:
    """States side by side that a span head reads; 1 where there is no such head."""
    weight = next((tensor for name, tensor in state.items() if name.endswith("span_pooler.dense.weight")), None)
    return 1 if weight is None else weight.shape[1] // width


def _layer(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Parameters of layer `number` (1-based) by their names inside it."""
    part = f"encoder.layer.{number - 1}."
    return {name.split(part)[1]: tensor for name, tensor in state.items() if part in name}


def _cut(name: str, tensor: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    axes = next((axes for pattern, axes in AXES if re.search(pattern, name)), None)
    if axes is None:
        raise InputError(f"{name}: no rule says how to cut it; slices are for BERT and ERNIE encoders with our heads")
    for dimension, axis in enumerate(axes[: tensor.ndim]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor.clone()


def _kept_of_layer(layer: Mapping[str, Tensor], old: Widths, new: Widths) -> tuple[dict[str, Tensor], float]:
    """Rows a layer keeps by axis, and what its queries are multiplied by so that raw scores keep their size."""
    neurons = layer["intermediate.dense.weight"].norm(dim=1) * layer["output.dense.weight"].norm(dim=0)
    kept = {"neurons": _top(neurons, new.neurons)}
    kept["query_key"], kept["value"], gain = _kept_heads(layer, "", old.heads, old.head_size, new.heads, new.head_size)
    if new.entity and "attention.self_ent.query.weight" in layer:
        entity = _kept_heads(
            layer, "_ent", old.entity_heads, old.entity_head_size, new.entity_heads, new.entity_head_size
        )
        kept["entity_query_key"], kept["entity_value"] = entity[:2]
    return kept, gain


def _kept_heads(
    layer: Mapping[str, Tensor], suffix: str, old_heads: int, old_size: int, heads: int, size: int
) -> tuple[Tensor, Tensor, float]:
    """Rows of queries and keys, rows of values, both grouped by head, and the gain for the queries.

    A score is Σ q_i k_i / √size: with the share f of Σ ‖q_i‖‖k_i‖ kept it becomes about f √(old_size / size) of what it
    was.
    """
    rows = {part: layer[f"attention.self{suffix}.{part}.weight"].norm(dim=1) for part in ("query", "key", "value")}
    written = layer[f"attention.output{suffix}.dense.weight"].norm(dim=0)
    scores = (rows["query"] * rows["key"]).view(old_heads, old_size)
    values = (rows["value"] * written).view(old_heads, old_size)
    chosen = _top(values.square().sum(dim=1), heads)
    by_head = [(_top(scores[h], size), _top(values[h], size), int(h)) for h in chosen]
    share = sum(float(scores[h][qk].sum()) for qk, _, h in by_head) / float(scores[chosen].sum().clamp(min=1e-12))
    gain = (size / old_size) ** 0.5 / max(share, 1e-6) if size != old_size else 1.0
    return (
        torch.cat([qk + h * old_size for qk, _, h in by_head]),
        torch.cat([v + h * old_size for _, v, h in by_head]),
        gain,
    )


def _hidden_importance(layers: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """How much the kept layers read each dimension of the residual stream, weighed by its LayerNorm's gain."""
    readers = ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
    return torch.stack(
        [
            layer[f"{name}.weight"].square().sum(dim=0) * layer["output.LayerNorm.weight"].square()
            for layer in layers
            for name in readers
        ]
    ).sum(dim=0)


def _entity_importance(layers: Sequence[Mapping[str, Tensor]], width: int) -> Tensor:
    readers = [layer["intermediate.dense_ent.weight"] for layer in layers if "intermediate.dense_ent.weight" in layer]
    return torch.stack([weight.square().sum(dim=0) for weight in readers]).sum(dim=0) if readers else torch.ones(width)


def _top(importance: Tensor, number: int) -> Tensor:
    """Rows of the `number` largest, in their order; of equals the first."""
    if number == len(importance):
        return torch.arange(number)
    order = torch.sort(importance.float(), descending=True, stable=True).indices
    return order[:number].sort().values


def _check_widths(old: Widths, new: Widths) -> None:
    names = ("hidden", "heads", "head_size", "neurons", "entity", "entity_head_size")
    wider = {
        name: (getattr(new, name), getattr(old, name)) for name in names if getattr(new, name) > getattr(old, name)
    }
    if wider:
        listed = ", ".join(f"{name} {new} of {old}" for name, (new, old) in wider.items())
        raise InputError(
            f"a student cut from its teacher is nowhere wider than it, asked for {listed}; choose less, or "
            f"start it from a folder or fresh"
        )
