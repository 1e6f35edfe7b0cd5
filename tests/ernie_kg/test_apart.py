"""A road's stages in processes of their own: errors, signals and death go where they went before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages have processes of their own on Linux only")
TOY = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from kg.artifact import write_artifact
from kg.errors import InputError

@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    '''Does one thing.'''
    action: str
    '''What.'''
    output: Path
    '''Folder to write.'''
    def inputs(self):
        return {}

def run(config):
    with write_artifact(config, stage="toy") as writer:
        (writer.path / "pid").write_text(str(os.getpid()))
        Path("pids").open("a").write(f"{os.getpid()}\\n")
        try:
            ACTIONS[config.action]()
        except KeyboardInterrupt:
            time.sleep(0.3)  # cleaning up: an echo of the same signal must not disturb it
            Path("cleaned").write_text("")
            raise
    return config.output

def refuse():
    raise InputError("expected better, got worse")

def crash():
    raise RuntimeError("ours")

def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)

def starve():
    os.kill(os.getpid(), signal.SIGKILL)

ACTIONS = {"work": int, "sleep": lambda: time.sleep(60), "refuse": refuse, "crash": crash, "starve": starve,
    "segfault": segfault}
"""
PROGRAM = """
import sys
from ernie_kg.cli import main
from ernie_kg.stages import STAGES, Stage
STAGES["toy"] = Stage("toy", "ToyConfig", "does one thing")
sys.exit(main())
"""


def begin(folder: Path, *actions: str, words: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`ernie-kg run` of toy stages, one an action, in a process group of its own."""
    (folder / "toy.py").write_text(TOY, encoding="utf-8")
    stages = "".join(f"  s{number}: {{stage: toy, action: {action}}}\n" for number, action in enumerate(actions))
    (folder / "road.yaml").write_text(f"output: run\nstages:\n{stages}", encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, "run", "road.yaml", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def child_of(folder: Path) -> int:
    """The process of the first stage, once it works."""
    deadline = time.monotonic() + 60
    path = folder / "run/s0.partial/pid"
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "no stage began"
        time.sleep(0.01)
    return int(path.read_text())


def is_gone(process: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_every_stage_has_a_process_of_its_own(tmp_path: Path) -> None:
    """What one stage leaves in memory would be counted as the next one's."""
    process = begin(tmp_path, "work", "work")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    numbers = (tmp_path / "pids").read_text().split()
    assert len({*numbers, str(process.pid)}) == 3


@pytest.mark.parametrize(
    ("action", "code", "message"),
    [
        ("refuse", 2, "ernie-kg: expected better, got worse"),
        ("crash", 1, "ernie-kg: a fault of ours: RuntimeError: ours"),
        ("starve", 2, "s0 (toy): its process was killed from outside"),
        ("segfault", 1, "s0 (toy): its process ended by SIGSEGV"),
    ],
)
def test_a_stage_that_ends_badly_is_one_line_and_its_exit_code(
    tmp_path: Path, action: str, code: int, message: str
) -> None:
    process = begin(tmp_path, action, "work")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert output == ""
    assert errors.count("ernie-kg: ") == 1
    assert message in errors
    assert not (tmp_path / "run/s1").exists()


def test_debug_shows_the_traceback_of_the_stage(tmp_path: Path) -> None:
    process = begin(tmp_path, "crash", words=("--debug",))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "in crash" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill"])
def test_an_interruption_is_said_once_and_the_stage_cleans_up(
    tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    """A terminal interrupts the whole group, `kill` one process; the stage must hear of it once, in both."""
    process = begin(tmp_path, "sleep", "work")
    child = child_of(tmp_path)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("interrupted; finished stages stay") == 1
    assert "Traceback" not in errors
    assert (tmp_path / "cleaned").exists()
    assert not (tmp_path / "run/s0.partial").exists()
    assert is_gone(child)


def test_a_stage_does_not_outlive_the_road(tmp_path: Path) -> None:
    """Left alone it would go on writing, and the next run would find the folder locked."""
    process = begin(tmp_path, "sleep")
    child = child_of(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert is_gone(child)


def test_a_process_with_other_threads_is_not_forked() -> None:
    """A fork has one thread only: it would wait for ever for the pools that its parent had."""
    program = """
import threading
from ernie_kg.apart import can_be_apart
before, wait = can_be_apart(), threading.Event()
thread = threading.Thread(target=wait.wait)
thread.start()
print(before, can_be_apart())
wait.set()
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["True", "False"]
