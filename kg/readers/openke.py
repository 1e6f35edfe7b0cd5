"""OpenKE's folder of numbered files, as the first ERNIE's TransE wrote and read them.

`entity2id.txt` and `relation2id.txt` hold a name and its number a line, `train2id.txt` (and `valid2id.txt`,
`test2id.txt`, where there are) head, tail and relation, in that order. The first line of each file is the number of
lines after it; the parts of a line are set apart by tabs or blanks. Other files (`type_constrain.txt` …) follow from
these and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kg.errors import InputError
from kg.readers.batches import entity_batches
from kg.readers.lines import malformed, numbered_lines, size_of
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation, readable

ENTITIES, RELATIONS = "entity2id.txt", "relation2id.txt"
TRIPLES = {"train": "train2id.txt", "valid": "valid2id.txt", "test": "test2id.txt"}
REMEDY = "mend the file, or export it again"
TRIPLES_AT_ONCE = 100_000


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens the folder; names have no language, so `options` say nothing to it.

    Raises:
        InputError: now, when one of the first three files is missing; while walked, at a malformed line, a wrong
            count, a number outside 0 to count - 1, or one or a name given twice (file:line).
    """
    for name in (ENTITIES, RELATIONS, TRIPLES["train"]):
        if not (source / name).is_file():
            raise InputError(f"{source}: expected {name} in it, as OpenKE writes it, found none")
    present = {split: source / name for split, name in TRIPLES.items() if (source / name).is_file()}
    return RawGraph(_batches(source, present), closed=True, total_bytes=sum(map(size_of, present.values())))


def _batches(source: Path, present: dict[str, Path]) -> Iterator[Batch]:
    relations, entities = _names(source / RELATIONS), _names(source / ENTITIES)
    yield Batch(relations=[Relation(name, readable(name)) for name in relations])
    yield from entity_batches(Entity(name, readable(name), (Alias(readable(name)),)) for name in entities)
    published = len(present) > 1
    for split, path in present.items():
        for rows in _rows(path, len(entities), len(relations)):
            yield Batch(
                heads=[entities[head] for head, _, _ in rows],
                relation_ids=[relations[relation] for _, _, relation in rows],
                tails=[entities[tail] for _, tail, _ in rows],
                split=split if published else "",
            )


def _names(path: Path) -> list[str]:
    """Names by number, every number from 0 once."""
    count, names = -1, {}
    for number, line in numbered_lines(path):
        if number == 1:
            count = _count(path, line)
            continue
        if not line.strip():
            continue
        name, _, place = line.rstrip().replace("\t", " ").rpartition(" ")
        name = name.strip()
        if not name or not place.isdecimal() or int(place) >= count:
            raise malformed(path, number, f"a name and a number from 0 to {count - 1}", line, REMEDY)
        if int(place) in names:
            raise malformed(path, number, f"every number once, {place} has another name", line, REMEDY)
        names[int(place)] = name
    if len(names) != count:
        raise InputError(f"{path}:1: expected {count:,} names after the first line, got {len(names):,}; {REMEDY}")
    if len(set(names.values())) != count:
        twice = next(name for place, name in names.items() if list(names.values()).index(name) != place)
        raise InputError(f"{path}: expected every name once, {twice!r} has two numbers; {REMEDY}")
    return [names[place] for place in range(count)]


def _rows(path: Path, num_entities: int, num_relations: int) -> Iterator[list[tuple[int, int, int]]]:
    """Head, tail and relation numbers, some thousands at a time."""
    bounds = np.array([num_entities, num_entities, num_relations])
    count, seen, rows = -1, 0, []
    for number, line in numbered_lines(path):
        if number == 1:
            count = _count(path, line)
            continue
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3 or not all(map(str.isdecimal, parts)) or any(int(p) >= b for p, b in zip(parts, bounds)):
            raise malformed(
                path,
                number,
                f"head, tail (0 to {num_entities - 1}) and relation (0 to {num_relations - 1})",
                line,
                REMEDY,
            )
        rows.append((int(parts[0]), int(parts[1]), int(parts[2])))
        seen += 1
        if len(rows) == TRIPLES_AT_ONCE:
            yield rows
            rows = []
    if seen != count:
        raise InputError(f"{path}:1: expected {count:,} triples after the first line, got {seen:,}; {REMEDY}")
    if rows:
        yield rows


def _count(path: Path, line: str) -> int:
    if not line.strip().isdecimal():
        raise malformed(path, 1, "the number of lines that follow", line, REMEDY)
    return int(line)
