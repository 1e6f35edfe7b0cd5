"""Filtered link prediction: the rank of the true entity among all that would not make another true triple.

A rank has three readings when scores tie: optimistic (the true entity first among equals), pessimistic (last) and
realistic (their mean, Berrendorf et al. 2020). A scorer that gives every entity the same score must look as bad as
it is, so figures are realistic unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDES = ("tail", "head")
HITS = (1, 3, 10)
CARDINALITIES = ("1-1", "1-N", "N-1", "N-N")
MANY = 1.5  # entities of a side for one of the other, on average, from which a side counts as N
SCORES_AT_ONCE = 1 << 20  # floats of one score matrix: 4 MB

Scorer = Callable[[Tensor, int], Tensor]
"""(triples (n, 3), side) -> scores (n, num_entities + 1) of every entity row in place of the tail (side 0) or the
head (side 1); larger is better, column 0 is ignored."""


class KnownAnswers:
    """The true answers to each question (head, relation, ?) and (?, relation, tail), in sorted flat arrays."""

    def __init__(self, triples: np.ndarray, *, num_relations: int) -> None:
        """triples: (n, 3) of any integer type: everything held true (training, validation and test)."""
        triples = np.asarray(triples, dtype=np.int64).reshape(-1, 3)
        self._num_relations = max(num_relations, 1)
        questions = np.concatenate([self._question(triples, side) for side in (0, 1)])
        order = np.argsort(questions, kind="stable")
        self._answers = np.concatenate([triples[:, 2], triples[:, 0]]).astype(np.int32)[order]
        self._questions, self._starts = np.unique(questions[order], return_index=True)
        self._starts = np.append(self._starts, len(questions))

    def of(self, triples: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """(position in `triples`, answering entity row) of every known answer to their questions, both int32."""
        if len(self._questions) == 0:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        asked = self._question(np.asarray(triples, dtype=np.int64), side)
        place = np.searchsorted(self._questions, asked).clip(max=len(self._questions) - 1)
        found = self._questions[place] == asked
        counts = np.where(found, self._starts[place + 1] - self._starts[place], 0)
        entries = np.repeat(self._starts[place] - (counts.cumsum() - counts), counts)
        entries += np.arange(len(entries))
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts), self._answers[entries]

    def _question(self, triples: np.ndarray, side: int) -> np.ndarray:
        entity = triples[:, 0 if side == 0 else 2]
        return (entity * self._num_relations + triples[:, 1]) * 2 + side


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks from 1, shape (num_triples, 2): column 0 for the tail, column 1 for the head."""

    optimistic: np.ndarray
    pessimistic: np.ndarray

    def of(self, ties: str = "realistic") -> np.ndarray:
        """Ranks as floats under `ties`: optimistic, realistic or pessimistic."""
        readings = {
            "optimistic": self.optimistic,
            "realistic": (self.optimistic + self.pessimistic) / 2,
            "pessimistic": self.pessimistic,
        }
        return readings[ties].astype(np.float64)

    def metrics(self, ties: str = "realistic") -> dict[str, float]:
        """mrr, hits@1, hits@3, hits@10 (in [0, 1]) and mean_rank over both sides.

        Raises:
            ValueError: there is no rank to average.
        """
        ranks = self.of(ties).reshape(-1)
        if ranks.size == 0:
            raise ValueError("no triple was ranked, so there is no mean to report")
        figures = {"mrr": float((1.0 / ranks).mean())}
        figures |= {f"hits@{k}": float((ranks <= k).mean()) for k in HITS}
        return figures | {"mean_rank": float(ranks.mean())}

    def select(self, rows: np.ndarray) -> Ranks:
        """The ranks of some triples; rows: a mask or positions."""
        return Ranks(self.optimistic[rows], self.pessimistic[rows])


def rank_triples(
    triples: np.ndarray,
    score: Scorer,
    known: KnownAnswers,
    *,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda triples: None,
) -> Ranks:
    """Filtered ranks of both sides of each triple.

    batch_size: triples scored at once, each a row of num_entities + 1 floats (`fitting_batch_size`). A candidate
    whose score is NaN counts as better than the true entity. `on_batch` gets the number of triples of each batch.

    Raises:
        ValueError: the score of a true triple is NaN.
    """
    triples = np.asarray(triples, dtype=np.int64).reshape(-1, 3)
    better, equal = (np.zeros((len(triples), 2), dtype=np.int64) for _ in range(2))
    for start in range(0, len(triples), batch_size):
        batch = triples[start : start + batch_size]
        for side in (0, 1):
            scores = score(torch.from_numpy(batch), side)
            found = slice(start, start + len(batch)), side
            better[found], equal[found] = _compare(batch, scores, known, side)
        on_batch(len(batch))
    return Ranks(better + 1, better + equal + 1)


