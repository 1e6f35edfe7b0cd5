"""`kg embed` over partitions on disk against the same stage in memory: files, figures, stops, restarts, refusals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from kg.artifact import open_artifact, write_artifact
from kg.embed import EmbedConfig, run
from kg.errors import InputError
from kg.graph import ENTITIES, RELATIONS, GraphFacts, KnowledgeGraph
from kg.index import VectorIndex
from kg.partitioned import stage, train
from kg.partitioned.evaluation import Candidates
from kg.partitioned.sources import hold_out, without
from kg.ranking import KnownAnswers, rank_triples
from kg.transe import TransE

SMALL = {"dim": 16, "num_negatives": 32, "chunk_size": 32, "batch_size": 64, "threads": 1, "engine": "torch"}
AXES = 5
NUM_ENTITIES = 3**AXES


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path

    def inputs(self):
        return {}


def cube_triples():
    """The points of {0, 1, 2}^axes, a relation "one further" for each axis: a translation says it all."""
    points = np.arange(NUM_ENTITIES)
    steps = [(point, axis) for point in points for axis in range(AXES) if point // 3**axis % 3 < 2]
    return np.array([(point + 1, axis, point + 3**axis + 1) for point, axis in steps], np.int32)


def made_graph(folder, triples, splits=None, num_entities=NUM_ENTITIES):
    ids = [f"e{row}" for row in range(1, num_entities + 1)]
    blank = {"aliases": [], "description": "", "types": [], "count": 0}
    entities = [{"row": row, "id": name, "label": name, **blank} for row, name in enumerate(ids, 1)]
    relations = [{"row": row, "id": f"r{row}", "label": f"r{row}"} for row in range(AXES)]
    graph = KnowledgeGraph(
        entities=pa.Table.from_pylist(entities, schema=ENTITIES),
        relations=pa.Table.from_pylist(relations, schema=RELATIONS),
        aliases=pa.table({"alias": ["a"], "entity": [1], "prior": [1.0]}),
        triples=triples,
        splits=splits,
    )
    with write_artifact(MadeConfig(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
    return folder


def config(graph, output, **changes):
    return EmbedConfig(graph=graph, output=output, **{**SMALL, "partitions": 4, "valid": 0.1, "test": 0.1, **changes})


def opened(folder):
    return open_artifact(folder, stage="kg embed")


def test_the_artifact_is_that_of_the_stage_in_memory(tmp_path):
    """Whoever reads vectors does not know how they were trained: same files, same rows, an index that finds them."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    manifests = [
        opened(run(config(graph, tmp_path / name, partitions=parts, epochs=40, evaluate_every=10)))
        for name, parts in (("memory", 0), ("disk", 4))
    ]
    assert manifests[0].data["files"].keys() == manifests[1].data["files"].keys()
    folder = manifests[1].folder
    vectors = load_file(folder / "entity_embeddings.safetensors")["entity_embeddings"]
    assert (vectors.shape, vectors.dtype) == ((NUM_ENTITIES + 1, 16), np.float32)
    assert not vectors[0].any()
    assert (folder / "vocabulary.txt").read_text() == (manifests[0].folder / "vocabulary.txt").read_text()
    assert VectorIndex.load(folder).search(vectors[[5, 200]], 1)[0] == [["e5"], ["e200"]]
    in_memory, on_disk = (m.figures for m in manifests)
    assert on_disk["mrr"] > 0.3, "a chance scorer has 0.03"
    assert on_disk["mrr"] == pytest.approx(in_memory["mrr"], abs=0.15)
    assert on_disk["partitions"] == 4
    counts = manifests[1].counts
    assert counts["train_triples"] + counts["valid_triples"] + counts["test_triples"] == len(cube_triples())
    assert {"relation", "mrr", "num_triples"} <= on_disk["test_by_relation"][0].keys()


