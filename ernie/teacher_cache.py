"""A teacher's answers on disk: asked once, read by every epoch and every student of the same teacher and data.

Only answers: class logits, or draws from its distributions over word pieces and entities. States and attention maps
would take megabytes an example (16 TB for what TinyBERT trains on), answers take bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ernie.errors import InputError

INDEX, OUTPUTS, FILLED = "index.json", "outputs.bin", "filled.bin"


def cache_bytes(counts: np.ndarray, *, width: int, dtype: str) -> int:
    """Bytes a full cache takes; see `TeacherCache`."""
    return int(counts.sum()) * width * np.dtype(dtype).itemsize + len(counts)


class TeacherCache:
    """Outputs of fixed width, some of them for each row; written in any order, each row marked once it is written.

    A process that dies loses the rows it had not marked; the next asks the teacher for those alone.
    """

    def __init__(
        self, folder: Path, *, key: Mapping[str, str | int], counts: np.ndarray, width: int, dtype: str = "<f4"
    ) -> None:
        """Opens the folder, or makes it.

        key: what the outputs depend on by name (teacher, data, seed, …), compared one by one with what is there.
        counts: outputs of each row, (num_rows,). width: numbers of an output.

        Raises:
            InputError: made by another teacher, of other data or with another seed; damaged; no room on the disk.
        """
        self.folder = Path(folder)
        counts = np.asarray(counts, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.width, self.dtype = width, np.dtype(dtype)
        described: dict[str, Any] = {
            "key": dict(key),
            "rows": len(counts),
            "outputs": int(counts.sum()),
            "width": width,
            "dtype": self.dtype.str,
        }
        if (self.folder / INDEX).exists():
            self._check(described)
        else:
            self._make(described, cache_bytes(counts, width=width, dtype=dtype))
        shape = (described["outputs"], width)
        self._outputs = np.memmap(self.folder / OUTPUTS, dtype=self.dtype, mode="r+", shape=shape)
        self._filled = np.memmap(self.folder / FILLED, dtype=np.uint8, mode="r+", shape=(described["rows"],))

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that are not there yet, each once, rising."""
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        return wanted[self._filled[wanted] == 0]

    def put(self, row: int, outputs: np.ndarray) -> None:
        """outputs: (counts[row], width). Marked by the next `flush`."""
        self._outputs[self._starts[row] : self._starts[row + 1]] = outputs
        self._filled[row] = 1

    def flush(self) -> None:
        """Everything put so far is on the disk, outputs before their marks."""
        self._outputs.flush()
        self._filled.flush()

    def __getitem__(self, row: int) -> np.ndarray:
        """(counts[row], width); asking for a row that is not there is a fault of the caller's."""
        assert self._filled[row], f"row {row} was never asked of the teacher"
        return np.array(self._outputs[self._starts[row] : self._starts[row + 1]])

    def _make(self, described: Mapping[str, Any], size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise InputError(
                f"{self.folder}: the teacher's outputs would take {size / 1e9:,.1f} GB, the disk has "
                f"{free / 1e9:,.1f} GB left; train fewer steps, draw fewer samples, or give another folder"
            )
        rows, outputs, width = (described[name] for name in ("rows", "outputs", "width"))
        for name, length in ((OUTPUTS, outputs * width * self.dtype.itemsize), (FILLED, rows)):
            with (self.folder / name).open("wb") as file:
                file.truncate(length)
        unfinished = self.folder / (INDEX + ".tmp")
        unfinished.write_text(json.dumps(described, indent=1), encoding="utf-8")
        unfinished.rename(self.folder / INDEX)

    def _check(self, described: Mapping[str, Any]) -> None:
        try:
            found = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            there = {**found.pop("key"), **found}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.folder}/{INDEX}: not readable ({error}); delete the folder") from None
        wanted = {**described["key"], **{name: value for name, value in described.items() if name != "key"}}
        other = [name for name in wanted if there.get(name) != wanted[name]]
        if other:
            raise InputError(
                f"{self.folder} holds outputs of another {other[0]} ({there.get(other[0])!r}, this run has "
                f"{wanted[other[0]]!r}); give an empty folder, or the same {', '.join(other)}"
            )
        sizes = {
            OUTPUTS: there["outputs"] * self.width * self.dtype.itemsize,
            FILLED: there["rows"],
        }
        for name, size in sizes.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != size:
                raise InputError(
                    f"{path}: missing or not {size:,} bytes long; delete the folder to ask the teacher anew"
                )
