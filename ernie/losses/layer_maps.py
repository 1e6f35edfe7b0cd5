"""Layer maps g: for each student layer m = 1 … M the teacher layer it learns from, 1-based."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ernie.errors import InputError


def uniform_layer_map(num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """g(m): the last teacher layer of each of M equal blocks, 1-based (TinyBERT's map when M divides N).

    >>> uniform_layer_map(3, 6), uniform_layer_map(4, 6)
    ((2, 4, 6), (1, 3, 4, 6))
    """
    if not 1 <= num_student_layers <= num_teacher_layers:
        raise InputError(
            f"a student of {num_student_layers} layers cannot be mapped on a teacher of "
            f"{num_teacher_layers}; choose 1 to {num_teacher_layers} layers"
        )
    return tuple(m * num_teacher_layers // num_student_layers for m in range(1, num_student_layers + 1))


def kind_layer_map(num_student_layers: int, teacher_kinds: Sequence[str]) -> tuple[int, ...]:
    """The uniform map, its nearest entry moved to each kind of layer that it misses, where there is room for all.

    A student whose layer m has the kind of the teacher's layer g(m) then has every kind its teacher has.

    >>> kind_layer_map(4, ["text"] * 5 + ["mix"] + ["fuse"] * 6)
    (3, 6, 9, 12)
    >>> kind_layer_map(3, ["text", "text", "mix", "fuse", "fuse", "fuse"])
    (2, 3, 6)
    """
    mapped = list(uniform_layer_map(num_student_layers, len(teacher_kinds)))
    places = {kind: [g for g, k in enumerate(teacher_kinds, start=1) if k == kind] for kind in teacher_kinds}
    if len(places) > num_student_layers:
        return tuple(mapped)
    for layers in places.values():
        if set(layers) & set(mapped):
            continue
        options = [
            (abs(g - mapped[m]), -m, m, g)
            for g in layers
            for m in range(num_student_layers)
            if _still_rising(mapped, m, g) and _others_keep(mapped, m, teacher_kinds)
        ]
        if options:
            _, _, m, g = min(options)
            mapped[m] = g
    return tuple(mapped)


def _still_rising(mapped: Sequence[int], m: int, g: int) -> bool:
    changed = [*mapped[:m], g, *mapped[m + 1 :]]
    return all(a < b for a, b in itertools.pairwise(changed))


def _others_keep(mapped: Sequence[int], m: int, kinds: Sequence[str]) -> bool:
    """Whether the kind at entry m occurs elsewhere too, so that moving the entry loses none."""
    own = kinds[mapped[m] - 1]
    return sum(kinds[g - 1] == own for g in mapped) > 1
