"""Instances on disk: Arrow shards, memory-mapped, one folder a split.

A shard is an Arrow stream, one row an instance; `datasets.Dataset.from_file(shard)` opens it as well.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kg.errors import InputError
from pretrain.instances import InstanceColumns

INDEX = "index.json"
REMEDY = "run `ernie-kg pretrain prepare` again"

COLUMNS = {
    "input_ids": "the word pieces; uint16 where the vocabulary fits, else uint32",
    "second_start": "index at which token type 1 begins, the length where it never does",
    "next_sentence_label": "0 the true next, 1 a random one, -100 no pair",
    "entity_ids": "a mention each: row of the entity table",
    "entity_positions": "a mention each: index of its first word piece",
    "entity_lengths": "a mention each: its word pieces",
    "entity_scores": "a mention each: probability of its link",
}
"""The columns of a shard and what they hold."""


def instance_schema(vocab_size: int) -> pa.Schema:
    piece = pa.uint16() if vocab_size <= 2**16 else pa.uint32()
    kinds = {
        "input_ids": pa.list_(piece),
        "second_start": pa.uint16(),
        "next_sentence_label": pa.int16(),
        "entity_ids": pa.list_(pa.int32()),
        "entity_positions": pa.list_(pa.uint16()),
        "entity_lengths": pa.list_(pa.uint16()),
        "entity_scores": pa.list_(pa.float32()),
    }
    return pa.schema([(name, kinds[name]) for name in COLUMNS])


class ShardWriter:
    """Appends instances to one shard, a record batch at a time."""

    def __init__(self, path: Path, *, vocab_size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.schema = instance_schema(vocab_size)
        self._stream = pa.ipc.new_stream(str(path), self.schema)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def write(self, made: InstanceColumns) -> None:
        columns = []
        for field in self.schema:
            values = getattr(made, field.name)
            if pa.types.is_list(field.type):
                counts = made.lengths if field.name == "input_ids" else made.entity_counts
                starts = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
                flat = pa.array(values.astype(field.type.value_type.to_pandas_dtype()))
                columns.append(pa.ListArray.from_arrays(starts, flat, type=field.type))
            else:
                columns.append(pa.array(values, field.type))
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.schema))


def write_index(folder: Path, *, described: Mapping[str, Any], shards: Mapping[str, int]) -> None:
    """Names a split's shards and their numbers of instances.

    described: what a reader must know of the tokenizer and the graph.
    """
    listed = [
        {"name": name, "instances": count, "bytes": (folder / name).stat().st_size} for name, count in shards.items()
    ]
    content = {**described, "columns": list(COLUMNS), "shards": listed}
    (folder / INDEX).write_text(json.dumps(content, indent=1), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Batch:
    """A record batch as NumPy views of the mapped file: `values[name][starts[name][row] : starts[name][row + 1]]`."""

    values: dict[str, np.ndarray]
    starts: dict[str, np.ndarray]


class _Columns:
    """The columns of all batches, joined."""

    def __init__(self, batches: Sequence[_Batch]) -> None:
        self._batches = batches

    def __getitem__(self, name: str) -> np.ndarray:
        parts = [batch.values[name] for batch in self._batches]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class Instances:
    """A split of an instances artifact; opening maps the shards and reads only the lengths.

    Indexing by row gives the features of `ernie.inputs` (unpadded arrays), `entity_lengths` and `entity_scores`.
    lengths: (num_instances,) word pieces of each. arrays: whole columns by name, flat, read when asked for.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InputError: no index; a shard missing, of another size than the index says, or not readable.
        """
        self.folder = Path(folder)
        self.described = _read_index(self.folder)
        self._batches = [batch for shard in self.described["shards"] for batch in _map_shard(self.folder, shard)]
        lengths = [np.diff(batch.starts["input_ids"]) for batch in self._batches]
        self.arrays = _Columns(self._batches)
        self._first_rows = np.concatenate([[0], np.cumsum([len(part) for part in lengths])]).astype(np.int64)
        self.lengths = np.concatenate([np.empty(0, dtype=np.int64), *lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        batch, place = self._place(row)
        input_ids = _row(batch, "input_ids", place).astype(np.int64)
        types = (np.arange(len(input_ids)) >= batch.values["second_start"][place]).astype(np.int64)
        return {
            "input_ids": input_ids,
            "token_type_ids": types,
            "entity_ids": self.entity_ids(row).astype(np.int64),
            "entity_positions": _row(batch, "entity_positions", place).astype(np.int64),
            "entity_lengths": _row(batch, "entity_lengths", place).astype(np.int64),
            "entity_scores": _row(batch, "entity_scores", place),
            "next_sentence_label": np.asarray(batch.values["next_sentence_label"][place], dtype=np.int64),
        }

    def entity_ids(self, row: int) -> np.ndarray:
        """The table rows of one instance's mentions, without reading the rest of it."""
        batch, place = self._place(row)
        return _row(batch, "entity_ids", place)

    @property
    def num_entities(self) -> np.ndarray:
        """(num_instances,) mentions of each."""
        counts = [np.diff(batch.starts["entity_ids"]) for batch in self._batches]
        return np.concatenate([np.empty(0, dtype=np.int64), *counts])

    def with_exchanged_entities(self, seed: int) -> Instances:
        """The same instances with every mention's link drawn anew from all links: how often an entity is linked stays,
        where it stands in the text tells nothing any more. For a control; holds all links in memory."""
        generator = np.random.Generator(np.random.Philox(seed))
        links = generator.permutation(self.arrays["entity_ids"])
        other = copy.copy(self)
        ends = np.cumsum([len(batch.values["entity_ids"]) for batch in self._batches])
        parts = np.split(links, ends[:-1]) if self._batches else []
        other._batches = [
            _Batch({**batch.values, "entity_ids": part}, batch.starts)
            for batch, part in zip(self._batches, parts, strict=True)
        ]
        other.arrays = _Columns(other._batches)
        return other

    def highest_entity_row(self) -> int:
        """0 where there is no mention at all; reads all entity ids."""
        return max((int(batch.values["entity_ids"].max(initial=0)) for batch in self._batches), default=0)

    def _place(self, row: int) -> tuple[_Batch, int]:
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._batches[number], row - int(self._first_rows[number])


