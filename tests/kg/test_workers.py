"""Worker processes are gone when the process that started them is, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kg.workers import worker_pool

SCRIPT = Path(__file__).with_name("endless_workers.py")


def open_worker(word: str) -> None:
    os.environ["WORKER_WORD"] = word


def word() -> str:
    return os.environ["WORKER_WORD"]


def test_a_worker_is_opened_before_its_first_work():
    with worker_pool(1, open_worker, "open") as pool:
        assert pool.submit(word).result(timeout=60) == "open"


@pytest.mark.faults
@pytest.mark.parametrize("state", ["working", "waiting"])
def test_workers_end_when_their_parent_is_killed(tmp_path, state):
    """A pool of the library's waits for ever for work of a process that is dead, or writes where the next run does."""
    parent = subprocess.Popen([sys.executable, str(SCRIPT), state, str(tmp_path)])
    try:
        workers = wait_for(lambda: [int(path.name) for path in tmp_path.iterdir()], 60)
        assert len(workers) >= 1
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(map(alive, workers)), 20)
    finally:
        parent.kill()
        for worker in map(int, os.listdir(tmp_path)):
            if alive(worker):
                os.kill(worker, signal.SIGKILL)


def wait_for(found, seconds):
    """What `found` returns once that is true."""
    for _ in range(10 * seconds):
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not in {seconds} seconds")


def alive(process):
    """Whether it runs; one that ended and nobody asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