def test_the_reported_figures_are_those_of_the_written_table(tmp_path):
    """A figure of the last epoch beside the vectors of the best one, or the reverse, is nobody's figure."""
    triples = cube_triples()
    splits = np.zeros(len(triples), np.int8)
    splits[3::20], splits[7::20] = 1, 2
    graph = made_graph(tmp_path / "graph", triples, splits)
    manifest = opened(run(config(graph, tmp_path / "v", epochs=12, evaluate_every=1, patience=2)))
    tables = [
        np.ascontiguousarray(load_file(tmp_path / "v" / f"{n}_embeddings.safetensors")[f"{n}_embeddings"])
        for n in ("entity", "relation")
    ]
    model = TransE(*map(torch.from_numpy, tables))
    known = KnownAnswers(triples, num_relations=AXES)
    curve = [point["mrr"] for point in manifest.figures["validation_curve"]]
    for number, expected in ((1, max(curve)), (2, manifest.figures["mrr"])):
        ranks = rank_triples(triples[splits == number], model.score_all, known)
        assert ranks.metrics()["mrr"] == pytest.approx(expected, abs=1e-6)
    assert manifest.figures["split"] == "published"
    assert manifest.figures["validation_mrr"] == max(curve)
    assert manifest.figures["best_epoch"] == curve.index(max(curve)) + 1


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    """Out of memory an epoch is hours: without the stop they are lost."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    figures = opened(run(config(graph, tmp_path / "v", evaluate_every=1, patience=2, epochs=300))).figures
    assert figures["stopped_by"] == "patience"
    assert figures["epochs"] == figures["best_epoch"] + 2 < 300


@pytest.mark.faults
@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_killed_stage_goes_on_to_the_same_bytes(tmp_path, monkeypatch, stop_at):
    """A restart that forgets the best table, or validates twice, ends as another run under the same name."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    given = {"epochs": 8, "evaluate_every": 2, "patience": 0}
    whole = opened(run(config(graph, tmp_path / "whole", **given)))
    offers, original = [], train.PartitionedTraining._offer

    def cut(self, mrr, epoch):
        original(self, mrr, epoch)
        offers.append(epoch)
        if len(offers) == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train.PartitionedTraining, "_offer", cut)
        with pytest.raises(KeyboardInterrupt):
            run(config(graph, tmp_path / "cut", **given))
    again = opened(run(config(graph, tmp_path / "cut", **given)))
    assert again.data["resumed"]
    assert {n: f["sha256"] for n, f in again.data["files"].items()} == {
        n: f["sha256"] for n, f in whole.data["files"].items()
    }
    for name in ("loss_curve", "validation_curve", "best_epoch", "mrr"):
        assert again.figures[name] == whole.figures[name], name


