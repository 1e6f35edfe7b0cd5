"""What `kg.index` builds on: the kinds of index, the rule that chooses one, and how good a built one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import faiss
import numpy as np

FLAT_AT_MOST = 100_000
WIDTH_STEP = 16
HNSW_LINKS, HNSW_EF_BUILD = 32, 80
POINTS_A_CENTROID = 39  # k-means warns below, and its centroids are noise
PQ_CENTROIDS = 256
FLAT_LISTS_AT_MOST = 16_384  # more lists than this are themselves found by a graph of neighbours
RECALL_AT, RECALL_QUERIES, RECALL_TARGET = 10, 200, 0.95
RECALL_NOISE = 0.3  # length of what is added to a stored vector to make a query, as a share of its own
LEAST_GAIN = 0.01  # of recall, for looking twice as hard
TRAIN_BYTES = 1 << 30  # of the vectors that k-means sees, unless those are too few for its centroids
BLOCK, SMALL_BLOCK = 16_384, 2_048  # vectors prepared at once: where many together are quicker, and elsewhere
MEGABYTE = 1_000_000


class Rows(Protocol):
    """Vectors float32 (num_vectors, dim) that are read by slices and by positions: an array, or rows on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any, /) -> np.ndarray: ...


Metric = Literal["cosine", "inner_product", "l2"]
METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to store vectors and look among them."""

    empty: Callable[[int, int, int], faiss.Index]
    """(width, number of vectors to come, faiss metric) -> an untrained, empty index."""
    bytes_per_vector: Callable[[int], int]
    """Of the width, ids not counted."""
    at_least: int = 1
    """Vectors needed to train it."""
    efforts: tuple[int, ...] = ()
    """How hard a search may look, from little to much: candidates kept (hnsw) or lists opened (ivf). () = exact."""
    parameters: Callable[[int, faiss.IDSelector | None], faiss.SearchParameters | None]
    """(effort, the rows that count or None for all) -> what faiss's search takes."""
    moves_rows: bool = False
    """Whether a removal renumbers the rows behind it."""
    removes: bool = True
    """Whether a removed vector goes; otherwise its row is only passed over."""


