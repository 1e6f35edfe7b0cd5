"""The two phases of a task's distillation, on the one training loop."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ernie.distilling import FITTED_BATCHES, InsideDistillation, Reading, parameter_groups
from ernie.losses.distillation import prediction_loss
from ernie.losses.intermediate import IntermediateLosses
from ernie.losses.matching import LossSettings, Match
from ernie.training.configuration import TrainingConfig
from finetune.data import Split, collate, lengths_of
from finetune.students import Student, text_only
from kg.progress import progress, track

if TYPE_CHECKING:
    from ernie.teacher_cache import TeacherCache
    from ernie.training import ExampleBatches, TrainingResult
    from finetune.distill import DistillConfig
    from finetune.evaluation import Evaluation
    from finetune.task_model import TaskModel

Features = Sequence[Mapping[str, Any]]
ANSWERS = "teacher_logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAndStudent:
    """What both phases and all scores share.

    features: as the teacher reads them, by split. student_features: as the student does (other word rows where its
    vocabulary was pruned). teacher_digest: of the artifact the teacher came from.
    """

    teacher: TaskModel
    student: Student
    features: Mapping[Split, list[dict[str, Any]]]
    student_features: Mapping[Split, list[dict[str, Any]]]
    settings: LossSettings
    matches: tuple[Match, ...]
    teacher_sees_entities: bool
    teacher_digest: str

    @property
    def reading(self) -> Reading:
        return Reading(
            two_stream=self.student.two_stream,
            teacher_sees_entities=self.teacher_sees_entities,
            pieces=self.student.pieces,
        )

    @property
    def scored_split(self) -> Split:
        """Where the final figures come from: test, or dev where there is no test."""
        return "test" if self.features["test"] else "dev"

    @property
    def pad_token_id(self) -> int:
        return self.teacher.tokenizer.pad_token_id

    def teacher_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch as the teacher's whole model takes it, without answers."""
        hidden = set() if self.teacher_sees_entities else {name for name in batch if name.startswith("entity_")}
        return {name: tensor for name, tensor in batch.items() if name not in ("labels", ANSWERS, *hidden)}

    def student_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for the student."""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", ANSWERS)}
        return self.reading.translated(inputs if self.student.two_stream else text_only(inputs))

    def score_teacher(self, split: Split, batch_size: int) -> Evaluation:
        return _score(self.teacher, self.features[split], batch_size, two_stream=self.teacher_sees_entities)

    def score_student(self, split: Split, batch_size: int) -> Evaluation:
        return _score(self.student.task, self.student_features[split], batch_size, two_stream=self.student.two_stream)


def _score(task: TaskModel, features: Features, batch_size: int, *, two_stream: bool) -> Evaluation:
    from finetune.evaluation import evaluate, without_entities

    if not two_stream:
        features = [without_entities(feature) for feature in features]
    if task.spec.pooling == "cls":
        features = [{name: value for name, value in feature.items() if name != "spans"} for feature in features]
    return evaluate(
        task.model, features, spec=task.spec, batch_size=batch_size, pad_token_id=task.tokenizer.pad_token_id
    )


def fitted_inside(config: DistillConfig, pair: TeacherAndStudent) -> InsideDistillation:
    """Student and projections, these fitted to the first batches; nothing is trained yet."""
    from ernie.training.reproducibility import isolated_randomness

    with isolated_randomness(config.seed):
        losses = IntermediateLosses(pair.matches, settings=pair.settings)
    inside = InsideDistillation(pair.student.model, losses, reading=pair.reading)
    batches = _batches(config, pair, config.intermediate)
    inside.fit_projections(
        [batches.batch(0, index) for index in range(min(FITTED_BATCHES, len(batches)))], pair.teacher.model
    )
    return inside


def learn_inside(
    config: DistillConfig, pair: TeacherAndStudent, inside: InsideDistillation, checkpoints: Path
) -> TrainingResult:
    """The first phase: embeddings, states, attentions or relations of the matched layers."""
    rate = config.projection_learning_rate
    return _train(
        inside,
        config.intermediate,
        config,
        _batches(config, pair, config.intermediate),
        checkpoints,
        "distilling layers",
        compute_losses=lambda phase, batch: phase(batch, pair.teacher.model),
        parameter_groups=parameter_groups(
            inside,
            weight_decay=config.intermediate.weight_decay,
            own_rate=lambda name: rate if name.startswith("losses.projections.") else None,
        ),
    )


def learn_answers(config: DistillConfig, pair: TeacherAndStudent, checkpoints: Path, cache: Path) -> TrainingResult:
    """The second phase: the teacher's answers; the student ends with the weights dev liked best."""
    answers = ask_teacher(config, pair, cache) if config.soft_label_weight and not _gold_alone(pair) else None
    spec = pair.teacher.spec

    def compute_losses(student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = student(**pair.student_inputs(batch), labels=batch["labels"] if needs_gold else None)
        if answers is None:
            return {"loss": output.loss}
        soft = soft_loss(output.logits, batch, config=config, pair=pair)
        if not config.hard_label_weight:
            return {"loss": config.soft_label_weight * soft}
        total = config.soft_label_weight * soft + config.hard_label_weight * output.loss
        return {"loss": total, "soft_loss": soft, "hard_loss": output.loss}

    needs_gold = answers is None or bool(config.hard_label_weight)
    return _train(
        pair.student.model,
        config.prediction,
        config,
        _batches(config, pair, config.prediction, answers),
        checkpoints,
        "distilling answers",
        compute_losses=compute_losses,
        evaluate=lambda student: pair.score_student("dev", config.eval_batch_size).metrics,
        keep_best=spec.primary_metric,
    )


def soft_loss(logits: Tensor, batch: Mapping[str, Tensor], *, config: DistillConfig, pair: TeacherAndStudent) -> Tensor:
    """Mean over examples of the loss against the teacher's answers; of tagged texts, over their real pieces first."""
    settings = {"temperature": config.temperature, "class_mean": pair.settings.class_mean}
    problem_type = pair.teacher.spec.problem_type
    if problem_type != "token_classification":
        return prediction_loss(logits, batch[ANSWERS], problem_type=problem_type, **settings).mean()
    real = batch["attention_mask"].bool()
    by_piece = prediction_loss(logits.flatten(0, 1), batch[ANSWERS].flatten(0, 1), **settings).view(real.shape)
    return (by_piece.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)).mean()


