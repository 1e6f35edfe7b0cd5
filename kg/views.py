"""What the commands that only print are told: `kg info`, `kg query`, `kg neighbours`.

Importing this module loads no array library, so that their help is quick; each function loads what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Which graph, and how much of it."""

    graph: Path
    """Graph artifact (`kg build`)."""
    top: int = 10
    """Lines of each list: relations, entities of highest degree, types, components, relation pairs."""
    json: bool = False
    """Prints the figures as one JSON object instead of tables."""

    def __post_init__(self) -> None:
        _at_least_one(self, "top")


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """Which entity of which graph."""

    graph: Path
    """Graph artifact (`kg build`)."""
    name: str
    """Id of the entity, or one of its names; a name of several words stands in quotes."""
    neighbours: int = 5
    """Neighbours shown under each relation and direction."""
    relations: int = 20
    """Relations shown, those with most neighbours."""

    def __post_init__(self) -> None:
        _at_least_one(self, "neighbours", "relations")


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig:
    """Which entity, in which vectors, and what "near" means."""

    vectors: Path
    """Vectors artifact (`kg embed`)."""
    name: str
    """Id of the entity, or one of its names; a name of several words stands in quotes."""
    graph: Path | None = None
    """The graph that the vectors were made from; not needed where it still lies where `kg embed` read it."""
    k: int = 10
    """Entities shown."""
    by: Literal["cosine", "translation"] = "cosine"
    """cosine: of the two vectors, through the index; translation: the least distance |h + r - t| over all relations,
    either entity as head, exact."""

    def __post_init__(self) -> None:
        _at_least_one(self, "k")


def info(config: InfoConfig) -> str:
    """Tables of a graph's figures, or JSON."""
    from kg.overview import overview, overview_json

    return overview_json(config.graph, top=config.top) if config.json else overview(config.graph, top=config.top)


def query(config: QueryConfig) -> str:
    """One entity with its names and neighbours; every entity of that name."""
    from kg.graph import KnowledgeGraph
    from kg.query import answer

    graph = KnowledgeGraph.load(config.graph)
    return answer(graph, config.name, neighbours=config.neighbours, relations=config.relations)


def neighbours(config: NeighboursConfig) -> str:
    """The nearest entities by vector, next to the neighbours in the graph."""
    from kg.neighbours import nearest_and_linked

    return nearest_and_linked(config.vectors, config.name, graph=config.graph, k=config.k, by=config.by)


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"expected {name} of at least 1, got {getattr(config, name)}")
