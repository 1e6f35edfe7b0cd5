"""Where pre-training text comes from: linked shards, ERNIE's aligned text, or a `datasets` data set.

A source is cut into units, each read alone by any process; a unit gives blocks of documents, small enough for memory.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.artifact import open_artifact
from kg.errors import InputError
from pretrain.instances import EncodedDocument, Mentions, Segment, encode_documents
from pretrain.wordpieces import PieceCutter

LINK = "link"
SHARDS = "shard-*.parquet"
LINKED = ("id", "text", "mentions")
"""The stage that links, the files it writes, and their columns that are read here."""
BLOCK_DOCUMENTS = 2000
"""Documents of a block at most; a random second segment is another document's of the same block."""
BLOCK_CHARACTERS = 2_000_000
"""Characters of a block, unless its only document has more."""
ROWS_AT_ONCE = 256
UNIT_ROWS = 20_000
"""Rows of a data set that make one unit."""
NO_ENTITY = "#UNK#"
"""What aligned text has in place of an entity where there is none."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source. number: its place in the source. kind: a key of READERS. settings: what that reader needs."""

    number: int
    kind: str
    path: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What every reader needs: how text becomes pieces, and identifiers rows of the entity table."""

    cutter: PieceCutter
    pieces: Mapping[str, int]
    entity_rows: Mapping[str, int]
    unknown_piece: int


@dataclass(frozen=True, slots=True)
class Block:
    """names, documents: one each. characters: of text read, word pieces where the source has no text."""

    names: list[str]
    documents: list[EncodedDocument]
    characters: int
    bytes: int


def linked_units(folder: Path) -> list[Unit]:
    """One unit a shard of a `link` artifact.

    Raises:
        InputError: the folder is no finished artifact of `link`; a shard is missing or of another size.
    """
    open_artifact(folder, stage=LINK)
    return [Unit(n, "linked", path, {}) for n, path in enumerate(sorted(folder.glob(SHARDS)))]


def aligned_units(folder: Path, *, tokens: str) -> list[Unit]:
    """One unit a pair of files `NAME_token` and `NAME_entity`, the layout of ERNIE's own pre-training data.

    tokens: `pieces` or `ids`, what NAME_token holds.

    Raises:
        InputError: there is no such pair, or one of the two is missing.
    """
    pairs = sorted(folder.glob("*_token")) if folder.is_dir() else []
    if not pairs:
        raise InputError(f"{folder}: expected pairs of files NAME_token and NAME_entity, found none")
    for path in pairs:
        if not _entities_beside(path).is_file():
            raise InputError(f"{path} has no {_entities_beside(path).name} beside it; each NAME_token needs one")
    return [Unit(n, "aligned", path, {"tokens": tokens}) for n, path in enumerate(pairs)]


def dataset_units(path: Path, *, text: str, mentions: str, name: str | None) -> list[Unit]:
    """Runs of UNIT_ROWS rows of a data set that `datasets` saved (`save_to_disk`), or of a parquet or JSON-lines file.

    text, mentions, name: columns; mentions is a list of {start, end, entity} and perhaps `score`; without `name` a
    document is named by its row.

    Raises:
        InputError: no such file, one that `datasets` cannot read, or a column is missing.
    """
    table = _open_dataset(path)
    wanted = [text, mentions, *([name] if name else [])]
    missing = [column for column in wanted if column not in table.column_names]
    if missing:
        raise InputError(f"{path}: expected columns {wanted}, {missing} are missing; it has {table.column_names}")
    _require_mentions(table.features.arrow_schema.field(mentions), path)
    settings = {"text": text, "mentions": mentions, "name": name}
    starts = range(0, max(1, len(table)), UNIT_ROWS)
    return [Unit(n, "dataset", path, {**settings, "first": start}) for n, start in enumerate(starts)]


def _require_mentions(column: pa.Field, path: Path) -> None:
    """
    Raises:
        InputError: the column holds no lists of structs with start, end and entity (lists that are all empty may be of
            anything).
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_null(kind.value_type):
            return
        names = [field.name for field in kind.value_type] if pa.types.is_struct(kind.value_type) else []
        if {"start", "end", "entity"} <= set(names):
            return
    raise InputError(
        f"{path}: column {column.name!r} must hold lists of {{start, end, entity}}, perhaps with score; it is {kind}"
    )


def read_unit(unit: Unit, reading: Reading, dropped: Counter[str]) -> Iterator[Block]:
    """The unit's documents in order, in blocks; what is left out of them is counted in `dropped`."""
    return READERS[unit.kind](unit, reading, dropped)


