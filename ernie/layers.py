"""The three layer kinds: text, mix and fuse.

Equations (Zhang et al. 2019, eq. 2-5, in the form the first implementation computes them; LN = LayerNorm,
x token states, e entity states, m entity mask):

    every layer: h  = LN(x + dense(MHA(x)))
    text       : z  = act(dense(h));                                  x = LN(h + dense(z))
    mix        : e~ = e * m
    fuse       : e~ = LN(e + dense(MHA_ent(e))) * m
    mix, fuse  : z  = act(dense(h) + dense_ent(e~));                  x = LN(h + dense(z))
                 e  = LN_ent(e~ + dense_ent(z))

The entity stream is packed: (batch, num_entities, entity_size) with one word-piece position an entity, in place of
one slot a token. `dense_ent.bias` reaches every token, with or without an entity, as in that implementation; the
product with e~ is added at the entities' positions only, and z is gathered there. Two entities on one piece both
add to it, and both read the same z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ernie.configuration import ErnieConfig


class EntitySlots(NamedTuple):
    """Where the packed entities of a batch sit.

    flat_positions: (batch * num_entities,) rows of the (batch * seq_len, width) token matrix.
    mask: (batch, num_entities, 1), 1 at a real entity, dtype of the states.
    attention_bias: (batch, 1, 1, num_entities), 0 at a real entity and the dtype's lowest number elsewhere.
    """

    flat_positions: torch.Tensor
    mask: torch.Tensor
    attention_bias: torch.Tensor


class LayerOutput(NamedTuple):
    """Token states, entity states, and the attention probabilities of both streams (of tokens None unless eager, of
    entities None but in fuse layers)."""

    hidden_states: torch.Tensor
    entity_states: torch.Tensor | None
    attention_probs: torch.Tensor | None
    entity_attention_probs: torch.Tensor | None


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T * scaling + mask) v.

    query, key, value: (batch, num_heads, length, head_size); attention_mask: additive, broadcast to the scores.
    Returns (batch, length, num_heads, head_size) and the probabilities (batch, num_heads, length, length).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probs = F.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(probs, value).transpose(1, 2), probs


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, by the implementation the config names.

    A config of None stands for `eager_attention`: the entity stream is a handful of rows wide.
    """

    is_causal = False

    def __init__(self, *, size: int, num_heads: int, dropout: float, config: PreTrainedConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_size = size // num_heads
        self.scaling = self.head_size**-0.5
        self.dropout = dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)

    def forward(
        self, states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """states: (batch, length, size). Returns the same shape, and the probabilities where eager keeps them."""
        split = (*states.shape[:-1], self.num_heads, self.head_size)
        query, key, value = (part(states).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        attend = eager_attention
        if self.config is not None:
            name = str(self.config._attn_implementation)
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        dropout = self.dropout if self.training else 0.0
        mixed, probs = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout)
        return mixed.reshape(states.shape), probs


class ResidualOutput(nn.Module):
    """LayerNorm(residual + dropout(dense(x)))."""

    def __init__(self, *, in_size: int, out_size: int, layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, out_size)
        self.LayerNorm = nn.LayerNorm(out_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(states)))


class Attention(nn.Module):
    """Token self-attention; with `entity`, the entities' own beside it (names end in _ent)."""

    def __init__(self, config: ErnieConfig, *, entity: bool = False) -> None:
        super().__init__()
        dropouts = {"layer_norm_eps": config.layer_norm_eps, "dropout": config.hidden_dropout_prob}
        self.self = SelfAttention(
            size=config.hidden_size,
            num_heads=config.num_attention_heads,
            dropout=config.attention_probs_dropout_prob,
            config=config,
        )
        self.output = ResidualOutput(in_size=config.hidden_size, out_size=config.hidden_size, **dropouts)
        if entity:
            self.self_ent = SelfAttention(
                size=config.entity_size,
                num_heads=config.num_entity_attention_heads,
                dropout=config.attention_probs_dropout_prob,
            )
            self.output_ent = ResidualOutput(in_size=config.entity_size, out_size=config.entity_size, **dropouts)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mixed, probs = self.self(hidden_states, attention_mask)
        return self.output(mixed, hidden_states), probs

    def entities(self, entity_states: torch.Tensor, slots: EntitySlots) -> tuple[torch.Tensor, torch.Tensor | None]:
        """LN(e + dropout(dense(MHA_ent(e)))), not yet masked, and the probabilities."""
        mixed, probs = self.self_ent(entity_states, slots.attention_bias)
        return self.output_ent(mixed, entity_states), probs


