"""Text in: every corpus format reads as a stream of `Document`s.

    >>> sorted(CORPORA)
    ['folder', 'jsonl', 'text', 'wikipedia']

Whatever the format: a document without text is counted under `empty_text` and left out; a lone surrogate, which no
UTF-8 file can hold, becomes U+FFFD (one code point for one, so that no offset moves) and is counted under
`lone_surrogates_replaced`; an id that came before is an error, since tasks join their examples to documents by id.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kg.errors import InputError
from kg.sources import resolve_source

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
UTF8_MARK = b"\xef\xbb\xbf"
NO_TOPIC = "Uncategorized"


@dataclass(frozen=True, slots=True)
class Document:
    """One text. topic: an editor's label of the document ("" where there is none)."""

    id: str
    text: str
    title: str = ""
    topic: str = ""


def read_corpus(format: str, source: str, dropped: Counter[str]) -> Iterator[Document]:
    """Documents of a corpus, in the order of its files and lines; reads as it goes, one file or line at a time.

    format: a key of `CORPORA`. source: a path, or `package:NAME/inner/path`. dropped: receives the counts by reason.

    Raises:
        InputError: unknown format, nothing at the path, invalid UTF-8, malformed JSON (with file and line), an id
            that came before.
    """
    if format not in CORPORA:
        raise InputError(f"corpus format {format!r} is unknown; expected one of {', '.join(sorted(CORPORA))}")
    path = resolve_source(source)
    seen: set[str] = set()
    for document, where in CORPORA[format](path):
        document = _encodable(document, dropped)
        if not document.text.strip():
            dropped["empty_text"] += 1
            continue
        if document.id in seen:
            raise InputError(
                f"{where}: the document id {document.id!r} came before; give every document an id of its own"
            )
        seen.add(document.id)
        yield document


def read_wikipedia(path: Path) -> Iterator[tuple[Document, str]]:
    """A JSON object `title -> {title, extract, description, topic}`; the title is the document's id.

    "Uncategorized" is no topic and reads as "".
    """
    entries = _parse(path.read_bytes(), path, first_line=1)
    if not isinstance(entries, dict):
        raise InputError(f"{path}: expected a JSON object title -> entry, got {type(entries).__name__}")
    for title, entry in entries.items():
        where = f"{path}: entry {title!r}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: expected an object with `extract`, got {type(entry).__name__}")
        topic = _text_field(entry, "topic", where)
        text = _text_field(entry, "extract", where)
        yield Document(title, text, title=title, topic="" if topic == NO_TOPIC else topic), where


def read_text(path: Path) -> Iterator[tuple[Document, str]]:
    """A `.txt` file, or a folder with `*.txt` at any depth: one document a file, its id the path inside the folder."""
    for file in _files(path, "*.txt"):
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        text = _decode(file.read_bytes().removeprefix(UTF8_MARK), file, first_line=1)
        yield Document(name, text, title=file.stem), str(file)


def read_jsonl(path: Path) -> Iterator[tuple[Document, str]]:
    """A `.jsonl` file, or a folder of them: a line `{"text", "id"?, "title"?, "topic"?}` a document.

    Without `id`, the file's name inside the folder and the line's number are the id: `news.jsonl:12`.
    """
    for file in _files(path, "*.jsonl"):
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_document(line, file, number, f"{name}:{number}"), f"{file}:{number}"


def read_folder(path: Path) -> Iterator[tuple[Document, str]]:
    """A folder with `*.txt`, `*.jsonl` or both at any depth, read as `text` and `jsonl` are, text files first."""
    present = [
        reader for pattern, reader in (("*.txt", read_text), ("*.jsonl", read_jsonl)) if any(path.rglob(pattern))
    ]
    if not present:
        raise InputError(f"{path}: expected a folder with *.txt or *.jsonl files, found none")
    for reader in present:
        yield from reader(path)


CORPORA: dict[str, Callable[[Path], Iterator[tuple[Document, str]]]] = {
    "wikipedia": read_wikipedia,
    "text": read_text,
    "jsonl": read_jsonl,
    "folder": read_folder,
}
"""Readers by name; each yields documents with the place they came from, for messages."""


def _json_document(line: bytes, file: Path, number: int, default_id: str) -> Document:
    where = f"{file}:{number}"
    entry = _parse(line.removeprefix(UTF8_MARK), file, first_line=number)
    if not isinstance(entry, dict) or "text" not in entry:
        raise InputError(f'{where}: expected an object with a "text" string, got {_short(entry)}')
    identifier = entry.get("id", default_id)
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
        raise InputError(f'{where}: "id" must be a string or a whole number, got {_short(identifier)}')
    return Document(
        str(identifier),
        _text_field(entry, "text", where),
        title=_text_field(entry, "title", where),
        topic=_text_field(entry, "topic", where),
    )


def _text_field(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f'{where}: "{key}" must be a string, got {_short(value)}')
    return value


def _files(path: Path, pattern: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob(pattern) if p.is_file())
    if not files:
        raise InputError(f"{path}: holds no {pattern} file; give the file itself, or a folder with such files")
    return files


def _parse(data: bytes, file: Path, *, first_line: int) -> Any:
    text = _decode(data, file, first_line=first_line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{file}:{line}: not JSON ({error.msg} at column {error.colno}); mend the line") from None
    except RecursionError:
        raise InputError(f"{file}:{first_line}: JSON nested too deeply to read; mend the line") from None


def _decode(data: bytes, file: Path, *, first_line: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise InputError(
            f"{file}:{line}: byte {data[error.start]:#04x} is not valid UTF-8 ({error.reason}); "
            f"convert the file to UTF-8"
        ) from None


def _encodable(document: Document, dropped: Counter[str]) -> Document:
    values = (document.id, document.text, document.title, document.topic)
    if not any(LONE_SURROGATE.search(value) for value in values):
        return document
    dropped["lone_surrogates_replaced"] += len(LONE_SURROGATE.findall(document.text))
    return Document(*(LONE_SURROGATE.sub("\ufffd", value) for value in values))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
