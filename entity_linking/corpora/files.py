"""Text by file and by line: plain text, JSON lines, one JSON object of articles; each plain or packed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from entity_linking.corpora.columns import Columns
from entity_linking.corpora.records import (
    PACKED,
    BadRecord,
    Document,
    NamedFile,
    Record,
    document_of,
    short,
    text_of,
    utf8,
)
from kg.errors import InputError
from kg.readers.lines import BYTE_ORDER_MARK, open_stream

NO_TOPIC = "Uncategorized"


def read_wikipedia(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A JSON object `title -> {title, extract, description, topic}`; the title is the document's id.

    "Uncategorized" is no topic and reads as "". The object is read whole; `columns` have no say here.

    Raises:
        InputError: the file is not one JSON object in UTF-8 (file:line).
    """
    with open_stream(file) as stream:
        data = stream.read().removeprefix(BYTE_ORDER_MARK)
    try:
        entries = parsed(utf8(data))
    except BadRecord as bad:
        raise InputError(f"{file}:{bad.line}: {bad.error}") from None
    if not isinstance(entries, dict):
        raise InputError(f"{file}: expected a JSON object title -> entry, got {type(entries).__name__}")
    for title, entry in entries.items():
        place = f"{name}: entry {title!r}"
        try:
            if not isinstance(entry, dict):
                raise BadRecord("wrong_type", f"expected an object with `extract`, got {type(entry).__name__}")
            topic, text = text_of(entry, "topic"), text_of(entry, "extract")
        except BadRecord as bad:
            yield bad.at(place, json.dumps(entry))
        else:
            yield Document(title, text, title=title, topic="" if topic == NO_TOPIC else topic), place


def read_text(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A text file is a document: its name is the id, without its endings the title. It is held whole."""
    with open_stream(file) as stream:
        data = stream.read().removeprefix(BYTE_ORDER_MARK)
    try:
        text = utf8(data)
    except BadRecord as bad:
        yield bad.at(f"{name}:{bad.line}", data)
    else:
        yield Document(name, text, title=_title(file)), name


def read_jsonl(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A line `{"text", "id"?, "title"?, "topic"?}` is a document; it may be of any length.

    Without `id`, the file's name inside the folder and the line's number are the id: `news.jsonl:12`.
    """
    with open_stream(file) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            place = f"{name}:{number}"
            try:
                entry = parsed(utf8(line))
                if not isinstance(entry, dict) or columns.text not in entry:
                    wanted = f'expected an object with a "{columns.text}" string'
                    raise BadRecord("wrong_type", f"{wanted}, got {short(entry)}")
                yield document_of(entry, columns, place), place
            except BadRecord as bad:
                yield bad.at(place, line)


def read_text_or_jsonl(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """As its name says: `*.jsonl`, plain or packed, by line, all else as text."""
    return (read_jsonl if ".jsonl" in file.suffixes[-2:] else read_text)(file, name, columns, dropped)


def text_and_jsonl(path: Path) -> list[NamedFile]:
    """The files of a folder of `*.txt`, `*.jsonl` or both at any depth, text files first.

    Raises:
        InputError: it has neither.
    """
    found = [matching(path, (pattern,)) for pattern in ("*.txt", "*.jsonl")]
    if not any(found):
        raise InputError(f"{path}: expected a folder with *.txt or *.jsonl files, found none")
    return [(file, file.relative_to(path).as_posix()) for files in found for file in files]


def one_file(path: Path) -> list[NamedFile]:
    """The file itself."""
    return [(path, path.name)]


def files_like(*patterns: str) -> Callable[[Path], list[NamedFile]]:
    """The file itself, or the folder's files of these patterns at any depth, plain or packed, with their names in it.

    What is made raises InputError where the folder has none.
    """

    def files(path: Path) -> list[NamedFile]:
        if path.is_file():
            return one_file(path)
        found = matching(path, patterns)
        if not found:
            raise InputError(
                f"{path}: holds no {' or '.join(patterns)} file; give the file itself, or a folder with such files"
            )
        return [(file, file.relative_to(path).as_posix()) for file in found]

    return files


def matching(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that are called so, plain or packed, sorted."""
    names = [pattern + packed for pattern in patterns for packed in PACKED]
    return sorted({file for name in names for file in path.rglob(name) if file.is_file()})


def parsed(text: str) -> Any:
    """JSON of one record.

    Raises:
        BadRecord: `invalid_json`: no JSON, nested too deeply, a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno}); mend the line"
        raise BadRecord("invalid_json", what, error.lineno) from None
    except RecursionError:
        raise BadRecord("invalid_json", "JSON nested too deeply to read; mend the line") from None
    except ValueError as error:
        raise BadRecord("invalid_json", f"not JSON that can be read ({error}); mend the line") from None


def _title(file: Path) -> str:
    name = Path(file.stem) if file.suffix in PACKED[1:] else file
    return name.stem
