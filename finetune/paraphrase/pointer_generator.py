"""The paper's generator: a bidirectional LSTM, an LSTM with additive attention, and copying (See et al. 2017)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from finetune.paraphrase.batches import Batch
from finetune.paraphrase.copying import Generator, Memory, Mixture, Rows, State
from finetune.paraphrase.vocabulary import PAD


class PointerGenerator(Generator):
    """Encoder and decoder share one embedding; the context of a step enters the next one's input ("input feeding").

    vocab_size: ids it can write. embedding_size, hidden_size: 128 and 256 in the paper. dropout: on embeddings and on
    what the vocabulary is read from. No coverage: the repetitions it is against are forbidden while decoding.
    """

    def __init__(
        self, *, vocab_size: int, embedding_size: int = 128, hidden_size: int = 256, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "dropout": dropout}
        both = 2 * hidden_size
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=PAD)
        self.encoder = nn.LSTM(embedding_size, hidden_size, batch_first=True, bidirectional=True)
        self.reduce_hidden = nn.Linear(both, hidden_size)
        self.reduce_cell = nn.Linear(both, hidden_size)
        self.key = nn.Linear(both, both, bias=False)
        self.query = nn.Linear(both, both)
        self.energy = nn.Linear(both, 1, bias=False)
        self.feed = nn.Linear(both + embedding_size, embedding_size)
        self.decoder = nn.LSTMCell(embedding_size, hidden_size)
        self.writes = nn.Linear(both + both + embedding_size, 1)
        self.before_output = nn.Linear(hidden_size + both, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def settings(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, **self.sizes}

    def encode(self, batch: Batch) -> Memory:
        """Memory states: encoder states and attention keys, (rows, source_len, 2 hidden_size) each, and the decoder's
        first hidden and cell state, (rows, hidden_size) each."""
        source_ids, lengths = batch["source_ids"], batch["attention_mask"].sum(1)
        embedded = self.dropout(self.embedding(self.known(source_ids)))
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (hidden, cell) = self.encoder(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source_ids.shape[1])
        first_hidden = torch.relu(self.reduce_hidden(torch.cat([hidden[0], hidden[1]], dim=-1)))
        first_cell = torch.relu(self.reduce_cell(torch.cat([cell[0], cell[1]], dim=-1)))
        mask = batch["attention_mask"].bool()
        return Memory(
            source_ids, mask, self.num_unknown(source_ids), (states, self.key(states), first_hidden, first_cell)
        )

    def start(self, memory: Memory) -> State:
        """Hidden and cell state, and a context of zeros."""
        states, _, hidden, cell = memory.states
        return hidden, cell, states.new_zeros(len(states), states.shape[-1])

    def step(self, memory: Memory, state: State, previous: Tensor) -> tuple[Mixture, State]:
        embedded = self.embedding(self.known(previous))
        seen, attention, state = self._advance(memory, state, embedded)
        return self._mixture(seen, attention), state

    def mixture(self, memory: Memory, inputs: Tensor, places: Tensor) -> Mixture:
        rows = Rows.all_of(memory, self.start(memory))
        embedded = self.dropout(self.embedding(self.known(inputs)))
        later = places.flip(1).cumsum(1).flip(1)  # how many are wanted from here on
        seen, attentions, order = [], [], []
        for place in range(int(later.any(0).sum())):
            rows = replace(rows, done=later[rows.numbers, place] == 0).without_done()
            one, attention, state = self._advance(rows.memory, rows.state, embedded[rows.numbers, place])
            wanted = places[rows.numbers, place]
            seen.append(one[wanted])
            attentions.append(attention[wanted])
            order.append(rows.numbers[wanted] * places.shape[1] + place)
            rows = replace(rows, state=state)
        by_row = torch.cat(order).argsort()
        return self._mixture(torch.cat(seen)[by_row], torch.cat(attentions)[by_row])

    def _advance(self, memory: Memory, state: State, embedded: Tensor) -> tuple[Tensor, Tensor, State]:
        """(context, hidden, cell, input) side by side, the attention, and the next state."""
        states, keys, _, _ = memory.states
        hidden, cell, context = state
        inputs = self.feed(torch.cat([context, embedded], dim=-1))
        hidden, cell = self.decoder(inputs, (hidden, cell))
        query = self.query(torch.cat([hidden, cell], dim=-1)).unsqueeze(1)
        energy = self.energy(torch.tanh(keys + query)).squeeze(-1)
        attention = energy.masked_fill(~memory.mask, torch.finfo(energy.dtype).min).softmax(-1)
        context = torch.bmm(attention.unsqueeze(1), states).squeeze(1)
        return torch.cat([context, hidden, cell, inputs], dim=-1), attention, (hidden, cell, context)

    def _mixture(self, seen: Tensor, attention: Tensor) -> Mixture:
        """seen: (…, context, hidden, cell and input side by side)."""
        size = self.sizes["hidden_size"]
        read = self.dropout(self.before_output(seen[..., : 3 * size]))
        return Mixture(self.output(read), attention, torch.sigmoid(self.writes(seen)).squeeze(-1))
