"""What teacher and student are given, and at which rates a phase trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForPreTraining

import ernie
from ernie.distilling import InsideDistillation, Reading, parameter_groups
from ernie.losses.intermediate import IntermediateLosses
from ernie.losses.matching import PRESETS, Shape, match_table

BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3]]),
    "attention_mask": torch.ones(1, 4, dtype=torch.long),
    "labels": torch.tensor([1]),
    "spans": torch.zeros(1, 1, 2, dtype=torch.long),
    "entity_embeds": torch.ones(1, 1, 8),
    "entity_positions": torch.ones(1, 1, dtype=torch.long),
    "entity_attention_mask": torch.ones(1, 1, dtype=torch.long),
}


def _teacher() -> ernie.ErnieForPreTraining:
    torch.manual_seed(0)
    config = ernie.ErnieConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        entity_size=8,
        num_entity_attention_heads=2,
        layer_types=["mix", "fuse"],
    )
    return ernie.ErnieForPreTraining(config).eval()


def _student() -> BertForPreTraining:
    torch.manual_seed(1)
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    return BertForPreTraining(config)


@pytest.mark.parametrize(
    ("reading", "teacher_sees", "student_sees"),
    [
        (Reading(two_stream=False), True, False),
        (Reading(two_stream=True), True, True),
        (Reading(two_stream=False, teacher_sees_entities=False), False, False),
    ],
)
def test_each_is_given_what_it_takes(reading, teacher_sees, student_sees):
    """An entity that leaks into the text-only student, or is dropped on the way to the teacher, shows nowhere."""
    for inputs, sees in ((reading.teacher(BATCH), teacher_sees), (reading.student(BATCH), student_sees)):
        assert ("entity_embeds" in inputs) == sees
        assert "labels" not in inputs
        assert "spans" not in inputs


def test_a_pruned_students_words_are_translated():
    pieces = torch.zeros(20, dtype=torch.long)
    pieces[[2, 7, 9, 3]] = torch.tensor([1, 2, 3, 4])
    reading = Reading(two_stream=False, pieces=pieces)
    assert reading.student(BATCH)["input_ids"].tolist() == [[1, 2, 3, 4]]
    assert reading.teacher(BATCH)["input_ids"].tolist() == [[2, 7, 9, 3]]


def test_the_teacher_is_no_part_of_what_trains_and_keeps_no_graph():
    """A teacher among the parameters would be pulled towards its student."""
    teacher, student, settings = _teacher(), _student(), PRESETS["ernie-to-bert"]
    matches = match_table(
        settings, student=Shape.of(student.config), teacher=Shape.of(teacher.config), layer_map=(1, 2)
    )
    phase = InsideDistillation(
        student, IntermediateLosses(matches, settings=settings), reading=Reading(two_stream=False)
    )
    phase.fit_projections([BATCH], teacher)
    losses = phase(BATCH, teacher)
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.bert.parameters())
    assert not {id(p) for p in phase.parameters()} & {id(p) for p in teacher.parameters()}
    values = phase.term_values(BATCH, teacher)
    assert set(values) == {"embedding", "hidden", "relation", "entity_hidden"}


def test_projections_train_at_their_own_rate_and_everything_trains_once():
    """A parameter in two groups is stepped twice; one in none stays as it began."""
    model = nn.ModuleDict({"student": nn.Linear(3, 3), "projection": nn.Linear(3, 4)})
    groups = parameter_groups(model, weight_decay=0.1, own_rate=lambda name: 0.5 if "projection" in name else None)
    placed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(placed) == sorted(id(parameter) for parameter in model.parameters())
    rates = {id(parameter): group.get("lr") for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for parameter in model["projection"].parameters()} == {0.5}
    assert {rates[id(parameter)] for parameter in model["student"].parameters()} == {None}
