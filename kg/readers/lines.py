"""Text files, plain or packed, by line or by blocks of lines, with numbers for whoever must say what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from kg.errors import InputError

SHOWN = 80
BLOCK_BYTES = 1 << 22
BUFFER_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".zst")
BZ2_FIRST_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows `BZh1` to `BZh9`: the mark of a block, or of the end in an empty archive."""

Packing = Literal["gz", "bz2", "zst", ""]


def open_stream(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked when its first bytes say gzip, bzip2 or Zstandard, whatever its name.

    Archives of several members (pigz, lbzip2, `cat a.gz b.gz`) are read to the end of the last one.

    Raises:
        InputError: no file (now); while read, an archive that was cut off or is damaged.
    """
    kind = packing(path)
    if not kind:
        return path.open("rb", buffering=BUFFER_BYTES)
    return io.BufferedReader(_Unpacked(path, kind), BUFFER_BYTES)


def packing(path: Path) -> Packing:
    """How a file is compressed, by its first bytes; "" = not at all.

    Raises:
        InputError: no file, or an archive by its name that holds no byte.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        first = file.read(10)
    if not first and path.suffix in COMPRESSED_SUFFIXES:
        raise _cut_off(path)
    if first.startswith(b"\x1f\x8b"):
        return "gz"
    if first.startswith(b"BZh") and first[3:4].isdigit() and first[4:10] in BZ2_FIRST_BLOCKS:
        return "bz2"
    skippable = first[1:4] == b"\x2a\x4d\x18" and first[0] >> 4 == 5
    return "zst" if first.startswith(b"\x28\xb5\x2f\xfd") or skippable else ""


def size_of(path: Path) -> int:
    """Bytes of text in a file, for progress; 0 where it is compressed, so that nobody knows."""
    return 0 if packing(path) else path.stat().st_size


def blocks(path: Path, size: int = BLOCK_BYTES, *, skip: int = 0) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about `size` bytes of them at a time, and the number (from 1) of the first.

    A byte order mark is no part of the text. Only the last block may end without a line end.

    skip: bytes of text to pass over, the lengths of earlier blocks together; they are read, for the line numbers.

    Raises:
        InputError: as `open_stream`.
    """
    with open_stream(path) as stream:
        start = stream.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        number = 1
        while skip and (passed := start + stream.read(max(min(size, skip) - len(start), 0))):
            passed, start = passed[:skip], passed[skip:]
            number += passed.count(b"\n")
            skip -= len(passed)
        while block := start + stream.read(size):
            start = b""
            if not block.endswith(b"\n"):
                block += stream.readline()
            yield block, number
            number += block.count(b"\n")


def numbered_lines(path: Path, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and line without its end, decoded as UTF-8; a byte order mark is passed over.

    whole: the format ends every line, so a last line without an end was cut off.

    Raises:
        InputError: not a file, not UTF-8, a damaged archive, or (whole) cut off.
    """
    with open_stream(path) as file:
        for number, raw in enumerate(file, 1):
            line = decoded(path, raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw, number)
            if whole and not line.endswith("\n"):
                raise malformed(path, number, "a line with an end", line, "the file was cut off, fetch it again")
            yield number, line.rstrip("\r\n")


def decoded(path: Path, block: bytes, number: int) -> str:
    """A line or a block of lines as text; `number` is that of its first line.

    Raises:
        InputError: not UTF-8, with the line and the column (in bytes) of the first wrong byte.
    """
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = number + block.count(b"\n", 0, error.start)
        column = error.start - (block.rfind(b"\n", 0, error.start) + 1)
        raise InputError(
            f"{path}:{line}: expected UTF-8, got byte 0x{block[error.start]:02x} at column {column + 1}; "
            f"convert the file to UTF-8"
        ) from None


def malformed(path: Path, number: int, expected: str, line: str, remedy: str) -> InputError:
    """The error of a line that is not what its format says, shortened to what fits a terminal."""
    shown = line.rstrip("\r\n")
    shown = repr(shown if len(shown) <= SHOWN else shown[:SHOWN] + "…")
    return InputError(f"{path}:{number}: expected {expected}, got {shown}; {remedy}")


class _Unpacked(io.RawIOBase):
    """An archive's content, whose damage is the user's to mend and not a traceback."""

    def __init__(self, path: Path, kind: Packing) -> None:
        self.path = path
        self.inner: gzip.GzipFile | bz2.BZ2File | io.BufferedReader
        if kind == "gz":
            self.inner = gzip.GzipFile(path, "rb")
        elif kind == "bz2":
            self.inner = bz2.BZ2File(path, "rb")
        else:
            self.inner = io.BufferedReader(_Zstandard(path), BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            content = self.inner.read(len(buffer))
        except EOFError:
            raise _cut_off(self.path) from None
        except (OSError, zlib.error) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise InputError(f"{self.path}: the archive is damaged ({error}); fetch it again") from None
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


class _Zstandard(io.RawIOBase):
    """A Zstandard file, frame after frame; unlike the package's own stream it notices a missing end."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._damage = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._file = path.open("rb")
        self._content = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._content:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._file.read(1 << 17)
            if not packed:
                if self._begun and not self._frame.eof:
                    raise EOFError
                return 0
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._begun = True
            try:
                self._content = self._frame.decompress(packed)
            except self._damage as error:
                raise zlib.error(str(error)) from None
        given = self._content[: len(buffer)]
        self._content = self._content[len(given) :]
        buffer[: len(given)] = given
        return len(given)

    def close(self) -> None:
        self._file.close()
        super().close()


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path}: the archive ends in the middle, it was cut off; fetch it again")
