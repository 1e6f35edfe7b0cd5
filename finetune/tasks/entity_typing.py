"""Entity typing: what a marked mention is, one class or several."""

from __future__ import annotations

from finetune.tasks.spec import TaskSpec

ENTITY_TYPING = TaskSpec(
    name="entity_typing",
    model_class_name="ErnieForEntityTyping",
    problem_type="single_label_classification",
    markers={"mention": ("[ENT]", "[/ENT]")},
    primary_metric="macro_f1",
)
