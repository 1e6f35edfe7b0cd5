"""Train/dev/test: documents by a stable hash of their id, triples without inverse or duplicate leakage.

`split_triples` makes splits that leak nothing; `audit` says how much a published split leaks.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from kg.errors import InputError

OVERLAP = 0.9  # share of a relation's pairs that must be another's too before one is read off the other
MIN_PAIRS = 5  # a relation with fewer pairs proves nothing about another

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
    spare = Spare(np.bincount(triples[:, [0, 2]].ravel()).tolist(), np.bincount(triples[:, 1]).tolist())
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


def audit(
    train: np.ndarray,
    held_out: np.ndarray,
    num_relations: int,
    *,
    overlap: float = OVERLAP,
    min_pairs: int = MIN_PAIRS,
) -> dict[str, Any]:
    """How many held-out triples can be read off the training triples, and by which relations.

    A relation gives another one away when at least `overlap` of its (head, tail) pairs are pairs of the other as
    well, in the same direction (a duplicate) or turned round (an inverse; of itself: a symmetric relation). The
    share is counted over training and held-out triples together, so hand in validation and test as one: what is
    missing lowers it. FB15k is the known case, and FB15k-237 its cure (Toutanova and Chen 2015).

    train, held_out: int, shape (n, 3): head, relation, tail; repeated triples and self-loops give nothing away.
    min_pairs: relations with fewer pairs give nothing away.

    Returns counts of held-out triples, of which one can stand under several reasons:
        num_held_out; exact: a training triple; duplicate_relation, inverse_relation, symmetric_relation: the pair has
        a training triple with a relation that gives this one away; readable: any of these four, and readable_share
        of num_held_out; pair_in_train: any training triple joins the pair; unseen_entity, unseen_relation: no
        training triple has it. relations: those that give a held-out triple away, the worst first: relation,
        given_away_by, inverse (bool), overlap, num_held_out.

    >>> parents = np.array([[i, 0, i + 100] for i in range(10)])
    >>> found = audit(np.concatenate([parents[:9], parents[:, ::-1] + [0, 1, 0]]), parents[9:], 2)
    >>> found["inverse_relation"], found["readable_share"]
    (1, 1.0)
    """
    train, held_out = (np.asarray(part, dtype=np.int64).reshape(-1, 3) for part in (train, held_out))
    everything = _Pairs(np.concatenate([train, held_out]), num_relations)
    seen = _Pairs(train, num_relations)
    flags: dict[str, np.ndarray] = {name: np.zeros(len(held_out), bool) for name in ("exact", "pair_in_train")}
    relations = []
    for inverse in (False, True):
        givers, shares = everything.giveaways(inverse=inverse, overlap=overlap, min_pairs=min_pairs)
        which, codes = seen.meetings(held_out, inverse=inverse)
        own = codes // num_relations == codes % num_relations
        given = np.isin(codes, givers)
        flags["pair_in_train"][which] = True
        if inverse:
            flags["inverse_relation"] = _marked(which[given & ~own], len(held_out))
            flags["symmetric_relation"] = _marked(which[given & own], len(held_out))
        else:
            flags["exact"] = _marked(which[own], len(held_out))
            flags["duplicate_relation"] = _marked(which[given], len(held_out))
        relations += _giver_lines(codes[given], givers, shares, num_relations, inverse=inverse)
    reasons = ("exact", "duplicate_relation", "inverse_relation", "symmetric_relation")
    flags["readable"] = np.any([flags[reason] for reason in reasons], axis=0)
    heads_and_tails = np.isin(held_out[:, [0, 2]], train[:, [0, 2]])
    flags["unseen_entity"] = ~(heads_and_tails[:, 0] & heads_and_tails[:, 1])
    flags["unseen_relation"] = ~np.isin(held_out[:, 1], train[:, 1])
    counts = {name: int(mask.sum()) for name, mask in flags.items()}
    return {
        "num_held_out": len(held_out),
        **counts,
        "readable_share": counts["readable"] / max(1, len(held_out)),
        "relations": sorted(relations, key=lambda line: -line["num_held_out"]),
    }


class _Pairs:
    """Distinct triples sorted by (head, tail), to look up the relations of a pair."""

    def __init__(self, triples: np.ndarray, num_relations: int) -> None:
        triples = triples[triples[:, 0] != triples[:, 2]]
        order = np.lexsort((triples[:, 1], _pair_keys(triples)))
        keys, relations = _pair_keys(triples)[order], triples[order, 1]
        again = np.zeros(len(order), bool)
        again[1:] = (keys[1:] == keys[:-1]) & (relations[1:] == relations[:-1])
        self.triples = triples[order[~again]]
        self.keys, self.relations, self.num_relations = keys[~again], relations[~again], num_relations

    def meetings(self, triples: np.ndarray, *, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
        """Each of `triples` with each triple here that joins the same pair: (position, their relation * R + its own).

        inverse: the pair turned round.
        """
        keys = _pair_keys(triples[:, ::-1] if inverse else triples)
        first = np.searchsorted(self.keys, keys)
        counts = np.searchsorted(self.keys, keys, side="right") - first
        which = np.repeat(np.arange(len(keys)), counts)
        place = np.arange(len(which)) + np.repeat(first - (counts.cumsum() - counts), counts)
        return which, self.relations[place] * self.num_relations + triples[which, 1]

    def giveaways(self, *, inverse: bool, overlap: float, min_pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """(giver * R + given, share of the giver's pairs), for every relation that gives one away."""
        _, codes = self.meetings(self.triples, inverse=inverse)
        if not inverse:
            codes = codes[codes // self.num_relations != codes % self.num_relations]
        codes.sort()
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])[: len(codes)])
        found, shared = codes[starts], np.diff(np.append(starts, len(codes)))
        pairs = np.bincount(self.relations, minlength=self.num_relations)[found // self.num_relations]
        shares = shared / np.maximum(pairs, 1)
        enough = (shares >= overlap) & (pairs >= min_pairs)
        return found[enough], shares[enough]


def _giver_lines(
    codes: np.ndarray, givers: np.ndarray, shares: np.ndarray, num_relations: int, *, inverse: bool
) -> list[dict[str, Any]]:
    found, counts = np.unique(codes, return_counts=True)
    return [
        {
            "relation": int(code % num_relations),
            "given_away_by": int(code // num_relations),
            "inverse": inverse,
            "overlap": float(shares[np.searchsorted(givers, code)]),
            "num_held_out": int(count),
        }
        for code, count in zip(found, counts, strict=True)
    ]


def _pair_keys(triples: np.ndarray) -> np.ndarray:
    """(head, tail) as one int64."""
    return (triples[:, 0] << 32) | triples[:, 2]


def _marked(places: np.ndarray, length: int) -> np.ndarray:
    mask = np.zeros(length, bool)
    mask[places] = True
    return mask


class Spare:
    """How many training triples every entity and relation still has, by row: lists, or arrays of signed integers."""

    def __init__(self, entities: list[int] | np.ndarray, relations: list[int] | np.ndarray) -> None:
        self.entities, self.relations = entities, relations

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
