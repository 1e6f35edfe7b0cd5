"""kill -9 in every stage of a road, one after the other: the next run goes on, and the end is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STAGES = (
    "graph", "relations", "vectors", "linked", "instances", "pretrained", "model", "student", "exported",
)  # fmt: skip
CHECKPOINTS = ("pretrained", "model", "student")
"""Stages that are killed once a checkpoint of theirs lies there, and so resume in their middle."""


def kill_in(stage: str, words: list[str], folder: Path, warm: Any) -> bool:
    """Runs the road until `stage` is being written, then kills it; False when the stage was quicker than the kill."""
    pid = warm.start(words, folder)
    output = folder / "runs/own-data" / stage
    partial = output.with_name(stage + ".partial")
    deadline = time.monotonic() + 120
    while not output.exists() and not _is_there(partial, stage in CHECKPOINTS):
        assert Path(f"/proc/{pid}/cwd").exists(), f"the road ended before {stage}: {warm.errors.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"{stage} was never reached"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    warm.wait(pid)
    return not (output / "manifest.json").exists()


def _is_there(partial: Path, checkpoint: bool) -> bool:
    if not checkpoint:
        return partial.exists()
    return any(".tmp" not in path.name for path in partial.rglob("step-*"))


def test_a_road_killed_in_every_stage_ends_as_an_undisturbed_one(
    own_data_run: tuple[Path, subprocess.CompletedProcess[str]],
    own_data_words: list[str],
    world: Path,
    warm: Any,
    tmp_path: Path,
) -> None:
    """A stage that leaves a half artifact, or resumes from another state, shows in the digests of what follows."""
    undisturbed, _ = own_data_run
    shutil.copytree(world, tmp_path / "own-data")
    caught = [stage for stage in STAGES if kill_in(stage, own_data_words, tmp_path, warm)]
    assert len(caught) >= 6, f"killed in time only in {caught}"
    assert warm.wait(warm.start(own_data_words, tmp_path)) == 0, warm.errors.read_text()[-3000:]
    resumed = [stage for stage in CHECKPOINTS if json.loads(_manifest(tmp_path, stage).read_text())["resumed"]]
    assert resumed == list(CHECKPOINTS)
    for stage in STAGES:
        ended, expected = (json.loads(_manifest(folder, stage).read_text()) for folder in (tmp_path, undisturbed))
        differing = {name for name, entry in expected["files"].items() if ended["files"].get(name, {}) != entry} ^ (
            ended["files"].keys() - expected["files"].keys()
        )
        assert not differing, f"{stage}: {differing}"
    assert not list(tmp_path.rglob("*.partial"))


def _manifest(folder: Path, stage: str) -> Path:
    return folder / "runs/own-data" / stage / "manifest.json"
