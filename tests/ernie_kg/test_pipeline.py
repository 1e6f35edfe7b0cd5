"""`ernie-kg run`: order, references, skipping, what stays after an interruption."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_kg.cli import main
from ernie_kg.pipeline import load_road, run_road, summary
from ernie_kg.stages import STAGES, Stage
from kg.artifact import write_artifact
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Joins files into one."""

    sources: tuple[Path, ...]
    """Files or earlier folders."""
    output: Path
    """Folder to write."""
    joiner: str = "+"
    """Text between."""

    def inputs(self) -> dict[str, Path]:
        return {f"source_{number}": path for number, path in enumerate(self.sources)}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a toy stage `join` into the table; the list names each run's output."""
    calls: list[str] = []

    def run(config: JoinConfig) -> Path:
        with write_artifact(config, stage="join") as writer:
            calls.append(config.output.name)
            texts = [(p / "text" if p.is_dir() else p).read_text() for p in config.sources]
            if "boom" in texts:
                raise KeyboardInterrupt
            (writer.path / "text").write_text(config.joiner.join(texts))
            writer.headline = f"{len(texts)} texts"
        return config.output

    monkeypatch.setitem(sys.modules, "toy_join_stage", SimpleNamespace(JoinConfig=JoinConfig, run=run))  # type: ignore[arg-type]
    monkeypatch.setitem(STAGES, "join", Stage("toy_join_stage", "JoinConfig", "joins"))
    return calls


def road_file(folder: Path, **second: Any) -> Path:
    (folder / "a.txt").write_text("A")
    settings = {"stage": "join", "sources": "['@first', '@first']"} | second
    middle = ", ".join(f"{key}: {value}" for key, value in settings.items())
    path = folder / "road.yaml"
    path.write_text(
        f"output: {folder}/run\nstages:\n"
        f"  first: {{stage: join, sources: [{folder}/a.txt]}}\n"
        f"  second: {{{middle}}}\n"
        f"  third: {{stage: join, sources: '@*'}}\n"
    )
    return path


def test_finished_steps_are_skipped_and_changes_run_again_from_there(tmp_path: Path, runs: list[str]) -> None:
    """Skipping too much serves stale results; skipping too little costs the user an hour."""
    path = road_file(tmp_path)
    run_road(load_road(path))
    assert runs == ["first", "second", "third"]
    assert (tmp_path / "run/third/text").read_text() == "A+A+A"
    run_road(load_road(path))
    assert len(runs) == 3
    run_road(load_road(path, {"second.joiner": "-"}))
    assert runs[3:] == ["second", "third"]
    (tmp_path / "a.txt").write_text("B")
    run_road(load_road(path, {"second.joiner": "-"}))
    assert runs[5:] == ["first", "second", "third"]
    assert "2 texts" in summary(load_road(path, {"second.joiner": "-"}))


def test_an_interrupted_road_goes_on_from_the_last_finished_step(tmp_path: Path, runs: list[str]) -> None:
    path = road_file(tmp_path)
    run_road(load_road(path)[:1])
    (tmp_path / "b.txt").write_text("boom")
    road = load_road(path, {"second.sources": [str(tmp_path / "b.txt")]})
    with pytest.raises(KeyboardInterrupt):
        run_road(road)
    assert not (tmp_path / "run/second").exists()
    assert not (tmp_path / "run/second.partial").exists()
    (tmp_path / "b.txt").write_text("fine")
    run_road(road)
    assert runs == ["first", "second", "second", "third"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"sources": "['@frist']"}, "second: @frist names no step before it; nearest: @first"),
        ({"joinr": "x"}, "second: unknown key joinr; nearest: joiner"),
        ({"output": "x"}, "`output` is decided by the step's name"),
        ({"stage": "joim"}, "unknown stage 'joim'; nearest: join"),
    ],
)
def test_a_mistake_in_the_file_stops_before_anything_runs(
    tmp_path: Path, runs: list[str], second: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_road(road_file(tmp_path, **second))
    assert runs == []


def test_dry_run_writes_nothing_and_shows_what_is_missing(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = road_file(tmp_path)
    (tmp_path / "a.txt").unlink()
    assert main(["run", str(path), "--dry-run", "--second.joiner", "/"]) == 0
    shown = capsys.readouterr().out
    assert "joiner: /" in shown
    assert f"{tmp_path}/a.txt (MISSING)" in shown
    assert f"{tmp_path}/run/first (from an earlier step)" in shown
    assert not (tmp_path / "run").exists()
    assert runs == []


def test_one_stage_alone_takes_config_file_and_options(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "join.yaml").write_text(f"sources: [{tmp_path}/a.txt, {tmp_path}/a.txt]\njoiner: '-'\n")
    assert (
        main(
            [
                "join",
                "--config",
                str(tmp_path / "join.yaml"),
                "--output",
                str(tmp_path / "o"),
                "--joiner",
                "_",
            ]
        )
        == 0
    )
    assert (tmp_path / "o/text").read_text() == "A_A"
    assert "2 texts" in capsys.readouterr().out
    assert main(["join", "--output", str(tmp_path / "o"), "--joinr", "_"]) == 2
    assert main(["join", "--sources", f"[{tmp_path}/none.txt]", "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("name", ["null", "7", "..", "a/b", '""', "[x, y]", "'@a'"])
def test_a_step_whose_name_can_be_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """`&graph: …` is a YAML anchor and an empty key; a step named `..` would be written beside the run."""
    road = tmp_path / "road.yaml"
    road.write_text(f"output: {tmp_path}/run\nstages:\n  ? {name}\n  : {{stage: kg build, reader: tsv, source: x}}\n")
    with pytest.raises(InputError, match=r"step's name|not valid YAML"):
        load_road(road)
