"""Triples as separated names, with optional files of entity and relation records.

A bare file is triples alone: lines `head<TAB>relation<TAB>tail`, or `.csv` with commas and quotes. A folder holds
`triples.tsv`, or a published split (`train`, `valid` or `dev`, `test`, each `.tsv`, `.txt` or `.csv`; FB15k-237,
WN18RR, CoDEx), or Wikidata5M's `wikidata5m_transductive_*.txt`. Every file may be packed (.gz, .bz2, .zst).

Beside them may lie `entities.jsonl` (`{"id", "label"?, "aliases"?, "description"?, "types"?, "count"?}`; aliases are
a list of surfaces, or an object surface -> how often it meant this entity; keys beyond these are passed over),
`relations.tsv` (id<TAB>label), and Wikidata5M's `wikidata5m_entity.txt` and `wikidata5m_relation.txt` (id<TAB>label
<TAB>alias…) and `wikidata5m_text.txt` (id<TAB>description). An entity without a record has its id, underscores as
spaces, for label and alias.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import orjson

from kg.errors import InputError
from kg.readers.batches import entity_batches, triple_batches
from kg.readers.lines import BYTE_ORDER_MARK, blocks, decoded, malformed, numbered_lines, open_stream, packing, size_of
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation, readable

HEADER = ["head", "relation", "tail"]
KEYS = ("id", "label", "aliases", "description", "types", "count")
ENDINGS = tuple(f"{ending}{packed}" for ending in (".tsv", ".txt", ".csv") for packed in ("", ".gz", ".bz2", ".zst"))
SPLITS = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
PUBLISHED = ("", "wikidata5m_transductive_")
TAB, NEWLINE = 9, 10
EXPECTED = "head<TAB>relation<TAB>tail"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which files of a source are what; None where there is none."""

    triples: tuple[tuple[Path, str], ...]
    records: Path | None = None
    relations: Path | None = None
    names: Path | None = None
    texts: Path | None = None


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens a folder or a bare triples file; one language, so `options` say nothing to it.

    dropped: `blank_line`, `header_line`, `duplicate_record` (an equal record again), for records
        `record_key_unknown` (a key this format gives no meaning to), and for Wikidata5M's descriptions
        `text_without_entity` (of an id that its file of entities lacks) and `duplicate_text` (another of the same id).

    Raises:
        InputError: now, when there is no triples file; while walked, at a malformed line (file:line), or an id
            with two different records.
    """
    layout = layout_of(source)
    return RawGraph(_batches(layout), total_bytes=sum(size_of(path) for path, _ in layout.triples))


def layout_of(source: Path) -> Layout:
    """The files of a folder by their names, or the file itself.

    Raises:
        InputError: the folder holds no triples.
    """
    if not source.is_dir():
        return Layout(((source, ""),))
    extras = {
        "records": _named(source, "entities", (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst")),
        "relations": _named(source, "relations") or _named(source, "wikidata5m_relation"),
        "names": _named(source, "wikidata5m_entity"),
        "texts": _named(source, "wikidata5m_text"),
    }
    if (triples := _named(source, "triples")) is not None:
        return Layout(((triples, ""),), **extras)
    for prefix in PUBLISHED:
        found = [
            (path, split)
            for split, stems in SPLITS.items()
            if (path := next(filter(None, (_named(source, prefix + stem) for stem in stems)), None)) is not None
        ]
        if found and found[0][1] == "train":
            return Layout(tuple(found), **extras)
    raise InputError(
        f"{source}: expected triples.tsv in it (lines {EXPECTED}), or train.tsv with valid.tsv and test.tsv, found none"
    )


def _named(folder: Path, stem: str, endings: tuple[str, ...] = ENDINGS) -> Path | None:
    return next((folder / f"{stem}{ending}" for ending in endings if (folder / f"{stem}{ending}").is_file()), None)


def _batches(layout: Layout) -> Iterator[Batch]:
    dropped: Counter[str] = Counter()
    if layout.relations is not None:
        yield Batch(relations=list(_relations(layout.relations, dropped)))
    if layout.records is not None:
        yield from entity_batches(_records(layout.records, dropped))
    if layout.names is not None:
        yield from entity_batches(_named_entities(layout.names, layout.texts, dropped))
    for path, split in layout.triples:
        yield from (_comma_batches if ".csv" in path.suffixes else _tab_batches)(path, split, dropped)
    yield Batch(dropped=dropped)


# --- triples --------------------------------------------------------------------------------------------------


def _tab_batches(path: Path, split: str, dropped: Counter[str]) -> Iterator[Batch]:
    for block, number in blocks(path):
        headed = number == 1 and _is_header(block.partition(b"\n")[0].decode("utf-8", "replace").split("\t"))
        columns = None if headed else _quick_columns(block)
        heads, relations, tails = columns or _careful_columns(path, block, number, dropped)
        yield Batch(heads=heads, relation_ids=relations, tails=tails, split=split, bytes_read=len(block))


def _is_header(names: list[str]) -> bool:
    return [name.strip().lower() for name in names] == HEADER


def _quick_columns(block: bytes) -> tuple[list[str], list[str], list[str]] | None:
    """Three columns of a block whose every line has three names; None where a line needs a closer look."""
    if not block.endswith(b"\n") or b"\r" in block:
        return None
    data = np.frombuffer(block, np.uint8)
    separators = data[(data == TAB) | (data == NEWLINE)]
    if len(separators) % 3 or not (separators.reshape(-1, 3) == (TAB, TAB, NEWLINE)).all():
        return None
    try:
        names = block[:-1].decode("utf-8").replace("\n", "\t").split("\t")
    except UnicodeDecodeError:
        return None
    if any(not name.strip() for name in set(names)):
        return None
    return names[0::3], names[1::3], names[2::3]


def _careful_columns(
    path: Path, block: bytes, number: int, dropped: Counter[str]
) -> tuple[list[str], list[str], list[str]]:
    """The same, line by line: blank lines and a header are counted, anything else is an error of its line."""
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for place, raw in enumerate(block.split(b"\n")[: None if not block.endswith(b"\n") else -1], number):
        line = decoded(path, raw, place).rstrip("\r")
        names = line.split("\t")
        if not line.strip():
            dropped["blank_line"] += 1
        elif place == 1 and _is_header(names):
            dropped["header_line"] += 1
        elif len(names) != 3 or not all(name.strip() for name in names):
            raise malformed(path, place, EXPECTED, line, "mend or delete the line")
        else:
            for column, name in zip(columns, names, strict=True):
                column.append(name)
    return columns


def _comma_batches(path: Path, split: str, dropped: Counter[str]) -> Iterator[Batch]:
    """Comma-separated values with quotes, one record a line."""

    def rows() -> Iterator[tuple[str, str, str]]:
        for number, line in numbered_lines(path):
            try:
                names = next(csv.reader(io.StringIO(line), strict=True), [])
            except csv.Error as error:
                raise malformed(path, number, f"head,relation,tail ({error})", line, "mend the line") from None
            if not line.strip():
                dropped["blank_line"] += 1
            elif number == 1 and _is_header(names):
                dropped["header_line"] += 1
            elif len(names) != 3 or not all(name.strip() for name in names):
                raise malformed(path, number, "head,relation,tail", line, "mend or delete the line")
            else:
                yield names[0], names[1], names[2]

    return triple_batches(rows(), split=split)


# --- records --------------------------------------------------------------------------------------------------


def _relations(path: Path, dropped: Counter[str]) -> Iterator[Relation]:
    for number, line in numbered_lines(path):
        name, tab, label = line.partition("\t")
        if not line.strip():
            dropped["blank_line"] += 1
        elif not tab or not name.strip():
            raise malformed(path, number, "relation<TAB>label", line, "mend or delete the line")
        else:
            yield Relation(name, label.split("\t")[0].strip() or readable(name))


def _named_entities(path: Path, texts: Path | None, dropped: Counter[str]) -> Iterator[Entity]:
    """Wikidata5M's entities: id, label, aliases in one file, id and description in another."""
    with _descriptions(texts, dropped) as description_of:
        for number, line in numbered_lines(path):
            name, *surfaces = line.split("\t")
            if not line.strip():
                dropped["blank_line"] += 1
                continue
            if not surfaces or not name.strip():
                raise malformed(path, number, "id<TAB>label<TAB>alias…", line, "mend or delete the line")
            aliases = tuple(Alias(surface, rank=rank) for rank, surface in enumerate(dict.fromkeys(surfaces)))
            yield Entity(name, surfaces[0] or readable(name), aliases, description_of(name))


