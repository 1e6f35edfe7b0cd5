"""Layouts of entity typing: the official JSON lines (Open Entity, FIGER, ultra-fine) and ERNIE's array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from finetune.formats.records import BadRecord, Columns, escaped, get, strings, token_range, unescaped
from finetune.tasks.schema import EntityLink, Example, Span

GENERAL_TYPES = frozenset(["entity", "event", "group", "location", "object", "organization", "person", "place", "time"])
"""The nine general types of Open Entity that every paper scores."""


def parse_ultra_fine(record: Any, name: str, columns: Columns) -> Example:
    """`{"y_str", "annot_id", "mention_span", "left_context_token", "right_context_token"}` (Choi et al. 2018)."""
    left = unescaped(strings(record, "left_context_token"))
    right = unescaped(strings(record, "right_context_token"))
    mention = " ".join(unescaped(get(record, "mention_span", str).split()))
    if not mention:
        raise BadRecord("empty_span", "mention_span", mention, "expected the mention's words")
    before = " ".join(left) + " " if left else ""
    after = " " + " ".join(right) if right else ""
    return Example(
        id=str(record.get("annot_id") or name),
        text=f"{before}{mention}{after}",
        spans=(Span(start=len(before), end=len(before) + len(mention)),),
        labels=tuple(sorted(set(strings(record, "y_str")))),
    )


def parse_open_entity(record: Any, name: str, columns: Columns) -> Example:
    """As `parse_ultra_fine`, with the nine general types alone; an example may be left without any, and stays."""
    example = parse_ultra_fine(record, name, columns)
    kept = tuple(label for label in example.labels or () if label in GENERAL_TYPES)
    return Example(id=example.id, text=example.text, spans=example.spans, labels=kept)


def write_ultra_fine(path: Path, examples: Sequence[Example]) -> None:
    with path.open("wb") as file:
        for example in examples:
            span = example.spans[0]
            first, behind = token_range(example.text, span.start, span.end)
            tokens = escaped(example.text.split(" "))
            record = {
                "y_str": list(example.labels or ()),
                "annot_id": example.id,
                "mention_span": " ".join(tokens[first:behind]),
                "left_context_token": tokens[:first],
                "right_context_token": tokens[behind:],
            }
            file.write(orjson.dumps(record) + b"\n")


def parse_ernie(record: Any, name: str, columns: Columns) -> Example:
    """`{"sent", "start", "end", "labels", "ents": [[QID, start, end, score], …]}`, characters, end exclusive.

    A start of 1 inside the first word means 0, as the first implementation reads it.
    """
    text, start, end = get(record, "sent", str), get(record, "start", int), get(record, "end", int)
    if start == 1 and text[:2].isalnum():
        start = 0
    return Example(
        id=name,
        text=text,
        spans=(Span(start=start, end=end),),
        links=ernie_links(record, "ents"),
        labels=tuple(sorted(set(strings(record, "labels")))),
    )


def write_ernie(path: Path, examples: Sequence[Example]) -> None:
    records = [
        {
            "sent": example.text,
            "start": example.spans[0].start,
            "end": example.spans[0].end,
            "labels": list(example.labels or ()),
            "ents": [[link.entity, link.start, link.end, link.score] for link in example.links],
        }
        for example in examples
    ]
    path.write_bytes(orjson.dumps(records))


def ernie_links(record: Any, field: str) -> tuple[EntityLink, ...]:
    """`[[QID, start, end, score], …]`; a score that is not there is 1."""
    links = []
    for item in get(record, field, list):
        if not isinstance(item, list) or len(item) < 3 or not isinstance(item[0], str):
            raise BadRecord("bad_link", field, item, "expected [entity, start, end, score]")
        if not all(isinstance(number, (int, float)) for number in item[1:]):
            raise BadRecord("bad_link", field, item, "start, end and score are numbers")
        score = float(item[3]) if len(item) > 3 else 1.0
        links.append(EntityLink(start=int(item[1]), end=int(item[2]), entity=item[0], score=score))
    return tuple(links)
