"""Parts of a source to a graph: everything gets a row, filters choose, and what is left out is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kg.aliases import AliasWeights, alias_table
from kg.errors import InputError
from kg.filters import (
    Filtered,
    fact_rows,
    k_core,
    with_frequent_relations,
    with_min_count,
    with_min_degree,
    with_relations,
    with_types,
    without_duplicates,
    without_facts,
    without_self_loops,
)
from kg.graph import ENTITIES, FIRST_ENTITY_ROW, RELATIONS, SPLITS, KnowledgeGraph
from kg.parts import Parts, records_table
from kg.records import Alias, Entity, Triple, readable
from kg.vocab import Vocabulary

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
NO_ENTITY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of a source to keep; the steps of `_wanted` and `_filtered` in order, each a filter of `kg.filters`."""

    relations_allow: tuple[str, ...] = ()
    relations_deny: tuple[str, ...] = ()
    types_allow: tuple[str, ...] = ()
    types_deny: tuple[str, ...] = ()
    min_count: int = 0
    min_relation_triples: int = 0
    min_degree: int = 0
    k_core: int = 0
    keep_isolated: bool = True
    keep_self_loops: bool = False
    facts: Sequence[Triple] = ()


def assemble(
    parts: Parts, *, closed: bool, weights: AliasWeights, choice: Choice, dropped: Counter[str]
) -> KnowledgeGraph:
    """Reads the parts and gives everything a row.

    Records come first, in order; where the source is not closed, names without a record follow in the order triples
    first use them. dropped: receives the reader's counts and those of every filter.

    Raises:
        InputError: an id with two different records, or a filter that names what is not there.
    """
    dropped.update(parts.dropped())
    records, rows = _records(parts, dropped)
    declared = parts.relations()
    relations = {name: row for row, name in enumerate(declared)}
    triples, splits = _triples(parts, rows, relations, closed, dropped)
    unnamed = list(rows)[records.num_rows :]
    added = (Entity(name, readable(name), (Alias(readable(name)),)) for name in unnamed)
    records = pa.concat_tables([records, records_table(list(added), weights, dropped)])
    names = Vocabulary(list(relations), first_row=0, what="relation")
    wanted = _wanted(triples, names, choice, dropped)
    kept = _filtered(wanted, records, names, choice, dropped)
    kept_splits = None if splits is None else _splits_of(kept, wanted, triples, splits, dropped)
    used, kept[:, 1] = np.unique(kept[:, 1], return_inverse=True)
    if lost := len(relations) - len(used):
        dropped["relation_without_triple"] += lost
    if not choice.keep_isolated:
        records = _without_isolated(records, kept, dropped)
    dropped += Counter()  # a reason nobody falls under is no reason
    return KnowledgeGraph(
        entities=_entity_table(records),
        relations=_relation_table([names.identifiers[row] for row in used], declared),
        aliases=_alias_table(records),
        triples=kept,
        splits=kept_splits,
    )


# --- rows -----------------------------------------------------------------------------------------------------


def _records(parts: Parts, dropped: Counter[str]) -> tuple[pa.Table, dict[str, int]]:
    """All records, each id once, and the row of each id."""
    rows: dict[str, int] = {}
    tables: list[pa.Table] = [records_table((), AliasWeights(), Counter())]
    repeated: Counter[str] = Counter()
    for table in parts.records():
        names = table["id"].to_pylist()
        fresh = np.ones(len(names), bool)
        for place, name in enumerate(names):
            if name in rows:
                fresh[place] = False
                repeated[name] += 1
            else:
                rows[name] = len(rows) + FIRST_ENTITY_ROW
        tables.append(table if fresh.all() else table.filter(pa.array(fresh)))
    if repeated:
        _refuse_two_records(parts, set(repeated))
        dropped["duplicate_record"] += repeated.total()
    return pa.concat_tables(tables), rows


def _refuse_two_records(parts: Parts, names: set[str]) -> None:
    """Raises InputError for the first of `names` that has two different records."""
    met: dict[str, dict] = {}
    wanted = pa.array(sorted(names))
    for table in parts.records():
        for record in table.filter(pc.is_in(table["id"], wanted)).to_pylist():
            other = met.setdefault(record["id"], record)
            if other != record:
                raise InputError(
                    f"expected one record an id, {record['id']!r} has two: labels {other['label']!r} and "
                    f"{record['label']!r}; keep one of them"
                )


