"""Text in: every corpus format reads as a stream of `Document`s.

    >>> sorted(CORPORA)
    ['csv', 'dataset', 'folder', 'jsonl', 'mediawiki', 'parquet', 'text', 'wikipedia']

Whatever the format: a document without text is counted under `empty_text` and left out; a lone surrogate, which no
UTF-8 file can hold, and a NUL, at which other programs end a text, become U+FFFD (one code point for one, so that no
offset moves) and are counted under `lone_surrogates_replaced` and `nul_replaced`; an id that came before is a bad
record, since tasks join their examples to documents by id.

A bad record is an error with its file and line, or, with `on_bad_record="reject"`, counted under `rejected_REASON`
and handed aside, and reading goes on behind it. What leaves no next record to go on with stays an error: no such
file, an archive that was cut off, a table without the column of the text, XML or a JSON object that breaks off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from entity_linking.corpora.columns import Columns
from entity_linking.corpora.files import (
    NO_TOPIC,
    files_like,
    one_file,
    read_jsonl,
    read_text,
    read_text_or_jsonl,
    read_wikipedia,
    text_and_jsonl,
)
from entity_linking.corpora.mediawiki import read_mediawiki
from entity_linking.corpora.records import BadRecord, Document, NamedFile, Reader, Rejected
from entity_linking.corpora.seen import SeenIds
from entity_linking.corpora.tables import arrow_files, read_arrow, read_csv, read_parquet
from entity_linking.link_config import OnBadRecord
from kg.errors import InputError
from kg.sources import resolve_source

__all__ = [
    "CORPORA",
    "NO_TOPIC",
    "Columns",
    "Document",
    "OnBadRecord",
    "Rejected",
    "corpus_files",
    "read_corpus",
    "read_files",
    "repeated",
]

REPLACED = re.compile("[\0\ud800-\udfff]")
REPLACEMENT = "\ufffd"

CORPORA: dict[str, Reader] = {
    "wikipedia": Reader(one_file, read_wikipedia),
    "text": Reader(files_like("*.txt"), read_text),
    "jsonl": Reader(files_like("*.jsonl"), read_jsonl),
    "folder": Reader(text_and_jsonl, read_text_or_jsonl),
    "csv": Reader(files_like("*.csv", "*.tsv"), read_csv),
    "parquet": Reader(files_like("*.parquet"), read_parquet),
    "dataset": Reader(arrow_files, read_arrow),
    "mediawiki": Reader(files_like("*.xml*"), read_mediawiki),
}
"""Readers by name; each yields documents with the place they came from, and the records it could not read."""


def corpus_files(format: str, source: str) -> list[NamedFile]:
    """The files of a corpus, in the order in which they are read.

    Raises:
        InputError: unknown format, nothing at the path, no file of that format.
    """
    if format not in CORPORA:
        raise InputError(f"corpus format {format!r} is unknown; expected one of {', '.join(sorted(CORPORA))}")
    return list(CORPORA[format].files(resolve_source(source)))


def read_corpus(
    format: str,
    source: str,
    dropped: Counter[str],
    *,
    columns: Columns | None = None,
    on_bad_record: OnBadRecord = "error",
    rejected: Callable[[Rejected], None] | None = None,
) -> Iterator[Document]:
    """Documents of a corpus, in the order of its files and lines; reads as it goes, one record at a time.

    format: a key of `CORPORA`. source: a path, or `package:NAME/inner/path`. Else as `read_files`.

    Raises:
        InputError: as `corpus_files` and `read_files`.
    """
    files = corpus_files(format, source)
    yield from read_files(format, files, dropped, columns=columns, on_bad_record=on_bad_record, rejected=rejected)


def read_files(
    format: str,
    files: Sequence[NamedFile],
    dropped: Counter[str],
    *,
    columns: Columns | None = None,
    on_bad_record: OnBadRecord = "error",
    rejected: Callable[[Rejected], None] | None = None,
) -> Iterator[Document]:
    """Documents of some files of a corpus.

    dropped: receives the counts by reason. columns: names of keys and columns other than text, id, title, topic.
    rejected: receives the bad records, where they are rejected.

    Raises:
        InputError: an unknown policy, what no reader can go on behind, and, unless they are rejected, invalid UTF-8,
            malformed JSON or CSV, a value of a wrong type, an id that came before.
    """
    if on_bad_record not in get_args(OnBadRecord):
        raise InputError(f"on_bad_record is {on_bad_record!r}; expected error or reject")
    seen = SeenIds()
    for file, name in files:
        for record in CORPORA[format].read(file, name, columns or Columns(), dropped):
            if not isinstance(record, Rejected):
                document, place = _readable(record[0], dropped), record[1]
                if not document.text.strip():
                    dropped["empty_text"] += 1
                    continue
                if seen.add(document.id):
                    yield document
                    continue
                record = repeated(document.id, place, document.text)
            if on_bad_record == "error":
                base = str(file).removesuffix(name)
                raise InputError(f"{base}{record.place}: {record.error}")
            dropped[f"rejected_{record.reason}"] += 1
            if rejected is not None:
                rejected(record)


def repeated(identifier: str, place: str, text: str) -> Rejected:
    """What an id that came before is."""
    what = f"the document id {identifier!r} came before; give every document an id of its own"
    return BadRecord("duplicate_id", what).at(place, text)


def _readable(document: Document, dropped: Counter[str]) -> Document:
    values = {name: getattr(document, name) for name in ("id", "text", "title", "topic")}
    if not any(REPLACED.search(value) for value in values.values()):
        return document
    found = REPLACED.findall(document.text)
    nul = found.count("\0")
    counted = {"nul_replaced": nul, "lone_surrogates_replaced": len(found) - nul}
    dropped.update({reason: number for reason, number in counted.items() if number})
    mended = {name: REPLACED.sub(REPLACEMENT, value) for name, value in values.items()}
    return Document(**mended, links=document.links)
