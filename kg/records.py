"""What a reader hands over: plain values by name, before anything has a row number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

Names: TypeAlias = "Sequence[str] | pa.Array"
"""A column of names."""


@dataclass(frozen=True, slots=True)
class Triple:
    """A fact by name."""

    head: str
    relation: str
    tail: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: its id and the name people read."""

    id: str
    label: str


class Alias(NamedTuple):
    """A surface form of an entity. A tuple, as `Entity`: dumps have many millions, a dataclass takes twice as long.

    count: how often the surface meant this entity where somebody counted; 0 when nobody did.
    rank: the entity's place among those of the surface, from 0, where the source orders them; it breaks ties.
    """

    surface: str
    count: int = 0
    rank: int = 0


class Entity(NamedTuple):
    """A node of the graph as its source describes it.

    aliases: every surface form, the label's own among them.
    types: names of the classes it belongs to.
    count: how often it was seen, for priors; 0 when nobody counted.
    """

    id: str
    label: str
    aliases: tuple[Alias, ...] = ()
    description: str = ""
    types: tuple[str, ...] = ()
    count: int = 0


@dataclass(slots=True)
class Batch:
    """A piece of a source: some records, some triples in columns, in any order between batches.

    entities: records; an id may come again with an equal record (the stage counts it), never with another one.
    relations: names of relations, where the source has them.
    heads, relation_ids, tails: one triple a place; lists of text, or Arrow string arrays where the reader has them.
    split: "train", "valid" or "test" for the triples of a published split; "" for a source without one.
    dropped: what the reader left out in this piece, by reason.
    bytes_read: bytes of (uncompressed) source behind this piece, for progress.
    position: where reading goes on after this piece, for readers that can resume; 0 = cannot.
    notes: an Arrow table that the reader needs again when it goes on after this piece (`ReadOptions.notes`), or None.
    """

    entities: Sequence[Entity] = ()
    relations: Sequence[Relation] = ()
    heads: Names = ()
    relation_ids: Names = ()
    tails: Names = ()
    split: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    position: int = 0
    notes: pa.Table | None = None


@dataclass(slots=True)
class RawGraph:
    """A source opened by a reader: batches, walked once, so that memory stays flat.

    batches: the pieces; malformed input raises InputError (file:line) while they are walked.
    closed: True: every entity has a record, and a triple that names another is dropped as `unknown_entity` (a cut of
        a larger graph). False: a name without a record becomes an entity labelled with its id.
    total_bytes: size of the source for progress, 0 when unknown.
    """

    batches: Iterator[Batch]
    closed: bool = False
    total_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a reader may be told; a reader ignores what its format has no notion of.

    languages: codes in order of preference, for labels, aliases and descriptions.
    position: `Batch.position` of the last finished batch of an interrupted read; 0 = from the beginning.
    notes: `Batch.notes` of the finished batches, in order.
    """

    languages: tuple[str, ...] = ("en",)
    position: int = 0
    notes: Iterable[pa.Table] = ()


def readable(identifier: str) -> str:
    """What people read where nobody gave a label: the identifier with spaces for underscores.

    >>> readable("New_York_City")
    'New York City'
    """
    return " ".join(identifier.replace("_", " ").split()) or identifier
