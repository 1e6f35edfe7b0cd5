"""The two phases of a task's distillation, on the one training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ernie.losses.distillation import LayerLosses, prediction_loss, record_features
from ernie.training.configuration import TrainingConfig
from finetune.data import Split, collate, lengths_of
from kg.progress import progress

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedConfig

    from ernie.training import TrainingResult
    from finetune.distill import DistillConfig
    from finetune.evaluation import Evaluation
    from finetune.task_model import TaskModel

ANSWER_INPUTS = ("labels",)


class IntermediatePhase(nn.Module):
    """Student and projections as the one module the first phase trains."""

    def __init__(self, student: BertForSequenceClassification, losses: LayerLosses) -> None:
        super().__init__()
        self.student = student
        self.losses = losses

    def forward(self, batch: Mapping[str, Tensor], teacher: nn.Module) -> dict[str, Tensor]:
        """Losses of `LayerLosses`; the teacher runs without gradients, on the whole batch."""
        from finetune.students import text_only

        layer_map = self.losses.layer_map
        inputs = {name: tensor for name, tensor in batch.items() if name not in ANSWER_INPUTS}
        with torch.no_grad():
            shown = record_features(teacher.get_submodule("bert"), inputs, layers=layer_map)
        own = record_features(self.student.bert, text_only(inputs), layers=range(1, len(layer_map) + 1))
        return self.losses(own, shown, inputs["attention_mask"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAndStudent:
    """What both phases and all scores share; features carry entities, which the student is not given."""

    teacher: TaskModel
    student: BertForSequenceClassification
    features: Mapping[Split, list[dict[str, Any]]]

    def score(self, model: nn.Module, split: Split, batch_size: int) -> Evaluation:
        from finetune.evaluation import evaluate, without_entities

        features = self.features[split]
        if model is not self.teacher.model:
            features = [without_entities(feature) for feature in features]
        return evaluate(
            model,
            features,
            spec=self.teacher.spec,
            batch_size=batch_size,
            pad_token_id=self.teacher.tokenizer.pad_token_id,
        )


def learn_layers(config: DistillConfig, pair: TeacherAndStudent, checkpoints: Path) -> TrainingResult:
    """The first phase: embeddings, hidden states, attention or relations of the mapped layers."""
    from ernie.losses.distillation import uniform_layer_map
    from ernie.training.reproducibility import isolated_randomness

    student, teacher = pair.student.config, pair.teacher.model.config
    with isolated_randomness(config.seed):
        losses = LayerLosses(
            student_width=student.hidden_size,
            teacher_width=teacher.hidden_size,
            layer_map=uniform_layer_map(student.num_hidden_layers, teacher.num_hidden_layers),
            weights=config.weights,
            relation_heads=config.relation_heads or _relation_heads(student, teacher),
            num_heads=(student.num_attention_heads, teacher.num_attention_heads),
        )
    return _train(
        IntermediatePhase(pair.student, losses),
        config.intermediate,
        config,
        pair,
        checkpoints,
        "distilling layers",
        compute_losses=lambda phase, batch: phase(batch, pair.teacher.model),
    )


def _relation_heads(student: PreTrainedConfig, teacher: PreTrainedConfig) -> int:
    """The largest number, not above the teacher's attention heads, that divides both widths."""
    common = math.gcd(student.hidden_size, teacher.hidden_size)
    return next(heads for heads in range(teacher.num_attention_heads, 0, -1) if common % heads == 0)


def learn_answers(config: DistillConfig, pair: TeacherAndStudent, checkpoints: Path) -> TrainingResult:
    """The second phase: the teacher's answers; the student ends with the weights dev liked best."""
    from finetune.students import text_only

    spec = pair.teacher.spec

    def compute_losses(student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name not in ANSWER_INPUTS}
        with torch.no_grad():
            answers = pair.teacher.model(**inputs).logits
        output = student(**text_only(inputs), labels=batch["labels"] if config.hard_label_weight else None)
        soft = prediction_loss(
            output.logits,
            answers,
            problem_type=spec.problem_type,
            temperature=config.temperature,
            class_mean=config.class_mean,
        ).mean()
        if not config.hard_label_weight:
            return {"loss": soft}
        return {"loss": soft + config.hard_label_weight * output.loss, "soft_loss": soft, "hard_loss": output.loss}

    return _train(
        pair.student,
        config.prediction,
        config,
        pair,
        checkpoints,
        "distilling answers",
        compute_losses=compute_losses,
        evaluate=lambda student: pair.score(student, "dev", config.eval_batch_size).metrics,
        keep_best=spec.primary_metric,
    )


def _train(
    model: nn.Module,
    training: TrainingConfig,
    config: DistillConfig,
    pair: TeacherAndStudent,
    checkpoints: Path,
    what: str,
    **settings: Any,
) -> TrainingResult:
    from ernie.training import ExampleBatches, train

    features = pair.features["train"]
    batches = ExampleBatches(
        features,
        lengths=lengths_of(features),
        batch_size=training.batch_size,
        seed=config.seed,
        collate=lambda chosen, epoch, rows: collate(chosen, pad_token_id=pair.teacher.tokenizer.pad_token_id),
    )
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
