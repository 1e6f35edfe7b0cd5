"""The nearest entities by vector, checked against measuring every one by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from kg import neighbours
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError
from kg.graph import ALIASES, ENTITIES, RELATIONS, KnowledgeGraph
from kg.index import VectorIndex
from kg.neighbours import Vectors, graph_of, nearest_and_linked, nearest_by_cosine, nearest_by_translation

NAMES = [f"e{row}" for row in range(1, 31)]


@dataclass(frozen=True)
class Saved:
    output: Path
    read: dict[str, Path] = field(default_factory=dict)
    norm: str = "l2"

    def inputs(self):
        return self.read


def make_graph(folder, seed=0):
    generator = np.random.default_rng(seed)
    ids = [f"Q{name}" for name in NAMES]
    columns = [range(1, 31), ids, NAMES, [[n] for n in NAMES], [""] * 30, [[]] * 30, [0] * 30]
    triples = np.stack([generator.integers(1, 31, 90), generator.integers(0, 4, 90), generator.integers(1, 31, 90)], 1)
    graph = KnowledgeGraph(
        entities=pa.table([pa.array(c, f.type) for c, f in zip(columns, ENTITIES)], schema=ENTITIES),
        relations=pa.table([range(4), list("abcd"), list("abcd")], schema=RELATIONS),
        aliases=pa.table([NAMES, range(1, 31), [1.0] * 30], schema=ALIASES),
        triples=np.unique(triples, axis=0),
    )
    with write_artifact(Saved(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
    return graph


@pytest.fixture
def tables():
    """Entities (31, 8) with two zero rows beside the padding, relations (4, 8) with one zero row."""
    generator = np.random.default_rng(3)
    entities, relations = generator.normal(size=(31, 8)), generator.normal(size=(4, 8))
    entities[[0, 7, 30]], relations[2] = 0.0, 0.0
    return entities.astype(np.float32), relations.astype(np.float32)


@pytest.fixture
def vectors(tmp_path, tables):
    graph = make_graph(tmp_path / "run" / "graph")
    config = Saved(output=tmp_path / "run" / "vectors", read={"graph": tmp_path / "run" / "graph"})
    with write_artifact(config, stage="kg embed") as writer:
        for name, table in zip(("entity_embeddings", "relation_embeddings"), tables):
            save_file({name: table}, writer.path / f"{name}.safetensors")
        rows = np.flatnonzero(tables[0].any(axis=1))
        VectorIndex.build(tables[0][rows], [graph.entity_vocab.identifier(row) for row in rows.tolist()]).save(
            writer.path
        )
    return config.output


def by_hand(entities, relations, row, norm):
    """(distance, row) of every entity with a vector, over every trained relation and both ways, in float64."""
    wide, moves, order = entities.astype(np.float64), relations.astype(np.float64), 1 if norm == "l1" else 2
    found = []
    for other in range(1, len(wide)):
        if other != row and wide[other].any():
            ways = [
                way
                for move in moves
                if move.any()
                for way in (wide[row] + move - wide[other], wide[other] + move - wide[row])
            ]
            found.append((min(np.linalg.norm(way, order) for way in ways), other))
    return sorted(found)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("block", [4, 16_384])
def test_translation_is_what_measuring_every_pair_finds(tables, norm, block, monkeypatch):
    """A zero relation among the moves would turn the least distance into the plain one, which says little."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "QUERIES", 2)
    monkeypatch.setattr(neighbours, "SPARE", 2)
    entities, relations = tables
    for row in (1, 12, 29):
        found = nearest_by_translation(entities, relations, row, 10, norm=norm)
        expected = by_hand(entities, relations, row, norm)[:10]
        assert [near.row for near in found] == [other for _, other in expected]
        np.testing.assert_allclose([near.score for near in found], [distance for distance, _ in expected], rtol=1e-6)
        for near in found:
            head, tail = (row, near.row) if near.outward else (near.row, row)
            difference = entities[head].astype(float) + relations[near.relation] - entities[tail]
            assert np.linalg.norm(difference, 1 if norm == "l1" else 2) == pytest.approx(near.score)


def test_translation_keeps_its_digits_where_vectors_are_long(tables):
    """|q|² + |x|² - 2qx loses every digit of a small distance between long vectors."""
    entities, relations = tables[0] + np.float32(300), tables[1]
    entities[0] = 0
    found = nearest_by_translation(entities, relations, 5, 3)
    assert [near.row for near in found] == [other for _, other in by_hand(entities, relations, 5, "l2")[:3]]


def test_without_a_trained_relation_there_is_nothing_to_translate_by(tables):
    assert nearest_by_translation(tables[0], np.zeros((4, 8), np.float32), 1, 5) == []


def test_cosine_is_what_measuring_every_pair_finds(vectors, tables):
    """Row 0 and the entity itself stand in every index search and must not be shown."""
    graph = KnowledgeGraph.load(graph_of(open_artifact(vectors, stage="kg embed"), None))
    entities = tables[0]
    lengths = np.linalg.norm(entities, axis=1)
    cosines = entities @ entities[5] / np.where(lengths > 0, lengths * lengths[5], np.inf)
    cosines[[0, 5, 7, 30]] = -np.inf
    found = nearest_by_cosine(vectors, entities, graph, 5, 6)
    assert [near.row for near in found] == np.argsort(-cosines)[:6].tolist()
    np.testing.assert_allclose([near.score for near in found], np.sort(cosines)[::-1][:6], rtol=1e-5)
    assert len(nearest_by_cosine(vectors, entities, graph, 5, 1000)) == 27


