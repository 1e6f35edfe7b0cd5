"""What one forward pass shows of a model's inside, layer by layer, of both streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("query", "key", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """States and the attentions' inputs; entry 0 of `hidden` and `entity_hidden` is what enters the first layer.

    hidden: num_layers + 1 tensors (batch_size, seq_len, width).
    queries, keys, values: num_layers tensors (batch_size, seq_len, width), heads side by side; empty for a layer that
        was not asked for.
    entity_…: the same of the entity stream, (batch_size, num_entities, entity_size); no entries where the pass had no
        entities, empty tensors where a layer has no entity attention. The zero-vector entity of [CLS] is left out.
    """

    hidden: Sequence[Tensor]
    queries: Sequence[Tensor]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    entity_hidden: Sequence[Tensor] = ()
    entity_queries: Sequence[Tensor] = ()
    entity_keys: Sequence[Tensor] = ()
    entity_values: Sequence[Tensor] = ()

    @property
    def has_entities(self) -> bool:
        return bool(self.entity_hidden) and self.entity_hidden[0].shape[1] > 0


@dataclass(slots=True)
class Recorder:
    """Collects a pass's attention inputs by stream and part; see `recording`."""

    kept: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)
    skip_first_entity: bool = False

    def features(self, output: Any) -> Features:
        """The pass's features. output: with `hidden_states`, and `entity_hidden_states` where there are any."""
        tokens = {name: self.kept["self", part] for name, part in zip(("queries", "keys", "values"), PARTS)}
        states = getattr(output, "entity_hidden_states", None)
        if not states:
            return Features(hidden=output.hidden_states, **tokens)
        own = slice(1, None) if self.skip_first_entity else slice(None)
        entities = {
            f"entity_{name}": [tensor[:, own] if tensor.ndim == 3 else tensor for tensor in self.kept["self_ent", part]]
            for name, part in zip(("queries", "keys", "values"), PARTS)
        }
        return Features(hidden=output.hidden_states, **tokens, entity_hidden=states, **entities)


@contextmanager
def recording(encoder: nn.Module, *, layers: Sequence[int]) -> Iterator[Recorder]:
    """While open, every pass of a BERT-shaped encoder leaves queries, keys and values of `layers` (1-based) behind."""
    stack: Any = encoder.get_submodule("encoder.layer")
    recorder = Recorder(skip_first_entity=bool(getattr(encoder.config, "cls_entity", False)))
    handles = []
    for stream in ("self", "self_ent"):
        for part in PARTS:
            outputs = recorder.kept[stream, part] = [torch.empty(0)] * len(stack)
            for row in {layer - 1 for layer in layers}:
                attention = getattr(stack[row].attention, stream, None)
                if attention is not None:
                    handles.append(attention.get_submodule(part).register_forward_hook(_keeper(outputs, row)))
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def record_features(encoder: nn.Module, inputs: Mapping[str, Tensor], *, layers: Sequence[int]) -> Features:
    """One forward pass of an encoder (`transformers.BertModel`, `ErnieModel`), its inside kept.

    layers: the layers, 1-based, whose queries, keys and values are wanted. Gradients flow unless the caller forbids
    them.
    """
    with recording(encoder, layers=layers) as recorder:
        return recorder.features(encoder(**inputs, output_hidden_states=True))


def _keeper(outputs: list[Tensor], row: int) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        outputs[row] = output

    return keep
