"""Nearest vectors by name: a faiss index and the ids of its rows, in two files.

The kind follows from the number of vectors: up to `FLAT_AT_MOST` exact search (`flat`: 0.7 ms a query at 100,000 x
100 in batches), above that a graph of neighbours (`hnsw`), whose recall@10 against exact search is measured at build
and kept in the file. Vectors are padded with zeros to a multiple of 16 numbers, which changes no distance and keeps
faiss on its wide instructions.

"Near" in a TransE graph is the cosine: relation vectors are as long as entity vectors, so neighbours lie far apart
in L2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import faiss
import numpy as np

from kg.errors import InputError

INDEX_FILE, SETTINGS_FILE = "index.faiss", "index.json"
FLAT_AT_MOST = 100_000
WIDTH_STEP = 16
HNSW_LINKS, HNSW_EF_BUILD, HNSW_EF_SEARCH = 32, 80, 64
RECALL_AT, RECALL_QUERIES = 10, 200

Metric = Literal["cosine", "inner_product", "l2"]
METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
KINDS = ("auto", "flat", "hnsw")


class VectorIndex:
    """Vectors under string ids; made by `build` or `load`.

    ids: id of each row. metric: cosine, inner_product or l2. dim: numbers in a vector, before padding.
    kind: flat or hnsw. recall: measured recall@10 against exact search; 1.0 for flat, which is exact.
    threads: how many faiss may use in this index's searches (its pool is not torch's).
    """

    def __init__(
        self,
        index: faiss.Index,
        ids: Sequence[str],
        *,
        metric: Metric,
        dim: int,
        kind: str,
        recall: float,
        threads: int,
    ) -> None:
        self.index, self.ids, self.metric = index, list(ids), metric
        self.dim, self.kind, self.recall, self.threads = dim, kind, recall, threads

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        ids: Sequence[str],
        metric: Metric = "cosine",
        *,
        kind: Literal["auto", "flat", "hnsw"] = "auto",
        threads: int = 0,
        seed: int = 0,
    ) -> VectorIndex:
        """Indexes `vectors` (num_vectors, dim), float32, copied; `ids` names the rows.

        kind: auto chooses by size (see the module). threads: 0 = every core this process may use.
        seed: chooses the vectors on which recall is measured.

        Raises:
            InputError: not one id a vector, an id twice, no vector, a NaN, a zero vector under cosine, or an unknown
                metric or kind.
        """
        _check_name("metric", metric, tuple(METRICS))
        _check_name("kind", kind, KINDS)
        vectors = np.asarray(vectors, dtype=np.float32)
        _check_vectors(vectors, ids, metric)
        if kind == "auto":
            kind = "flat" if len(vectors) <= FLAT_AT_MOST else "hnsw"
        threads = _use_threads(threads)
        stored = _prepared(vectors, metric)
        index = _empty_index(kind, stored.shape[1], metric)
        index.add(stored)
        recall = 1.0 if kind == "flat" else _recall(index, stored, metric, seed)
        return cls(index, ids, metric=metric, dim=vectors.shape[1], kind=kind, recall=recall, threads=threads)

    def search(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """The k nearest ids of each query, nearest first, and their scores.

        queries: (num_queries, dim). k is cut to the number of vectors. A zero query has no direction: under
        cosine all its scores are 0.

        Returns: ids, num_queries lists of k; scores float32 (num_queries, k), larger is nearer: the cosine, the
        inner product, or minus the distance (not squared) under l2. HNSW may find fewer than k: ids "" score -inf.

        Raises:
            InputError: queries of another width.
        """
        queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        if queries.shape[1] != self.dim:
            raise InputError(
                f"expected queries of {self.dim} numbers, got {queries.shape[1]}; they belong to other vectors"
            )
        k = min(k, len(self))
        if not len(queries) or k < 1:
            return [[] for _ in queries], np.zeros((len(queries), 0), np.float32)
        _use_threads(self.threads)
        found, rows = self.index.search(_prepared(queries, self.metric), k)
        scores = -np.sqrt(np.maximum(found, 0.0)) if self.metric == "l2" else found
        scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
        return [[self.ids[row] if row >= 0 else "" for row in line] for line in rows.tolist()], scores

    def save(self, folder: str | Path) -> None:
        """Writes index.faiss and index.json into an existing folder."""
        folder = Path(folder)
        faiss.write_index(self.index, str(folder / INDEX_FILE))
        settings = {
            "metric": self.metric,
            "dim": self.dim,
            "width": self.index.d,
            "kind": self.kind,
            f"recall@{RECALL_AT}": self.recall,
            "num_vectors": len(self),
            "faiss": faiss.__version__,
            "ids": self.ids,
        }
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = False, threads: int = 0) -> VectorIndex:
        """Reads what `save` wrote. mmap: map the vectors instead of reading them (read-only, shared by processes).

        Raises:
            InputError: a file is missing, unreadable, or of another index.
        """
        folder = Path(folder)
        for name in (INDEX_FILE, SETTINGS_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder / name}: no such file; expected the index that `ernie-kg kg embed` writes")
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            index = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1]
            raise InputError(f"{folder}: not a readable index ({reason}); make it again") from None
        if index.ntotal != len(settings["ids"]) or index.d != settings["width"]:
            raise InputError(
                f"{folder}: {INDEX_FILE} holds {index.ntotal} vectors of width {index.d}, {SETTINGS_FILE} names "
                f"{len(settings['ids'])} of width {settings['width']}; they are of different runs, make them again"
            )
        return cls(
            index,
            settings["ids"],
            metric=settings["metric"],
            dim=settings["dim"],
            kind=settings["kind"],
            recall=settings[f"recall@{RECALL_AT}"],
            threads=_use_threads(threads),
        )


def _empty_index(kind: str, width: int, metric: Metric) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlat(width, METRICS[metric])
    index = faiss.IndexHNSWFlat(width, HNSW_LINKS, METRICS[metric])
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_EF_BUILD, HNSW_EF_SEARCH
    return index


def _prepared(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Padded to the stored width, and of length 1 under cosine; a new contiguous array."""
    num_vectors, dim = vectors.shape
    stored = np.zeros((num_vectors, -(-dim // WIDTH_STEP) * WIDTH_STEP), np.float32)
    stored[:, :dim] = vectors
    if metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        stored /= np.where(lengths > 0, lengths, 1.0)
    return stored


def _recall(index: faiss.Index, stored: np.ndarray, metric: Metric, seed: int) -> float:
    """Share of the exact ten nearest that the index finds, over a sample of the stored vectors as queries."""
    sample = np.random.default_rng(seed).choice(len(stored), min(RECALL_QUERIES, len(stored)), replace=False)
    queries, k = stored[sample], min(RECALL_AT, len(stored))
    _, exact = faiss.knn(queries, stored, k, metric=METRICS[metric])
    _, found = index.search(queries, k)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact.tolist(), found.tolist(), strict=True)]))


def _use_threads(threads: int) -> int:
    """Sets the size of faiss's own pool, and returns it; 0 = every core this process may use."""
    if threads == 0:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    faiss.omp_set_num_threads(threads)
    return threads


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"expected {what} one of {', '.join(known)}, got {name!r}")


def _check_vectors(vectors: np.ndarray, ids: Sequence[str], metric: Metric) -> None:
    if vectors.ndim != 2 or not len(vectors):
        raise InputError(f"expected vectors of shape (num_vectors, dim), at least one, got shape {vectors.shape}")
    if len(ids) != len(vectors):
        raise InputError(f"expected one id a vector, got {len(ids)} ids for {len(vectors)} vectors")
    if len(set(ids)) != len(ids):
        raise InputError("expected every id once in an index; remove the repeated ones")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise InputError(f"expected finite vectors, the vector of {ids[row]!r} has a NaN or an infinity")
    if metric == "cosine" and not (lengths := np.abs(vectors).max(1)).all():
        row = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(
            f"the vector of {ids[row]!r} is zero and has no direction; leave it out, or use another metric"
        )
