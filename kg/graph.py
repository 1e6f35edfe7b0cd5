"""The graph in memory: three Arrow tables and one int32 array, as they lie in the graph artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from kg.artifact import open_artifact
from kg.columns import numbers
from kg.errors import InputError
from kg.vocab import FewRows, Vocabulary

if TYPE_CHECKING:
    import networkx as nx

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
STAGE = "kg build"
FIRST_ENTITY_ROW = 1

ENTITIES = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("aliases", pa.list_(pa.string()), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("types", pa.list_(pa.string()), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
RELATIONS = pa.schema(
    [
        pa.field("row", pa.int32(), False),
        pa.field("id", pa.string(), False),
        pa.field("label", pa.string(), False),
    ]
)
TRIPLES = pa.schema([pa.field(name, pa.int32(), False) for name in ("head", "relation", "tail")])
SPLIT = pa.field("split", pa.int8(), False)
ALIASES = pa.schema(
    [
        pa.field("alias", pa.string(), False),
        pa.field("entity", pa.int32(), False),
        pa.field("prior", pa.float32(), False),
    ]
)


SPLITS = ("train", "valid", "test")
"""Names of the numbers in `KnowledgeGraph.splits`."""


class KnowledgeGraph:
    """Entities, relations, aliases and triples by row number.

    entities: Arrow table (row, id, label, aliases, description, types, count); line i holds row i + 1, row 0
        is padding, "no entity".
    relations: Arrow table (row, id, label), rows 0 to num_relations - 1.
    aliases: Arrow table (alias, entity, prior); prior = p(entity | alias), the priors of one alias sum to 1.
    triples: int32, shape (num_triples, 3): head row, relation row, tail row.
    splits: int8, shape (num_triples,): places in SPLITS, for a source with a published split; else None.
    """

    def __init__(
        self,
        *,
        entities: pa.Table,
        relations: pa.Table,
        aliases: pa.Table,
        triples: np.ndarray,
        splits: np.ndarray | None = None,
    ) -> None:
        self.entities = entities.cast(ENTITIES)
        self.relations = relations.cast(RELATIONS)
        self.aliases = aliases.cast(ALIASES)
        self.triples = np.ascontiguousarray(triples, dtype=np.int32).reshape(-1, 3)
        self.splits = None if splits is None else np.asarray(splits, np.int8)
        self._check()

    @property
    def num_entities(self) -> int:
        """Entities without the padding row: they have rows 1 to num_entities."""
        return self.entities.num_rows

    @property
    def num_relations(self) -> int:
        return self.relations.num_rows

    @property
    def num_triples(self) -> int:
        return len(self.triples)

    @cached_property
    def entity_vocab(self) -> Vocabulary:
        """Entity id <-> row, row 0 reserved."""
        return Vocabulary(self.entities["id"].to_pylist(), first_row=FIRST_ENTITY_ROW, what="entity")

    @cached_property
    def relation_vocab(self) -> Vocabulary:
        return Vocabulary(self.relations["id"].to_pylist(), first_row=0, what="relation")

    @cached_property
    def labels(self) -> list[str]:
        """Label by entity row; labels[0] is empty."""
        return ["", *self.entities["label"].to_pylist()]

    @classmethod
    def load(cls, folder: str | Path) -> KnowledgeGraph:
        """Reads a graph artifact.

        Raises:
            InputError: the folder is no finished graph artifact, or its tables do not fit together.
        """
        folder = Path(folder)
        open_artifact(folder, stage=STAGE)
        triples, splits = _triples(folder)
        return cls(
            entities=_read(folder / "entities.parquet", ENTITIES),
            relations=_read(folder / "relations.parquet", RELATIONS),
            aliases=_read(folder / "aliases.parquet", ALIASES),
            triples=triples,
            splits=splits,
        )

    def save(self, folder: str | Path) -> None:
        """Writes the four tables of a graph artifact; the manifest is the stage's to write."""
        folder = Path(folder)
        columns = {name: self.triples[:, column] for column, name in enumerate(TRIPLES.names)}
        tables = {
            "entities": self.entities,
            "relations": self.relations,
            "aliases": self.aliases,
            "triples": pa.table(columns, schema=TRIPLES),
        }
        if self.splits is not None:
            tables["triples"] = tables["triples"].append_column(SPLIT, pa.array(self.splits))
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")

    def unseen(self) -> dict[str, int]:
        """Entities of the published validation and test triples that no training triple names, by split."""
        if self.splits is None:
            return {}
        ends = [self.triples[self.splits == number][:, [0, 2]] for number in range(len(SPLITS))]
        return {
            f"unseen_{name}_entities": len(np.setdiff1d(of, ends[0]))
            for name, of in zip(SPLITS[1:], ends[1:], strict=True)
        }

    def to_networkx(self) -> nx.MultiDiGraph:
        """The same graph for networkx, at about 1 kB an edge.

        Nodes are entity ids with attributes label, description, types and count; edges keyed by relation id.
        """
        import networkx as nx

        graph = nx.MultiDiGraph()
        for entity in self.entities.select(["id", "label", "description", "types", "count"]).to_pylist():
            graph.add_node(entity.pop("id"), **entity)
        entities, relations = ["", *self.entity_vocab], self.relation_vocab.identifiers
        edges: Any = ((entities[h], entities[t], relations[r], {}) for h, r, t in self.triples.tolist())
        graph.add_edges_from(edges)
        return graph

    def _check(self) -> None:
        _check_rows("entities.parquet", self.entities["row"], FIRST_ENTITY_ROW)
        _check_rows("relations.parquet", self.relations["row"], 0)
        bounds = (FIRST_ENTITY_ROW, self.num_entities + 1)
        _check_range("triples", "head", self.triples[:, 0], bounds)
        _check_range("triples", "relation", self.triples[:, 1], (0, self.num_relations))
        if self.splits is not None:
            assert len(self.splits) == self.num_triples, "one split a triple"
            _check_range("triples", "split", self.splits, (0, len(SPLITS)))
        _check_range("triples", "tail", self.triples[:, 2], bounds)
        _check_range("aliases", "entity", self.aliases["entity"].to_numpy(), bounds)


