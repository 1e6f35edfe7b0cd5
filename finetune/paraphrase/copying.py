"""A mixture of writing and copying (See et al. 2017, eq. 9), and what every generator offers.

P(w) = g softmax(logits)_w + (1 - g) Σ_{s: source_s = w} a_s, with a probability g of writing and attention a over the
source. A numbered unknown piece (id >= vocab_size) can only be copied, a piece that is not in the source only written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.paraphrase.batches import Batch, sequence_mask
from finetune.paraphrase.vocabulary import BOS, UNK

SMALLEST = 1e-12
"""Probabilities are raised to this before their logarithm: what cannot be said costs 27.6 nats, not infinity."""

MOST_CARRIED = 0.75
"""Share of the rows being decoded up to which the ones not done go on alone."""

State = tuple[Tensor, ...]
"""What a decoder remembers of each row it has written so far; every tensor has rows first."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An encoded source, rows first.

    source_ids: (rows, source_len), generator ids. mask: (rows, source_len), True at real pieces. num_unknown: extra ids
    a distribution has room for. states: whatever the decoder reads.
    """

    source_ids: Tensor
    mask: Tensor
    num_unknown: int
    states: tuple[Tensor, ...]

    def select(self, rows: Tensor) -> Memory:
        """The rows numbered `rows`, in that order, with repeats."""
        states = tuple(tensor.index_select(0, rows) for tensor in self.states)
        return Memory(self.source_ids.index_select(0, rows), self.mask.index_select(0, rows), self.num_unknown, states)

    def repeat(self, times: int) -> Memory:
        """Every row `times` times, its repeats side by side."""
        rows = torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(times)
        return self if times == 1 else self.select(rows)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that are carried through a decoder place by place, until they are done.

    numbers: (rows,), which of all they are. memory, state: theirs. done: (rows,), bool.
    """

    numbers: Tensor
    memory: Memory
    state: State
    done: Tensor

    @classmethod
    def all_of(cls, memory: Memory, state: State) -> Rows:
        numbers = torch.arange(len(memory.mask), device=memory.mask.device)
        return cls(numbers, memory, state, torch.zeros_like(numbers, dtype=torch.bool))

    def without_done(self) -> Rows:
        """Itself, as long as few are done: leaving them behind copies the memory of all others."""
        going = (~self.done).nonzero().squeeze(1)
        if len(going) > MOST_CARRIED * len(self.done):
            return self
        state = tuple(tensor.index_select(0, going) for tensor in self.state)
        return Rows(self.numbers[going], self.memory.select(going), state, self.done[going])


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a decoder says about one place or many: logits (…, vocab_size), copy_attention (…, source_len) that sums to
    1, writes (…), the probability of writing rather than copying."""

    logits: Tensor
    copy_attention: Tensor
    writes: Tensor

    def log_probs(self, source_ids: Tensor, num_unknown: int) -> Tensor:
        """Of every id at one place: (rows, vocab_size + num_unknown). source_ids: (rows, source_len)."""
        rows, vocab_size = self.logits.shape
        probs = self.logits.new_zeros(rows, vocab_size + num_unknown, dtype=torch.float32)
        writes = self.writes.float().unsqueeze(-1)
        probs[:, :vocab_size] = self.logits.float().softmax(-1) * writes
        probs.scatter_add_(1, source_ids, self.copy_attention.float() * (1 - writes))
        return probs.clamp_min_(SMALLEST).log_()

    def log_probs_of(self, targets: Tensor, source_ids: Tensor) -> Tensor:
        """Of one given id a place, (places,), without the whole distribution; differentiable.

        logits (places, vocab_size), copy_attention and source_ids (places, source_len), writes (places,).
        """
        vocab_size = self.logits.shape[-1]
        logits, writes = self.logits.float(), self.writes.float()
        known = targets.clamp(max=vocab_size - 1).unsqueeze(-1)
        written = (logits.gather(-1, known).squeeze(-1) - logits.logsumexp(-1)).exp() * (targets < vocab_size)
        same = source_ids == targets.unsqueeze(-1)
        copied = (self.copy_attention.float() * same).sum(-1)
        return (writes * written + (1 - writes) * copied).clamp_min(SMALLEST).log()


class Generator(nn.Module, ABC):
    """A source in, a distribution over the next piece out.

    vocab_size: ids it can write. The methods below are the whole of what decoding and every objective ask for.
    """

    vocab_size: int

    @abstractmethod
    def encode(self, batch: Batch) -> Memory:
        """Reads input_ids, attention_mask and source_ids of a batch."""

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """The decoder before its first piece."""

    @abstractmethod
    def step(self, memory: Memory, state: State, previous: Tensor) -> tuple[Mixture, State]:
        """One piece further. previous: (rows,) ids just written, BOS at first; unknown ones count as UNK."""

    @abstractmethod
    def mixture(self, memory: Memory, inputs: Tensor, places: Tensor) -> Mixture:
        """Many places at once, given what stood before each. inputs: (rows, length), BOS first. places: the same shape,
        bool: which of them are wanted; they come one behind the other, row by row."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a module of the same shape; JSON values."""

    def forward(
        self, batch: Batch, targets: Tensor, *, inputs: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """log P(target | source, what stood before it), (rows, length); 0 behind a target's end.

        targets: (rows, length) ids. inputs: what stood before each; default the targets themselves, moved by one.
        memory: the batch's encoded source (repeated where there are more targets than sources).
        """
        memory = self.encode(batch) if memory is None else memory
        inputs = shifted(targets) if inputs is None else inputs
        places = sequence_mask(targets)  # all others would cost a product with the vocabulary for nothing
        sources = memory.source_ids[places.nonzero()[:, 0]]
        found = self.mixture(memory, inputs, places).log_probs_of(targets[places], sources)
        return found.new_zeros(targets.shape).masked_scatter(places, found)

    def known(self, ids: Tensor) -> Tensor:
        """Ids with UNK for numbered unknown pieces, which have no embedding."""
        return ids.masked_fill(ids >= self.vocab_size, UNK)

    def num_unknown(self, source_ids: Tensor) -> int:
        return max(0, int(source_ids.max()) + 1 - self.vocab_size)


def shifted(targets: Tensor) -> Tensor:
    """What a decoder has read before each place: BOS, then all targets but the last."""
    return torch.cat([torch.full_like(targets[:, :1], BOS), targets[:, :-1]], dim=1)
