"""Hyperlinks of a wiki as links to entities: which page means which entity, and what gives way to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from entity_linking.corpora.records import Document
from entity_linking.linker import EntityLinker, LinkTable
from entity_linking.normalise import Flags, Ints
from entity_linking.prefixes import NO_KEY
from kg.errors import InputError
from kg.readers.lines import malformed, numbered_lines

ABSENT, SEVERAL = 0, -1
"""Of `Titles.rows`: no entity of the graph; several could be meant."""
PLACE = 1 << 32
"""More than any text has characters: document * PLACE + offset orders offsets of all documents."""


@dataclass(slots=True)
class Titles:
    """Page title -> entity row, by a table where it has the title, else by the graph's names.

    A title means the entity of the same id, else the only candidate of an alias that reads like it, else the only one
    of several whose label it is. only: hyperlinks are the only links wanted.
    """

    linker: EntityLinker
    table: dict[str, int] = field(default_factory=dict)
    only: bool = False

    @classmethod
    def of(cls, linker: EntityLinker, file: Path | None, *, only: bool = False) -> Titles:
        """file: lines `title <tab> entity id`, or None.

        Raises:
            InputError: a line of another shape (file:line), or none of its entities is in the graph.
        """
        if file is None:
            return cls(linker, only=only)
        names, ids = [], []
        for number, line in numbered_lines(file):
            title, tab, name = line.partition("\t")
            if not tab or not title or not name:
                raise malformed(file, number, "title<TAB>entity id", line, "mend the line")
            names.append(title.replace("_", " "))
            ids.append(name)
        rows = _places(ids, linker.entities)
        if not np.any(rows > 0):
            raise InputError(f"{file}: none of its {len(ids):,} entities is in the graph; give the ids of this graph")
        return cls(linker, dict(zip(names, rows.tolist(), strict=True)), only)

    def rows(self, titles: Sequence[str]) -> Ints:
        """The entity row of each title, `ABSENT` or `SEVERAL`; int64 (len(titles),)."""
        found = np.array([self.table.get(title, ABSENT) for title in titles], dtype=np.int64)
        open_ = [i for i, title in enumerate(titles) if title not in self.table]
        if open_:
            found[open_] = self._by_name([titles[i] for i in open_])
        return found

    def _by_name(self, titles: list[str]) -> Ints:
        linker = self.linker
        found = _places(titles, linker.entities)
        bounds, entity = linker.candidates.bounds, linker.candidates.entity
        for i, key in enumerate(linker.alias_table.keys_of(titles).tolist()):
            if found[i] > 0 or key == NO_KEY:
                continue
            meant = np.unique(entity[bounds[key] : bounds[key + 1]])
            if len(meant) > 1:
                labels = linker.labels.take(pa.array(meant)).to_pylist()
                meant = meant[[label == titles[i] for label in labels]]
                found[i] = SEVERAL
            if len(meant) == 1:
                found[i] = int(meant[0])
        return found


def _places(names: list[str], entities: pa.Array) -> Ints:
    """The row of each entity id, `ABSENT` for one that the graph lacks."""
    rows: Any = pc.index_in(pa.array(names, pa.string()), value_set=entities)  # pyrefly: ignore[missing-attribute]
    return rows.fill_null(ABSENT).to_numpy().astype(np.int64)


def with_hyperlinks(links: LinkTable, documents: Sequence[Document], titles: Titles) -> LinkTable:
    """The links of documents with their hyperlinks, of score 1; a link that overlaps one gives way to it.

    Counts `hyperlinks`; dropped: `hyperlink_unknown_title`, `hyperlink_ambiguous_title`, `under_hyperlink`.
    """
    given = [(number, link) for number, document in enumerate(documents) for link in document.links]
    rows = titles.rows([link.entity for _, link in given])
    dropped = Counter(
        hyperlink_unknown_title=int((rows == ABSENT).sum()), hyperlink_ambiguous_title=int((rows == SEVERAL).sum())
    )
    kept = [(number, link.start, link.end) for number, link in given]
    document, start, end = np.array(kept, dtype=np.int64).reshape(-1, 3)[rows > 0].T
    free = ~overlapped(links, document, start, end)
    dropped["under_hyperlink"] = int(np.count_nonzero(~free))
    where = np.concatenate((links.document[free], document))
    begin = np.concatenate((links.start[free], start))
    order = np.argsort(where * PLACE + begin, kind="stable")
    return LinkTable(
        document=where[order],
        start=begin[order],
        end=np.concatenate((links.end[free], end))[order],
        entity=np.concatenate((links.entity[free], rows[rows > 0])).astype(np.int32)[order],
        score=np.concatenate((links.score[free], np.ones(len(document)))).astype(np.float32)[order],
        counts=links.counts + Counter(hyperlinks=len(document)),
        dropped=links.dropped + dropped,
    )


def overlapped(links: LinkTable, document: Ints, start: Ints, end: Ints) -> Flags:
    """Which links overlap one of the spans, which are in order and do not overlap each other."""
    if not len(document):
        return np.zeros(len(links.document), dtype=bool)
    last = np.searchsorted(document * PLACE + start, links.document * PLACE + links.end) - 1
    return (last >= 0) & ((document * PLACE + end)[last] > links.document * PLACE + links.start)
