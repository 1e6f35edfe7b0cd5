"""What tells one task from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.tasks.schema import Example
from kg.errors import InputError

ProblemType = Literal["single_label_classification", "multi_label_classification"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task: the model's class in `ernie`, the kind of answer, the marks put round its spans, what dev chooses by.

    markers: role of a span -> (token before, token after); the tokens are added to the tokenizer as special ones.
    primary_metric: a key of `evaluation.Evaluation.metrics`; higher is better.
    """

    name: str
    model_class_name: str
    problem_type: ProblemType
    markers: Mapping[str, tuple[str, str]]
    primary_metric: str

    @property
    def marker_tokens(self) -> list[str]:
        """All marks, in a fixed order."""
        return [token for pair in self.markers.values() for token in pair]

    @property
    def multi_label(self) -> bool:
        return self.problem_type == "multi_label_classification"


def for_examples(spec: TaskSpec, examples: Sequence[Example]) -> TaskSpec:
    """The spec with the kind of answer these examples carry: `labels` make a task multi-label, `label` single-label.

    Raises:
        InputError: no examples, an example without an answer, or both kinds among them.
    """
    if not examples:
        raise InputError(f"{spec.name}: no examples to train on")
    for example in examples:
        if example.label is None and example.labels is None:
            raise InputError(f"{spec.name}: example {example.id!r} has neither `label` nor `labels`")
    kinds = {example.labels is not None for example in examples}
    if len(kinds) == 2:
        raise InputError(f"{spec.name}: some examples carry `label`, others `labels`; give all the same")
    if not kinds.pop():
        return replace(spec, problem_type="single_label_classification", primary_metric="macro_f1")
    return replace(spec, problem_type="multi_label_classification", primary_metric="loose_micro_f1")
