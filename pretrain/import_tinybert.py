"""The stage `student import`: a released TinyBERT in, a folder that the stages and transformers take out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.artifact import write_artifact
from kg.errors import InputError

STAGE = "student import"


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Which released TinyBERT to read."""

    output: Path
    """Folder to write: a model that transformers loads (a task model after `import ernie.tinybert`), its tokenizer."""
    folder: Path
    """config.json, pytorch_model.bin and vocab.txt as released: general version 1 or 2, or a task's model."""
    seed: int = 0
    """Nothing here is drawn; kept so that all stages are alike."""

    def inputs(self) -> dict[str, Path]:
        return {"folder": self.folder}


def run(config: ImportConfig) -> Path:
    """Writes a released TinyBERT as a folder that the stages and transformers take.

    Raises:
        InputError: no released TinyBERT or vocab.txt in the folder, or weights that do not fit.
    """
    from transformers import BertTokenizer

    from ernie.tinybert import load_tinybert

    if not (config.folder / "vocab.txt").is_file():
        raise InputError(
            f"{config.folder}: no vocab.txt; a released TinyBERT comes with the word pieces of its teacher"
        )

    with write_artifact(config, stage=STAGE) as writer:
        model = load_tinybert(config.folder)
        model.save_pretrained(writer.path)
        # Its config names no model type by which AutoTokenizer could tell; all releases are uncased BERTs.
        BertTokenizer.from_pretrained(str(config.folder)).save_pretrained(str(writer.path))
        writer.counts["parameters"] = sum(p.numel() for p in model.parameters())
        writer.headline = f"{type(model).__name__}, {writer.counts['parameters']:,} parameters"
    return config.output
