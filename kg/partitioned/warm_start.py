"""An older vectors artifact as the start of a table on disk: `kg.warm_start` in pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from safetensors.numpy import load_file

from kg.artifact import open_artifact
from kg.columns import numbers
from kg.errors import InputError
from kg.graph import GraphFacts
from kg.partitioned.buckets import Source
from kg.partitioned.files import TableFile

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
BYTES_AT_ONCE = 1 << 28  # of sums over neighbours
ROWS_AT_ONCE = 1 << 16
NOWHERE = -1


class FirstVectors:
    """What is known of the rows before training.

    counts: as those of `kg.warm_start.start_from`. relations: float32 (num_relations, dim), where `known_relations`
    (bool) says so.
    """

    def __init__(self, table: TableFile, older_rows: np.ndarray, places: np.ndarray, means: np.ndarray) -> None:
        """older_rows: int32 (num_entities + 1), rows of `table`, 0 = none. places: rows of `means`, or NOWHERE."""
        self._table, self._older_rows, self._places, self._means = table, older_rows, places, means
        self.counts: Counter[str] = Counter()
        self.relations = np.zeros((0, table.dim), np.float32)
        self.known_relations = np.zeros(0, bool)

    def fill(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Overwrites what is known, in place. rows: entity rows. vectors: (len(rows), dim)."""
        older, places = self._older_rows[rows], self._places[rows]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            copied = np.flatnonzero(older[part])
            vectors[part][copied] = self._table.rows(older[part][copied])
            placed = np.flatnonzero(places[part] != NOWHERE)
            vectors[part][placed] = self._means[places[part][placed]]


def first_vectors(older: Path, graph: GraphFacts, source: Source, *, dim: int, folder: Path) -> FirstVectors:
    """Rows with the same id, and for the others what their neighbours say; means go to a file in `folder`.

    Raises:
        InputError: no vectors artifact, or one of another width.
    """
    open_artifact(older, stage="kg embed")
    table = TableFile(older / "entity_embeddings.safetensors")
    if table.dim != dim:
        raise InputError(f"{older}: its vectors have {table.dim} numbers, dim is {dim}; set dim to the same")
    older_rows = _older_rows(older / "vocabulary.txt", table, graph)
    relations, copied, learnt = _relations(older, graph, source, table, older_rows)
    places = _to_place(source, older_rows, copied | learnt)
    means = np.memmap(folder / "warm_start.bin", np.float32, "w+", shape=(max(int(places.max()) + 1, 1), dim))
    at_once = max(1, BYTES_AT_ONCE // (4 * dim))
    for start in range(0, len(means), at_once):
        means[start : start + at_once] = _means(
            source, table, older_rows, places, relations, copied | learnt, start, min(at_once, len(means) - start)
        )
    (folder / "warm_start.bin").unlink()  # the mapping keeps the file until it is closed
    found = FirstVectors(table, older_rows, places, means)
    found.relations, found.known_relations = relations, copied | learnt
    numbers = {"entities": (older_rows > 0, places != NOWHERE), "relations": (copied, learnt)}
    for kind, (taken, made) in numbers.items():
        total = graph.num_entities if kind == "entities" else graph.num_relations
        origin = "neighbours" if kind == "entities" else "triples"
        found.counts[f"{kind}_copied"] = int(taken.sum())
        found.counts[f"{kind}_from_{origin}"] = int(made.sum())
        found.counts[f"{kind}_fresh"] = total - int(taken.sum()) - int(made.sum())
    return found


def _older_rows(names: Path, table: TableFile, graph: GraphFacts) -> np.ndarray:
    """Row in the older table of each entity row, int32 (num_entities + 1); 0 = it has none, or a zero vector."""
    from pyarrow import csv

    options = {
        "read_options": csv.ReadOptions(column_names=["id"]),
        "parse_options": csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False),
        "convert_options": csv.ConvertOptions(column_types={"id": pa.large_string()}),
    }
    ids = csv.read_csv(names, **options)["id"]
    place = numbers(pc.fill_null(pc.index_in(graph.entity_ids, value_set=ids), NOWHERE))
    rows = np.append(np.int32(0), place.astype(np.int32) + 1)
    trained = np.zeros(table.num_rows, bool)
    for start, block in table.blocks(ROWS_AT_ONCE):
        trained[start : start + len(block)] = block.any(axis=1)
    rows[~trained[rows]] = 0
    return rows


def _relations(
    older: Path, graph: GraphFacts, source: Source, table: TableFile, older_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relation vectors, which of them are the older ones, and which the mean of t - h over their triples."""
    vectors = load_file(older / "relation_embeddings.safetensors")["relation_embeddings"]
    names = (older / "relations.txt").read_text(encoding="utf-8").split("\n")[:-1]
    known = {name: row for name, row in zip(names, vectors, strict=True) if row.any()}
    copied = np.array([name in known for name in graph.relation_ids], bool)
    relations = np.stack([known.get(name, np.zeros(table.dim, np.float32)) for name in graph.relation_ids])
    if copied.all():
        return relations, copied, ~copied
    sums, counts = torch.zeros(relations.shape), np.zeros(len(relations), np.int64)
    for block in source():
        part = block[(older_rows[block[:, [0, 2]]] > 0).all(1) & ~copied[block[:, 1]]]
        steps = table.rows(older_rows[part[:, 2]]) - table.rows(older_rows[part[:, 0]])
        sums.index_add_(0, torch.from_numpy(part[:, 1].astype(np.int64)), torch.from_numpy(steps))
        counts += np.bincount(part[:, 1], minlength=len(counts))
    learnt = counts > 0
    relations[learnt] = sums.numpy()[learnt] / counts[learnt, None]
    return relations, copied, learnt


def _expected(source: Source, older_rows: np.ndarray, usable: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """(new entity rows, known entity rows, relations, +1 or -1): each says new = known + sign * relation."""
    for block in source():
        known = older_rows[block[:, [0, 2]]] > 0
        for new, old, sign in ((2, 0, 1), (0, 2, -1)):
            part = block[known[:, old // 2] & ~known[:, new // 2] & usable[block[:, 1]]]
            yield part[:, new], part[:, old], part[:, 1], np.array(sign, np.float32)


def _to_place(source: Source, older_rows: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """A number for each entity row that neighbours say something of, int32 (num_entities + 1); NOWHERE elsewhere."""
    spoken_of = np.zeros(len(older_rows), bool)
    for new, *_ in _expected(source, older_rows, usable):
        spoken_of[new] = True
    places = np.full(len(older_rows), NOWHERE, np.int32)
    places[spoken_of] = np.arange(int(spoken_of.sum()), dtype=np.int32)
    return places


def _means(
    source: Source,
    table: TableFile,
    older_rows: np.ndarray,
    places: np.ndarray,
    relations: np.ndarray,
    usable: np.ndarray,
    start: int,
    count: int,
) -> np.ndarray:
    """What the neighbours of places start to start + count say on average, float32 (count, dim)."""
    sums, counts = torch.zeros(count, table.dim), np.zeros(count, np.int64)
    for new, known, kinds, sign in _expected(source, older_rows, usable):
        mine = (places[new] >= start) & (places[new] < start + count)
        at = places[new[mine]].astype(np.int64) - start
        vectors = table.rows(older_rows[known[mine]]) + sign * relations[kinds[mine]]
        sums.index_add_(0, torch.from_numpy(at), torch.from_numpy(vectors))
        counts += np.bincount(at, minlength=count)
    return sums.numpy() / counts[:, None].clip(1)
