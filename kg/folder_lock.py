"""One writer a folder, by a lock that the system takes away when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from kg.errors import InputError

LOCK = ".lock"
"""The file in the folder that is locked; it holds the number of the process that writes."""

LOOKS = 100
"""How often a hundredth of a second apart the holder's number is looked for."""


def lock_folder(folder: Path) -> int:
    """Makes the folder where it is missing and takes its lock; returns the descriptor that holds it (`os.close`).

    The lock goes with the folder when that is renamed. Whoever opened the file of a folder that was renamed or
    emptied in the meantime notices that it is no longer in its place, and starts over.

    Raises:
        InputError: another process (or another writer of this one) holds it; its number is named.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise InputError(
                f"{folder}: process {owner} is writing this artifact; wait for it, or choose another output"
            ) from None
        if _in_place(handle, path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
            return handle
        os.close(handle)


def _owner(handle: int) -> str:
    """The holder's number, which is written a moment after its lock is taken, over that of a holder who was killed."""
    owner = ""
    for _ in range(LOOKS):
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        if owner.isdigit() and _alive(int(owner)):
            break
        time.sleep(0.01)
    return owner or "of unknown number"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _in_place(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
