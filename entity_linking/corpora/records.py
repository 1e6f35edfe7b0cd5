"""What a corpus reader hands out: documents, and records it could not read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entity_linking.corpora.columns import Columns
from entity_linking.records import Link

RAW_CHARACTERS = 10_000
"""A rejected record's content is kept up to this length."""
PACKED = ("", ".gz", ".bz2", ".zst")


@dataclass(frozen=True, slots=True)
class Document:
    """One text. topic: an editor's label of the document ("" where there is none).

    links: the hyperlinks of the text, in order of their start, none overlapping: `text[start:end]` is the anchor,
    `entity` the title of the page it leads to, the score 1. Only `mediawiki` has some.
    """

    id: str
    text: str
    title: str = ""
    topic: str = ""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be read.

    reason: `invalid_utf8`, `invalid_json`, `invalid_csv`, `wrong_type`, `wrong_column_count` or `duplicate_id`.
    place: file inside the corpus and line or row (`news.jsonl:12`). error: what is wrong and what to do.
    raw: the content up to `RAW_CHARACTERS`, bytes that are not UTF-8 as `\\xff`.
    """

    reason: str
    place: str
    error: str
    raw: str

    def to_json(self) -> str:
        """One line of `rejected.jsonl`; ASCII, so that whatever came in can be written."""
        return json.dumps({"reason": self.reason, "place": self.place, "error": self.error, "raw": self.raw})


Record = tuple[Document, str] | Rejected
"""A document with its place, or what could not be read."""
NamedFile = tuple[Path, str]
"""A file, and its name inside the corpus, by which messages and default ids call it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A corpus format.

    files: path -> the files that hold the corpus, in order. read: file, its name, names of the columns, counts by
    reason of what is left out -> its records in their order.
    """

    files: Callable[[Path], Sequence[NamedFile]]
    read: Callable[[Path, str, Columns, Counter[str]], Iterator[Record]]


class BadRecord(Exception):
    """Raised inside a reader where one record is wrong and the next may be right; `line` counts inside the record."""

    def __init__(self, reason: str, error: str, line: int = 1) -> None:
        super().__init__(error)
        self.reason, self.error, self.line = reason, error, line

    def at(self, place: str, raw: bytes | str) -> Rejected:
        if isinstance(raw, bytes):
            raw = raw[: 4 * RAW_CHARACTERS].decode("utf-8", "backslashreplace")
        return Rejected(self.reason, place, self.error, raw[:RAW_CHARACTERS])


def document_of(entry: Mapping[str, Any], columns: Columns, default_id: str) -> Document:
    """A record's named values as a document; without an id (or with null) it gets `default_id`.

    Raises:
        BadRecord: `wrong_type`: an id that is neither string nor whole number, another value that is no string.
    """
    identifier = entry.get(columns.id)
    if identifier is None or identifier == "":
        identifier = default_id
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
        raise BadRecord("wrong_type", f'"{columns.id}" must be a string or a whole number, got {short(identifier)}')
    return Document(
        str(identifier),
        text_of(entry, columns.text),
        title=text_of(entry, columns.title),
        topic=text_of(entry, columns.topic),
    )


def text_of(entry: Mapping[str, Any], name: str) -> str:
    """A string of a record; null and none are "".

    Raises:
        BadRecord: another type.
    """
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord("wrong_type", f'"{name}" must be a string, got {short(value)}; mend the record')
    return value


def utf8(data: bytes) -> str:
    """Bytes as text.

    Raises:
        BadRecord: `invalid_utf8`.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
        what = f"byte {data[start]:#04x} is not valid UTF-8 ({error.reason}, byte {start + 1:,} of the record)"
        raise BadRecord("invalid_utf8", f"{what}; convert it to UTF-8", 1 + data.count(b"\n", 0, start)) from None


def short(value: Any) -> str:
    """A value for a message: its type's name where it is large, so that no one prints 50 MB."""
    if isinstance(value, (str, bytes, list, dict)) and len(value) > 60:
        return f"{type(value).__name__} of length {len(value):,}"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
