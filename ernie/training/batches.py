"""Batches as a pure function of (epoch, index): a resumed run needs no loader state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Divisible(Batches, Protocol):
    """Batches that several processes can share."""

    def part(self, rank: int, world: int) -> Batches:
        """What process `rank` (0 … world - 1) gets: of batches with `world` times the examples every world-th one."""
        ...


class Examples(Protocol):
    """Anything that can be asked for example number `row`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


Collate = Callable[..., dict[str, Tensor]]


class ExampleBatches:
    """Shuffled, length-bucketed batches of a data set; every example once an epoch, the last batch may be smaller.

    dataset: examples by row number. lengths: one number an example, what padding costs (its word pieces).
    batch_size: examples a batch; with fewer examples than that the one batch holds them all.
    seed: with the epoch, decides the order. collate: (examples, epoch, rows) -> batch; rows are the examples' row
        numbers, int64, so that whatever it draws can be keyed by (seed, epoch, row). whole_batch: it
        is also given the rows of the whole batch, all processes' together.

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
        whole_batch: bool = False,
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
        self.collate, self.whole_batch = collate, whole_batch
        self.rank, self.world = 0, 1
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)

    def part(self, rank: int, world: int) -> ExampleBatches:
        """As `Divisible`; the rest of an epoch that is too small to give every process an example is left out.

        Raises:
            InputError: there are fewer examples than processes.
        """
        if len(self.dataset) < world:
            raise InputError(f"{len(self.dataset)} training examples are too few for {world} processes; start fewer")
        mine = ExampleBatches(
            self.dataset,
            lengths=self.lengths,
            batch_size=self.batch_size,
            seed=self.seed,
            collate=self.collate,
            whole_batch=self.whole_batch,
        )
        mine.rank, mine.world = rank, world
        return mine

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size * self.world)
        return whole + (rest >= self.world)

    def rows(self, epoch: int, index: int) -> np.ndarray:
        """Row numbers of a batch, int64, all processes' together."""
        return self._plan(epoch)[index]

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        everyones = self.rows(epoch, index)
        rows = everyones[self.rank :: self.world]
        whole = (everyones,) if self.whole_batch else ()
        return self.collate([self.dataset[int(row)] for row in rows], epoch, rows, *whole)

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        generator = keyed_generator(self.seed, "order", epoch)
        plan = bucketed_order(self.lengths, self.batch_size * self.world, generator)
        return [rows for rows in plan if len(rows) >= self.world]


def part_of(batches: Batches, rank: int, world: int) -> Batches:
    """What process `rank` of `world` trains on: all of it where it is alone.

    Raises:
        InputError: the batches cannot be shared out.
    """
    if world == 1:
        return batches
    if not isinstance(batches, Divisible):
        raise InputError(f"{type(batches).__name__} cannot be shared by {world} processes; start a single one")
    return batches.part(rank, world)


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
