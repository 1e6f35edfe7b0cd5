"""The tasks a pretrained model is fine-tuned for."""

from __future__ import annotations

from finetune.tasks.entity_typing import ENTITY_TYPING
from finetune.tasks.relation_classification import RELATION_CLASSIFICATION
from finetune.tasks.spec import TaskSpec, for_examples

__all__ = ["TASKS", "TaskSpec", "for_examples"]

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (ENTITY_TYPING, RELATION_CLASSIFICATION)}
