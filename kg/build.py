"""`kg build`: a source of knowledge in, a graph artifact out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kg.artifact import write_artifact
from kg.errors import InputError
from kg.progress import track
from kg.readers.table import AUTO, locate_source, reader_named

if TYPE_CHECKING:
    from collections import Counter

    import numpy as np
    import pyarrow as pa

    from kg.aliases import AliasTable
    from kg.graph import KnowledgeGraph
    from kg.records import Entity, RawGraph
    from kg.vocab import Vocabulary

STAGE = "kg build"
FLUSH_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    output: Path
    """Folder of the graph artifact."""
    reader: str = "wordnet"
    """Format of the source: wordnet or tsv."""
    source: str = AUTO
    """File or folder to read (`package:NAME/path` inside an installed package); auto = where it is installed."""
    relations_allow: tuple[str, ...] = ()
    """Ids of the relations to keep; empty = all."""
    relations_deny: tuple[str, ...] = ()
    """Ids of relations to leave out."""
    min_alias_length: int = 2
    """Shorter aliases are left out: a single letter is hardly ever a mention."""
    alias_smoothing: float = 1.0
    """What an alias of an entity weighs beyond its counted uses; above 0, and up to 1 counts keep their order."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        return {"source": locate_source(self.reader, self.source)}


def run(config: BuildConfig) -> Path:
    """Reads the source once or twice from end to end and writes the graph artifact.

    Raises:
        InputError: unknown reader or relation, no source, a malformed source (file:line), or no triple left.
    """
    from kg.info import figures

    source = locate_source(config.reader, config.source)
    raw = reader_named(config.reader).read(source)
    with write_artifact(config, stage=STAGE) as writer:
        graph = build(
            raw,
            dropped=writer.dropped,
            relations_allow=config.relations_allow,
            relations_deny=config.relations_deny,
            min_alias_length=config.min_alias_length,
            alias_smoothing=config.alias_smoothing,
        )
        if not graph.num_triples:
            raise InputError(f"{source}: expected a graph, no triple is left (dropped: {dict(writer.dropped)})")
        graph.save(writer.path)
        writer.counts.update(
            entities=graph.num_entities,
            relations=graph.num_relations,
            triples=graph.num_triples,
            aliases=graph.aliases.num_rows,
        )
        writer.figures.update(figures(graph))
        writer.headline = f"{graph.num_entities:,} entities, {graph.num_triples:,} triples"
    return config.output


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
    from kg.aliases import AliasTable
    from kg.graph import FIRST_ENTITY_ROW, KnowledgeGraph
    from kg.vocab import Vocabulary

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
    import pyarrow as pa

    from kg.graph import ENTITIES, FIRST_ENTITY_ROW

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
    import pyarrow as pa

    from kg.graph import ENTITIES

    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), ENTITIES, strict=True)]
    return pa.record_batch(columns, schema=ENTITIES)


def _rows(raw: RawGraph, entities: Vocabulary) -> tuple[np.ndarray, list[str]]:
    """Triples as rows, int32 of shape (n, 3), and relation ids by row: those the source declares, then as met."""
    from array import array

    import numpy as np

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
    import numpy as np

    from kg.filters import with_relations, without_duplicates, without_self_loops
    from kg.vocab import Vocabulary

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
    import pyarrow as pa

    from kg.graph import RELATIONS
    from kg.records import readable

    labels = {relation.id: relation.label for relation in raw.relations}
    columns = [list(range(len(relations))), relations, [labels.get(name) or readable(name) for name in relations]]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, RELATIONS)], schema=RELATIONS)
