"""Nearest vectors by name: a faiss index, the ids of its rows and its settings, in three files.

`auto` chooses the kind from the number of vectors, their width (a multiple of 16 numbers) and `memory_mb`, the first
line that holds:

    kind     bytes a vector       chosen                                      near                  removal
    flat     4 * width            up to 100,000 vectors that fit the budget   exact                 real
    hnsw     4 * width + 272      it fits the budget                          graph of neighbours   marked only
    ivf_sq8  width + 8            it fits the budget                          lists, 8 bits a number   real
    ivf_pq   width / 2 + 8        otherwise: the smallest there is            lists, 4 bits a number   real

The ids come on top: their text and 9 bytes each, mapped rather than read with `mmap`.

All but flat may miss neighbours. How hard they look is set at build: as little as finds `RECALL_TARGET` of the exact
ten nearest of perturbed stored vectors, within limits; what was reached is kept as `recall`. Vectors are padded with
zeros to a multiple of 16 numbers, which changes no distance and keeps faiss on its wide instructions (8-bit codes
of width 100 take ten times as long as those of width 112).

"Near" in a TransE graph is the cosine: relation vectors are as long as entity vectors, so neighbours lie far apart
in L2. TransE vectors hardly cluster, so lists must be searched widely; a graph of neighbours serves them better.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute

from kg.columns import column
from kg.errors import InputError
from kg.index_kinds import (
    BLOCK,
    KINDS,
    METRICS,
    RECALL_AT,
    SMALL_BLOCK,
    Metric,
    Rows,
    as_rows,
    blocks,
    choose_kind,
    padded,
    prepared,
    reserve,
    train,
    tuned,
)

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
INDEX_FILE, SETTINGS_FILE, IDS_FILE = "index.faiss", "index.json", "index_ids.arrow"
KindName = Literal["auto", "flat", "hnsw", "ivf_sq8", "ivf_pq"]
MOST_EFFORT_FOR_REMOVED = 8.0  # times the effort, when most rows of an hnsw index are passed over
IDS = pa.schema([pa.field("id", pa.large_string(), False), pa.field("removed", pa.bool_(), False)])


class VectorIndex:
    """Vectors under string ids; made by `build` or `load`.

    metric: cosine, inner_product or l2. dim: numbers in a vector, before padding. kind: flat, hnsw, ivf_sq8, ivf_pq.
    recall: recall@10 against exact search as measured at build; 1.0 for flat, which is exact.
    effort: how hard a search looks (see `Kind.efforts`); 0 for flat. May be set.
    threads: how many faiss may use in this index's calls (its pool is not torch's); they are given back after each.
    """

    def __init__(
        self,
        index: faiss.Index,
        ids: pa.Array,
        *,
        metric: Metric,
        dim: int,
        kind: str,
        recall: float,
        effort: int,
        threads: int,
        removed: np.ndarray | None = None,
        read_only: bool = False,
    ) -> None:
        """ids: large_string, one a row. removed: bool, the rows that no longer count. Callers use `build`, `load`."""
        self.index, self.metric, self.dim, self.kind = index, metric, dim, kind
        self.recall, self.effort, self.threads, self.read_only = recall, effort, threads, read_only
        self._ids = ids
        self._removed = np.zeros(len(ids), bool) if removed is None else removed
        self._known: dict[str, int] | None = None
        self._selector: faiss.IDSelector | None = None
        self._num_removed = int(self._removed.sum())

    def __len__(self) -> int:
        """Vectors that a search can find."""
        return len(self._ids) - self._num_removed

    @property
    def ids(self) -> list[str]:
        """The ids that a search can find, in the order they came; a new list."""
        return self._ids.filter(pa.array(~self._removed)).to_pylist()

    @classmethod
    def build(
        cls,
        vectors: Rows,
        ids: Sequence[str] | pa.Array,
        metric: Metric = "cosine",
        *,
        kind: KindName = "auto",
        memory_mb: int = 4096,
        threads: int = 0,
        seed: int = 0,
    ) -> VectorIndex:
        """Indexes `vectors` (num_vectors, dim), float32, copied; `ids` names the rows.

        vectors: an array, or rows on disk (`kg.partitioned.files.PickedRows`), which are read in pieces.

        kind: auto chooses by size (see the module). memory_mb: what auto may spend on the index, in 10^6 bytes.
        threads: 0 = every core this process may use. seed: chooses the vectors that train an ivf index and those on
        which recall is measured. hnsw built by several threads differs from run to run in rare neighbours.

        Raises:
            InputError: not one id a vector, an id twice or empty, no vector, too few vectors for the kind, a NaN, a
                zero vector under cosine, or an unknown metric or kind.
        """
        _check_name("metric", metric, tuple(METRICS))
        _check_name("kind", kind, ("auto", *KINDS))
        vectors = as_rows(vectors)
        names = _checked(vectors, ids, metric)
        if not len(vectors):
            raise InputError(f"expected vectors of shape (num_vectors, dim), at least one, got shape {vectors.shape}")
        num_vectors, dim = vectors.shape
        chosen = choose_kind(num_vectors, dim, memory_mb) if kind == "auto" else kind
        if num_vectors < (needed := KINDS[chosen].at_least):
            raise InputError(f"expected at least {needed:,} vectors to train {chosen}, got {num_vectors:,}; use flat")
        threads = threads or _usable_cores()
        with _faiss_threads(threads):
            index = KINDS[chosen].empty(padded(dim), len(vectors), METRICS[metric])
            train(index, vectors, metric, seed)
            reserve(index, num_vectors)
            _add(index, chosen, vectors, metric, first_row=0)
            recall, effort = tuned(index, KINDS[chosen], vectors, metric, seed)
        return cls(index, names, metric=metric, dim=dim, kind=chosen, recall=recall, effort=effort, threads=threads)

    def search(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """The k nearest ids of each query, nearest first, and their scores.

        queries: (num_queries, dim). k is cut to the number of vectors. A zero query has no direction: under
        cosine all its scores are 0.

        Returns: ids, num_queries lists of k; scores float32 (num_queries, k), larger is nearer: the cosine, the
        inner product, or minus the distance (not squared) under l2; those of an ivf kind are of its rounded vectors.
        All kinds but flat may find fewer than k: ids "" score -inf.

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
        with _faiss_threads(self.threads):
            found, rows = self.index.search(prepared(queries, self.metric), k, params=self._parameters())
        scores = -np.sqrt(np.maximum(found, 0.0)) if self.metric == "l2" else found
        scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
        names = self._ids.take(pa.array(rows.ravel(), mask=rows.ravel() < 0)).fill_null("").to_pylist()
        return [names[start : start + k] for start in range(0, len(names), k)], scores

    def add(self, vectors: np.ndarray, ids: Sequence[str]) -> None:
        """Adds vectors (num_vectors, dim) under new ids; a removed id is new again.

        An ivf kind keeps the lists and the rounding it learned at build, and `recall` what it was then: build anew
        once much has come that is unlike what was there.

        Raises:
            InputError: the index is mapped; vectors of another width; an id the index has; else as `build`.
        """
        self._refuse_if_mapped("add to")
        vectors = np.asarray(vectors, dtype=np.float32)
        names = _checked(vectors, ids, self.metric)
        if vectors.shape[1] != self.dim:
            raise InputError(f"expected vectors of {self.dim} numbers, got {vectors.shape[1]}")
        rows = self._row_of()
        if (known := next((name for name in ids if name in rows), None)) is not None:
            raise InputError(f"the index already has {known!r}; remove it first")
        first = len(self._ids)
        with _faiss_threads(self.threads):
            _add(self.index, self.kind, vectors, self.metric, first_row=first)
        rows.update(zip(ids, range(first, first + len(ids)), strict=True))
        self._ids = pa.concat_arrays([self._ids, names])
        self._removed, self._selector = np.append(self._removed, np.zeros(len(ids), bool)), None

    def remove(self, ids: Sequence[str]) -> None:
        """Takes vectors out. flat and ivf give their memory back; hnsw marks the rows and passes over them, which
        costs every search a little: build anew when a good part is gone.

        Raises:
            InputError: the index is mapped, or an id is unknown or stands twice; then nothing was removed.
        """
        self._refuse_if_mapped("remove from")
        known, rows = self._row_of(), []
        if (unknown := next((name for name in ids if name not in known), None)) is not None:
            raise InputError(f"cannot remove {unknown!r}: the index has no such id")
        rows = np.array([known[name] for name in ids], np.int64)
        if len(np.unique(rows)) != len(rows):
            raise InputError("expected every id to be removed once; one stands twice")
        kind = KINDS[self.kind]
        if kind.removes and len(rows):
            with _faiss_threads(self.threads):
                self.index.remove_ids(rows)  # pyrefly: ignore[bad-argument-type]
        self._removed[rows] = True
        if kind.moves_rows:
            self._ids = self._ids.filter(pa.array(~self._removed))
            self._removed, self._known = np.zeros(len(self._ids), bool), None
        else:
            for name in ids:
                del known[name]
        self._num_removed, self._selector = int(self._removed.sum()), None

    def save(self, folder: str | Path) -> None:
        """Writes index.faiss, index_ids.arrow and index.json into an existing folder, each replaced as a whole."""
        folder = Path(folder)
        settings = {
            "metric": self.metric,
            "dim": self.dim,
            "width": self.index.d,
            "kind": self.kind,
            f"recall@{RECALL_AT}": self.recall,
            "effort": self.effort,
            "num_vectors": len(self),
            "num_rows": len(self._ids),
            "faiss": faiss.__version__,
        }
        with _replacing(folder / INDEX_FILE) as path:
            faiss.write_index(self.index, str(path))
        with _replacing(folder / IDS_FILE) as path, pa.ipc.new_file(str(path), IDS) as writer:
            writer.write(pa.record_batch([self._ids, column(self._removed)], schema=IDS))
        with _replacing(folder / SETTINGS_FILE) as path:
            path.write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = False, threads: int = 0) -> VectorIndex:
        """Reads what `save` wrote. mmap: map vectors and ids instead of reading them (shared by processes; the index
        then takes no `add` and no `remove`).

        Raises:
            InputError: a file is missing, unreadable, or of another index.
        """
        folder = Path(folder)
        for name in (INDEX_FILE, IDS_FILE, SETTINGS_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder / name}: no such file; expected the index that `ernie-kg kg embed` writes")
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            index = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
            ids, removed = _read_ids(folder / IDS_FILE, mmap=mmap)
        except (ValueError, RuntimeError, OSError) as error:  # Arrow's errors are among them
            reason = str(error).splitlines()[-1]
            raise InputError(f"{folder}: not a readable index ({reason}); make it again") from None
        _check_together(folder, index, ids, removed, settings)
        return cls(
            index,
            ids,
            metric=settings["metric"],
            dim=settings["dim"],
            kind=settings["kind"],
            recall=settings[f"recall@{RECALL_AT}"],
            effort=settings["effort"],
            threads=threads or _usable_cores(),
            removed=removed,
            read_only=mmap,
        )

    def _parameters(self) -> faiss.SearchParameters | None:
        kind = KINDS[self.kind]
        if kind.removes or not self._num_removed:
            return kind.parameters(self.effort, None)
        if self._selector is None:
            bits = np.packbits(~self._removed, bitorder="little")
            self._selector = faiss.IDSelectorBitmap(bits)  # pyrefly: ignore[missing-argument, bad-argument-type]
        effort = round(self.effort * min(MOST_EFFORT_FOR_REMOVED, len(self._ids) / max(1, len(self))))
        return kind.parameters(effort, self._selector)

    def _row_of(self) -> dict[str, int]:
        """Row of every id that counts; made at the first change."""
        if self._known is None:
            names = enumerate(self._ids.to_pylist())
            self._known = {name: row for row, name in names if not self._removed[row]}
        return self._known

    def _refuse_if_mapped(self, action: str) -> None:
        if self.read_only:
            raise InputError(f"cannot {action} an index opened with mmap, which is read-only; load it without mmap")


