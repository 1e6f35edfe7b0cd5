"""A reader's streams to a graph: everything gets a row, and what is left out is counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from kg.aliases import AliasTable
from kg.filters import with_relations, without_duplicates, without_self_loops
from kg.graph import ENTITIES, FIRST_ENTITY_ROW, RELATIONS, KnowledgeGraph
from kg.progress import track
from kg.records import Entity, RawGraph, readable
from kg.vocab import Vocabulary

FLUSH_ROWS = 50_000


def build(
    raw: RawGraph,
    *,
    dropped: Counter[str],
    relations_allow: tuple[str, ...] = (),
    relations_deny: tuple[str, ...] = (),
    min_alias_length: int = 2,
    alias_smoothing: float = 1.0,
) -> KnowledgeGraph:
    """Walks a reader's streams and gives everything a row.

    dropped: receives the reader's counts and those of aliases, loops, duplicates and filtered relations. Entities
        all of whose triples were dropped stay: text can still name them.
    """
    aliases = AliasTable(min_length=min_alias_length, smoothing=alias_smoothing)
    entities = _entity_table(track(raw.entities, "reading entities"), aliases)
    vocabulary = Vocabulary(entities["id"].to_pylist(), first_row=FIRST_ENTITY_ROW, what="entity")
    triples, relations = _rows(raw, vocabulary)
    triples, relations, filtered = _filtered(triples, relations, relations_allow, relations_deny)
    dropped.update(raw.dropped + aliases.dropped + filtered)
    return KnowledgeGraph(
        entities=entities,
        relations=_relation_table(raw, relations),
        aliases=aliases.table(),
        triples=triples,
    )


def _entity_table(entities: Iterator[Entity], aliases: AliasTable) -> pa.Table:
    """Entities in rows, written out to Arrow every `FLUSH_ROWS`, so that only the table grows."""
    batches, rows = [], []
    for row, entity in enumerate(entities, FIRST_ENTITY_ROW):
        kept = aliases.add(row, entity)
        rows.append((row, entity.id, entity.label, kept, entity.description, entity.types, entity.count))
        if len(rows) == FLUSH_ROWS:
            batches.append(_record_batch(rows))
            rows = []
    if rows:
        batches.append(_record_batch(rows))
    return pa.Table.from_batches(batches, ENTITIES)


def _record_batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), ENTITIES, strict=True)]
    return pa.record_batch(columns, schema=ENTITIES)


def _rows(raw: RawGraph, entities: Vocabulary) -> tuple[np.ndarray, list[str]]:
    """Triples as rows, int32 of shape (n, 3), and relation ids by row: those the source declares, then as met."""
    relations = {relation.id: row for row, relation in enumerate(raw.relations)}
    rows = array("i")
    for triple in track(raw.triples, "reading triples"):
        relation = relations.setdefault(triple.relation, len(relations))
        rows.extend((entities.row(triple.head), relation, entities.row(triple.tail)))
    return np.frombuffer(rows, np.int32).reshape(-1, 3), list(relations)


def _filtered(
    triples: np.ndarray, relations: list[str], allow: tuple[str, ...], deny: tuple[str, ...]
) -> tuple[np.ndarray, list[str], Counter[str]]:
    """Without loops, duplicates and unwanted relations; relations left without a triple lose their row."""
    vocabulary = Vocabulary(relations, first_row=0, what="relation")
    allowed = [vocabulary.row(name) for name in allow] if allow else None
    triples, unwanted = with_relations(triples, allow=allowed, deny=[vocabulary.row(name) for name in deny])
    triples, loops = without_self_loops(triples)
    triples, duplicates = without_duplicates(triples)
    kept, compact = np.unique(triples[:, 1], return_inverse=True)
    triples[:, 1] = compact.ravel()
    dropped = unwanted + loops + duplicates
    if lost := len(relations) - len(kept):
        dropped["relation_without_triple"] = lost
    return triples, [relations[row] for row in kept], dropped


def _relation_table(raw: RawGraph, relations: list[str]) -> pa.Table:
    labels = {relation.id: relation.label for relation in raw.relations}
    columns = [list(range(len(relations))), relations, [labels.get(name) or readable(name) for name in relations]]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, RELATIONS)], schema=RELATIONS)
