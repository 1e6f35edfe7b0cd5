"""What a reader hands over: plain values by name, before anything has a row number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class Alias:
    """A surface form of an entity.

    count: how often the surface meant this entity where somebody counted; 0 when nobody did.
    rank: the entity's place among those of the surface, from 0, where the source orders them; it breaks ties.
    """

    surface: str
    count: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Entity:
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
class RawGraph:
    """A source opened by a reader: streams that are walked once, the entities to their end before the triples.

    entities: every entity a triple names, each id once.
    triples: as the source has them; loops and duplicates are the stage's business.
    relations: labels, where the source has them; any other relation takes its id for a label.
    dropped: filled while the streams are walked, by reason.
    """

    entities: Iterator[Entity]
    triples: Iterator[Triple]
    relations: Sequence[Relation] = ()
    dropped: Counter[str] = field(default_factory=Counter)


def readable(identifier: str) -> str:
    """What people read where nobody gave a label: the identifier with spaces for underscores.

    >>> readable("New_York_City")
    'New York City'
    """
    return " ".join(identifier.replace("_", " ").split()) or identifier
