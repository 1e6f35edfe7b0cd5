"""`kg export`: a graph, and perhaps its vectors, in the files of other tools.

Importing this module loads no array library, so that the command's help is quick; the formats are in `kg.writers`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg.artifact import write_artifact
from kg.errors import InputError

STAGE = "kg export"
FORMATS = {
    "graphml": "kg.writers.graphml",
    "tsv": "kg.writers.tsv",
    "ntriples": "kg.writers.ntriples",
    "openke": "kg.writers.openke",
    "networkx-json": "kg.writers.node_link",
}
"""Modules: `write(graph, folder, vectors=...)` returns what the format has no place for, by reason."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which graph, in which format."""

    graph: Path
    """Graph artifact (`kg build`)."""
    output: Path
    """Folder to write."""
    format: Literal["graphml", "tsv", "ntriples", "openke", "networkx-json"]
    """graphml: Gephi, Cytoscape; tsv: triples and records, readable by `kg build` again; ntriples: RDF stores;
    openke: `train2id.txt` and its like; networkx-json: `networkx.node_link_graph`."""
    vectors: Path | None = None
    """Vectors artifact (`kg embed`) of this graph, written beside it as `entity2vec.vec`; openke only."""

    def inputs(self) -> dict[str, Path]:
        return {"graph": self.graph} if self.vectors is None else {"graph": self.graph, "vectors": self.vectors}

    def __post_init__(self) -> None:
        if self.vectors is not None and self.format != "openke":
            raise InputError(f"expected vectors with format openke only, got format {self.format}; leave them out")


def run(config: ExportConfig) -> Path:
    """Writes the format's files and the manifest.

    Raises:
        InputError: the graph is no graph artifact, the vectors are of another graph, or a name that the format
            cannot hold.
    """
    from kg.graph import KnowledgeGraph

    graph = KnowledgeGraph.load(config.graph)
    if config.vectors is not None:
        from kg.artifact import open_artifact
        from kg.neighbours import graph_of

        graph_of(open_artifact(config.vectors, stage="kg embed"), config.graph)
    with write_artifact(config, stage=STAGE) as writer:
        module = importlib.import_module(FORMATS[config.format])
        writer.dropped.update(module.write(graph, writer.path, vectors=config.vectors))
        writer.counts.update(entities=graph.num_entities, relations=graph.num_relations, triples=graph.num_triples)
        files = sorted(path.name for path in writer.path.iterdir() if not path.name.startswith("."))
        writer.headline = f"{graph.num_entities:,} entities, {graph.num_triples:,} triples as {', '.join(files)}"
    return config.output
