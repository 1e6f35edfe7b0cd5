"""Every stage of a road while something goes wrong: a message, no half artifact, and the same end afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kg.artifact import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.faults]
DRIVER = Path(__file__).with_name("driver.py")
STAGES = (
    "graph", "relations", "vectors", "linked", "instances", "pretrained", "model", "student", "exported", "report",
)  # fmt: skip
NO_MOUNTS = 77
"""The exit code of a process that asked for mounts of its own and may not have them (`tests/warm.py`)."""
TRAINED = ("pretrained", "model", "student")
Run = tuple[Path, subprocess.CompletedProcess[str]]


def drive(warm: Any, fault: str, road: Path, work: Path, *stages: str, mounts: bool = False) -> list[dict[str, Any]]:
    """What `driver.py` printed, a dictionary a stage; in a process that has imported everything."""
    work.mkdir(parents=True, exist_ok=True)
    printed = work.with_name("printed.jsonl")
    printed.unlink(missing_ok=True)
    words = ["driver", fault, str(road), str(work), *stages]
    code = warm.wait(warm.start(words, road, printed=printed, mounts=mounts))
    if code == NO_MOUNTS:
        pytest.skip("mounting a small file system is not permitted here")
    assert code == 0, warm.errors.read_text()[-3000:]
    return [json.loads(line) for line in printed.read_text().splitlines()]


def same_files(folder: Path, expected: Path) -> bool:
    return read_manifest(folder).data["files"] == read_manifest(expected).data["files"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("full-disk", "disk is full|No space left on device"), ("read-only", "cannot be written|Read-only file system")],
)
def test_a_disk_that_takes_nothing_is_one_line_in_every_stage(
    own_data_run: Run, warm: Any, tmp_path: Path, fault: str, message: str, long_faults: bool
) -> None:
    """Each library says it in words of its own, and a stage that misses one calls it a fault of ours."""
    if fault != "full-disk" and not long_faults:
        pytest.skip("`make faults` takes a read-only disk, too")
    found = drive(warm, fault, own_data_run[0], tmp_path / "work", *STAGES, mounts=True)
    assert [row["stage"] for row in found] == list(STAGES)
    for row in found:
        assert row["code"] == 2, row
        assert len(row["lines"]) == 1, row
        assert re.search(message, row["lines"][0]), row
        assert not row["artifact"], row


@pytest.mark.parametrize("stage", TRAINED)
def test_sigterm_in_the_middle_of_a_checkpoint_costs_nothing(
    own_data_run: Run, warm: Any, tmp_path: Path, stage: str, long_faults: bool
) -> None:
    """A checkpoint cut short that is taken for whole resumes from another state; the weights then differ."""
    if stage != "student" and not long_faults:
        pytest.skip("`make faults` takes every trained stage")
    road = own_data_run[0]
    (row,) = drive(warm, "terminated-in-a-checkpoint", road, tmp_path / "work", stage)
    assert (row["code"], row["artifact"]) == (130, False), row
    partial = tmp_path / "work" / f"{stage}.partial"
    assert list(partial.rglob("step-*")), "it ended before its first checkpoint"
    (row,) = drive(warm, "nothing", road, tmp_path / "work", stage)
    assert row["code"] == 0, row
    assert read_manifest(tmp_path / "work" / stage).data["resumed"]
    assert same_files(tmp_path / "work" / stage, road / "runs/own-data" / stage)


def test_memory_that_does_not_suffice_leaves_no_half_artifact(
    own_data_run: Run, warm: Any, tmp_path: Path, long_faults: bool
) -> None:
    """Libraries throw, abort or crash; whatever they do, there is no artifact, and the next run ends the same."""
    if not long_faults:
        pytest.skip("`make faults` runs every stage without memory")
    road = own_data_run[0]
    for stage in STAGES[:-1]:
        command = [sys.executable, str(DRIVER), "little-memory", str(road), str(tmp_path / "work"), stage]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if result.returncode == 0:
            row = json.loads(result.stdout)
            assert row["code"] in (0, 2), row
            assert row["artifact"] == (row["code"] == 0), row
        artifact = tmp_path / "work" / stage
        assert not artifact.exists() or same_files(artifact, road / "runs/own-data" / stage)
        (row,) = drive(warm, "nothing", road, tmp_path / "work", stage)
        assert row["code"] == 0, row
        assert same_files(artifact, road / "runs/own-data" / stage)


def test_a_worker_killed_by_the_system_is_said_and_the_next_run_goes_on(
    own_data_run: Run, warm: Any, tmp_path: Path
) -> None:
    """The system that runs out of memory takes the largest process, which is seldom the first."""
    road, output = own_data_run[0], tmp_path / "linked"
    words = ["link", "--graph", "runs/own-data/graph", "--corpus", "folder", "--source", "own-data/text"]
    words += ["--shard_documents", "5", "--processes", "2", "--output", str(output)]
    pid = warm.start(words, road)
    deadline = time.monotonic() + 120
    while not (workers := _workers(pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(workers[-1], signal.SIGKILL)
    assert warm.wait(pid) == 2, warm.errors.read_text()
    assert re.search(r"process .*was killed", warm.errors.read_text())
    assert not output.exists()
    assert warm.wait(warm.start(words, road)) == 0, warm.errors.read_text()
    assert read_manifest(output).counts["documents"] == 240


def _workers(pid: int) -> list[int]:
    """Processes that multiprocessing started to work, once they hold 50 MB; not its tracker of resources."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        below = _workers(int(child))
        command = Path(f"/proc/{child}/cmdline").read_text()
        size = int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if below:
            found += below
        elif "spawn_main" in command and size > 50 << 20:  # a child that is not itself yet still has its parent's name
            found.append(int(child))
    return found


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_artifacts_stop_the_stages_that_read_them(
    own_data_run: Run, warm: Any, tmp_path: Path, damage: str, long_faults: bool
) -> None:
    """The largest file of every artifact, by its middle byte; what reads it first must say which it is."""
    if damage != "flipped" and not long_faults:
        pytest.skip("`make faults` truncates files, too")
    road = tmp_path / "road"
    shutil.copytree(own_data_run[0], road)
    stages = {"graph": "relations", "relations": "vectors", "vectors": "linked", "linked": "instances"}
    stages |= {"instances": "pretrained", "pretrained": "model", "model": "student", "student": "exported"}
    damaged = {}
    for made in stages:
        folder = road / "runs/own-data" / made
        names = [name for name, entry in read_manifest(folder).data["files"].items() if entry["bytes"] > 2]
        damaged[made] = max(names, key=lambda name: (folder / name).stat().st_size)
        content = bytearray((folder / damaged[made]).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / damaged[made]).write_bytes(content[:-1] if damage == "truncated" else content)
    for made, (reader, row) in zip(
        stages, zip(stages.values(), drive(warm, "nothing", road, tmp_path / "work", *stages.values()))
    ):
        assert row["code"] == 2, row
        assert not row["artifact"], reader
        assert any(name in row["lines"][0] for name in damaged.values()), (made, row)
