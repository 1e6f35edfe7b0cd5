"""GLUE's TSV files, CoNLL's columns, and a CSV of the user's own."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from finetune.formats.records import BadRecord, Columns, Record, Tokens, existing, table_rows
from finetune.tasks.schema import WORD, Example, Span
from kg.errors import InputError

ROLES = ("mention", "head", "tail")
DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, slots=True)
class GlueTask:
    """Column names of a GLUE file. header: of a file that has none. number: the answer is one."""

    text: str
    pair: str | None
    answer: str
    scorer: str
    header: tuple[str, ...] = ()
    number: bool = False


GLUE: dict[str, GlueTask] = {
    "cola": GlueTask("sentence", None, "label", "matthews", header=("source", "label", "mark", "sentence")),
    "sst2": GlueTask("sentence", None, "label", "accuracy"),
    "mrpc": GlueTask("#1 String", "#2 String", "Quality", "f1_and_accuracy"),
    "qqp": GlueTask("question1", "question2", "is_duplicate", "f1_and_accuracy"),
    "stsb": GlueTask("sentence1", "sentence2", "score", "correlation", number=True),
    "mnli": GlueTask("sentence1", "sentence2", "gold_label", "accuracy"),
    "qnli": GlueTask("question", "sentence", "label", "accuracy"),
    "rte": GlueTask("sentence1", "sentence2", "label", "accuracy"),
}
"""The official files, tab-separated and read without quoting; test files, which lack the answer, are read too."""


def glue_records(path: Path, task: GlueTask) -> Iterator[Record]:
    """Rows as a mapping from the header's names. A row of another length is handed on with its cells alone."""
    rows = table_rows(path, delimiter="\t", quoted=False)
    header = list(task.header)
    for place, cells in rows:
        if not header or cells == ["index", task.text]:
            header = cells
            missing = [name for name in (task.text, task.pair) if name is not None and name not in header]
            if missing:
                raise InputError(f"{path}: {place}: no column {missing[0]!r}; the header has {header}")
        elif cells != [""]:
            yield place, dict(zip(header, cells)) if len(cells) == len(header) else (len(header), cells)


def parse_glue(record: Mapping[str, str], name: str, columns: Columns, *, task: GlueTask) -> Example:
    if isinstance(record, tuple):
        raise BadRecord("wrong_number_of_cells", "line", len(record[1]), f"the header has {record[0]} columns")
    answer = record.get(task.answer)
    return Example(
        id=name,
        text=filled(record, task.text),
        text_pair=filled(record, task.pair) if task.pair is not None else None,
        label=answer if not task.number else None,
        value=number(answer, task.answer) if task.number and answer is not None else None,
    )


def write_glue(path: Path, examples: Sequence[Example], *, task: GlueTask) -> None:
    header = list(task.header) or ["index", *(n for n in (task.text, task.pair) if n is not None), task.answer]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        if not task.header:
            file.write("\t".join(header) + "\n")
        for row, example in enumerate(examples):
            cells = {"index": str(row), "source": "", "mark": "", task.text: example.text}
            cells |= {str(task.pair): example.text_pair or "", task.answer: _answer(example)}
            file.write("\t".join(_cell(cells[name], name) for name in header) + "\n")


def conll_records(path: Path) -> Iterator[Record]:
    """Sentences as lists of the columns of their words; empty lines and `-DOCSTART-` part them."""

    def parts(item: tuple[int, str]) -> bool:
        return bool(item[1].strip()) and not item[1].startswith(DOCUMENT)

    with existing(path).open(encoding="utf-8") as file:
        for filled_lines, block in groupby(enumerate(file, start=1), key=parts):
            if filled_lines:
                lines = list(block)
                yield f"line {lines[0][0]}", [line.split() for _, line in lines]


def parse_conll(record: Sequence[Sequence[str]], name: str, columns: Columns) -> Example:
    """The first column is the word, the last its tag."""
    short = next((row for row in record if len(row) < 2), None)
    if short is not None:
        raise BadRecord("no_tag", "line", " ".join(short), "expected a word and its tag, with blanks between")
    tokens = Tokens([row[0] for row in record])
    spans = [
        Span(start=start, end=end, role=WORD, type=row[-1])
        for row, start, end in zip(record, tokens.starts, tokens.ends, strict=True)
    ]
    return Example(id=name, text=tokens.text, spans=tuple(spans))


