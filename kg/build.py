"""`kg build`: a source of knowledge in, a graph artifact out.

Importing this module loads no array library, so that the command's help is quick; the work is in `kg.assembly`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.artifact import write_artifact
from kg.errors import InputError
from kg.readers.table import AUTO, locate_source, reader_named
from kg.sources import resolve_source

STAGE = "kg build"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What to read, and which of its relations and aliases to keep."""

    output: Path
    """Folder of the graph artifact."""
    reader: str = "wordnet"
    """Format of the source: wordnet or tsv."""
    source: str = AUTO
    """File or folder to read (`package:NAME/path` inside an installed package); auto = where it is installed."""
    relations_allow: tuple[str, ...] = ()
    """Ids of the relations to keep; empty = all."""
    relations_deny: tuple[str, ...] = ()
    """Ids of relations to leave out."""
    min_alias_length: int = 2
    """Shorter aliases are left out: a single letter is hardly ever a mention."""
    alias_smoothing: float = 1.0
    """What an alias of an entity weighs beyond its counted uses; above 0, and up to 1 counts keep their order."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        return {"source": locate_source(self.reader, self.source)}


def run(config: BuildConfig) -> Path:
    """Reads the source once or twice from end to end and writes the graph artifact.

    Raises:
        InputError: unknown reader or relation, no source, a malformed source (file:line), or no triple left.
    """
    from kg.assembly import build
    from kg.info import figures

    source = resolve_source(locate_source(config.reader, config.source))
    raw = reader_named(config.reader).read(source)
    with write_artifact(config, stage=STAGE) as writer:
        graph = build(
            raw,
            dropped=writer.dropped,
            relations_allow=config.relations_allow,
            relations_deny=config.relations_deny,
            min_alias_length=config.min_alias_length,
            alias_smoothing=config.alias_smoothing,
        )
        if not graph.num_triples:
            raise InputError(f"{source}: expected a graph, no triple is left (dropped: {dict(writer.dropped)})")
        graph.save(writer.path)
        writer.counts.update(
            entities=graph.num_entities,
            relations=graph.num_relations,
            triples=graph.num_triples,
            aliases=graph.aliases.num_rows,
        )
        writer.figures.update(figures(graph))
        writer.headline = f"{graph.num_entities:,} entities, {graph.num_triples:,} triples"
    return config.output
