"""Layouts of relation classification: FewRel, ERNIE's lists, TACRED and its patches, SemEval-2010 Task 8, OpenNRE."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from finetune.formats.records import (
    BadRecord,
    Columns,
    Record,
    Tokens,
    escaped,
    existing,
    get,
    read_json,
    strings,
    token_range,
    unescaped,
)
from finetune.formats.typing import ernie_links
from finetune.tasks.schema import EntityLink, Example, Span
from kg.errors import InputError

ROLES = ("head", "tail")
TAG = re.compile(r"</?e([12])>")


def fewrel_records(path: Path) -> Iterator[Record]:
    """The sentences of `{"P177": [{"tokens", "h", "t"}, …], …}`, with their relation."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: expected an object of relations, got {type(data).__name__}; ERNIE's is ernie_relation"
        )
    for relation, sentences in data.items():
        if not isinstance(sentences, list):
            raise InputError(f"{path}: `{relation}` is no list of sentences")
        for number, sentence in enumerate(sentences, start=1):
            yield f"{relation} record {number}", (relation, sentence)


def parse_fewrel(record: Any, name: str, columns: Columns) -> Example:
    """`h` and `t` are `[name, QID, [[token index, …], …]]`; of several mentions the first is taken."""
    relation, sentence = record
    tokens = Tokens(strings(sentence, "tokens"))
    spans, links = [], []
    for role, field in zip(ROLES, ("h", "t"), strict=True):
        item = get(sentence, field, list)
        if len(item) != 3 or not isinstance(item[1], str) or not (item[2] and isinstance(item[2], list) and item[2][0]):
            raise BadRecord("bad_mention", field, item, "expected [name, QID, [[token index, ...], ...]]")
        place = _of_tokens(tokens, min(item[2][0]), max(item[2][0]) + 1, field)
        spans.append(Span(start=place[0], end=place[1], role=role))
        links.append(EntityLink(start=place[0], end=place[1], entity=item[1]))
    return Example(id=name, text=tokens.text, spans=tuple(spans), links=tuple(links), label=relation)


def write_fewrel(path: Path, examples: Sequence[Example]) -> None:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for example in examples:
        sentence: dict[str, Any] = {"tokens": example.text.split(" ")}
        for role, field in zip(ROLES, ("h", "t"), strict=True):
            span = _span(example, role)
            first, behind = token_range(example.text, span.start, span.end)
            surface = example.text[span.start : span.end].lower()
            sentence[field] = [surface, _entity_at(example, span), [list(range(first, behind))]]
        found[str(example.label)].append(sentence)
    path.write_bytes(orjson.dumps(found))


def parse_ernie(record: Any, name: str, columns: Columns) -> Example:
    """`{"label", "text", "ents": [head, tail], "ann"?: […]}`, members `[QID, start, end, score]`.

    Links are `ann` where the file has it (TACRED), else the two entities themselves (FewRel).
    """
    ends = ernie_links(record, "ents")
    if len(ends) != 2:
        raise BadRecord("bad_mention", "ents", record["ents"], "expected head and tail")
    return Example(
        id=str(record.get("id") or name),
        text=get(record, "text", str),
        spans=tuple(Span(start=k.start, end=k.end, role=role) for k, role in zip(ends, ROLES, strict=True)),
        links=ernie_links(record, "ann") if "ann" in record else tuple(k for k in ends if k.entity),
        label=get(record, "label", str),
    )


def write_ernie(path: Path, examples: Sequence[Example]) -> None:
    records = []
    for example in examples:
        spans = [_span(example, role) for role in ROLES]
        own = [_link_at(example, span) for span in spans]
        record: dict[str, Any] = {
            "label": example.label,
            "text": example.text,
            "ents": [
                [link.entity if link else "", s.start, s.end, link.score if link else 0.0]
                for link, s in zip(own, spans, strict=True)
            ],
        }
        places = {(s.start, s.end) for s in spans}
        if len(example.links) != sum(map(bool, own)) or any((k.start, k.end) not in places for k in example.links):
            record["ann"] = [[k.entity, k.start, k.end, k.score] for k in example.links]
        records.append(record)
    path.write_bytes(orjson.dumps(records))


def parse_tacred(record: Any, name: str, columns: Columns) -> Example:
    """Token indices, ends INCLUSIVE; the types of subject and object become those of the spans."""
    tokens = Tokens(unescaped(strings(record, "token")))
    spans = []
    for role, field in zip(ROLES, ("subj", "obj"), strict=True):
        first, last = get(record, f"{field}_start", int), get(record, f"{field}_end", int)
        start, end = _of_tokens(tokens, first, last + 1, f"{field}_start, {field}_end")
        spans.append(Span(start=start, end=end, role=role, type=get(record, f"{field}_type", str)))
    return Example(
        id=str(record.get("id") or name), text=tokens.text, spans=tuple(spans), label=get(record, "relation", str)
    )


def write_tacred(path: Path, examples: Sequence[Example]) -> None:
    records = []
    for example in examples:
        record: dict[str, Any] = {
            "id": example.id,
            "relation": example.label,
            "token": escaped(example.text.split(" ")),
        }
        for role, field in zip(ROLES, ("subj", "obj"), strict=True):
            span = _span(example, role)
            first, behind = token_range(example.text, span.start, span.end)
            record |= {f"{field}_start": first, f"{field}_end": behind - 1, f"{field}_type": span.type or "ENTITY"}
        records.append(record)
    path.write_bytes(orjson.dumps(records))


