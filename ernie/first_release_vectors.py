"""The first release's entity vectors (`entity2id.txt`, `entity2vec.vec`) as an entity table, streamed.

That code reads them as a list of lists of floats, 16 GB for a table of 2 GB. Here a few thousand lines are in memory at
a time, the identifiers too where they stand in the order of their index, as they do in what was published.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

import numpy as np

from ernie.entity_table import FILE_NAME, NAMES_FILE, TENSOR_NAME
from ernie.errors import InputError

CHUNK_LINES = 4_096

_DTYPES = {"float32": ("F32", np.dtype("<f4")), "float16": ("F16", np.dtype("<f2"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedVectors:
    """num_entities: rows 1..num_entities of the table. bad_lines: line numbers of entity2vec.vec whose rows are zeros
    because on_bad_row="zero" met them short, long, not numeric or not finite."""

    num_entities: int
    entity_size: int
    bad_lines: tuple[int, ...]


def convert_entity_vectors(
    entity2id: str | Path,
    entity2vec: str | Path,
    output: str | Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    on_bad_row: Literal["error", "zero"] = "error",
) -> ConvertedVectors:
    """Write `entity_embeddings.safetensors` and `vocabulary.txt` into the folder `output`.

    entity2id: a count, then `identifier<TAB>index` lines, indices 0.. ; entity2vec: line n+1 holds the vector of index
    n, numbers between tabs or spaces. Row = index + 1; row 0 is "no entity". The files appear when they are complete.

    Raises:
        InputError: a bad line, by number; or counts that do not fit.
    """
    ids, vectors, folder = Path(entity2id), Path(entity2vec), Path(output)
    for path in (ids, vectors):
        if not path.is_file():
            raise InputError(f"no file {path}: the first release brings entity2id.txt and entity2vec.vec")
    folder.mkdir(parents=True, exist_ok=True)
    names, table = folder / f"{NAMES_FILE}.partial", folder / f"{FILE_NAME}.partial"
    num_entities = _write_names(ids, names)
    size, bad = _write_table(vectors, table, num_entities, dtype=dtype, on_bad_row=on_bad_row)
    names.rename(folder / NAMES_FILE)
    table.rename(folder / FILE_NAME)
    return ConvertedVectors(num_entities=num_entities, entity_size=size, bad_lines=tuple(bad))


def _write_names(source: Path, target: Path) -> int:
    """Identifiers by index, one a line. Returns how many."""
    with source.open(encoding="utf-8", newline="\n") as lines, target.open("w", encoding="utf-8", newline="\n") as out:
        first = lines.readline().strip()
        if not first.isdigit():
            raise InputError(f"{source} line 1 holds the number of entities, got {first!r}")
        count, expected, later = int(first), 0, {}
        for number, (name, index) in _id_lines(lines, source):
            if index in later or index < expected:
                raise InputError(f"{source} line {number}: index {index} stands twice")
            later[index] = name
            while expected in later:
                out.write(f"{later.pop(expected)}\n")
                expected += 1
    if later or expected != count:
        gap = f", none has index {expected}" if later else ""
        raise InputError(f"{source} announces {count} entities and names {expected + len(later)}{gap}")
    return count


def _id_lines(lines: TextIO, source: Path) -> Iterator[tuple[int, tuple[str, int]]]:
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        name, _, index = line.rstrip("\r\n").rpartition("\t")
        if not name or not index.strip().isdigit():
            raise InputError(f"{source} line {number} is identifier<TAB>index, got {line.rstrip()[:60]!r}")
        yield number, (name, int(index))


def _write_table(
    source: Path, target: Path, num_entities: int, *, dtype: str, on_bad_row: str
) -> tuple[int, list[int]]:
    """The vectors behind a safetensors header. Returns their width and the numbers of bad lines."""
    code, numpy_dtype = _DTYPES[dtype]
    bad: list[int] = []
    with source.open("rb") as lines, target.open("wb") as out:
        size = _width(lines, source)
        shape = [num_entities + 1, size]
        entry = {"dtype": code, "shape": shape, "data_offsets": [0, shape[0] * size * numpy_dtype.itemsize]}
        header = json.dumps({TENSOR_NAME: entry}).encode()
        header += b" " * (-len(header) % 8)
        out.write(len(header).to_bytes(8, "little") + header + bytes(size * numpy_dtype.itemsize))
        written = 0
        while chunk := list(islice(lines, CHUNK_LINES)):
            chunk = chunk[: len(chunk) - _blank_at_end(chunk)]
            rows, wrong = _parse(chunk, size, source, first_line=written + 1, on_bad_row=on_bad_row)
            bad += wrong
            written += len(rows)
            if written > num_entities:
                break
            out.write(rows.astype(numpy_dtype).tobytes())
    if written != num_entities:
        more = "more" if written > num_entities else "only"
        raise InputError(f"{source} holds {more} {written} vectors where entity2id.txt names {num_entities} entities")
    return size, bad


def _width(lines: BinaryIO, source: Path) -> int:
    """Numbers in the first line; the file is at its beginning again."""
    size = len(lines.readline().split())
    lines.seek(0)
    if not size:
        raise InputError(f"{source} line 1 holds no vector")
    return size


def _blank_at_end(chunk: list[bytes]) -> int:
    blank = 0
    while blank < len(chunk) and not chunk[-1 - blank].strip():
        blank += 1
    return blank


def _parse(
    chunk: list[bytes], size: int, source: Path, *, first_line: int, on_bad_row: str
) -> tuple[np.ndarray, list[int]]:
    """float32 (len(chunk), size) and the numbers of lines that are zeros because they were bad."""
    if all(len(line.split()) == size for line in chunk):
        rows = _numbers(b" ".join(chunk))
        if rows is not None and rows.size == size * len(chunk) and np.isfinite(rows).all():
            return rows.reshape(len(chunk), size), []
    out, bad = np.zeros((len(chunk), size), dtype=np.float32), []
    for row, line in enumerate(chunk):
        numbers = _numbers(line)
        if numbers is not None and numbers.shape == (size,) and np.isfinite(numbers).all():
            out[row] = numbers
            continue
        if on_bad_row == "error":
            found = f"{len(line.split())} values" if len(line.split()) != size else "a value that is no finite number"
            raise InputError(
                f"{source} line {first_line + row} holds {found} where the first line holds {size} numbers: "
                f"the file was cut or damaged; fetch it again, or take on_bad_row='zero'"
            )
        bad.append(first_line + row)
    return out, bad


def _numbers(text: bytes) -> np.ndarray | None:
    """float32 of numbers between blanks; None where something else stands among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text.decode("ascii"), dtype=np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
