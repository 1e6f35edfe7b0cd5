"""What a task asks of its examples before anything is trained or scored."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from finetune.tasks.schema import Example
from finetune.tasks.spec import TaskSpec
from kg.errors import InputError


def check_examples(spec: TaskSpec, examples: Iterable[Example], source: str) -> None:
    """Refuses an example without the spans its task marks, with two of one role, or with overlapping ones.

    source: the file or folder, put before every message.
    """
    for example in examples:
        fault = span_fault(spec, example)
        if fault is not None:
            raise InputError(f"{source}: example {example.id!r} {fault}")


def span_fault(spec: TaskSpec, example: Example) -> str | None:
    """What is wrong with an example's spans for this task, with the mend; None where nothing is."""
    marked = []
    for role in spec.roles:
        found = [span for span in example.spans if span.role == role]
        if len(found) != 1:
            return f"has {len(found)} spans of role {role!r}; {spec.name} needs one: give its start and end"
        marked += found
    for one, other in combinations(marked, 2):
        if one.start < other.end and other.start < one.end:
            return (
                f"has overlapping {one.role} [{one.start}, {one.end}) and {other.role} [{other.start}, {other.end}); "
                "give two spans apart from each other"
            )
    return None
