"""A class or a number for a text or a pair of texts (GLUE's tasks), with or without linked entities."""

from __future__ import annotations

from finetune.tasks.spec import TaskSpec

SEQUENCE_CLASSIFICATION = TaskSpec(
    name="sequence_classification",
    model_class_name="ErnieForSequenceClassification",
    problem_type="single_label_classification",
    markers={},
    scorer="accuracy",
    primary_metric="accuracy",
)