def num_lists(num_vectors: int) -> int:
    """Inverted lists of an ivf index: about 4 * sqrt(n), with at least 39 vectors each to train them."""
    return max(1, min(round(4 * num_vectors**0.5), num_vectors // POINTS_A_CENTROID))


def _hnsw(width: int, num_vectors: int, metric: int) -> faiss.Index:
    index = faiss.IndexHNSWFlat(width, HNSW_LINKS, metric)
    index.hnsw.efConstruction = HNSW_EF_BUILD
    return index


def _ivf(codes: str) -> Callable[[int, int, int], faiss.Index]:
    def empty(width: int, num_vectors: int, metric: int) -> faiss.Index:
        lists = num_lists(num_vectors)
        coarse = "" if lists <= FLAT_LISTS_AT_MOST else f"_HNSW{HNSW_LINKS}"
        return faiss.index_factory(width, f"IVF{lists}{coarse},{codes.format(half=width // 2)}", metric)

    return empty


def _hnsw_parameters(effort: int, selector: faiss.IDSelector | None) -> faiss.SearchParameters:
    return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)  # pyrefly: ignore[missing-attribute]


def _ivf_parameters(effort: int, selector: faiss.IDSelector | None) -> faiss.SearchParameters:
    return faiss.SearchParametersIVF(nprobe=effort, sel=selector)  # pyrefly: ignore[unexpected-keyword]


KINDS: dict[str, Kind] = {
    "flat": Kind(
        empty=lambda width, num_vectors, metric: faiss.IndexFlat(width, metric),
        bytes_per_vector=lambda width: 4 * width,
        parameters=lambda effort, selector: None,
        moves_rows=True,
    ),
    "hnsw": Kind(
        empty=_hnsw,
        bytes_per_vector=lambda width: 4 * width + 4 * 2 * HNSW_LINKS + 16,
        efforts=(64, 128, 256, 512),
        parameters=_hnsw_parameters,
        removes=False,
    ),
    "ivf_sq8": Kind(
        empty=_ivf("SQ8"),
        bytes_per_vector=lambda width: width + 8,
        at_least=POINTS_A_CENTROID,
        efforts=(32, 64, 128, 256, 512, 1024),
        parameters=_ivf_parameters,
    ),
    "ivf_pq": Kind(
        empty=_ivf("PQ{half}np"),  # np: no reordering of codes for Hamming distances, which nobody asks for
        bytes_per_vector=lambda width: width // 2 + 8,
        at_least=POINTS_A_CENTROID * PQ_CENTROIDS,
        efforts=(32, 64, 128, 256, 512, 1024),
        parameters=_ivf_parameters,
    ),
}


def choose_kind(num_vectors: int, dim: int, memory_mb: int) -> str:
    """The kind that the module's table gives; memory_mb: megabytes (10^6 bytes) the index may take, ids aside.

    >>> [choose_kind(number, 100, 4096) for number in (100_000, 5_000_000, 20_000_000, 100_000_000)]
    ['flat', 'hnsw', 'ivf_sq8', 'ivf_pq']
    """

    def fits(kind: str) -> bool:
        return num_vectors * KINDS[kind].bytes_per_vector(padded(dim)) <= memory_mb * MEGABYTE

    if num_vectors <= FLAT_AT_MOST and fits("flat"):
        return "flat"
    usable = [kind for kind in ("hnsw", "ivf_sq8", "ivf_pq") if num_vectors >= KINDS[kind].at_least]
    return next((kind for kind in usable if fits(kind)), usable[-1])


def padded(dim: int) -> int:
    return -(-dim // WIDTH_STEP) * WIDTH_STEP


def prepared(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Padded to the stored width, and of length 1 under cosine; a new contiguous array."""
    num_vectors, dim = vectors.shape
    stored = np.zeros((num_vectors, padded(dim)), np.float32)
    stored[:, :dim] = vectors
    if metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        stored /= np.where(lengths > 0, lengths, 1.0)
    return stored


def as_rows(vectors: Any) -> Rows:
    """An array of float32 for whatever is no `Rows` already."""
    given = hasattr(vectors, "shape") and not isinstance(vectors, np.ndarray)
    return vectors if given else np.asarray(vectors, dtype=np.float32)


def blocks(vectors: Rows, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), size):
        yield start, vectors[start : start + size]


def reserve(index: faiss.Index, num_vectors: int) -> None:
    """Makes room for all vectors of a flat or hnsw index at once: growing by doubling takes up to twice as much."""
    flat = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    if isinstance(flat, faiss.IndexFlat):
        flat.codes.resize(num_vectors * flat.code_size)
        flat.codes.resize(0)


def train(index: faiss.Index, vectors: Rows, metric: Metric, seed: int) -> None:
    """k-means on at most 256 vectors a centroid, fewer where they would pass `TRAIN_BYTES`, drawn from `seed`.

    Nothing for a kind that needs no training.
    """
    if index.is_trained:
        return
    centroids = max(num_lists(len(vectors)), PQ_CENTROIDS)
    affordable = max(TRAIN_BYTES // (4 * index.d), centroids * POINTS_A_CENTROID)
    enough = min(len(vectors), centroids * 256, affordable)
    rows = np.random.default_rng(seed).choice(len(vectors), enough, replace=False)
    rows.sort()
    index.train(prepared(vectors[rows], metric))


def tuned(index: faiss.Index, kind: Kind, vectors: Rows, metric: Metric, seed: int) -> tuple[float, int]:
    """(recall@10, effort): the least effort that reaches the target, or the last one that still gained by it.

    Queries are stored vectors with Gaussian noise: nobody asks for exactly what is stored. A neighbour counts as
    found when it is as near as the tenth of the exact ones, so equal vectors stand for each other.
    """
    if not kind.efforts:
        return 1.0, 0
    random = np.random.default_rng(seed)
    own = vectors[random.choice(len(vectors), min(RECALL_QUERIES, len(vectors)), replace=False)]
    noise = random.standard_normal(own.shape, dtype=np.float32)
    noise *= RECALL_NOISE * np.linalg.norm(own, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    queries, k = prepared(own + noise, metric), min(RECALL_AT, len(vectors))
    worst = _kth_score(queries, vectors, metric, k)
    best, chosen = -1.0, kind.efforts[0]
    for effort in kind.efforts:
        _, rows = index.search(queries, k, params=kind.parameters(effort, None))
        recall = float((_scores(queries, vectors, rows, metric) >= worst[:, None]).mean())
        if recall < best + LEAST_GAIN:
            break
        best, chosen = recall, effort
        if recall >= RECALL_TARGET:
            break
    return best, chosen


def _kth_score(queries: np.ndarray, vectors: Rows, metric: Metric, k: int) -> np.ndarray:
    """The exact k-th best score of each query, (num_queries,), a hair lower so that rounding loses nobody."""
    found = np.zeros((len(queries), 0), np.int64)
    for start, block in blocks(vectors):
        _, rows = faiss.knn(queries, prepared(block, metric), min(k, len(block)), metric=METRICS[metric])
        found = np.concatenate([found, rows + start], axis=1)
    kth = -np.partition(-_scores(queries, vectors, found, metric), k - 1, axis=1)[:, k - 1]
    return kth - 1e-5 * np.maximum(1.0, np.abs(kth))


def _scores(queries: np.ndarray, vectors: Rows, rows: np.ndarray, metric: Metric) -> np.ndarray:
    """Score of each query against its rows (num_queries, k), float32; -inf for row -1."""
    stored = prepared(vectors[rows.ravel()], metric).reshape(*rows.shape, -1)
    if metric == "l2":
        scores = -np.linalg.norm(stored - queries[:, None], axis=2)
    else:
        scores = np.einsum("qkd,qd->qk", stored, queries)
    return np.where(rows < 0, -np.inf, scores)