@contextmanager
def _descriptions(path: Path | None, dropped: Counter[str]) -> Iterator[Callable[[str], str]]:
    """The description of an id, "" where there is none. They are gigabytes: memory holds their places in the file."""
    if path is None:
        yield lambda name: ""
        return
    with TemporaryFile() if packing(path) else path.open("rb") as file:
        places = _places(path, dropped, copy=file if packing(path) else None)
        met: set[str] = set()

        def description_of(name: str) -> str:
            if name not in places:
                return ""
            met.add(name)
            file.seek(places[name])
            return file.readline().decode("utf-8").partition("\t")[2].rstrip("\r\n")

        yield description_of
        if len(met) < len(places):
            dropped["text_without_entity"] += len(places) - len(met)


def _places(path: Path, dropped: Counter[str], *, copy: IO[bytes] | None) -> dict[str, int]:
    """Where each id's first line begins in the unpacked text, which goes into `copy` as well."""
    places: dict[str, int] = {}
    place = 0
    with open_stream(path) as lines:
        for number, raw in enumerate(lines, 1):
            if copy is not None:
                copy.write(raw)
            line = decoded(path, raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw, number)
            name, tab, _ = line.partition("\t")
            if not line.strip():
                dropped["blank_line"] += 1
            elif not tab or not name.strip():
                raise malformed(path, number, "id<TAB>description", line, "mend or delete the line")
            elif places.setdefault(name, place) != place:
                dropped["duplicate_text"] += 1
            place += len(raw)
    return places


