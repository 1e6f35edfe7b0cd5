"""Arrays to and from places in files, by plain reads and writes: what is resident is what was asked for.

A memory-mapped table counts every page it touched as resident until the kernel takes it back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kg.errors import InputError

NAMES = {"float32": "F32", "int64": "I64", "uint8": "U8"}
"""safetensors' names of types."""
AT_ONCE = 1 << 28
"""Bytes of one system call; Linux moves at most 2 GB."""


class PickedRows:
    """Some rows of a table on disk, as an array is read: by slices, or by positions among the picked rows.

    rows: int, ascending. shape: (len(rows), dim).
    """

    def __init__(self, table: TableFile, rows: np.ndarray) -> None:
        self.table, self.rows, self.shape = table, rows, (len(rows), table.dim)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """float32 (n, dim); where the rows lie close together, by one read."""
        rows = self.rows[places]
        if not len(rows):
            return np.empty((0, self.table.dim), np.float32)
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first <= 2 * len(rows):
            return self.table.block(first, last)[rows - first]
        return self.table.rows(rows)


def read_into(file: int, array: np.ndarray, offset: int) -> int:
    """Fills a C-contiguous array from `offset` on; returns its bytes.

    Raises:
        InputError: the file ends before the array is full.
    """
    view = array.data.cast("B") if array.size else memoryview(b"")
    done = 0
    while done < len(view):
        got = os.preadv(file, [view[done : done + AT_ONCE]], offset + done)
        if got == 0:
            raise InputError(
                f"a file of the training ends at byte {offset + done:,}, {len(view) - done:,} bytes too early; "
                "it is damaged, delete the folder and train again"
            )
        done += got
    return len(view)


def write_all(file: int, array: np.ndarray, offset: int) -> int:
    """Writes a C-contiguous array at `offset`; returns its bytes."""
    view = array.data.cast("B") if array.size else memoryview(b"")
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done : done + AT_ONCE], offset + done)
    return len(view)


class TableFile:
    """A safetensors file with one float32 table, read by rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        (entry,) = (value for name, value in header.items() if name != "__metadata__")
        assert entry["dtype"] == "F32", "tables are written as float32"
        self.num_rows, self.dim = entry["shape"]
        self._begin = 8 + length + entry["data_offsets"][0]

    @staticmethod
    def write(path: Path, name: str, shape: tuple[int, int], blocks: Iterable[np.ndarray]) -> None:
        """Streams blocks of float32 rows into a file, which stands under its name once it is whole."""
        rows = 0

        def checked() -> Iterator[np.ndarray]:
            nonlocal rows
            for block in blocks:
                assert block.dtype == np.float32, "the header says F32"
                assert block.shape[1:] == shape[1:], "every row has the table's width"
                rows += len(block)
                yield block
            assert rows == shape[0], f"{rows} rows came where {shape[0]} were announced"

        _write(path, {name: ("F32", list(shape), 4 * shape[0] * shape[1])}, checked(), {})

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, float32 (n, dim)."""
        found = np.empty((stop - start, self.dim), np.float32)
        with self.path.open("rb", buffering=0) as file:
            read_into(file.fileno(), found, self._begin + start * self.dim * 4)
        return found

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of the whole table."""
        for start in range(0, self.num_rows, size):
            yield start, self.block(start, min(start + size, self.num_rows))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Any rows, float32 (len(rows), dim), one read each."""
        found = np.empty((len(rows), self.dim), np.float32)
        with self.path.open("rb", buffering=0) as file:
            for place, row in enumerate(rows.tolist()):
                read_into(file.fileno(), found[place], self._begin + row * self.dim * 4)
        return found


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file of float32, int64 or uint8 arrays, written from where they lie: safetensors' own writer copies
    them first, and a table may be half of the memory."""
    entries = {name: (NAMES[of.dtype.name], list(of.shape), of.nbytes) for name, of in tensors.items()}
    _write(path, entries, tensors.values(), metadata or {})


def read_tensors(path: Path, into: Mapping[str, np.ndarray]) -> None:
    """Fills arrays of the shapes and types in the file, in place; tensors that nobody named are passed over."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, array in into.items():
            entry = header[name]
            kind = (entry["dtype"], entry["shape"])
            assert kind == (NAMES[array.dtype.name], list(array.shape)), f"{name} was written as {kind}"
            read_into(file.fileno(), array, 8 + length + entry["data_offsets"][0])


def _write(
    path: Path, entries: Mapping[str, tuple[str, list[int], int]], arrays: Iterable[np.ndarray], metadata: Mapping
) -> None:
    """entries: type, shape and bytes of each tensor, in the order of `arrays`, which may come in pieces."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            if array.size:
                file.write(np.ascontiguousarray(array).data.cast("B"))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
