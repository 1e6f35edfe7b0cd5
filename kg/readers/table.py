"""Every format `kg build` reads."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kg.errors import InputError
from kg.readers import tsv, wordnet
from kg.records import RawGraph
from kg.sources import source_path

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Reader:
    """A format.

    read: opens a source; the streams of the `RawGraph` are lazy.
    reads: the files it expects, for messages and help.
    locate: where the source lies when nobody names it; None where every source is somebody's own.
    """

    read: Callable[[Path], RawGraph]
    reads: str
    locate: Callable[[], Path] | None = None


READERS: dict[str, Reader] = {
    "wordnet": Reader(
        wordnet.read,
        "a WordNet database folder (data.noun, index.noun, and cntlist.rev or index.sense)",
        wordnet.locate,
    ),
    "tsv": Reader(
        tsv.read, "a file of lines head<TAB>relation<TAB>tail, or a folder with triples.tsv and entities.jsonl"
    ),
}


def reader_named(name: str) -> Reader:
    """The reader of a format.

    Raises:
        InputError: no such format; the nearest and all of them are named.
    """
    if name in READERS:
        return READERS[name]
    near = difflib.get_close_matches(name, READERS, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"no graph reader is named {name!r}; {hint}the readers are {', '.join(READERS)}")


def locate_source(reader: str, source: str) -> Path:
    """The path a reader is to open, which need not exist: the named one, or the reader's own for `auto`.

    Raises:
        InputError: the reader has no default source, or it is not installed.
    """
    chosen = reader_named(reader)
    if source != AUTO:
        return source_path(source)
    if chosen.locate is None:
        raise InputError(f"the reader {reader!r} has no default source; set `source` to {chosen.reads}")
    return chosen.locate()
