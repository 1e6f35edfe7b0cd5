"""Relation classification: how a marked head stands to a marked tail."""

from __future__ import annotations

from finetune.tasks.marks import MARKINGS
from finetune.tasks.spec import TaskSpec

RELATION_CLASSIFICATION = TaskSpec(
    name="relation_classification",
    model_class_name="ErnieForRelationClassification",
    problem_type="single_label_classification",
    roles=("head", "tail"),
    markers={role: MARKINGS["special"][role] for role in ("head", "tail")},
    primary_metric="macro_f1",
)
