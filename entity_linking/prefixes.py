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
_ONE, _FULL_WORD, _WORD_SHIFT = np.uint64(1), np.uint64(63), np.uint64(6)


@dataclass(frozen=True, slots=True)
class PrefixTable:
    """prefix hash -> key, open addressing with linear probing, at most half full; 12 bytes a slot.

    slots: uint64 (2^k,), `EMPTY` where nothing is. keys: int32 (2^k,), `NO_KEY` for a prefix that is no alias.
    filter: uint64 (2^j,): a bit for every prefix of one token's hash, so that most starts need no look at the slots.
    """

    slots: Hashes
    keys: Keys
    filter: Hashes

    @classmethod
    def build(cls, prefixes: Hashes, keys: Keys, firsts: Hashes) -> PrefixTable:
        """prefixes: distinct, none 0. keys: of each. firsts: those prefixes that are of one token."""
        size = 1 << max(4, int(2 * len(prefixes)).bit_length())
        slots, values = np.zeros(size, np.uint64), np.full(size, NO_KEY, np.int32)
        _insert(slots, values, prefixes, keys)
        bits = max(1 << 10, min(1 << 24, 1 << int(8 * len(firsts)).bit_length()))
        marks = np.zeros(bits // 64, np.uint64)
        _mark(marks, firsts)
        return cls(slots, values, marks)

    def find(self, hashes: Hashes) -> tuple[Flags, Keys]:
        """Which hashes are prefixes, and the key each is (`NO_KEY` for none)."""
        found = _find_all(np.asarray(self.slots), np.asarray(self.keys), hashes)
        return found != NOT_A_PREFIX, np.maximum(found, NO_KEY)


@kernel()
def find(slots, keys, hashed):
    """The key of one hash, `NOT_A_PREFIX` where it is none."""
    mask = np.uint64(len(slots) - 1)
    at = hashed & mask
    while slots[at] != EMPTY:
        if slots[at] == hashed:
            return keys[at]
        at = (at + _ONE) & mask
    return NOT_A_PREFIX


@kernel(inline="always")
def may_start(marks, hashed):
    """False where no alias begins with the token of this hash."""
    bit = (hashed >> np.uint64(32)) & np.uint64(len(marks) * 64 - 1)
    return (marks[bit >> _WORD_SHIFT] >> (bit & _FULL_WORD)) & _ONE != EMPTY


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
            at = (at + _ONE) & mask
        slots[at], values[at] = prefixes[i], keys[i]


@kernel()
def _mark(marks, firsts):
    for i in range(len(firsts)):
        bit = (firsts[i] >> np.uint64(32)) & np.uint64(len(marks) * 64 - 1)
        marks[bit >> _WORD_SHIFT] |= _ONE << (bit & _FULL_WORD)
