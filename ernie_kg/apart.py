"""Work in a process of its own: what it loads, keeps and leaves in pieces of memory goes when it ends.

The child is a fork, so that it begins with all that this process has imported and nothing is loaded twice. Forking is
safe as long as this process has no other thread: one that has computed with torch or faiss has.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

HARMLESS = "jemalloc_bg_thd"  # pyarrow's, which begins when it is imported and knows how to be forked
PARENT_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG
SECONDS_OF_AN_ECHO = 1.0  # the terminal interrupts parent and child, and the parent hands its own on


def can_be_apart() -> bool:
    """Whether this process may fork: on Linux, with no thread besides this one."""
    if sys.platform != "linux":
        return False
    names = [
        path.read_text(encoding="ascii", errors="replace").strip() for path in Path("/proc/self/task").glob("*/comm")
    ]
    return len([name for name in names if name != HARMLESS]) == 1


def run_apart(work: Callable[[], int], *, name: str) -> int:
    """Runs `work` in a child and returns its exit code; minus the number of the signal that killed it, where one did.

    Ctrl-C and SIGTERM go on to the child, once, as KeyboardInterrupt, and its end is waited for; it does not outlive
    this process.
    """
    child = multiprocessing.get_context("fork").Process(target=_child, args=(work, os.getpid()), name=name)
    with _handed_on_to(child):
        child.start()
        child.join()
    assert child.exitcode is not None, "it has ended"
    return child.exitcode


def _child(work: Callable[[], int], parent: int) -> NoReturn:
    last = -SECONDS_OF_AN_ECHO

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= SECONDS_OF_AN_ECHO:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(work())


@contextmanager
def _handed_on_to(child: multiprocessing.process.BaseProcess) -> Iterator[None]:
    def hand_on(signum: int, frame: Any) -> None:
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signum)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
