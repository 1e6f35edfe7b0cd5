"""The stages on made pairs: from two files to a generator, a judge and a table; kills, bad input, the printed view."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from ernie.training.configuration import TrainingConfig
from finetune.paraphrase import train as stage
from finetune.paraphrase.configuration import DecodingConfig, GeneratorConfig, MatcherShape, ReinforceConfig
from finetune.paraphrase.evaluate import COPY, TARGET, EvaluateConfig
from finetune.paraphrase.evaluate import run as evaluate
from finetune.paraphrase.matcher import MatcherConfig
from finetune.paraphrase.matcher import run as train_matcher
from finetune.paraphrase.paraphraser import Paraphraser
from finetune.paraphrase.train import ParaphraseConfig
from finetune.paraphrase.views import TextConfig, text
from kg.artifact import open_artifact
from kg.errors import InputError

SMALL = GeneratorConfig(embedding_size=8, hidden_size=12, dropout=0.0)


def training(max_steps: int = 4, **settings: Any) -> TrainingConfig:
    return TrainingConfig(
        **(
            {"max_steps": max_steps, "batch_size": 4, "learning_rate": 0.01, "precision": "fp32", "log_every": 1}
            | settings
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """Pairs of letters, their encoder beside them, and an MLE generator and a matcher made of them."""
    path = tmp_path_factory.mktemp("paraphrase")
    rows = [(f"{a} {b} c d", f"{b} {a} d") for a in "efghij" for b in "klmn"]
    (path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows) + "same\tsame\nalone\n")
    (path / "dev.tsv").write_text("".join(f"{a} x\t{b} x\n" for a, b in rows[:8]))
    for name in ("noun", "verb", "adj", "adv"):
        (path / f"index.{name}").write_text("")
        (path / f"{name}.exc").write_text("")
    stage.run(generator_config(path, pretrained, "mle"))
    train_matcher(matcher_config(path, pretrained, "matcher"))
    return path


def generator_config(folder: Path, encoder: Path, name: str, **settings: Any) -> ParaphraseConfig:
    base: dict[str, Any] = {
        "output": folder / name,
        "pairs": folder / "train.tsv",
        "dev": folder / "dev.tsv",
        "encoder": str(encoder),
        "shape": SMALL,
        "vocab_size": 20,
        "max_length": 8,
        "training": training(),
    }
    return ParaphraseConfig(**(base | settings))


def matcher_config(folder: Path, encoder: Path, name: str, **settings: Any) -> MatcherConfig:
    base: dict[str, Any] = {
        "output": folder / name,
        "pairs": folder / "train.tsv",
        "dev": folder / "dev.tsv",
        "encoder": str(encoder),
        "shape": MatcherShape(hidden_size=8),
        "negatives": ("random", "swapped"),
        "training": training(),
    }
    return MatcherConfig(**(base | settings))


def test_a_generator_is_a_folder_that_says_what_it_was_made_of(folder: Path) -> None:
    manifest = open_artifact(folder / "mle", stage="finetune paraphrase")
    assert manifest.counts["train"] == 24
    assert manifest.dropped["train_identical"] == 1
    assert manifest.dropped["train_wrong_number_of_columns"] == 1
    assert manifest.figures["method"] == "mle"
    assert {"rouge_2", "ibleu", "self_bleu", "source_overlap", "minus_nll"} <= manifest.figures["kept_dev"].keys()
    assert not (folder / "mle" / "checkpoints").exists()
    assert Paraphraser.load(folder / "mle").max_length == 8


@pytest.mark.parametrize("kind", ["pointer-generator", "transformer"])
@pytest.mark.parametrize("method", ["scheduled-sampling", "dagger"])
def test_other_teachers(kind: Any, method: Any, folder: Path, pretrained: Path) -> None:
    shape = GeneratorConfig(kind=kind, embedding_size=8, hidden_size=12, num_encoder_layers=1, num_decoder_layers=1)
    out = stage.run(
        generator_config(folder, pretrained, f"{kind}-{method}", method=method, shape=shape, training=training(2))
    )
    assert open_artifact(out, stage="finetune paraphrase").figures["steps"] == 2


@pytest.mark.parametrize("method", ["rl-rouge", "rbm-sl", "rbm-irl"])
def test_rewards_start_from_a_generator(method: Any, folder: Path, pretrained: Path) -> None:
    config = generator_config(
        folder,
        pretrained,
        method,
        method=method,
        generator=folder / "mle",
        matcher=folder / "matcher" if method == "rbm-sl" else None,
        matcher_shape=MatcherShape(hidden_size=8),
        reinforce=ReinforceConfig(num_samples=2, max_length=8),
    )
    figures = open_artifact(stage.run(config), stage="finetune paraphrase").figures
    rewarded = [entry for entry in figures["history"] if "reward" in entry]
    assert rewarded
    assert all(0 <= entry["reward"] <= 1 for entry in rewarded)
    assert figures["dev_curve"][0]["step"] == 0, "what it began as is scored too"
    assert (folder / method / "matcher").is_dir() == (method == "rbm-irl")


def test_the_weights_of_the_last_step_can_be_kept(folder: Path, pretrained: Path) -> None:
    """A reward that moves a generator away from its targets is not seen where only their likeness decides."""
    config = generator_config(
        folder,
        pretrained,
        "last",
        method="rl-rouge",
        generator=folder / "mle",
        select_by="last",
        reinforce=ReinforceConfig(num_samples=2, max_length=8),
        training=training(3),
    )
    figures = open_artifact(stage.run(config), stage="finetune paraphrase").figures
    assert figures["kept_step"] == 3
    assert figures["kept_dev"] == figures["dev_curve"][-1]
    kept, started = Paraphraser.load(folder / "last").generator, Paraphraser.load(folder / "mle").generator
    moved = [not torch.equal(a, b) for a, b in zip(kept.parameters(), started.parameters(), strict=True)]
    assert any(moved)


@pytest.mark.parametrize("method", ["scheduled-sampling", "rbm-irl"])
def test_a_killed_training_ends_as_if_undisturbed(
    method: Any, folder: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, coins of the curriculum and turns are all keyed by the step: the same bytes."""

    def config(output: Path) -> ParaphraseConfig:
        return generator_config(
            folder,
            pretrained,
            "unused",
            output=output,
            method=method,
            generator=folder / "mle" if method == "rbm-irl" else None,
            matcher_shape=MatcherShape(hidden_size=8),
            training=training(6, save_every=2),
        )

    stage.run(config(tmp_path / "whole"))
    monkeypatch.setattr(stage, "progress", dying_after(3))
    with pytest.raises(KeyboardInterrupt):
        stage.run(config(tmp_path / "killed"))
    monkeypatch.undo()
    resumed = open_artifact(stage.run(config(tmp_path / "killed")), stage="finetune paraphrase")
    assert resumed.data["resumed"]
    whole = open_artifact(tmp_path / "whole", stage="finetune paraphrase")
    for file in ("generator.safetensors", "pieces.json"):
        assert resumed.data["files"][file]["sha256"] == whole.data["files"][file]["sha256"]