@pytest.mark.faults
def test_a_stage_killed_behind_its_training_does_not_train_again(tmp_path, monkeypatch):
    """The index of many millions of entities takes hours as well; they must not cost those of the training."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    given = {"epochs": 4, "evaluate_every": 1, "patience": 0}
    whole = opened(run(config(graph, tmp_path / "whole", **given)))
    with monkeypatch.context() as patched:
        patched.setattr(stage, "write_index", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config(graph, tmp_path / "cut", **given))
    monkeypatch.setattr(train.PartitionedTraining, "train", lambda self, steps=None: pytest.fail("it trains again"))
    again = opened(run(config(graph, tmp_path / "cut", **given)))
    assert {n: f["sha256"] for n, f in again.data["files"].items()} == {
        n: f["sha256"] for n, f in whole.data["files"].items()
    }
    assert again.figures["mrr"] == whole.figures["mrr"]


def test_facts_of_a_task_reach_no_vector(tmp_path):
    """A leak is invisible downstream: the task only gets better."""
    triples = np.array([(i, 0, i + 1) for i in range(1, 40)] + [(41, 1, 42)], np.int32)
    graph = made_graph(tmp_path / "graph", triples, num_entities=43)
    facts = tmp_path / "facts.tsv"
    facts.write_text("e42\tr0\te41\ne3\tr0\te9\nstranger\tr0\te1\n")
    manifest = opened(run(config(graph, tmp_path / "v", leave_out=(facts,), epochs=2)))
    vectors = load_file(tmp_path / "v" / "entity_embeddings.safetensors")["entity_embeddings"]
    assert np.flatnonzero(~vectors.any(axis=1)).tolist() == [0, 41, 42, 43]
    assert manifest.dropped["fact_pair"] == manifest.dropped["fact_head_relation"] == 1
    assert manifest.dropped["entity_vector_zero_all_left_out"] == 2
    assert manifest.counts["fact_unknown_entity"] == 1
    assert "fewer than 10" in manifest.figures["mrr_reason"]


def test_a_warm_start_equals_that_in_memory(tmp_path, monkeypatch):
    """The two read the older vectors by different code; a shift by one row is a random start with a good name."""
    monkeypatch.setattr("kg.partitioned.warm_start.BYTES_AT_ONCE", 640)
    from kg.partitioned.buckets import blocks
    from kg.partitioned.warm_start import first_vectors
    from kg.warm_start import start_from

    triples = cube_triples()
    old = [row for row in range(1, NUM_ENTITIES + 1) if row % 10]
    known = triples[np.isin(triples[:, [0, 2]], old).all(1) & (triples[:, 1] != 4)]
    older = run(config(made_graph(tmp_path / "older", known), tmp_path / "v", partitions=0, epochs=20))
    graph = GraphFacts(made_graph(tmp_path / "graph", triples))
    found = first_vectors(older, graph, blocks(triples, 100), dim=16, folder=tmp_path)
    model = TransE(torch.full((NUM_ENTITIES + 1, 16), 7.0), torch.full((AXES, 16), 7.0))
    counts = start_from(model, older, triples, entity_ids=graph.entity_ids.to_pylist(), relation_ids=graph.relation_ids)
    vectors = np.full((NUM_ENTITIES, 16), 7.0, np.float32)
    found.fill(np.arange(1, NUM_ENTITIES + 1), vectors)
    np.testing.assert_allclose(vectors, model.entities.numpy()[1:], atol=1e-5)
    np.testing.assert_allclose(found.relations, model.relations.numpy(), atol=1e-5)
    assert found.counts == counts
    assert counts["entities_from_neighbours"] > 0 < counts["relations_from_triples"]
    manifest = opened(run(config(graph.folder, tmp_path / "w", warm_start=older, epochs=1)))
    assert manifest.counts["entities_copied"] == counts["entities_copied"]
    with pytest.raises(InputError, match="dim"):
        run(config(graph.folder, tmp_path / "x", warm_start=older, dim=8))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9), valid=st.sampled_from([0.0, 0.05, 0.3]), block=st.sampled_from([7, 1000]))
def test_held_out_triples_can_be_spared_and_are_read_off_nothing(seed, valid, block):
    """Whatever the blocks: no held-out pair is trained on, every entity and relation keeps a triple."""
    from kg.partitioned.buckets import blocks

    triples = np.concatenate([cube_triples(), cube_triples()[::3][:, ::-1] * [1, 0, 1] + [0, 2, 0]]).astype(np.int32)
    source = blocks(triples, block)
    sizes = {"num_entities": NUM_ENTITIES, "num_relations": AXES}
    held_out, total = hold_out(source, **sizes, seed=seed, valid=valid, test=0.1)
    left = np.concatenate([*without(source, held_out)()])
    assert total == len(triples) == len(left) + len(held_out.valid) + len(held_out.test)
    assert len(held_out.valid) <= round(valid * total)
    assert 0.05 * total < len(held_out.test) <= round(0.1 * total)
    assert set(left[:, [0, 2]].ravel()) == set(triples[:, [0, 2]].ravel())
    pairs = [{frozenset((h, t)) for h, _, t in part.tolist()} for part in (left, *held_out)]
    assert not pairs[0] & (pairs[1] | pairs[2])
    assert not pairs[1] & pairs[2]


def test_a_sample_of_very_many_entities_is_named_as_one(tmp_path, monkeypatch):
    """A rank among a few looks like a far better model: its figures must never stand under the name of all."""
    monkeypatch.setattr("kg.partitioned.evaluation.FULL_UP_TO", 100)
    graph = made_graph(tmp_path / "graph", cube_triples())
    for name, parts in (("memory", 0), ("disk", 4)):
        manifest = opened(run(config(graph, tmp_path / name, partitions=parts, epochs=30, rank_sample=50)))
        figures = manifest.figures
        assert figures["mrr"] is None
        assert "sampled_mrr@50" in figures["mrr_reason"]
        assert figures["sampled_mrr@50"] > 0.3
        assert "among 50 drawn entities" in manifest.data["headline"]
        assert all("mrr" not in line for line in figures["test_by_relation"])
    figures = opened(run(config(graph, tmp_path / "all", epochs=2, rank_sample=0))).figures
    assert figures["mrr"] > 0
    drawn = Candidates.of(1000, sample=50, seed=1)
    assert len(set(drawn.rows.tolist())) == 50
    assert (drawn.rows == Candidates.of(1000, sample=50, seed=1).rows).all()


def test_several_processes_train_one_table(tmp_path):
    """The option reaches the processes, and what they learnt reaches the file."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    given = {"partitions": 0, "processes": 2, "epochs": 40, "evaluate_every": 40, "index": "none"}
    manifest = opened(run(config(graph, tmp_path / "v", **given)))
    assert manifest.figures["processes"] == 2
    assert manifest.figures["mrr"] > 0.2
    assert not (tmp_path / "v" / "index.faiss").exists()


def test_what_does_not_go_together_is_one_line(tmp_path):
    """Each of these would otherwise fail after hours, or quietly do something else."""
    graph = made_graph(tmp_path / "graph", cube_triples())
    with pytest.raises(InputError, match="inductive reads the descriptions into memory"):
        config(graph, tmp_path / "v", inductive="package:none")
    with pytest.raises(InputError, match="device cuda"):
        config(graph, tmp_path / "v", device="cuda")
    with pytest.raises(InputError, match="partitions"):
        run(config(graph, tmp_path / "v", partitions=1000))
    with pytest.raises(InputError, match="even number of partitions"):
        run(config(graph, tmp_path / "w", partitions=5, processes=2))
    with pytest.raises(InputError, match="give at least"):
        run(config(graph, tmp_path / "x", partitions=0, memory_gb=0.001))
