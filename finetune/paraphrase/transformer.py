"""A small transformer that reads with a pretrained encoder, and writes or copies (copy head as in See et al. 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

from finetune.paraphrase.batches import Batch
from finetune.paraphrase.copying import Generator, Memory, Mixture, State
from finetune.paraphrase.vocabulary import Vocabulary
from finetune.task_model import quiet_loading
from kg.errors import InputError


class DecoderLayer(nn.Module):
    """Post-norm, as BERT's layers are: self-attention on the cached past, attention to the source, feed-forward."""

    def __init__(self, *, hidden_size: int, intermediate_size: int, num_heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.self_out = nn.Linear(hidden_size, hidden_size)
        self.self_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.cross_query = nn.Linear(hidden_size, hidden_size)
        self.cross_key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.cross_out = nn.Linear(hidden_size, hidden_size)
        self.cross_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def heads(self, tensor: Tensor) -> Tensor:
        """(rows, length, hidden_size) -> (rows, num_heads, length, head_size)."""
        return tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def source(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source, computed once for all steps."""
        key, value = self.cross_key_value(states).chunk(2, dim=-1)
        return self.heads(key), self.heads(value)

    def forward(
        self, hidden: Tensor, source: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """hidden: (rows, length, hidden_size); with a past, of the one new place. mask: (rows, 1, 1, source_len) bool.

        Returns the new states, and keys and values of all places so far.
        """
        query, key, value = (self.heads(part) for part in self.self_qkv(hidden).chunk(3, dim=-1))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        hidden = self.self_norm(hidden + self.dropout(self.self_out(_merged(seen))))
        query = self.heads(self.cross_query(hidden))
        read = F.scaled_dot_product_attention(query, *source, attn_mask=mask)
        hidden = self.cross_norm(hidden + self.dropout(self.cross_out(_merged(read))))
        inner = self.down(F.gelu(self.up(hidden)))
        return self.norm(hidden + self.dropout(inner)), (key, value)


class CopyTransformer(Generator):
    """BERT layers read; decoder layers of the same width write over `vocab_size` pieces or copy from the source.

    encoder_config: of the BERT that reads (`BertConfig.to_dict()`). The decoder begins with the encoder's last layers
    and word vectors (`from_encoder`); what attends to the source begins fresh.
    """

    def __init__(
        self, *, vocab_size: int, num_decoder_layers: int, encoder_config: dict[str, Any], dropout: float = 0.1
    ) -> None:
        super().__init__()
        config = BertConfig.from_dict(encoder_config)
        config.hidden_dropout_prob = dropout
        config.attention_probs_dropout_prob = 0.0  # which keeps attention on its fast path
        self.vocab_size = vocab_size
        self.sizes = {"num_decoder_layers": num_decoder_layers, "dropout": dropout}
        width, eps = config.hidden_size, config.layer_norm_eps
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.embedding_norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(
            DecoderLayer(
                hidden_size=width,
                intermediate_size=config.intermediate_size,
                num_heads=config.num_attention_heads,
                dropout=dropout,
                eps=eps,
            )
            for _ in range(num_decoder_layers)
        )
        self.before_output = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=eps))
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.copy_query = nn.Linear(width, width)
        self.copy_key = nn.Linear(width, width)
        self.writes = nn.Linear(3 * width, 1)
        self.dropout = nn.Dropout(dropout)
        self.apply(lambda module: _begin(module, config.initializer_range))

    @classmethod
    def from_encoder(
        cls,
        folder: Path,
        vocabulary: Vocabulary,
        *,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dropout: float,
    ) -> CopyTransformer:
        """folder: a BERT's or ERNIE's, whose first layers (0: all) are taken; an ERNIE reads text alone here."""
        encoder = load_text_encoder(folder, num_layers=num_encoder_layers)
        model = cls(
            vocab_size=len(vocabulary),
            num_decoder_layers=num_decoder_layers,
            encoder_config=encoder.config.to_dict(),
            dropout=dropout,
        )
        if num_decoder_layers > encoder.config.num_hidden_layers:
            raise InputError(
                f"{num_decoder_layers} decoder layers begin as layers of an encoder that has "
                f"{encoder.config.num_hidden_layers}; ask for at most so many"
            )
        state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
        model.encoder.load_state_dict(state)
        model._begin_as(encoder, torch.from_numpy(vocabulary.pieces))
        return model

    def settings(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "encoder_config": self.encoder.config.to_dict(), **self.sizes}

    def encode(self, batch: Batch) -> Memory:
        """Memory states: encoder states and copy keys (rows, source_len, width), then keys and values of every layer,
        (rows, num_heads, source_len, head_size)."""
        mask = batch["attention_mask"]
        states = self.encoder(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        sources = [tensor for layer in self.layers for tensor in cast("DecoderLayer", layer).source(states)]
        source_ids = batch["source_ids"]
        return Memory(source_ids, mask.bool(), self.num_unknown(source_ids), (states, self.copy_key(states), *sources))

    def start(self, memory: Memory) -> State:
        """Empty caches: a key and a value a layer, (rows, num_heads, 0, head_size)."""
        return tuple(tensor[:, :, :0] for tensor in memory.states[2:])

    def step(self, memory: Memory, state: State, previous: Tensor) -> tuple[Mixture, State]:
        place = state[0].shape[2] if state else 0
        embedded = self._embed(previous.unsqueeze(1), first=place)
        pasts = [(state[i], state[i + 1]) for i in range(0, len(state), 2)]
        hidden, caches = self._decode(memory, embedded, pasts)
        seen = (part[:, 0] for part in (*self._read(memory, hidden), hidden, embedded))
        return self._mixture(*seen), tuple(tensor for cache in caches for tensor in cache)

    def mixture(self, memory: Memory, inputs: Tensor, places: Tensor) -> Mixture:
        embedded = self._embed(inputs, first=0)
        hidden, _ = self._decode(memory, embedded, [None] * len(self.layers))
        return self._mixture(*(part[places] for part in (*self._read(memory, hidden), hidden, embedded)))

    def _embed(self, ids: Tensor, *, first: int) -> Tensor:
        places = torch.arange(first, first + ids.shape[1], device=ids.device)
        return self.dropout(self.embedding_norm(self.embedding(self.known(ids)) + self.positions(places)))

    def _decode(
        self, memory: Memory, hidden: Tensor, pasts: list[tuple[Tensor, Tensor] | None] | list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        mask = memory.mask[:, None, None, :]
        caches = []
        for number, (layer, past) in enumerate(zip(self.layers, pasts, strict=True)):
            source = (memory.states[2 + 2 * number], memory.states[3 + 2 * number])
            hidden, cache = layer(hidden, source, mask, past)
            caches.append(cache)
        return hidden, caches

    def _read(self, memory: Memory, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of the copy head, (rows, length, source_len), and what it reads, (rows, length, width)."""
        states, keys = memory.states[:2]
        scores = torch.bmm(self.copy_query(hidden), keys.transpose(1, 2)) / keys.shape[-1] ** 0.5
        attention = scores.masked_fill(~memory.mask[:, None], torch.finfo(scores.dtype).min).softmax(-1)
        return attention, torch.bmm(attention, states)

    def _mixture(self, attention: Tensor, context: Tensor, hidden: Tensor, embedded: Tensor) -> Mixture:
        """Of some places: attention (places, source_len), the others (places, width)."""
        logits = F.linear(self.dropout(self.before_output(hidden)), self.embedding.weight, self.output_bias)
        writes = torch.sigmoid(self.writes(torch.cat([context, hidden, embedded], dim=-1))).squeeze(-1)
        return Mixture(logits, attention, writes)

    @torch.no_grad()
    def _begin_as(self, encoder: BertModel, pieces: Tensor) -> None:
        """Word and place vectors, self-attention and feed-forward layers as the encoder's."""
        table = encoder.embeddings
        self.embedding.weight.copy_(table.word_embeddings.weight[pieces])
        self.positions.weight.copy_(table.position_embeddings.weight + table.token_type_embeddings.weight[0])
        self.embedding_norm.load_state_dict(table.LayerNorm.state_dict())
        for own, theirs in zip(self.layers, encoder.encoder.layer[-len(self.layers) :], strict=True):
            own, theirs = cast("DecoderLayer", own), cast("Any", theirs)
            attention = theirs.attention
            parts = (attention.self.query, attention.self.key, attention.self.value)
            own.self_qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            own.self_qkv.bias.copy_(torch.cat([part.bias for part in parts]))
            own.self_out.load_state_dict(attention.output.dense.state_dict())
            own.self_norm.load_state_dict(attention.output.LayerNorm.state_dict())
            own.up.load_state_dict(theirs.intermediate.dense.state_dict())
            own.down.load_state_dict(theirs.output.dense.state_dict())
            own.norm.load_state_dict(theirs.output.LayerNorm.state_dict())


def load_text_encoder(folder: Path, *, num_layers: int = 0) -> BertModel:
    """A BERT, or the text side of an ERNIE, with its first `num_layers` layers (0: all), fp32.

    Raises:
        InputError: no model folder, or a model of another kind.
    """
    import ernie
    from ernie.conversion import bert_from_ernie

    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected a BERT's or ERNIE's model folder")
    with quiet_loading():
        model = AutoModel.from_pretrained(str(folder), dtype=torch.float32)
    if isinstance(model, ernie.ErnieModel):
        model = bert_from_ernie(model)
    if not isinstance(model, BertModel):
        raise InputError(f"{folder} holds a {model.config.model_type!r} model; expected ernie-kg or bert")
    if num_layers > model.config.num_hidden_layers:
        raise InputError(f"{folder} has {model.config.num_hidden_layers} layers; ask for at most so many")
    if num_layers:
        model.encoder.layer = model.encoder.layer[:num_layers]
        model.config.num_hidden_layers = num_layers
    return model


def _merged(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _begin(module: nn.Module, spread: float) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=spread)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
