"""The stage `link fit-priors`: linked text in, what it tells about aliases out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg.artifact import write_artifact


@dataclass(frozen=True, kw_only=True)
class FitPriorsConfig:
    """Which linked text is counted, for which graph."""

    graph: Path
    """Graph artifact of `kg build`: its aliases are counted."""
    gold: Path
    """Linked text."""
    gold_format: str = "linked"
    """linked (an artifact of `link`), jsonl, semcor, aida or nif."""
    unlabelled: Literal["nil", "unknown"] = "nil"
    """What an alias means where the text has no link: nil = nothing of the graph, unknown = nobody said."""
    output: Path
    """Folder of the priors."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        return {"graph": self.graph, "gold": self.gold}


def run(config: FitPriorsConfig) -> Path:
    """Counts what every alias means in linked text, and how often it means nothing.

    Raises:
        InputError: a folder is no such artifact, or malformed linked text.
    """
    import numpy as np

    from entity_linking.fitting import UNKNOWN
    from entity_linking.gold import read_gold
    from entity_linking.linker import EntityLinker
    from entity_linking.prefixes import NO_KEY
    from entity_linking.priors import STAGE, write_counts
    from entity_linking.training import gold_batches

    with write_artifact(config, stage=STAGE) as writer:
        linker = EntityLinker.from_artifacts(config.graph, None)
        tally: Counter[tuple[str, str]] = Counter()
        documents = read_gold(config.gold_format, config.gold, writer.dropped)
        for batch in gold_batches(
            linker, documents, unlabelled_is_nil=config.unlabelled == "nil", dropped=writer.dropped
        ):
            known = np.flatnonzero((batch.target != UNKNOWN) & (batch.mentions.key != NO_KEY))
            names = linker.names(np.maximum(batch.target[known], 0))
            tally.update(zip((batch.mentions.alias(int(i)) for i in known), names, strict=True))
            writer.counts["documents"] = int(batch.document[-1]) + 1 if len(batch.document) else 0
        write_counts(writer.path, tally)
        links = sum(count for (_, entity), count in tally.items() if entity)
        aliases = len({alias for alias, _ in tally})
        writer.counts.update(aliases=aliases, links=links, not_links=sum(tally.values()) - links)
        writer.headline = f"{links:,} links of {aliases:,} aliases"
    return config.output
