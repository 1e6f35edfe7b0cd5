"""A hash table of 64-bit prefixes in two flat arrays, which a folder holds and memory maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entity_linking.compiled import kernel
from entity_linking.normalise import Flags

Hashes = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.int32]

NO_KEY = -1
NOT_A_PREFIX = -2
EMPTY = np.uint64(0)
WHOLE, LONGER = np.uint64(1), np.uint64(2)
FILTER_BITS_EACH, MOST_FILTER_BITS = 8, 1 << 24
ONE, _FULL_WORD, _WORD_SHIFT, _HIGH = np.uint64(1), np.uint64(63), np.uint64(6), np.uint64(32)


@dataclass(frozen=True, slots=True)
class PrefixTable:
    """prefix hash -> key, open addressing with linear probing, at most half full; 12 bytes a slot.

    slots: uint64 (2^k,), `EMPTY` where nothing is. keys: int32 (2^k,), `NO_KEY` for a prefix that is no alias.
    The slots of a large table lie far from the processor; two small filters say of nearly all text that it is no alias:
    starts: uint64 (2^j,): two bits for the hash of a token, `WHOLE` where it is an alias, `LONGER` where it begins one.
    chains: uint64 (2^i,): a bit for every prefix of two tokens or more.
    """

    slots: Hashes
    keys: Keys
    starts: Hashes
    chains: Hashes

    @classmethod
    def build(cls, prefixes: Hashes, keys: Keys, *, single: Hashes, parents: Hashes, longer: Hashes) -> PrefixTable:
        """prefixes: distinct, none 0. keys: of each. Of them: single: aliases of one token; parents: the first tokens
        of longer ones; longer: of two tokens or more."""
        size = 1 << max(4, int(2 * len(prefixes)).bit_length())
        slots, values = np.zeros(size, np.uint64), np.full(size, NO_KEY, np.int32)
        _insert(slots, values, prefixes, keys)
        starts = np.zeros(_filter_bits(len(single) + len(parents)) // 32, np.uint64)
        _mark_starts(starts, single, WHOLE)
        _mark_starts(starts, parents, LONGER)
        chains = np.zeros(_filter_bits(len(longer)) // 64, np.uint64)
        _mark(chains, longer)
        return cls(slots, values, starts, chains)

    def find(self, hashes: Hashes) -> tuple[Flags, Keys]:
        """Which hashes are prefixes, and the key each is (`NO_KEY` for none)."""
        found = _find_all(np.asarray(self.slots), np.asarray(self.keys), hashes)
        return found != NOT_A_PREFIX, np.maximum(found, NO_KEY)


@kernel(forceinline=True)
def find(slots, keys, hashed):
    """The key of one hash, `NOT_A_PREFIX` where it is none."""
    mask = np.uint64(len(slots) - 1)
    at = hashed & mask
    while slots[at] != EMPTY:
        if slots[at] == hashed:
            return keys[at]
        at = (at + ONE) & mask
    return NOT_A_PREFIX


@kernel(forceinline=True)
def starts_of(starts, hashed):
    """What a token may be by its hash: a sum of `WHOLE` and `LONGER`, 0 where no alias begins with it."""
    place = (hashed >> _HIGH) & np.uint64(len(starts) * 32 - 1)
    return (starts[place >> np.uint64(5)] >> ((place & np.uint64(31)) << ONE)) & np.uint64(3)


@kernel(forceinline=True)
def may_go_on(chains, hashed):
    """1, or 0 where a chain of two tokens or more begins no alias."""
    bit = (hashed >> _HIGH) & np.uint64(len(chains) * 64 - 1)
    return (chains[bit >> _WORD_SHIFT] >> (bit & _FULL_WORD)) & ONE


@kernel()
def _find_all(slots, keys, hashes):
    found = np.empty(len(hashes), np.int32)
    for i in range(len(hashes)):
        found[i] = find(slots, keys, hashes[i]) if hashes[i] != EMPTY else NOT_A_PREFIX
    return found


@kernel()
def _insert(slots, values, prefixes, keys):
    mask = np.uint64(len(slots) - 1)
    for i in range(len(prefixes)):
        at = prefixes[i] & mask
        while slots[at] != EMPTY:
            at = (at + ONE) & mask
        slots[at], values[at] = prefixes[i], keys[i]


def _filter_bits(count: int) -> int:
    return max(1 << 10, min(MOST_FILTER_BITS, 1 << (FILTER_BITS_EACH * count).bit_length()))


@kernel()
def _mark(marks, hashes):
    for i in range(len(hashes)):
        bit = (hashes[i] >> _HIGH) & np.uint64(len(marks) * 64 - 1)
        marks[bit >> _WORD_SHIFT] |= ONE << (bit & _FULL_WORD)


@kernel()
def _mark_starts(starts, hashes, what):
    for i in range(len(hashes)):
        place = (hashes[i] >> _HIGH) & np.uint64(len(starts) * 32 - 1)
        starts[place >> np.uint64(5)] |= what << ((place & np.uint64(31)) << ONE)