def _records(path: Path, dropped: Counter[str]) -> Iterator[Entity]:
    met: dict[str, tuple[int, int]] = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            dropped["blank_line"] += 1
            continue
        entity = _record(path, number, line, dropped)
        first, digest = met.setdefault(entity.id, (number, hash(entity)))
        if digest != hash(entity):
            raise InputError(
                f"{path}:{number}: expected one record an id, {entity.id!r} (label {entity.label!r}) has another on "
                f"line {first}; keep one of them"
            )
        if first != number:
            dropped["duplicate_record"] += 1
            continue
        yield entity


def _record(path: Path, number: int, line: str, dropped: Counter[str]) -> Entity:
    def wrong(expected: str) -> InputError:
        return malformed(path, number, expected, line, "mend the record")

    try:
        record: Any = orjson.loads(line)
    except ValueError as error:
        raise wrong(f"a JSON object ({error})") from None
    if not isinstance(record, dict) or not (isinstance(record.get("id"), str) and record["id"].strip()):
        raise wrong('a JSON object with an "id" (a text that is not empty)')
    dropped.update({"record_key_unknown": len(record.keys() - set(KEYS))} if record.keys() - set(KEYS) else {})
    record = {key: value for key, value in record.items() if value is not None and value != ""}
    label = record.get("label", readable(record["id"]))
    description, types, count = record.get("description", ""), record.get("types", []), record.get("count", 0)
    if not (isinstance(label, str) and isinstance(description, str)):
        raise wrong("label and description to be texts")
    if not _texts(types):
        raise wrong("types to be a list of texts")
    if not _tally(count):
        raise wrong("count to be a whole number of at least 0")
    if (aliases := _aliases(record.get("aliases", []), label, count)) is None:
        raise wrong("aliases to be a list of texts, or an object of texts and whole numbers of at least 0")
    return Entity(record["id"], label, aliases, description, tuple(types), count)


def _aliases(value: Any, label: str, count: int) -> tuple[Alias, ...] | None:
    """Label first. Surfaces nobody counted take the entity's own count: p(entity | alias) follows p(entity)."""
    if isinstance(value, dict):
        if not all(map(_tally, value.values())):
            return None
        counts = {label: count} | value
    elif _texts(value):
        counts = dict.fromkeys([label, *value], count)
    else:
        return None
    return tuple(Alias(surface, times) for surface, times in counts.items())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _tally(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
