"""How a batch goes through a teacher and its student: what both stages of distillation share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ernie.losses.features import Features, record_features
from ernie.losses.intermediate import IntermediateLosses, Views
from ernie.training.optimisation import ParameterGroups, decay_groups

Batch = Mapping[str, Tensor]

ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ENTITY_INPUTS = ("entity_ids", "entity_positions", "entity_embeds", "entity_attention_mask")

FITTED_BATCHES = 8
"""Batches whose states the projections are fitted to before the first step."""


def encoder_inputs(batch: Batch) -> dict[str, Tensor]:
    """What an ErnieModel takes of a batch: no labels, no spans of a task's head."""
    return {name: batch[name] for name in ENCODER_INPUTS + ENTITY_INPUTS if name in batch}


def text_inputs(batch: Batch) -> dict[str, Tensor]:
    """What a plain BertModel takes of a batch."""
    return {name: batch[name] for name in ENCODER_INPUTS if name in batch}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What teacher and student are given of a batch.

    two_stream: whether the student takes entities. teacher_sees_entities: False for the control that is distilled from
    the teacher's text side alone. pieces: old row -> new row for a student whose vocabulary was pruned, else None.
    """

    two_stream: bool
    teacher_sees_entities: bool = True
    pieces: Tensor | None = None

    def teacher(self, batch: Batch) -> dict[str, Tensor]:
        return encoder_inputs(batch) if self.teacher_sees_entities else text_inputs(batch)

    def student(self, batch: Batch) -> dict[str, Tensor]:
        inputs = encoder_inputs(batch) if self.two_stream else text_inputs(batch)
        return self.translated(inputs)

    def translated(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with the student's own word rows."""
        if self.pieces is None:
            return inputs
        ids = inputs["input_ids"]
        return {**inputs, "input_ids": self.pieces.to(ids.device)[ids]}


class InsideDistillation(nn.Module):
    """Student and projections as the one module that a phase trains; the teacher is handed in, never a part.

    student: a model whose encoder is `.bert`.
    """

    def __init__(self, student: nn.Module, losses: IntermediateLosses, *, reading: Reading) -> None:
        super().__init__()
        self.student, self.losses, self.reading = student, losses, reading

    def forward(self, batch: Batch, teacher: nn.Module) -> dict[str, Tensor]:
        """The terms of `IntermediateLosses`."""
        return self.losses(self.views(batch, teacher))

    def views(self, batch: Batch, teacher: nn.Module) -> Views:
        """Both models' insides on one batch, each pass that the losses need once.

        teacher: in eval mode, its encoder `.bert`; it runs under inference_mode.
        """
        own_layers, teacher_layers = self.losses.layers
        reading, encoder = self.reading, self.student.get_submodule("bert")
        seen = reading.teacher(batch)
        with torch.inference_mode():
            inside = teacher.get_submodule("bert")
            told = record_features(inside, seen, layers=teacher_layers)
            plain: Features | None = None
            if self.losses.needs_teacher_plain and told.has_entities:
                plain = record_features(inside, text_inputs(batch), layers=())
        own = record_features(encoder, reading.student(batch), layers=own_layers)
        own_plain: Features | None = None
        if self.losses.needs_student_plain and told.has_entities:
            own_plain = record_features(encoder, reading.translated(text_inputs(batch)), layers=())
        return Views(
            student=own,
            teacher=told,
            mask=batch["attention_mask"],
            entity_positions=seen.get("entity_positions"),
            entity_mask=seen.get("entity_attention_mask"),
            student_plain=own_plain,
            teacher_plain=plain,
        )

    @torch.no_grad()
    def fit_projections(self, batches: Sequence[Batch], teacher: nn.Module) -> None:
        """Begins the projections as least-squares maps on a few batches; see `IntermediateLosses.fit_projections`."""
        if not self.losses.projections:
            return
        was_training = self.student.training
        self.student.eval()
        self.losses.fit_projections([self.views(batch, teacher) for batch in batches])
        self.student.train(was_training)

    @torch.no_grad()
    def term_values(self, batch: Batch, teacher: nn.Module) -> dict[str, float]:
        """The terms on one batch, unweighted, without dropout: what the match table's shares are computed from."""
        was_training = self.student.training
        self.student.eval()
        found = {name: float(value) for name, value in self(batch, teacher).items() if name != "loss"}
        self.student.train(was_training)
        return found


def parameter_groups(
    model: nn.Module, *, weight_decay: float, own_rate: Callable[[str], float | None]
) -> ParameterGroups:
    """Matrices decaying, vectors not, and parameters for whose name `own_rate` gives a rate at that peak.

    Names are the model's own (`losses.projections.token_1.weight`).
    """
    rates = {id(parameter): own_rate(name) for name, parameter in model.named_parameters()}
    groups: ParameterGroups = []
    for group in decay_groups(model, weight_decay=weight_decay):
        for rate in dict.fromkeys(rates[id(parameter)] for parameter in group["params"]):
            members = [parameter for parameter in group["params"] if rates[id(parameter)] == rate]
            groups.append({**group, "params": members, **({} if rate is None else {"lr": rate})})
    return groups
