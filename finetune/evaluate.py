"""The stage `finetune evaluate`: a task's model folder and examples in, its figures out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from finetune.data import load_examples, read_linked_documents
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.progress import progress

STAGE = "finetune evaluate"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which model is scored on which examples."""

    output: Path
    """Folder to write; it holds predictions.jsonl, and the figures in its manifest."""
    model: Path
    """Artifact of `finetune run` or `finetune distill`."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`."""
    split: Literal["train", "dev", "test"] = "test"
    """Which of its splits."""
    vectors: Path | None = None
    """Artifact of `kg embed`; without it no entity is given to the model."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    batch_size: int = 64
    """Examples a batch."""
    seed: int = 0
    """Of the bootstrap interval."""

    def inputs(self) -> dict[str, Path]:
        optional = {"vectors": self.vectors, "linked": self.linked}
        given = {name: path for name, path in optional.items() if path is not None}
        return {"model": self.model, "examples": self.examples, **given}


def run(config: EvaluateConfig) -> Path:
    """Writes predictions.jsonl; every figure of the model's scorer, with an interval of the primary one, is in the
    manifest. Labels that the model does not know count as errors and are counted.

    Raises:
        InputError: no such model or examples, or examples without answers.
    """
    from finetune import metrics
    from finetune.evaluation import answers, gold_labels, prediction_records, primary_score, score_predictions
    from finetune.pipeline import TaskPipeline

    with write_artifact(config, stage=STAGE) as writer:
        examples = load_examples(config.examples, config.split)
        ready = TaskPipeline.from_pretrained(config.model, vectors=config.vectors, batch_size=config.batch_size)
        spec = ready.task.spec
        with progress(f"scoring {config.split}", 1) as shown:
            features, logits = ready.answer(examples, linked=read_linked_documents(config.linked, examples))
            shown.advance()
        missing = [e.id for e, f in zip(examples, features, strict=True) if "labels" not in f]
        if missing:
            raise InputError(f"{config.examples}: {config.split} example {missing[0]!r} has no answer to score against")
        gold = gold_labels(features, spec=spec)
        predicted = answers(logits, gold, spec=spec)
        writer.figures[config.split] = score_predictions(predicted, gold, spec=spec)
        low, high = metrics.bootstrap_interval(primary_score(spec), predicted, gold, seed=config.seed)
        writer.figures[f"{config.split}_interval_95"] = {spec.primary_metric: [low, high]}
        records = prediction_records(examples, logits, names=ready.names, spec=spec)
        (writer.path / "predictions.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
        writer.counts[config.split] = len(examples)
        writer.dropped.update(ready.counts)
        found = writer.figures[config.split][spec.primary_metric]
        writer.headline = f"{config.split} {spec.primary_metric} {found:.1%}, {len(examples):,} examples"
    return config.output
