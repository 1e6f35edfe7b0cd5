"""`kg neighbours`: the nearest entities by vector, next to the neighbours in the graph.

Near is the cosine of two vectors, or how well some relation leads from one entity to the other: the least
|h + r - t|. The distance between two entity vectors is neither: relation vectors are as long as entity vectors, so
that true neighbours lie far apart (adjacent against random pairs on FB15k-237, area under the curve: cosine 0.977,
translation 0.995, plain distance 0.810).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from kg.artifact import MANIFEST, Manifest, open_artifact, read_manifest
from kg.errors import InputError
from kg.graph import FIRST_ENTITY_ROW, KnowledgeGraph
from kg.query import entity_text, find, pc, relation_text
from kg.tables import and_more, counted, plain, table

STAGE = "kg embed"
BLOCK, QUERIES = 16_384, 256  # a matrix product: 16 MB
SPARE = 64  # more candidates than asked for, measured again in float64

Norm = Literal["l1", "l2"]
DTYPES = {"F32": np.float32, "F16": np.float16}


@dataclass(slots=True)
class Vectors:
    """The tables of a vectors artifact, mapped from their files: float32 or float16.

    entities: shape (num_entities + 1, dim); row 0, and entities no triple was trained for, are zero.
    relations: shape (num_relations, dim); relations that were not trained are zero. norm: of |h + r - t|.
    """

    manifest: Manifest
    entities: np.ndarray
    relations: np.ndarray
    norm: Norm

    @classmethod
    def load(cls, folder: Path) -> Vectors:
        """Raises InputError when the folder is no vectors artifact, or its tables do not open."""
        manifest = open_artifact(folder, stage=STAGE)
        norm = "l1" if manifest.data.get("config", {}).get("norm") == "l1" else "l2"
        return cls(manifest, _mapped(folder, "entity_embeddings"), _mapped(folder, "relation_embeddings"), norm)


@dataclass(frozen=True, slots=True)
class Near:
    """An entity near another. score: cosine, or distance. relation: its row under translation, and which way."""

    row: int
    score: float
    relation: int = -1
    outward: bool = True


def nearest_and_linked(folder: Path, name: str, *, graph: Path | None, k: int, by: str) -> str:
    """What `kg neighbours` prints.

    Raises:
        InputError: no vectors artifact, another graph than the vectors' own, an unknown name, or an entity without
            a vector.
    """
    vectors = Vectors.load(folder)
    graph_folder = graph_of(vectors.manifest, graph)
    loaded = KnowledgeGraph.load(graph_folder)
    check_shapes(vectors, loaded, folder)
    matches = find(loaded, name)
    row = matches[0].row
    if not vectors.entities[row].any():
        raise InputError(
            f"{entity_text(loaded, row)} has no vector: every triple of it was left out of training, or it has none; "
            f"`ernie-kg kg query {graph_folder} NAME` shows its triples"
        )
    if by == "cosine":
        found = nearest_by_cosine(folder, vectors.entities, loaded, row, k)
    else:
        found = nearest_by_translation(vectors.entities, vectors.relations, row, k, norm=vectors.norm)
    head = f"{entity_text(loaded, row)}, in {plain(str(folder))}"
    if len(matches) > 1:
        others = counted(len(matches) - 1, "other entity", "other entities")
        head += f"\n{plain(name)!r} also means {others}: `ernie-kg kg query` lists them"
    return "\n\n".join([head, _nearest_text(loaded, row, found, by), _linked_text(loaded, vectors.entities, row, k)])


def graph_of(manifest: Manifest, given: Path | None) -> Path:
    """The folder of the graph that the vectors were made from.

    Without `given`: where `kg embed` read it, or, when a run's folder was moved as a whole, beside the vectors.

    Raises:
        InputError: it lies at neither place, or the graph there is another one.
    """
    entry = manifest.data.get("inputs", {}).get("graph")
    if entry is None:
        raise InputError(f"{manifest.folder}: its manifest names no graph; run `ernie-kg {STAGE}` again")
    recorded = Path(entry["path"])
    if given is not None:
        open_artifact(given, stage="kg build")
    places = [given] if given is not None else [recorded, manifest.folder.parent / recorded.name]
    there = [place for place in places if (place / MANIFEST).exists()]
    for place in there:
        if read_manifest(place).digest == entry["digest"]:
            return place
    if not there:
        raise InputError(
            f"the graph that {manifest.folder} was made from is no longer at {recorded}; name it with --graph FOLDER"
        )
    raise InputError(
        f"{there[0]} is not the graph that {manifest.folder} was made from (its digest differs: it was built again, or "
        f"is another one); give that graph, or run `ernie-kg {STAGE}` on this one"
    )


def check_shapes(vectors: Vectors, graph: KnowledgeGraph, folder: Path) -> None:
    """Raises InputError unless every entity and relation of the graph has a row."""
    expected = ((graph.num_entities + 1, graph.num_relations), (len(vectors.entities), len(vectors.relations)))
    if expected[0] != expected[1]:
        raise InputError(
            f"{folder}: expected rows for (entities + 1, relations) {expected[0]}, got {expected[1]}; "
            f"run `ernie-kg {STAGE}` again"
        )


def nearest_by_cosine(folder: Path, entities: np.ndarray, graph: KnowledgeGraph, row: int, k: int) -> list[Near]:
    """The k entities of highest cosine by the artifact's index, the entity itself left out."""
    from kg.index import VectorIndex

    index = VectorIndex.load(folder, mmap=True, threads=1)
    ids, scores = index.search(entities[row : row + 1], k + 1)
    rows = _rows_of(graph, ids[0])
    found = [Near(rows[other], score) for other, score in zip(ids[0], scores[0].tolist(), strict=True) if other in rows]
    return [near for near in found if near.row != row][:k]