def read_patch(path: Path) -> Callable[[Example], str | None]:
    """New labels by id: a list of `{"id", "relation"}` corrects those it names (TACREV), an object `{id: label}` names
    all that stay (Re-TACRED). The function gives an example's label, None where it is to be left out.
    """
    data = read_json(path)
    if isinstance(data, dict):
        return lambda example: data.get(example.id)
    if not isinstance(data, list) or not all(isinstance(item, dict) and "id" in item for item in data):
        raise InputError(
            f"{path}: expected TACREV's list of objects with id and relation, or Re-TACRED's {{id: label}}"
        )
    labels = {item["id"]: item.get("relation") for item in data}
    return lambda example: labels.get(example.id) or example.label


def semeval_records(path: Path) -> Iterator[Record]:
    """Blocks of lines between empty ones: the sentence, its label (missing in a test file), a comment."""
    with existing(path).open(encoding="utf-8") as file:
        numbered = enumerate(file, start=1)
        for filled, block in groupby(numbered, key=lambda item: bool(item[1].strip())):
            if filled:
                lines = list(block)
                yield f"line {lines[0][0]}", [line.rstrip("\r\n") for _, line in lines]


def parse_semeval(record: list[str], name: str, columns: Columns) -> Example:
    """`id<TAB>"… <e1>head</e1> … <e2>tail</e2> …"`, then the label."""
    number, tab, quoted = record[0].partition("\t")
    if not tab:
        raise BadRecord("no_tab", "sentence", record[0], 'expected id<TAB>"sentence"')
    tagged = quoted.strip()
    tagged = tagged[1:-1] if len(tagged) > 1 and tagged[0] == tagged[-1] == '"' else tagged
    text, places, done = "", defaultdict(list), 0
    for tag in TAG.finditer(tagged):
        text += tagged[done : tag.start()]
        places[tag[1]].append(len(text))
        done = tag.end()
    text += tagged[done:]
    if {key: len(ends) for key, ends in places.items()} != {"1": 2, "2": 2}:
        raise BadRecord("bad_mention", "sentence", tagged, "expected <e1>…</e1> and <e2>…</e2>")
    spans = [Span(start=places[key][0], end=places[key][1], role=role) for key, role in zip("12", ROLES, strict=True)]
    labelled = len(record) > 1 and not record[1].startswith("Comment")
    return Example(id=number, text=text, spans=tuple(spans), label=record[1].strip() if labelled else None)


def write_semeval(path: Path, examples: Sequence[Example]) -> None:
    blocks = []
    for example in examples:
        text = example.text
        if TAG.search(text):
            raise BadRecord("tag_in_text", "text", text, "a text with <e1> or <e2> in it cannot be tagged by them")
        tags = [(_span(example, role), key) for role, key in zip(ROLES, "12", strict=True)]
        for span, key in sorted(tags, key=lambda item: -item[0].start):
            text = f"{text[: span.start]}<e{key}>{text[span.start : span.end]}</e{key}>{text[span.end :]}"
        label = f"{example.label}\n" if example.label is not None else ""
        blocks.append(f'{example.id}\t"{text}"\n{label}Comment:\n\n')
    path.write_text("".join(blocks), encoding="utf-8")


def parse_opennre(record: Any, name: str, columns: Columns) -> Example:
    """`{"text" | "token", "h": {"name", "id", "pos": [s, e)}, "t": {…}, "relation"}` (Wiki80 and OpenNRE's others)."""
    tokens = Tokens(strings(record, "token")) if isinstance(record, dict) and "token" in record else None
    spans, links = [], []
    for role, field in zip(ROLES, ("h", "t"), strict=True):
        item = get(record, field, dict)
        place = get(item, "pos", list, of=f"{field}.")
        if len(place) != 2 or not all(isinstance(number, int) for number in place):
            raise BadRecord("bad_mention", f"{field}.pos", place, "expected [first, behind the last]")
        start, end = place if tokens is None else _of_tokens(tokens, place[0], place[1], f"{field}.pos")
        spans.append(Span(start=start, end=end, role=role))
        if item.get("id"):
            links.append(EntityLink(start=start, end=end, entity=str(item["id"])))
    return Example(
        id=name,
        text=tokens.text if tokens is not None else get(record, "text", str),
        spans=tuple(spans),
        links=tuple(links),
        label=get(record, "relation", str),
    )


def write_opennre(path: Path, examples: Sequence[Example]) -> None:
    with path.open("wb") as file:
        for example in examples:
            record: dict[str, Any] = {"text": example.text}
            for role, field in zip(ROLES, ("h", "t"), strict=True):
                span = _span(example, role)
                record[field] = {
                    "name": example.text[span.start : span.end],
                    "id": _entity_at(example, span),
                    "pos": [span.start, span.end],
                }
            file.write(orjson.dumps({**record, "relation": example.label}) + b"\n")


def _of_tokens(tokens: Tokens, first: int, behind: int, field: str) -> tuple[int, int]:
    if first >= behind:
        raise BadRecord("empty_span", field, (first, behind - 1), "expected start before end")
    try:
        return tokens.span(first, behind)
    except IndexError:
        raise BadRecord("span_outside", field, (first, behind), f"there are {len(tokens.starts)} tokens") from None


def _span(example: Example, role: str) -> Span:
    span = example.span(role)
    if span is None:
        raise BadRecord("no_span", role, None, "this format needs head and tail")
    return span


def _link_at(example: Example, span: Span) -> EntityLink | None:
    return next((k for k in example.links if (k.start, k.end) == (span.start, span.end)), None)


def _entity_at(example: Example, span: Span) -> str:
    link = _link_at(example, span)
    return "" if link is None else link.entity
