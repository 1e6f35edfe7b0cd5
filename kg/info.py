"""What a graph looks like: figures for its manifest and for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from kg.graph import KnowledgeGraph

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
MIRRORED = 0.9
"""A relation is reported when more than this share of its triples stands in another one, or reversed."""
SPLITS = ("train", "valid", "test")


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
    names = graph.entities.select(["id", "label"]).take(rows - 1).to_pylist()
    return [
        name
        | {
            "degree": int(of_entity[row]),
            "as_head": int(as_head[row]),
            "as_tail": int(of_entity[row] - as_head[row]),
        }
        for name, row in zip(names, rows.tolist(), strict=True)
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


def entities_per_type(graph: KnowledgeGraph, *, top: int = 20) -> list[dict[str, Any]]:
    """The `top` types: `{"type", "entities": how many have it}`, the most frequent first, then by name."""
    found = pc.value_counts(pc.list_flatten(graph.entities["types"]))
    counted = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    ordered = sorted(counted, key=lambda item: (-item[1], item[0]))
    return [{"type": name, "entities": count} for name, count in ordered[:top]]


def components(graph: KnowledgeGraph, *, top: int = 10) -> dict[str, Any]:
    """Weakly connected components: `{"number", "largest": sizes of the `top`, "largest_share"}`.

    An entity without a triple is a component of its own; largest_share is of all entities.
    """
    size = graph.num_entities
    if not size:
        return {"number": 0, "largest": [], "largest_share": 0.0}
    heads, tails = graph.triples[:, 0] - 1, graph.triples[:, 2] - 1
    edges = coo_array((np.ones(len(heads), np.int8), (heads, tails)), shape=(size, size))
    number, members = connected_components(edges, directed=False)
    sizes = np.sort(np.bincount(members))[::-1]
    return {"number": int(number), "largest": sizes[:top].tolist(), "largest_share": float(sizes[0] / size)}


def relation_audit(graph: KnowledgeGraph, *, above: float = MIRRORED, top: int = 50) -> list[dict[str, Any]]:
    """Relations most of whose triples another relation, or the same one reversed, says again.

    Such a pair leaks the answer when one side is trained on and the other is tested; loops are left aside.

    Returns: the `top` pairs by shared triples, `{"kind", "relation", "other", "shared", "share", "share_of_other"}`:
        kind `symmetric` (a relation and itself), `inverse` (head and tail exchanged) or `duplicate` (the same two
        entities); shared counts triples of `relation` met again in `other`, a pair is listed when either share is
        above `above`, and `relation` is the one with the larger share.
    """
    same, reversed_ = _shared_triples(graph)
    counts = np.bincount(graph.triples[:, 1], minlength=graph.num_relations)
    ids = graph.relation_vocab.identifiers
    found: list[dict[str, Any]] = []
    for kind, matrix in (("duplicate", same), ("inverse", reversed_)):
        pairs = matrix.tocoo()
        for row, other, shared in zip(pairs.row.tolist(), pairs.col.tolist(), pairs.data.tolist(), strict=True):
            if (kind == "duplicate" and row == other) or (counts[row], row) > (counts[other], other):
                continue  # each pair once, seen from the smaller relation
            share, share_of_other = shared / counts[row], shared / counts[other]
            if share > above:
                found.append(
                    {
                        "kind": "symmetric" if row == other else kind,
                        "relation": ids[row],
                        "other": ids[other],
                        "shared": int(shared),
                        "share": float(share),
                        "share_of_other": float(share_of_other),
                    }
                )
    return sorted(found, key=lambda pair: (-pair["shared"], pair["relation"], pair["other"]))[:top]


def split_sizes(graph: KnowledgeGraph) -> dict[str, int]:
    """Triples of each published split; empty for a graph whose source had none."""
    splits = getattr(graph, "splits", None)
    if splits is None:
        return {}
    return dict(zip(SPLITS, np.bincount(splits, minlength=len(SPLITS)).tolist(), strict=False))


def figures(graph: KnowledgeGraph) -> dict[str, Any]:
    """All of the above as JSON values for a manifest."""
    of_entity = degrees(graph)[1:]
    found = {
        "degree_histogram": degree_histogram(graph),
        "highest_degrees": degree_table(graph, top=10),
        "triples_per_relation": triples_per_relation(graph),
        "ambiguous_alias_share": ambiguous_alias_share(graph),
        "mean_degree": float(of_entity.mean()) if len(of_entity) else 0.0,
        "isolated_entities": int((of_entity == 0).sum()),
        "components": components(graph),
        "relation_audit": relation_audit(graph),
    }
    if sizes := split_sizes(graph):
        found["split_sizes"] = sizes
    return found


def _shared_triples(graph: KnowledgeGraph) -> tuple[csr_array, csr_array]:
    """How many triples two relations share, as they stand and with head and tail exchanged.

    A line of the matrices is an unordered pair of entities: `upward` has a column for each relation from the lower row
    to the higher, `downward` the other way; their products count the pairs that two relations have in common.

    Returns: two matrices of shape (num_relations, num_relations).
    """
    head, relation, tail = graph.triples.astype(np.int64).T
    no_loop = head != tail
    head, relation, tail = head[no_loop], relation[no_loop], tail[no_loop]
    keys = np.minimum(head, tail) * (graph.num_entities + 1) + np.maximum(head, tail)
    pairs, line = np.unique(keys, return_inverse=True)
    shape = (len(pairs), graph.num_relations)
    upward, downward = (_ones(line[way], relation[way], shape) for way in (head < tail, head > tail))
    return (
        csr_array(upward.T @ upward + downward.T @ downward),
        csr_array(upward.T @ downward + downward.T @ upward),
    )


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    matrix = csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
