"""Negatives of link prediction: how they are drawn, and which of them are true triples.

Negatives are shared by the triples of a chunk, so a sampler draws for whole chunks: entity rows of shape
(steps, 2 * num_chunks, num_negatives), the replacements of tails first, then those of heads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

DEGREE_POWER = 0.75

Sampler = Callable[[Tensor, int, int, torch.Generator], Tensor]
"""(batches (steps, batch_size, 3), num_chunks, num_negatives, generator) -> rows (steps, 2 * num_chunks, n)."""


def uniform(triples: Tensor, *, num_entities: int) -> Sampler:
    """Every entity with the same probability."""

    def draw(batches: Tensor, num_chunks: int, num_negatives: int, generator: torch.Generator) -> Tensor:
        shape = (len(batches), 2 * num_chunks, num_negatives)
        return torch.randint(1, num_entities + 1, shape, generator=generator)

    return draw


def degree_weighted(triples: Tensor, *, num_entities: int) -> Sampler:
    """An entity with a probability proportional to its degree ** 0.75 (Mikolov et al. 2013's power): harder ones."""
    degrees = torch.bincount(triples[:, [0, 2]].reshape(-1), minlength=num_entities + 1)[1:]
    ends = degrees.double().pow(DEGREE_POWER).cumsum(0)

    def draw(batches: Tensor, num_chunks: int, num_negatives: int, generator: torch.Generator) -> Tensor:
        shape = (len(batches), 2 * num_chunks, num_negatives)
        place = torch.rand(shape, generator=generator, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, place, right=True).clamp_(max=num_entities - 1) + 1

    return draw


def typed(triples: Tensor, *, num_entities: int) -> Sampler:
    """Entities seen on that side of a relation of the chunk (Krompass et al. 2015's local closed world).

    Each place of a chunk's list belongs to the relation of one of its triples, drawn at random, and takes one of the
    entities that the training triples show as that relation's tail (or head), all with the same probability.
    """
    num_relations = int(triples[:, 1].max()) + 1
    width = num_entities + 1
    sides = [triples[:, 1] * width + triples[:, 2], (triples[:, 1] + num_relations) * width + triples[:, 0]]
    seen = torch.cat(sides).unique()  # sorted: by side and relation, then by entity
    entities, group = seen % width, seen // width
    counts = torch.bincount(group, minlength=2 * num_relations)
    starts = counts.cumsum(0) - counts

    def draw(batches: Tensor, num_chunks: int, num_negatives: int, generator: torch.Generator) -> Tensor:
        steps = len(batches)
        relations = batches[:, :, 1].reshape(steps, num_chunks, -1).repeat(1, 2, 1)
        shape = (steps, 2 * num_chunks, num_negatives)
        which = relations.gather(2, torch.randint(0, relations.shape[2], shape, generator=generator))
        which[:, num_chunks:] += num_relations
        place = torch.rand(shape, generator=generator, dtype=torch.float64) * counts[which]
        return entities[starts[which] + place.long()]

    return draw


SAMPLERS = {"uniform": uniform, "bernoulli": uniform, "typed": typed, "degree": degree_weighted}
"""Where negatives come from. `bernoulli` draws uniformly and weighs the two sides (`bernoulli_weights`)."""


def bernoulli_weights(triples: Tensor) -> Tensor:
    """How much each side of each triple counts: float32 (n, 2), tail replaced first; the two sum to 2.

    Wang et al. 2014 (TransH, section 3.2) replace the head with probability tph / (tph + hpt), tails per head and
    heads per tail of the relation: the side with fewer chances of a false negative. With both sides scored anyway,
    weighing them has the same expectation and less variance than a coin.
    """
    relations = triples[:, 1]
    num_relations, width = int(relations.max()) + 1, int(triples[:, [0, 2]].max()) + 1
    counts = torch.bincount(relations, minlength=num_relations).double()
    distinct = [
        torch.bincount((relations * width + triples[:, column]).unique() // width, minlength=num_relations)
        for column in (0, 2)
    ]
    tails_per_head, heads_per_tail = (counts / of.clamp_min(1) for of in distinct)
    by_relation = torch.stack([heads_per_tail, tails_per_head], 1) / (tails_per_head + heads_per_tail).unsqueeze(1)
    return (2 * by_relation[relations]).float()


class KnownQueries:
    """For each entity, the questions it is a true answer to: finds the negatives that are no negatives.

    A uniform negative answers few questions (the graph's mean degree), so a batch costs
    num_negatives * mean degree look-ups, whatever the hubs among its triples.

    questions, starts: int64. Row a answers questions[starts[a] : starts[a + 1]], as a tail where a is an entity row, as
    a head where a is an entity row + num_entities + 1. A question (entity, relation) has the number
    entity * num_relations + relation, the entity again shifted where it is the known tail.
    """

    def __init__(self, triples: Tensor, *, num_entities: int, num_relations: int) -> None:
        """triples: (n, 3) int64, the training triples."""
        self._rows, self._num_relations = num_entities + 1, num_relations
        self._num_questions = 2 * self._rows * num_relations
        answers = torch.cat([triples[:, 2], triples[:, 0] + self._rows])
        self.questions = self._question(triples).view(-1)[torch.argsort(answers, stable=True)]
        self._counts = torch.bincount(answers, minlength=2 * self._rows)
        self.starts = torch.nn.functional.pad(self._counts.cumsum(0), (1, 0))

    def to(self, device: torch.device) -> KnownQueries:
        """The same on another device; itself where it is there already."""
        if self.starts.device == device:
            return self
        moved = copy.copy(self)
        moved.questions, moved.starts, moved._counts = (
            t.to(device) for t in (self.questions, self.starts, self._counts)
        )
        return moved

    def true_negatives(self, triples: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (block, query, negative) in the score tensor of `TransE.gradient` that hold true triples."""
        blocks, num_negatives = negatives.shape
        block = torch.arange(blocks, device=negatives.device).unsqueeze(1)
        asked = (self._question(triples).view(blocks, -1) + block * self._num_questions).view(-1)
        asked, order = asked.sort()
        answers = (negatives + (block >= blocks // 2) * self._rows).view(-1)
        slot, entry = _expand(self.starts[answers], self._counts[answers])
        answered = self.questions[entry] + (slot // num_negatives) * self._num_questions
        first = torch.searchsorted(asked, answered)
        found = torch.searchsorted(asked, answered, right=True) - first
        hit = found.nonzero().view(-1)
        which, entry = _expand(first[hit], found[hit])
        query, slot = order[entry], slot[hit[which]]
        per_block = len(asked) // blocks
        return query // per_block, query % per_block, slot % num_negatives

    def _question(self, triples: Tensor) -> Tensor:
        """(2, n): the number of the question (side, entity, relation) each triple answers on each side."""
        head, relation, tail = triples.unbind(1)
        ask_tail = head * self._num_relations + relation
        ask_head = (tail + self._rows) * self._num_relations + relation
        return torch.stack([ask_tail, ask_head])


def _expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each range [start, start + count) written out: (which range, position), both of length counts.sum()."""
    which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    before = counts.cumsum(0) - counts
    return which, torch.arange(len(which), device=counts.device) - before[which] + starts[which]
