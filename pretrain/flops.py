"""How many floating-point operations pre-training a text asks for, by the model's shape."""

from __future__ import annotations

from dataclasses import dataclass

from ernie.configuration import ErnieConfig

TRAINING_PASSES = 3
"""Forward once, backward twice as much: one product for the inputs' gradient and one for the weights'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """Means an instance: word pieces, their squares (attention), pieces to predict, entities, candidates of dEA."""

    pieces: float
    squared_pieces: float
    masked: float
    entities: float
    squared_entities: float
    candidates: float


def training_flops(config: ErnieConfig, shape: TextShape) -> float:
    """Of one instance, forward and backward; matrix products only, two operations a multiply-add. Padding is not
    counted, nor is anything computed again: what remains is what the model itself asks for."""
    assert config.layer_types is not None, "ErnieConfig fills layer_types"
    width, inner, entity = config.hidden_size, config.intermediate_size, config.entity_size
    with_cls = shape.entities + bool(config.cls_entity)
    squared_with_cls = shape.squared_entities + (2 * shape.entities + 1) * bool(config.cls_entity)
    text = shape.pieces * (4 * width * width + 2 * width * inner) + 2 * shape.squared_pieces * width
    meeting = 2 * with_cls * entity * inner
    among_entities = with_cls * 4 * entity * entity + 2 * squared_with_cls * entity
    kinds = list(config.layer_types)
    layers = len(kinds) * text + (len(kinds) - kinds.count("text")) * meeting + kinds.count("fuse") * among_entities
    masked_lm = shape.masked * (width * width + width * config.vocab_size)
    denoising = shape.entities * (width * entity + entity * shape.candidates)
    pooled = width * width + 2 * width
    return 2 * TRAINING_PASSES * (layers + masked_lm + denoising + pooled)
