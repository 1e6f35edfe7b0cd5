"""Instances on disk: flat arrays, memory-mapped, one folder a split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from kg.errors import InputError
from pretrain.instances import Instance

INDEX = "index.json"
REMEDY = "run `ernie-kg pretrain prepare` again"

ARRAYS = {
    "input_ids": "one a word piece; uint16 where the vocabulary fits, else uint32",
    "entity_ids": "one a mention: row of the entity table",
    "entity_positions": "one a mention: index of its first word piece in its instance",
    "entity_lengths": "one a mention: its word pieces",
    "lengths": "one an instance: word pieces",
    "entity_counts": "one an instance: mentions",
    "second_starts": "one an instance: index at which token type 1 begins",
    "next_sentence_labels": "one an instance: 0 the true next, 1 a random one, -100 a lone sentence",
}
"""The files of a split (`NAME.bin`, little-endian, no header) and what they hold; dtypes stand in index.json."""


WRITTEN_AT_ONCE = 2048


def array_dtypes(vocab_size: int) -> dict[str, np.dtype]:
    small = {
        "input_ids": "<u2" if vocab_size <= 2**16 else "<u4",
        "entity_ids": "<i4",
        "entity_positions": "<u2",
        "entity_lengths": "<u2",
        "lengths": "<u2",
        "entity_counts": "<u2",
        "second_starts": "<u2",
        "next_sentence_labels": "<i2",
    }
    return {name: np.dtype(small[name]) for name in ARRAYS}


class InstanceWriter:
    """Appends instances to a split's files, a few thousand at a time, and writes its index.json at the end.

    described: what a reader must know of the tokenizer and the graph; kept in index.json as it is.
    """

    def __init__(self, folder: Path, *, vocab_size: int, described: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.described = folder, dict(described)
        self.dtypes = array_dtypes(vocab_size)
        self.sizes = dict.fromkeys(ARRAYS, 0)
        self._waiting: list[Instance] = []
        self._files: dict[str, IO[bytes]] = {name: (folder / f"{name}.bin").open("wb") for name in ARRAYS}

    def __enter__(self) -> InstanceWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._flush()
        for file in self._files.values():
            file.close()
        if kind is None:
            arrays = {name: {"dtype": self.dtypes[name].str, "size": size} for name, size in self.sizes.items()}
            content = {**self.described, "arrays": arrays}
            (self.folder / INDEX).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def append(self, instance: Instance) -> None:
        self._waiting.append(instance)
        if len(self._waiting) >= WRITTEN_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        for name, array in _flat(self._waiting).items():
            self._files[name].write(array.astype(self.dtypes[name]).tobytes())
            self.sizes[name] += len(array)
        self._waiting = []


class Instances:
    """A split of an instances artifact; opening maps files and reads only the lengths.

    Indexing by row gives the features of `ernie.inputs` (unpadded arrays) and `entity_lengths` beside them.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InputError: no index, a file missing or of another size than the index says, or counts that disagree.
        """
        self.folder = Path(folder)
        self.described = _read_index(self.folder)
        arrays = {name: self._map(name) for name in ARRAYS}
        self.arrays = arrays
        self.lengths = np.asarray(arrays["lengths"], dtype=np.int64)
        self._starts = _starts(self.lengths)
        self._entity_starts = _starts(np.asarray(arrays["entity_counts"], dtype=np.int64))
        if self._starts[-1] != len(arrays["input_ids"]) or self._entity_starts[-1] != len(arrays["entity_ids"]):
            raise InputError(f"{self.folder}: lengths and arrays disagree; {REMEDY}")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        tokens = slice(self._starts[row], self._starts[row + 1])
        mentions = slice(self._entity_starts[row], self._entity_starts[row + 1])
        input_ids = self.arrays["input_ids"][tokens].astype(np.int64)
        types = (np.arange(len(input_ids)) >= self.arrays["second_starts"][row]).astype(np.int64)
        return {
            "input_ids": input_ids,
            "token_type_ids": types,
            "entity_ids": self.arrays["entity_ids"][mentions].astype(np.int64),
            "entity_positions": self.arrays["entity_positions"][mentions].astype(np.int64),
            "entity_lengths": self.arrays["entity_lengths"][mentions].astype(np.int64),
            "next_sentence_label": np.asarray(self.arrays["next_sentence_labels"][row], dtype=np.int64),
        }

    def _map(self, name: str) -> np.ndarray:
        entry = self.described["arrays"][name]
        dtype, size = np.dtype(entry["dtype"]), entry["size"]
        path = self.folder / f"{name}.bin"
        found = path.stat().st_size if path.exists() else None
        if found != size * dtype.itemsize:
            came = "it is missing" if found is None else f"it has {found:,}"
            raise InputError(f"{path}: expected {size * dtype.itemsize:,} bytes, {came}; {REMEDY}")
        return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.exists():
        raise InputError(f"{path} does not exist; {REMEDY}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        missing = ARRAYS.keys() - described["arrays"].keys()
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not readable ({error}); {REMEDY}") from None
    if missing:
        raise InputError(f"{path}: arrays {sorted(missing)} are missing; {REMEDY}")
    return described


def _flat(instances: Sequence[Instance]) -> dict[str, np.ndarray]:
    """The arrays of ARRAYS for a few instances."""
    return {
        "input_ids": np.concatenate([i.input_ids for i in instances]),
        "entity_ids": np.concatenate([i.entity_ids for i in instances]),
        "entity_positions": np.concatenate([i.entity_positions for i in instances]),
        "entity_lengths": np.concatenate([i.entity_lengths for i in instances]),
        "lengths": np.array([len(i.input_ids) for i in instances]),
        "entity_counts": np.array([len(i.entity_ids) for i in instances]),
        "second_starts": np.array([i.second_start for i in instances]),
        "next_sentence_labels": np.array([i.next_sentence_label for i in instances]),
    }


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each row begins in a flat array, and the end: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)])
