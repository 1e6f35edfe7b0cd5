"""What a vectors artifact holds, as files: the ids of its rows, its tables, the index of its entities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from safetensors.torch import save_file

from kg.artifact import ArtifactWriter
from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.graph import GraphFacts
from kg.index import VectorIndex
from kg.partitioned.files import PickedRows, TableFile

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
ENTITY_TABLE, ENTITY_NAME = "entity_embeddings.safetensors", "entity_embeddings"
ROWS_AT_ONCE = 65_536


def check_ids(graph: GraphFacts) -> None:
    """Raises InputError where an id has a line break: ids are written one a line."""
    for ids in (graph.entity_ids, pa.array(graph.relation_ids, pa.large_string())):
        broken = ids.filter(pc.match_substring_regex(ids, "[\r\n]"))
        if len(broken):
            raise InputError(f"the id {broken[0].as_py()!r} has a line break; ids are written one a line, rename it")


def write_ids(graph: GraphFacts, folder: Path) -> None:
    """vocabulary.txt: line i is row i + 1; relations.txt: line i is row i."""
    for name, ids in (("vocabulary.txt", graph.entity_ids), ("relations.txt", pa.array(graph.relation_ids))):
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            for start in range(0, len(ids), ROWS_AT_ONCE):
                file.writelines(f"{identifier}\n" for identifier in ids.slice(start, ROWS_AT_ONCE).to_pylist())


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
    vectors = PickedRows(table, rows)
    ids = graph.entity_ids.take(pa.array(rows - 1))
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
