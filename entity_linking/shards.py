"""Parquet shards of linked documents: written whole or not at all, each with what it counts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.corpora.records import Document
from entity_linking.records import Link, LinkedDocument
from kg.errors import InputError

if TYPE_CHECKING:
    from entity_linking.hyperlinks import Titles
    from entity_linking.linker import EntityLinker, LinkTable

SHARDS = "shard-*.parquet"
SHARD_CHARACTERS = 16_000_000
"""A shard ends when it holds so much text, that is 64 MB as Python may hold it; one longer document is one shard."""
TALLY_KEY = b"ernie_kg.tally"
"""Shard metadata: the shard's tally as JSON, so that a resumed run counts what an earlier one linked."""
SCORE_BINS = 20

MENTION = pa.struct(
    [
        pa.field("start", pa.int32(), False),
        pa.field("end", pa.int32(), False),
        pa.field("entity", pa.string(), False),
        pa.field("score", pa.float32(), False),
    ]
)
LINKED = pa.schema(
    [
        pa.field("id", pa.string(), False),
        pa.field("title", pa.string(), False),
        pa.field("text", pa.string(), False),
        pa.field("mentions", pa.list_(pa.field("element", MENTION, False)), False),
    ]
)
"""Columns of a shard. Offsets are Unicode code points: text[start:end] is the mention."""


@dataclass(slots=True)
class Tally:
    """What a run counts, shard by shard; adds up to the same for any size of shards.

    scores: number of links by score, in `SCORE_BINS` equal bins of [0, 1]. entities: links by entity id.
    """

    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    scores: Counter[str] = field(default_factory=Counter)
    entities: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        for own, theirs in zip(self._parts(), other._parts(), strict=True):
            own.update(theirs)

    def without(self, other: Tally) -> Tally:
        """What is left when some documents go."""
        return Tally(*(own - theirs for own, theirs in zip(self._parts(), other._parts(), strict=True)))

    def to_json(self) -> str:
        return json.dumps([dict(sorted(part.items())) for part in self._parts()])

    @classmethod
    def from_json(cls, text: str | bytes) -> Tally:
        return cls(*(Counter(part) for part in json.loads(text)))

    def _parts(self) -> tuple[Counter[str], ...]:
        return self.counts, self.dropped, self.scores, self.entities


def shards_of(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Documents in lists of `size`, or as many as hold `SHARD_CHARACTERS`; the last one shorter."""
    shard: list[Document] = []
    characters = 0
    for document in documents:
        if shard and (len(shard) == size or characters + len(document.text) > SHARD_CHARACTERS):
            yield shard
            shard, characters = [], 0
        shard.append(document)
        characters += len(document.text)
    if shard:
        yield shard


def link_shard(linker: EntityLinker, documents: Sequence[Document], path: Path, *, titles: Titles | None) -> None:
    """Links documents and writes them as one shard. titles: what hyperlinks mean; None leaves them out."""
    from entity_linking.hyperlinks import with_hyperlinks
    from entity_linking.linker import no_links

    before = linker.costs()
    links = no_links() if titles and titles.only else linker.link_table([document.text for document in documents])
    if titles is not None:
        links = with_hyperlinks(links, documents, titles)
    tally = tally_of(documents, links, linker.entities)
    tally.counts.update(linker.costs() - before)
    write_shard(path, linked_table(documents, links, linker.entities), tally)


def write_shard(path: Path, table: pa.Table, tally: Tally) -> None:
    """Writes a shard whole or not at all, whoever else may be writing the same."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    pq.write_table(table.replace_schema_metadata({TALLY_KEY: tally.to_json().encode()}), unfinished, compression="zstd")
    unfinished.rename(path)


def linked_table(documents: Sequence[Document], links: LinkTable, entities: pa.Array) -> pa.Table:
    """The columns of a shard."""
    bounds = np.searchsorted(links.document, np.arange(len(documents) + 1))
    names = entities.take(pa.array(links.entity))
    mentions = pa.StructArray.from_arrays(
        [
            pa.array(links.start, pa.int32()),
            pa.array(links.end, pa.int32()),
            names,
            pa.array(links.score, pa.float32()),
        ],
        fields=list(MENTION),
    )
    columns = [
        pa.array([document.id for document in documents], pa.string()),
        pa.array([document.title for document in documents], pa.string()),
        pa.array([document.text for document in documents], pa.string()),
        pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), mentions, type=LINKED.field("mentions").type),
    ]
    return pa.Table.from_arrays(columns, schema=LINKED)


def tally_of(documents: Sequence[Document], links: LinkTable, entities: pa.Array) -> Tally:
    """What one shard holds, in numbers."""
    bins = np.minimum((links.score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    rows, uses = np.unique(links.entity, return_counts=True)
    size = Counter(
        documents=len(documents),
        links=len(links.score),
        characters=sum(len(document.text) for document in documents),
        bytes=sum(len(document.text.encode()) for document in documents),
    )
    return Tally(
        counts=links.counts + size,
        dropped=Counter(links.dropped),
        scores=Counter({str(b): int(n) for b, n in enumerate(np.bincount(bins, minlength=SCORE_BINS)) if n}),
        entities=Counter(dict(zip(entities.take(pa.array(rows)).to_pylist(), uses.tolist(), strict=True))),
    )


def read_shard(shard: Path) -> Iterator[LinkedDocument]:
    """The documents of one shard.

    Raises:
        InputError: it lacks a column.
    """
    with pq.ParquetFile(shard) as file:
        missing = [name for name in LINKED.names if name not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{shard}: expected columns {LINKED.names}, {missing} are missing; run `link` again")
        for batch in file.iter_batches(columns=LINKED.names):
            for row in batch.to_pylist():
                mentions = tuple(Link(m["start"], m["end"], m["entity"], m["score"]) for m in row["mentions"])
                yield LinkedDocument(row["id"], row["title"], row["text"], mentions)


def read_tally(shard: Path) -> Tally:
    metadata = pq.read_schema(shard).metadata or {}
    assert TALLY_KEY in metadata, f"{shard} was renamed into place without its tally"
    return Tally.from_json(metadata[TALLY_KEY])
