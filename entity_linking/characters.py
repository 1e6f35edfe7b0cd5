"""Texts as folded characters, one word each, and the way back to the originals where one folds to none or several.

Nearly every character is its own; the others, odd ones, are told by what they became, so that a token without any of
them finds its original by one addition.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from entity_linking.compiled import kernel
from entity_linking.normalise import (
    APOSTROPHE,
    NEWLINE,
    NOT_ONE_TO_ONE,
    NUM_CODE_POINTS,
    NUMBER,
    WORD,
    Codes,
    Flags,
    class_table,
    fold_character,
    fold_table,
    shape_table,
)

Places = npt.NDArray[np.int32]

SENTENCE_ENDS = ".!?:;…•\"'([{*|"
"""After these a capital says nothing about a name (opening quotes and brackets count as sentence starts)."""

CODE = np.uint32(0x1FFFFF)
CLASS, SHAPE = np.uint32(21), np.uint32(24)
CLASSES, SHAPES = np.uint32(7 << 21), np.uint32(15 << 24)
ENDS_SENTENCE, _ODD = np.uint32(1 << 28), np.uint32(1 << 31)
"""A character in one word: folded code point, class, a bit for the shape of the original, whether it ends a sentence,
or its number among those that fold to none or several. A token's shapes are its characters' together."""
IN_WORD, IN_NEWLINE, AN_APOSTROPHE = (np.uint32(kind << 21) for kind in (WORD, NEWLINE, APOSTROPHE))
_ONE_SHAPE, _ONE = np.uint32(1), np.uint64(1)
NUMBERS_ALONE = np.uint32(1 << NUMBER)
_BEYOND = np.iinfo(np.int32).max
ROOM = 4096
"""What a batch may grow by, and how many odd characters it may have, before it is looked up again with more room."""


class Odd(NamedTuple):
    """The odd characters of a batch, in order, and behind them one that no character reaches; arrays (num_odd + 1,).

    place: int32: of the original. at, end: int32: the folded ones it became, none where they are equal. mark: bool: a
    combining mark that vanished, which lengthens the character it stands on.
    """

    place: Places
    at: Places
    end: Places
    mark: Flags

    def first(self, count: int) -> Odd:
        return Odd(self.place[:count], self.at[:count], self.end[:count], self.mark[:count])


def characters_of(text: str) -> tuple[Codes, Odd]:
    """The folded characters, and which originals are not one of them each."""
    original = np.array([text]).view(np.uint32)[: len(text)]
    table, replacement, bounds, marks = _tables()
    size, num_odd = len(original) + ROOM, ROOM
    while True:
        characters = np.empty(size, dtype=np.uint32)
        place, at, end = np.empty((3, num_odd + 1), dtype=np.int32)
        odd = Odd(place, at, end, mark=np.empty(num_odd + 1, dtype=bool))
        count, found = _look_up(original, table, replacement, bounds, marks, characters, odd)
        if count <= size and found <= num_odd:
            return characters[:count], odd.first(int(found) + 1)
        size, num_odd = count, found


@kernel()
def _look_up(original, table, replacement, bounds, marks, out, odd):
    """Writes the table's word for every code point, the words of `replacement` for an odd one.

    Returns how many words and odd characters there are; where that is more than there is room for, not all are written.
    """
    at, k, growth = np.uint64(0), np.uint64(0), 0
    for i in range(len(original)):
        word = table[original[i]]
        if word < _ODD:
            out[at] = word
            at += _ONE
            continue
        which = word ^ _ODD
        words = replacement[bounds[which] : bounds[which + _ONE_SHAPE]]
        growth += len(words)
        if growth > len(out) - len(original) or k == len(odd.place) - 1:
            return _needed(original, table, bounds)
        odd.place[k], odd.at[k], odd.mark[k] = i, at, marks[which]
        for code in words:
            out[at] = code
            at += _ONE
        odd.end[k] = at
        k += _ONE
    odd.place[k], odd.at[k], odd.end[k], odd.mark[k] = _BEYOND, _BEYOND, _BEYOND, False
    return at, k


@kernel()
def _needed(original, table, bounds):
    """How many words a batch becomes at most, and how many odd characters it has."""
    size, num_odd = np.uint64(len(original)), np.uint64(0)
    for code in original:
        word = table[code]
        if word >= _ODD:
            size += np.uint64(bounds[(word ^ _ODD) + _ONE_SHAPE] - bounds[word ^ _ODD])
            num_odd += _ONE
    return size, num_odd


@cache
def _folded_table() -> Codes:
    """By folded code point: itself, its class, and whether it ends a sentence."""
    codes = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    ends = np.isin(codes, np.array([ord(c) for c in SENTENCE_ENDS], dtype=np.uint32))
    return codes | class_table().astype(np.uint32) << CLASS | np.where(ends, ENDS_SENTENCE, np.uint32(0))


@cache
def _tables() -> tuple[Codes, Codes, npt.NDArray[np.int64], Flags]:
    """By original code point: what it folds to, with its own shape, or `_ODD` and its number among the odd ones.

    And of the odd ones: what they fold to, one after the other; where each begins there, and the end; which are
    combining marks that vanish.
    """
    folded, shapes = fold_table(), _ONE_SHAPE << shape_table().astype(np.uint32) << SHAPE
    codes = np.flatnonzero(folded == NOT_ONE_TO_ONE)
    folds = [fold_character(chr(code)) for code in codes.tolist()]
    table = _folded_table()[np.where(folded == NOT_ONE_TO_ONE, 0, folded)] | shapes
    table[codes] = _ODD | np.arange(len(codes), dtype=np.uint32)
    widths = np.array([len(fold) for fold in folds])
    words = np.frombuffer("".join(folds).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    replacement = _folded_table()[words] | np.repeat(shapes[codes], widths)
    vanish = [
        not fold and unicodedata.category(chr(code)) == "Mn" for code, fold in zip(codes.tolist(), folds, strict=True)
    ]
    return table, replacement, np.concatenate(([0], np.cumsum(widths))), np.array(vanish)


@kernel()
def original_of(i, odd):
    """The original of one folded character."""
    k = np.searchsorted(odd.end, i, "right")
    if odd.at[k] <= i:
        return odd.place[k]
    return i + odd.place[k - 1] + 1 - odd.end[k - 1] if k else i


@kernel()
def end_of(i, odd):
    """Where the original of one folded character ends, with the marks that vanished from it."""
    end = original_of(i, odd) + 1
    k = np.searchsorted(odd.place, end)
    while odd.place[k] == end and odd.mark[k]:
        end, k = end + 1, k + 1
    return end
