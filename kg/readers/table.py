"""Every format `kg build` reads. A reader's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kg.errors import InputError
from kg.sources import source_path

if TYPE_CHECKING:
    from kg.records import RawGraph, ReadOptions

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Reader:
    """A format.

    module: where `read(source: Path, options: ReadOptions) -> RawGraph` stands; its batches are lazy.
    reads: the files it expects, for messages and help.
    locates: the module has `locate() -> Path`: where the source lies when nobody names it.
    resumable: an interrupted read goes on where it was; for sources that take long.
    """

    module: str
    reads: str
    locates: bool = False
    resumable: bool = False

    def read(self, source: Path, options: ReadOptions) -> RawGraph:
        return importlib.import_module(self.module).read(source, options)

    def locate(self) -> Path:
        return importlib.import_module(self.module).locate()


READERS: dict[str, Reader] = {
    "wordnet": Reader(
        "kg.readers.wordnet",
        "a WordNet database folder (data.noun, index.noun, and cntlist.rev or index.sense)",
        locates=True,
    ),
    "tsv": Reader(
        "kg.readers.tsv",
        "a file of lines head<TAB>relation<TAB>tail (or .csv), or a folder with triples.tsv, or train, valid and test",
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
    if not chosen.locates:
        raise InputError(f"the reader {reader!r} has no default source; set `source` to {chosen.reads}")
    return chosen.locate()
