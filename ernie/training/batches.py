"""Batches as a pure function of (epoch, index): a resumed run needs no loader state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ernie.errors import InputError
from ernie.training.reproducibility import keyed_generator

POOL_BATCHES = 50
"""Examples are sorted by length within pools of this many batches: little padding, still a random order."""


class Batches(Protocol):
    """What the loop trains on."""

    def __len__(self) -> int:
        """Batches an epoch, at least one."""
        ...

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Batch `index` (0 … len - 1) of an epoch (0 …); the same numbers always give the same tensors."""
        ...


class Examples(Protocol):
    """Anything that can be asked for example number `row`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


Collate = Callable[[list[Any], int, np.ndarray], dict[str, Tensor]]


class ExampleBatches:
    """Shuffled, length-bucketed batches of a data set; every example once an epoch, the last batch may be smaller.

    dataset: examples by row number. lengths: one number an example, what padding costs (its word pieces).
    batch_size: examples a batch; with fewer examples than that the one batch holds them all.
    seed: with the epoch, decides the order. collate: (examples, epoch, rows) -> batch; rows are the examples' row
        numbers, int64, so that whatever it draws can be keyed by (seed, epoch, row).

    Raises:
        InputError: the data set is empty.
    """

    def __init__(
        self,
        dataset: Examples,
        *,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        collate: Collate,
    ) -> None:
        if len(dataset) == 0:
            raise InputError("expected at least one training example, but the data set is empty")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, but is {batch_size}")
        assert len(lengths) == len(dataset), "one length an example"
        self.dataset = dataset
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.collate = collate
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def rows(self, epoch: int, index: int) -> np.ndarray:
        """Row numbers of a batch, int64."""
        return self._plan(epoch)[index]

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        rows = self.rows(epoch, index)
        return self.collate([self.dataset[int(row)] for row in rows], epoch, rows)

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        return bucketed_order(self.lengths, self.batch_size, keyed_generator(self.seed, "order", epoch))


def bucketed_order(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of every batch: shuffle, sort by length within pools of `POOL_BATCHES` batches, cut, shuffle the batches.

    >>> batches = bucketed_order(np.array([5, 1, 5, 1]), 2, np.random.default_rng(0))
    >>> sorted(sorted(rows.tolist()) for rows in batches)
    [[0, 2], [1, 3]]
    """
    order = generator.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    ordered = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in pools])
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]
