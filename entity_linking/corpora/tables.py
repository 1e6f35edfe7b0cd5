"""Text in columns: CSV and TSV, Parquet, and data sets that the `datasets` package saved."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.corpora.columns import Columns
from entity_linking.corpora.records import RAW_CHARACTERS, BadRecord, NamedFile, Record, document_of, utf8
from kg.errors import InputError
from kg.readers.lines import open_stream

LONGEST_FIELD = 1 << 30
BATCH_BYTES = 1 << 23
BATCH_ROWS = 1024
SPLITS, STATE = "dataset_dict.json", "state.json"


def read_csv(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A `.csv` or `.tsv` file (or packed): the first line names the columns.

    Fields may be quoted with `"` (doubled inside) and then hold line ends; `.tsv` is parted by tabs, all else by
    commas. Without an id, file and line where the row begins are the id: `news.csv:12`.

    Raises:
        InputError: no line of names, one twice, or none for the text.
    """
    if csv.field_size_limit() < LONGEST_FIELD:
        csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if ".tsv" in file.suffixes[-2:] else ","
    with open_stream(file) as stream:
        lines = _Lines(io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="\n"))
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        names = _header(rows, file, columns)
        yield from _csv_records(lines, rows, names, name, columns)


class _Lines:
    """The lines of a file as `csv` asks for them, keeping the beginning of what one record took."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._first = True
        self.taken = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if self._first:
            self._first, line = False, line.removeprefix("\ufeff")
        if len(self.taken) < RAW_CHARACTERS:
            self.taken += line[:RAW_CHARACTERS]
        return line


def _csv_records(lines: _Lines, rows: Any, names: Sequence[str], name: str, columns: Columns) -> Iterator[Record]:
    while True:
        place = f"{name}:{rows.line_num + 1}"
        lines.taken = ""
        try:
            row = next(rows)
            if not row:
                continue
            if any(not value.isascii() for value in row):
                row = [utf8(value.encode("utf-8", "surrogateescape")) for value in row]
            if len(row) != len(names):
                what = f"expected {len(names)} fields as in the first line, got {len(row)}; mend the row"
                raise BadRecord("wrong_column_count", what)
            yield document_of(dict(zip(names, row, strict=True)), columns, place), place
        except StopIteration:
            return
        except csv.Error as error:
            what = f"not CSV ({error}); a field with a quote or a line end stands in quotes, its quotes doubled"
            yield BadRecord("invalid_csv", what).at(place, lines.taken.encode("utf-8", "surrogateescape"))
        except BadRecord as bad:
            yield bad.at(place, lines.taken.encode("utf-8", "surrogateescape"))


def _header(rows: Any, file: Path, columns: Columns) -> list[str]:
    try:
        names = [utf8(name.encode("utf-8", "surrogateescape")).strip() for name in next(rows, [])]
    except (csv.Error, BadRecord) as error:
        raise InputError(f"{file}:1: expected the names of the columns, got what is no CSV ({error})") from None
    if columns.text not in names:
        raise _no_text(f"{file}:1", columns, names)
    twice = [name for name, uses in Counter(names).items() if uses > 1 and name in vars(columns).values()]
    if twice:
        raise InputError(f"{file}:1: the column {twice[0]!r} is there twice; rename one of them")
    return names


def read_parquet(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A Parquet file: a row a document, columns by name.

    Without an id, file and row (from 1) are the id: `part-0.parquet:12`. Rows are read some megabytes at a time.

    Raises:
        InputError: the file is not Parquet or damaged, or lacks the column of the text, or has it in another type.
    """
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
            wanted = _wanted(table.schema_arrow, str(file), columns)
            rows = max(table.metadata.num_rows, 1)
            groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
            size = sum(group.total_byte_size for group in groups) // rows
            batches = table.iter_batches(_rows_at_once(size), columns=wanted)
            yield from _column_records(batches, name, columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a whole Parquet file ({_line(error)}); fetch or write it again") from None


def read_arrow(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A file of a data set that `datasets` saved; it is mapped, not loaded.

    Without an id, split, file and row (from 1) are the id: `train/data-00000-of-00001.arrow:12`.

    Raises:
        InputError: the file is missing or damaged, or a column is as in `read_parquet`.
    """
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            wanted = _wanted(stream.schema, str(file), columns)
            parts = (_parts(batch.select(wanted)) for batch in stream)
            yield from _column_records((part for batch in parts for part in batch), name, columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a whole Arrow file ({_line(error)}); save the data set again") from None


def arrow_files(path: Path) -> list[NamedFile]:
    """The files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, splits in their order.

    Raises:
        InputError: no such folder.
    """
    if (path / SPLITS).is_file():
        splits = [str(split) for split in _json(path / SPLITS, "splits")]
        return [(file, f"{split}/{name}") for split in splits for file, name in arrow_files(path / split)]
    if not (path / STATE).is_file():
        raise InputError(
            f"{path}: expected a folder of `save_to_disk` with {STATE} or {SPLITS}; save the data set with it, or "
            f"give its Parquet files as format parquet"
        )
    names = [e.get("filename", "") if isinstance(e, dict) else "" for e in _json(path / STATE, "_data_files")]
    return [(path / name, name) for name in names]


def _json(file: Path, key: str) -> list[Any]:
    try:
        found = json.loads(file.read_bytes())[key]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, list):
        raise InputError(f"{file}: expected a JSON object with a list {key!r}; save the data set again")
    return found


def _wanted(schema: pa.Schema, place: str, columns: Columns) -> list[str]:
    """Names of the columns to read.

    Raises:
        InputError: the text's is missing, or one is neither text nor (the id) whole numbers.
    """
    if columns.text not in schema.names:
        raise _no_text(place, columns, schema.names)
    wanted = [name for name in dict.fromkeys(vars(columns).values()) if name in schema.names]
    for name in wanted:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        whole = name == columns.id and pa.types.is_integer(kind)
        if not (whole or pa.types.is_null(kind) or _is_text(kind)):
            raise InputError(f"{place}: column {name!r} holds {kind}, expected strings; name another column")
    return wanted


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _column_records(batches: Iterator[pa.RecordBatch], name: str, columns: Columns) -> Iterator[Record]:
    number = 0
    for batch in batches:
        values = [_values(column) for column in batch.columns]
        for row in zip(*values, strict=True):
            number += 1
            place = f"{name}:{number}"
            try:
                yield document_of(_decoded(batch.schema.names, row), columns, place), place
            except BadRecord as bad:
                yield bad.at(place, row[batch.schema.names.index(columns.text)] or b"")


def _decoded(names: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    return {name: utf8(value) if isinstance(value, bytes) else value for name, value in zip(names, row, strict=True)}


def _values(column: pa.Array) -> list[Any]:
    """Strings as bytes: Arrow's readers do not check that they are UTF-8, and one that is not would end the batch."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        view = pa.types.is_string_view(column.type)
        column = column.cast(pa.large_string()) if view else column
        column = column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
    return column.to_pylist()


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = _rows_at_once(batch.nbytes // max(batch.num_rows, 1))
    return (batch.slice(low, rows) for low in range(0, batch.num_rows, rows))


def _rows_at_once(bytes_a_row: int) -> int:
    return min(max(BATCH_BYTES // max(bytes_a_row, 1), 1), BATCH_ROWS)


def _no_text(place: str, columns: Columns, names: Sequence[str]) -> InputError:
    found = ", ".join(names) if names else "none"
    return InputError(
        f"{place}: expected a column {columns.text!r} with the text, found {found[:200]}; name it with `columns.text`"
    )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
