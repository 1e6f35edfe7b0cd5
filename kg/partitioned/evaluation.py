"""Link prediction block by block, against a table on disk or in memory.

Ranks are filtered, among all entities, or among a stated random sample.

A rank among ten thousand is far better than one among twenty million. Sampled figures therefore carry the size of the
sample in their names, `sampled_mrr@10000`, and are never called mrr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from kg.ranking import Ranks
from kg.transe import NORMS, Norm

FULL_UP_TO = 1_000_000
"""Entities up to which all are candidates."""
QUERIES_AT_ONCE = 128
CANDIDATES_AT_ONCE = 1 << 13


class Table(Protocol):
    """Entity vectors by row, float32 (num_rows, dim), row 0 of no entity: a `TableFile`, or a `MemoryTable`."""

    num_rows: int

    def block(self, start: int, stop: int) -> np.ndarray: ...

    def rows(self, rows: np.ndarray) -> np.ndarray: ...


class MemoryTable:
    """A table that is in memory anyway."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.num_rows = vectors, len(vectors)

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.vectors[start:stop]

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Among which entities the true one is ranked.

    rows: entity rows in ascending order; None = all of them. count: how many there are.
    """

    rows: np.ndarray | None
    count: int

    @classmethod
    def of(cls, num_entities: int, *, sample: int, seed: int) -> Candidates:
        """All entities; of more than `FULL_UP_TO` a sample without repeats, unless `sample` is 0."""
        if not (0 < sample < num_entities and num_entities > FULL_UP_TO):
            return cls(None, num_entities)
        drawn = np.random.default_rng(seed).choice(num_entities, sample, replace=False, shuffle=False)
        return cls(np.sort(drawn) + 1, sample)

    def named(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures under names that say when they are of a sample: `sampled_mrr@10000`."""
        if self.rows is None:
            return dict(figures)
        return {f"sampled_{name}@{self.count}" if _is_metric(name) else name: of for name, of in figures.items()}

    def figures(self, ranks: Ranks) -> dict[str, Any]:
        """`mrr`, `hits@k`, `mean_rank`, and the MRR under the other readings of ties; named as it must be."""
        other = {f"mrr_{ties}": ranks.metrics(ties)["mrr"] for ties in ("optimistic", "pessimistic")}
        found = self.named(ranks.metrics() | other)
        if self.rows is not None:
            found |= {
                "mrr": None,
                "mrr_reason": f"ranked among {self.count:,} drawn entities: sampled_mrr@{self.count}",
            }
        return found

    def headline(self, ranks: Ranks) -> str:
        found = ranks.metrics()
        among = "" if self.rows is None else f" among {self.count:,} drawn entities"
        return f"filtered MRR {found['mrr']:.3f}, hits@10 {found['hits@10']:.3f}{among}"