def _row(batch: _Batch, name: str, place: int) -> np.ndarray:
    starts = batch.starts[name]
    return batch.values[name][starts[place] : starts[place + 1]]


def _map_shard(folder: Path, shard: Mapping[str, Any]) -> list[_Batch]:
    path = folder / shard["name"]
    found = path.stat().st_size if path.exists() else None
    if found != shard["bytes"]:
        came = "it is missing" if found is None else f"it has {found:,}"
        raise InputError(f"{path}: expected {shard['bytes']:,} bytes, {came}; {REMEDY}")
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            batches = [_views(batch) for batch in stream]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{path}: not a readable shard ({str(error).splitlines()[0]}); {REMEDY}") from None
    rows = sum(len(batch.values["second_start"]) for batch in batches)
    if rows != shard["instances"]:
        raise InputError(f"{path}: {rows:,} instances, {INDEX} says {shard['instances']:,}; {REMEDY}")
    return batches


def _views(batch: pa.RecordBatch) -> _Batch:
    values, starts = {}, {}
    for name in COLUMNS:
        column = batch.column(name)
        if isinstance(column, pa.ListArray):
            starts[name] = column.offsets.to_numpy()
            values[name] = column.values.to_numpy()
        else:
            values[name] = column.to_numpy()
    return _Batch(values, starts)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.exists():
        raise InputError(f"{path} does not exist; {REMEDY}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        missing = set(COLUMNS) - set(described["columns"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}); {REMEDY}") from None
    if missing:
        raise InputError(f"{path}: columns {sorted(missing)} are missing; {REMEDY}")
    return described
