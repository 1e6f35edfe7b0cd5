"""The stage `finetune predict`: a task's model folder and texts in, predictions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from finetune.data import encode_examples, read_entity_rows, read_linked_documents
from finetune.tasks.schema import Example, read_examples
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.progress import track

if TYPE_CHECKING:
    from finetune.task_model import TaskModel

STAGE = "finetune predict"
CHUNK = 1000
"""Examples encoded together."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which model answers about which texts."""

    output: Path
    """Folder to write; it holds predictions.jsonl."""
    model: Path
    """Artifact of `finetune run` or `finetune distill`."""
    texts: Path
    """Examples as JSON lines (answers optional), or a `.txt` file with one text a line and nothing marked."""
    vectors: Path | None = None
    """Artifact of `kg embed`; without it no entity is given to the model."""
    linked: Path | None = None
    """Artifact of `link` over the documents the examples name."""
    batch_size: int = 64
    """Examples a batch."""

    def inputs(self) -> dict[str, Path]:
        optional = {"vectors": self.vectors, "linked": self.linked}
        given = {name: path for name, path in optional.items() if path is not None}
        return {"model": self.model, "texts": self.texts, **given}


def run(config: PredictConfig) -> Path:
    """Writes predictions.jsonl, one object a text in their order (`evaluation.prediction_records`).

    Raises:
        InputError: no such model, no texts, a bad record.
    """
    from finetune.task_model import load_task_model, trained_entity_table

    with write_artifact(config, stage=STAGE) as writer:
        rows = read_entity_rows(config.vectors) if config.vectors is not None else {}
        task = load_task_model(config.model, rows)
        if config.vectors is not None and task.entities == "given":
            task.model.attach_entity_table(trained_entity_table(config.model, config.vectors))
        examples = list(read_texts(config.texts))
        if not examples:
            raise InputError(f"{config.texts} holds no texts; give one a line")
        with (writer.path / "predictions.jsonl").open("wb") as file:
            for chunk in _chunks(track(examples, "predicting")):
                file.writelines(_predictions(chunk, task, config))
        writer.counts["predictions"] = len(examples)
        writer.headline = f"{len(examples):,} predictions"
    return config.output


def read_texts(path: Path) -> Iterator[Example]:
    """Examples of a JSON-lines file; or of a `.txt` file, a line a text, ids 1, 2, … by line, blank lines left out."""
    if Path(path).suffix != ".txt":
        yield from read_examples(path)
        return
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Example(id=str(number), text=line.rstrip("\n"))


def _predictions(chunk: Sequence[Example], task: TaskModel, config: PredictConfig) -> list[bytes]:
    from finetune.evaluation import predict_logits, prediction_records

    features, _ = encode_examples(
        chunk,
        spec=task.spec,
        tokenizer=task.tokenizer,
        label_to_id=task.label_to_id,
        max_length=task.max_length,
        linked=read_linked_documents(config.linked, chunk),
        entities="none" if config.vectors is None else task.entities,
    )
    logits = predict_logits(
        task.model, features, batch_size=config.batch_size, pad_token_id=task.tokenizer.pad_token_id
    )
    names = sorted(task.label_to_id, key=task.label_to_id.__getitem__)
    return [orjson.dumps(record) + b"\n" for record in prediction_records(chunk, logits, names=names, spec=task.spec)]


def _chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while chunk := list(islice(examples, CHUNK)):
        yield chunk
