"""What statements say of a resource besides its triples, in columns: texts, types, and that it stands as a relation.

A resource's texts may stand anywhere in a file, so they are kept to its end: as Arrow columns, a fraction of what
Python objects would take. Those of a batch go to disk with it (`Batch.notes`): an interrupted read has them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from kg.records import Alias, Entity, Relation

LABEL, ALIAS, DESCRIPTION, TYPE, RELATION = range(5)
"""Kinds of a note. TYPE: its value is the type's id. RELATION: the subject stands as a relation; it has no value."""
SCHEMA = pa.schema(
    [
        ("subject", pa.large_string()),
        ("kind", pa.int8()),
        ("rank", pa.int16()),
        ("place", pa.int64()),
        ("value", pa.large_string()),
    ]
)
"""rank: place of the text's language among the wanted ones. place: of two texts of one rank the lower one counts."""
ROWS_AT_ONCE = 100_000


class Notes:
    """The notes of a file so far. earlier: what an interrupted read had noted already."""

    def __init__(self, earlier: Iterable[pa.Table] = ()) -> None:
        self._tables = [SCHEMA.empty_table(), *(table.cast(SCHEMA) for table in earlier)]
        self._fresh: list[pa.Table] = []
        self._rows: tuple[list, ...] = tuple([] for _ in SCHEMA)
        self._relations = {
            name
            for table in self._tables
            for name in table["subject"].filter(pa.array(table["kind"].to_numpy() == RELATION)).to_pylist()
        }

    def add(self, subject: str, kind: int, value: str, *, rank: int = 0, place: int = 0) -> None:
        for column, of in zip(self._rows, (subject, kind, rank, place, value), strict=True):
            column.append(of)

    def add_columns(
        self, subjects: pa.Array, kinds: np.ndarray, values: pa.Array, *, ranks: np.ndarray, places: np.ndarray
    ) -> None:
        """Many notes at once, in columns of one length."""
        self._fresh.append(_table((subjects, kinds, ranks, places, values)))

    def add_relations(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._relations:
                self._relations.add(name)
                self.add(name, RELATION, "")

    def taken(self) -> pa.Table:
        """The notes since the last call."""
        found = pa.concat_tables([SCHEMA.empty_table(), *self._fresh, _table(self._rows)]).combine_chunks()
        self._rows, self._fresh = tuple([] for _ in SCHEMA), []
        if len(found):
            self._tables.append(found)
        return found

    def sorted(self) -> SortedNotes:
        """All of them, which are forgotten here."""
        self.taken()
        table, self._tables = pa.concat_tables(self._tables).combine_chunks(), [SCHEMA.empty_table()]
        return SortedNotes(table)


class SortedNotes:
    """Notes by resource: resources with texts first, then those with types alone, each in the order they were met."""

    def __init__(self, notes: pa.Table) -> None:
        """notes: one chunk a column."""
        encoded = _one(notes["subject"].dictionary_encode())
        codes, kinds = encoded.indices.to_numpy(), notes["kind"].to_numpy()
        self._names, self._values, self._kinds = encoded.dictionary, _one(notes["value"]), kinds
        self._as_relation = np.zeros(len(self._names), bool)
        self._as_relation[codes[kinds == RELATION]] = True
        turn = np.full(len(self._names), 2 * len(codes), np.int64)
        for offset, chosen in ((len(codes), kinds == TYPE), (0, kinds < TYPE)):
            met, first = np.unique(codes[chosen], return_index=True)
            turn[met] = offset + first
        rows = np.flatnonzero(kinds != RELATION)
        keys = (notes["place"].to_numpy()[rows], notes["rank"].to_numpy()[rows], turn[codes[rows]])
        self._rows = rows[np.lexsort(keys)]
        self._codes = codes[self._rows]
        self._stated = codes[kinds == RELATION]

    def relations(self) -> list[Relation]:
        """The relations that have a label, or an IRI whose last part is one, in the order they were met."""
        labels = {name: _readings(notes)[0] for name, notes in self._resources(relations=True)}
        names = dict.fromkeys(self._names.take(pa.array(self._stated)).to_pylist())
        found = ((name, labels.get(name, "")) for name in names)
        return [Relation(name, label or local(name)) for name, label in found if label or local(name) != name]

    def entities(self) -> Iterator[Entity]:
        """The resources that have texts or types and are no relations."""
        for name, notes in self._resources(relations=False):
            label, surfaces, description = _readings(notes)
            label = label or local(name)
            aliases = tuple(Alias(surface, rank=rank) for rank, surface in enumerate(surfaces or (label,)))
            types = tuple(dict.fromkeys(value for kind, value in notes if kind == TYPE))
            yield Entity(name, label, aliases, description, types)

    def _resources(self, *, relations: bool) -> Iterator[tuple[str, list[tuple[int, str]]]]:
        """(name, its notes as (kind, value), the ones that count first)."""
        chosen = self._as_relation[self._codes] == relations
        rows, codes = self._rows[chosen], self._codes[chosen]
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
        bounds = np.append(starts, len(codes))
        at = 0
        while at < len(starts):
            stop = max(at + 1, int(np.searchsorted(bounds, bounds[at] + ROWS_AT_ONCE, side="right")) - 1)
            part = rows[bounds[at] : bounds[stop]]
            names = self._names.take(pa.array(codes[starts[at:stop]])).to_pylist()
            notes = list(zip(self._kinds[part].tolist(), self._values.take(pa.array(part)).to_pylist(), strict=True))
            ends = (bounds[at : stop + 1] - bounds[at]).tolist()
            for name, first, last in zip(names, ends, ends[1:]):
                yield name, notes[first:last]
            at = stop


def local(iri: str) -> str:
    """What follows the last `#` or `/`, underscores as blanks: what people read where nobody gave a label."""
    return re.split(r"[#/]", iri.rstrip("#/"))[-1].replace("_", " ") or iri


def _readings(notes: Sequence[tuple[int, str]]) -> tuple[str, list[str], str]:
    """Label, surfaces and description: the first of the most preferred language; "" where there is none."""
    labels, aliases, descriptions = [], [], []
    kinds: dict[int, list[str]] = {LABEL: labels, ALIAS: aliases, DESCRIPTION: descriptions}
    for kind, value in notes:
        if kind != TYPE:
            kinds[kind].append(value)
    surfaces = [*dict.fromkeys(labels + aliases)]
    return labels[0] if labels else "", surfaces, descriptions[0] if descriptions else ""


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _table(columns: Sequence) -> pa.Table:
    arrays = [
        column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.table(arrays, schema=SCHEMA)