class Intermediate(nn.Module):
    """z = act(dense(h))."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.act(self.dense(hidden_states))


class FusionIntermediate(Intermediate):
    """z = act(dense(h) + dense_ent(e~)), e~ packed."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__(config)
        self.dense_ent = nn.Linear(config.entity_size, config.intermediate_size)

    def forward(  # pyrefly: ignore[bad-override]
        self, hidden_states: torch.Tensor, entity_states: torch.Tensor | None, slots: EntitySlots | None
    ) -> torch.Tensor:
        """hidden_states: (batch, seq_len, hidden_size); entity_states: (batch, num_entities, entity_size), zero
        where masked, None for a batch without entities. Returns (batch, seq_len, intermediate_size)."""
        # One product with both biases: dense_ent.bias is added everywhere, at no cost.
        mixed = F.linear(hidden_states, self.dense.weight, self.dense.bias + self.dense_ent.bias)
        if entity_states is not None:
            assert slots is not None, "entity states come with their slots"
            lifted = F.linear(entity_states, self.dense_ent.weight).flatten(0, 1)
            mixed = mixed.flatten(0, 1).index_add_(0, slots.flat_positions, lifted.to(mixed.dtype))
            mixed = mixed.view(*hidden_states.shape[:-1], -1)
        return self.act(mixed)


class FusionOutput(ResidualOutput):
    """The token output, and e = LayerNorm_ent(e~ + dropout(dense_ent(z))) beside it."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__(
            in_size=config.intermediate_size,
            out_size=config.hidden_size,
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.dense_ent = nn.Linear(config.intermediate_size, config.entity_size)
        self.LayerNorm_ent = nn.LayerNorm(config.entity_size, eps=config.layer_norm_eps)

    def entities(self, intermediate: torch.Tensor, entity_states: torch.Tensor, slots: EntitySlots) -> torch.Tensor:
        """intermediate: z, (batch, seq_len, intermediate_size). Not masked, as in the first implementation."""
        at_entities = intermediate.flatten(0, 1).index_select(0, slots.flat_positions)
        update = self.dense_ent(at_entities).view(entity_states.shape)
        return self.LayerNorm_ent(entity_states + self.dropout(update))


class TextLayer(GradientCheckpointingLayer):
    """BERT's layer; entity states pass untouched."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(
            in_size=config.intermediate_size,
            out_size=config.hidden_size,
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        entity_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        slots: EntitySlots | None,
    ) -> LayerOutput:
        attended, probs = self.attention(hidden_states, attention_mask)
        return LayerOutput(self.output(self.intermediate(attended), attended), entity_states, probs, None)


class MixLayer(GradientCheckpointingLayer):
    """Tokens and entities meet; entities do not attend to each other."""

    entity_attention = False

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.attention = Attention(config, entity=self.entity_attention)
        self.intermediate = FusionIntermediate(config)
        self.output = FusionOutput(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        entity_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        slots: EntitySlots | None,
    ) -> LayerOutput:
        attended, probs = self.attention(hidden_states, attention_mask)
        entity_probs = None
        if entity_states is not None:
            assert slots is not None, "entity states come with their slots"
            if self.entity_attention:
                entity_states, entity_probs = self.attention.entities(entity_states, slots)
            entity_states = entity_states * slots.mask
        intermediate = self.intermediate(attended, entity_states, slots)
        if entity_states is not None and slots is not None:
            entity_states = self.output.entities(intermediate, entity_states, slots)
        return LayerOutput(self.output(intermediate, attended), entity_states, probs, entity_probs)


class FuseLayer(MixLayer):
    """Entities attend to each other, then meet the tokens."""

    entity_attention = True


LAYERS: dict[str, type[GradientCheckpointingLayer]] = {
    "text": TextLayer,
    "mix": MixLayer,
    "fuse": FuseLayer,
}
