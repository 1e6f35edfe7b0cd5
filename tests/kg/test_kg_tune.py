"""`kg tune`: finds what is better, says what it tried, and never looks at the test triples."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from kg.artifact import open_artifact, write_artifact
from kg.embed import EmbedConfig
from kg.errors import InputError
from kg.graph import ENTITIES, RELATIONS, KnowledgeGraph
from kg.tune import TuneConfig, draw, run

AXES = 4


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path

    def inputs(self):
        return {}


def line_world(folder, test_shift=0):
    """The points of {0, 1, 2}^4, a relation "one further" an axis, with a published split."""
    points = 3**AXES
    triples = np.array(
        [(p + 1, a, p + 3**a + 1) for p in range(points) for a in range(AXES) if p // 3**a % 3 < 2], np.int32
    )
    splits = np.zeros(len(triples), np.int8)
    splits[3::12] = 1
    splits[7::12] = 2
    triples[splits == 2, 2] = (triples[splits == 2, 2] - 1 + test_shift) % points + 1
    entities = [
        {"row": r, "id": f"e{r}", "label": f"e{r}", "aliases": [], "description": "", "types": [], "count": 0}
        for r in range(1, points + 1)
    ]
    graph = KnowledgeGraph(
        entities=pa.Table.from_pylist(entities, schema=ENTITIES),
        relations=pa.Table.from_pylist([{"row": a, "id": f"r{a}", "label": f"r{a}"} for a in range(AXES)], RELATIONS),
        aliases=pa.table({"alias": ["a"], "entity": [1], "prior": [1.0]}),
        triples=triples,
        splits=splits,
    )

    with write_artifact(MadeConfig(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
    return folder


SMALL = {"dim": 16, "chunk_size": 16, "batch_size": 32, "threads": 1, "numbers_of_negatives": (16,), "first_epochs": 2}


def test_a_hopeless_setting_is_dropped_and_the_best_can_be_used(tmp_path):
    """A search that keeps the worse half, or writes settings `kg embed` refuses, looks busy all the same."""
    graph = line_world(tmp_path / "graph")
    config = TuneConfig(
        graph=graph, output=tmp_path / "t", losses=("cross_entropy",), norms=("l2",), reciprocals=(False,),
        learning_rates=(1e-7, 0.2, 1e-6, 1e-5), **SMALL,
    )  # fmt: skip
    manifest = open_artifact(run(config), stage="kg tune")
    assert manifest.figures["best"]["learning_rate"] == 0.2
    trials = json.loads((config.output / "trials.json").read_text())
    assert [trial["epochs"] for trial in trials] == [8, 4, 2, 2]
    assert trials[0]["validation_mrr"] == manifest.figures["validation_mrr"] > 2 * trials[-1]["validation_mrr"]
    assert manifest.counts == {"trials": 4, "epochs": 16, "unseen_valid_entities": 0, "unseen_test_entities": 0}
    settings = yaml.safe_load((config.output / "best.yaml").read_text())
    chosen = EmbedConfig(graph=graph, output=tmp_path / "v", **settings)
    assert (chosen.learning_rate, chosen.loss, chosen.dim) == (0.2, "cross_entropy", 16)


def test_the_test_triples_change_nothing(tmp_path):
    """Settings chosen on the test set make its figures worthless, and nobody can tell."""
    figures = []
    for shift in (0, 5):
        graph = line_world(tmp_path / f"graph{shift}", shift)
        config = TuneConfig(graph=graph, output=tmp_path / f"t{shift}", trials=4, **SMALL)
        figures.append(open_artifact(run(config), stage="kg tune").figures["trials"])
    assert figures[0] == figures[1]


def test_settings_are_drawn_once_each_and_by_the_seed():
    config = TuneConfig(graph=Path("g"), output=Path("o"), trials=1000)
    every = draw(config)
    assert len({tuple(sorted(settings.items())) for settings in every}) == len(every)
    self_adversarial, cross_entropy = 2 * 2 * 3 * 2 * 2 * 2, 2 * 2 * 2 * 2
    assert len(every) == self_adversarial + cross_entropy
    assert not any("margin" in settings for settings in every if settings["loss"] == "cross_entropy")
    few = replace(config, trials=5)
    assert draw(few) == draw(few) != draw(replace(few, seed=1))


@pytest.mark.faults
def test_what_a_user_can_cause_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected trials above 0, got 0"):
        TuneConfig(graph=tmp_path, output=tmp_path / "t", trials=0)
    graph = line_world(tmp_path / "graph")
    with pytest.raises(InputError, match="expected learning_rate above 0"):
        run(TuneConfig(graph=graph, output=tmp_path / "t", learning_rates=(-1.0,), **SMALL))
    assert not list(tmp_path.glob("t*"))