class GraphFacts:
    """Ids and triples of a graph artifact, without its texts: what training needs, in a fraction of the memory.

    entity_ids: Arrow large strings, place i holds row i + 1. relation_ids: by row. has_splits: whether its source had a
    published split.

    Raises:
        InputError: as `KnowledgeGraph.load`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        open_artifact(self.folder, stage=STAGE)
        entities, relations = (
            _read(self.folder / f"{name}.parquet", pa.schema([of.field("row"), of.field("id")]))
            for name, of in (("entities", ENTITIES), ("relations", RELATIONS))
        )
        _check_rows("entities.parquet", entities["row"], FIRST_ENTITY_ROW)
        _check_rows("relations.parquet", relations["row"], 0)
        self.entity_ids = _joined(entities["id"])
        self.relation_ids: list[str] = relations["id"].to_pylist()
        with pq.ParquetFile(self.folder / "triples.parquet") as file:
            self.num_triples = file.metadata.num_rows
            self.has_splits = SPLIT.name in file.schema_arrow.names

    @property
    def num_entities(self) -> int:
        return len(self.entity_ids)

    @property
    def num_relations(self) -> int:
        return len(self.relation_ids)

    @property
    def triples(self) -> np.ndarray:
        """int32 (num_triples, 3), read when first asked for."""
        return self._arrays[0]

    @property
    def splits(self) -> np.ndarray | None:
        """int8 (num_triples,): places in SPLITS; None where the source had no published split."""
        return self._arrays[1]

    def forget_triples(self) -> None:
        """Gives their memory back; asked for again, they are read again."""
        self.__dict__.pop("_arrays", None)

    @cached_property
    def relation_vocab(self) -> Vocabulary:
        return Vocabulary(self.relation_ids, first_row=0, what="relation")

    def entities_named(self, names: Sequence[str]) -> FewRows:
        """The rows of these names; no dictionary of all entities is made for it."""
        wanted = pa.array(sorted(set(names)), pa.large_string())
        places = numbers(pc.indices_nonzero(pc.is_in(self.entity_ids, value_set=wanted))).astype(np.int64)
        found = self.entity_ids.take(pa.array(places)).to_pylist()
        return FewRows(dict(zip(found, (places + FIRST_ENTITY_ROW).tolist(), strict=True)))

    def blocks(self, size: int = 1 << 18) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Triples and splits in pieces, read from disk each time."""
        with pq.ParquetFile(self.folder / "triples.parquet") as file:
            for batch in file.iter_batches(size):
                triples = np.stack([numbers(batch.column(name)) for name in TRIPLES.names], axis=1)
                self._check(triples)
                yield triples, numbers(batch.column(SPLIT.name)) if self.has_splits else None

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        found = _triples(self.folder)
        self._check(found[0])
        return found

    def _check(self, triples: np.ndarray) -> None:
        bounds = (FIRST_ENTITY_ROW, self.num_entities + 1)
        for column, name, allowed in (
            (0, "head", bounds),
            (1, "relation", (0, self.num_relations)),
            (2, "tail", bounds),
        ):
            _check_range("triples", name, triples[:, column], allowed)


def _triples(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Triples int32 (n, 3) and splits int8 (n,), None where there are none."""
    columns = _read(folder / "triples.parquet", TRIPLES, optional=(SPLIT,))
    triples = np.empty((columns.num_rows, 3), np.int32)
    for place, name in enumerate(TRIPLES.names):
        triples[:, place] = numbers(columns[name])
    return triples, numbers(columns[SPLIT.name]) if SPLIT.name in columns.column_names else None


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """One array of large strings: ids of many millions of entities pass 2 GB together."""
    return pa.concat_arrays([pa.nulls(0, pa.large_string()), *column.cast(pa.large_string()).chunks])


def _read(path: Path, schema: pa.Schema, optional: tuple[pa.Field, ...] = ()) -> pa.Table:
    """The schema's columns, and those of the optional ones that the file has; no other column is read."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in schema.names if name not in names]
            if missing:
                raise InputError(
                    f"{path}: expected columns {schema.names}, {missing} are missing; run `ernie-kg {STAGE}` again"
                )
            return file.read([*schema.names, *(field.name for field in optional if field.name in names)])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet ({error}); run `ernie-kg {STAGE}` again") from None


def _check_rows(name: str, column: pa.ChunkedArray, first: int) -> None:
    if not np.array_equal(numbers(column), np.arange(first, first + len(column))):
        raise InputError(f"{name}: expected rows {first}, {first + 1}, … in order; run `ernie-kg {STAGE}` again")


def _check_range(table: str, column: str, rows: np.ndarray, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if len(rows) and not (low <= rows.min() and rows.max() < high):
        worst = rows.min() if rows.min() < low else rows.max()
        raise InputError(
            f"{table}: {column} row {worst} is outside {low} to {high - 1}; the tables are of different "
            f"graphs, run `ernie-kg {STAGE}` again"
        )