def _read_linked(unit: Unit, reading: Reading, dropped: Counter[str]) -> Iterator[Block]:
    try:
        with pq.ParquetFile(unit.path) as file:
            missing = [name for name in LINKED if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{unit.path}: columns {missing} are missing; run `ernie-kg {LINK}` again")
            batches = file.iter_batches(ROWS_AT_ONCE, columns=list(LINKED))
            tables = (pa.Table.from_batches([batch]) for batch in batches)
            yield from _encoded(tables, LINKED, reading, dropped)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{unit.path}: not a readable shard ({reason}); delete it and run `ernie-kg {LINK}` again"
        ) from None


def _read_dataset(unit: Unit, reading: Reading, dropped: Counter[str]) -> Iterator[Block]:
    first, settings = unit.settings["first"], unit.settings
    table = _open_dataset(unit.path)
    last = min(first + UNIT_ROWS, len(table))
    columns = [settings["text"], settings["mentions"]]
    tables = _row_tables(table, first, last, columns, settings["name"])
    yield from _encoded(tables, ("name", *columns), reading, dropped)


def _row_tables(table: Any, first: int, last: int, columns: list[str], name: str | None) -> Iterator[pa.Table]:
    for start in range(first, last, ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, last))
        part = table.with_format("arrow")[rows.start : rows.stop]
        names = part[name].cast(pa.string()) if name else pa.array([str(row) for row in rows])
        yield part.select(columns).append_column("name", names)


def _open_dataset(path: Path) -> Any:
    import datasets

    try:
        if path.is_dir():
            found = datasets.load_from_disk(str(path))
        elif path.suffix in (".parquet", ".json", ".jsonl"):
            kind = datasets.Dataset.from_parquet if path.suffix == ".parquet" else datasets.Dataset.from_json
            found = kind(str(path))
        else:
            raise InputError(f"{path}: expected a folder of `save_to_disk`, or a .parquet, .json or .jsonl file")
    except (OSError, pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"{path}: `datasets` cannot read it ({str(error).splitlines()[0]})") from None
    if isinstance(found, datasets.DatasetDict):
        raise InputError(f"{path} holds the splits {sorted(found)}; give the folder of one of them")
    return found


def _encoded(
    tables: Iterator[pa.Table], columns: tuple[str, str, str], reading: Reading, dropped: Counter[str]
) -> Iterator[Block]:
    """Blocks of tables whose columns are a name, a text and mentions."""
    for part in _in_blocks(tables, columns[1]):
        names, texts = (part[column].to_pylist() for column in columns[:2])
        texts = ["" if text is None else text for text in texts]
        mentions = _mentions_of(part[columns[2]].combine_chunks(), reading.entity_rows)
        documents = encode_documents(texts, mentions, reading.cutter, dropped)
        size = sum(len(text.encode()) for text in texts)
        yield Block([str(name) for name in names], documents, sum(map(len, texts)), size)


def _in_blocks(tables: Iterator[pa.Table], text: str) -> Iterator[pa.Table]:
    """The rows in tables of BLOCK_DOCUMENTS rows or BLOCK_CHARACTERS characters."""
    waiting: list[pa.Table] = []
    rows = characters = 0
    for table in tables:
        sizes = np.array([len(value or "") for value in table[text].to_pylist()], dtype=np.int64)
        start = 0
        for row, size in enumerate(sizes.tolist()):
            if rows and (rows >= BLOCK_DOCUMENTS or characters + size > BLOCK_CHARACTERS):
                yield pa.concat_tables([*waiting, table.slice(start, row - start)])
                waiting, rows, characters, start = [], 0, 0, row
            rows, characters = rows + 1, characters + size
        waiting.append(table.slice(start))
    if rows:
        yield pa.concat_tables(waiting)


def _mentions_of(column: pa.Array, entity_rows: Mapping[str, int]) -> Mentions:
    """list<struct<start, end, entity, score?>> as flat columns, ordered by document and start."""
    counts = column.value_lengths().fill_null(0).to_numpy()
    flat = column.flatten()
    if not len(flat):
        none = np.empty(0, dtype=np.int64)
        return Mentions(none, none, none, none, none.astype(np.float32))
    entity = flat.field("entity").cast(pa.string()).dictionary_encode()
    rows = np.array([entity_rows.get(name, 0) for name in entity.dictionary.to_pylist()], dtype=np.int64)
    known = entity.indices.fill_null(len(rows)).to_numpy()
    scores = np.ones(len(flat), dtype=np.float32)
    if flat.type.get_field_index("score") >= 0:
        scores = flat.field("score").cast(pa.float32()).fill_null(1.0).to_numpy()
    starts, ends = (flat.field(name).cast(pa.int64()).fill_null(-1).to_numpy() for name in ("start", "end"))
    document = np.repeat(np.arange(len(column)), counts)
    mentions = Mentions(document, starts, ends, np.append(rows, 0)[known], scores)
    return mentions.take(np.lexsort((starts, document)))


