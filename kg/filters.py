"""Pure filters over triples: each returns what it kept and a Counter of what it dropped, by reason.

The dropped counts of a filter always add up to `len(triples) - len(kept)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kg.errors import InputError
from kg.records import Triple
from kg.vocab import Vocabulary

Filtered = tuple[np.ndarray, Counter[str]]


def without_self_loops(triples: np.ndarray) -> Filtered:
    """Drops triples whose head is their tail (`self_loop`): a translation cannot say anything by them."""
    triples = _as_triples(triples)
    loops = triples[:, 0] == triples[:, 2]
    return triples[~loops], _tally(self_loop=loops)


def without_duplicates(triples: np.ndarray) -> Filtered:
    """Keeps the first of equal triples (`duplicate_triple`), in the order of the input."""
    triples = _as_triples(triples)
    order = np.lexsort(triples.T)
    repeated = np.zeros(len(triples), bool)
    repeated[order[1:]] = (triples[order[1:]] == triples[order[:-1]]).all(axis=1)
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
    facts: Iterable[Triple], *, entities: Vocabulary, relations: Vocabulary
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


def _key(rows: np.ndarray, first: int, second: int) -> np.ndarray:
    """Two columns as one int64, so that pairs can be looked up as numbers; row -1 meets no real row."""
    return (rows[:, first].astype(np.int64) << 32) + (rows[:, second].astype(np.int64) + 1)


def _tally(**masks: np.ndarray) -> Counter[str]:
    return Counter({reason: count for reason, mask in masks.items() if (count := int(mask.sum()))})