def _rows_of(graph: KnowledgeGraph, ids: list[str]) -> dict[str, int]:
    """Rows of a few ids, without the dictionary of all."""
    places = np.flatnonzero(pc.is_in(graph.entities["id"], value_set=pa.array(ids, pa.string())).to_numpy())
    return dict(zip(graph.entities["id"].take(places).to_pylist(), (places + FIRST_ENTITY_ROW).tolist(), strict=True))


def nearest_by_translation(
    entities: np.ndarray, relations: np.ndarray, row: int, k: int, *, norm: Norm = "l2"
) -> list[Near]:
    """The k entities x of least min over r of min(|e + r - x|, |x + r - e|), exact; ties by row.

    entities: (num_entities + 1, dim), relations: (num_relations, dim). Zero rows are no vectors and are
    left out, the padding row and the entity itself too. A block of entities at a time, one matrix product (l2);
    the best are then measured again in float64, where no digits cancel.
    """
    own, relations = entities[row].astype(np.float32), relations.astype(np.float32)
    trained = np.flatnonzero(np.abs(relations).max(axis=1, initial=0) > 0)
    if not len(trained):
        return []
    queries = np.concatenate([own + relations[trained], own - relations[trained]])
    candidates: list[tuple[np.ndarray, np.ndarray]] = []
    for start, block in _blocks(entities):
        least = _least(queries, block, norm)
        rows = np.arange(start, start + len(block))
        least[(np.abs(block).max(axis=1) == 0) | (rows == row)] = np.inf
        best = np.argsort(least, kind="stable")[: k + SPARE]
        best = best[np.isfinite(least[best])]
        candidates.append((rows[best], least[best]))
    rows, least = (np.concatenate(column) for column in zip(*candidates, strict=True))
    rows = rows[np.argsort(least, kind="stable")[: k + SPARE]]
    return sorted(_exact(entities, queries, trained, rows, norm), key=lambda near: (near.score, near.row))[:k]


