"""OpenKE's layout, and with vectors the files that the first ERNIE reads from `kg_embed`.

`entity2id.txt`, `relation2id.txt`: a count, then `id<TAB>number` from 0 (the graph's row less one).
`train2id.txt` (`valid2id.txt`, `test2id.txt` where the graph has a published split): a count, then head, tail and
relation by number. `type_constrain.txt`: for each relation the heads, then the tails, it was met with.
`entity2vec.vec`, `relation2vec.vec`: a line a number, a tab after every value, the last one too, as Fast-TransX
writes; a value has the digits that give the same float32 back.
"""

from __future__ import annotations

from collections import Counter
from io import TextIOBase
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from kg.graph import KnowledgeGraph
from kg.neighbours import Vectors, check_shapes
from kg.writers.rows import BLOCK, one_line_names, published_parts


def write(graph: KnowledgeGraph, folder: Path, *, vectors: Path | None = None) -> Counter[str]:
    """Writes the layout; labels, aliases, descriptions, types and counts have no place in it.

    Raises:
        InputError: an id with a tab or a line break, or vectors of another size than the graph.
    """
    for kind, names in (("entity", graph.entity_vocab.identifiers), ("relation", graph.relation_vocab.identifiers)):
        one_line_names(names, what=kind, file=f"{kind}2id.txt")
        with (folder / f"{kind}2id.txt").open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{len(names)}\n")
            file.writelines(f"{name}\t{number}\n" for number, name in enumerate(names))
    for name, triples in (published_parts(graph) or {"train": graph.triples}).items():
        _write_numbers(folder / f"{name}2id.txt", triples[:, [0, 2, 1]] - np.array([1, 1, 0]))
    with (folder / "type_constrain.txt").open("w", encoding="utf-8", newline="\n") as file:
        _write_types(file, graph)
    if vectors is not None:
        tables = Vectors.load(vectors)
        check_shapes(tables, graph, vectors)
        _write_vectors(folder / "entity2vec.vec", tables.entities[1:])
        _write_vectors(folder / "relation2vec.vec", tables.relations)
    return Counter()


def _write_numbers(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        file.write(f"{len(rows)}\n".encode())
        columns = pa.table({str(column): rows[:, column] for column in range(3)})
        csv.write_csv(columns, file, csv.WriteOptions(include_header=False, delimiter=" "))


def _write_types(file: TextIOBase, graph: KnowledgeGraph) -> None:
    """`relation count entity entity …`, tab-separated, a line of heads and a line of tails for each relation."""
    file.write(f"{graph.num_relations}\n")
    ends = [np.unique(graph.triples[:, [1, column]], axis=0) for column in (0, 2)]
    for relation in range(graph.num_relations):
        for pairs in ends:
            first, last = np.searchsorted(pairs[:, 0], [relation, relation + 1])
            entities = (pairs[first:last, 1] - 1).tolist()
            file.write("\t".join(map(str, [relation, len(entities), *entities])) + "\n")


def _write_vectors(path: Path, table: np.ndarray) -> None:
    """Numbers with a tab after each; an empty last column makes the tab that ends a line."""
    options = csv.WriteOptions(include_header=False, delimiter="\t")
    with path.open("wb") as file:
        for start in range(0, len(table), BLOCK):
            block = table[start : start + BLOCK].astype(np.float32)
            columns = {str(number): np.ascontiguousarray(column) for number, column in enumerate(block.T)}
            csv.write_csv(pa.table({**columns, "end": pa.nulls(len(block), pa.float32())}), file, options)
