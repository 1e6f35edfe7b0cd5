"""Which entity lies in which partition, in what order pairs of partitions are trained, and how many fit in memory.

Entity row r (from 1) lies in partition (r - 1) mod P, at place (r - 1) // P. Neighbouring rows part, so hubs, which
graphs tend to number first, spread over all partitions.

Training visits pairs of partitions. While a pair is in memory, every triple between the two is trained (buckets (a, b)
and (b, a)), and those inside one of them, bucket (a, a), on its first visit of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kg.errors import InputError

BASE_BYTES = 480_000_000
"""Resident memory of a process with torch, pyarrow and the compiled step, before any table."""
BYTES_PER_ROW = 64
"""A resident row besides its vector: two accumulators, two marks, the filter's offsets and their making."""
BYTES_PER_TRIPLE = 200
"""A resident triple: as int32, as int64, shuffled, and in the filter of negatives with what sorting it takes."""
TRIPLES_SHARE = 0.25
"""Of the memory that tables and triples share, how much triples get."""
FEWEST_TRIPLES = 65_536
"""In memory at once, at least: fewer make poor batches."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The split of entity rows 1..num_entities into partitions 0..num_partitions-1."""

    num_entities: int
    num_partitions: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_partitions <= self.num_entities:
            raise InputError(
                f"expected between 1 and {self.num_entities:,} partitions (there are so many entities), "
                f"got {self.num_partitions:,}"
            )

    @property
    def capacity(self) -> int:
        """Rows of the largest partition; the others have as many or one less."""
        return self.size(0)

    def size(self, partition: int) -> int:
        return (self.num_entities - partition + self.num_partitions - 1) // self.num_partitions

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Partition and place in it of entity rows, each of the shape and type of `rows`."""
        places, partitions = np.divmod(rows - 1, self.num_partitions)
        return partitions, places

    def rows(self, partitions: np.ndarray | int, places: np.ndarray) -> np.ndarray:
        """Entity rows; the way back from `locate`."""
        return places * self.num_partitions + partitions + 1


@dataclass(frozen=True, slots=True)
class Visit:
    """Partitions in memory together, first slot and second slot (one only when there is but one), and the buckets
    (partition of the head, partition of the tail) trained meanwhile."""

    slots: tuple[int, ...]
    buckets: tuple[tuple[int, int], ...]


def visits(num_partitions: int, epoch: int) -> list[Visit]:
    """Every bucket once, in an order in which each visit but the first brings in one new partition.

    One partition stays while the others pass it, then the last to come stays. Odd epochs walk backwards, so that an
    epoch starts with the pair that the one before ended with. See `num_loads`.
    """
    if num_partitions == 1:
        return [Visit((0,), ((0, 0),))]
    found, anchor, anchor_slot, seen = [], 0, 0, set()
    passing = list(range(1, num_partitions))
    while passing:
        for other in passing:
            slots = (anchor, other) if anchor_slot == 0 else (other, anchor)
            found.append(Visit(slots, _buckets(slots, seen)))
        anchor, anchor_slot = passing.pop(), 1 - anchor_slot
    return found if epoch % 2 == 0 else found[::-1]


def num_loads(num_partitions: int, epochs: int) -> int:
    """How often a partition is read from disk: the fewest that is possible for an epoch of P (P - 1) / 2 pairs."""
    if num_partitions == 1:
        return min(epochs, 1)
    pairs = num_partitions * (num_partitions - 1) // 2
    return (pairs + 1) * min(epochs, 1) + (pairs - 1) * max(epochs - 1, 0)


def rounds(num_partitions: int, num_processes: int, epoch: int) -> list[list[list[Visit]]]:
    """Rounds of visits by process: inside a round no two visits share a partition, over the rounds every pair meets.

    num_partitions: even, at least 2 * num_processes. The circle method of tournaments: partition 0 stays, the others
    turn. Odd epochs go backwards.
    """
    assert num_partitions % 2 == 0, "a tournament wants an even number"
    assert num_partitions >= 2 * num_processes, "every process needs its own pair"
    turning, found, seen = list(range(1, num_partitions)), [], set()
    for _ in range(num_partitions - 1):
        ring = [0, *turning]
        pairs = [(ring[k], ring[-1 - k]) for k in range(num_partitions // 2)]
        met = [Visit(pair, _buckets(pair, seen)) for pair in pairs]
        found.append([met[process::num_processes] for process in range(num_processes)])
        turning = turning[-1:] + turning[:-1]
    return found if epoch % 2 == 0 else found[::-1]


def _buckets(slots: tuple[int, ...], seen: set[int]) -> tuple[tuple[int, int], ...]:
    """Buckets of a pair: between the two, and inside those not `seen` yet, which then are."""
    fresh = [(partition, partition) for partition in slots if partition not in seen]
    seen.update(slots)
    return (*fresh, (slots[0], slots[1]), (slots[1], slots[0]))


@dataclass(frozen=True, slots=True)
class Plan:
    """num_partitions, and how many triples a process holds at once, at most."""

    num_partitions: int
    triples_at_once: int


def plan(*, num_entities: int, dim: int, memory_gb: float, processes: int = 1, partitions: int = 0) -> Plan:
    """How to stay within `memory_gb` (10^9 bytes, all processes together).

    A process gets an equal share. After `BASE_BYTES`, a quarter of the share is for triples (`BYTES_PER_TRIPLE`) and
    the rest for two partitions (4 * dim + `BYTES_PER_ROW` a row); P is the smallest number for which they fit.
    One process that can hold the whole table gets P = 1. Several get an even P of at least two a process.

    partitions: P as the caller wants it; 0 = by this rule.

    Raises:
        InputError: the share leaves nothing for tables, or P does not suit the number of processes or entities.
    """
    free = memory_gb * 1e9 / processes - BASE_BYTES
    in_rows = int((free - max(TRIPLES_SHARE * free, FEWEST_TRIPLES * BYTES_PER_TRIPLE)) / (4 * dim + BYTES_PER_ROW))
    triples = max(FEWEST_TRIPLES, int(TRIPLES_SHARE * free / BYTES_PER_TRIPLE))
    if partitions == 0:
        if in_rows < 2:
            least = processes * (BASE_BYTES + FEWEST_TRIPLES * BYTES_PER_TRIPLE * 2) / 1e9
            raise InputError(
                f"memory_gb {memory_gb} cannot hold {processes} training process(es); give at least {least:.2f}"
            )
        partitions = 1 if processes == 1 and in_rows > num_entities else max(2, -(-2 * num_entities // in_rows))
        if processes > 1:
            partitions = max(2 * processes, partitions + partitions % 2)
    if processes > 1 and (partitions % 2 or partitions < 2 * processes):
        raise InputError(
            f"expected an even number of partitions, at least {2 * processes} for {processes} processes, "
            f"got {partitions}"
        )
    return Plan(Layout(num_entities, partitions).num_partitions, triples)
