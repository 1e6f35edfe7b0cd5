"""Pure filters over triples: each returns what it kept and a Counter of what it dropped, by reason.

The dropped counts of a filter always add up to `len(triples) - len(kept)`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from kg.artifact import open_artifact
from kg.errors import InputError
from kg.records import Triple
from kg.vocab import FewRows, Vocabulary

FACTS = "facts.tsv"

Filtered = tuple[np.ndarray, Counter[str]]
TypeLists: TypeAlias = "Sequence[Collection[str]] | pa.Array | pa.ChunkedArray"


def without_self_loops(triples: np.ndarray) -> Filtered:
    """Drops triples whose head is their tail (`self_loop`): a translation cannot say anything by them."""
    triples = _as_triples(triples)
    loops = triples[:, 0] == triples[:, 2]
    return triples[~loops], _tally(self_loop=loops)


def without_duplicates(triples: np.ndarray) -> Filtered:
    """Keeps the first of equal triples (`duplicate_triple`), in the order of the input.

    Takes at most 40 bytes a triple beside what it returns, while the rows fit into 63 bits together.

    >>> without_duplicates(np.array([[1, 0, 2], [2, 0, 3], [1, 0, 2]]))[0].tolist()
    [[1, 0, 2], [2, 0, 3]]
    """
    triples = _as_triples(triples)
    if not len(triples):
        return triples, Counter()
    order, starts = _equal_runs(triples)
    repeated = np.ones(len(triples), bool)
    repeated[np.minimum.reduceat(order, starts)] = False
    return triples[~repeated], _tally(duplicate_triple=repeated)


def with_relations(triples: np.ndarray, *, allow: Sequence[int] | None = None, deny: Sequence[int] = ()) -> Filtered:
    """Drops triples by relation row: not allowed (`relation_not_allowed`) or denied (`relation_denied`).

    allow: relation rows to keep; None keeps all of them.
    """
    triples = _as_triples(triples)
    relations = triples[:, 1]
    outside = np.zeros(len(triples), bool) if allow is None else ~np.isin(relations, np.asarray(allow, np.int32))
    denied = np.isin(relations, np.asarray(deny, np.int32)) & ~outside
    return triples[~(outside | denied)], _tally(relation_not_allowed=outside, relation_denied=denied)


def with_types(
    triples: np.ndarray, types_by_row: TypeLists, *, allow: Sequence[str] | None = None, deny: Sequence[str] = ()
) -> Filtered:
    """Keeps triples both of whose entities have a wanted type.

    An entity is unwanted when none of its types is allowed (`type_not_allowed`; an entity without types never is)
    or one of them is denied (`type_denied`, counted only where the first does not hold).

    types_by_row: the type names of each entity row, place 0 for the padding row: lists, or an Arrow list array,
        which is quicker for millions. allow: None = every type.

    >>> types = [[], ["city"], ["person"], ["person", "fiction"], []]
    >>> kept, dropped = with_types(np.array([[2, 0, 1], [3, 0, 1], [4, 0, 1]]), types, deny=["fiction"])
    >>> kept.tolist(), dict(dropped)
    ([[2, 0, 1], [4, 0, 1]], {'type_denied': 1})

    Raises:
        InputError: no entity has a type of this name.
    """
    triples = _as_triples(triples)
    table = _TypeTable(types_by_row)
    unwanted, denied = (np.zeros(len(types_by_row), bool) for _ in range(2))
    if allow is not None:
        unwanted[:] = True
        unwanted[table.rows_of(allow)] = False
    denied[table.rows_of(deny)] = True
    outside = _either_end(unwanted, triples)
    refused = _either_end(denied, triples) & ~outside
    return triples[~(outside | refused)], _tally(type_not_allowed=outside, type_denied=refused)


def with_min_degree(triples: np.ndarray, n: int) -> Filtered:
    """Drops triples with an entity that occurs in fewer than n of them (`low_degree`); a loop counts as two.

    One pass over the degrees of the input: what is left may hold entities below n again, which `k_core` never does.

    >>> star = np.array([[1, 0, 2], [1, 0, 3], [2, 0, 3], [3, 0, 4]])
    >>> kept, dropped = with_min_degree(star, 2)
    >>> kept.tolist(), dict(dropped)
    ([[1, 0, 2], [1, 0, 3], [2, 0, 3]], {'low_degree': 1})
    """
    triples = _as_triples(triples)
    low = _either_end(np.bincount(triples[:, [0, 2]].ravel()) < n, triples)
    return triples[~low], _tally(low_degree=low)


def with_min_count(triples: np.ndarray, counts_by_row: np.ndarray, n: int) -> Filtered:
    """Drops triples with an entity seen fewer than n times in the world (`low_count`).

    counts_by_row: the popularity of each entity row (sitelinks, say), place 0 for the padding row.

    >>> kept, dropped = with_min_count(np.array([[1, 0, 2], [1, 0, 3]]), np.array([0, 9, 5, 1]), 5)
    >>> kept.tolist(), dict(dropped)
    ([[1, 0, 2]], {'low_count': 1})
    """
    triples = _as_triples(triples)
    low = _either_end(np.asarray(counts_by_row) < n, triples)
    return triples[~low], _tally(low_count=low)


def with_frequent_relations(triples: np.ndarray, n: int) -> Filtered:
    """Drops triples whose relation has fewer than n of them (`rare_relation`).

    >>> kept, dropped = with_frequent_relations(np.array([[1, 0, 2], [2, 0, 3], [1, 1, 3]]), 2)
    >>> kept.tolist(), dict(dropped)
    ([[1, 0, 2], [2, 0, 3]], {'rare_relation': 1})
    """
    triples = _as_triples(triples)
    rare = (np.bincount(triples[:, 1]) < n)[triples[:, 1]]
    return triples[~rare], _tally(rare_relation=rare)


def k_core(triples: np.ndarray, k: int) -> Filtered:
    """Keeps the triples inside the largest part of the graph whose every entity has k neighbours in it.

    A neighbour is another entity joined by at least one triple, in either direction and by any relation; triples
    dropped are counted as `outside_k_core`. Entities are taken away until nothing changes (Seidman 1983), so a
    second pass drops nothing, and a larger k keeps a part of what a smaller one keeps.

    >>> tailed = np.array([[1, 0, 2], [2, 0, 3], [3, 0, 1], [3, 1, 1], [3, 0, 4], [4, 0, 5]])
    >>> kept, dropped = k_core(tailed, 2)
    >>> kept.tolist(), dict(dropped)
    ([[1, 0, 2], [2, 0, 3], [3, 0, 1], [3, 1, 1]], {'outside_k_core': 2})
    """
    triples = _as_triples(triples)
    starts, neighbours = _neighbours(triples)
    degrees = np.diff(starts)
    gone = np.zeros(len(degrees), bool)
    leaving = np.flatnonzero(degrees < k)
    while len(leaving):
        gone[leaving] = True
        touched = neighbours[_ranges(starts[leaving], starts[leaving + 1])]
        touched, times = np.unique(touched[~gone[touched]], return_counts=True)
        degrees[touched] -= times
        leaving = touched[degrees[touched] < k]
    outside = _either_end(gone, triples)
    return triples[~outside], _tally(outside_k_core=outside)


def without_facts(triples: np.ndarray, facts: np.ndarray, *, drop_head_relation: bool = True) -> Filtered:
    """The leak filter: drops from a graph what a test set asks for.

    Drops every triple joining the two entities of a fact, in either direction and by any relation
    (`fact_pair`), and by default every triple with a fact's head and relation (`fact_head_relation`).

    triples: int, shape (n, 3): head, relation, tail rows.
    facts: int, shape (m, 3), as `fact_rows` makes them: entity row 0 or relation row -1 where the graph does
        not know the name. An unknown name matches nothing; the known part of such a fact still counts.
    """
    triples, facts = _as_triples(triples), _as_triples(facts)
    of_pair = np.isin(_key(triples, 0, 2), np.concatenate([_key(facts, 0, 2), _key(facts, 2, 0)]))
    of_head = np.isin(_key(triples, 0, 1), _key(facts, 0, 1)) & ~of_pair
    if not drop_head_relation:
        of_head[:] = False
    return triples[~(of_pair | of_head)], _tally(fact_pair=of_pair, fact_head_relation=of_head)


def fact_rows(
    facts: Iterable[Triple], *, entities: Vocabulary | FewRows, relations: Vocabulary
) -> tuple[np.ndarray, Counter[str]]:
    """Facts by name as rows, and how many of them name something the graph does not know.

    No fact is left out: an unknown name becomes row 0 (entity, counted as `fact_unknown_entity`) or row -1
    (relation, `fact_unknown_relation`), which `without_facts` understands.

    Returns: int32 of shape (m, 3), in the order of the facts, and the counts; a fact can count under both.
    """
    facts = list(facts)
    columns = (
        entities.rows([fact.head for fact in facts]),
        relations.rows([fact.relation for fact in facts]),
        entities.rows([fact.tail for fact in facts]),
    )
    rows = np.stack(columns, axis=1)
    strange = (rows[:, [0, 2]] == entities.unknown).any(axis=1)
    return rows, _tally(fact_unknown_entity=strange, fact_unknown_relation=rows[:, 1] == relations.unknown)


def task_facts(path: Path) -> Path:
    """The file of facts that a `leave_out` names: the file itself, or the one in a task example folder.

    Raises:
        InputError: a folder that is no finished `finetune examples` or `finetune import`.
    """
    if not path.is_dir():
        return path
    open_artifact(path, stage=("finetune examples", "finetune import"))
    return path / FACTS


def read_facts(path: str | Path) -> list[Triple]:
    """The lines `head<TAB>relation<TAB>tail` of a facts.tsv; an empty file is no facts.

    Raises:
        InputError: no such file, or a line without three tab-separated names.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such facts file; expected lines head<TAB>relation<TAB>tail")
    facts = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            names = line.rstrip("\r\n").split("\t")
            if len(names) != 3 or not all(names):
                raise InputError(f"{path}:{number}: expected head<TAB>relation<TAB>tail, got {line.rstrip()[:80]!r}")
            facts.append(Triple(*names))
    return facts


