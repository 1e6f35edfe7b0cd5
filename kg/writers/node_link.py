"""networkx's node-link JSON: `graph.json`, read by `networkx.node_link_graph(json.load(file))`.

The same graph as `KnowledgeGraph.to_networkx`, written as a stream; an edge carries its published split where there
is one. Aliases are not written.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson

from kg.graph import KnowledgeGraph
from kg.writers.rows import entity_records, named_triples, split_names

FILE = "graph.json"
NODE_KEYS = ("label", "description", "types", "count", "id")


def write(graph: KnowledgeGraph, folder: Path, *, vectors: Path | None = None) -> Counter[str]:
    """Writes graph.json, a node and an edge a line; nothing is left out but aliases."""
    splits = split_names(graph)
    with (folder / FILE).open("wb") as file:
        file.write(b'{"directed": true, "multigraph": true, "graph": {}, "nodes": [')
        apart = b"\n"
        for entity in entity_records(graph):
            file.write(apart + orjson.dumps({key: entity[key] for key in NODE_KEYS}))
            apart = b",\n"
        file.write(b'\n], "edges": [')
        apart = b"\n"
        triples = named_triples(graph, ["", *graph.entity_vocab], graph.relation_vocab.identifiers)
        for number, (head, relation, tail) in enumerate(triples):
            edge = {"source": head, "target": tail, "key": relation}
            file.write(apart + orjson.dumps(edge | {"split": splits[number]} if splits else edge))
            apart = b",\n"
        file.write(b"\n]}\n")
    return Counter()
