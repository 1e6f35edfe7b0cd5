"""What a vectors artifact holds, as files: the ids of its rows, its tables, the index of its entities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from safetensors.torch import save_file

from kg.artifact import ArtifactWriter
from kg.columns import column
from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.graph import GraphFacts
from kg.partitioned.files import PickedRows, TableFile

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
ENTITY_TABLE, ENTITY_NAME = "entity_embeddings.safetensors", "entity_embeddings"
ROWS_AT_ONCE = 2_048


def check_ids(graph: GraphFacts) -> None:
    """Raises InputError where an id has a line break: ids are written one a line."""
    broken = graph.entity_ids.filter(pc.match_substring_regex(graph.entity_ids, "[\r\n]")).slice(0, 1).to_pylist()
    broken += [name for name in graph.relation_ids if "\n" in name or "\r" in name]
    if broken:
        raise InputError(f"the id {broken[0]!r} has a line break; ids are written one a line, rename it")


def write_ids(graph: GraphFacts, folder: Path) -> None:
    """vocabulary.txt: line i is row i + 1; relations.txt: line i is row i."""
    with (folder / "vocabulary.txt").open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, graph.num_entities, ROWS_AT_ONCE):
            file.writelines(f"{name}\n" for name in graph.entity_ids.slice(start, ROWS_AT_ONCE).to_pylist())
    with (folder / "relations.txt").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{name}\n" for name in graph.relation_ids)


def write_relations(relations: torch.Tensor, num_relations: int, folder: Path) -> None:
    """relations: (num_relations, dim), or twice the rows: the second half answers "which head?"."""
    tables = {"relation_embeddings": relations[:num_relations].contiguous()}
    if len(relations) > num_relations:
        tables["inverse_relation_embeddings"] = relations[num_relations:].contiguous()
    save_file(tables, folder / "relation_embeddings.safetensors")


def write_entities(entities: np.ndarray, folder: Path) -> TableFile:
    """The entity table, block by block: nothing is copied as a whole."""
    blocks = (entities[start : start + ROWS_AT_ONCE] for start in range(0, len(entities), ROWS_AT_ONCE))
    path = folder / ENTITY_TABLE
    TableFile.write(path, ENTITY_NAME, (entities.shape[0], entities.shape[1]), blocks)
    return TableFile(path)


def write_index(
    table: TableFile, trained: np.ndarray, graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter, threads: int
) -> None:
    """Indexes the trained rows under their ids, read from the written table in pieces.

    trained: bool (num_entities + 1).
    """
    rows = np.flatnonzero(trained)
    writer.figures["mean_vector_length"] = _mean_length(table, rows)
    if config.index == "none":
        return
    from kg.index import VectorIndex  # with faiss, when training has given its memory back

    vectors = PickedRows(table, rows)
    ids = graph.entity_ids.take(column(rows - 1))
    index = VectorIndex.build(
        vectors,
        ids,
        "cosine",
        kind=config.index,
        memory_mb=config.index_memory_mb,
        threads=threads,
        seed=config.seed,
    )
    index.save(writer.path)
    if index.kind != "flat":
        writer.headline += f"; index {index.kind}, recall@10 {index.recall:.3f}"
    writer.counts["indexed_entities"] = len(index)
    writer.figures.update(
        {
            "index": index.kind,
            "index_metric": index.metric,
            "index_recall@10": index.recall,
            "index_effort": index.effort,
        }
    )


def _mean_length(table: TableFile, rows: np.ndarray) -> float:
    def lengths() -> Iterator[float]:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = PickedRows(table, rows[start : start + ROWS_AT_ONCE])[:]
            yield float(np.linalg.norm(block, axis=1).sum(dtype=np.float64))

    return sum(lengths()) / max(len(rows), 1)