def _as_triples(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, dtype=np.int32).reshape(-1, 3)


def _either_end(rows: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Whether a mask over entity rows holds for the head or the tail of each triple."""
    return rows[triples[:, 0]] | rows[triples[:, 2]]


def _equal_runs(triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which equal triples stand together, and where each run of equals starts in it."""
    packed = _packed(triples)
    if packed is None:
        order = np.lexsort(triples.T)
        columns = [triples[:, column] for column in range(3)]
    else:
        order, columns = np.argsort(packed), [packed]
    first = np.zeros(len(order), bool)
    first[0] = True
    for column in columns:
        column = column[order]
        first[1:] |= column[1:] != column[:-1]
    return order, np.flatnonzero(first)


def _packed(triples: np.ndarray) -> np.ndarray | None:
    """A whole triple as one int64, or None where the rows are too large for that or below 0."""
    if triples.min() < 0:
        return None
    num_heads, num_relations, num_tails = (int(triples[:, column].max()) + 1 for column in range(3))
    if num_heads * num_relations * num_tails >= 1 << 63:
        return None
    packed = triples[:, 0].astype(np.int64)
    for column, size in ((1, num_relations), (2, num_tails)):
        packed *= size
        packed += triples[:, column]
    return packed


def _neighbours(triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The simple undirected graph in flat arrays: neighbours of row e lie from starts[e] to starts[e + 1]."""
    ends = triples[triples[:, 0] != triples[:, 2]][:, [0, 2]]
    edges = (ends.min(axis=1).astype(np.int64) << 32) | ends.max(axis=1)
    edges.sort()
    edges = edges[np.concatenate([[True], edges[1:] != edges[:-1]])[: len(edges)]]
    both = np.concatenate([edges, ((edges & 0xFFFFFFFF) << 32) | (edges >> 32)])
    both.sort()
    num_rows = int(triples[:, [0, 2]].max(initial=0)) + 1
    counts = np.bincount(both >> 32, minlength=num_rows)
    return np.concatenate([[0], counts.cumsum()]), (both & 0xFFFFFFFF).astype(np.int32)


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Each range [start, end) written out, one after another."""
    lengths = ends - starts
    before = lengths.cumsum() - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


class _TypeTable:
    """Every (entity row, type name) of the lists, the names as numbers."""

    def __init__(self, types_by_row: TypeLists) -> None:
        if not isinstance(types_by_row, pa.Array | pa.ChunkedArray):
            types_by_row = pa.array([list(types) for types in types_by_row], pa.list_(pa.string()))
        if isinstance(types_by_row, pa.ChunkedArray):
            types_by_row = types_by_row.combine_chunks()
        encoded = types_by_row.flatten().dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.rows: np.ndarray = types_by_row.value_parent_indices().to_numpy()
        self.numbers: np.ndarray = encoded.indices.to_numpy()

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """Entity rows with one of these types; may repeat."""
        number_of = {name: number for number, name in enumerate(self.names)}
        missing = next((name for name in names if name not in number_of), None)
        if missing is not None:
            near = difflib.get_close_matches(missing, self.names[:20_000], 3, cutoff=0.5)
            raise InputError(f"no entity has the type {missing!r}" + (f"; nearest: {', '.join(near)}" if near else ""))
        return self.rows[np.isin(self.numbers, [number_of[name] for name in names])]


def _key(rows: np.ndarray, first: int, second: int) -> np.ndarray:
    """Two columns as one int64, so that pairs can be looked up as numbers; row -1 meets no real row."""
    return (rows[:, first].astype(np.int64) << 32) + (rows[:, second].astype(np.int64) + 1)


def _tally(**masks: np.ndarray) -> Counter[str]:
    return Counter({reason: count for reason, mask in masks.items() if (count := int(mask.sum()))})
