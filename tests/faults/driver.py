"""Runs stages of a finished road once more, in this process, while something goes wrong; prints a JSON line a stage.

    python driver.py FAULT RUN WORK STAGE…

RUN: the folder the road was run in, whose artifacts are read. WORK: where the stage writes. FAULT: a row of `FAULTS`.
Mounts a file system where the fault needs one, so it runs in a process with mounts of its own (`tests/warm.py`).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import yaml

from ernie_kg.cli import main

ROAD = Path("runs/own-data")


@contextmanager
def full_disk(work: Path) -> Iterator[None]:
    """16 KB of room, less than any stage writes."""
    with _mounted(work, "size=16k"):
        yield


@contextmanager
def nearly_full_disk(work: Path) -> Iterator[None]:
    """200 KB: several files fit, then one does not."""
    with _mounted(work, "size=200k"):
        yield


@contextmanager
def read_only(work: Path) -> Iterator[None]:
    with _mounted(work, "size=1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(work)], check=True)
        yield


@contextmanager
def little_memory(work: Path) -> Iterator[None]:
    """4 MB more than the process has now; run after a whole run of the stage, so that everything is imported."""
    gc.collect()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def terminated_in_a_checkpoint(work: Path) -> Iterator[None]:
    """SIGTERM while the second checkpoint's files are being written, one file later each stage."""
    terminate = _Terminate()
    sys.addaudithook(terminate)
    try:
        yield
    finally:
        terminate.armed = False


@contextmanager
def nothing(work: Path) -> Iterator[None]:
    yield


FAULTS: dict[str, Callable[[Path], object]] = {
    "full-disk": full_disk,
    "nearly-full-disk": nearly_full_disk,
    "read-only": read_only,
    "little-memory": little_memory,
    "nothing": nothing,
    "terminated-in-a-checkpoint": terminated_in_a_checkpoint,
}


class _Terminate:
    """Hears of every file that is opened; ends the process at one inside a checkpoint that is not finished yet."""

    def __init__(self) -> None:
        self.armed, self.seen = True, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.armed or event not in ("open", "os.rename"):
            return
        path = str(arguments[0])
        if "step-" in path and ".tmp" in path:
            self.seen += 1
            if self.seen == 12:
                os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _mounted(work: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(work)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(work)], check=True)


def replay(stage: str, work: Path) -> dict[str, object]:
    """One stage with the config of its manifest and another output; its exit code, its last line, and what is left."""
    manifest = json.loads((ROAD / stage / "manifest.json").read_text())
    config = manifest["config"] | {"output": str(work / stage)}
    given = {key: value for key, value in config.items() if value is not None}
    work.mkdir(parents=True, exist_ok=True)
    file = work.with_name(f"{stage}.yaml")
    file.write_text(yaml.safe_dump(given))
    printed = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(printed):
        code = main([*manifest["stage"].split(), "--config", str(file)])
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("ernie-kg")]
    return {"stage": stage, "code": code, "lines": lines, "artifact": (work / stage).exists()}


def run(fault: str, road: Path, work: Path, stages: list[str]) -> None:
    os.chdir(road)
    work.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if fault == "little-memory":
            replay(stage, work / "before")
        with FAULTS[fault](work):  # type: ignore[attr-defined]
            found = replay(stage, work)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
