"""Triples as tab-separated names, with an optional file of entity records.

A folder holds `triples.tsv` and perhaps `entities.jsonl`; a bare file is the triples alone. A record is
`{"id", "label"?, "aliases"?, "description"?, "types"?, "count"?}`; aliases are a list of surfaces, or an object
surface -> how often it meant this entity. An entity without a record has its id, underscores as spaces, for label
and alias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from kg.errors import InputError
from kg.readers.lines import malformed, numbered_lines
from kg.records import Alias, Entity, RawGraph, Triple, readable

TRIPLES_FILE = "triples.tsv"
ENTITIES_FILE = "entities.jsonl"
HEADER = ["head", "relation", "tail"]
KEYS = ("id", "label", "aliases", "description", "types", "count")


def read(source: Path) -> RawGraph:
    """Opens a folder or a bare triples file.

    dropped: `blank_line`, `header_line`, `duplicate_record` (an equal record again).

    Raises:
        InputError: now, when there is no triples file; while walked, at a malformed line (file:line), or an id
            with two different records.
    """
    folder = source if source.is_dir() else None
    triples = source / TRIPLES_FILE if folder else source
    if not triples.is_file():
        raise InputError(f"{source}: expected {TRIPLES_FILE} in it (lines head<TAB>relation<TAB>tail), found none")
    records = folder / ENTITIES_FILE if folder and (folder / ENTITIES_FILE).is_file() else None
    dropped: Counter[str] = Counter()
    return RawGraph(_entities(records, triples, dropped), _triples(triples, dropped), dropped=dropped)


def _triples(path: Path, dropped: Counter[str]) -> Iterator[Triple]:
    for number, line in numbered_lines(path):
        names = line.split("\t")
        if not line.strip():
            dropped["blank_line"] += 1
        elif number == 1 and [name.strip().lower() for name in names] == HEADER:
            dropped["header_line"] += 1
        elif len(names) != 3 or not all(name.strip() for name in names):
            raise malformed(path, number, "head<TAB>relation<TAB>tail", line, "mend or delete the line")
        else:
            yield Triple(*names)


def _entities(records: Path | None, triples: Path, dropped: Counter[str]) -> Iterator[Entity]:
    """The records, then the entities only triples name, in the order they are first named."""
    known: set[str] = set()
    for entity in _records(records, dropped) if records else ():
        known.add(entity.id)
        yield entity
    for triple in _triples(triples, Counter()):
        for name in (triple.head, triple.tail):
            if name not in known:
                known.add(name)
                yield Entity(id=name, label=readable(name), aliases=(Alias(readable(name)),))


def _records(path: Path, dropped: Counter[str]) -> Iterator[Entity]:
    met: dict[str, tuple[int, int]] = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            dropped["blank_line"] += 1
            continue
        entity = _record(path, number, line)
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


def _record(path: Path, number: int, line: str) -> Entity:
    def wrong(expected: str) -> InputError:
        return malformed(path, number, expected, line, "mend the record")

    try:
        record: Any = orjson.loads(line)
    except ValueError as error:
        raise wrong(f"a JSON object ({error})") from None
    if not isinstance(record, dict) or not (isinstance(record.get("id"), str) and record["id"].strip()):
        raise wrong('a JSON object with an "id" (a text that is not empty)')
    if strange := set(record) - set(KEYS):
        raise wrong(f"only the keys {', '.join(KEYS)}, not {', '.join(sorted(strange))}")
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
