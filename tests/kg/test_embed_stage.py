"""`kg embed` on small made graphs: its files, its honesty about held-out triples, and what it refuses."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from kg import fitting
from kg.artifact import open_artifact, write_artifact
from kg.embed import EmbedConfig, run
from kg.errors import InputError
from kg.graph import ENTITIES, RELATIONS, KnowledgeGraph
from kg.index import VectorIndex
from kg.progress import Progress
from kg.split import split_triples

SMALL = {"dim": 16, "num_negatives": 32, "chunk_size": 32, "batch_size": 64, "threads": 1}


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path

    def inputs(self):
        return {}


def made_graph(folder, triples, num_entities, num_relations=2):
    names = [f"e{row}" for row in range(1, num_entities + 1)]
    entities = [
        {"row": row, "id": n, "label": n, "aliases": [], "description": "", "types": [], "count": 0}
        for row, n in enumerate(names, 1)
    ]
    relations = [{"row": row, "id": f"r{row}", "label": f"r{row}"} for row in range(num_relations)]
    graph = KnowledgeGraph(
        entities=pa.Table.from_pylist(entities, schema=ENTITIES),
        relations=pa.Table.from_pylist(relations, schema=RELATIONS),
        aliases=pa.table({"alias": ["a"], "entity": [1], "prior": [1.0]}),
        triples=np.asarray(triples),
    )
    with write_artifact(MadeConfig(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
    return folder


def cube_graph(folder, axes=5):
    """The points of {0, 1, 2}^axes, a relation "one further" for each axis: a translation says it all."""
    triples = [
        (point + 1, axis, point + 3**axis + 1)
        for point in range(3**axes)
        for axis in range(axes)
        if point // 3**axis % 3 < 2
    ]
    return made_graph(folder, triples, 3**axes, axes)


def test_the_artifact_holds_what_readers_rely_on(tmp_path):
    """Rows, ids and index are read by four later stages; a shift by one is a wrong vector for every entity."""
    graph = cube_graph(tmp_path / "graph")
    config = EmbedConfig(graph=graph, output=tmp_path / "vectors", valid=0.05, test=0.05, epochs=40, **SMALL)
    assert run(config) == tmp_path / "vectors"
    manifest = open_artifact(config.output, stage="kg embed")
    vectors = load_file(config.output / "entity_embeddings.safetensors")["entity_embeddings"]
    relations = load_file(config.output / "relation_embeddings.safetensors")["relation_embeddings"]
    ids = (config.output / "vocabulary.txt").read_text().split("\n")[:-1]
    assert (vectors.shape, vectors.dtype, relations.shape) == ((244, 16), np.float32, (5, 16))
    assert not vectors[0].any()
    assert ids == [f"e{row}" for row in range(1, 244)]
    found, scores = VectorIndex.load(config.output).search(vectors[[5, 200]], 1)
    assert found == [["e5"], ["e200"]]
    np.testing.assert_allclose(scores, 1.0, atol=1e-5)
    assert manifest.figures["mrr"] > 0.3, "a chance scorer has 0.03"
    assert {line["relation"] for line in manifest.figures["test_by_relation"]} <= {f"r{axis}" for axis in range(5)}
    losses = [point["loss"] for point in manifest.figures["loss_curve"]]
    assert losses[-1] < losses[0]
    assert manifest.counts["train_triples"] + manifest.counts["valid_triples"] + manifest.counts["test_triples"] == 810
    assert manifest.data["headline"].startswith("filtered MRR ")


def test_the_reported_table_is_the_written_one(tmp_path):
    """A figure of the last epoch beside the vectors of the best one, or the reverse, is nobody's figure."""
    from kg.ranking import KnownAnswers, rank_triples
    from kg.transe import TransE

    folder = cube_graph(tmp_path / "graph")
    config = EmbedConfig(graph=folder, output=tmp_path / "v", valid=0.05, test=0.05, epochs=30, **SMALL)
    manifest = open_artifact(run(config), stage="kg embed")
    graph = KnowledgeGraph.load(folder)
    tables = [
        load_file(config.output / f"{n}_embeddings.safetensors")[f"{n}_embeddings"] for n in ("entity", "relation")
    ]
    model = TransE(*(torch.from_numpy(table) for table in tables))
    split = split_triples(graph.triples, seed=0, valid=0.05, test=0.05)
    known = KnownAnswers(graph.triples, num_relations=5)
    assert rank_triples(split.test, model.score_all, known).metrics()["mrr"] == pytest.approx(manifest.figures["mrr"])


