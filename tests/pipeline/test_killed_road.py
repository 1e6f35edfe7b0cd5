"""kill -9 in every stage of a road, one after the other: the next run goes on, and the end is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STAGES = (
    "graph", "relations", "vectors", "linked", "instances", "pretrained", "model", "student", "exported",
)  # fmt: skip
SECONDS_INTO_A_STAGE = {"pretrained": 1.0, "model": 2.0, "student": 2.0}


def start(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ernie_kg.cli", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_in(stage: str, words: list[str], folder: Path) -> bool:
    """Runs the road until `stage` is being written, then kills it; False when the stage was quicker than the kill."""
    process = start(words, folder)
    output = folder / "runs/own-data" / stage
    deadline = time.monotonic() + 120
    while not output.with_name(stage + ".partial").exists() and not output.exists():
        assert process.poll() is None, f"the road ended before {stage}"
        assert time.monotonic() < deadline, f"{stage} was never reached"
        time.sleep(0.002)
    time.sleep(SECONDS_INTO_A_STAGE.get(stage, 0.0))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return not (output / "manifest.json").exists()


def test_a_road_killed_in_every_stage_ends_as_an_undisturbed_one(
    own_data_run: tuple[Path, subprocess.CompletedProcess[str]],
    own_data_words: list[str],
    world: Path,
    tmp_path: Path,
) -> None:
    """A stage that leaves a half artifact, or resumes from another state, shows in the digests of what follows."""
    undisturbed, _ = own_data_run
    shutil.copytree(world, tmp_path / "own-data")
    caught = [stage for stage in STAGES if kill_in(stage, own_data_words, tmp_path)]
    assert len(caught) >= 6, f"killed in time only in {caught}"
    assert start(own_data_words, tmp_path).wait() == 0
    for stage in STAGES:
        ended, expected = (
            json.loads((folder / "runs/own-data" / stage / "manifest.json").read_text())
            for folder in (tmp_path, undisturbed)
        )
        differing = {name for name, entry in expected["files"].items() if ended["files"].get(name, {}) != entry} ^ (
            ended["files"].keys() - expected["files"].keys()
        )
        assert not differing, f"{stage}: {differing}"
    assert not list(tmp_path.rglob("*.partial"))
