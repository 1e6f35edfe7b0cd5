"""Entity typing: what a marked mention is, one class or several."""

from __future__ import annotations

from finetune.tasks.marks import MARKINGS
from finetune.tasks.spec import TaskSpec

ENTITY_TYPING = TaskSpec(
    name="entity_typing",
    model_class_name="ErnieForEntityTyping",
    problem_type="single_label_classification",
    roles=("mention",),
    markers={"mention": MARKINGS["special"]["mention"]},
    primary_metric="macro_f1",
)
