"""Training triples of a graph on disk, and a few held out, without ever having all triples in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kg.graph import GraphFacts
from kg.held_out import LeakFilter
from kg.partitioned.buckets import Source
from kg.split import Spare

MOST_HELD_OUT = 10_000
"""Triples held out for validation, and as many for the test, at most: each is ranked against very many entities."""
CANDIDATES_PER_TRIPLE = 8
"""Triples looked at for each that is to be held out: most pairs of a sparse graph cannot be spared."""
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class HeldOut(NamedTuple):
    """valid, test: int32 (n, 3)."""

    valid: np.ndarray
    test: np.ndarray


class GraphTriples:
    """The graph's triples in blocks, those of one published split or all, without what tasks will ask for.

    Called again it reads again. dropped: what the leak filter took, by reason, known after the first whole reading.
    """

    def __init__(self, graph: GraphFacts, leak_free: LeakFilter, *, split: int | None = None) -> None:
        self.graph, self.leak_free, self.split = graph, leak_free, split
        self.dropped: Counter[str] = Counter()
        self._counted = False

    def __call__(self) -> Iterator[np.ndarray]:
        dropped: Counter[str] = Counter()
        for triples, splits in self.graph.blocks():
            if self.split is not None:
                assert splits is not None, "only a graph with a published split is asked for one"
                triples = triples[splits == self.split]
            kept, reasons = self.leak_free(triples)
            dropped.update(reasons)
            yield kept
        if not self._counted:
            self.dropped, self._counted = dropped, True


def without(source: Source, held_out: HeldOut) -> Source:
    """The source's triples that join no held-out pair, in either direction and by any relation."""
    pairs = np.unique(np.concatenate([_pairs(part) for part in held_out]))

    def read() -> Iterator[np.ndarray]:
        for block in source():
            keys = _pairs(block)
            place = np.searchsorted(pairs, keys).clip(max=max(len(pairs) - 1, 0))
            yield block[pairs[place] != keys] if len(pairs) else block

    return read


def hold_out(
    source: Source, *, num_entities: int, num_relations: int, seed: int, valid: float, test: float
) -> tuple[HeldOut, int]:
    """Held-out triples as `kg.split.split_triples` chooses them, but by a hash of the pair, and few: reads twice.

    All triples that join two entities lie in one part, and an entity or relation keeps a training triple; at most
    `MOST_HELD_OUT` a part. valid, test: shares of the triples. Returns the triples, and how many the source has.
    """
    entities, relations = np.zeros(num_entities + 1, np.int32), np.zeros(num_relations, np.int64)
    total = 0
    for block in source():
        total += len(block)
        relations += np.bincount(block[:, 1], minlength=num_relations)
        for column in (0, 2):
            rows, counts = np.unique(block[:, column], return_counts=True)
            entities[rows] += counts.astype(np.int32)
    room = {name: min(round(share * total), MOST_HELD_OUT) for name, share in (("test", test), ("valid", valid))}
    share = min(1.0, CANDIDATES_PER_TRIPLE * sum(room.values()) / max(total, 1))
    below = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    found = [np.zeros((0, 3), np.int32)]
    found += [block[_hashes(_pairs(block), seed) <= below] for block in source()]
    return _taken(np.concatenate(found), Spare(entities, relations), room, seed), total


def _taken(candidates: np.ndarray, spare: Spare, room: dict[str, int], seed: int) -> HeldOut:
    """Pairs in the order of their hash, each to the first part that has room, unless training could not spare it."""
    keys = _pairs(candidates)
    order = np.lexsort((keys, _hashes(keys, seed)))
    candidates, keys = candidates[order], keys[order]
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys)) if len(keys) else np.zeros(0, np.int64)
    parts: dict[str, list[np.ndarray]] = {"valid": [candidates[:0]], "test": [candidates[:0]]}
    start = 0
    for end in ends.tolist():
        group, start = candidates[start:end], end
        name = next((name for name, left in room.items() if left >= len(group)), None)
        if name is not None and spare.take(group.tolist()):
            parts[name].append(group)
            room[name] -= len(group)
    return HeldOut(np.concatenate(parts["valid"]), np.concatenate(parts["test"]))


def _pairs(triples: np.ndarray) -> np.ndarray:
    """The unordered pair of each triple as one number, uint64."""
    ends = triples[:, [0, 2]].astype(np.uint64)
    return (ends.min(axis=1) << np.uint64(32)) | ends.max(axis=1)


def _hashes(keys: np.ndarray, seed: int) -> np.ndarray:
    """uint64, evenly spread (the finaliser of splitmix64; Steele et al. 2014)."""
    mixed = keys + np.uint64(np.random.SeedSequence([seed, 0x5EED]).generate_state(1, np.uint64)[0])
    for shift, mixer in zip((30, 27), MIXERS, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(mixer)
    return mixed ^ (mixed >> np.uint64(31))
