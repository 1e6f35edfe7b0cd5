"""A tag for every word: spans of role `token`, whose type is the tag (BIO)."""

from __future__ import annotations

from finetune.tasks.spec import TaskSpec

TOKEN_CLASSIFICATION = TaskSpec(
    name="token_classification",
    model_class_name="ErnieForTokenClassification",
    problem_type="token_classification",
    markers={},
    scorer="chunks",
    primary_metric="span_f1",
)
