"""Texts cut into hashed tokens, many texts in one pass, every token knowing its place in its own text.

A token is a run of letters, digits and marks with the apostrophes inside it (`don't`, `O'Brien`); a possessive `'s` is
a token of its own (`Obama|'s`); so is every punctuation mark, symbol, ideograph and kana. Blanks and hyphens part
tokens and are no tokens. Two spans read alike when their tokens do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entity_linking.compiled import kernel
from entity_linking.normalise import (
    APOSTROPHE,
    LOWER,
    NEWLINE,
    NUMBER,
    SINGLE,
    UPPER,
    WORD,
    Codes,
    Flags,
    Ints,
    class_table,
    decode,
    fold_text,
    shape_table,
)

Hashes = npt.NDArray[np.uint64]

LONGEST_TOKEN = 255
"""Longer tokens are in no alias and hash to 0."""
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)
SENTENCE_ENDS = ".!?:;…•\"'([{*|"
"""After these a capital says nothing about a name (opening quotes and brackets count as sentence starts)."""

BREAK, WHOLE_START, WHOLE_END, IS_WORD, IS_NUMBER, HAS_UPPER, ALL_UPPER, HYPHEN_BEFORE, SENTENCE_START = (
    1 << bit for bit in range(9)
)
"""Bits of `Tokens.flags`, explained there."""

_HYPHEN, _SMALL_S = ord("-"), ord("s")
_ENDS = np.array([ord(c) for c in SENTENCE_ENDS], dtype=np.uint32)
_MIX_A, _MIX_B, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several texts in order; all arrays but `codes` have shape (num_tokens,).

    document: int32: index of the token's text. start, end: int64: its span in that text, in code points of the
    original. hash: uint64, of the folded characters. length: int32, number of folded characters.
    flags: uint16, a sum of
        BREAK: no mention may reach from the token before into this one (first of a text, or after an empty line);
        WHOLE_START, WHOLE_END: the token begins (ends) where an original character does; half of a `½` does not;
        IS_WORD: a run of letters and digits, not punctuation; IS_NUMBER: digits only;
        HAS_UPPER: holds a capital; ALL_UPPER: holds a capital and no other kind of letter;
        HYPHEN_BEFORE: joined to the token before by a hyphen without blanks;
        SENTENCE_START: a capital here may be the sentence's.
    codes: uint32: the folded batch. first: int64: where in it the token begins.
    texts: the texts themselves.
    """

    texts: Sequence[str]
    document: npt.NDArray[np.int32]
    start: Ints
    end: Ints
    hash: Hashes
    length: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint16]
    codes: Codes
    first: Ints

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
        return " ".join(decode(self.codes[self.first[t] : self.first[t] + self.length[t]]) for t in span)


def tokenise(texts: Sequence[str]) -> Tokens:
    """Cuts texts into tokens; a text without any simply has none."""
    bounds = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts)), out=bounds[1:])
    joined = "\n".join(texts)
    original = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    folded = fold_text(joined, original)
    one_to_one = folded.starts is None
    starts = np.zeros(0, np.int64) if folded.starts is None else folded.starts
    ends = np.zeros(0, np.int64) if folded.ends is None else folded.ends
    codes = folded.codes
    size = len(codes)
    first, start, end = np.empty((3, size), dtype=np.int64)
    length, document = np.empty((2, size), dtype=np.int32)
    hashes, flags = np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.uint16)
    count = _cut(
        codes, starts, ends, one_to_one, original, bounds, class_table(), shape_table(),
        first, length, start, end, document, hashes, flags,
    )  # fmt: skip
    kept = slice(0, count)
    return Tokens(
        texts=texts,
        document=document[kept],
        start=start[kept],
        end=end[kept],
        hash=hashes[kept],
        length=length[kept],
        flags=flags[kept],
        codes=codes,
        first=first[kept],
    )


@kernel()
def mix(value):
    """Spreads every bit of a uint64 over the word (the finaliser of MurmurHash3); one to one. Arrays too."""
    value = value ^ (value >> _HALF)
    value = value * _MIX_A
    value = value ^ (value >> _HALF)
    value = value * _MIX_B
    return value ^ (value >> _HALF)


