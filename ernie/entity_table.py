"""EntityTable: the frozen entity vectors, memory-mapped, gathered a batch at a time."""

from __future__ import annotations

import itertools
import json
import math
import mmap
import re
from pathlib import Path
from typing import Literal, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch

from ernie.errors import InputError

TENSOR_NAME = "entity_embeddings"
FILE_NAME = f"{TENSOR_NAME}.safetensors"
NAMES_FILE = "vocabulary.txt"
"""Beside the table: line i, from 1, names the entity of row i."""
Control = Literal["true", "zero", "shuffled", "random"]
_NUMPY_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


class _Rows(Protocol):
    """Where rows come from: (n,) int64 rows, all in range -> (n, entity_size) float32."""

    def __call__(self, rows: np.ndarray) -> np.ndarray: ...


class EntityTable:
    """One vector an entity, (num_rows, entity_size); row 0 is "no entity" and all zeros.

    Not a module: neither trained nor saved with a model (`model.attach_entity_table`). Only rows that a batch
    asks for are read, so opening 5,000,000 x 100 takes milliseconds and no memory.
    """

    def __init__(self, vectors: torch.Tensor | np.ndarray) -> None:
        """vectors: (num_rows, entity_size), floating, row 0 zeros. Kept, not copied."""
        array = vectors.detach().cpu().numpy() if isinstance(vectors, torch.Tensor) else vectors
        if array.ndim != 2 or array.shape[0] < 1 or not np.issubdtype(array.dtype, np.floating):
            raise InputError(
                f"an entity table is a floating (num_entities + 1, entity_size) matrix, got {array.dtype} {array.shape}"
            )
        if np.any(array[0]):
            raise InputError(
                "row 0 of an entity table stands for 'no entity' and must be zeros: prepend a zero row, "
                "entities start at row 1"
            )
        self.num_rows, self.entity_size = int(array.shape[0]), int(array.shape[1])
        self._vectors = array
        self._read: _Rows = lambda rows: np.asarray(array[rows], dtype=np.float32)
        self._control: Control = "true"
        self._added = np.empty((0, self.entity_size), dtype=np.float32)
        self._handle = _register(self)

    @classmethod
    def open(cls, source: str | Path) -> EntityTable:
        """Memory-map `entity_embeddings` of a safetensors file, or of that file in a vectors folder."""
        path = Path(source)
        return cls(_map_safetensors(path / FILE_NAME if path.is_dir() else path))

    def rows(self, entity_ids: torch.Tensor) -> torch.Tensor:
        """entity_ids: integer tensor of any shape. Returns float32, entity_ids.shape + (entity_size,), on its device.

        A row outside 0..num_rows-1 is an InputError naming it. Under torch.compile one opaque operator: no graph break.
        """
        if torch.compiler.is_compiling():
            return _gather(entity_ids, self._handle, self.entity_size)
        return self._gather(entity_ids)

    def _gather(self, entity_ids: torch.Tensor) -> torch.Tensor:
        rows = entity_ids.detach().cpu().numpy().astype(np.int64).ravel()
        bad = rows[(rows < 0) | (rows >= self.num_rows)]
        if bad.size:
            raise InputError(
                f"entity row {int(bad[0])} is not in the table, which holds rows 0..{self.num_rows - 1}: "
                f"the ids come from another graph, or the table was embedded from a smaller one"
            )
        gathered = torch.from_numpy(np.ascontiguousarray(self._read(rows)))
        return gathered.view(*entity_ids.shape, self.entity_size).to(entity_ids.device)

    def append(self, vectors: np.ndarray) -> int:
        """Give `vectors`, (n, entity_size), rows of their own past the end, in memory; the file stays as it is.

        Returns the first of these rows. An ablation's vectors are made from the table's, so no row joins it.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.entity_size:
            raise InputError(f"appended vectors have shape (n, {self.entity_size}), got {vectors.shape}")
        if self._control != "true":
            raise InputError(f"rows are appended to a table before its control, this one is {self._control!r} already")
        first, needed = self.num_rows, self.num_rows + len(vectors)
        in_file, used = len(self._vectors), first - len(self._vectors)
        if needed - in_file > len(self._added):  # doubled, so that rows may come one by one
            room = np.empty((2 * (needed - in_file), self.entity_size), dtype=np.float32)
            room[:used] = self._added[:used]
            self._added = room
        self._added[used : needed - in_file] = vectors
        self._read, self.num_rows = self._read_both, needed
        return first

    def _read_both(self, rows: np.ndarray) -> np.ndarray:
        in_file = len(self._vectors)
        out, new = np.empty((len(rows), self.entity_size), dtype=np.float32), rows >= in_file
        out[~new] = self._vectors[rows[~new]]
        out[new] = self._added[rows[new] - in_file]
        return out

    def controlled(self, kind: Control, seed: int = 0) -> EntityTable:
        """The same table with its knowledge changed, for ablations. Shape, masks and row 0 stay.

        true: unchanged. zero: every vector 0. shuffled: entities 1.. exchange their vectors by one fixed permutation.
        random: N(0, s) with the table's own spread s, each row fixed by (seed, row).
        """
        if kind == "true":
            return self
        table = EntityTable.__new__(EntityTable)
        table.num_rows, table.entity_size, table._vectors = self.num_rows, self.entity_size, self._vectors
        table._control = kind
        table._handle = _register(table)
        width, read = self.entity_size, self._read
        if kind == "zero":
            table._read = lambda rows: np.zeros((len(rows), width), dtype=np.float32)
        elif kind == "shuffled":
            order = np.random.default_rng(seed).permutation(np.arange(1, self.num_rows))
            order = np.concatenate([[0], order])
            table._read = lambda rows: read(order[rows])
        elif kind == "random":
            sample = read(np.linspace(1, self.num_rows - 1, num=min(self.num_rows - 1, 4096), dtype=np.int64))
            spread = float(sample.std()) if sample.size else 0.0
            table._read = lambda rows: _normal_rows(rows, width, seed) * np.float32(spread) * (rows > 0)[:, None]
        else:
            raise InputError(f"a control is one of true, zero, shuffled, random, got {kind!r}")
        return table

    def __deepcopy__(self, memo: dict[int, object]) -> EntityTable:
        return self  # read-only: a copied model shares the map instead of reading gigabytes

    def __repr__(self) -> str:
        return f"EntityTable({self.num_rows} rows x {self.entity_size})"


_TABLES: WeakValueDictionary[int, EntityTable] = WeakValueDictionary()
_HANDLES = itertools.count()


def _register(table: EntityTable) -> int:
    """The number by which a compiled graph, which holds tensors and numbers only, finds the table."""
    handle = next(_HANDLES)
    _TABLES[handle] = table
    return handle


# Named after this module: a copy loaded from a model folder has tables of its own.
@torch.library.custom_op(f"{re.sub(r'[^A-Za-z0-9]', '_', __name__)}::gather", mutates_args=())
def _gather(entity_ids: torch.Tensor, handle: int, entity_size: int) -> torch.Tensor:
    return _TABLES[handle]._gather(entity_ids)


@_gather.register_fake
def _(entity_ids: torch.Tensor, handle: int, entity_size: int) -> torch.Tensor:
    return entity_ids.new_empty((*entity_ids.shape, entity_size), dtype=torch.float32)


def _map_safetensors(path: Path) -> np.ndarray:
    """The tensor as a read-only numpy memory map (the safetensors library maps whole tensors, not gathers)."""
    if not path.is_file():
        raise InputError(f"no entity vectors at {path}: `ernie-kg kg embed` writes {FILE_NAME}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size > size - 8:
            raise InputError(f"{path} is truncated or not a safetensors file: header of {header_size} bytes")
        try:
            header = json.loads(file.read(header_size))
        except ValueError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
    entry = header.get(TENSOR_NAME)
    if entry is None:
        names = ", ".join(name for name in header if name != "__metadata__")
        raise InputError(f"{path} holds no tensor {TENSOR_NAME!r}, it holds: {names}")
    if entry["dtype"] not in _NUMPY_DTYPES:
        raise InputError(f"{TENSOR_NAME} is F32, F16 or F64, {path} holds {entry['dtype']}")
    begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
    if end > size:
        raise InputError(f"{path} is truncated: {end} bytes announced, {size} there; write it again")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)  # no read-ahead around each row: 384 cold rows of 2 GB in 3 ms, not 700
    dtype, shape = _NUMPY_DTYPES[entry["dtype"]], tuple(entry["shape"])
    return np.frombuffer(mapped, dtype=dtype, count=math.prod(shape), offset=begin).reshape(shape)


def _normal_rows(rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """N(0, 1) values that depend on (seed, row, column) alone: no table of them need exist.

    Two splitmix64 hashes a value, then Box-Muller.
    """
    index = (rows[:, None].astype(np.uint64) * np.uint64(width) + np.arange(width, dtype=np.uint64)) * np.uint64(2)
    start = np.random.default_rng(seed).integers(0, 2**63, dtype=np.uint64)
    first, second = (_uniform(index + start + np.uint64(step)) for step in (0, 1))
    return (np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)).astype(np.float32)


def _uniform(counter: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea & Flood 2014) of a uint64 counter, as a double in (0, 1]."""
    mixed = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return ((mixed >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