def test_left_out_facts_reach_no_vector(tmp_path):
    """A leak is invisible downstream: the task only gets better."""
    folder = made_graph(tmp_path / "graph", [(i, 0, i + 1) for i in range(1, 40)] + [(41, 1, 42)], 43)
    facts = tmp_path / "facts.tsv"
    facts.write_text("e42\tr0\te41\ne3\tr0\te9\nstranger\tr0\te1\n")
    config = EmbedConfig(graph=folder, output=tmp_path / "v", leave_out=(facts,), epochs=3, **SMALL)
    manifest = open_artifact(run(config), stage="kg embed")
    vectors = load_file(config.output / "entity_embeddings.safetensors")["entity_embeddings"]
    zero = np.flatnonzero(~vectors.any(axis=1)).tolist()
    assert zero == [0, 41, 42, 43]
    assert manifest.dropped == {
        "fact_pair": 1,
        "fact_head_relation": 1,
        "entity_vector_zero_no_triple": 1,
        "entity_vector_zero_all_left_out": 2,
        "relation_vector_zero": 1,
    }
    assert manifest.counts["facts_left_out"] == 3
    assert manifest.counts["fact_unknown_entity"] == 1
    assert manifest.counts["indexed_entities"] == 40


@pytest.mark.parametrize("count", [1, 60])
def test_a_graph_too_small_to_hold_out_says_so(tmp_path, count):
    """An MRR over two triples looks like any other MRR."""
    folder = made_graph(tmp_path / "graph", [(i, 0, i + 1) for i in range(1, count + 1)], count + 1, 1)
    manifest = open_artifact(run(EmbedConfig(graph=folder, output=tmp_path / "v", epochs=2, **SMALL)), stage="kg embed")
    assert manifest.figures["mrr"] is None
    assert "fewer than 10" in manifest.figures["mrr_reason"]
    assert manifest.counts["held_out_too_small"] == 1
    assert manifest.counts["train_triples"] == count


