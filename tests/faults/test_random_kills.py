"""kill -9 at random moments of a road, over and over: every time it ends as an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kg.artifact import damaged_files, read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("ERNIE_KG_KILLS", "50"))
LATEST = 5.0
"""Seconds into the work of a process that it is killed at the latest."""


def _start(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ernie_kg.cli", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def _wait(process: subprocess.Popen[bytes], road: Path, rng: random.Random) -> None:
    """Until a random moment after the process, or its child for a stage, began to write; one time in ten after its own
    start, when it imports or looks at what is there."""
    begun = rng.random() < 0.1
    while process.poll() is None and not begun:
        family = {str(process.pid), *_read(Path(f"/proc/{process.pid}/task/{process.pid}/children")).split()}
        begun = any(_read(lock).strip() in family for lock in road.glob("*.partial/.lock"))
        time.sleep(0.002)
    deadline = time.monotonic() + rng.uniform(0, LATEST)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _writing(road: Path) -> str:
    """The stage that was being written, or between which stages nothing was."""
    partial = sorted(road.glob("*.partial"))
    return partial[0].name.removesuffix(".partial") if partial else "between stages"


def _same_end(road: Path, expected: Path) -> None:
    for folder in sorted(path.parent for path in expected.glob("*/manifest.json") if path.parent.name != "report"):
        assert damaged_files(road / folder.name) == []
        assert read_manifest(road / folder.name).data["files"] == read_manifest(folder).data["files"], folder.name
    assert not list(road.rglob("*.partial"))
    assert not list(road.rglob("*.retired"))


def test_fifty_random_kills_change_no_byte(
    own_data_run: tuple[Path, subprocess.CompletedProcess[str]],
    own_data_words: list[str],
    world: Path,
    tmp_path: Path,
    long_faults: bool,
) -> None:
    """What holds at nine chosen moments need not hold at the tenth; the seed is drawn anew and printed."""
    if not long_faults:
        pytest.skip("`make faults` kills at random moments; `tests/pipeline/test_killed_road.py` once in every stage")
    seed = int(os.environ.get("ERNIE_KG_SEED", time.time_ns() % 1_000_000))
    rng, where, roads = random.Random(seed), Counter[str](), 0
    folder = tmp_path / "0"
    shutil.copytree(world, folder / "own-data")
    while where.total() < KILLS:
        process = _start(own_data_words, folder)
        _wait(process, folder / "runs/own-data", rng)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            where[_writing(folder / "runs/own-data")] += 1
        assert process.wait() in (0, -signal.SIGKILL), f"seed {seed}"
        if process.returncode == 0:
            _same_end(folder / "runs/own-data", own_data_run[0] / "runs/own-data")
            shutil.rmtree(folder)
            roads += 1
            folder = tmp_path / str(roads)
            shutil.copytree(world, folder / "own-data")
    print(json.dumps({"seed": seed, "kills": where.total(), "roads": roads + 1, "in": dict(where)}))
    assert _start(own_data_words, folder).wait() == 0
    _same_end(folder / "runs/own-data", own_data_run[0] / "runs/own-data")
