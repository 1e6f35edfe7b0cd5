"""Texts cut into hashed tokens, many texts in one pass, every token knowing its place in its own text.

A token is a run of letters, digits and marks with the apostrophes inside it (`don't`, `O'Brien`); a possessive `'s` is
a token of its own (`Obama|'s`); so is every punctuation mark, symbol, ideograph and hiragana. Blanks and hyphens part
tokens and are no tokens. Two spans read alike when their tokens do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from entity_linking.compiled import kernel
from entity_linking.normalise import (
    APOSTROPHE,
    IDEOGRAPH,
    LOWER,
    NEWLINE,
    NOT_ONE_TO_ONE,
    NUM_CODE_POINTS,
    NUMBER,
    SPACE,
    UPPER,
    WORD,
    Codes,
    Flags,
    class_table,
    decode,
    fold_character,
    fold_table,
    shape_table,
)

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int32]

LONGEST_TOKEN = 255
"""Longer tokens are in no alias and hash to 0."""
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)
SENTENCE_ENDS = ".!?:;…•\"'([{*|"
"""After these a capital says nothing about a name (opening quotes and brackets count as sentence starts)."""

BREAK, WHOLE_START, WHOLE_END, IS_WORD, IS_NUMBER, HAS_UPPER, ALL_UPPER, HYPHEN_BEFORE, SENTENCE_START, UNSPACED = (
    1 << bit for bit in range(10)
)
"""Bits of `Tokens.flags`, explained there."""

_HYPHEN, _SMALL_S = ord("-"), ord("s")
_MIX_A, _MIX_B, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_ONE = np.uint64(1)

_CODE = np.uint32(0x1FFFFF)
_CLASS, _SHAPE = np.uint32(21), np.uint32(24)
_CLASSES, _SHAPES = np.uint32(7 << 21), np.uint32(15 << 24)
_ENDS_SENTENCE, _ODD, _ODD_BIT = np.uint32(1 << 28), np.uint32(1 << 31), np.uint32(31)
"""A character in one word: folded code point, class, a bit for the shape of the original, whether it ends a sentence,
and whether it folds to none or several, so that nothing else holds. A token's shapes are its characters' together."""
_IN_SPACE, _IN_WORD, _IN_NEWLINE, _AN_APOSTROPHE, _IN_IDEOGRAPH = (
    np.uint32(kind << 21) for kind in (SPACE, WORD, NEWLINE, APOSTROPHE, IDEOGRAPH)
)
_ONE_SHAPE, _NUMBERS_ALONE = np.uint32(1), np.uint32(1 << NUMBER)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several texts in order; all arrays but `codes` have shape (num_tokens,).

    document: int32: index of the token's text. start, end: int32: its span in that text, in code points of the
    original. hash: uint64, of the folded characters. length: int32, number of folded characters.
    flags: uint16, a sum of
        BREAK: no mention may reach from the token before into this one (first of a text, or after an empty line);
        WHOLE_START, WHOLE_END: the token begins (ends) where an original character does; half of a `½` does not;
        IS_WORD: a run of letters and digits, or an ideograph, not punctuation; IS_NUMBER: digits only;
        UNSPACED: an ideograph or hiragana;
        HAS_UPPER: holds a capital; ALL_UPPER: holds a capital and no other kind of letter;
        HYPHEN_BEFORE: joined to the token before by a hyphen without blanks;
        SENTENCE_START: a capital here may be the sentence's.
    codes: uint32: the folded batch, in the lowest 21 bits. first: int32: where in it the token begins.
    texts: the texts themselves.
    """

    texts: Sequence[str]
    document: Places
    start: Places
    end: Places
    hash: Hashes
    length: Places
    flags: npt.NDArray[np.uint16]
    codes: Codes
    first: Places

    def __len__(self) -> int:
        return len(self.start)

    @property
    def num_documents(self) -> int:
        return len(self.texts)

    def has(self, flag: int) -> Flags:
        """Which tokens have a flag."""
        return (self.flags & np.uint16(flag)) != 0

    def text_of(self, first_token: int, num_tokens: int) -> str:
        """The folded tokens, joined by one space."""
        span = range(first_token, first_token + num_tokens)
        return " ".join(decode(self.codes[self.first[t] : self.first[t] + self.length[t]] & _CODE) for t in span)