def write_conll(path: Path, examples: Sequence[Example]) -> None:
    sentences = ["".join(f"{e.text[s.start : s.end]} {s.type}\n" for s in e.spans if s.role == WORD) for e in examples]
    path.write_text("\n".join(sentences), encoding="utf-8")


def csv_records(path: Path) -> Iterator[Record]:
    """Rows of a quoted CSV (tabs in a `.tsv`) as mappings from the header's names."""
    rows = table_rows(path, delimiter="\t" if Path(path).suffix == ".tsv" else ",", quoted=True)
    _, header = next(rows, ("", None))
    if header is None:
        return
    if len(set(header)) < len(header):
        raise InputError(f"{path}: line 1: a column name stands twice in {header}")
    for place, cells in rows:
        yield place, dict(zip(header, cells)) if len(cells) == len(header) else (len(header), cells)


def parse_csv(record: Mapping[str, str], name: str, columns: Columns) -> Example:
    if isinstance(record, tuple):
        raise BadRecord("wrong_number_of_cells", "line", len(record[1]), f"the header has {record[0]} columns")
    if columns.text not in record:
        raise BadRecord("no_column", columns.text, list(record), "the text stands in no column of that name")
    text, label = filled(record, columns.text), record.get(columns.label)
    several = bool(columns.label_separator) and label is not None
    return Example(
        id=record.get(columns.id) or name,
        text=text,
        text_pair=record.get(columns.text_pair) or None,
        spans=tuple(span for role in ROLES if (span := _span(record, role, getattr(columns, role), text))),
        label=label if not several else None,
        labels=tuple(part.strip() for part in str(label).split(columns.label_separator) if part.strip())
        if several
        else None,
        value=number(record[columns.value], columns.value) if columns.value in record else None,
    )


def write_csv(path: Path, examples: Sequence[Example]) -> None:
    """Columns by their usual names; several labels with `|` between them."""
    roles = [role for role in ROLES if any(e.span(role) for e in examples)]
    ends = [f"{role}_{end}" for role in roles for end in ("start", "end")]
    answer = "value" if any(e.value is not None for e in examples) else "label"
    names = ["id", "text", *(["text_pair"] if any(e.text_pair for e in examples) else []), *ends, answer]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for example in examples:
            cells = {"id": example.id, "text": example.text, "text_pair": example.text_pair or ""}
            for role in roles:
                span = example.span(role)
                cells |= {f"{role}_start": span.start, f"{role}_end": span.end} if span else {}
            cells[answer] = _answer(example)
            writer.writerow({name: cells.get(name, "") for name in names})


def filled(record: Mapping[str, str], name: str) -> str:
    """A cell that must not be empty."""
    value = record[name]
    if not value.strip():
        raise BadRecord("empty_text", name, value, "expected a text")
    return value


def number(value: str | None, name: str) -> float:
    """A finite number in a cell."""
    try:
        found = float(value or "")
    except ValueError:
        raise BadRecord("not_a_number", name, value, "expected a number") from None
    if not math.isfinite(found):
        raise BadRecord("not_a_number", name, value, "expected a finite number")
    return found


def _span(record: Mapping[str, str], role: str, column: str, text: str) -> Span | None:
    ends = [record.get(f"{column}_start"), record.get(f"{column}_end")]
    kind = record.get(f"{column}_type") or None
    if ends[0] and ends[1]:
        start, end = (int(number(value, f"{column}_start, {column}_end")) for value in ends)
        return Span(start=start, end=end, role=role, type=kind)
    surface = record.get(column)
    if not surface:
        return None
    start = text.find(surface)
    if start < 0:
        raise BadRecord("mention_not_in_text", column, surface, "expected words of the text")
    return Span(start=start, end=start + len(surface), role=role, type=kind)


def _answer(example: Example) -> str:
    if example.value is not None:
        return repr(example.value)
    return "|".join(example.labels) if example.labels is not None else example.label or ""


def _cell(value: str, name: str) -> str:
    if "\t" in value or "\n" in value:
        raise BadRecord("tab_in_text", name, value, "these files part cells by tabs and rows by line ends")
    return value


GLUE_PARTS: dict[str, tuple[Callable, Callable, Callable]] = {
    name: (partial(glue_records, task=task), partial(parse_glue, task=task), partial(write_glue, task=task))
    for name, task in GLUE.items()
}
