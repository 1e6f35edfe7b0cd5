"""The parent of `test_workers.py`, to be killed: starts a worker that leaves a file of its name and works, or waits.

python endless_workers.py working|waiting FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kg.workers import worker_pool


def open_worker(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()


def main(state: str, folder: str) -> None:
    with worker_pool(1, open_worker, folder) as pool:
        pool.submit(time.sleep, 600 if state == "working" else 0)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
