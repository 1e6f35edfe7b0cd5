"""What a graph looks like: figures for its manifest and tables for people."""

from __future__ import annotations

from typing import Any

import numpy as np

from kg.graph import KnowledgeGraph


def degrees(graph: KnowledgeGraph) -> np.ndarray:
    """Triples an entity stands in, as head or as tail, by row: int64, shape (num_entities + 1,); row 0 is 0."""
    ends = graph.triples[:, [0, 2]].ravel()
    return np.bincount(ends, minlength=graph.num_entities + 1)


def degree_histogram(graph: KnowledgeGraph) -> list[dict[str, int]]:
    """Entities by degree in bins that double: 0, 1, 2-3, 4-7, …; empty bins up to the largest degree are listed.

    Returns: `{"from": lowest degree, "to": highest degree, "entities": how many}` a bin.
    """
    of_entity = degrees(graph)[1:]
    bins = np.frexp(of_entity)[1]
    counts = np.bincount(bins).tolist() if len(bins) else []
    return [
        {"from": 2 ** (number - 1) if number else 0, "to": 2**number - 1, "entities": count}
        for number, count in enumerate(counts)
    ]


def degree_table(graph: KnowledgeGraph, *, top: int = 20) -> list[dict[str, Any]]:
    """The `top` entities of highest degree: `{"id", "label", "degree", "as_head", "as_tail"}`, highest first."""
    of_entity = degrees(graph)
    as_head = np.bincount(graph.triples[:, 0], minlength=graph.num_entities + 1)
    rows = 1 + np.argsort(-of_entity[1:], kind="stable")[:top]
    return [
        {
            "id": graph.entity_vocab.identifier(row),
            "label": graph.labels[row],
            "degree": int(of_entity[row]),
            "as_head": int(as_head[row]),
            "as_tail": int(of_entity[row] - as_head[row]),
        }
        for row in rows.tolist()
    ]


def triples_per_relation(graph: KnowledgeGraph) -> list[dict[str, Any]]:
    """`{"relation": id, "label", "triples": how many}` a relation, the most frequent first."""
    counts = np.bincount(graph.triples[:, 1], minlength=graph.num_relations)
    relations = graph.relations.to_pylist()
    return [
        {"relation": relations[row]["id"], "label": relations[row]["label"], "triples": int(counts[row])}
        for row in np.argsort(-counts, kind="stable").tolist()
    ]


def ambiguous_alias_share(graph: KnowledgeGraph) -> float:
    """Share of the distinct aliases that more than one entity has, in [0, 1]; 0 without aliases."""
    if not graph.aliases.num_rows:
        return 0.0
    counts = graph.aliases["alias"].combine_chunks().value_counts().field("counts").to_numpy()
    return float((counts > 1).mean())


def figures(graph: KnowledgeGraph) -> dict[str, Any]:
    """All of the above as JSON values for a manifest."""
    of_entity = degrees(graph)[1:]
    return {
        "degree_histogram": degree_histogram(graph),
        "highest_degrees": degree_table(graph, top=10),
        "triples_per_relation": triples_per_relation(graph),
        "ambiguous_alias_share": ambiguous_alias_share(graph),
        "mean_degree": float(of_entity.mean()) if len(of_entity) else 0.0,
        "isolated_entities": int((of_entity == 0).sum()),
    }
