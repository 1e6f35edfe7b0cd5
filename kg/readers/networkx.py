"""Graphs of networkx: GraphML, node-link JSON and edge lists by the file's ending, or a graph in memory.

A node becomes an entity under the text of its name; its attributes `label` (or `name`), `description`, `types` and
`aliases` (lists, or text with `|` between the parts) and `count` are read. An edge becomes a triple. Its relation is
the edge's key where that is text, else its attribute `relation`, `label`, `type` or `key`, else `related_to`; an
undirected edge is one triple, in the order the file has it. A third column of an edge list that is no dictionary is
the relation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx

from kg.errors import InputError
from kg.readers.batches import entity_batches, triple_batches
from kg.readers.lines import numbered_lines, open_stream
from kg.records import Alias, Entity, RawGraph, ReadOptions, readable

RELATION_KEYS = ("relation", "label", "type", "key")
UNNAMED = "related_to"
GRAPHML, NODE_LINK, EDGES = (".graphml", ".xml"), (".json",), (".edgelist", ".edges", ".txt")
PACKED = (".gz", ".bz2", ".zst")
FORBIDDEN = (b"<!DOCTYPE", b"<!ENTITY")


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens a file of a graph; networkx holds it in memory, about 1 kB an edge. `options` say nothing to it.

    Raises:
        InputError: an unknown ending, a file that is not of its format, or GraphML with a document type (entities
            of XML can grow without bound, and GraphML needs none).
    """
    name = source.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    ending = Path(name).suffix
    if ending in GRAPHML:
        return from_networkx(_graphml(source))
    if ending in NODE_LINK:
        return from_networkx(_node_link(source))
    if ending in EDGES:
        return from_networkx(_edge_list(source))
    known = ", ".join((*GRAPHML, *NODE_LINK, *EDGES))
    raise InputError(f"{source}: expected an ending of {known} (or packed), got {ending or 'none'}")


def from_networkx(graph: nx.Graph) -> RawGraph:
    """Any graph of networkx as a source, nodes in order, then edges.

    Raises:
        InputError: while walked, at a node whose attribute is of another type than said above.
    """

    def batches() -> Iterator:
        yield from entity_batches(_entity(str(node), attributes) for node, attributes in graph.nodes(data=True))
        yield from triple_batches(_triples(graph))

    return RawGraph(batches(), closed=True)


def _triples(graph: Any) -> Iterator[tuple[str, str, str]]:
    if graph.is_multigraph():
        for head, tail, key, attributes in graph.edges(keys=True, data=True):
            yield str(head), key if isinstance(key, str) and key else _relation(attributes), str(tail)
    else:
        for head, tail, attributes in graph.edges(data=True):
            yield str(head), _relation(attributes), str(tail)


def _relation(attributes: dict[str, Any]) -> str:
    named = (str(attributes[key]) for key in RELATION_KEYS if attributes.get(key) not in (None, ""))
    return next(named, UNNAMED)


def _entity(name: str, attributes: dict[str, Any]) -> Entity:
    label = str(attributes.get("label") or attributes.get("name") or readable(name))
    surfaces = dict.fromkeys([label, *_parts(name, attributes, "aliases")])
    count = attributes.get("count", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"node {name!r}: expected count to be a whole number of at least 0, got {count!r}")
    return Entity(
        id=name,
        label=label,
        aliases=tuple(Alias(surface, count, rank) for rank, surface in enumerate(surfaces)),
        description=str(attributes.get("description") or ""),
        types=tuple(_parts(name, attributes, "types")),
        count=count,
    )


def _parts(name: str, attributes: dict[str, Any], key: str) -> list[str]:
    value = attributes.get(key) or []
    if isinstance(value, str):
        return [part.strip() for part in value.split("|") if part.strip()]
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return list(value)
    raise InputError(f"node {name!r}: expected {key} to be texts, a list or with | between them, got {value!r}")


def _graphml(source: Path) -> nx.Graph:
    with open_stream(source) as file:
        content = file.read()
    if any(mark in content.upper() for mark in FORBIDDEN) or b"\x00" in content:
        raise InputError(f"{source}: expected GraphML in UTF-8 without a document type; take the <!DOCTYPE …> out")
    try:
        return nx.parse_graphml(content.decode("utf-8"))
    except (SyntaxError, nx.NetworkXError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: expected GraphML ({_line(error)}); mend the file") from None


def _node_link(source: Path) -> nx.Graph:
    with open_stream(source) as file:
        content = file.read()
    try:
        data = json.loads(content)
        return nx.node_link_graph(data, edges="links" if "links" in data else "edges")
    except (ValueError, nx.NetworkXError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: expected node-link JSON of networkx ({_line(error)}); mend the file") from None


def _edge_list(source: Path) -> nx.MultiDiGraph:
    """`head tail`, `head tail relation` or `head tail {'key': value}` a line; `#` begins a comment."""
    graph = nx.MultiDiGraph()
    for number, raw in numbered_lines(source):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        parts = line.split("\t") if "\t" in line else line.split(None, 2)
        if len(parts) not in (2, 3):
            raise InputError(f"{source}:{number}: expected two nodes and perhaps a relation, got {raw[:80]!r}; mend it")
        graph.add_edge(parts[0], parts[1], **_attributes(source, number, parts[2:]))
    return graph


def _attributes(source: Path, number: int, rest: list[str]) -> dict[str, Any]:
    if not rest or not rest[0].strip():
        return {}
    text = rest[0].strip()
    if not text.startswith("{"):
        return {"relation": text}
    try:
        found = json.loads(text.replace("'", '"'))
    except ValueError:
        raise InputError(f"{source}:{number}: expected {{'key': value}}, got {text[:80]!r}; mend the line") from None
    return {str(key): value for key, value in found.items()}


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
