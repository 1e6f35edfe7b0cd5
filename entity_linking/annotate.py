"""The stage `link`: a corpus and a graph in, Parquet shards of linked documents out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.records import Link, LinkedDocument
from kg.artifact import open_artifact
from kg.errors import InputError

STAGE = "link"
SHARDS = "shard-*.parquet"

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
        pa.field("mentions", pa.list_(MENTION), False),
    ]
)
"""Columns of a shard. Offsets are Unicode code points: text[start:end] is the mention."""


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
