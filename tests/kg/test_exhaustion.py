"""What a full disk and too little memory look like in the words of each library, and what is neither."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool

import pytest

from kg.errors import InputError
from kg.exhaustion import exhausted


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (MemoryError(), "memory does not suffice"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "memory does not"),
        (RuntimeError("could not create a primitive"), "memory does not suffice"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory does not suffice"),
        (BrokenProcessPool("terminated abruptly"), "a worker process was killed"),
    ],
)
def test_each_librarys_words_become_one_line_with_a_remedy(error: Exception, said: str) -> None:
    found = exhausted(error, where="out.partial")
    assert isinstance(found, InputError)
    assert str(found).startswith("out.partial: ")
    assert said in str(found)


def test_the_cause_of_an_error_counts_too() -> None:
    error = ValueError("the writer failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full" in str(exhausted(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a wrong number"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere"),
        InputError("x: the disk is full (No space left on device); make room"),
    ],
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    """A fault of ours that is taken for the user's is never reported."""
    assert exhausted(error, where="out.partial") is None
