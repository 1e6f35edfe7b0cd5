"""`kg build`: a source of knowledge in, a graph artifact out.

Importing this module loads no array library, so that the command's help is quick; the work is in `kg.parts` (reading)
and `kg.assembly` (rows, filters, tables).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kg.artifact import ArtifactWriter, write_artifact
from kg.errors import InputError
from kg.readers.table import AUTO, locate_source, reader_named
from kg.sources import resolve_source

STAGE = "kg build"
PARTS = "parts"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What to read, and which of its entities, relations and aliases to keep; filters apply in the order below."""

    output: Path
    """Folder of the graph artifact."""
    reader: str = "wordnet"
    """Format of the source: wordnet, tsv, wikidata_json, rdf, openke, networkx or obo."""
    source: str = AUTO
    """File or folder to read (`package:NAME/path` inside an installed package); auto = where it is installed."""
    languages: tuple[str, ...] = ("en",)
    """Languages of labels, aliases and descriptions, the preferred first; for sources that have several."""
    relations_allow: tuple[str, ...] = ()
    """Ids of the relations to keep; empty = all."""
    relations_deny: tuple[str, ...] = ()
    """Ids of relations to leave out."""
    types_allow: tuple[str, ...] = ()
    """Keep triples both of whose entities have one of these types; empty = all."""
    types_deny: tuple[str, ...] = ()
    """Leave out triples with an entity of one of these types."""
    min_count: int = 0
    """Leave out triples with an entity counted less often (sitelinks, tags: the source's popularity)."""
    leave_out: tuple[Path, ...] = ()
    """Task example folders (`finetune examples`), or files head<TAB>relation<TAB>tail: facts a task will ask for.
    No triple between the two entities of such a fact, and none with its head and relation, stays in the graph."""
    min_relation_triples: int = 0
    """Leave out relations with fewer triples."""
    min_degree: int = 0
    """Leave out triples with an entity that stands in fewer triples; one pass, `k_core` goes on until none is left."""
    k_core: int = 0
    """Keep the largest part of the graph in which every entity has this many neighbours; 0 = everything."""
    keep_isolated: bool = True
    """Keeps entities without a triple: text can still name them."""
    keep_self_loops: bool = False
    """Keeps triples whose head is their tail: TransE learns nothing by them, but published test sets hold some."""
    min_alias_length: int = 2
    """Shorter aliases are left out: a single letter is hardly ever a mention."""
    alias_smoothing: float = 1.0
    """What an alias of an entity weighs beyond its counted uses; above 0, and up to 1 counts keep their order."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        named = {f"leave_out_{number}": path for number, path in enumerate(self.leave_out)}
        return {"source": locate_source(self.reader, self.source), **named}

    def __post_init__(self) -> None:
        for name in ("min_count", "min_relation_triples", "min_degree", "k_core"):
            if getattr(self, name) < 0:
                raise InputError(f"expected {name} of at least 0, got {getattr(self, name)}")


def run(config: BuildConfig) -> Path:
    """Reads the source once from end to end and writes the graph artifact.

    A source that takes long (`Reader.resumable`) goes on where an interrupted run of the same config ended.

    Raises:
        InputError: unknown reader, relation or type, no source, a malformed source (file:line), or no triple left.
    """
    from kg.info import figures

    source = resolve_source(locate_source(config.reader, config.source))
    with write_artifact(config, stage=STAGE, resumable=reader_named(config.reader).resumable) as writer:
        graph = _build(config, source, writer)
        graph.save(writer.path)
        shutil.rmtree(writer.path / PARTS)
        writer.counts.update(
            entities=graph.num_entities,
            relations=graph.num_relations,
            triples=graph.num_triples,
            aliases=graph.aliases.num_rows,
        )
        writer.figures.update(figures(graph), **graph.unseen())
        writer.headline = f"{graph.num_entities:,} entities, {graph.num_triples:,} triples"
    return config.output


def _build(config: BuildConfig, source: Path, writer: ArtifactWriter):
    """Reads the source into parts, and the parts into a graph."""
    from kg.aliases import AliasWeights
    from kg.assembly import Choice, assemble
    from kg.filters import read_facts, task_facts
    from kg.parts import Parts
    from kg.progress import progress
    from kg.records import ReadOptions

    weights = AliasWeights(min_length=config.min_alias_length, smoothing=config.alias_smoothing)
    facts = [fact for path in config.leave_out for fact in read_facts(task_facts(path))]
    parts = Parts(writer.path / PARTS)
    options = ReadOptions(languages=config.languages, position=parts.position, notes=parts.notes())
    raw = reader_named(config.reader).read(source, options)
    with progress("kg build: reading bytes", raw.total_bytes or None) as shown:
        for batch in () if parts.whole else parts.read(raw.batches, weights):
            shown.advance(batch.bytes_read)
    names = ("relations_allow", "relations_deny", "types_allow", "types_deny", "min_count", "min_relation_triples")
    chosen = {
        name: getattr(config, name) for name in (*names, "min_degree", "k_core", "keep_isolated", "keep_self_loops")
    }
    graph = assemble(
        parts, closed=raw.closed, weights=weights, choice=Choice(**chosen, facts=facts), dropped=writer.dropped
    )
    if not graph.num_triples:
        raise InputError(f"{source}: expected a graph, no triple is left (dropped: {dict(+writer.dropped)})")
    return graph
