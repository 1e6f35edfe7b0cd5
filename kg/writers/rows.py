"""What every writer walks: a graph's tables a block at a time, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.info import SPLITS

BLOCK = 50_000


def entity_records(graph: KnowledgeGraph) -> Iterator[dict[str, Any]]:
    """Every entity as {"row", "id", "label", "aliases", "description", "types", "count"}, in the order of rows."""
    for batch in graph.entities.to_batches(max_chunksize=BLOCK):
        yield from batch.to_pylist()


def named_triples(
    graph: KnowledgeGraph, entities: list[str], relations: list[str], triples: np.ndarray | None = None
) -> Iterator[tuple[str, str, str]]:
    """(head, relation, tail) by the given names of rows, those of the graph unless `triples` (n, 3) are given.

    entities: by row, entities[0] stands for nothing. relations: by row.
    """
    triples = graph.triples if triples is None else triples
    for start in range(0, len(triples), BLOCK):
        for head, relation, tail in triples[start : start + BLOCK].tolist():
            yield entities[head], relations[relation], entities[tail]


def published_parts(graph: KnowledgeGraph) -> dict[str, np.ndarray]:
    """Triples by published split: {"train", "valid", "test"}; {} for a graph whose source had none."""
    splits = getattr(graph, "splits", None)
    if splits is None:
        return {}
    return {name: graph.triples[splits == number] for number, name in enumerate(SPLITS)}


def split_names(graph: KnowledgeGraph) -> list[str] | None:
    """Published split of each triple, or None for a graph whose source had none."""
    splits = getattr(graph, "splits", None)
    return None if splits is None else [SPLITS[number] for number in splits.tolist()]


def one_line_names(names: list[str], *, what: str, file: str) -> list[str]:
    """The names, none of which would break a line or a column of a tab-separated file.

    Raises:
        InputError: one would, or is blank.
    """
    for name in names:
        if not name.strip() or any(mark in name for mark in "\t\n\r"):
            raise InputError(
                f"{what} id {name!r} cannot stand in {file}, whose columns end at tabs and line breaks; rename it, or "
                f"export as graphml, ntriples or networkx-json"
            )
    return names