def dying_after(steps: int) -> Callable[..., Any]:
    """A progress display in which the user presses Ctrl-C once `steps` steps are shown."""
    from contextlib import contextmanager

    from kg.progress import Progress

    class Dying(Progress):
        def advance(self, units: int = 1, **figures: Any) -> None:
            super().advance(units, **figures)
            if self.done >= steps:
                raise KeyboardInterrupt

    @contextmanager
    def shown(description: str, total: int | None = None):
        yield Dying(description, total)

    return shown


@pytest.fixture
def evaluated(folder: Path, pretrained: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        output=tmp_path / "evaluated",
        pairs=folder / "dev.tsv",
        systems=(folder / "mle",),
        judges=(folder / "matcher",),
        judge_encoder=str(pretrained),
        wordnet=folder,
        alpha=0.8,
    )


def test_a_table_has_copying_beside_every_system(evaluated: EvaluateConfig) -> None:
    out = evaluate(evaluated)
    rows = orjson.loads((out / "figures.json").read_bytes())
    assert rows.keys() == {COPY, TARGET, "pointer-generator, mle"}
    assert rows[COPY]["source_overlap"][0] == rows[COPY]["copies"][0] == 1.0
    assert rows[TARGET]["rouge_1"][0] == rows[TARGET]["bleu_4"][0] == 1.0
    assert rows[COPY]["cosine"][0] == pytest.approx(1.0, abs=1e-5)
    assert rows[COPY]["ibleu"][0] == pytest.approx(0.8 * rows[COPY]["bleu_4"][0] - 0.2 * rows[COPY]["self_bleu"][0])
    table = (out / "table.md").read_text()
    assert "iBLEU (α = 0.8)" in table
    assert len(table.splitlines()) == 2 + 3
    assert len((out / "outputs" / "system-1.tsv").read_text().splitlines()) == 8
    assert "nan" not in table


def test_seeds_of_one_method_are_one_row(evaluated: EvaluateConfig, folder: Path, pretrained: Path) -> None:
    stage.run(generator_config(folder, pretrained, "mle-1", seed=1))
    config = EvaluateConfig(**{**vars(evaluated), "systems": (folder / "mle", folder / "mle-1")})
    rows = orjson.loads((evaluate(config) / "figures.json").read_bytes())
    mean, deviation, seeds = rows["pointer-generator, mle"]["rouge_1"]
    alone = orjson.loads((evaluate(evaluated) / "figures.json").read_bytes())["pointer-generator, mle"]["rouge_1"][0]
    assert seeds == 2
    assert deviation == pytest.approx(2**0.5 * abs(mean - alone))


def test_a_judge_that_was_the_reward_is_refused(evaluated: EvaluateConfig, folder: Path, pretrained: Path) -> None:
    config = generator_config(
        folder,
        pretrained,
        "judged",
        method="rbm-sl",
        generator=folder / "mle",
        matcher=folder / "matcher",
        training=training(1),
    )
    stage.run(config)
    with pytest.raises(InputError, match="was the reward of"):
        evaluate(EvaluateConfig(**{**vars(evaluated), "systems": (folder / "judged",)}))


