"""The stage `link`: a corpus and a graph in, Parquet shards of linked documents out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entity_linking.link_config import LinkConfig
from entity_linking.records import LinkedDocument
from entity_linking.shards import LINKED, SHARDS, read_shard
from kg.artifact import open_artifact, write_artifact

__all__ = ["LINKED", "SHARDS", "STAGE", "LinkConfig", "read_linked", "run"]

STAGE = "link"


def run(config: LinkConfig) -> Path:
    """Links the corpus shard by shard; the same corpus gives the same links for any size of shards.

    Raises:
        InputError: a folder is no such artifact, an unknown corpus format, a malformed corpus, or one without text.
    """
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        from entity_linking.linking import link_corpus

        link_corpus(config, writer)
    return config.output


def read_linked(folder: str | Path) -> Iterator[LinkedDocument]:
    """The documents of a `link` artifact, in the corpus's order.

    Raises:
        InputError: the folder is no finished artifact of `link`, or a shard lacks a column.
    """
    open_artifact(Path(folder), stage=STAGE)
    for shard in sorted(Path(folder).glob(SHARDS)):
        yield from read_shard(shard)