def ask_teacher(config: DistillConfig, pair: TeacherAndStudent, folder: Path) -> TeacherCache:
    """The teacher's logits of every training example that the second phase will see, on disk.

    Each example is asked once, whatever the number of epochs; a run that was interrupted asks for the rest alone, in
    the same batches, so that even the rounding is the same.

    Raises:
        InputError: `folder` holds another teacher's answers, or answers to other examples.
    """
    from ernie.teacher_cache import TeacherCache, cache_bytes

    features = pair.features["train"]
    lengths = np.array(lengths_of(features))
    counts = lengths if pair.teacher.spec.of_tokens else np.ones(len(features), dtype=np.int64)
    size = cache_bytes(counts, width=len(pair.teacher.label_to_id), dtype="<f4")
    print(f"  the teacher's answers take {size / 2**20:.1f} MiB at most", file=sys.stderr, flush=True)
    cache = TeacherCache(
        folder,
        key={
            "teacher": pair.teacher_digest,
            "examples": digest_of(features),
            "teacher_entities": config.teacher_entities,
            "seed": config.seed if config.teacher_entities == "shuffled" else "any",
        },
        counts=counts,
        width=len(pair.teacher.label_to_id),
    )
    batches = _batches(config, pair, config.prediction)
    seen = config.prediction.max_steps * config.prediction.gradient_accumulation
    rows = np.concatenate([batches.rows(*divmod(number, len(batches))) for number in range(seen)])
    wanted = np.unique(rows)
    wanted = wanted[np.argsort(-lengths[wanted], kind="stable")]
    starts = range(0, len(wanted), config.eval_batch_size)
    with torch.inference_mode():
        for start in track(starts, "asking the teacher", len(starts)):
            chosen = wanted[start : start + config.eval_batch_size]
            if not len(cache.missing(chosen)):
                continue
            batch = collate([features[row] for row in chosen], pad_token_id=pair.pad_token_id)
            logits = pair.teacher.model(**pair.teacher_inputs(batch)).logits.float().numpy()
            for row, found in zip(chosen, logits, strict=True):
                cache.put(int(row), found[: counts[row]] if pair.teacher.spec.of_tokens else found[None])
            cache.flush()
    return cache


def digest_of(features: Features) -> str:
    """SHA-256 of what a teacher reads of the examples."""
    digest = hashlib.sha256()
    for feature in features:
        for name in ("input_ids", "token_type_ids", "entity_ids", "entity_positions", "spans"):
            if name in feature:
                digest.update(np.ascontiguousarray(feature[name], dtype=np.int64).tobytes() + b"\x1f")
    return digest.hexdigest()


def _gold_alone(pair: TeacherAndStudent) -> bool:
    """The released TinyBERT learns a regression from the gold values."""
    return pair.teacher.spec.problem_type == "regression" and pair.settings.gold_regression


def _batches(
    config: DistillConfig, pair: TeacherAndStudent, training: TrainingConfig, answers: TeacherCache | None = None
) -> ExampleBatches:
    from ernie.training import ExampleBatches

    features = pair.features["train"]

    def with_answers(chosen: list[Any], epoch: int, rows: np.ndarray) -> dict[str, Tensor]:
        batch = collate(chosen, pad_token_id=pair.pad_token_id)
        if answers is not None:
            batch[ANSWERS] = _stacked(
                [torch.from_numpy(answers[int(row)]) for row in rows], pair.teacher.spec.of_tokens
            )
        return batch

    return ExampleBatches(
        features, lengths=lengths_of(features), batch_size=training.batch_size, seed=config.seed, collate=with_answers
    )


def _stacked(answers: list[Tensor], of_tokens: bool) -> Tensor:
    """(batch, num_labels); of tokens (batch, seq_len, num_labels), zeros at padding."""
    return nn.utils.rnn.pad_sequence(answers, batch_first=True) if of_tokens else torch.cat(answers)


def _train(
    model: nn.Module,
    training: TrainingConfig,
    config: DistillConfig,
    batches: ExampleBatches,
    checkpoints: Path,
    what: str,
    **settings: Any,
) -> TrainingResult:
    from ernie.training import train

    with progress(what, training.max_steps) as shown:

        def on_step(step: int, losses: dict[str, float]) -> None:
            shown.advance(step - shown.done, loss=losses["loss"])

        return train(
            model,
            batches=batches,
            config=training,
            seed=config.seed,
            checkpoint_folder=checkpoints,
            on_step=on_step,
            **settings,
        )
