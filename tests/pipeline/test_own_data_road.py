"""The road of `configs/own-data.yaml` through the real command line, on a made world of a few hundred entities."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.slow
Run = tuple[Path, subprocess.CompletedProcess[str]]


def manifest(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run[0] / "runs/own-data" / name / "manifest.json").read_text())


def test_every_stage_finishes_and_the_table_ends_with_the_report(own_data_run: Run) -> None:
    folder, result = own_data_run
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("runs/own-data/report/report.html")
    for stage in ("kg build", "kg embed", "link", "pretrain run", "finetune distill", "export", "report"):
        assert stage in result.stdout
    page = (folder / "runs/own-data/report/report.html").read_text()
    assert manifest(own_data_run, "exported")["headline"] in page
    assert not list(folder.rglob("*.partial"))


def test_counts_add_up_along_the_road(own_data_run: Run, world: Path) -> None:
    """Documents or facts lost between two stages would show nowhere but in these sums."""
    facts = len((world / "triples.tsv").read_text().splitlines())
    graph, vectors, linked = (manifest(own_data_run, name) for name in ("graph", "vectors", "linked"))
    assert graph["counts"]["triples"] == facts
    assert graph["counts"]["entities"] == 240
    kept = sum(vectors["counts"][key] for key in ("train_triples", "valid_triples", "test_triples"))
    assert kept + vectors["dropped"]["fact_pair"] + vectors["dropped"]["fact_head_relation"] == facts
    assert linked["counts"]["documents"] == 240
    instances = manifest(own_data_run, "instances")
    documents = instances["counts"]["train_documents"] + instances["counts"]["dev_documents"]
    assert documents + instances["dropped"]["test_documents"] == 240


def test_links_are_the_names_in_the_text(own_data_run: Run) -> None:
    """Every name of the made world is unambiguous: each must be found, and stand where the link says."""
    shards = sorted((own_data_run[0] / "runs/own-data/linked").glob("*.parquet"))
    table = pq.read_table(shards).to_pylist()
    assert len(table) == 240
    for row in table:
        assert len(row["mentions"]) == 8, row["text"]
        for mention in row["mentions"]:
            assert row["text"][mention["start"] : mention["end"]] == mention["entity"]


def test_facts_of_the_test_set_never_reach_the_vectors(own_data_run: Run) -> None:
    """A graph embedded with the answers in it would make any test score meaningless."""
    folder = own_data_run[0] / "runs/own-data"
    facts = [line.split("\t") for line in (folder / "relations/facts.tsv").read_text().splitlines()]
    asked = {(e["document"], e["label"]) for e in map(json.loads, (folder / "relations/test.jsonl").open())}
    assert facts
    assert asked
    train = [json.loads(line) for line in (folder / "relations/train.jsonl").open()]
    pairs = {frozenset((head, tail)) for head, _, tail in facts}
    assert not any(frozenset(link["entity"] for link in e["links"]) in pairs for e in train)
    assert manifest(own_data_run, "vectors")["counts"]["facts_left_out"] == len(facts)


def test_losses_go_down_and_the_task_is_learnt(own_data_run: Run) -> None:
    figures = manifest(own_data_run, "pretrained")["figures"]
    before, after = figures["heldout_before"], figures["heldout_after"]
    assert after["mlm_loss"] < before["mlm_loss"] - 0.5
    assert after["dea_loss"] < before["dea_loss"] - 0.5
    assert after["dea_accuracy"] > 3 * after["dea_chance"]
    model = manifest(own_data_run, "model")["figures"]
    assert model["test"]["macro_f1"] > model["majority_baseline"]["macro_f1"] + 0.1


def test_the_exported_files_answer_as_the_trained_student(own_data_run: Run) -> None:
    """Checked here with transformers and onnxruntime alone, not with the predictor that the stage itself uses."""
    ort = pytest.importorskip("onnxruntime")
    folder = own_data_run[0] / "runs/own-data"
    student = AutoModelForSequenceClassification.from_pretrained(folder / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    text = "[HD] Fenkelson [/HD] works for [TL] Quindorcorp [/TL] as an engineer. Nobody minds."
    inputs = tokenizer([text, "The [HD] Rashulwater [/HD] flows."], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = student(**inputs).logits.numpy()
    session = ort.InferenceSession(str(folder / "exported/model.onnx"))
    wanted = {node.name for node in session.get_inputs()}
    feed = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
    np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-4)
    for name, tensor in load_file(folder / "student/model.safetensors").items():
        torch.testing.assert_close(load_file(folder / "exported/model.safetensors")[name], tensor, rtol=0, atol=0)


def test_a_second_run_does_nothing_twice(
    own_data_run: Run, own_data_words: list[str], command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = own_data_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    again = command(*own_data_words, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skipped") == 10
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")} == before


def test_a_student_answers_plain_lines_of_text(
    own_data_run: Run, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """`finetune predict` on a student once built an ERNIE round the plain BERT and answered with random layers."""
    folder, _ = own_data_run
    examples = folder / "runs/own-data/relations/test.jsonl"
    made = folder / "predictions"
    options = ["--model", "runs/own-data/student", "--texts", str(examples), "--output", str(made)]
    result = command("finetune", "predict", *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in (made / "predictions.jsonl").open()]
    gold = [json.loads(line)["label"] for line in examples.open()]
    correct = sum(answer["predicted"] == label for answer, label in zip(answers, gold, strict=True)) / len(gold)
    assert correct == pytest.approx(manifest(own_data_run, "student")["figures"]["test"]["student"]["accuracy"])
