"""Triples on disk, sorted by bucket (partition of the head, partition of the tail), never all in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from kg.errors import InputError
from kg.partitioned.files import read_into, write_all
from kg.partitioned.layout import Layout

TRIPLE_BYTES = 12
SORTED_AT_ONCE = 1 << 18

Source = Callable[[], Iterable[np.ndarray]]
"""Gives the training triples, whenever called the same: arrays (n, 3) of integers, head row, relation row, tail row."""


def blocks(triples: np.ndarray, size: int = SORTED_AT_ONCE) -> Source:
    """A source over an array, which may be memory-mapped."""
    return lambda: (triples[start : start + size] for start in range(0, len(triples), size))


class Buckets:
    """A file of int32 (n, 3): place of the head in its partition, relation row, place of the tail in its partition.

    starts: int64 (P * P + 1); bucket (a, b) is lines starts[a * P + b] to starts[a * P + b + 1]. Inside a bucket the
    triples keep their order.
    """

    def __init__(self, path: Path, layout: Layout, starts: np.ndarray) -> None:
        self.path, self.layout, self.starts = path, layout, starts

    @classmethod
    def sort(cls, source: Source, path: Path, layout: Layout, *, num_relations: int) -> Buckets:
        """Reads the source twice: to count, then to write each triple at its place.

        Raises:
            InputError: there is no triple, a row is none of the graph's, or the two readings differ.
        """
        parts = layout.num_partitions
        counts = np.zeros(parts * parts, np.int64)
        for block in _cut(source()):
            _check(block, layout.num_entities, num_relations)
            counts += np.bincount(_numbers(block, layout)[0], minlength=parts * parts)
        starts = np.append(0, counts.cumsum())
        if starts[-1] == 0:
            raise InputError("the source gave no triple, and training needs one; give a graph with triples")
        ends = starts[:-1].copy()
        with path.open("wb") as file:
            os.truncate(file.fileno(), int(starts[-1]) * TRIPLE_BYTES)
            for block in _cut(source()):
                _write_block(file.fileno(), block, layout, ends)
            os.fsync(file.fileno())
        if not np.array_equal(ends, starts[1:]):
            raise InputError("the source gave other triples when read again; training needs one that does not change")
        return cls(path, layout, starts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def count(self, buckets: Iterable[tuple[int, int]]) -> int:
        return sum(end - start for start, end in map(self._span, buckets))

    def read(self, buckets: Sequence[tuple[int, int]], *, before: dict[int, int], at_once: int) -> Iterator[np.ndarray]:
        """Triples of some buckets in turn, int64 (n, 3), in the fewest even parts of at most `at_once`.

        before: by partition, what to add to a place to get the row in the tables at hand.
        """
        spans = [(bucket, *self._span(bucket)) for bucket in buckets]
        total = sum(end - start for _, start, end in spans)
        num_parts = max(1, -(-total // at_once))
        cuts = [total * part // num_parts for part in range(num_parts + 1)]
        with self.path.open("rb", buffering=0) as file:
            for first, last in pairwise(cuts):
                if first < last:
                    yield self._part(file.fileno(), spans, before, first, last)

    def everything(self) -> Iterator[np.ndarray]:
        """All triples in blocks of int64 (n, 3), entity rows as the source gave them."""
        parts = self.layout.num_partitions
        for number in range(parts * parts):
            head, tail = divmod(number, parts)
            for block in self.read([(head, tail)], before={head: 0, tail: 0}, at_once=SORTED_AT_ONCE):
                block[:, 0] = self.layout.rows(head, block[:, 0])
                block[:, 2] = self.layout.rows(tail, block[:, 2])
                yield block

    def _part(
        self, file: int, spans: list[tuple[tuple[int, int], int, int]], before: dict[int, int], first: int, last: int
    ) -> np.ndarray:
        """Lines first to last of the spans laid end to end."""
        found, filled, passed = np.empty((last - first, 3), np.int64), 0, 0
        for (head, tail), start, end in spans:
            low, high = max(first - passed, 0), min(last - passed, end - start)
            passed += end - start
            if low >= high:
                continue
            lines = np.empty((high - low, 3), np.int32)
            read_into(file, lines, (start + low) * TRIPLE_BYTES)
            found[filled : filled + len(lines)] = lines
            found[filled : filled + len(lines), 0] += before[head]
            found[filled : filled + len(lines), 2] += before[tail]
            filled += len(lines)
        return found

    def _span(self, bucket: tuple[int, int]) -> tuple[int, int]:
        number = bucket[0] * self.layout.num_partitions + bucket[1]
        return int(self.starts[number]), int(self.starts[number + 1])


def _cut(found: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in found:
        for start in range(0, len(block), SORTED_AT_ONCE):
            yield np.asarray(block[start : start + SORTED_AT_ONCE])


def _numbers(block: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bucket number, place of the head and place of the tail of each triple."""
    heads, head_places = layout.locate(block[:, 0])
    tails, tail_places = layout.locate(block[:, 2])
    return heads.astype(np.int64) * layout.num_partitions + tails, head_places, tail_places


def _write_block(file: int, block: np.ndarray, layout: Layout, ends: np.ndarray) -> None:
    """Writes each triple behind what its bucket holds already; `ends` moves along."""
    numbers, heads, tails = _numbers(block, layout)
    order = np.argsort(numbers, kind="stable")
    lines = np.stack([heads, block[:, 1], tails], 1).astype(np.int32)[order]
    present, firsts = np.unique(numbers[order], return_index=True)
    for number, first, last in zip(present.tolist(), firsts.tolist(), [*firsts[1:].tolist(), len(lines)]):
        write_all(file, lines[first:last], int(ends[number]) * TRIPLE_BYTES)
        ends[number] += last - first


def _check(block: np.ndarray, num_entities: int, num_relations: int) -> None:
    if block.ndim != 2 or block.shape[1] != 3 or not np.issubdtype(block.dtype, np.integer):
        raise InputError(f"expected triples as integers of shape (n, 3), got {block.dtype} {block.shape}")
    for column, name, lowest, highest in ((0, "head", 1, num_entities), (2, "tail", 1, num_entities)):
        if len(block) and not lowest <= block[:, column].min() <= block[:, column].max() <= highest:
            raise InputError(f"a {name} is none of the entity rows {lowest} to {highest:,}; use rows of one graph")
    if len(block) and not 0 <= block[:, 1].min() <= block[:, 1].max() < num_relations:
        raise InputError(f"a relation is none of the relation rows 0 to {num_relations - 1:,}; use rows of one graph")
