"""Plain text for people: tables, bars and trees that read the same on a terminal, in a log and through `less`.

Names come from other people's files, so everything printed goes through `plain`: a label cannot move the cursor,
colour the screen or turn the direction of a line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

BLANKS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, the marks that turn writing around, and what has no width at all."""


def plain(text: str) -> str:
    """The text on one line, blanks for line breaks and tabs, U+FFFD for what a terminal would obey, not show.

    >>> plain("red\\x1b[31m\\nline")
    'red\\ufffd[31m line'
    """
    return UNSHOWABLE.sub("\ufffd", BLANKS.sub(" ", text))


def width(text: str) -> int:
    """Columns of a terminal that the text takes: two for wide characters, none for combining marks.

    >>> width("東京"), width("e\\u0301")
    (4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, columns: int, *, middle: bool = False) -> str:
    """`plain` text of at most so many columns; an ellipsis stands for the end, or for the middle, that was cut."""
    text = plain(text if middle else text[: 4 * columns + 4])
    if width(text) <= columns:
        return text
    tail = _last(text, (columns - 1) // 2) if middle else ""
    return f"{_first(text, columns - 1 - width(tail)).rstrip()}…{tail}"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = (), widest: int = 60
) -> str:
    """Columns two blanks apart, a rule under the heads.

    right: numbers of the columns set to the right. widest: longer cells are cut, those with a slash (paths, IRIs, whose
    end says most) in the middle. The last column is never padded.
    """
    cells = [[shortened(str(cell), widest, middle="/" in str(cell)) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(heads, *cells)]
    lines = [_line(heads, widths, right), "  ".join("-" * columns for columns in widths)]
    return "\n".join([*lines, *(_line(row, widths, right) for row in cells)])


def pairs(rows: Sequence[tuple[str, object]], *, widest: int = 100) -> str:
    """Name and value a line, values in one column."""
    names = max((width(name) for name, _ in rows), default=0)
    return "\n".join(f"{_padded(name, names)}  {shortened(str(value), widest)}".rstrip() for name, value in rows)


def bar(value: float, largest: float, columns: int = 40) -> str:
    """A bar of blocks in proportion; anything above 0 shows at least one.

    >>> bar(1, 4, columns=8), bar(0, 4), bar(1, 1000)
    ('##', '', '#')
    """
    return "#" * max(round(columns * value / largest), 1) if value > 0 else ""


def and_more(count: int) -> str:
    """The line that stands for what is not shown."""
    return f"… and {count:,} more"


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun.

    >>> counted(1, "entity", "entities"), counted(2000, "entity", "entities")
    ('1 entity', '2,000 entities')
    """
    return f"{count:,} {one if count == 1 else many}"


def _first(text: str, columns: int) -> str:
    kept = 0
    for character in text:
        columns -= width(character)
        if columns < 0:
            break
        kept += 1
    return text[:kept]


def _last(text: str, columns: int) -> str:
    return _first(text[::-1], columns)[::-1]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = [_padded(cell, widths[number], number in right) for number, cell in enumerate(cells)]
    return "  ".join(padded).rstrip()


def _padded(text: str, columns: int, right: bool = False) -> str:
    blanks = " " * (columns - width(text))
    return blanks + text if right else text + blanks
