"""Linking and preparing as steps of datatrove pipelines: the same bytes as the plain stages."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from entity_linking import annotate
from entity_linking.annotate import LinkConfig
from entity_linking.cluster import FinishLinking, LinkParts
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from pretrain import prepare
from pretrain.cluster import FinishPreparing, PrepareParts, prepare_rank
from pretrain.prepare import PrepareConfig


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture
def configs(world, make, tmp_path, monkeypatch) -> tuple[LinkConfig, PrepareConfig]:
    """A corpus of files about the world's names, linked in several parts and then prepared."""
    monkeypatch.setattr("entity_linking.parts.PART_BYTES", 2000)
    names = make["names"]()
    graph = KnowledgeGraph(
        entities=pa.table(
            {
                "row": range(1, len(names) + 1),
                "id": [f"E:{name}" for name in names],
                "label": names,
                "aliases": pa.array([[name] for name in names], pa.list_(pa.string())),
                "description": names,
                "types": pa.array([["person"]] * len(names), pa.list_(pa.string())),
                "count": [1] * len(names),
            }
        ),
        relations=pa.table({"row": [0], "id": ["r"], "label": ["r"]}),
        aliases=pa.table({"alias": names, "entity": range(1, len(names) + 1), "prior": [1.0] * len(names)}),
        triples=np.array([[1, 0, 2]], dtype=np.int32),
    )
    with write_artifact(Made(tmp_path / "graph"), stage="kg build") as writer:
        graph.save(writer.path)
    (tmp_path / "corpus").mkdir()
    for number in range(12):
        documents = [make["made"](10 * number + n) for n in range(4)]
        lines = [json.dumps({"id": d["id"], "text": d["text"]}) + "\n" for d in documents]
        (tmp_path / "corpus" / f"{number:02d}.jsonl").write_text("".join(lines), encoding="utf-8")
    link = LinkConfig(
        graph=tmp_path / "graph",
        vectors=world.vectors,
        corpus="jsonl",
        source=str(tmp_path / "corpus"),
        shard_documents=7,
        processes=1,
        output=tmp_path / "linked",
    )
    settings = {"tokenizer": str(world.base), "vectors": world.vectors, "max_length": 32}
    return link, PrepareConfig(linked=link.output, output=tmp_path / "instances", **settings)


def files_of(folder: Path, stage: str) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in open_artifact(folder, stage=stage).data["files"].items()}


def plain_stages(link: LinkConfig, made: PrepareConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Files of both stages, run one after the other without ranks, under other names."""
    link = replace(link, output=link.output.with_name("plainly-linked"))
    made = replace(made, linked=annotate.run(link), output=made.output.with_name("plainly-made"))
    return files_of(link.output, "link"), files_of(prepare.run(made), "pretrain prepare")


def test_one_pipeline_and_executors_in_a_row_write_the_bytes_of_the_plain_stages(configs, tmp_path) -> None:
    """Instances are drawn by the number of their shard: a rank that numbered its own would train on other ones."""
    executor = pytest.importorskip("datatrove.executor", reason="the extra `cluster` is not installed")
    link, made = configs
    wanted = plain_stages(link, made)
    assert len(wanted[0]) > 6
    steps = [LinkParts(link), FinishLinking(link), PrepareParts(made), FinishPreparing(made)]
    executor.LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(tmp_path / "one")).run()
    assert (files_of(link.output, "link"), files_of(made.output, "pretrain prepare")) == wanted

    link = replace(link, output=tmp_path / "again-linked")
    made = replace(made, linked=link.output, output=tmp_path / "again-made")
    steps = [LinkParts(link), FinishLinking(link), PrepareParts(made), FinishPreparing(made)]
    before = None
    for number, (step, tasks) in enumerate(zip(steps, (3, 1, 3, 1), strict=True)):
        logs = str(tmp_path / f"logs-{number}")
        before = executor.LocalPipelineExecutor([step], tasks=tasks, workers=1, depends=before, logging_dir=logs)
    assert before is not None
    before.run()
    assert (files_of(link.output, "link"), files_of(made.output, "pretrain prepare")) == wanted


def test_ranks_in_any_order_share_the_units(configs) -> None:
    """A unit prepared twice, or by nobody until the end, shows in no count of instances."""
    link, made = configs
    wanted = plain_stages(link, made)[1]
    annotate.run(link)
    done = [prepare_rank(made, rank, 3) for rank in (2, 0, 1)]
    assert sorted(number for of in done for number in of) == list(range(len(prepare.units_of(made))))
    assert all(done)
    assert prepare_rank(made, 1, 3) == []
    partial = made.output.with_name(made.output.name + ".partial")
    gone = sorted(partial.glob("train/shard-*.arrow"))[1]
    gone.unlink()
    (partial / f".unit-{int(gone.stem[6:]):05d}.json").unlink()  # as a killed rank leaves it: a shard without its tally
    assert files_of(prepare.run(made), "pretrain prepare") == wanted


def test_another_run_s_folder_and_a_rank_outside_are_refused(configs) -> None:
    """Ranks that went on in another run's folder would mix two sets of instances."""
    link, made = configs
    annotate.run(link)
    prepare_rank(made, 0, 2)
    with pytest.raises(InputError, match="unfinished work of another run"):
        prepare_rank(replace(made, max_length=16), 1, 2)
    with pytest.raises(InputError, match="expected a rank from 0 to 1, got 2"):
        prepare_rank(made, 2, 2)
    with pytest.raises(InputError, match="max_length must lie in"):
        prepare_rank(replace(made, max_length=1), 0, 2)
