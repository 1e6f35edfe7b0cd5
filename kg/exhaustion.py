"""A full disk, memory that does not suffice, a killed worker: in whatever words a library says so, one line with a
remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from kg.errors import InputError

NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), os.strerror(errno.EFBIG))
NO_MEMORY = re.compile(
    rf"{os.strerror(errno.ENOMEM)}|can't allocate memory|bad_alloc|can't start new thread|failed to map segment"
    r"|could not create a primitive(?! desc)"  # oneDNN
)
"""What C libraries put into the text of exceptions that carry no number (safetensors, torch, faiss)."""
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def exhausted(error: BaseException, *, where: str = "") -> InputError | None:
    """The error as one that the user can mend, when disk or memory ran out, a worker was killed, or `where` cannot be
    written; else None.

    where: the folder that was being written.
    """
    if getattr(error, "exit_code", None) is not None:
        return None
    for cause in _chain(error):
        number, text = getattr(cause, "errno", None), str(cause)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(words in text for words in NO_SPACE):
            return InputError(
                f"{where or 'writing'}: the disk is full ({text}); free some space and run the same command again"
            )
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or NO_MEMORY.search(text):
            return InputError(
                f"{where or 'this command'}: memory does not suffice ({text or 'out of memory'}); lower the batch "
                f"size or the size of the input, or give the process more memory, and run the same command again"
            )
        if type(cause).__name__ in ("BrokenProcessPool", "ProcessExitedException"):
            return InputError(
                f"{where or 'this command'}: a worker process was killed from outside, as a system does that runs out "
                f"of memory; run the same command again to go on, perhaps with fewer processes"
            )
        if where and number in NOT_WRITABLE and where in str(getattr(cause, "filename", "")):
            return InputError(f"{where}: cannot be written ({cause}); mend its permissions, or choose another output")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