def test_one_sentence_is_printed(folder: Path) -> None:
    shown = text(TextConfig(generator=folder / "mle", text="e K c 7", keep=("K",)))
    assert all("K" in line and "7" in line for line in shown.splitlines() if "dropped" not in line)
    with pytest.raises(InputError, match="text is empty"):
        text(TextConfig(generator=folder / "mle", text=" "))
    with pytest.raises(InputError, match="longer than the 8 word pieces"):
        text(TextConfig(generator=folder / "mle", text="a " * 9))
    with pytest.raises(InputError, match="'Q' does not stand"):
        text(TextConfig(generator=folder / "mle", text="a b", keep=("Q",)))


def test_the_lines_of_the_guide_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator here reads eight pieces at most, so the guide's sentence is counted as too long."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "rbm").symlink_to(folder / "mle")
    monkeypatch.chdir(tmp_path)
    guide = Path(__file__).resolve().parents[2] / "docs" / "paraphrase.md"
    (lines,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(lines, {})
    assert "source_too_long" in capsys.readouterr().out


def test_what_no_paraphrase_is_made_of_is_counted(folder: Path) -> None:
    """Mentions survive whole and their new places are told; too long and empty sources, copies and repeats counted."""
    paraphraser = Paraphraser.load(folder / "mle")
    texts = ["Ee K c", "", "a " * 20, "l m n o"]
    result = paraphraser.paraphrase(
        texts,
        decoding=DecodingConfig(strategy="nucleus", num_return=4, max_length=8),
        spans=[[(0, 2), (3, 4), (1, 2)], [], [], []],
        seed=3,
    )
    assert result.dropped["source_empty"] == 1
    assert result.dropped["source_too_long"] == 1
    assert [len(found) for found in result.found][1:3] == [0, 0]
    assert len(result.found[0]) + len(result.found[3]) + result.dropped.total() - 2 == 8, (
        "each output is one or counted"
    )
    for found in result.found[0]:
        assert [found.text[a:b] for a, b in found.spans] == ["Ee", "K", "e"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "rbm-sl"}, "improves a generator that talks already"),
    ({"method": "rbm-sl", "generator": Path("mle")}, "needs `matcher`"),
    ({"select_by": "reward"}, "needs a reward that stays the same"),
    ({"alpha": 1.5}, "alpha lies in"),
    ({"vocab_size": 3}, "vocab_size must be at least 10"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], message: str, folder: Path, pretrained: Path
) -> None:
    with pytest.raises(InputError, match=message):
        generator_config(folder, pretrained, "bad", **settings)


def test_files_that_cannot_work_are_refused(folder: Path, pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "one.tsv").write_text("alone\nalone too\n")
    with pytest.raises(InputError, match="expected two tab-separated sentences"):
        stage.run(generator_config(folder, pretrained, "bad", pairs=tmp_path / "one.tsv"))
    (tmp_path / "same.tsv").write_text("a b\ta b\nc\tC\n")
    with pytest.raises(InputError, match="teaches nothing but copying"):
        stage.run(generator_config(folder, pretrained, "bad", pairs=tmp_path / "same.tsv"))
    with pytest.raises(InputError, match="was made by `ernie-kg finetune matcher`"):
        stage.run(generator_config(folder, pretrained, "bad", method="rl-rouge", generator=folder / "matcher"))
    with pytest.raises(InputError, match="nothing to tell apart"):
        train_matcher(matcher_config(folder, pretrained, "bad", negatives=()))
    with pytest.raises(InputError, match="only a cross-encoder reads entities"):
        matcher_config(folder, pretrained, "bad", vectors=folder)


def test_a_cross_encoder_learns_with_linked_mentions(
    folder: Path, pretrained: Path, make_vectors: Callable[..., Path], tmp_path: Path
) -> None:
    """JSON lines with links: the mentions are kept by their pieces, unknown entities counted."""
    link = [{"start": 0, "end": 1, "entity": "Q1"}]
    strange = [{"start": 2, "end": 3, "entity": "Q9"}]
    lines = [
        {"source": f"{a} b c", "target": f"c {a} d e", "source_links": link if a == "k" else strange} for a in "klmn"
    ]
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    config = matcher_config(
        folder,
        pretrained,
        "unused",
        output=tmp_path / "matcher",
        pairs=tmp_path / "pairs.jsonl",
        dev=tmp_path / "pairs.jsonl",
        reader="jsonl",
        shape=MatcherShape(kind="cross-encoder"),
        vectors=make_vectors({"Q1": [0.5] * 8}),
        negatives=("random",),
        training=training(2),
    )
    manifest = open_artifact(train_matcher(config), stage="finetune matcher")
    assert manifest.counts["mentions"] == 1
    assert manifest.dropped["link_unknown_entity"] == 6
