"""A corpus in parts: some of its files in, shards of linked documents out, on whatever machine.

`link_part` is a pure function of linker, part and config: whoever runs it again, on another machine, after a kill,
beside another that does the same, writes the same bytes under the same names. A part is linked when its record stands.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.corpora.records import Document, NamedFile, Rejected
from entity_linking.corpora.seen import SeenIds
from entity_linking.corpus import corpus_files, read_files, repeated
from entity_linking.hyperlinks import Titles
from entity_linking.link_config import LinkConfig
from entity_linking.linker import EntityLinker
from entity_linking.shards import (
    LINKED,
    Tally,
    link_shard,
    linked_table,
    read_shard,
    read_tally,
    shards_of,
    tally_of,
    write_shard,
)
from kg.errors import InputError

PART_BYTES = 64_000_000
"""Files are put together until they hold so much; a larger file is a part of its own."""
RECORDS, REJECTED = "parts", "rejected"

Submit = Callable[[list[Document], Path], Future[None]]
"""Has a shard linked somewhere else."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive files of a corpus."""

    number: int
    files: tuple[NamedFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file, _ in self.files)

    def record(self, folder: Path) -> Path:
        """Where it stands that the part is linked, with the number of its shards and what was dropped."""
        return folder / RECORDS / f"part-{self.number:05d}.json"

    def shard(self, folder: Path, number: int) -> Path:
        return folder / f"shard-{self.number:05d}-{number:05d}.parquet"


def parts_of(config: LinkConfig) -> list[Part]:
    """The corpus in parts of about `PART_BYTES`, which depend on nothing but the sizes of its files.

    Raises:
        InputError: an unknown format, or nothing at the source.
    """
    parts: list[Part] = []
    files: list[NamedFile] = []
    size = 0
    for file, name in corpus_files(config.corpus, config.source):
        files.append((file, name))
        size += file.stat().st_size if file.is_file() else 0
        if size >= PART_BYTES:
            parts.append(Part(len(parts), tuple(files)))
            files, size = [], 0
    if files or not parts:
        parts.append(Part(len(parts), tuple(files)))
    return parts


def link_part(
    linker: EntityLinker, titles: Titles | None, part: Part, config: LinkConfig, folder: Path,
    *, submit: Submit | None = None, at_once: int = 1, advance: Callable[[int], None] = lambda documents: None,
) -> int:  # fmt: skip
    """Links a part's documents shard by shard into a folder, leaving out shards that are there; bytes linked now.

    submit: has shards linked elsewhere, `at_once` of them at a time, instead of here. advance: told of every shard's
    documents.

    Raises:
        InputError: as `read_files`.
    """
    dropped: Counter[str] = Counter()
    waiting: deque[tuple[Future[None] | None, int]] = deque()
    number, linked = -1, 0
    with _aside(folder / REJECTED / f"part-{part.number:05d}.jsonl") as reject:
        documents = read_files(
            config.corpus,
            part.files,
            dropped,
            columns=config.columns,
            on_bad_record=config.on_bad_record,
            rejected=reject,
        )
        for number, shard in enumerate(shards_of(documents, config.shard_documents)):
            path, job = part.shard(folder, number), None
            if not path.exists():
                linked += sum(len(document.text.encode()) for document in shard)
                if submit is None:
                    link_shard(linker, shard, path, titles=titles)
                else:
                    job = submit(shard, path)
            waiting.append((job, len(shard)))
            while len(waiting) > at_once or (waiting and submit is None):
                advance(_finished(*waiting.popleft()))
        while waiting:
            advance(_finished(*waiting.popleft()))
    _write_whole(part.record(folder), json.dumps({"shards": number + 1, "dropped": dropped}))
    return linked


def _finished(job: Future[None] | None, documents: int) -> int:
    if job is not None:
        job.result()
    return documents


def gathered(parts: Sequence[Part], config: LinkConfig, linker: EntityLinker, folder: Path) -> Tally:
    """What all parts hold together; ids that come in several parts are found here.

    Raises:
        InputError: such an id, unless bad records are rejected.
    """
    total, seen = Tally(), SeenIds()
    for part in parts:
        record = json.loads(part.record(folder).read_text(encoding="utf-8"))
        total.dropped.update(record["dropped"])
        for number in range(record["shards"]):
            shard = part.shard(folder, number)
            if len(parts) > 1:
                _without_repeats(shard, seen, config, linker)
            total.add(read_tally(shard))
    for file in (folder / REJECTED).glob("repeats-*.jsonl"):
        with file.open("rb") as lines:
            total.dropped["rejected_duplicate_id"] += sum(1 for _ in lines)
    return total


def _without_repeats(shard: Path, seen: SeenIds, config: LinkConfig, linker: EntityLinker) -> None:
    """Takes documents whose id came in an earlier part out of a shard, and aside."""
    ids = pq.read_table(shard, columns=["id"])["id"].to_pylist()
    kept = [seen.add(name) for name in ids]
    if all(kept):
        return
    rows = [row for row, new in zip(read_shard(shard), kept, strict=True) if not new]
    gone = [repeated(row.id, f"{shard.name}: document {row.id!r}", row.text) for row in rows]
    if config.on_bad_record == "error" or config.corpus == "mediawiki":
        raise InputError(f"{config.source}: {gone[0].place}: {gone[0].error}")
    documents = [Document(row.id, row.text, row.title) for row in rows]
    links = linker.link_table([document.text for document in documents])
    tally = read_tally(shard).without(tally_of(documents, links, linker.entities))
    assert linked_table(documents, links, linker.entities).num_rows == len(rows), "a row a document"
    with _aside(shard.parent / REJECTED / f"repeats-{shard.stem}.jsonl") as reject:
        for bad in gone:
            reject(bad)
    write_shard(shard, pq.read_table(shard, schema=LINKED).filter(pa.array(kept)), tally)


@contextmanager
def _aside(path: Path) -> Iterator[Callable[[Rejected], None]]:
    """Takes rejected records; the file stands only when the block has ended well, and only if there was one."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    file: TextIO | None = None

    def reject(record: Rejected) -> None:
        nonlocal file
        if file is None:
            path.parent.mkdir(exist_ok=True)
            file = unfinished.open("w", encoding="ascii")
        file.write(record.to_json() + "\n")

    try:
        yield reject
    except BaseException:
        if file is not None:
            file.close()
            unfinished.unlink(missing_ok=True)
        raise
    if file is not None:
        file.close()
        unfinished.rename(path)


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.rename(path)
