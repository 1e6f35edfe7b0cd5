"""One folded form for every way of writing the same thing, with an exact way back to the original characters.

The fold works on single code points, so that a text and an alias fold alike wherever they are cut:
NFKC, case folded, accents stripped, quotes and dashes made one; `Ç` -> `c`, `ß` -> `ss`, `’` -> `'`, `‐` -> `-`.
Vowel signs (Indic scripts), nuktas and kana voicing marks are letters, not accents, and stay. Invisible format
characters (zero-width joiners, soft hyphens, direction marks, variation selectors) fold to nothing.
Nearly all code points fold one to one, by a table; the others go through `expand`, which keeps the map of offsets.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

NUM_CODE_POINTS = 0x110000
NOT_ONE_TO_ONE = np.uint32(0xFFFFFFFF)
"""Marks in the fold table the code points that fold to none or to several."""

SPACE, WORD, SINGLE, APOSTROPHE, NEWLINE, IDEOGRAPH = 0, 1, 2, 3, 4, 6
"""Character classes of folded code points; but for APOSTROPHE the lowest bit says WORD, the next a token of its own.

SPACE: parts tokens and is ignored (blanks, hyphens, controls). WORD: letters (katakana among them), digits and their
marks. SINGLE: a token of its own (punctuation, symbols). APOSTROPHE: inside a word a part of it, elsewhere a token of
its own. NEWLINE: a space; two of them end a span. IDEOGRAPH: a word of one character (ideographs, hiragana), since
their scripts put no spaces between words."""

UPPER, LOWER, NUMBER = 1, 2, 3
"""Shapes of original code points; every other is 0. UPPER holds title case too."""

QUOTES = {"'": "‘’‚‛′ʼʹ`´＇", '"': "“”„‟″«»＂"}
DASHES = {"-": "‐‑‒–−﹣－", "—": "―"}
UNIFIED = {variant: plain for plain, variants in (QUOTES | DASHES).items() for variant in variants}
KEPT_MARKS = {0, 7, 8, 9}
"""Combining classes that are no accents: spacing and enclosing, nukta, kana voicing, virama."""

IDENTITY_BLOCKS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xD800, 0xF900), (0x17000, 0x18D00))
"""Ideographs, Hangul syllables, surrogates, private use, Tangut: fold to themselves, not worth a look-up each."""
TABLE_END = 0x20000
LATE_BLOCKS = ((0x2F800, 0x2FA20), (0xE0000, 0xE01F0))
"""Code points from TABLE_END on that fold to others: compatibility ideographs, tags and variation selectors."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text and its way back.

    codes: uint32 (length,), the folded code points.
    starts, ends: int64 (length,), the span of original code points each stands for, marks that folded away
        included in `ends`; None when every code point folded one to one, position i then being original i.
    """

    codes: Codes
    starts: Ints | None = None
    ends: Ints | None = None


def fold(text: str) -> str:
    """The folded form of a text.

    >>> fold("Ｃafé\u0301 “ß”")
    'cafe "ss"'
    """
    return decode(fold_text(text).codes)


def fold_text(text: str, codes: Codes | None = None) -> Folded:
    """Folds with offsets; lone surrogates stay what they are. codes: the text's code points, where they are known."""
    if codes is None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    folded = fold_table()[codes]
    odd = np.flatnonzero(folded == NOT_ONE_TO_ONE)
    return _expand(text, folded, odd) if len(odd) else Folded(folded)


def decode(codes: Codes) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def fold_character(character: str) -> str:
    """The fold of one code point: "", one or several code points.

    >>> [fold_character(c) for c in "Éß½"], fold_character("\u200d")
    (['e', 'ss', '1⁄2'], '')
    """
    if _is_invisible(character):
        return ""
    plain = _without_accents(_without_accents(UNIFIED.get(character, character)).casefold())
    return unicodedata.normalize("NFC", "".join(UNIFIED.get(c, c) for c in plain))


@cache
def fold_table() -> Codes:
    """Fold of every code point, uint32 (1114112,); `NOT_ONE_TO_ONE` where there is not exactly one."""
    table = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    for code in _looked_up():
        folded = fold_character(chr(code))
        table[code] = ord(folded) if len(folded) == 1 else NOT_ONE_TO_ONE
    table.setflags(write=False)
    return table


@cache
def class_table() -> npt.NDArray[np.uint8]:
    """Class of every folded code point, uint8 (1114112,)."""
    table = np.full(NUM_CODE_POINTS, WORD, dtype=np.uint8)
    for code in _looked_up():
        table[code] = _class_of(chr(code))
    table[0xD800:0xF900] = SINGLE
    table[0xF0000:] = SINGLE
    table[0x3040:0x30A0] = IDEOGRAPH
    table[0x3400:0xA000] = IDEOGRAPH
    table[0x20000:0x40000] = IDEOGRAPH
    table[0x3005] = IDEOGRAPH
    table.setflags(write=False)
    return table


@cache
def shape_table() -> npt.NDArray[np.uint8]:
    """Shape of every original code point, uint8 (1114112,): UPPER, LOWER, NUMBER or 0."""
    shapes = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Nd": NUMBER, "Nl": NUMBER, "No": NUMBER}
    table = np.zeros(NUM_CODE_POINTS, dtype=np.uint8)
    for code in _looked_up():
        table[code] = shapes.get(unicodedata.category(chr(code)), 0)
    table.setflags(write=False)
    return table


def _looked_up() -> Ints:
    asked = np.zeros(NUM_CODE_POINTS, dtype=bool)
    asked[:TABLE_END] = True
    for first, end in IDENTITY_BLOCKS:
        asked[first:end] = False
    for first, end in LATE_BLOCKS:
        asked[first:end] = True
    return np.flatnonzero(asked)


def _expand(text: str, folded: Codes, odd: Ints) -> Folded:
    """Replaces the marked code points by what they fold to; a vanished mark lengthens what stands before it."""
    replaced = [fold_character(text[i]) for i in odd]
    width = np.ones(len(folded), dtype=np.int64)
    width[odd] = [len(r) for r in replaced]
    starts = np.repeat(np.arange(len(folded), dtype=np.int64), width)
    codes = folded[starts]
    codes[codes == NOT_ONE_TO_ONE] = np.frombuffer(
        "".join(replaced).encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    )
    ends = starts + 1
    for i in odd[width[odd] == 0]:
        if unicodedata.category(text[i]) == "Mn":
            _lengthen(starts, ends, int(i))
    return Folded(codes, starts, ends)


def _lengthen(starts: Ints, ends: Ints, mark: int) -> None:
    """Lets the character that ends where the vanished mark stands end behind it."""
    last = int(np.searchsorted(starts, mark)) - 1
    if last < 0 or ends[last] != mark:
        return
    first = int(np.searchsorted(starts, starts[last]))
    ends[first : last + 1] = mark + 1


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in apart if unicodedata.combining(c) in KEPT_MARKS and not _is_invisible(c))


def _is_invisible(character: str) -> bool:
    code = ord(character)
    return (
        unicodedata.category(character) == "Cf"
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0100 <= code <= 0xE01EF
        or code in (0x034F, 0x115F, 0x1160, 0x3164)
    )


def _class_of(character: str) -> int:
    if character in "\n\v\f\x85\u2028\u2029":
        return NEWLINE
    if character == "'":
        return APOSTROPHE
    if character == "-":
        return SPACE
    category = unicodedata.category(character)
    if category[0] in "ZC":
        return SPACE
    return WORD if category[0] in "LNM" else SINGLE
