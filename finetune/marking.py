"""Marks put into a text, links moved along, and the word pieces that a head reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.tasks.schema import EntityLink, Example, check_span
from finetune.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from ernie import Encoding

CUT_SPAN = (0, 1)
"""Pieces of a span that `max_length` cut off: [CLS] stands for it."""


@dataclass(frozen=True, slots=True)
class MarkedSpan:
    """A span in the marked text, in code points: `start` and `end` of its own words; `opening` and `closing`, where its
    marks begin, None without marks."""

    role: str
    start: int
    end: int
    opening: int | None
    closing: int | None


@dataclass(frozen=True, slots=True)
class Marked:
    """A text with its marks, its links at their new places, and the places of its spans in the order of the example."""

    text: str
    links: list[EntityLink]
    spans: list[MarkedSpan]


@dataclass(frozen=True, slots=True)
class _Insertion:
    """order: at one position a closing mark (0) stands before an opening one (1). span: number in the example."""

    position: int
    order: int
    span: int
    token: str


def mark(example: Example, *, spec: TaskSpec, links: Sequence[EntityLink] = ()) -> Marked:
    """The text with the marks of its spans put in, and the links moved along.

    `Kyiv is old` with a mention [0, 4) becomes `[ENT] Kyiv [/ENT] is old`, a link [0, 4) becomes [6, 10). A link still
    covers the same characters; one with a mark strictly inside ends before that mark (its first piece, where the
    entity sits, stays). Spans of roles the task has no marks for stay unmarked.

    Raises:
        InputError: a span or link is empty or leaves the text.
    """
    for item in (*example.spans, *links):
        check_span(item.start, item.end, example.text, lambda fault: f"example {example.id!r}: span {fault}")
    insertions = _insertions(example, spec)
    pieces, done, placed = [], 0, {}
    length = 0
    for insertion in insertions:
        before = example.text[done : insertion.position]
        pieces += [before, insertion.token]
        placed[insertion.span, insertion.order] = length + len(before) + (insertion.order == 0)
        length += len(before) + len(insertion.token)
        done = insertion.position
    pieces.append(example.text[done:])
    spans = []
    for number, span in enumerate(example.spans):
        shift = sum(len(i.token) for i in insertions if i.position <= span.start)
        inside = sum(len(i.token) for i in insertions if span.start < i.position < span.end)
        spans.append(
            MarkedSpan(
                span.role,
                span.start + shift,
                span.end + shift + inside,
                placed.get((number, 1)),
                placed.get((number, 0)),
            )
        )
    return Marked("".join(pieces), [_moved(link, insertions) for link in links], spans)


def read_pieces(marked: Marked, encoding: Encoding, spec: TaskSpec) -> np.ndarray:
    """The pieces a head reads, int64 (num_roles, 2): first, and the one behind the last.

    `start`: the opening mark where there is one, else the span's first piece (Zhou & Chen 2022). `mean`: the span's own
    pieces. A span that was cut off, or that has no piece, is read as [CLS].
    """
    first = {}
    for span in marked.spans:
        first.setdefault(span.role, span)
    return np.array([_pieces(first.get(role), encoding, spec) for role in spec.roles], dtype=np.int64).reshape(-1, 2)


def marks_cut_off(marked: Marked, encoding: Encoding) -> bool:
    """Whether a mark fell to `max_length`."""
    places = [place for span in marked.spans for place in (span.opening, span.closing) if place is not None]
    return any(encoding.piece_at(place) is None for place in places)


def _pieces(span: MarkedSpan | None, encoding: Encoding, spec: TaskSpec) -> tuple[int, int]:
    if span is None:
        return CUT_SPAN
    if spec.pooling == "start" and span.opening is not None:
        piece = encoding.piece_at(span.opening)
        return CUT_SPAN if piece is None else (piece, piece + 1)
    found = [piece for place in range(span.start, span.end) if (piece := encoding.piece_at(place)) is not None]
    if not found:
        return CUT_SPAN
    return (found[0], found[0] + 1) if spec.pooling == "start" else (found[0], found[-1] + 1)


def _insertions(example: Example, spec: TaskSpec) -> list[_Insertion]:
    found = []
    for number, span in enumerate(example.spans):
        if (pair := spec.marks_of(span)) is not None:
            opening, closing = pair
            found.append(_Insertion(span.start, 1, number, f"{opening} "))
            found.append(_Insertion(span.end, 0, number, f" {closing}"))
    return sorted(found, key=lambda i: (i.position, i.order, i.token))


def _moved(link: EntityLink, insertions: Sequence[_Insertion]) -> EntityLink:
    """Marks at the link's start go before it, those at its end behind it."""
    shift = sum(len(i.token) for i in insertions if i.position <= link.start)
    inside = [i.position for i in insertions if link.start < i.position < link.end]
    end = min(inside, default=link.end)
    return EntityLink(start=link.start + shift, end=end + shift, entity=link.entity, score=link.score)
