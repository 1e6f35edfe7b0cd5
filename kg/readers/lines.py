"""Text files line by line, with the line's number for whoever must say what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kg.errors import InputError

SHOWN = 80


def numbered_lines(path: Path, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and line without its end, decoded as UTF-8; a byte order mark is passed over.

    whole: the format ends every line, so a last line without an end was cut off.

    Raises:
        InputError: not a file, not UTF-8, or (whole) cut off.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: expected UTF-8, got byte 0x{raw[error.start]:02x} at column "
                    f"{error.start + 1}; convert the file to UTF-8"
                ) from None
            if whole and not line.endswith("\n"):
                raise malformed(path, number, "a line with an end", line, "the file was cut off, fetch it again")
            yield number, line.rstrip("\r\n")


def malformed(path: Path, number: int, expected: str, line: str, remedy: str) -> InputError:
    """The error of a line that is not what its format says, shortened to what fits a terminal."""
    shown = line.rstrip("\r\n")
    shown = repr(shown if len(shown) <= SHOWN else shown[:SHOWN] + "…")
    return InputError(f"{path}:{number}: expected {expected}, got {shown}; {remedy}")
