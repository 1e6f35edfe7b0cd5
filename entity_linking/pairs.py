"""The stage `link pairs`: gold links in, pairs of texts out that a cross-encoder learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kg.artifact import write_artifact
from kg.errors import InputError

STAGE = "link pairs"
FILE = "pairs.jsonl"


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which gold links of which graph become pairs."""

    graph: Path
    """Graph artifact of `kg build`."""
    gold: Path
    """Text with gold links; none of it may measure the linker later."""
    gold_format: str = "jsonl"
    """jsonl (what `link self-label` writes, too), semcor, aida, nif or linked (an artifact of `link`)."""
    others: int = 3
    """Wrong candidates beside each right one, the likeliest by prior."""
    max_links: int = 10_000
    """Links that become pairs, drawn by seed; 0 = all."""
    output: Path
    """Folder of the pairs, pairs.jsonl, which `finetune import --format jsonl --task sequence_classification` reads."""
    seed: int = 0
    """Decides which links are drawn."""

    def __post_init__(self) -> None:
        if self.others < 1 or self.max_links < 0:
            raise InputError(f"expected others from 1 and max_links from 0, got {self.others} and {self.max_links}")

    def inputs(self) -> dict[str, Path]:
        return {"graph": self.graph, "gold": self.gold}


def run(config: PairsConfig) -> Path:
    """Writes a line `{"id", "text", "text_pair", "label"}` a pair: surroundings, description, match or other.

    Only mentions of several candidates, the right one among them, become pairs.

    Raises:
        InputError: a folder is no such artifact, malformed gold, or no ambiguous link in it.
    """
    from entity_linking.pairing import pairs_of

    with write_artifact(config, stage=STAGE) as writer:
        with (writer.path / FILE).open("w", encoding="utf-8") as file:
            for pairs in pairs_of(config, writer.dropped):
                writer.counts.update(links=1, pairs=len(pairs))
                file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        if not writer.counts["links"]:
            raise InputError(f"{config.gold}: expected links with several candidates of the graph, found none")
        writer.headline = f"{writer.counts['pairs']:,} pairs of {writer.counts['links']:,} links"
    return config.output
