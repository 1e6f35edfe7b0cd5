"""Every format `kg build` reads. Light: a reader's module is loaded when it is used."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kg.errors import InputError
from kg.records import RawGraph, ReadOptions
from kg.sources import source_path

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Reader:
    """A format.

    module: holds `read(source: Path, options: ReadOptions) -> RawGraph`, whose batches are lazy.
    reads: the files it expects, for messages and help.
    locate: name of the module's function () -> Path that finds the source when nobody names it; None where every
        source is somebody's own.
    resumable: its batches carry a `position`, from which an interrupted read goes on; where they carry none (some of
        a reader's formats), the source is read again from its beginning.
    """

    module: str
    reads: str
    locate: str | None = None
    resumable: bool = False

    def read(self, source: Path, options: ReadOptions) -> RawGraph:
        """Opens a source.

        Raises:
            InputError: it is not what `reads` says.
        """
        return import_module(self.module).read(source, options)


READERS: dict[str, Reader] = {
    "wordnet": Reader(
        "kg.readers.wordnet",
        "a WordNet database folder (data.noun, index.noun, and cntlist.rev or index.sense)",
        locate="locate",
    ),
    "tsv": Reader(
        "kg.readers.tsv",
        "a file of lines head<TAB>relation<TAB>tail (or head,relation,tail), or a folder with triples.tsv, or with "
        "train, valid and test files (as FB15k-237, WN18RR, CoDEx, Wikidata5M), and perhaps entities.jsonl and "
        "relations.tsv",
    ),
    "wikidata_json": Reader(
        "kg.readers.wikidata_json", "a Wikidata JSON dump (.json, .gz, .bz2, .zst)", resumable=True
    ),
    "rdf": Reader(
        "kg.readers.rdf", "an RDF file (.nt, .nq, .ttl, .trig, .rdf, .owl, .xml; also .gz, .bz2, .zst)", resumable=True
    ),
    "openke": Reader("kg.readers.openke", "an OpenKE folder (entity2id.txt, relation2id.txt, train2id.txt)"),
    "networkx": Reader("kg.readers.networkx", "a graph of networkx: .graphml, .json (node-link), or an edge list"),
    "obo": Reader("kg.readers.obo", "an ontology in OBO format (.obo; also .gz, .bz2, .zst)"),
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
    return getattr(import_module(chosen.module), chosen.locate)()
