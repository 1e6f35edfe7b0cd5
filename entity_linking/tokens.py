"""Texts cut into hashed tokens, many texts in one pass, every token knowing its place in its own text.

A token is a run of letters, digits and marks with the apostrophes inside it (`don't`, `O'Brien`); a possessive `'s` is
a token of its own (`Obama|'s`); so is every punctuation mark, symbol, ideograph and hiragana. Blanks and hyphens part
tokens and are no tokens. Two spans read alike when their tokens do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entity_linking.characters import (
    AN_APOSTROPHE,
    CLASS,
    CLASSES,
    CODE,
    ENDS_SENTENCE,
    IN_NEWLINE,
    IN_WORD,
    NUMBERS_ALONE,
    SHAPE,
    SHAPES,
    Places,
    characters_of,
    end_of,
    original_of,
)
from entity_linking.compiled import kernel
from entity_linking.normalise import APOSTROPHE, IDEOGRAPH, LOWER, UPPER, WORD, Codes, Flags, decode

Hashes = npt.NDArray[np.uint64]

LONGEST_TOKEN = 255
"""Longer tokens are in no alias and hash to 0."""
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)

BREAK, WHOLE_START, WHOLE_END, IS_WORD, IS_NUMBER, HAS_UPPER, ALL_UPPER, HYPHEN_BEFORE, SENTENCE_START, UNSPACED = (
    1 << bit for bit in range(10)
)
"""Bits of `Tokens.flags`, explained there."""

_HYPHEN, _SMALL_S = ord("-"), ord("s")
_NO, _YES = np.uint32(0), np.uint32(1)
_MIX_A, _MIX_B, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_ONE = np.uint64(1)


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
        return " ".join(decode(self.codes[self.first[t] : self.first[t] + self.length[t]] & CODE) for t in span)


def tokenise(texts: Sequence[str]) -> Tokens:
    """Cuts texts into tokens; a text without any simply has none."""
    bounds = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1, out=bounds[1:])
    codes, odd = characters_of("\n".join(texts))
    first, last = np.empty((2, len(codes) + 1), dtype=np.uint32)  # compiled code asks of signed places if they are < 0
    totals, seen = np.empty(len(codes) + 1, dtype=np.uint64), np.empty(len(codes) + 1, dtype=np.uint32)
    count = _cut(codes, first, last, totals, seen)
    length, start, end, document = np.empty((4, count), dtype=np.int32)
    hashes, flags = totals[:count], np.empty(count, dtype=np.uint16)
    _describe(codes, odd, bounds, first[:count], last, seen, length, start, end, document, hashes, flags)
    return Tokens(
        texts=texts,
        document=document,
        start=start,
        end=end,
        hash=hashes,
        length=length,
        flags=flags,
        codes=codes,
        first=first[:count].view(np.int32),
    )


@kernel(forceinline=True)
def mix(value):
    """Spreads every bit of a uint64 over the word (the finaliser of MurmurHash3); one to one. Arrays too."""
    value = value ^ (value >> _HALF)
    value = value * _MIX_A
    value = value ^ (value >> _HALF)
    value = value * _MIX_B
    return value ^ (value >> _HALF)


def _flags_table() -> npt.NDArray[np.int64]:
    """By shapes seen in a token and class of its first character: what they say of the token, `shapes << 3 | class`."""
    table = np.zeros((16, 8), dtype=np.int64)
    for shapes in range(16):
        if shapes >> UPPER & 1:
            table[shapes] = HAS_UPPER if shapes >> LOWER & 1 else HAS_UPPER | ALL_UPPER
    table[:, [WORD, APOSTROPHE]] |= IS_WORD
    table[NUMBERS_ALONE, [WORD, APOSTROPHE]] |= IS_NUMBER
    table[:, IDEOGRAPH] |= IS_WORD | UNSPACED
    return table.ravel()


_FLAGS = _flags_table()


@kernel()
def _cut(codes, out_first, out_last, out_total, out_seen):
    """Writes where every token begins and ends, and of its characters the polynomial and what they show together.

    The polynomial is of the characters plus one, in `HASH_BASE`, modulo 2^64. Returns how many tokens there are. No
    branch but that for apostrophes depends on the text: a processor guesses wrong where a word ends. What is written
    behind the last token so far is written over by the next.
    """
    count, was_word = np.uint64(0), _NO
    total, seen = np.uint64(0), _NO
    for at in range(len(codes)):
        character = codes[at]
        kind = (character & CLASSES) >> CLASS
        is_word, is_single, is_new = kind & _YES, kind >> _YES & _YES, _NO
        if kind == APOSTROPHE:
            is_word = np.uint32(_inside_word(codes, at))
            is_single = is_word ^ _YES
            is_new = is_word & np.uint32(_is_possessive(codes, at))
        begins = is_single | is_word & (was_word ^ _YES | is_new)
        out_first[count] = at
        count += np.uint64(begins)
        total = (total & np.uint64(begins) - _ONE) * HASH_BASE + (np.uint64(character & CODE) + _ONE)
        seen = seen & begins - _YES | character
        current = count - np.uint64(is_single | is_word)
        out_last[current], out_total[current], out_seen[current] = at + 1, total, seen
        was_word = is_word
    return count


@kernel(forceinline=True)
def _inside_word(codes, at):
    within = 0 < at < len(codes) - 1
    return within and codes[at - 1] & CLASSES == IN_WORD and codes[at + 1] & CLASSES == IN_WORD


@kernel(forceinline=True)
def _is_possessive(codes, at):
    """Whether an apostrophe inside a word begins a possessive `'s`, a token of its own."""
    if at + 1 >= len(codes) or codes[at + 1] & CODE != _SMALL_S:
        return False
    beyond = codes[at + 2] & CLASSES if at + 2 < len(codes) else np.uint32(0)
    return beyond != IN_WORD and beyond != AN_APOSTROPHE


@kernel()
def _describe(
    codes, odd, bounds, firsts, lasts, seen, out_length, out_start, out_end, out_document, hashes, out_flags
):  # fmt: skip
    """Writes the tokens' columns. bounds: where the texts begin in the original. hashes: at first the polynomials."""
    document, begin, beyond = np.uint64(0), bounds[0], bounds[0]
    previous, ends = np.uint32(0), np.uint32(0)
    passed, shift = np.uint64(0), 0  # odd characters before the token, and what they moved it by
    for t in range(len(firsts)):
        first, last = firsts[t], lasts[t]
        character, before, length = codes[first], codes[previous], last - first
        flags = _FLAGS[(seen[t] & SHAPES) >> SHAPE << np.uint32(3) | (character & CLASSES) >> CLASS]
        if length == 1 and character & CLASSES == AN_APOSTROPHE:
            flags = 0
        while odd.end[passed] <= first:
            shift = odd.place[passed] + 1 - odd.end[passed]
            passed += _ONE
        if odd.at[passed] > last:
            start, end = first + shift, last + shift
            flags |= WHOLE_START | WHOLE_END
        else:
            start, end, flags = _among_odd(np.int64(first), np.int64(last), len(codes), odd, flags)
        gap, lines = first - previous, np.int64(before & CLASSES == IN_NEWLINE)
        if gap > 1:
            lines += _lines(codes, previous + 1, first)
        elif gap == 1 and before & CODE == _HYPHEN and t:
            flags |= HYPHEN_BEFORE
        if start >= beyond:
            while start >= bounds[document + _ONE]:
                document += _ONE
            begin, beyond, lines = bounds[document], bounds[document + _ONE], 2  # nothing reaches into the next text
        flags |= BREAK | SENTENCE_START if lines >= 2 else (SENTENCE_START if ends else 0)
        ends, previous = character & ENDS_SENTENCE, last
        out_length[t], out_start[t], out_end[t] = length, start - begin, end - begin
        out_document[t], out_flags[t] = document, flags
        hashes[t] = mix(hashes[t] + np.uint64(length)) if length <= LONGEST_TOKEN else np.uint64(0)


@kernel()
def _lines(codes, first, last):
    lines = 0
    for at in range(first, last):
        lines += codes[np.uint64(at)] & CLASSES == IN_NEWLINE
    return lines


@kernel()
def _among_odd(first, last, size, odd, flags):
    """Span and flags of a token that holds or touches an odd character."""
    start, end = original_of(first, odd), end_of(last - 1, odd)
    if first == 0 or original_of(first - 1, odd) != start:
        flags |= WHOLE_START
    if last == size or original_of(last, odd) != original_of(last - 1, odd):
        flags |= WHOLE_END
    if flags & IS_NUMBER and _originals(odd, first, last) != end - start:
        flags ^= IS_NUMBER
    return start, end, flags


@kernel()
def _originals(odd, first, last):
    """How many original characters a token's folded ones come from."""
    count = 1
    for at in range(first + 1, last):
        count += original_of(at, odd) != original_of(at - 1, odd)
    return count
