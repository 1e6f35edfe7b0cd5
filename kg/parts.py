"""A source's batches on disk while it is read, so that memory stays flat and an interrupted read goes on.

A part is one batch: records as an Arrow file, triples as numbers with the names they stand for, and a small JSON
file, written last, that says the part is whole and where in the source it ends.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from kg.aliases import AliasWeights
from kg.records import Batch, Entity, Names

LONGEST_LABEL = 1_000
LONGEST_DESCRIPTION = 100_000
"""Code points; what is longer is cut there and counted."""
RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("description", pa.string()),
        ("types", pa.list_(pa.string())),
        ("count", pa.int64()),
        ("weights", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True, slots=True)
class Triples:
    """A part's triples. codes: int32 (n, 3), places in `entities`, `relations`, `entities`; names in order of use."""

    codes: np.ndarray
    entities: list[str]
    relations: list[str]
    split: str


class Parts:
    """The parts in a folder, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.markers: list[dict[str, Any]] = []
        while (path := self._path(len(self.markers), "json")).exists():
            self.markers.append(json.loads(path.read_text(encoding="utf-8")))
        while not self.whole and self.markers and not self.markers[-1]["position"]:
            self.markers.pop()  # reading cannot go on behind it: what it holds will be read again
            self._path(len(self.markers), "json").unlink()

    @property
    def position(self) -> int:
        """Where reading goes on, as the last batch said; 0 at the beginning."""
        return self.markers[-1]["position"] if self.markers else 0

    @property
    def whole(self) -> bool:
        """The source was read to its end: there is nothing to go on with."""
        return bool(self.markers) and self.markers[-1]["last"]

    def read(self, batches: Iterator[Batch], weights: AliasWeights) -> Iterator[Batch]:
        """Writes batches as further parts, and yields each when it is on disk.

        A batch is written once the next one came, or the source ended well: where a reader finds at the end that its
        source was cut off, the parts do not look whole.
        """
        batch = next(batches, None)
        while batch is not None:
            following = next(batches, None)
            self.write(batch, weights, last=following is None)
            yield batch
            batch = following

    def write(self, batch: Batch, weights: AliasWeights, *, last: bool = False) -> None:
        """Adds a batch as the next part; `last`: the source ends with it."""
        number, dropped = len(self.markers), Counter(batch.dropped)
        if len(batch.entities):
            _write_table(self._path(number, "records"), records_table(batch.entities, weights, dropped))
        if len(batch.heads):
            (heads, tails), entities = _interned(batch.heads, batch.tails)
            (relations,), names = _interned(batch.relation_ids)
            np.save(self._path(number, "npy"), np.stack([heads, relations, tails], axis=1))
            _write_table(self._path(number, "entities"), pa.table({"name": entities}))
            _write_table(self._path(number, "relations"), pa.table({"name": names}))
        marker = {
            "position": batch.position,
            "last": last,
            "split": batch.split,
            "dropped": dict(dropped),
            "relations": [[relation.id, relation.label] for relation in batch.relations],
            "records": bool(len(batch.entities)),
            "triples": bool(len(batch.heads)),
            "notes": batch.notes is not None and len(batch.notes) > 0,
        }
        if marker["notes"]:
            _write_table(self._path(number, "notes"), batch.notes)
        unfinished = self._path(number, "json.tmp")
        unfinished.write_text(json.dumps(marker), encoding="utf-8")
        unfinished.rename(self._path(number, "json"))
        self.markers.append(marker)

    def records(self) -> Iterator[pa.Table]:
        """The records of each part that has some, in order; columns as in RECORDS."""
        for number, marker in enumerate(self.markers):
            if marker["records"]:
                yield _read_table(self._path(number, "records"))

    def notes(self) -> Iterator[pa.Table]:
        """What the reader asked to be told again, part by part."""
        for number, marker in enumerate(self.markers):
            if marker["notes"]:
                yield _read_table(self._path(number, "notes"))

    def triples(self) -> Iterator[Triples]:
        """The triples of each part that has some, in order."""
        for number, marker in enumerate(self.markers):
            if marker["triples"]:
                entities, relations = (
                    _read_table(self._path(number, kind))["name"].to_pylist() for kind in ("entities", "relations")
                )
                yield Triples(np.load(self._path(number, "npy")), entities, relations, marker["split"])

    def relations(self) -> dict[str, str]:
        """Label by relation id, of those the source names, in its order."""
        return {name: label for marker in self.markers for name, label in marker["relations"]}

    def dropped(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for marker in self.markers:
            total.update(marker["dropped"])
        return total

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"part-{number:06}.{kind}"


def records_table(entities: Sequence[Entity], weights: AliasWeights, dropped: Counter[str]) -> pa.Table:
    """Records in columns, overlong labels and descriptions cut (`label_cut`, `description_cut`)."""
    weighed = [weights.of(entity.aliases, dropped) for entity in entities]
    dropped.update(
        label_cut=sum(len(entity.label) > LONGEST_LABEL for entity in entities),
        description_cut=sum(len(entity.description) > LONGEST_DESCRIPTION for entity in entities),
    )
    columns = [
        [entity.id for entity in entities],
        [entity.label[:LONGEST_LABEL] for entity in entities],
        [list(of) for of in weighed],
        [entity.description[:LONGEST_DESCRIPTION] for entity in entities],
        [entity.types for entity in entities],
        [entity.count for entity in entities],
        [list(of.values()) for of in weighed],
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, RECORDS)], schema=RECORDS)


def _interned(*columns: Names) -> tuple[list[np.ndarray], pa.Array]:
    """Columns of names as int32 codes, and the names by code, in the order a reader of the rows meets them."""
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, pa.string()) for c in columns]
    encoded = pa.concat_arrays([array.cast(pa.string()) for array in arrays]).dictionary_encode()
    codes = encoded.indices.to_numpy().reshape(len(columns), -1)
    _, first = np.unique(codes.T.ravel(), return_index=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return [place[line] for line in codes], encoded.dictionary.take(pa.array(order))


def _write_table(path: Path, table: pa.Table) -> None:
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    with pyarrow.ipc.new_file(str(path), table.schema, options=options) as file:
        file.write_table(table)


def _read_table(path: Path) -> pa.Table:
    with pyarrow.ipc.open_file(str(path)) as file:
        return file.read_all()
