"""Sources as bytes and lines, packed or not, with line numbers for whoever must say what is wrong with one."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from kg.errors import InputError

SHOWN = 80
BLOCK = 1 << 22
GZIP, BZIP2, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"


def open_stream(path: Path) -> BinaryIO:
    """The file's content, unpacked where it is gzip, bzip2 or Zstandard (told by its first bytes, not its name).

    Reading raises InputError when the packed file is cut off or damaged.

    Raises:
        InputError: not a file.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(GZIP):
        import gzip

        return _guarded(path, gzip.open(path))
    if magic.startswith(BZIP2):
        import bz2

        return _guarded(path, bz2.open(path))
    if magic == ZSTANDARD:
        return _guarded(path, _Zstandard(path))
    return path.open("rb", buffering=1 << 20)


def unpacked_size(path: Path) -> int:
    """Bytes of content for a progress bar: the file's size, or 0 (unknown) when it is packed."""
    with path.open("rb") as file:
        magic = file.read(4)
    return 0 if magic.startswith((GZIP, BZIP2, ZSTANDARD)) else path.stat().st_size


def blocks(path: Path, *, size: int = BLOCK, start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Whole lines, about `size` bytes at a time: (bytes, number of the first line, offset of their end).

    Offsets count unpacked bytes. start: an offset that was the end of a block; what lies before is read over. The
    last line of the file may lack its line end.
    """
    with open_stream(path) as file:
        number, offset = 1, 0
        while offset < start:
            passed = file.read(min(BLOCK, start - offset))
            if not passed:
                raise InputError(f"{path}: expected at least {start:,} bytes, found {offset:,}; it is another file now")
            number, offset = number + passed.count(b"\n"), offset + len(passed)
        rest = b""
        while data := file.read(size):
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                continue
            block, rest = rest + data[:end], data[end:]
            offset += len(block)
            yield block, number, offset
            number += block.count(b"\n")
        if rest:
            yield rest, number, offset + len(rest)


def numbered_lines(path: Path, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and line without its end, decoded as UTF-8; a byte order mark is passed over.

    whole: the format ends every line, so a last line without an end was cut off.

    Raises:
        InputError: not a file, not UTF-8, or (whole) cut off.
    """
    with open_stream(path) as file:
        for number, raw in enumerate(file, 1):
            line = decoded(path, number, raw)
            if whole and not line.endswith("\n"):
                raise malformed(path, number, "a line with an end", line, "the file was cut off, fetch it again")
            yield number, line.rstrip("\r\n")


def decoded(path: Path, number: int, raw: bytes) -> str:
    """A line as text; the first may begin with a byte order mark.

    Raises:
        InputError: the line is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: expected UTF-8, got byte 0x{raw[error.start]:02x} at column "
            f"{error.start + 1}; convert the file to UTF-8"
        ) from None


def malformed(path: Path, number: int, expected: str, line: str, remedy: str) -> InputError:
    """The error of a line that is not what its format says, shortened to what fits a terminal."""
    shown = line.rstrip("\r\n")
    shown = repr(shown if len(shown) <= SHOWN else shown[:SHOWN] + "…")
    return InputError(f"{path}:{number}: expected {expected}, got {shown}; {remedy}")


class _Guarded(io.RawIOBase):
    """Another stream whose failures are said in the words of this project."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except EOFError:
            raise InputError(f"{self._path}: the packed file was cut off; fetch it again") from None
        except (OSError, zlib.error, ValueError) as error:
            raise InputError(f"{self._path}: the packed file is damaged ({error}); fetch it again") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Zstandard:
    """A Zstandard file, one frame or many; unlike the library's reader it notices a file that ends too early."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._file, self._frame = path.open("rb"), self._new()
        self._ready = b""

    def read(self, size: int) -> bytes:
        while not self._ready:
            packed = self._file.read(1 << 17)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return b""
            self._ready = self._unpack(packed)
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _unpack(self, packed: bytes) -> bytes:
        parts = []
        while packed:
            self._frame = self._frame or self._new()
            try:
                parts.append(self._frame.decompress(packed))
            except self._error as error:
                raise OSError(str(error)) from None
            packed = b""
            if self._frame.eof:
                packed, self._frame = self._frame.unused_data, None
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()


def _guarded(path: Path, stream: Any) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Guarded(path, stream), 1 << 20))