@kernel()
def _cut(
    codes, starts, ends, one_to_one, original, bounds, classes, shapes,
    out_first, out_length, out_start, out_end, out_document, out_hash, out_flags,
):  # fmt: skip
    """Writes the tokens of a folded batch and returns their number.

    codes: folded. starts, ends: original span of each folded code point (empty where `one_to_one`). original: code
    points before folding. bounds: where the texts begin in it. classes, shapes: the tables of `normalise`.
    """
    size, count, at, document, lines, previous = len(codes), 0, 0, 0, 2, -1
    while at < size:
        kind = classes[codes[at]]
        if kind == NEWLINE:
            lines += 1
        if kind != WORD and kind != SINGLE and kind != APOSTROPHE:
            at += 1
            continue
        last = at + 1
        if kind == WORD or _is_possessive(codes, classes, at):
            last = _word_end(codes, classes, at + 1)
        start = at if one_to_one else starts[at]
        end = last if one_to_one else ends[last - 1]
        while start >= bounds[document + 1]:
            document += 1
            lines = 2  # nothing reaches from one text into the next
        flags = _shape_flags(original, shapes, start, end)
        flags = flags | IS_WORD if kind == WORD or last - at > 1 else flags & ~IS_NUMBER
        if one_to_one or at == 0 or starts[at] != starts[at - 1]:
            flags |= WHOLE_START
        if one_to_one or last == size or starts[last] != starts[last - 1]:
            flags |= WHOLE_END
        if lines >= 2:
            flags |= BREAK | SENTENCE_START
        elif _ends_sentence(codes[out_first[count - 1]]):
            flags |= SENTENCE_START
        if at - previous == 1 and previous >= 0 and codes[previous] == _HYPHEN:
            flags |= HYPHEN_BEFORE
        out_first[count], out_length[count] = at, last - at
        out_start[count], out_end[count] = start - bounds[document], end - bounds[document]
        out_document[count], out_flags[count] = document, flags
        out_hash[count] = _hash(codes, at, last)
        count, at, lines, previous = count + 1, last, 0, last
    return count


@kernel(inline="always")
def _is_possessive(codes, classes, at):
    """An apostrophe within a word: a possessive `'s` begins here (another one would have been passed over)."""
    return classes[codes[at]] == APOSTROPHE and _inside_word(codes, classes, at)


@kernel(inline="always")
def _inside_word(codes, classes, at):
    within = 0 < at < len(codes) - 1
    return within and classes[codes[at - 1]] == WORD and classes[codes[at + 1]] == WORD


@kernel()
def _word_end(codes, classes, at):
    """Where the word that reaches to `at` ends: behind its last letter, or before a possessive `'s`."""
    size = len(codes)
    while at < size:
        kind = classes[codes[at]]
        if kind == APOSTROPHE:
            if not _inside_word(codes, classes, at):
                break
            beyond = classes[codes[at + 2]] if at + 2 < size else 0
            if codes[at + 1] == _SMALL_S and beyond != WORD and beyond != APOSTROPHE:
                break
        elif kind != WORD:
            break
        at += 1
    return at


@kernel()
def _shape_flags(original, shapes, start, end):
    upper, letters, numbers = 0, 0, 0
    for i in range(start, end):
        shape = shapes[original[i]]
        if shape == UPPER:
            upper += 1
            letters += 1
        elif shape == LOWER:
            letters += 1
        elif shape == NUMBER:
            numbers += 1
    flags = 0
    if upper > 0:
        flags |= HAS_UPPER
        if upper == letters:
            flags |= ALL_UPPER
    if numbers == end - start:
        flags |= IS_NUMBER
    return flags


@kernel(inline="always")
def _ends_sentence(code):
    found = False
    for end in _ENDS:
        found |= code == end
    return found


@kernel(inline="always")
def _hash(codes, first, last):
    """Polynomial hash of a token modulo 2^64, its length mixed in."""
    if last - first > LONGEST_TOKEN:
        return np.uint64(0)
    total, power = np.uint64(last - first), _ONE
    for i in range(first, last):
        total += (np.uint64(codes[i]) + _ONE) * power
        power *= HASH_BASE
    return mix(total)
