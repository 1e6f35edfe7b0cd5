"""GraphML: `graph.graphml`, for Gephi, yEd, Cytoscape, igraph and networkx.

Nodes carry label, description, types (joined by `|`) and count, edges the relation's id and label, and the published
split where there is one. Written as a stream: networkx's own writer needs about 1 kB an edge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from io import TextIOBase
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.writers.rows import entity_records, named_triples, split_names

FILE = "graph.graphml"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""What XML 1.0 cannot hold, not even escaped."""
NODE_KEYS = {"label": "string", "description": "string", "types": "string", "count": "long"}
EDGE_KEYS = {"relation": "string", "label": "string", "split": "string"}
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
TYPES_APART = "|"
RETURN = {"\r": "&#13;"}
BLANKS = {"\t": "&#9;", "\n": "&#10;", **RETURN}


def write(graph: KnowledgeGraph, folder: Path, *, vectors: Path | None = None) -> Counter[str]:
    """Writes graph.graphml.

    Returns: `xml_character`: characters that XML cannot hold, written as U+FFFD. Aliases are not written.

    Raises:
        InputError: two ids that differ only in such characters.
    """
    text = Xml()
    entities = ["", *(text.clean(name) for name in graph.entity_vocab)]
    _check_distinct(entities[1:], graph)
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.write(HEAD)
        _write_keys(file, "node", NODE_KEYS)
        _write_keys(file, "edge", EDGE_KEYS)
        file.write('<graph edgedefault="directed">\n')
        for name, entity in zip(entities[1:], entity_records(graph), strict=True):
            values = {**entity, "types": TYPES_APART.join(entity["types"])}
            data = "".join(text.data("node", key, values[key]) for key in NODE_KEYS)
            file.write(f"<node id={text.attribute(name)}>{data}</node>\n")
        for edge in _edges(graph, entities, text):
            file.write(edge)
        file.write("</graph>\n</graphml>\n")
    return Counter({"xml_character": text.replaced} if text.replaced else {})


class Xml:
    """Text made fit for XML 1.0; `replaced` counts the characters that were not."""

    def __init__(self) -> None:
        self.replaced = 0

    def clean(self, text: str) -> str:
        cleaned, times = FORBIDDEN.subn("\ufffd", text)
        self.replaced += times
        return cleaned

    def attribute(self, text: str) -> str:
        """Quoted; blanks other than the space stand escaped, or a parser would turn them into spaces."""
        return quoteattr(text, BLANKS)

    def data(self, kind: str, key: str, value: Any) -> str:
        """One <data> element; nothing for an empty text."""
        if value == "":
            return ""
        return f'<data key="{kind}_{key}">{escape(self.clean(str(value)), RETURN)}</data>'


def _edges(graph: KnowledgeGraph, entities: list[str], text: Xml) -> Iterator[str]:
    relations = [
        text.data("edge", "relation", relation["id"]) + text.data("edge", "label", relation["label"])
        for relation in graph.relations.to_pylist()
    ]
    splits = split_names(graph)
    quoted = [text.attribute(name) for name in entities]
    for number, (head, data, tail) in enumerate(named_triples(graph, quoted, relations)):
        split = text.data("edge", "split", splits[number]) if splits else ""
        yield f"<edge source={head} target={tail}>{data}{split}</edge>\n"


def _write_keys(file: TextIOBase, kind: str, keys: dict[str, str]) -> None:
    for name, type_ in keys.items():
        file.write(f'<key id="{kind}_{name}" for="{kind}" attr.name="{name}" attr.type="{type_}"/>\n')


def _check_distinct(names: list[str], graph: KnowledgeGraph) -> None:
    if len(set(names)) == len(names):
        return
    first: dict[str, str] = {}
    for name, identifier in zip(names, graph.entity_vocab, strict=True):
        if name in first:
            raise InputError(
                f"entity ids {first[name]!r} and {identifier!r} differ only in characters that XML cannot hold; rename "
                f"one, or export in another format"
            )
        first[name] = identifier