def _blocks(entities: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(FIRST_ENTITY_ROW, len(entities), BLOCK):
        yield start, entities[start : start + BLOCK].astype(np.float32)


def _least(queries: np.ndarray, block: np.ndarray, norm: Norm) -> np.ndarray:
    """Distance of each entity of the block to the nearest query: (len(block),), squared under l2."""
    if norm == "l1":
        from scipy.spatial.distance import cdist

        parts = (
            cdist(queries[start : start + QUERIES], block, "cityblock") for start in range(0, len(queries), QUERIES)
        )
        return np.minimum.reduce([part.min(axis=0) for part in parts])
    lengths = np.einsum("ij,ij->i", queries, queries)
    nearest = np.full(len(block), np.inf, np.float32)
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        np.minimum(nearest, (lengths[part, None] - 2 * (queries[part] @ block.T)).min(axis=0), out=nearest)
    return nearest + np.einsum("ij,ij->i", block, block)


def _exact(
    entities: np.ndarray, queries: np.ndarray, trained: np.ndarray, rows: np.ndarray, norm: Norm
) -> Iterator[Near]:
    wide = queries.astype(np.float64)
    for row in rows.tolist():
        differences = wide - entities[row].astype(np.float64)
        distances = np.abs(differences).sum(1) if norm == "l1" else np.sqrt((differences**2).sum(1))
        best = int(distances.argmin())
        yield Near(row, float(distances[best]), int(trained[best % len(trained)]), best < len(trained))


def _mapped(folder: Path, name: str) -> np.ndarray:
    """A tensor of a safetensors file as a read-only map of the file, so that only the rows asked for are read."""
    path = folder / f"{name}.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header against the file's size
            names = list(file.keys())
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size)).get(name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); run `ernie-kg {STAGE}` again") from None
    if entry is None or entry["dtype"] not in DTYPES or len(entry["shape"]) != 2:
        raise InputError(f"{path}: expected the table {name!r} of {' or '.join(DTYPES)}, found {names} ({entry})")
    shape, start = tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
    if 0 in shape:
        return np.zeros(shape, DTYPES[entry["dtype"]])
    return np.memmap(path, DTYPES[entry["dtype"]], mode="r", offset=start, shape=shape)


def _links(graph: KnowledgeGraph, row: int) -> dict[int, list[tuple[int, bool]]]:
    """Rows of the graph neighbours, each with its relations and whether the entity is the head."""
    links: dict[int, list[tuple[int, bool]]] = {}
    around = graph.triples[(graph.triples[:, 0] == row) | (graph.triples[:, 2] == row)]
    for head, relation, tail in around.tolist():
        links.setdefault(tail if head == row else head, []).append((relation, head == row))
    return links


def _link_text(graph: KnowledgeGraph, ways: list[tuple[int, bool]]) -> str:
    relation, outward = ways[0]
    more = f" (+{len(ways) - 1})" if len(ways) > 1 else ""
    return f"{relation_text(graph, relation)} {'→' if outward else '←'}{more}"


def _nearest_text(graph: KnowledgeGraph, row: int, found: list[Near], by: str) -> str:
    links = _links(graph, row)
    rows: list[tuple[object, ...]] = []
    for number, near in enumerate(found, start=1):
        linked = _link_text(graph, links[near.row]) if near.row in links else ""
        way = (_link_text(graph, [(near.relation, near.outward)]),) if by == "translation" else ()
        rows.append((number, f"{near.score:.3f}", entity_text(graph, near.row), *way, linked))
    if by == "cosine":
        title, heads = "Nearest by cosine", ("", "cosine", "entity", "in the graph")
    else:
        title, heads = "Nearest by translation, |h + r - t|", ("", "distance", "entity", "by", "in the graph")
    marked = sum(near.row in links for near in found)
    return f"{title}: {marked} of {len(found)} are neighbours in the graph\n\n{table(heads, rows, right=(0, 1))}"


def _linked_text(graph: KnowledgeGraph, entities: np.ndarray, row: int, k: int) -> str:
    """The graph neighbours, those of highest cosine first; - for one without a vector."""
    links = _links(graph, row)
    links.pop(row, None)
    others = np.array(sorted(links), dtype=np.int64)
    own, vectors = entities[row].astype(np.float32), entities[others].astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own)
    cosines = np.divide(vectors @ own, lengths, out=np.full(len(others), -np.inf, np.float32), where=lengths > 0)
    rows = [
        (
            f"{cosines[place]:.3f}" if np.isfinite(cosines[place]) else "-",
            entity_text(graph, int(others[place])),
            _link_text(graph, links[int(others[place])]),
        )
        for place in np.argsort(-cosines, kind="stable")[:k].tolist()
    ]
    rest = f"\n{and_more(len(others) - k)}" if len(others) > k else ""
    title = f"Neighbours in the graph: {len(others):,}, by cosine"
    return f"{title}\n\n{table(('cosine', 'entity', 'in the graph'), rows, right=(0,))}{rest}" if rows else f"{title}"
