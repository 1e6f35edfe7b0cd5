"""How the stage `link` goes about a corpus: which linker, in how many processes, and what the manifest says."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from entity_linking.corpora.records import Document
from entity_linking.folder import expected_precision, open_linker, read_linker, save_linker, score_for_precision
from entity_linking.hyperlinks import Titles
from entity_linking.link_config import LinkConfig
from entity_linking.linker import EntityLinker
from entity_linking.parts import RECORDS, Part, gathered, link_part, parts_of
from entity_linking.shards import SCORE_BINS, Tally, link_shard
from kg.artifact import ArtifactWriter
from kg.errors import InputError
from kg.progress import progress
from kg.workers import worker_pool

TOP_ENTITIES = 50
DEAR = ("encoder_", "cross_encoder_", "described_")
"""Beginnings of the counts of what costs much."""
TABLES = "linker.tmp"
"""Where the tables of an untrained linker lie while several processes share them."""
WORTH_PROCESSES = 30_000_000
"""Bytes of corpus from which on several processes are quicker than one, which needs not start any."""


def link_corpus(config: LinkConfig, writer: ArtifactWriter) -> None:
    """Links what is not linked yet, and fills the manifest.

    Raises:
        InputError: as `annotate.run`.
    """
    linker = linker_of(config)
    parts = parts_of(config)
    seconds = time.perf_counter()
    linked = _link_parts(config, linker, parts, writer.path)
    seconds = time.perf_counter() - seconds
    total = gathered(parts, config, linker, writer.path)
    if not total.counts["documents"]:
        raise InputError(f"{config.source}: expected documents, none has text (dropped: {dict(total.dropped)})")
    _clear(writer.path)
    writer.dropped.update(linker.dropped_aliases)
    writer.figures["min_score"] = linker.min_score
    _report(writer, total, megabytes_per_second=linked / 1e6 / seconds)
    if config.linker is not None:
        writer.figures["expected_precision"] = expected_precision(config.linker, agreement=linker.agreement)


def linker_of(config: LinkConfig, *, tables: Path | None = None) -> EntityLinker:
    """The trained linker, or an untrained one of graph and vectors, as the config wants it.

    tables: where an untrained one was written down already.

    Raises:
        InputError: a folder is no such artifact, no score of the linker reaches the precision, or no such spaCy
            pipeline.
    """
    if config.linker is not None:
        linker = open_linker(config.linker)
    elif tables is not None:
        linker = read_linker(tables)
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
    find_mentions_by(linker, detector=config.detector, ner=config.ner, tagger=config.tagger)
    return linker


def find_mentions_by(linker: EntityLinker, *, detector: str, ner: str, tagger: str) -> None:
    """Gives a linker of aliases the detector that is asked for; the options as in `LinkConfig`."""
    if detector != "aliases":
        from entity_linking.ner import with_ner

        without_alias = linker.described is not None
        linker.detector = with_ner(linker.detector, ner, alone=detector == "ner", without_alias=without_alias)
    if tagger:
        from entity_linking.tagging import with_tagger

        linker.detector = with_tagger(linker.detector, tagger)


def titles_of(config: LinkConfig, linker: EntityLinker) -> Titles | None:
    """What hyperlinks mean; None where they are not wanted."""
    if config.hyperlinks == "ignore" or config.corpus != "mediawiki":
        return None
    return Titles.of(linker, config.titles, only=config.hyperlinks == "only")


# --- here, in one process or several -------------------------------------------------------------------------


def _link_parts(config: LinkConfig, linker: EntityLinker, parts: Sequence[Part], folder: Path) -> int:
    """Links the parts that are not yet; the bytes of text linked now."""
    open_ = [part for part in parts if not part.record(folder).exists()]
    processes = config.processes or _processes_for(open_)
    titles = titles_of(config, linker)
    with progress("link documents") as bar:
        if processes == 1 or not open_:
            return sum(link_part(linker, titles, part, config, folder, advance=bar.advance) for part in open_)
        if config.linker is None:
            _write_tables(linker, folder)
        with _pool(config, folder, processes) as pool:
            if len(open_) == 1:

                def submit(shard: list[Document], path: Path) -> Future[None]:
                    return pool.submit(_link_shard_in_worker, shard, path)

                return link_part(
                    linker, titles, open_[0], config, folder,
                    submit=submit, at_once=2 * processes, advance=bar.advance,
                )  # fmt: skip
            linked = 0
            for job in as_completed([pool.submit(_link_part_in_worker, part, folder) for part in open_]):
                documents, size = job.result()
                bar.advance(documents)
                linked += size
            return linked


def _processes_for(parts: Sequence[Part]) -> int:
    if sum(part.num_bytes for part in parts) < WORTH_PROCESSES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_tables(linker: EntityLinker, folder: Path) -> None:
    """For all processes to map into memory: one copy for all, opened at once."""
    shutil.rmtree(folder / TABLES, ignore_errors=True)
    (folder / TABLES).mkdir()
    save_linker(linker, folder / TABLES)


@contextmanager
def _pool(config: LinkConfig, folder: Path, processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that each open the linker once."""
    tables = folder / TABLES if config.linker is None else None
    try:
        with worker_pool(processes, _open_worker, config, tables) as pool:
            yield pool
    except BrokenProcessPool:
        raise InputError(
            f"{folder}: a process that links was killed (out of memory?); run it again, with fewer processes: what is "
            f"linked already stays"
        ) from None


_worker: tuple[LinkConfig, EntityLinker, Titles | None] | None = None


def _open_worker(config: LinkConfig, tables: Path | None) -> None:
    global _worker
    linker = linker_of(config, tables=tables)
    _worker = config, linker, titles_of(config, linker)


def _link_shard_in_worker(shard: list[Document], path: Path) -> None:
    assert _worker is not None, "opened when the process began"
    link_shard(_worker[1], shard, path, titles=_worker[2])


def _link_part_in_worker(part: Part, folder: Path) -> tuple[int, int]:
    assert _worker is not None, "opened when the process began"
    config, linker, titles = _worker
    documents: list[int] = []
    size = link_part(linker, titles, part, config, folder, advance=documents.append)
    return sum(documents), size


# --- what the manifest says ----------------------------------------------------------------------------------


def _clear(folder: Path) -> None:
    """What only the work needed."""
    for name in (RECORDS, TABLES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for unfinished in folder.rglob("*.tmp"):
        unfinished.unlink()


def _report(writer: ArtifactWriter, total: Tally, *, megabytes_per_second: float) -> None:
    counts = total.counts
    shown = ("documents", "mentions", "links", "hyperlinks", "words", "characters")
    writer.counts.update({name: counts[name] for name in shown if counts[name] or name != "hyperlinks"})
    dear = {name: counts[name] for name in sorted(counts) if name.startswith(DEAR)}
    if dear:
        writer.figures["dear_terms"] = dear
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
        coverage_by_score=_coverage(total, mentions),
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


def _coverage(total: Tally, mentions: int) -> list[dict[str, float]]:
    """Share of all mentions that a link of at least this score covers, from 0.5 on."""
    scores = [total.scores[str(b)] for b in range(SCORE_BINS)]
    return [
        {"score": b / SCORE_BINS, "coverage": round(sum(scores[b:]) / mentions, 4)}
        for b in range(SCORE_BINS // 2, SCORE_BINS)
    ]