def _read_aligned(unit: Unit, reading: Reading, dropped: Counter[str]) -> Iterator[Block]:
    entity_path = _entities_beside(unit.path)
    to_ids = _piece_numbers if unit.settings["tokens"] == "ids" else _piece_names
    names: list[str] = []
    documents: list[EncodedDocument] = []
    pieces = size = 0
    with unit.path.open("rb") as tokens, entity_path.open("rb") as entities:
        for number, lines in enumerate(itertools.zip_longest(tokens, entities), start=1):
            place = f"{unit.path}, line {number}"
            if None in lines:
                raise InputError(f"{place}: {unit.path.name} and {entity_path.name} differ in their number of lines")
            left, right = (_decoded(line, place) for line in lines)
            words, borders = _aligned_line(left, place)
            marks, others = _aligned_line(right, f"{entity_path}, line {number}")
            if not np.array_equal(borders, others):
                raise InputError(f"{place}: its sentences are not as long as those of {entity_path.name}; both must be")
            ids = to_ids(words, reading, dropped, place)
            documents.append(EncodedDocument(_aligned_segment(ids, marks, borders, reading, dropped), borders))
            names.append(f"{unit.path.name}:{number}")
            pieces, size = pieces + len(ids), size + len(lines[0])
            if len(documents) >= BLOCK_DOCUMENTS or pieces > BLOCK_CHARACTERS // 4:
                yield Block(names, documents, pieces, size)
                names, documents, pieces, size = [], [], 0, 0
    if documents:
        yield Block(names, documents, pieces, size)


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from None


def _aligned_line(line: str, place: str) -> tuple[list[str], np.ndarray]:
    """The tokens of a line, and sentence borders (num_sentences + 1,).

    before: `2 <tab> 2 <tab> ada <tab> met <tab> 1 <tab> bob` → after: [ada, met, bob], [0, 2, 3]
    """
    fields = line.rstrip("\r\n").split("\t")
    tokens: list[str] = []
    borders, at = [0], 1
    try:
        for _ in range(int(fields[0])):
            length = int(fields[at])
            tokens += fields[at + 1 : at + 1 + length]
            at += 1 + length
            if length:
                borders.append(len(tokens))
    except (ValueError, IndexError):
        at = -1
    if at != len(fields) or len(tokens) != borders[-1]:
        raise InputError(
            f"{place}: expected `number of sentences, length, tokens …, length, tokens …` separated by tabs, "
            f"got {len(fields)} fields that do not add up"
        )
    return tokens, np.array(borders, dtype=np.int64)


def _piece_names(words: list[str], reading: Reading, dropped: Counter[str], place: str) -> np.ndarray:
    """Ids of word pieces by name; one that the vocabulary lacks becomes the unknown piece and is counted."""
    ids = np.array([reading.pieces.get(word, -1) for word in words], dtype=np.int64)
    dropped["unknown_word_piece"] += int((ids < 0).sum())
    return np.where(ids < 0, reading.unknown_piece, ids)


def _piece_numbers(words: list[str], reading: Reading, dropped: Counter[str], place: str) -> np.ndarray:
    try:
        ids = np.array(words, dtype=np.int64)
    except ValueError as error:
        raise InputError(
            f"{place}: expected numbers of word pieces ({error}); or set aligned_tokens to pieces"
        ) from None
    if ids.size and not 0 <= ids.min() <= ids.max() < len(reading.pieces):
        raise InputError(
            f"{place}: word piece {int(ids.max())} of a vocabulary of {len(reading.pieces):,}; the ids are another "
            f"tokenizer's"
        )
    return ids


def _aligned_segment(
    ids: np.ndarray, marks: list[str], borders: np.ndarray, reading: Reading, dropped: Counter[str]
) -> Segment:
    """A run of pieces with one entity within a sentence is one mention: the layout knows no border between two."""
    begins_sentence = set(borders.tolist())
    begins = [n for n, mark in enumerate(marks) if mark != NO_ENTITY and (n in begins_sentence or marks[n - 1] != mark)]
    ends = []
    for start in begins:
        end = start + 1
        while end < len(marks) and marks[end] == marks[start] and end not in begins_sentence:
            end += 1
        ends.append(end)
    rows = np.array([reading.entity_rows.get(marks[start], 0) for start in begins], dtype=np.int64)
    dropped["unknown_entity"] += int((rows == 0).sum())
    positions, lengths = np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64) - np.array(begins, np.int64)
    kept = rows != 0
    scores = np.ones(int(kept.sum()), dtype=np.float32)
    return Segment(ids, rows[kept], positions[kept], lengths[kept], scores)


def _entities_beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("_token") + "_entity")


READERS: dict[str, Callable[[Unit, Reading, Counter[str]], Iterator[Block]]] = {
    "linked": _read_linked,
    "aligned": _read_aligned,
    "dataset": _read_dataset,
}
"""How a unit of each kind is read."""
