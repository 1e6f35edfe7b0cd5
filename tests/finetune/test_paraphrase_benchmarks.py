"""Commands that train for hours, walked once with tiny models, so that a long run does not fail at its end."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ernie
from ernie.training.configuration import TrainingConfig
from finetune.paraphrase import train
from finetune.paraphrase.configuration import GeneratorConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Path]:
    """Pairs of letters, and a WordNet without a word."""
    rows = [(f"{a} {b} c d", f"{b} {a} d") for a in "efghij" for b in "klmn"]
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    (tmp_path / "dev.tsv").write_text("".join(f"{a} x\t{b} x\n" for a, b in rows[:6]))
    for name in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"index.{name}").write_text("")
        (tmp_path / f"{name}.exc").write_text("")
    return {"train": tmp_path / "train.tsv", "dev": tmp_path / "dev.tsv"}


def test_every_method_comes_into_one_table(
    pairs: dict[str, Path],
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quality = benchmark("paraphrase_quality", monkeypatch)
    work = tmp_path / "work"
    words = ["--work", work, "--train", pairs["train"], "--dev", pairs["dev"], "--encoder", pretrained]
    words += ["--wordnet", tmp_path, "--generators", "pointer-generator", "--seeds", "0"]
    words += ["--judge-layers", "1", "--rewarding-layers", "1"]
    words += ["--steps", "5", "--reward-steps", "2", "--matcher-steps", "1", "--select-on", "3"]
    quality.main([*map(str, words), "--minutes", "0"])
    assert "judge" in json.loads(capsys.readouterr().out)["missing"], "no time: nothing is begun, all is missing"
    quality.main([*map(str, words), "--minutes", "5"])
    table = capsys.readouterr().out
    assert "iBLEU (α = 0.9)" in table
    for method in (*quality.METHODS, "copy the source", "the target itself"):
        assert table.count(f"{method} | 1 |") == 1
    alphas = [json.loads(line) for line in table.splitlines() if line.startswith('{"system"')]
    copying = next(row["ibleu"] for row in alphas if row["system"] == "copy the source")
    figures = json.loads((work / "evaluated" / "figures.json").read_bytes())["copy the source"]
    assert copying["0.9"] == pytest.approx(100 * figures["ibleu"][0], abs=0.01)
    assert copying["0.7"] == pytest.approx(100 * (0.7 * figures["bleu_4"][0] - 0.3), abs=0.01)


def test_every_arm_of_augmentation_gets_its_student(
    pairs: dict[str, Path],
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Six arms on a made RTE; the arms with paraphrases name why copies are missing."""
    retention = benchmark("retention", monkeypatch)
    augmenters = benchmark("augmenters", monkeypatch)
    monkeypatch.setattr(retention, "STUDENT", dataclasses.replace(retention.STUDENT, num_layers=1, intermediate_size=0))
    generator = tmp_path / "generator"
    train.run(
        train.ParaphraseConfig(
            output=generator,
            pairs=pairs["train"],
            dev=pairs["dev"],
            encoder=str(pretrained),
            shape=GeneratorConfig(embedding_size=8, hidden_size=8),
            training=TrainingConfig(max_steps=1, batch_size=4, precision="fp32"),
        )
    )
    glue = tmp_path / "glue" / "RTE"
    glue.mkdir(parents=True)
    rows = [f"{n}\t{a} {b} c.\t{b} d.\t{label}" for n, (a, b, label) in enumerate(made_entailments())]
    (glue / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(f"{row}\n" for row in rows))
    words = [
        "--work",
        tmp_path / "work",
        "--pretrained",
        reading_80_pieces(pretrained, tmp_path / "long"),
        "--glue",
        tmp_path / "glue",
        "--tasks",
        "rte",
        *("--teacher-steps", 1, "--inside-steps", 1, "--answer-steps", 1),
    ]
    augmenters.main([*map(str, words), "--mle", str(generator), "--rbm", str(generator)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    students = [row for row in rows if "seed" in row]
    assert [row["arm"] for row in students] == list(augmenters.ARMS)
    assert all(row["texts"] > 0 for row in students if row["arm"] in ("random", "mle", "rbm"))
    assert {row["arm"] for row in rows if "retention" in row} == augmenters.ARMS.keys()


def reading_80_pieces(pretrained: Path, folder: Path) -> Path:
    """As long as retention.py's models read."""
    config = ernie.ErnieConfig.from_pretrained(pretrained)
    config.max_position_embeddings = 80
    shutil.copytree(pretrained, folder)
    torch.manual_seed(0)
    ernie.ErnieForPreTraining(config).save_pretrained(folder)
    return folder


def made_entailments() -> list[tuple[str, str, str]]:
    labels = ("entailment", "not_entailment")
    return [(a, b, labels[(i + j) % 2]) for i, a in enumerate("efghijk") for j, b in enumerate("lmnopq")]