def tokenise(texts: Sequence[str]) -> Tokens:
    """Cuts texts into tokens; a text without any simply has none."""
    bounds = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1, out=bounds[1:])
    joined = "\n".join(texts)
    codes, starts, ends = _characters(joined)
    size = len(codes)
    first, length, start, end, document = np.empty((5, size), dtype=np.int32)
    hashes, flags = np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.uint16)
    count = _cut(codes, starts, ends, len(starts) == 0, bounds, first, length, start, end, document, hashes, flags)
    return Tokens(
        texts=texts,
        document=document[:count],
        start=start[:count],
        end=end[:count],
        hash=hashes[:count],
        length=length[:count],
        flags=flags[:count],
        codes=codes,
        first=first[:count],
    )


def _characters(text: str) -> tuple[Codes, Places, Places]:
    """Folded characters in one word each, and the spans of originals they stand for, empty where each is its own."""
    original = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    characters = np.empty(len(original), dtype=np.uint32)
    count = _look_up(original, _original_table(), characters)
    if not count:
        return characters, np.zeros(0, np.int32), np.zeros(0, np.int32)
    odd = _odd_places(characters, count)
    replaced = [_replacement(code) for code in original[odd].tolist()]
    width = np.array([len(codes) for codes, _ in replaced], dtype=np.int64)
    size = len(original) - len(odd) + int(width.sum())
    folded, (starts, ends) = np.empty(size, dtype=np.uint32), np.empty((2, size), dtype=np.int32)
    marks = np.array([is_mark for _, is_mark in replaced], dtype=bool)
    _expand(characters, odd, width, np.concatenate([codes for codes, _ in replaced]), marks, folded, starts, ends)
    return folded, starts, ends


