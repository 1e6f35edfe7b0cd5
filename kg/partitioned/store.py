"""The partitions' files and the state that says which of them count: a kill at any moment loses no finished visit.

A partition is never overwritten. It is written beside its older version, and the state names the version that counts;
the state itself changes by one rename. What it does not name is left over from a killed run and goes.

partition-003.000017   float32: vectors (rows, dim), then Adagrad's accumulators (rows,); written by commit 17
shared-000017.safetensors   relation vectors and accumulators, state of the generator
state.json             versions, position, tallies
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kg.errors import InputError
from kg.partitioned.files import read_into, write_all
from kg.partitioned.layout import Layout

STATE = "state.json"
NUMBERS_AT_ONCE = 1 << 22  # of a block of the written table: 16 MB


@dataclass(slots=True)
class State:
    """Where training is. `step` counts finished visits, or with several processes finished rounds.

    versions: by partition, the commit that wrote it. started: the settings it began with. loss_curve: of whole epochs.
    epoch_loss, epoch_triples: sums over the running epoch. loads, bytes_read, bytes_written: of partitions.
    """

    started: dict[str, Any]
    versions: list[int]
    step: int = 0
    commit: int = 0
    loss_curve: list[float] = field(default_factory=list)
    validation_curve: list[dict[str, float]] = field(default_factory=list)
    best_mrr: float | None = None
    best_epoch: int = 0
    stopped_by: str = "epochs"
    epoch_loss: float = 0.0
    epoch_triples: int = 0
    triples_seen: int = 0
    seconds: float = 0.0
    loads: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def validated(self) -> int:
        """The epoch that was validated last; 0 = none yet."""
        return int(self.validation_curve[-1]["epoch"]) if self.validation_curve else 0

    def note(self, loss: float, triples: int, steps_per_epoch: int) -> None:
        """A step is over. loss: summed over its triples."""
        self.step += 1
        self.epoch_loss += loss
        self.epoch_triples += triples
        self.triples_seen += triples
        if self.step % steps_per_epoch == 0:
            self.loss_curve.append(self.epoch_loss / max(self.epoch_triples, 1))
            self.epoch_loss, self.epoch_triples = 0.0, 0


@dataclass(slots=True)
class Shared:
    """What every visit needs: relation vectors, their accumulators, and the generator's state (uint8)."""

    relations: Tensor
    accumulated: Tensor
    generator: Tensor


