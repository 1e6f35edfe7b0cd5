"""One task example, and its JSON lines.

A line is `{"id", "text", "text_pair"?, "document"?, "offset"?, "spans": [{"start", "end", "role", "type"?}],
"links": [{"start", "end", "entity", "score"?}], "label" | "labels" | "value"}`. Offsets are Unicode code points
into `text`, end exclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kg.errors import InputError

WORD = "token"
"""Role of the spans that tag words; their type is the tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A marked place: `text[start:end]`, what it is to the task (`mention`, `head`, `tail`), its type if known."""

    start: int
    end: int
    role: str = "mention"
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityLink:
    """A mention and the entity it is linked to; `score` in [0, 1]."""

    start: int
    end: int
    entity: str
    score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One thing to classify.

    label: the class of a single-label task. labels: the classes of a multi-label task (may be empty). value: the number
        a regression asks for. All None: an example without an answer, as `finetune predict` reads it; or one of a
        task that tags words, whose answers are the types of its spans of role `token`.
    document, offset: the source document's id and where `text` begins in its text, so that mentions linked there
        can be joined.
    """

    id: str
    text: str
    text_pair: str | None = None
    document: str | None = None
    offset: int | None = None
    spans: tuple[Span, ...] = ()
    links: tuple[EntityLink, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] | None = None
    value: float | None = None

    def span(self, role: str) -> Span | None:
        """The first span of that role, or None."""
        return next((span for span in self.spans if span.role == role), None)


KEYS = set(Example.__dataclass_fields__)


def as_record(example: Example) -> dict[str, Any]:
    """The example as JSON values, keys without a value left out."""
    record: dict[str, Any] = {"id": example.id, "text": example.text}
    for key in ("text_pair", "document", "offset", "label", "value"):
        if (value := getattr(example, key)) is not None:
            record[key] = value
    record["spans"] = [
        {"start": s.start, "end": s.end, "role": s.role} | ({"type": s.type} if s.type is not None else {})
        for s in example.spans
    ]
    record["links"] = [{"start": k.start, "end": k.end, "entity": k.entity, "score": k.score} for k in example.links]
    if example.labels is not None:
        record["labels"] = list(example.labels)
    return record


def from_record(record: Any, *, place: str) -> Example:
    """The example in a JSON object.

    place: `file:line`, put before every message.

    Raises:
        InputError: a key is missing, unknown or of another type; a span is empty or leaves the text; both `label`
            and `labels` are given.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected a JSON object, got {type(record).__name__}; one example a line")
    if unknown := set(record) - KEYS:
        raise InputError(f"{place}: unknown keys {sorted(unknown)}; an example has {sorted(KEYS)}")
    text = _value(record, "text", str, place)
    answers = [key for key in ("label", "labels", "value") if record.get(key) is not None]
    if len(answers) > 1:
        raise InputError(f"{place}: both `{answers[0]}` and `{answers[1]}` are given; keep the one the task asks for")
    return Example(
        id=_value(record, "id", str, place),
        text=text,
        text_pair=_value(record, "text_pair", str, place, optional=True),
        document=_value(record, "document", str, place, optional=True),
        offset=_value(record, "offset", int, place, optional=True),
        spans=tuple(_span(item, text, place) for item in _items(record, "spans", place)),
        links=tuple(_link(item, text, place) for item in _items(record, "links", place)),
        label=_value(record, "label", str, place, optional=True),
        labels=_labels(record, place),
        value=_number(record, place),
    )


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a JSON-lines file, in order; blank lines are passed over.

    Raises:
        InputError: naming file and line, see `from_record`; an id that came before.
    """
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = orjson.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: not JSON ({error}); one object a line") from None
        example = from_record(record, place=place)
        if example.id in seen:
            raise InputError(f"{place}: the id {example.id!r} came before; give every example its own")
        seen.add(example.id)
        yield example


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Writes one JSON object a line; returns how many."""
    count = 0
    with Path(path).open("wb") as file:
        for example in examples:
            file.write(orjson.dumps(as_record(example)) + b"\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[bytes]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected examples as JSON lines")
    with Path(path).open("rb") as file:
        yield from file


def _value(record: dict, key: str, kind: type, place: str, optional: bool = False) -> Any:
    value = record.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{place}: `{key}` is {value!r}, expected {kind.__name__}")
    return value


def _items(record: dict, key: str, place: str) -> list:
    items = record.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{place}: `{key}` is {items!r}, expected a list of objects with start and end")
    return items


def _labels(record: dict, place: str) -> tuple[str, ...] | None:
    labels = record.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"{place}: `labels` is {labels!r}, expected a list of strings")
    return tuple(labels)


def _number(record: dict, place: str) -> float | None:
    value = record.get("value")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{place}: `value` is {value!r}, expected a finite number")
    return float(value)


def _span(item: dict, text: str, place: str) -> Span:
    start, end = _place(item, text, place, "span")
    role = _value(item, "role", str, place, optional=True)
    return Span(start=start, end=end, role=role or "mention", type=_value(item, "type", str, place, optional=True))


def _link(item: dict, text: str, place: str) -> EntityLink:
    start, end = _place(item, text, place, "link")
    score = item.get("score", 1.0)
    if not isinstance(score, (int, float)) or isinstance(score, bool):
        raise InputError(f"{place}: a link's `score` is {score!r}, expected a number")
    return EntityLink(start=start, end=end, entity=_value(item, "entity", str, place), score=float(score))


def _place(item: dict, text: str, place: str, what: str) -> tuple[int, int]:
    start, end = _value(item, "start", int, place), _value(item, "end", int, place)
    check_span(start, end, text, lambda fault: f"{place}: {what} {fault}")
    return start, end


def check_span(start: int, end: int, text: str, message: Callable[[str], str]) -> None:
    """Refuses a span that is empty or leaves its text; `message` puts the place before the fault."""
    if start >= end:
        raise InputError(message(f"[{start}, {end}) is empty; expected start < end"))
    if start < 0 or end > len(text):
        raise InputError(message(f"[{start}, {end}) leaves the text of {len(text)} characters"))