@cache
def _replacement(code: int) -> tuple[Codes, bool]:
    """What a code point that folds to none or several folds to, with its own shape; whether it is a combining mark."""
    folded = np.frombuffer(fold_character(chr(code)).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    shape = _ONE_SHAPE << np.uint32(shape_table()[code]) << _SHAPE
    return _folded_table()[folded] | shape, unicodedata.category(chr(code)) == "Mn"


@kernel()
def _look_up(original, table, out):
    """Writes the table's word for every code point; how many of them fold to none or several."""
    odd = 0
    for i in range(len(original)):
        word = table[original[i]]
        out[i] = word
        odd += word >> _ODD_BIT
    return odd


@kernel()
def _odd_places(characters, count):
    places, k = np.empty(count, np.int64), 0
    for i in range(len(characters)):
        if characters[i] >> _ODD_BIT:
            places[k] = i
            k += 1
    return places


@kernel()
def _expand(characters, odd, width, replacement, marks, out, starts, ends):
    """Replaces the odd characters, `width` words of `replacement` each; a vanished mark lengthens what it stands on."""
    at, taken, done = 0, 0, 0
    for k in range(len(odd) + 1):
        place = odd[k] if k < len(odd) else len(characters)
        for i in range(done, place):
            out[at + i - done], starts[at + i - done], ends[at + i - done] = characters[i], i, i + 1
        at, done = at + place - done, place + 1
        if k == len(odd):
            break
        for _ in range(width[k]):
            out[at], starts[at], ends[at] = replacement[taken], place, place + 1
            at, taken = at + 1, taken + 1
        if width[k] == 0 and marks[k] and at > 0 and ends[at - 1] == place:
            back, begin = at - 1, starts[at - 1]
            while back >= 0 and starts[back] == begin:
                ends[back] = place + 1
                back -= 1


@cache
def _folded_table() -> Codes:
    """By folded code point: itself, its class, and whether it ends a sentence."""
    codes = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    ends = np.isin(codes, np.array([ord(c) for c in SENTENCE_ENDS], dtype=np.uint32))
    return codes | class_table().astype(np.uint32) << _CLASS | np.where(ends, _ENDS_SENTENCE, np.uint32(0))


@cache
def _original_table() -> Codes:
    """By original code point: what it folds to, with its own shape."""
    folded = fold_table()
    odd = folded == NOT_ONE_TO_ONE
    shapes = _ONE_SHAPE << shape_table().astype(np.uint32) << _SHAPE
    return np.where(odd, _ODD, _folded_table()[np.where(odd, 0, folded)] | shapes)


@kernel(forceinline=True)
def mix(value):
    """Spreads every bit of a uint64 over the word (the finaliser of MurmurHash3); one to one. Arrays too."""
    value = value ^ (value >> _HALF)
    value = value * _MIX_A
    value = value ^ (value >> _HALF)
    value = value * _MIX_B
    return value ^ (value >> _HALF)


def _case_flags() -> npt.NDArray[np.int64]:
    """By the shapes seen in a token: `HAS_UPPER`, `ALL_UPPER`."""
    flags = np.zeros(16, dtype=np.int64)
    for shapes in range(16):
        if shapes >> UPPER & 1:
            flags[shapes] = HAS_UPPER if shapes >> LOWER & 1 else HAS_UPPER | ALL_UPPER
    return flags


_CASE_FLAGS = _case_flags()


@kernel()
def _cut(
    codes, starts, ends, one_to_one, bounds,
    out_first, out_length, out_start, out_end, out_document, out_hash, out_flags,
):  # fmt: skip
    """Writes the tokens of a batch and returns their number.

    codes: from `_characters`. starts, ends: original span of each (empty where `one_to_one`). bounds: where the texts
    begin in the original.
    """
    size, count, at, document, lines, previous = len(codes), 0, 0, 0, 2, -1
    ended = False
    while at < size:
        kind = codes[at] & _CLASSES
        if kind == _IN_SPACE:
            at += 1
            continue
        if kind == _IN_NEWLINE:
            lines += 1
            at += 1
            continue
        is_word = kind == _IN_WORD or (
            kind == _AN_APOSTROPHE and _inside_word(codes, at)
        )  # a possessive 's begins here
        last, hashed, shapes = _word(codes, at) if is_word else _single(codes, at)
        start = at if one_to_one else starts[at]
        end = last if one_to_one else ends[last - 1]
        flags = _CASE_FLAGS[shapes]
        if is_word:
            flags |= IS_WORD
            if shapes == _NUMBERS_ALONE and (one_to_one or _originals(starts, at, last) == end - start):
                flags |= IS_NUMBER
        elif kind == _IN_IDEOGRAPH:
            flags |= IS_WORD | UNSPACED
        if one_to_one or at == 0 or starts[at] != starts[at - 1]:
            flags |= WHOLE_START
        if one_to_one or last == size or starts[last] != starts[last - 1]:
            flags |= WHOLE_END
        if start >= bounds[document + 1]:
            while start >= bounds[document + 1]:
                document += 1
            lines = 2  # nothing reaches from one text into the next
        if lines >= 2:
            flags |= BREAK | SENTENCE_START
        elif ended:
            flags |= SENTENCE_START
        if at - previous == 1 and previous >= 0 and codes[previous] & _CODE == _HYPHEN:
            flags |= HYPHEN_BEFORE
        ended = codes[at] & _ENDS_SENTENCE != 0
        out_first[count], out_length[count] = at, last - at
        out_start[count], out_end[count] = start - bounds[document], end - bounds[document]
        out_document[count], out_flags[count], out_hash[count] = document, flags, hashed
        count, at, lines, previous = count + 1, last, 0, last
    return count


@kernel(forceinline=True)
def _inside_word(codes, at):
    within = 0 < at < len(codes) - 1
    return within and codes[at - 1] & _CLASSES == _IN_WORD and codes[at + 1] & _CLASSES == _IN_WORD


@kernel(forceinline=True)
def _single(codes, at):
    """As `_word`, of one character."""
    return at + 1, mix(np.uint64(codes[at] & _CODE) + _ONE + _ONE), (codes[at] & _SHAPES) >> _SHAPE


@kernel(forceinline=True)
def _word(codes, first):
    """Its end, the hash of its characters (a polynomial modulo 2^64, the length mixed in), and which shapes are in it.

    shapes: a bit for each, `1 << UPPER` and so on, so that "no other letter" and "digits only" are one comparison.
    """
    at, size = first, len(codes)
    total, seen = np.uint64(0), np.uint32(0)
    while True:
        total = total * HASH_BASE + np.uint64(codes[at] & _CODE) + _ONE
        seen |= codes[at]
        at += 1
        if at == size:
            break
        kind = codes[at] & _CLASSES
        if kind != _IN_WORD and (kind != _AN_APOSTROPHE or not _goes_on(codes, at)):
            break
    hashed = mix(total + np.uint64(at - first)) if at - first <= LONGEST_TOKEN else np.uint64(0)
    return at, hashed, (seen & _SHAPES) >> _SHAPE


@kernel()
def _originals(starts, first, last):
    """How many original characters a token's folded ones come from."""
    count = 1
    for at in range(first + 1, last):
        count += starts[at] != starts[at - 1]
    return count


@kernel()
def _goes_on(codes, at):
    """Whether a word goes on behind an apostrophe: it does not before a possessive `'s`."""
    if not _inside_word(codes, at):
        return False
    beyond = codes[at + 2] & _CLASSES if at + 2 < len(codes) else _IN_SPACE
    return codes[at + 1] & _CODE != _SMALL_S or beyond in (_IN_WORD, _AN_APOSTROPHE)
