"""The stage: what is written, that it is the same for any shard size, and that an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from entity_linking import annotate
from entity_linking.annotate import LINKED, LinkConfig, read_linked, run
from entity_linking.records import LinkedDocument
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph

NAMES = ["Oslo", "Bergen", "Norway", "fjord", "Grieg"]


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture
def world(tmp_path: Path) -> LinkConfig:
    count = len(NAMES)
    graph = KnowledgeGraph(
        entities=pa.table(
            {
                "row": list(range(1, count + 1)),
                "id": [name.lower() for name in NAMES],
                "label": NAMES,
                "aliases": pa.array([[name] for name in NAMES], pa.list_(pa.string())),
                "description": [f"{name} is in the north" for name in NAMES],
                "types": pa.array([["thing"]] * count, pa.list_(pa.string())),
                "count": [1] * count,
            }
        ),
        relations=pa.table({"row": [0], "id": ["in"], "label": ["in"]}),
        aliases=pa.table(
            {
                "alias": [*NAMES, "Edvard"],
                "entity": [*range(1, count + 1), 5],
                "prior": [1.0] * (count + 1),
            }
        ),
        triples=np.array([[1, 0, 3], [2, 0, 3]], dtype=np.int32),
    )
    with write_artifact(Made(tmp_path / "graph"), stage="kg build") as writer:
        graph.save(writer.path)
    with write_artifact(Made(tmp_path / "vectors"), stage="kg embed") as writer:
        vectors = np.random.default_rng(0).normal(size=(count + 1, 8)).astype(np.float32)
        save_file({"entity_embeddings": vectors}, writer.path / "entity_embeddings.safetensors")
        (writer.path / "vocabulary.txt").write_text("".join(f"{n.lower()}\n" for n in NAMES), encoding="utf-8")
    lines = [
        {
            "id": f"d{i}",
            "title": f"Text {i}",
            "text": f"é😀 {NAMES[i % 5]} and fjords near {NAMES[i * 3 % 5]}. " * (i % 4),
        }
        for i in range(23)
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return LinkConfig(
        graph=tmp_path / "graph",
        vectors=tmp_path / "vectors",
        corpus="jsonl",
        source=str(corpus),
        output=tmp_path / "linked",
        shard_documents=4,
    )


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
    link_shard, made = annotate.link_shard, []

    def failing(linker, documents, path):
        if len(made) == 2:
            path.with_name(path.name + ".tmp").write_bytes(b"torn")
            raise KeyboardInterrupt
        made.append(path.name)
        link_shard(linker, documents, path)

    monkeypatch.setattr(annotate, "link_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        run(world)
    assert not world.output.exists()
    made.clear()
    monkeypatch.setattr(annotate, "link_shard", lambda *args: (made.append(args[2].name), link_shard(*args)))
    assert linked(world) == whole
    assert made == ["shard-00002.parquet", "shard-00003.parquet", "shard-00004.parquet"]
    manifest = open_artifact(world.output, stage="link")
    assert manifest.data["resumed"]
    assert set(manifest.data["files"]) == {f"shard-{i:05d}.parquet" for i in range(5)}
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
