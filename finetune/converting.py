"""The stage `finetune convert`: task examples into a layout they are published in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.data import EXAMPLE_STAGES, SPLITS, load_examples
from finetune.formats import write_format
from kg.artifact import open_artifact, write_artifact

STAGE = "finetune convert"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Which examples become which layout."""

    output: Path
    """Folder to write; it holds one file a split."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`."""
    format: str
    """A key of finetune.formats.FORMATS."""

    def inputs(self) -> dict[str, Path]:
        return {"examples": self.examples}


def run(config: ConvertConfig) -> Path:
    """Writes every split that has examples as one file of the layout.

    Raises:
        InputError: no such examples, an unknown format, an example that it cannot hold.
    """
    open_artifact(config.examples, stage=EXAMPLE_STAGES)
    with write_artifact(config, stage=STAGE) as writer:
        for split in SPLITS:
            examples = load_examples(config.examples, split, may_be_empty=True)
            if examples:
                write_format(config.format, writer.path / f"{split}{_ending(config.format)}", examples)
            writer.counts[split] = len(examples)
        writer.headline = f"{sum(writer.counts.values()):,} examples as {config.format}"
    return config.output


def _ending(format: str) -> str:
    """File name's end of a layout."""
    if format == "csv":
        return ".csv"
    if format.startswith("glue/"):
        return ".tsv"
    if format in ("conll", "semeval2010"):
        return ".txt"
    return ".jsonl" if format in ("jsonl", "open_entity", "ultra_fine", "opennre") else ".json"