@pytest.mark.parametrize("by", ["cosine", "translation"])
def test_graph_neighbours_are_marked(vectors, by):
    graph = KnowledgeGraph.load(vectors.parent / "graph")
    text = nearest_and_linked(vectors, "e5", graph=None, k=29, by=by)
    nearest, linked = text.split("\n\nNeighbours in the graph: ")
    marked = {
        line.split("(Q")[1].split(")")[0]
        for line in nearest.split("\n")
        if line.endswith((" →", " ←", ")")) and "(Q" in line
    }
    around = graph.triples[(graph.triples[:, 0] == 5) | (graph.triples[:, 2] == 5)]
    others = set(around[:, [0, 2]].ravel().tolist()) - {5}
    shown = [line for line in nearest.split("\n")[4:] if "(Qe" in line]
    assert len(shown) == 27
    assert f"{len(others - {7, 30})} of 27 are neighbours in the graph" in nearest
    assert linked.startswith(f"{len(others)}, by cosine")
    if by == "cosine":
        with_mark = {line.split("(Q")[1].split(")")[0] for line in shown if len(line.split("(Q")[1].split()) > 1}
        assert with_mark == {f"e{other}" for other in others - {7, 30}}
    assert marked


def test_an_entity_without_a_vector_is_said_to_have_none(vectors):
    """A zero vector has a cosine of 0 with everything: a list of strangers that looks like an answer."""
    with pytest.raises(InputError, match=r"e7 \(Qe7\) has no vector"):
        nearest_and_linked(vectors, "e7", graph=None, k=3, by="cosine")


def test_only_the_vectors_own_graph_will_do(vectors, tmp_path):
    """Rows of another graph are other entities: every name would be wrong and nothing would fail."""
    make_graph(tmp_path / "other", seed=1)
    manifest = open_artifact(vectors, stage="kg embed")
    assert graph_of(manifest, None) == vectors.parent / "graph"
    assert graph_of(manifest, vectors.parent / "graph") == vectors.parent / "graph"
    with pytest.raises(InputError, match=r"other is not the graph that .*vectors was made from"):
        graph_of(manifest, tmp_path / "other")
    with pytest.raises(InputError, match="nothing does not exist; make it with `ernie-kg kg build`"):
        graph_of(manifest, tmp_path / "nothing")
    with pytest.raises(InputError, match="expected one made by `ernie-kg kg build`"):
        graph_of(manifest, vectors)


def test_a_run_that_moved_as_a_whole_still_finds_its_graph(vectors, tmp_path):
    vectors.parent.rename(tmp_path / "moved")
    manifest = open_artifact(tmp_path / "moved" / "vectors", stage="kg embed")
    assert graph_of(manifest, None) == tmp_path / "moved" / "graph"
    shutil.rmtree(tmp_path / "moved" / "graph")
    with pytest.raises(InputError, match=r"is no longer at .*graph; name it with --graph FOLDER"):
        graph_of(manifest, None)
    make_graph(tmp_path / "moved" / "graph", seed=2)
    with pytest.raises(InputError, match="its digest differs"):
        graph_of(manifest, None)


def test_a_damaged_table_is_one_line(vectors):
    path = vectors / "entity_embeddings.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(InputError, match=r"entity_embeddings.safetensors: not readable as safetensors"):
        Vectors.load(vectors)


def test_half_precision_tables_are_read_as_they_are(vectors, tables):
    """Half-precision sums over a hundred numbers would lose two digits of every distance."""
    path = vectors / "entity_embeddings.safetensors"
    half = tables[0].astype(np.float16)
    save_file({"entity_embeddings": half}, path)
    manifest = json.loads((vectors / "manifest.json").read_text())
    manifest["files"][path.name]["bytes"] = path.stat().st_size
    (vectors / "manifest.json").write_text(json.dumps(manifest))
    read = Vectors.load(vectors)
    np.testing.assert_array_equal(read.entities, half)
    found = nearest_by_translation(read.entities, read.relations, 3, 5)
    expected = by_hand(half, tables[1], 3, "l2")[:5]
    assert [near.row for near in found] == [other for _, other in expected]
    assert "has no vector" not in nearest_and_linked(vectors, "e3", graph=None, k=3, by="translation")


def test_a_table_under_another_name_is_one_line(vectors, tables):
    path = vectors / "relation_embeddings.safetensors"
    save_file({"relation_embeddingz": tables[1]}, path)
    manifest = json.loads((vectors / "manifest.json").read_text())
    manifest["files"][path.name]["bytes"] = path.stat().st_size
    (vectors / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"expected the table 'relation_embeddings' .*found \['relation_embeddingz'\]"):
        Vectors.load(vectors)


def test_the_norm_of_the_training_is_the_norm_of_the_search(tmp_path, vectors):
    manifest = json.loads((vectors / "manifest.json").read_text())
    assert Vectors.load(vectors).norm == "l2"
    manifest["config"]["norm"] = "l1"
    (vectors / "manifest.json").write_text(json.dumps(manifest))
    assert Vectors.load(vectors).norm == "l1"
