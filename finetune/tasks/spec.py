"""What tells one task from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.tasks.marks import MARKINGS, filled, special_pieces
from finetune.tasks.schema import Example, Span
from kg.errors import InputError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]
Pooling = Literal["cls", "start", "mean"]
PoolingChoice = Literal["auto", "cls", "start", "mean"]
NULL_LABELS = ("no_relation", "NA", "Other", "none", "O")
"""Names under which data sets keep "none of these", by which `null_label` finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task: the model's class in `ernie`, the kind of answer, the marks put round its spans, what dev chooses by.

    roles: of the spans an example must have, in the order the head reads them.
    markers: role of a span -> (words before, words after), templates of `tasks.marks`.
    pooling: what the head reads (`ernie.ErnieConfig.pooling`).
    span_types: the types that typed marks know, from the training examples.
    scorer: a key of `finetune.scorers.SCORERS`. primary_metric: one of its figures; higher is better.
    label_names: by row of the logits, once they are known; scorers that need a name find it there.
    argmax_fallback: several labels: the likeliest type is always predicted (the first implementation's FIGER rule).
    """

    name: str
    model_class_name: str
    problem_type: ProblemType
    markers: Mapping[str, tuple[str, str]]
    primary_metric: str
    roles: tuple[str, ...] = ()
    pooling: Pooling = "cls"
    span_types: tuple[str, ...] = ()
    scorer: str = "single_label"
    label_names: tuple[str, ...] = ()
    argmax_fallback: bool = False

    @property
    def marker_tokens(self) -> list[str]:
        """All marks that are special pieces, in a fixed order."""
        return special_pieces(self.markers, self.span_types)

    @property
    def multi_label(self) -> bool:
        return self.problem_type == "multi_label_classification"

    @property
    def of_tokens(self) -> bool:
        """Whether every word has a label of its own."""
        return self.problem_type == "token_classification"

    def marks_of(self, span: Span) -> tuple[str, str] | None:
        """The words before and after a span; None where its role stays unmarked."""
        pair = self.markers.get(span.role)
        return None if pair is None else (filled(pair[0], span.type), filled(pair[1], span.type))


def with_marking(spec: TaskSpec, marking: str, examples: Sequence[Example] = ()) -> TaskSpec:
    """The spec with another marking (a key of MARKINGS); typed marks know the types of these (training) examples."""
    if marking not in MARKINGS:
        raise InputError(f"marking {marking!r} is unknown; there are {', '.join(MARKINGS)}")
    markers = {role: pair for role, pair in MARKINGS[marking].items() if role in spec.roles}
    types = {s.type.upper() for e in examples for s in e.spans if s.role in markers and s.type is not None}
    typed = any("{" in template for pair in markers.values() for template in pair)
    return replace(spec, markers=markers, span_types=tuple(sorted(types)) if typed else ())


def with_pooling(spec: TaskSpec, pooling: PoolingChoice) -> TaskSpec:
    """The spec with a head that reads what is asked for; only tasks that mark spans have any to read.

    auto: the mean of the spans' pieces where there are spans, else [CLS].
    """
    if pooling == "auto":
        return replace(spec, pooling="mean" if spec.roles else "cls")
    if pooling != "cls" and not spec.roles:
        raise InputError(f"{spec.name} marks no spans: pooling is cls, got {pooling!r}")
    return replace(spec, pooling=pooling)


def with_labels(spec: TaskSpec, label_names: Sequence[str]) -> TaskSpec:
    """The spec with its labels by row."""
    return replace(spec, label_names=tuple(label_names))


def null_label(names: Sequence[str]) -> str | None:
    """The label that says "none of these", found by its name; None where the data has none."""
    return next((name for name in NULL_LABELS if name in names), None)


def for_examples(spec: TaskSpec, examples: Sequence[Example]) -> TaskSpec:
    """The spec with the kind of answer these examples carry: `labels` make a task multi-label, `label` single-label,
    `value` a regression.

    Raises:
        InputError: no examples, an example without an answer, or two kinds among them.
    """
    if not examples:
        raise InputError(f"{spec.name}: no examples to train on")
    if spec.of_tokens:
        return spec
    for example in examples:
        if example.label is None and example.labels is None and example.value is None:
            raise InputError(f"{spec.name}: example {example.id!r} has neither `label` nor `labels` nor `value`")
    kinds = {_kind(example) for example in examples}
    if len(kinds) > 1:
        named = sorted(kinds)
        raise InputError(f"{spec.name}: some examples carry `{named[0]}`, others `{named[1]}`; give all the same")
    kind = kinds.pop()
    if kind == "label":
        if spec.problem_type == "single_label_classification":
            return spec
        return replace(
            spec, problem_type="single_label_classification", scorer="single_label", primary_metric="macro_f1"
        )
    if kind == "value":
        return replace(spec, problem_type="regression", scorer="correlation", primary_metric="pearson_spearman")
    return replace(spec, problem_type="multi_label_classification", scorer="types", primary_metric="loose_micro_f1")


def _kind(example: Example) -> str:
    if example.labels is not None:
        return "labels"
    return "label" if example.label is not None else "value"
