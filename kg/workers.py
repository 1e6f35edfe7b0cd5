"""Processes that share a stage's work: started afresh, and gone as soon as the process that started them is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any


@contextmanager
def worker_pool(processes: int, open_worker: Callable[..., None], *given: Any) -> Iterator[ProcessPoolExecutor]:
    """`processes` workers, each of which calls `open_worker(*given)` before its first piece of work.

    They are spawned: a forked child of a process that has used torch or faiss hangs. What waits when the block is left
    is not begun any more.
    """
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(open_worker, *given)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(open_worker: Callable[..., None], *given: Any) -> None:
    end_with_parent()
    open_worker(*given)


def end_with_parent() -> None:
    """Makes this process end when its parent is gone, however that ended: killed, it tells nobody, and a worker would
    wait for ever, or write where the next run writes."""
    parent = parent_process()
    assert parent is not None, "workers are started by another process"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
