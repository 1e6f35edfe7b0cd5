"""Word, position and segment embeddings: BERT's, name for name. Entity vectors enter raw, later."""

from __future__ import annotations

import torch
from torch import nn


class ErnieEmbeddings(nn.Module):
    """x = dropout(LayerNorm(word + position + token type))."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_position_embeddings: int,
        type_vocab_size: int,
        hidden_size: int,
        pad_token_id: int | None,
        layer_norm_eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.position_embeddings = nn.Embedding(max_position_embeddings, hidden_size)
        self.token_type_embeddings = nn.Embedding(type_vocab_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, token_type_ids, position_ids: (batch, seq_len); inputs_embeds: (batch, seq_len, hidden_size)
        in place of input_ids. Returns (batch, seq_len, hidden_size)."""
        if inputs_embeds is None:
            assert input_ids is not None, "the model hands over input_ids or inputs_embeds"
            inputs_embeds = self.word_embeddings(input_ids)
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        if token_type_ids is None:
            token_types = self.token_type_embeddings.weight[0]
        else:
            token_types = self.token_type_embeddings(token_type_ids)
        summed = inputs_embeds + token_types + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(summed))
