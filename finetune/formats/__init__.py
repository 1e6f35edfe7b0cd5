"""Every layout that task examples are read from and written to, in one table.

    >>> FORMATS["semeval2010"].task, FORMATS["glue/cola"].scorer
    ('relation_classification', 'matthews')

A bad record is an error that names file, place, field, value and mend; with `on_bad_record="skip"` it is counted under
`skipped_REASON` and handed aside, and reading goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetune.formats import relations, sequences, typing
from finetune.formats.records import BadRecord, Columns, Record, json_array, json_lines
from finetune.tasks import TASKS
from finetune.tasks.checks import span_fault
from finetune.tasks.schema import Example, check_span, from_record, write_examples
from kg.errors import InputError

__all__ = ["FORMATS", "BadRecord", "Columns", "Format", "OnBadRecord", "read_format", "write_format"]

OnBadRecord = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Format:
    """A layout: records from a file, an example from a record, and back.

    task: key of TASKS, empty where the user says. scorer: key of `finetune.scorers.SCORERS`, empty for the usual one.
    parse: (record, id where the record has none, columns of a table) -> Example.
    """

    task: str
    scorer: str
    records: Callable[[Path], Iterator[Record]]
    parse: Callable[[Any, str, Columns], Example]
    write: Callable[[Path, Sequence[Example]], Any]
    summary: str


def _parse_jsonl(record: Any, name: str, columns: Columns) -> Example:
    if isinstance(record, bytes):
        raise BadRecord("not_json", "line", record, "expected one JSON object a line")
    try:
        return from_record({"id": name, **record} if isinstance(record, dict) else record, place="")
    except InputError as error:
        raise BadRecord("bad_example", "example", record, str(error).removeprefix(": ")) from None


TYPING, RELATION = "entity_typing", "relation_classification"
FORMATS: dict[str, Format] = {
    "jsonl": Format("", "", json_lines, _parse_jsonl, write_examples, "our JSON lines"),
    "csv": Format(
        "", "", sequences.csv_records, sequences.parse_csv, sequences.write_csv, "a table with named columns"
    ),
    "open_entity": Format(
        TYPING, "types", json_lines, typing.parse_open_entity, typing.write_ultra_fine, "official, nine general types"
    ),
    "ultra_fine": Format(
        TYPING,
        "types",
        json_lines,
        typing.parse_ultra_fine,
        typing.write_ultra_fine,
        "official layout, all types (FIGER)",
    ),
    "ernie_typing": Format(
        TYPING, "types", json_array, typing.parse_ernie, typing.write_ernie, "ERNIE's Open Entity and FIGER"
    ),
    "fewrel": Format(
        RELATION, "single_label", relations.fewrel_records, relations.parse_fewrel, relations.write_fewrel, "official"
    ),
    "ernie_relation": Format(
        RELATION, "single_label", json_array, relations.parse_ernie, relations.write_ernie, "ERNIE's FewRel"
    ),
    "ernie_tacred": Format(
        RELATION, "relation_micro", json_array, relations.parse_ernie, relations.write_ernie, "ERNIE's TACRED"
    ),
    "tacred": Format(
        RELATION, "relation_micro", json_array, relations.parse_tacred, relations.write_tacred, "official; see `patch`"
    ),
    "semeval2010": Format(
        RELATION, "semeval", relations.semeval_records, relations.parse_semeval, relations.write_semeval, "Task 8"
    ),
    "opennre": Format(
        RELATION, "single_label", json_lines, relations.parse_opennre, relations.write_opennre, "Wiki80, OpenNRE"
    ),
    "conll": Format(
        "token_classification",
        "chunks",
        sequences.conll_records,
        sequences.parse_conll,
        sequences.write_conll,
        "columns: word first, tag last",
    ),
} | {
    f"glue/{name}": Format("sequence_classification", sequences.GLUE[name].scorer, *parts, "official TSV")
    for name, parts in sequences.GLUE_PARTS.items()
}
"""By name. `finetune import` reads them, `finetune convert` writes them."""


def read_format(
    name: str,
    path: Path,
    *,
    columns: Columns | None = None,
    task: str = "",
    on_bad_record: OnBadRecord = "error",
    dropped: Counter[str] | None = None,
    skipped: Callable[[str, BadRecord], None] | None = None,
) -> Iterator[Example]:
    """The examples of a file, in order.

    task: whose spans the examples must have, where the format does not say. dropped: receives the counts of skipped
    records. skipped: receives place and fault of each.

    Raises:
        InputError: an unknown format, a file of another structure, no record at all, or a bad one unless skipped.
    """
    if name not in FORMATS:
        raise InputError(f"format {name!r} is unknown; there are {', '.join(FORMATS)}")
    layout, counts, seen, number = FORMATS[name], Counter() if dropped is None else dropped, set(), 0
    for number, (place, record) in enumerate(layout.records(Path(path)), start=1):
        try:
            example = layout.parse(record, f"{Path(path).stem}:{number}", columns or Columns())
            _check(example, layout.task or task, seen)
        except BadRecord as fault:
            if on_bad_record == "error":
                raise InputError(f"{path}: {place}: {fault}") from None
            counts[f"skipped_{fault.reason}"] += 1
            if skipped is not None:
                skipped(f"{path}: {place}", fault)
            continue
        seen.add(example.id)
        yield example
    if number == 0:
        raise InputError(f"{path}: holds no record; expected examples as {name!r} ({layout.summary})")


def write_format(name: str, path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as a layout; what it has no place for (links, second texts, types) is left out.

    Raises:
        InputError: an unknown format, or an example that it cannot hold.
    """
    if name not in FORMATS:
        raise InputError(f"format {name!r} is unknown; there are {', '.join(FORMATS)}")
    task = FORMATS[name].task
    for example in examples:
        fault = span_fault(TASKS[task], example) if task else None
        if fault is not None:
            raise InputError(f"{path}: example {example.id!r} {fault}")
    try:
        FORMATS[name].write(Path(path), examples)
    except BadRecord as fault:
        raise InputError(f"{path}: {fault}") from None


def relabelled(examples: Iterator[Example], patch: Path, dropped: Counter[str]) -> Iterator[Example]:
    """Examples with the labels of a patch (`formats.relations.read_patch`); those left out are counted."""
    label_of = relations.read_patch(patch)
    for example in examples:
        label = label_of(example)
        if label is None:
            dropped["not_in_patch"] += 1
        else:
            dropped["relabelled_by_patch"] += label != example.label
            yield replace(example, label=label)


def _check(example: Example, task: str, seen: set[str]) -> None:
    if not example.text.strip():
        raise BadRecord("empty_text", "text", example.text, "expected a text")
    if example.id in seen:
        raise BadRecord("duplicate_id", "id", example.id, "it came before; give every example its own")
    for kind, items in (("span", example.spans), ("link", example.links)):
        for item in items:
            _check_place(kind, item.start, item.end, example.text)
    fault = span_fault(TASKS[task], example) if task in TASKS else None
    if fault is not None:
        raise BadRecord("bad_spans", "spans", [(s.role, s.start, s.end) for s in example.spans], fault)


def _check_place(kind: str, start: int, end: int, text: str) -> None:
    try:
        check_span(start, end, text, str)
    except InputError as error:
        reason = f"empty_{kind}" if start >= end else f"{kind}_outside"
        raise BadRecord(reason, "start, end", (start, end), f"{kind} {error}") from None