class Store:
    """Partition files in a folder."""

    def __init__(self, folder: Path, layout: Layout, dim: int) -> None:
        self.folder, self.layout, self.dim = folder, layout, dim
        folder.mkdir(parents=True, exist_ok=True)

    # --- partitions

    def path(self, partition: int, version: int) -> Path:
        return self.folder / f"partition-{partition:05d}.{version:08d}"

    def write(self, partition: int, version: int, vectors: Tensor, accumulated: Tensor) -> int:
        """A new file, on disk when this returns; returns its bytes. vectors: (rows, dim). accumulated: (rows,)."""
        with self.path(partition, version).open("wb", buffering=0) as file:
            written = write_all(file.fileno(), vectors.numpy(), 0)
            written += write_all(file.fileno(), accumulated.numpy(), written)
            os.fsync(file.fileno())
        return written

    def read(self, partition: int, version: int, vectors: Tensor, accumulated: Tensor) -> int:
        """Fills vectors (rows, dim) and accumulated (rows,) in place; returns the bytes."""
        with self.path(partition, version).open("rb", buffering=0) as file:
            got = read_into(file.fileno(), vectors.numpy(), 0)
            return got + read_into(file.fileno(), accumulated.numpy(), got)

    def table(self, versions: list[int], trained: np.ndarray) -> Iterator[np.ndarray]:
        """The whole table in blocks of rows: row 0 and rows not `trained` are zeros.

        trained: bool (num_entities + 1).
        """
        yield np.zeros((1, self.dim), np.float32)
        parts, at_once = self.layout.num_partitions, max(1, NUMBERS_AT_ONCE // (self.layout.num_partitions * self.dim))
        for start in range(0, self.layout.capacity, at_once):
            stop = min(start + at_once, self.layout.capacity)
            block = np.zeros((stop - start, parts, self.dim), np.float32)
            for partition in range(parts):
                rows = min(stop, self.layout.size(partition)) - start
                block[:rows, partition] = self._vectors(partition, versions[partition], start, rows)
            first = 1 + start * parts
            found = block.reshape(-1, self.dim)[: self.layout.num_entities + 1 - first]
            found[~trained[first : first + len(found)]] = 0.0
            yield found

    def _vectors(self, partition: int, version: int, start: int, rows: int) -> np.ndarray:
        found = np.empty((rows, self.dim), np.float32)
        with self.path(partition, version).open("rb", buffering=0) as file:
            read_into(file.fileno(), found, start * self.dim * 4)
        return found

    # --- state

    def commit(self, state: State, shared: Shared) -> None:
        """Makes the files that `state.versions` names the ones that count, then removes all others."""
        name = self._shared(state.commit)
        tensors = {field.name: getattr(shared, field.name).clone() for field in dataclasses.fields(shared)}
        save_file(tensors, self.folder / name)
        _to_disk(self.folder / name)
        unfinished = self.folder / (STATE + ".tmp")
        unfinished.write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
        _to_disk(unfinished)
        unfinished.rename(self.folder / STATE)
        _to_disk(self.folder)
        self.sweep(state)

    def load(self, started: dict[str, Any]) -> tuple[State, Shared] | None:
        """The last commit; None where there is none.

        Raises:
            InputError: it was made with other settings.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        state = State(**json.loads(path.read_text(encoding="utf-8")))
        wanted = json.loads(json.dumps(started))
        if state.started != wanted:
            other = sorted(
                name for name in wanted | state.started if wanted.get(name, ()) != state.started.get(name, ())
            )
            raise InputError(
                f"{self.folder} holds an unfinished training with another {', '.join(other)}; "
                "delete it, or go on with the settings it began with"
            )
        return state, Shared(**load_file(self.folder / self._shared(state.commit)))

    def sweep(self, state: State) -> None:
        """Removes partitions and shared files that `state` does not name."""
        kept = {self.path(partition, version).name for partition, version in enumerate(state.versions)}
        kept.add(self._shared(state.commit))
        for pattern in ("partition-*", "shared-*"):
            for path in self.folder.glob(pattern):
                if path.name not in kept:
                    path.unlink()

    @staticmethod
    def _shared(commit: int) -> str:
        return f"shared-{commit:08d}.safetensors"


class Residents:
    """Two slots of memory for partitions, laid so that whatever pair is in them is one table without a gap.

    The first slot ends, and the second begins, in the middle of one buffer: a partition with a row less than the
    largest leaves its gap outside. Row 0 of a table is the buffer's row before its first entity; nobody reads it.
    """

    def __init__(self, store: Store, versions: list[int]) -> None:
        """versions: by partition, changed in place when one is written."""
        self.store, self.layout, self.versions = store, store.layout, versions
        rows = self.layout.capacity * (1 if self.layout.num_partitions == 1 else 2) + 1
        self._vectors, self._accumulated = torch.zeros(rows, store.dim), torch.zeros(rows)
        self._held: list[tuple[int, int] | None] = [None, None]
        self._dirty: set[int] = set()
        self.loads = self.bytes_read = self.bytes_written = 0

    def bring(self, slots: tuple[int, ...], *, commit: int) -> None:
        """Has these partitions in their slots; a changed one that must go is written first, as of `commit`."""
        for slot, partition in enumerate(slots):
            if self._held[slot] == (partition, self.versions[partition]):
                continue
            self._write(slot, commit)
        for slot, partition in enumerate(slots):
            if self._held[slot] != (partition, self.versions[partition]):
                vectors, accumulated = self._rows(slot, partition)
                self.bytes_read += self.store.read(partition, self.versions[partition], vectors, accumulated)
                self.loads += 1
                self._held[slot] = partition, self.versions[partition]

    def tables(self, slots: tuple[int, ...]) -> tuple[Tensor, Tensor, dict[int, int]]:
        """Vectors and accumulators of the partitions at hand, (1 + rows, ...), as views; by partition, what to add to
        a place to get its row there. What is done to the views counts as a change."""
        self._dirty.update(range(len(slots)))
        first = self.layout.capacity - self.layout.size(slots[0])
        rows = 1 + sum(self.layout.size(partition) for partition in slots)
        before = {slots[0]: 1}
        if len(slots) == 2:
            before[slots[1]] = 1 + self.layout.size(slots[0])
        return self._vectors[first : first + rows], self._accumulated[first : first + rows], before

    def flush(self, commit: int) -> None:
        """Writes what was changed; it stays in memory."""
        for slot in (0, 1):
            self._write(slot, commit)

    def _write(self, slot: int, commit: int) -> None:
        held = self._held[slot]
        if held is None or slot not in self._dirty:
            return
        partition = held[0]
        self.bytes_written += self.store.write(partition, commit, *self._rows(slot, partition))
        self.versions[partition] = commit
        self._held[slot] = partition, commit
        self._dirty.discard(slot)

    def _rows(self, slot: int, partition: int) -> tuple[Tensor, Tensor]:
        """Vectors and accumulators of a slot, without row 0."""
        size, middle = self.layout.size(partition), self.layout.capacity + 1
        rows = slice(middle - size, middle) if slot == 0 else slice(middle, middle + size)
        return self._vectors[rows], self._accumulated[rows]


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
