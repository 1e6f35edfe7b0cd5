"""The stage `finetune predict`: a task's model folder and texts in, predictions out, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from finetune.data import read_linked_documents
from finetune.tasks.schema import Example, read_examples
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.progress import track

if TYPE_CHECKING:
    from finetune.pipeline import TaskPipeline

STAGE = "finetune predict"


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which model answers about which texts."""

    output: Path
    """Folder to write; it holds predictions.jsonl."""
    model: Path
    """Artifact of `finetune run` or `finetune distill`."""
    texts: Path
    """Examples as JSON lines (answers optional), or a `.txt` file with one text a line and nothing marked: with a
    linker typing and relation models are asked about every mention or pair it finds."""
    vectors: Path | None = None
    """Artifact of `kg embed`; without it no entity is given to the model."""
    linked: Path | None = None
    """Artifact of `link` over the documents the examples name."""
    linker: Path | None = None
    """Artifact of `link train`: links are made on the fly, beside those the examples have."""
    graph: Path | None = None
    """Instead of a linker, a graph artifact: linked untrained."""
    batch_size: int = 64
    """Examples a batch."""

    def inputs(self) -> dict[str, Path]:
        optional = {"vectors": self.vectors, "linked": self.linked, "linker": self.linker, "graph": self.graph}
        given = {name: path for name, path in optional.items() if path is not None}
        return {"model": self.model, "texts": self.texts, **given}


def run(config: PredictConfig) -> Path:
    """Writes predictions.jsonl, one object an example in their order (`evaluation.prediction_records`).

    Raises:
        InputError: no such model, no texts, a bad record.
    """
    from finetune.pipeline import TaskPipeline

    with write_artifact(config, stage=STAGE) as writer:
        ready = TaskPipeline.from_pretrained(
            config.model,
            vectors=config.vectors,
            linker=config.linker,
            graph=config.graph,
            batch_size=config.batch_size,
        )
        linked = None
        if config.linked is not None:
            linked = read_linked_documents(config.linked, list(read_texts(config.texts)))
        records = ready.predict(
            track(asked(config.texts, ready), "predicting"), linked=linked, relink=ready.linker is not None
        )
        with (writer.path / "predictions.jsonl").open("wb") as file:
            for record in records:
                file.write(orjson.dumps(record) + b"\n")
                writer.counts["predictions"] += 1
        if not writer.counts["predictions"]:
            raise InputError(f"{config.texts} holds no texts, or none with a mention; give one a line")
        writer.dropped.update(ready.counts)
        writer.headline = f"{writer.counts['predictions']:,} predictions"
    return config.output


def asked(path: Path, ready: TaskPipeline) -> Iterator[Example]:
    """What a file asks: its examples, or of plain text what the task makes of a line."""
    plain = Path(path).suffix == ".txt" and (ready.linker is not None or ready.task.spec.of_tokens)
    for example in read_texts(path):
        yield from ready.asked(example.id, example.text) if plain else (example,)


def read_texts(path: Path) -> Iterator[Example]:
    """Examples of a JSON-lines file; or of a `.txt` file, a line a text, ids 1, 2, … by line, blank lines left out."""
    if Path(path).suffix != ".txt":
        yield from read_examples(path)
        return
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Example(id=str(number), text=line.rstrip("\n"))
