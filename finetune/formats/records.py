"""What the formats share: bad records, columns of a user's own table, and texts made of tokens."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kg.errors import InputError

BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""The Penn Treebank's names of brackets."""
ESCAPED = {bracket: name for name, bracket in BRACKETS.items()}
Record = tuple[str, Any]
"""Where a record stands (`line 12`, `record 3`), and what was read there."""


class BadRecord(Exception):
    """A record that cannot be an example; the caller puts file and place before it.

    reason: a name to count under. field: the field at fault, and the value it has.
    """

    def __init__(self, reason: str, field: str, value: Any, expected: str) -> None:
        super().__init__(f"`{field}` is {_short(value)}: {expected}")
        self.reason = reason
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of a CSV (or TSV) of the user's own; a column that is not there is not read."""

    id: str = "id"
    """Of every row its own; without the column, the row's number."""
    text: str = "text"
    """The text."""
    text_pair: str = "text_pair"
    """A second text."""
    label: str = "label"
    """The class; with `label_separator` set, several."""
    value: str = "value"
    """The number a regression asks for."""
    label_separator: str = ""
    """What stands between several labels in one cell; empty: one label a row."""
    mention: str = "mention"
    """The marked words, whose first place in the text counts; or the columns `mention_start` and `mention_end`."""
    head: str = "head"
    """As `mention`, of relations."""
    tail: str = "tail"
    """As `mention`, of relations."""


class Tokens:
    """A text of tokens joined by single blanks, and where each of them stands."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.text = " ".join(tokens)
        self.starts, place = [], 0
        for token in tokens:
            self.starts.append(place)
            place += len(token) + 1
        self.ends = [start + len(token) for start, token in zip(self.starts, tokens, strict=True)]

    def span(self, first: int, behind: int) -> tuple[int, int]:
        """Characters of tokens first … behind - 1.

        Raises:
            IndexError: there are no such tokens.
        """
        if not 0 <= first < behind <= len(self.starts):
            raise IndexError(f"tokens {first}..{behind} of {len(self.starts)}")
        return self.starts[first], self.ends[behind - 1]


def token_range(text: str, start: int, end: int) -> tuple[int, int]:
    """First token and the one behind the last, of characters in a text whose tokens single blanks part.

    Raises:
        BadRecord: the span begins or ends inside a token.
    """
    if (start and text[start - 1] != " ") or (end < len(text) and text[end] != " "):
        raise BadRecord("span_inside_token", "start, end", (start, end), "this format marks whole tokens")
    first = text.count(" ", 0, start)
    return first, first + text.count(" ", start, end) + 1


def json_array(path: Path) -> Iterator[Record]:
    """The members of a file that is one JSON array."""
    data = read_json(path)
    if not isinstance(data, list):
        raise InputError(f"{path}: expected a JSON array of records, got {type(data).__name__}")
    for number, record in enumerate(data, start=1):
        yield f"record {number}", record


def json_lines(path: Path) -> Iterator[Record]:
    """One JSON value a line; a line that is none is handed on as bytes, for the format to refuse."""
    with existing(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", orjson.loads(line)
                except orjson.JSONDecodeError:
                    yield f"line {number}", line


def table_rows(path: Path, *, delimiter: str, quoted: bool) -> Iterator[tuple[str, list[str]]]:
    """Cells of every line. Without quotes a `"` is a letter like any other, as GLUE's files need it."""
    with existing(path).open(encoding="utf-8-sig", newline="") as file:
        if not quoted:
            for number, line in enumerate(file, start=1):
                yield f"line {number}", line.rstrip("\r\n").split(delimiter)
            return
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num}: {error}; quote a cell that holds a quote") from None


def read_json(path: Path) -> Any:
    try:
        return orjson.loads(existing(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return Path(path)


def get(record: Any, field: str, kind: type | tuple[type, ...], *, of: str = "") -> Any:
    """A field of a JSON object, of the expected type; `of` names the object it is in."""
    if not isinstance(record, dict):
        raise BadRecord("not_an_object", of or "record", record, "expected a JSON object")
    value = record.get(field)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise BadRecord("missing_or_wrong_type", f"{of}{field}", value, f"expected {names}")
    return value


def strings(record: Any, field: str) -> list[str]:
    """A field that is a list of strings."""
    values = get(record, field, list)
    if not all(isinstance(value, str) for value in values):
        raise BadRecord("missing_or_wrong_type", field, values, "expected a list of strings")
    return values


def unescaped(tokens: Sequence[str]) -> list[str]:
    """Tokens with the Treebank's bracket names as brackets."""
    return [BRACKETS.get(token, token) for token in tokens]


def escaped(tokens: Sequence[str]) -> list[str]:
    """The other way."""
    return [ESCAPED.get(token, token) for token in tokens]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
