"""The stage: what is written, that it is the same for any shard size, and that an interrupted run goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from entity_linking import parts
from entity_linking.annotate import LinkConfig, read_linked, run
from entity_linking.records import LinkedDocument
from entity_linking.shards import LINKED
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def linked(config: LinkConfig) -> list[LinkedDocument]:
    return list(read_linked(run(config)))


def test_links_hold_their_surface_and_the_manifest_counts_them(world: LinkConfig) -> None:
    """Offsets in bytes or UTF-16 units would pass on ASCII text; every text here holds an emoji."""
    documents = linked(world)
    assert [d.id for d in documents] == [f"d{i}" for i in range(23) if i % 4]
    for document in documents:
        surfaces = [document.text[m.start : m.end] for m in document.mentions]
        assert [s.removesuffix("s").lower() for s in surfaces] == [m.entity for m in document.mentions]
        assert len(surfaces) == document.text.count(".") * 3
    manifest = open_artifact(world.output, stage="link")
    assert manifest.counts["links"] == sum(len(d.mentions) for d in documents)
    assert manifest.counts["documents"] == len(documents)
    assert manifest.dropped["empty_text"] == 6
    assert sum(entry["links"] for entry in manifest.figures["score_histogram"]) == manifest.counts["links"]
    assert manifest.figures["nil_share"] == 0.0
    shards = sorted(world.output.glob("shard-*.parquet"))
    assert len(shards) == 5
    assert pq.read_schema(shards[0]).remove_metadata() == LINKED


def test_every_shard_size_gives_the_same_links_and_figures(world: LinkConfig) -> None:
    """A score that depends on its batch makes two runs of one corpus differ."""
    first = linked(world)
    figures = open_artifact(world.output, stage="link").figures
    for size in (1, 7, 1000):
        other = replace(world, shard_documents=size, output=world.output.with_name(f"linked{size}"))
        assert linked(other) == first
        again = open_artifact(other.output, stage="link").figures
        assert {**again, "megabytes_per_second": 0} == {**figures, "megabytes_per_second": 0}


def test_an_interrupted_run_goes_on_behind_its_last_shard(world: LinkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts over wastes hours; one that trusts a torn shard loses documents."""
    whole = linked(replace(world, output=world.output.with_name("whole")))
    link_shard, made = parts.link_shard, []

    def failing(linker, documents, path, **options):
        if len(made) == 2:
            path.with_name(path.name + ".1.tmp").write_bytes(b"torn")
            raise KeyboardInterrupt
        made.append(path.name)
        link_shard(linker, documents, path, **options)

    monkeypatch.setattr(parts, "link_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        run(world)
    assert not world.output.exists()
    made.clear()
    monkeypatch.setattr(
        parts, "link_shard", lambda *args, **options: (made.append(args[2].name), link_shard(*args, **options))
    )
    assert linked(replace(world, processes=1)) == whole  # another number of processes goes on as well
    assert made == [f"shard-00000-{i:05d}.parquet" for i in (2, 3, 4)]
    manifest = open_artifact(world.output, stage="link")
    assert manifest.data["resumed"]
    assert set(manifest.data["files"]) == {f"shard-00000-{i:05d}.parquet" for i in range(5)}
    assert manifest.counts == open_artifact(world.output.with_name("whole"), stage="link").counts


def test_wrong_input_is_named(world: LinkConfig, tmp_path: Path) -> None:
    """Vectors of another graph would give every entity another's neighbours, silently."""
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n', encoding="utf-8")
    with pytest.raises(InputError, match="none has text"):
        run(replace(world, source=str(tmp_path / "empty.jsonl")))
    with write_artifact(Made(tmp_path / "other"), stage="kg embed") as writer:
        save_file({"entity_embeddings": np.zeros((3, 8), np.float32)}, writer.path / "entity_embeddings.safetensors")
        (writer.path / "vocabulary.txt").write_text("oslo\nbergen\n", encoding="utf-8")
    with pytest.raises(InputError, match="its 2 entities are not the 5 of the graph"):
        run(replace(world, vectors=tmp_path / "other"))
    with pytest.raises(InputError, match=r"min_score is a probability"):
        replace(world, min_score=1.5)
    with pytest.raises(InputError, match="expected one made by"):
        list(read_linked(world.graph))


def test_prior_only_needs_no_vectors(world: LinkConfig) -> None:
    """The contract's `vectors=None`."""
    assert linked(replace(world, vectors=None))
