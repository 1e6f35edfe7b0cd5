"""The stage `student import`: a released TinyBERT in, a folder that the stages and transformers take out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.artifact import write_artifact

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
        InputError: no released TinyBERT in the folder, or weights that do not fit.
    """
    from ernie import ErnieTokenizer
    from ernie.tinybert import load_tinybert

    with write_artifact(config, stage=STAGE) as writer:
        model = load_tinybert(config.folder)
        model.save_pretrained(writer.path)
        ErnieTokenizer.from_pretrained(str(config.folder), {}).save_pretrained(writer.path)
        writer.counts["parameters"] = sum(p.numel() for p in model.parameters())
        writer.headline = f"{type(model).__name__}, {writer.counts['parameters']:,} parameters"
    return config.output
