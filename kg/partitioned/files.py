"""Arrays to and from places in files, by plain reads and writes: what is resident is what was asked for.

A memory-mapped table counts every page it touched as resident until the kernel takes it back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kg.errors import InputError

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
        entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0] * shape[1]]}
        header = json.dumps({name: entry}).encode()
        header += b" " * (-len(header) % 8)
        unfinished, rows = path.with_name(path.name + ".tmp"), 0
        with unfinished.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for block in blocks:
                if not block.size:
                    continue
                assert block.dtype == np.float32, "the header says F32"
                assert block.shape[1:] == shape[1:], "every row has the table's width"
                file.write(np.ascontiguousarray(block).data.cast("B"))
                rows += len(block)
            assert rows == shape[0], f"{rows} rows came where {shape[0]} were announced"
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)

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