def fitting_batch_size(num_entities: int) -> int:
    """How many triples to rank at once so that their score matrix stays within 4 MB."""
    return max(1, SCORES_AT_ONCE // (num_entities + 1))


def _compare(batch: np.ndarray, scores: Tensor, known: KnownAnswers, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How many unfiltered candidates beat, and how many tie with, each true entity."""
    target = batch[:, 2 if side == 0 else 0]
    truth = scores.gather(1, torch.from_numpy(target).unsqueeze(1))
    if torch.isnan(truth).any():
        raise ValueError("the score of a true triple is NaN; the vectors it was computed from are damaged")
    rows, columns = _ignored(batch, target, known, side, width=scores.shape[1])
    left_out = scores.numpy()[rows, columns]
    truths = truth.numpy()[rows, 0]
    worse = np.count_nonzero((scores < truth).numpy(), axis=1)
    equal = np.count_nonzero((scores == truth).numpy(), axis=1)
    worse -= np.bincount(rows, weights=left_out < truths, minlength=len(batch)).astype(np.int64)
    equal -= np.bincount(rows, weights=left_out == truths, minlength=len(batch)).astype(np.int64)
    candidates = scores.shape[1] - np.bincount(rows, minlength=len(batch))
    return candidates - worse - equal, equal


def _ignored(
    batch: np.ndarray, target: np.ndarray, known: KnownAnswers, side: int, *, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a (len(batch), width) score matrix that are no candidates: known answers, the truth itself, column 0."""
    number = np.int32 if len(batch) * width < 1 << 31 else np.int64
    firsts = np.arange(len(batch), dtype=number) * number(width)
    which, answer = known.of(batch, side)
    cells = np.concatenate([firsts[which] + answer, firsts + target.astype(number), firsts])
    cells.sort()  # numpy's `unique` hashes integers, several times slower than a sort of this many
    cells = cells[np.append(True, cells[1:] != cells[:-1])]
    return cells // width, cells % width


def metrics_by_relation(triples: np.ndarray, ranks: Ranks) -> list[dict[str, float]]:
    """Realistic metrics of each relation that occurs, the most frequent first; `relation` is its row."""
    relations, counts = np.unique(np.asarray(triples)[:, 1], return_counts=True)
    order = np.lexsort((relations, -counts))
    return [
        {"relation": int(relations[i]), "num_triples": int(counts[i])}
        | ranks.select(np.asarray(triples)[:, 1] == relations[i]).metrics()
        for i in order
    ]


def cardinalities(triples: np.ndarray, *, num_relations: int) -> list[str]:
    """The kind of each relation row, one of `CARDINALITIES`; "" for a relation without a triple.

    Bordes et al. 2013, section 4.3: a side is N where a relation has on average more than 1.5 entities of that side
    for one of the other. "1-N": one head, many tails.

    triples: int, shape (n, 3): everything held true, as the filter of `rank_triples` gets it; repeats count once.

    >>> cardinalities(np.array([[1, 0, 2], [1, 0, 3], [4, 1, 5]]), num_relations=3)
    ['1-N', '1-1', '']
    """
    triples = np.unique(np.asarray(triples, dtype=np.int64).reshape(-1, 3), axis=0)
    frequency = np.bincount(triples[:, 1], minlength=num_relations)
    heads, tails = (_distinct_entities(triples[:, column], triples[:, 1], num_relations) for column in (0, 2))
    names = []
    for count, num_heads, num_tails in zip(frequency.tolist(), heads.tolist(), tails.tolist(), strict=True):
        many_heads, many_tails = count > MANY * num_tails, count > MANY * num_heads
        names.append(f"{'N' if many_heads else '1'}-{'N' if many_tails else '1'}" if count else "")
    return names


def metrics_by_cardinality(triples: np.ndarray, ranks: Ranks, kinds: list[str]) -> list[dict[str, float | str]]:
    """Realistic metrics of each kind of relation that occurs, each side by itself: the published table.

    triples: (n, 3), the ranked ones. kinds: by relation row, from `cardinalities`.

    Returns lines in the order of `CARDINALITIES`, tail before head: cardinality, side (the one that was asked for),
    num_triples, num_relations and the figures of `Ranks.metrics`.

    Raises:
        ValueError: a ranked triple's relation has no kind; `cardinalities` was made from other triples.
    """
    relations = np.asarray(triples)[:, 1]
    kind_of = np.array(kinds, dtype=object)[relations]
    if len(kind_of) and not (kind_of != "").all():
        raise ValueError(f"relation row {int(relations[kind_of == ''][0])} has no kind; make them from all triples")
    lines: list[dict[str, float | str]] = []
    for kind in CARDINALITIES:
        chosen = ranks.select(kind_of == kind)
        own = relations[kind_of == kind]
        for column, side in enumerate(SIDES if len(own) else ()):
            one = slice(column, column + 1)
            figures = Ranks(chosen.optimistic[:, one], chosen.pessimistic[:, one]).metrics()
            counts = {"num_triples": len(own), "num_relations": len(np.unique(own))}
            lines.append({"cardinality": kind, "side": side, **counts, **figures})
    return lines


def _distinct_entities(entities: np.ndarray, relations: np.ndarray, num_relations: int) -> np.ndarray:
    """How many entities each relation has on one side, shape (num_relations,)."""
    pairs = entities * max(num_relations, 1) + relations
    pairs.sort()
    first = np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
    return np.bincount(pairs[first] % max(num_relations, 1), minlength=num_relations)
