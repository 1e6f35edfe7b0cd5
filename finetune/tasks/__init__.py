"""The tasks a pretrained model is fine-tuned for."""

from __future__ import annotations

from finetune.tasks.entity_typing import ENTITY_TYPING
from finetune.tasks.marks import MARKINGS
from finetune.tasks.relation_classification import RELATION_CLASSIFICATION
from finetune.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from finetune.tasks.spec import TaskSpec, for_examples, null_label, with_labels, with_marking, with_pooling
from finetune.tasks.token_classification import TOKEN_CLASSIFICATION

__all__ = [
    "MARKINGS",
    "TASKS",
    "TaskSpec",
    "for_examples",
    "null_label",
    "with_labels",
    "with_marking",
    "with_pooling",
]

TASKS: dict[str, TaskSpec] = {
    spec.name: spec for spec in (ENTITY_TYPING, RELATION_CLASSIFICATION, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)
}
