"""Texts cut into hashed tokens, many texts in one pass, every token knowing its place in its own text.

A token is a run of letters, digits and marks with the apostrophes inside it (`don't`, `O'Brien`); a possessive `'s` is
a token of its own (`Obama|'s`); so is every punctuation mark, symbol, ideograph and kana. Blanks and hyphens part
tokens and are no tokens. Two spans read alike when their tokens do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from entity_linking.normalise import (
    APOSTROPHE,
    NEWLINE,
    NUMBER,
    SINGLE,
    UPPER,
    WORD,
    Codes,
    Flags,
    Folded,
    Ints,
    class_table,
    decode,
    fold_text,
    shape_table,
)

Hashes = npt.NDArray[np.uint64]

LONGEST_TOKEN = 255
"""Longer tokens are in no alias and hash to 0."""
HASH_BASE = 0x9E3779B97F4A7C15
HASH_BLOCK = 1 << 17
"""Tokens hashed at once; bounds the memory of one pass."""
SENTENCE_ENDS = ".!?:;…•\"'([{*|"
"""After these a capital says nothing about a name (opening quotes and brackets count as sentence starts)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several texts in order; all arrays have shape (num_tokens,).

    document: index of the token's text. start, end: its span in that text, in code points of the original.
    hash: of the folded characters. length: number of folded characters.
    breaks: no mention may reach from the token before into this one (first of a text, or after an empty line).
    whole_start, whole_end: the token begins (ends) where an original character does; half of a `½` does not.
    is_word: a run of letters and digits, not punctuation. is_number: digits only.
    has_upper: holds a capital. all_upper: holds a capital and no other kind of letter.
    hyphen_before: joined to the token before by a hyphen without blanks.
    sentence_start: a capital here may be the sentence's.
    codes, first, last: the folded batch and the token's span in it.
    """

    num_documents: int
    document: Ints
    start: Ints
    end: Ints
    hash: Hashes
    length: Ints
    breaks: Flags
    whole_start: Flags
    whole_end: Flags
    is_word: Flags
    is_number: Flags
    has_upper: Flags
    all_upper: Flags
    hyphen_before: Flags
    sentence_start: Flags
    codes: Codes
    first: Ints
    last: Ints

    def __len__(self) -> int:
        return len(self.start)

    def text_of(self, first_token: int, num_tokens: int) -> str:
        """The folded tokens, joined by one space."""
        span = range(first_token, first_token + num_tokens)
        return " ".join(decode(self.codes[self.first[t] : self.last[t]]) for t in span)


def tokenise(texts: Sequence[str]) -> Tokens:
    """Cuts texts into tokens; a text without any simply has none."""
    lengths = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    text_starts = np.concatenate(([0], np.cumsum(lengths + 1)))[:-1] if len(texts) else np.zeros(0, np.int64)
    joined = "\n".join(texts)
    folded = fold_text(joined)
    codes = folded.codes
    first, last, is_word = _cut(codes)
    start, end, whole_start, whole_end = _original(folded, first, last)
    document = np.searchsorted(text_starts, start, "right") - 1
    breaks = _breaks(codes, first, last, document)
    uppers, letters, numbers = _shapes(joined, start, end)
    return Tokens(
        num_documents=len(texts),
        document=document,
        start=start - text_starts[document],
        end=end - text_starts[document],
        hash=_hash(codes, first, last),
        length=last - first,
        breaks=breaks,
        whole_start=whole_start,
        whole_end=whole_end,
        is_word=is_word,
        is_number=is_word & (numbers == end - start),
        has_upper=uppers > 0,
        all_upper=(uppers > 0) & (uppers == letters),
        hyphen_before=_hyphen_before(codes, first, last),
        sentence_start=_sentence_start(codes, first, breaks),
        codes=codes,
        first=first,
        last=last,
    )


def mix(hashes: Hashes) -> Hashes:
    """Spreads every bit over the word (the finaliser of MurmurHash3); one to one."""
    mixed = hashes ^ (hashes >> np.uint64(33))
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed


def _cut(codes: Codes) -> tuple[Ints, Ints, Flags]:
    """Spans of the tokens in the folded batch, and which are words."""
    classes = class_table()[codes]
    word = classes == WORD
    single = classes == SINGLE
    apostrophes = np.flatnonzero(classes == APOSTROPHE)
    begins = np.zeros(len(codes) + 1, dtype=bool)
    if len(apostrophes):
        padded = np.concatenate((word, [False, False]))
        inner = padded[apostrophes - 1] & padded[apostrophes + 1]
        single[apostrophes[~inner]] = True
        inside = apostrophes[inner]
        possessive = (codes[inside + 1] == ord("s")) & ~padded[inside + 2]
        possessive &= np.concatenate((classes, [0, 0]))[inside + 2] != APOSTROPHE
        word[inside] = True
        begins[inside[possessive]] = True
    before = np.concatenate(([False], word[:-1])) if len(word) else word
    begins[:-1] |= single | (word & ~before)
    covered = np.concatenate((word | single, [False]))
    ends = covered[:-1] & (~covered[1:] | begins[1:])
    first = np.flatnonzero(begins[:-1])
    return first, np.flatnonzero(ends) + 1, word[first]


def _original(folded: Folded, first: Ints, last: Ints) -> tuple[Ints, Ints, Flags, Flags]:
    if folded.starts is None or folded.ends is None:
        whole = np.ones(len(first), dtype=bool)
        return first, last, whole, whole
    starts = folded.starts
    new = np.ones(len(starts) + 1, dtype=bool)
    new[1:-1] = starts[1:] != starts[:-1]
    return starts[first], folded.ends[last - 1], new[first], new[last]


def _breaks(codes: Codes, first: Ints, last: Ints, document: Ints) -> Flags:
    breaks = np.ones(len(first), dtype=bool)
    lines = np.cumsum(np.concatenate(([0], class_table()[codes] == NEWLINE)), dtype=np.int32)
    breaks[1:] = (document[1:] != document[:-1]) | (lines[first[1:]] - lines[last[:-1]] >= 2)
    return breaks


def _hyphen_before(codes: Codes, first: Ints, last: Ints) -> Flags:
    joined = np.zeros(len(first), dtype=bool)
    joined[1:] = (first[1:] - last[:-1] == 1) & (codes[last[:-1]] == ord("-"))
    return joined


def _sentence_start(codes: Codes, first: Ints, breaks: Flags) -> Flags:
    starts = breaks.copy()
    ends = np.array([ord(c) for c in SENTENCE_ENDS], dtype=np.uint32)
    starts[1:] |= np.isin(codes[first[:-1]], ends)
    return starts


def _shapes(joined: str, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """Number of capitals, of cased letters, and of digits of every token, counted in the original text."""
    shapes = shape_table()[np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]
    counts = []
    for flags in (shapes == UPPER, (shapes != 0) & (shapes != NUMBER), shapes == NUMBER):
        totals = np.concatenate(([0], np.cumsum(flags, dtype=np.int32)))
        counts.append(totals[end] - totals[start])
    return counts[0], counts[1], counts[2]


def _hash(codes: Codes, first: Ints, last: Ints) -> Hashes:
    """Polynomial hash of every token modulo 2^64, length and all mixed in."""
    hashes = np.zeros(len(first), dtype=np.uint64)
    lengths = np.where(last - first > LONGEST_TOKEN, 0, last - first)
    powers = _powers()
    for low in range(0, len(first), HASH_BLOCK):
        size = lengths[low : low + HASH_BLOCK]
        kept = np.flatnonzero(size)
        size = size[kept]
        offsets = np.cumsum(size) - size
        within = np.arange(int(size.sum())) - np.repeat(offsets, size)
        at = np.repeat(first[low : low + HASH_BLOCK][kept], size) + within
        terms = (codes[at].astype(np.uint64) + np.uint64(1)) * powers[within]
        if len(kept):
            hashes[low + kept] = mix(np.add.reduceat(terms, offsets) + size.astype(np.uint64))
    return hashes


@cache
def _powers() -> Hashes:
    base = np.full(LONGEST_TOKEN, HASH_BASE, dtype=np.uint64)
    base[0] = 1
    return np.cumprod(base, dtype=np.uint64)
