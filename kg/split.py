"""Train/dev/test: documents by a stable hash of their id, triples without inverse or duplicate leakage."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from kg.errors import InputError

SplitName = Literal["train", "dev", "test"]


class TripleSplit(NamedTuple):
    """Three disjoint parts of a triple array, each int32 of shape (n, 3), in the order of the input."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def split_of(key: str, *, seed: int, dev: float, test: float) -> SplitName:
    """The split a document belongs to: a function of its id and the seed alone, the same in every stage.

    dev, test: shares in [0, 1). Test is cut first, so another dev share leaves the test set as it is.

    >>> split_of("Ada Lovelace", seed=0, dev=0.0, test=0.0)
    'train'

    Raises:
        InputError: a share is negative, or both leave nothing for training.
    """
    _check_shares(dev, test, "dev")
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=f"split:{seed}".encode())
    place = int.from_bytes(digest.digest(), "big") / 2**64
    if place < test:
        return "test"
    return "dev" if place < test + dev else "train"


def split_triples(triples: np.ndarray, *, seed: int, valid: float, test: float) -> TripleSplit:
    """Holds out triples such that none can be read off the training triples.

    Triples are held out by unordered entity pair: all triples joining two entities, in either direction and
    by any relation, lie in one split. A pair is held out only while its entities and relations keep a
    training triple, so no validation or test triple asks for a row that was never trained. The split depends on the
    set of triples and the seed, not on their order.

    triples: int, shape (n, 3): head, relation, tail.
    valid, test: shares in [0, 1) of the triples; a share is not reached when too few pairs can be spared.

    Raises:
        InputError: a share is negative, or both leave nothing for training.
    """
    _check_shares(valid, test, "valid")
    triples = np.asarray(triples, dtype=np.int32).reshape(-1, 3)
    held_out = np.zeros(len(triples), np.int8)
    spare = _Spare(triples)
    order, bounds = _groups_by_pair(triples, seed)
    for name, share in ((2, test), (1, valid)):
        room = round(share * len(triples))
        for start, end in pairwise(bounds):
            if room == 0:
                break
            group = order[start:end]
            if end - start > room or held_out[group[0]] or not spare.take(triples[group].tolist()):
                continue
            held_out[group] = name
            room -= end - start
    return TripleSplit(*(triples[held_out == name] for name in (0, 1, 2)))


class _Spare:
    """How many training triples every entity and relation still has."""

    def __init__(self, triples: np.ndarray) -> None:
        self.entities = np.bincount(triples[:, [0, 2]].ravel()).tolist()
        self.relations = np.bincount(triples[:, 1]).tolist()

    def take(self, group: list[list[int]]) -> bool:
        """Takes the group out of training unless that leaves an entity or a relation without a triple."""
        self._add(group, -1)
        spared = all(self.entities[h] and self.relations[r] and self.entities[t] for h, r, t in group)
        if not spared:
            self._add(group, 1)
        return spared

    def _add(self, group: list[list[int]], count: int) -> None:
        for head, relation, tail in group:
            self.entities[head] += count
            self.entities[tail] += count
            self.relations[relation] += count


def _groups_by_pair(triples: np.ndarray, seed: int) -> tuple[np.ndarray, list[int]]:
    """Triple numbers grouped by unordered entity pair, groups in random order; where each starts, and the end."""
    ends = triples[:, [0, 2]].astype(np.int64)
    unique, pair_of_triple = np.unique((ends.min(axis=1) << 32) | ends.max(axis=1), return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(unique))[pair_of_triple]
    order = np.argsort(place, kind="stable")
    _, starts = np.unique(place[order], return_index=True)
    return order, [*starts.tolist(), len(order)]


def _check_shares(dev: float, test: float, name: str) -> None:
    if dev < 0 or test < 0 or not dev + test < 1:
        raise InputError(f"expected shares {name} and test of at least 0 and below 1 together, got {dev} and {test}")
