"""The stage `finetune run`: a pretrained model and task examples in, a task's model folder out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from ernie.training.configuration import TrainingConfig
from finetune.data import (
    SPLITS,
    Entities,
    Split,
    collate,
    encode_examples,
    label_rows,
    lengths_of,
    load_examples,
    read_entity_rows,
    read_linked_documents,
)
from finetune.tasks import TASKS, TaskSpec, for_examples
from finetune.tasks.schema import Example
from kg.artifact import ArtifactWriter, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    from ernie import ErnieTokenizer
    from ernie.modeling import ErniePreTrainedModel
    from ernie.training import TrainingResult
    from finetune.evaluation import Evaluation

STAGE = "finetune run"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What to learn, from what, and for how long."""

    output: Path
    """Folder to write."""
    task: str
    """A key of finetune.tasks.TASKS."""
    examples: Path
    """Artifact of `finetune examples`."""
    model: Path
    """Pretrained ERNIE folder, or a plain BERT folder (a path or `package:NAME/path`)."""
    vectors: Path
    """Artifact of `kg embed`: the entities' vectors."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=200, batch_size=32, learning_rate=1e-4, eval_every=50, save_every=100
        )
    )
    """The loop's settings; every `eval_every` steps dev is scored, and the best weights are kept."""
    max_length: int = 96
    """Word pieces a text is cut to; cut examples are counted and scored."""
    entities: Entities = "given"
    """given: the links of the examples. none: text alone."""
    entity_control: Literal["true", "zero", "shuffled", "random"] = "true"
    """Which vectors the entities get; all but `true` are controls."""
    max_train: int = 0
    """Train on so many examples, drawn by seed; 0 is all."""
    max_dev: int = 0
    """Choose by so many dev examples, drawn by seed; 0 is all. The test set is never cut."""
    eval_batch_size: int = 64
    """Examples a batch where nothing is trained."""
    seed: int = 0
    """Of the head, dropout, order and every drawing."""

    def inputs(self) -> dict[str, Path]:
        linked = {"linked": self.linked} if self.linked is not None else {}
        return {
            "examples": self.examples,
            "model": source_path(self.model),
            "vectors": self.vectors,
            **linked,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What training and scoring share."""

    spec: TaskSpec
    model: ErniePreTrainedModel
    tokenizer: ErnieTokenizer
    label_to_id: dict[str, int]
    features: Mapping[Split, list[dict[str, Any]]]
    examples: Mapping[Split, list[Example]]

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id


def run(config: FinetuneConfig) -> Path:
    """Trains, keeps the weights dev liked best, scores test once, writes the model folder and test predictions.

    Goes on from its last checkpoint when interrupted.

    Raises:
        InputError: unknown task, bad or empty examples, fewer than two labels, a model with another head.
    """
    if config.task not in TASKS:
        raise InputError(f"task {config.task!r} is unknown; there are {', '.join(sorted(TASKS))}")
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        task = _prepare(config, writer)
        result = _train(config, task, writer.path / CHECKPOINTS)
        _record_training(writer, result, task.spec)
        _record_test(config, task, writer)
        _save(config, task, writer)
    return config.output


def _prepare(config: FinetuneConfig, writer: ArtifactWriter) -> _Task:
    from ernie import EntityTable, ErnieTokenizer
    from finetune.task_model import build_classifier, check_model_folder

    examples = _examples(config)
    spec = for_examples(TASKS[config.task], examples["train"])
    for split in SPLITS[1:]:
        if for_examples(spec, examples[split]).problem_type != spec.problem_type:
            raise InputError(f"{config.examples}: {split} carries another kind of label than train; give all the same")
    label_to_id = label_rows(examples["train"])
    folder = resolve_source(config.model)
    check_model_folder(folder)
    tokenizer = ErnieTokenizer.from_pretrained(folder, read_entity_rows(config.vectors))
    table = EntityTable.open(config.vectors).controlled(config.entity_control, config.seed)
    model = build_classifier(
        folder,
        spec=spec,
        tokenizer=tokenizer,
        label_to_id=label_to_id,
        entity_size=table.entity_size,
        seed=config.seed,
    )
    model.attach_entity_table(table)
    features = {}
    for split in SPLITS:
        features[split], counts = encode_examples(
            examples[split],
            spec=spec,
            tokenizer=tokenizer,
            label_to_id=label_to_id,
            max_length=config.max_length,
            linked=read_linked_documents(config.linked, examples[split]),
            entities=config.entities,
        )
        writer.counts.update({split: len(examples[split]), f"{split}_links": _num_links(features[split])})
        writer.dropped.update({f"{split}_{reason}": count for reason, count in counts.items()})
    writer.counts["labels"] = len(label_to_id)
    return _Task(
        spec=spec,
        model=model,
        tokenizer=tokenizer,
        label_to_id=label_to_id,
        features=features,
        examples=examples,
    )


def _train(config: FinetuneConfig, task: _Task, checkpoints: Path) -> TrainingResult:
    from ernie.training import ExampleBatches, train
    from finetune.evaluation import evaluate

    features = task.features["train"]
    batches = ExampleBatches(
        features,
        lengths=lengths_of(features),
        batch_size=config.training.batch_size,
        seed=config.seed,
        collate=lambda chosen, epoch, rows: collate(chosen, pad_token_id=task.pad_token_id),
    )

    def score_dev(model) -> dict[str, float]:
        return evaluate(
            model,
            task.features["dev"],
            spec=task.spec,
            batch_size=config.eval_batch_size,
            pad_token_id=task.pad_token_id,
        ).metrics

    with progress(f"fine-tuning {config.task}", config.training.max_steps) as shown:

        def on_step(step: int, losses: dict[str, float]) -> None:
            shown.advance(step - shown.done, loss=losses["loss"])

        return train(
            task.model,
            batches=batches,
            compute_losses=lambda model, batch: {"loss": model(**batch).loss},
            config=config.training,
            seed=config.seed,
            checkpoint_folder=checkpoints,
            evaluate=score_dev,
            on_step=on_step,
            keep_best=task.spec.primary_metric,
        )


def _record_training(writer: ArtifactWriter, result: TrainingResult, spec: TaskSpec) -> None:
    writer.figures |= {
        "loss_curve": [{"step": entry["step"], "loss": entry["loss"]} for entry in result.history],
        "dev_curve": result.evaluations,
        "num_dev_evaluations": len(result.evaluations),
        "best_step": result.best_step,
        "best_dev": max(entry[spec.primary_metric] for entry in result.evaluations),
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "precision": result.precision.name,
    }


def _record_test(config: FinetuneConfig, task: _Task, writer: ArtifactWriter) -> None:
    """Scores test with the chosen weights, and once more with the entities taken away, beside the majority's score."""
    from finetune import metrics
    from finetune.evaluation import evaluate, gold_labels, predictions, primary_score, widen, without_entities

    settings = {"spec": task.spec, "batch_size": config.eval_batch_size, "pad_token_id": task.pad_token_id}
    with progress("scoring test", 2) as shown:
        found = evaluate(task.model, task.features["test"], **settings)
        shown.advance()
        writer.figures["test"] = found.metrics
        if config.entities == "given":
            bare = [without_entities(feature) for feature in task.features["test"]]
            writer.figures["test_without_entities"] = evaluate(task.model, bare, **settings).metrics
            shown.advance()
    predicted = predictions(found.logits, spec=task.spec)
    if task.spec.multi_label:
        predicted = widen(predicted, found.labels)
    low, high = metrics.bootstrap_interval(primary_score(task.spec), predicted, found.labels, seed=config.seed)
    name = task.spec.primary_metric
    writer.figures["test_interval_95"] = {name: [low, high]}
    note = ""
    if not task.spec.multi_label:
        train_gold = gold_labels(task.features["train"], spec=task.spec)
        majority = metrics.majority_baseline(train_gold, found.labels)
        writer.figures["majority_baseline"] = majority
        note = f" (majority {majority[name]:.1%})"
    writer.headline = f"test {name} {found.metrics[name]:.1%}{note}, {len(found.labels):,} examples"
    _write_predictions(writer.path / PREDICTIONS, task, found)


def _write_predictions(path: Path, task: _Task, found: Evaluation) -> None:
    from finetune.evaluation import prediction_records

    names = sorted(task.label_to_id, key=task.label_to_id.__getitem__)
    records = prediction_records(task.examples["test"], found.logits, names=names, spec=task.spec)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))


def _save(config: FinetuneConfig, task: _Task, writer: ArtifactWriter) -> None:
    from finetune.task_model import save_task_model

    save_task_model(
        writer.path,
        model=task.model,
        tokenizer=task.tokenizer,
        spec=task.spec,
        max_length=config.max_length,
        entities=config.entities,
    )
    shutil.rmtree(writer.path / CHECKPOINTS)


def _examples(config: FinetuneConfig) -> dict[Split, list[Example]]:
    limits: dict[Split, int] = {"train": config.max_train, "dev": config.max_dev, "test": 0}
    return {split: _drawn(load_examples(config.examples, split), limits[split], config.seed) for split in SPLITS}


def _drawn(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """`limit` of the examples (0: all), drawn without replacement, in their order."""
    if limit <= 0 or limit >= len(examples):
        return list(examples)
    rows = np.random.default_rng(seed).permutation(len(examples))[:limit]
    return [examples[row] for row in sorted(rows)]


def _num_links(features: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(feature["entity_ids"]) for feature in features)
