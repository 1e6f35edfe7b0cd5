"""ERNIE as its equations read: one example, one head, one entity slot a token at a time. An oracle, not a model.

Written from the paper's equations 2-6 in the residual form of the first implementation; shares no line with the
package. Padding does not exist here: each example is cut to its own length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

Weights = Mapping[str, torch.Tensor]


def linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(weights: Weights, name: str, x: torch.Tensor, heads: int, visible: torch.Tensor) -> torch.Tensor:
    """x: (length, size); visible: (length,) bool, which positions may be looked at."""
    query, key, value = (linear(weights, f"{name}.{part}", x) for part in ("query", "key", "value"))
    size = x.shape[-1] // heads
    columns = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        scores = scores.masked_fill(~visible[None, :], -math.inf)
        columns.append(torch.softmax(scores, dim=-1) @ value[:, part])
    return torch.cat(columns, dim=-1)


def encode_one(
    weights: Weights,
    *,
    layer_types: Sequence[str],
    num_heads: int,
    num_entity_heads: int,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor,
    entities: torch.Tensor,
    entity_mask: torch.Tensor,
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """One example. entities: (length, entity_size), one slot a token; entity_mask: (length,) of 0 and 1.

    Returns token states and entity states after each layer, and the pooled vector.
    """
    length = len(input_ids)
    table = "embeddings.{}_embeddings.weight".format
    x = weights[table("word")][input_ids] + weights[table("position")][:length]
    x = layer_norm(weights, "embeddings.LayerNorm", x + weights[table("token_type")][token_type_ids])
    e, m = entities, entity_mask[:, None].to(entities.dtype)
    everything = torch.ones(length, dtype=torch.bool)
    tokens, slots = [], []
    for i, kind in enumerate(layer_types):
        name = f"encoder.layer.{i}"
        mixed = attention(weights, f"{name}.attention.self", x, num_heads, everything)
        h = linear(weights, f"{name}.attention.output.dense", mixed)
        h = layer_norm(weights, f"{name}.attention.output.LayerNorm", x + h)
        raw = linear(weights, f"{name}.intermediate.dense", h)
        if kind != "text":
            if kind == "fuse" and entity_mask.any():
                mixed = attention(weights, f"{name}.attention.self_ent", e, num_entity_heads, entity_mask > 0)
                update = linear(weights, f"{name}.attention.output_ent.dense", mixed)
                e = layer_norm(weights, f"{name}.attention.output_ent.LayerNorm", e + update)
            e = e * m
            raw = raw + linear(weights, f"{name}.intermediate.dense_ent", e)
        z = gelu(raw)
        x = layer_norm(weights, f"{name}.output.LayerNorm", h + linear(weights, f"{name}.output.dense", z))
        if kind != "text":
            update = linear(weights, f"{name}.output.dense_ent", z)
            e = layer_norm(weights, f"{name}.output.LayerNorm_ent", e + update)
        tokens.append(x)
        slots.append(e)
    return tokens, slots, torch.tanh(linear(weights, "pooler.dense", x[0]))


def entity_loss(
    weights: Weights,
    states: Sequence[torch.Tensor],
    targets: Sequence[Mapping[int, int]],
    candidates: torch.Tensor,
    *,
    no_entity: bool,
) -> torch.Tensor:
    """Denoising entity auto-encoder of a batch: -log p(true entity), averaged over all asked positions.

    states: (length, hidden_size) an example; targets: position -> row of candidates, (num_candidates, entity_size).
    """
    surprises = []
    for x, asked in zip(states, targets, strict=True):
        for position, true in asked.items():
            t = linear(weights, "cls.predictions_ent.transform.dense", x[position])
            t = layer_norm(weights, "cls.predictions_ent.transform.LayerNorm", gelu(t))
            scores = [torch.dot(t, candidate) for candidate in candidates]
            scores += [torch.zeros((), dtype=t.dtype)] * no_entity
            total = sum(torch.exp(score - scores[true]) for score in scores)
            surprises.append(torch.log(torch.as_tensor(total)))
    if not surprises:
        return torch.zeros((), dtype=candidates.dtype)
    return torch.stack(surprises).mean()