def _triples(
    parts: Parts, rows: dict[str, int], relations: dict[str, int], closed: bool, dropped: Counter[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Triples as rows, int32 (n, 3), and the published split of each (int8), None where the source has none.

    rows, relations: grow by the names met, unless the source is closed: then a triple with an unknown entity is
        dropped (`unknown_entity`).
    """
    found, splits, published = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.int8)], False
    for part in parts.triples():
        if closed:
            entity_rows = [rows.get(name, NO_ENTITY) for name in part.entities]
        else:
            entity_rows = [rows.setdefault(name, len(rows) + FIRST_ENTITY_ROW) for name in part.entities]
        relation_rows = [relations.setdefault(name, len(relations)) for name in part.relations]
        by_entity, by_relation = np.array(entity_rows, np.int32), np.array(relation_rows, np.int32)
        codes = part.codes
        triples = np.stack([by_entity[codes[:, 0]], by_relation[codes[:, 1]], by_entity[codes[:, 2]]], axis=1)
        known = (triples[:, [0, 2]] != NO_ENTITY).all(1)
        dropped.update({"unknown_entity": int((~known).sum())} if not known.all() else {})
        found.append(triples[known])
        published |= bool(part.split)
        splits.append(np.full(int(known.sum()), SPLITS.index(part.split) if part.split else 0, np.int8))
    return np.concatenate(found), np.concatenate(splits) if published else None


# --- choosing -------------------------------------------------------------------------------------------------


def _wanted(triples: np.ndarray, relations: Vocabulary, choice: Choice, dropped: Counter[str]) -> np.ndarray:
    """Of the relations asked for, and no loops: what a triple says by itself decides, so that equal ones stay or go."""
    allow = [relations.row(name) for name in choice.relations_allow] if choice.relations_allow else None
    triples, reasons = with_relations(
        triples, allow=allow, deny=[relations.row(name) for name in choice.relations_deny]
    )
    dropped.update(reasons)
    if not choice.keep_self_loops:
        triples, reasons = without_self_loops(triples)
        dropped.update(reasons)
    return triples


def _filtered(
    triples: np.ndarray, records: pa.Table, relations: Vocabulary, choice: Choice, dropped: Counter[str]
) -> np.ndarray:
    """The other filters in order: what was said before, what was not asked for, what a task asks for, what is rare."""

    def keep(filtered: Filtered) -> None:
        nonlocal triples
        triples, reasons = filtered
        dropped.update(reasons)

    keep(without_duplicates(triples))
    if choice.types_allow or choice.types_deny:
        types = pa.chunked_array([pa.array([[]], records["types"].type), *records["types"].chunks])
        keep(with_types(triples, types, allow=choice.types_allow or None, deny=choice.types_deny))
    if choice.min_count:
        counts = np.append(0, records["count"].to_numpy())
        keep(with_min_count(triples, counts, choice.min_count))
    if choice.facts:
        entities = Vocabulary(records["id"].to_pylist(), first_row=FIRST_ENTITY_ROW, what="entity")
        facts, strange = fact_rows(choice.facts, entities=entities, relations=relations)
        dropped.update(strange)
        keep(without_facts(triples, facts))
    if choice.min_relation_triples:
        keep(with_frequent_relations(triples, choice.min_relation_triples))
    if choice.min_degree:
        keep(with_min_degree(triples, choice.min_degree))
    if choice.k_core:
        keep(k_core(triples, choice.k_core))
    return triples.copy()


def _splits_of(
    kept: np.ndarray, wanted: np.ndarray, triples: np.ndarray, splits: np.ndarray, dropped: Counter[str]
) -> np.ndarray:
    """The split of each kept triple: the first of train, valid and test that it stands in.

    A triple that stands in another one too is dropped there: as `duplicate_across_splits`, not `duplicate_triple`.

    kept, wanted: what all filters left, and what those before the duplicates left. triples, splits: as read.
    """
    unique, place = np.unique(_keys(triples, triples), return_inverse=True)
    first = np.full(len(unique), len(SPLITS) - 1, np.int8)
    np.minimum.at(first, place, splits)
    left = np.zeros(len(unique), bool)
    left[np.searchsorted(unique, _keys(wanted, triples))] = True
    if crossing := int(((splits != first[place]) & left[place]).sum()):
        dropped["duplicate_across_splits"] += crossing
        dropped["duplicate_triple"] -= crossing
    return first[np.searchsorted(unique, _keys(kept, triples))]


def _keys(triples: np.ndarray, among: np.ndarray) -> np.ndarray:
    """One number a triple: int64, or bytes where the rows of `among` do not fit into 63 bits."""
    entities, relations = (int(among[:, columns].max(initial=0)) + 1 for columns in ([0, 2], [1]))
    if entities**2 * relations < 2**63:
        head, relation, tail = triples.astype(np.int64).T
        return (head * relations + relation) * entities + tail
    return np.ascontiguousarray(triples).view([("", np.int32)] * 3).ravel()


def _without_isolated(records: pa.Table, triples: np.ndarray, dropped: Counter[str]) -> pa.Table:
    """Without the entities no triple names (`isolated_entity`); renumbers the triples in place."""
    used, compact = np.unique(triples[:, [0, 2]], return_inverse=True)
    triples[:, [0, 2]] = compact.reshape(-1, 2) + FIRST_ENTITY_ROW
    dropped["isolated_entity"] += records.num_rows - len(used)
    return records.take(pa.array(used - FIRST_ENTITY_ROW))


# --- tables ---------------------------------------------------------------------------------------------------


def _entity_table(records: pa.Table) -> pa.Table:
    rows = pa.array(np.arange(FIRST_ENTITY_ROW, records.num_rows + FIRST_ENTITY_ROW, dtype=np.int32))
    return pa.table([rows, *(records[field.name] for field in ENTITIES if field.name != "row")], schema=ENTITIES)


def _alias_table(records: pa.Table) -> pa.Table:
    lengths = pc.list_value_length(records["aliases"]).to_numpy()
    rows = np.repeat(np.arange(FIRST_ENTITY_ROW, len(lengths) + FIRST_ENTITY_ROW, dtype=np.int32), lengths)
    surfaces, weights = (pc.list_flatten(records[name]) for name in ("aliases", "weights"))
    return alias_table(surfaces, rows, weights.to_numpy())


def _relation_table(relations: list[str], labels: dict[str, str]) -> pa.Table:
    columns = [list(range(len(relations))), relations, [labels.get(name) or readable(name) for name in relations]]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, RELATIONS)], schema=RELATIONS)