def link_prediction(
    triples: np.ndarray,
    table: Table,
    relations: Tensor,
    true_triples: Iterable[np.ndarray],
    *,
    norm: Literal["l1", "l2"],
    reciprocal: bool,
    sample: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Realistic filtered figures of both sides: `mrr`, `hits@k`, `mean_rank`, or the same with a sample's name.

    triples: (n, 3), the ones to rank. relations: (num_relations, dim), twice the rows if reciprocal. true_triples:
    blocks (n, 3) of everything held true; read once. sample: see `Candidates.of`.

    Raises:
        ValueError: there is no triple to rank.
    """
    candidates = Candidates.of(table.num_rows - 1, sample=sample, seed=seed)
    ranks = rank_on_disk(triples, table, relations, true_triples, candidates.rows, norm=norm, reciprocal=reciprocal)
    return candidates.named(ranks.metrics())


def _is_metric(name: str) -> bool:
    return name.startswith(("mrr", "hits@", "mean_rank"))


def rank_on_disk(
    triples: np.ndarray,
    table: Table,
    relations: Tensor,
    true_triples: Iterable[np.ndarray],
    candidates: np.ndarray | None,
    *,
    norm: Literal["l1", "l2"],
    reciprocal: bool,
) -> Ranks:
    """Filtered ranks of both sides. candidates: entity rows in ascending order; None = every entity, block by block.

    Raises:
        ValueError: the score of a true triple is NaN.
    """
    triples = np.asarray(triples, np.int64).reshape(-1, 3)
    queries, targets = _questions(triples, table, relations, reciprocal)
    hidden, hidden_rows = _hidden(triples, true_triples, candidates, width=table.num_rows)
    distance = NORMS[norm]
    near = torch.cat([_own(distance, *pair) for pair in zip(queries.split(QUERIES_AT_ONCE), targets)])
    if torch.isnan(near).any():
        raise ValueError("the score of a true triple is NaN; the vectors it was computed from are damaged")
    better, equal = (np.zeros(len(queries), np.int64) for _ in range(2))
    for rows, vectors in _candidate_blocks(table, candidates):
        columns, inside = _among(rows, hidden_rows)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            stop = min(start + QUERIES_AT_ONCE, len(queries))
            far = distance.crossed(queries[start:stop].unsqueeze(0), vectors.unsqueeze(0)).squeeze(0)
            mine = inside & (hidden >= start) & (hidden < stop)
            far[torch.from_numpy(hidden[mine] - start), torch.from_numpy(columns[mine])] = torch.inf
            own = near[start:stop].unsqueeze(1)
            better[start:stop] += (~(far >= own)).sum(1).numpy()  # a distance that is NaN counts as better
            equal[start:stop] += (far == own).sum(1).numpy()
    optimistic = (better + 1).reshape(2, -1).T
    return Ranks(optimistic, optimistic + equal.reshape(2, -1).T)


def _questions(triples: np.ndarray, table: Table, relations: Tensor, reciprocal: bool) -> tuple[Tensor, list[Tensor]]:
    """Where each missing entity should lie, (2n, dim), tails first; and where it does, in lots of QUERIES_AT_ONCE."""
    rows, place = np.unique(triples[:, [0, 2]], return_inverse=True)
    place = place.reshape(-1, 2)
    ends = torch.from_numpy(table.rows(rows))
    heads, tails = ends[torch.from_numpy(place[:, 0])], ends[torch.from_numpy(place[:, 1])]
    relation = torch.from_numpy(triples[:, 1])
    back = relations[relation + len(relations) // 2] if reciprocal else -relations[relation]
    queries = torch.cat([heads + relations[relation], tails + back])
    return queries, list(torch.cat([tails, heads]).split(QUERIES_AT_ONCE))


def _own(distance: Norm, queries: Tensor, targets: Tensor) -> Tensor:
    """Distances to the true entities, by the arithmetic that the candidates' are computed with."""
    return distance.crossed(queries.unsqueeze(0), targets.unsqueeze(0)).squeeze(0).diagonal().clone()


def _hidden(
    triples: np.ndarray, true_triples: Iterable[np.ndarray], candidates: np.ndarray | None, *, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Questions and entity rows of the true answers among the candidates, int64 (m,) each, every pair once; question i
    asks for the tail of triple i, n + i for its head.

    A graph has many more true answers than a sample of its entities holds: only these are kept, each as one number.
    width: above every entity row.
    """
    count = len(triples)

    def pairs(questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if candidates is not None:
            inside = _among(candidates, rows)[1]
            questions, rows = questions[inside], rows[inside]
        return questions * width + rows

    found = [pairs(np.arange(count), triples[:, 2]), pairs(np.arange(count) + count, triples[:, 0])]
    num_relations = int(triples[:, 1].max(initial=0)) + 1
    asked = [triples[:, known] * num_relations + triples[:, 1] for known in (0, 2)]
    orders = [np.argsort(keys, kind="stable") for keys in asked]
    for block in true_triples:
        block = np.asarray(block, np.int64).reshape(-1, 3)
        block = block[block[:, 1] < num_relations]
        for side, (known, missing) in enumerate(((0, 2), (2, 0))):
            order = orders[side]
            answered = block[:, known] * num_relations + block[:, 1]
            first, last = (np.searchsorted(asked[side][order], answered, side=end) for end in ("left", "right"))
            which = np.repeat(np.arange(len(block)), last - first)
            within = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
            question = order[np.repeat(first, last - first) + within] + side * count
            found.append(pairs(question, block[which, missing]))
    questions, rows = np.divmod(np.unique(np.concatenate(found)), width)
    return questions, rows


def _among(rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted row stands among the ascending `rows`, and whether it does."""
    places = np.searchsorted(rows, wanted).clip(max=len(rows) - 1)
    return places, rows[places] == wanted


def _candidate_blocks(table: Table, candidates: np.ndarray | None) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(entity rows in ascending order, their vectors)."""
    if candidates is not None:
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            rows = candidates[start : start + CANDIDATES_AT_ONCE]
            yield rows, torch.from_numpy(table.rows(rows))
        return
    for start in range(1, table.num_rows, CANDIDATES_AT_ONCE):
        stop = min(start + CANDIDATES_AT_ONCE, table.num_rows)
        yield np.arange(start, stop), torch.from_numpy(table.block(start, stop))
