"""The entity vectors of a `kg embed` artifact as a flat map, coloured by the entities' types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ernie_kg import svg
from kg.artifact import Manifest

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph

MOST = 1_200
"""Entities drawn, those of the most triples: a map of tens of thousands of points is a disc of one colour."""
COLOURS = svg.NUM_COLOURS - 1


def vector_map(manifest: Manifest, graphs: Sequence[Manifest], *, seed: int) -> tuple[str, str]:
    """The map as SVG and what stands under it; two empty strings where the vectors' graph is not among `graphs`.

    A t-SNE (van der Maaten & Hinton, 2008) of the cosine distances: neighbours on the map are near in the vectors,
    distances across the map mean nothing. Entities without a vector are left out.
    """
    from kg.graph import KnowledgeGraph
    from kg.neighbours import Vectors

    digest = manifest.data.get("inputs", {}).get("graph", {}).get("digest")
    folder = next((graph.folder for graph in graphs if graph.digest == digest), None)
    if folder is None:
        return "", ""
    graph, vectors = KnowledgeGraph.load(folder), Vectors.load(Path(manifest.folder)).entities
    rows = _drawn(graph, vectors)
    if len(rows) < 10:
        return "", ""
    places = _flat(np.asarray(vectors[rows], np.float32), seed)
    kinds = kinds_of(graph, rows)
    labels = graph.entities["label"].take(rows - 1).to_pylist()
    points = [(float(x), float(y), kind, label) for (x, y), kind, label in zip(places, kinds, labels, strict=True)]
    caption = f"t-SNE of {len(rows):,} entities with the most triples, coloured by type"
    return svg.scatter_chart(points, title="map of entity vectors"), caption


def kinds_of(graph: KnowledgeGraph, rows: np.ndarray) -> list[str]:
    """The first type of each entity; `svg.OTHER` for none, and for all beyond the commonest `COLOURS` types."""
    kinds = [types[0] if types else "" for types in graph.entities["types"].take(rows - 1).to_pylist()]
    kept = [name for name, _ in Counter(kind for kind in kinds if kind).most_common(COLOURS)]
    return [kind if kind in kept else svg.OTHER for kind in kinds]


def _drawn(graph: KnowledgeGraph, vectors: np.ndarray) -> np.ndarray:
    degrees = np.bincount(graph.triples[:, [0, 2]].ravel(), minlength=graph.num_entities + 1)
    degrees[0] = 0
    chosen = np.argsort(-degrees, kind="stable")[:MOST]
    chosen = chosen[degrees[chosen] > 0]
    return chosen[np.abs(np.asarray(vectors[chosen], np.float32)).max(axis=1) > 0]


def _flat(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Places on the map, (n, 2)."""
    from sklearn.manifold import TSNE

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500, n_jobs=1)
    return model.fit_transform(vectors / lengths)