def _add(index: faiss.Index, kind: str, vectors: Rows, metric: Metric, *, first_row: int) -> None:
    """Appends in blocks. ivf indexes are told the rows, since they forget how many were removed."""
    for start, block in blocks(vectors, SMALL_BLOCK if kind == "flat" else BLOCK):
        stored = prepared(block, metric)
        if kind.startswith("ivf"):
            index.add_with_ids(stored, np.arange(len(block)) + first_row + start)
        else:
            index.add(stored)


def _read_ids(path: Path, *, mmap: bool) -> tuple[pa.Array, np.ndarray]:
    with (pa.memory_map if mmap else pa.OSFile)(str(path), "r") as file:
        table = pa.ipc.open_file(file).read_all()
    if table.schema != IDS:
        raise ValueError(f"{path.name}: expected columns {IDS.names}, got {table.column_names}")
    return table["id"].combine_chunks(), table["removed"].to_numpy().copy()


def _check_together(
    folder: Path, index: faiss.Index, ids: pa.Array, removed: np.ndarray, settings: dict[str, Any]
) -> None:
    """Raises InputError unless the three files are of one index."""
    expected = (settings["num_rows"], settings["num_vectors"], settings["width"])
    vectors = len(ids) - int(removed.sum())
    if (len(ids), vectors, index.d) != expected or index.ntotal != (
        vectors if KINDS[settings["kind"]].removes else len(ids)
    ):
        raise InputError(
            f"{folder}: {INDEX_FILE} holds {index.ntotal} vectors of width {index.d}, {IDS_FILE} names {vectors}, "
            f"{SETTINGS_FILE} says {expected[1]} of width {expected[2]}; they are of different runs, make them again"
        )


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """faiss's own pool of this size for the block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, put in place of `path` at the end: a process that mapped the old file keeps it."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    os.replace(partial, path)


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"expected {what} one of {', '.join(known)}, got {name!r}")


def _checked(vectors: Rows, ids: Sequence[str] | pa.Array, metric: Metric) -> pa.Array:
    """The ids as an Arrow column; raises InputError for what would search wrong."""
    if len(vectors.shape) != 2:
        raise InputError(f"expected vectors of shape (num_vectors, dim), got shape {vectors.shape}")
    if len(ids) != len(vectors):
        raise InputError(f"expected one id a vector, got {len(ids)} ids for {len(vectors)} vectors")
    names = ids.cast(pa.large_string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.large_string())
    distinct = names.dictionary_encode().dictionary
    if len(distinct) != len(names):
        raise InputError("expected every id once in an index; remove the repeated ones")
    if len(distinct) and pc.min(pc.binary_length(distinct)).as_py() == 0:
        raise InputError("expected ids of at least one character, got an empty one")
    for start, block in blocks(vectors, SMALL_BLOCK):
        if not (finite := np.isfinite(block).all(axis=1)).all():
            row = start + int(finite.argmin())
            raise InputError(f"expected finite vectors, the vector of {names[row].as_py()!r} has a NaN or an infinity")
        if metric == "cosine" and not (lengths := block.any(axis=1)).all():
            raise InputError(
                f"the vector of {names[start + int(lengths.argmin())].as_py()!r} is zero and has no direction; "
                f"leave it out, or use another metric"
            )
    return names