def test_a_seed_decides_the_artifact(tmp_path):
    """Skipping finished stages rests on this: the same config and inputs are the same content."""
    folder = cube_graph(tmp_path / "graph", 3)
    runs = [
        open_artifact(
            run(EmbedConfig(graph=folder, output=tmp_path / name, epochs=4, seed=seed, **SMALL)), stage="kg embed"
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    digests = [m.data["files"]["entity_embeddings.safetensors"]["sha256"] for m in runs]
    assert digests[0] == digests[1] != digests[2]


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    """Without the stop a run costs its whole budget; without the kept copy the stop costs quality."""
    folder = cube_graph(tmp_path / "graph")
    settings = SMALL | {"evaluate_every": 1, "patience": 2, "epochs": 400, "valid": 0.1, "test": 0.1}
    figures = open_artifact(run(EmbedConfig(graph=folder, output=tmp_path / "v", **settings)), stage="kg embed").figures
    curve = [point["mrr"] for point in figures["validation_curve"]]
    assert figures["stopped_by"] == "patience"
    assert figures["validation_mrr"] == max(curve)
    assert figures["best_epoch"] == curve.index(max(curve)) + 1
    assert figures["epochs"] == figures["best_epoch"] + 2


def test_a_time_limit_still_measures_what_it_leaves(tmp_path):
    """A run cut short must not report `mrr: null` or an untrained table."""
    folder = cube_graph(tmp_path / "graph")
    config = EmbedConfig(graph=folder, output=tmp_path / "v", max_minutes=1e-6, valid=0.1, test=0.1, **SMALL)
    figures = open_artifact(run(config), stage="kg embed").figures
    assert (figures["stopped_by"], figures["epochs"], figures["best_epoch"]) == ("max_minutes", 1, 1)
    assert figures["mrr"] > 0


def test_what_a_user_can_cause_is_one_line(tmp_path):
    """Each of these would otherwise be a traceback, or a table of NaN."""
    folder = cube_graph(tmp_path / "graph", 3)
    with pytest.raises(InputError, match="ernie-kg kg build"):
        run(EmbedConfig(graph=tmp_path / "none", output=tmp_path / "v"))
    with pytest.raises(InputError, match="expected dim above 0, got 0"):
        EmbedConfig(graph=folder, output=tmp_path / "v", dim=0)
    facts = tmp_path / "facts.tsv"
    facts.write_text("e1 r0 e2\n")
    with pytest.raises(InputError, match=r"facts.tsv:1"):
        run(EmbedConfig(graph=folder, output=tmp_path / "v", leave_out=(facts,)))
    with pytest.raises(InputError, match="lower the learning rate"):
        run(EmbedConfig(graph=folder, output=tmp_path / "v", learning_rate=1e30, epochs=50, **SMALL))
    single = made_graph(tmp_path / "single", [(1, 0, 2)], 2, 1)
    facts.write_text("e1\tr0\te2\n")
    with pytest.raises(InputError, match="no triple is left"):
        run(EmbedConfig(graph=single, output=tmp_path / "v", leave_out=(facts,)))
    assert not list(tmp_path.glob("v*")), "a failed run leaves no folder"


def digests(folder):
    return {name: entry["sha256"] for name, entry in open_artifact(folder, stage="kg embed").data["files"].items()}


@pytest.mark.faults
@pytest.mark.parametrize("stop_after", [1, 4, 5, 9])
def test_a_training_interrupted_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, stop_after):
    """A resumed run that draws other negatives, or forgets the best table, ends as another run with the same name."""
    folder = cube_graph(tmp_path / "graph", 4)
    settings = SMALL | {"epochs": 10, "evaluate_every": 2, "save_every": 3, "valid": 0.1, "test": 0.1, "patience": 0}
    undisturbed = run(EmbedConfig(graph=folder, output=tmp_path / "whole", **settings))
    config, original, epochs = EmbedConfig(graph=folder, output=tmp_path / "cut", **settings), fitting.one_epoch, []

    def cut_epoch(found, *rest):
        if len(epochs) == stop_after:
            raise KeyboardInterrupt
        epochs.append(found.history.epoch)
        original(found, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "one_epoch", cut_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    begun = []
    monkeypatch.setattr(fitting, "one_epoch", lambda found, *rest: (begun.append(1), original(found, *rest)))
    run(config)
    assert len(begun) == 10 - stop_after // 3 * 3, "it did not go on from its checkpoint"
    assert digests(config.output) == digests(undisturbed)
    manifests = [open_artifact(path, stage="kg embed").figures for path in (config.output, undisturbed)]
    for name in ("loss_curve", "validation_curve", "best_epoch", "mrr"):
        assert manifests[0][name] == manifests[1][name], name


def test_both_engines_make_tables_of_the_same_worth(tmp_path):
    """`auto` picks by speed alone."""
    folder = cube_graph(tmp_path / "graph")
    figures = []
    for engine in ("torch", "fused"):
        config = EmbedConfig(
            graph=folder, output=tmp_path / engine, engine=engine, valid=0.05, test=0.05, epochs=12, **SMALL
        )
        figures.append(open_artifact(run(config), stage="kg embed").figures)
    assert [f["engine"] for f in figures] == ["torch", "fused"]
    assert figures[0]["loss_curve"][0]["loss"] == pytest.approx(figures[1]["loss_curve"][0]["loss"], rel=1e-4)
    assert figures[0]["mrr"] == pytest.approx(figures[1]["mrr"], abs=0.05)


def test_a_published_split_is_kept(tmp_path):
    """Figures on another split than the published one compare with nobody's."""
    folder = cube_graph(tmp_path / "graph")
    graph = KnowledgeGraph.load(folder)
    splits = np.zeros(graph.num_triples, np.int8)
    splits[3::20], splits[7::20] = 1, 2
    tables = {"entities": graph.entities, "relations": graph.relations, "aliases": graph.aliases}
    with write_artifact(MadeConfig(output=tmp_path / "published"), stage="kg build") as writer:
        KnowledgeGraph(**tables, triples=graph.triples, splits=splits).save(writer.path)
    config = EmbedConfig(graph=tmp_path / "published", output=tmp_path / "v", epochs=2, **SMALL)
    manifest = open_artifact(run(config), stage="kg embed")
    names = ("train_triples", "valid_triples", "test_triples")
    assert [manifest.counts[name] for name in names] == [int((splits == n).sum()) for n in range(3)]
    assert manifest.figures["split"] == "published"
    with pytest.raises(InputError, match="no published split"):
        run(EmbedConfig(graph=folder, output=tmp_path / "w", split="published", **SMALL))


def test_new_entities_start_where_their_neighbours_expect_them(tmp_path):
    """A warm start that lost the ids, or the direction of a relation, is a random start with a good name."""
    from kg.ranking import KnownAnswers, rank_triples
    from kg.transe import TransE
    from kg.warm_start import start_from

    whole = KnowledgeGraph.load(cube_graph(tmp_path / "graph"))
    old = [row for row in range(1, 244) if row % 10]
    inside = np.isin(whole.triples[:, [0, 2]], old).all(1)
    folder = made_graph(tmp_path / "old", whole.triples[inside], 243, 5)
    config = EmbedConfig(graph=folder, output=tmp_path / "v", epochs=60, valid=0.05, test=0.05, **SMALL)
    run(config)

    def fresh():
        generator = torch.Generator().manual_seed(7)
        return TransE.initialised(num_entities=243, num_relations=5, dim=16, scale=0.1, generator=generator)

    model, ids = fresh(), [f"e{row}" for row in range(1, 244)]
    counts = start_from(model, config.output, whole.triples, entity_ids=ids, relation_ids=[f"r{a}" for a in range(5)])
    assert counts["entities_copied"] == len(old)
    assert counts["entities_from_neighbours"] == 24
    assert counts["relations_copied"] == 5
    known = KnownAnswers(whole.triples, num_relations=5)
    warm, cold = (rank_triples(whole.triples[~inside], m.score_all, known).metrics()["mrr"] for m in (model, fresh()))
    assert warm > 0.3 > 5 * cold
    with pytest.raises(InputError, match="dim"):
        run(EmbedConfig(graph=folder, output=tmp_path / "w", warm_start=config.output, **(SMALL | {"dim": 8})))


@pytest.mark.faults
@pytest.mark.parametrize("negatives", ["uniform", "bernoulli", "typed", "degree"])
def test_one_relation_alone_is_a_graph(tmp_path, negatives):
    """Counts by relation, typed negatives and cardinalities are written for many relations."""
    triples = [(i, 0, i + 1) for i in range(1, 120)]
    folder = made_graph(tmp_path / "graph", triples, 120, 1)
    settings = SMALL | {"negatives": negatives, "valid": 0.1, "test": 0.1, "epochs": 3, "reciprocal": True}
    figures = open_artifact(run(EmbedConfig(graph=folder, output=tmp_path / "v", **settings)), stage="kg embed").figures
    assert 0 < figures["mrr"] <= 1
    assert [line["relation"] for line in figures["test_by_relation"]] == ["r0"]


def test_a_chain_once_unfolded_stays_so():
    """From random vectors a long chain ends folded up (MRR 0.06); that must be the optimisation's doing, not the loss's
    or the ranking's: laid on a line, which is the perfect answer, it stays there."""
    length, steps = 250, (1, 7)
    triples = np.array([(i, row, i + step) for row, step in enumerate(steps) for i in range(1, length + 1 - step)])
    split = split_triples(triples, seed=0, valid=0.05, test=0.05)
    config = EmbedConfig(graph=Path("graph"), output=Path("v"), engine="torch", epochs=20, **SMALL)
    sizes = {"num_entities": length, "num_relations": len(steps)}
    found = fitting.begin(split.train, config, **sizes)
    found.model.entities[1:] = torch.arange(1, length + 1).unsqueeze(1) * torch.eye(1, 16)
    found.model.relations[:] = torch.tensor(steps).unsqueeze(1) * torch.eye(1, 16)
    for _ in range(config.epochs):
        fitting.one_epoch(found, config, Progress("training"))
    ranking = fitting.Ranking(split, config=config, **sizes)
    assert ranking.mrr(found.model, np.concatenate([split.valid, split.test])) > 0.99


def test_training_loads_no_pandas(tmp_path):
    """pyarrow loads it unasked, and with it a tenth of the memory that training a small graph takes."""
    folder = cube_graph(tmp_path / "graph", 3)
    code = """
import sys
from pathlib import Path
from kg.embed import EmbedConfig, run
run(EmbedConfig(graph=Path(sys.argv[1]), output=Path(sys.argv[2]), dim=8, epochs=1, engine="torch"))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "v")], check=True)
