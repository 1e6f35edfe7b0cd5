"""Links to judge: drawn from linked text with what a reader needs, and read again with what was said of them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from entity_linking.annotate import read_linked
from entity_linking.records import Link, LinkedDocument
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph

COLUMNS = ("document", "start", "end", "entity", "text", "means", "judgement")
NEEDED = ("document", "start", "end", "entity", "judgement")
RIGHT, WRONG = "right", "wrong"
AROUND = 110
"""Characters of text shown on each side."""


@dataclass(frozen=True, slots=True)
class JudgedLink:
    """A link, and whether it is right. start, end: in code points of the document's text."""

    document: str
    start: int
    end: int
    entity: str
    right: bool


def surest(linked: Path, coverage: float) -> list[tuple[LinkedDocument, Link]]:
    """The links of the surest `coverage` of all mentions, surest first.

    Raises:
        InputError: the folder is no artifact of `link`, or fewer mentions are linked.
    """
    mentions = open_artifact(linked, stage="link").counts["mentions"]
    links = [(document, mention) for document in read_linked(linked) for mention in document.mentions]
    kept = round(coverage * mentions)
    if kept > len(links):
        raise InputError(
            f"{linked}: {len(links):,} of {mentions:,} mentions are linked, fewer than a share of {coverage:g}; link "
            "with min_score 0, or ask for a smaller coverage"
        )
    return sorted(links, key=lambda pair: (-pair[1].score, pair[0].id, pair[1].start))[:kept]


def sample(linked: Path, graph: Path, *, number: int, coverage: float, seed: int) -> list[tuple[str, ...]]:
    """Rows of `COLUMNS`, links drawn evenly from the surest `coverage` of all mentions, `judgement` left empty.

    They come in no order and without their scores, so that whoever judges is not led.

    Raises:
        InputError: a folder is no such artifact, or there are fewer links than asked for.
    """
    links = surest(linked, coverage)
    if number > len(links):
        raise InputError(f"{linked}: expected at least {number:,} links to draw from, found {len(links):,}")
    opened = KnowledgeGraph.load(graph)
    about = dict(
        zip(
            opened.entities["id"].to_pylist(),
            zip(opened.labels[1:], opened.entities["description"].to_pylist()),
            strict=True,
        )
    )
    drawn = [links[place] for place in np.random.default_rng(seed).choice(len(links), number, replace=False)]
    return [_row(document, link, ": ".join(about.get(link.entity, ("", "")))) for document, link in drawn]


def _row(document: LinkedDocument, link: Link, means: str) -> tuple[str, ...]:
    text = document.text
    before, after = text[max(0, link.start - AROUND) : link.start], text[link.end : link.end + AROUND]
    shown = " ".join(f"{before}[[{text[link.start : link.end]}]]{after}".split())
    return (document.id, str(link.start), str(link.end), link.entity, shown, " ".join(means.split()), "")


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Tab-separated lines, `COLUMNS` first."""
    return "\n".join("\t".join(row) for row in (COLUMNS, *rows))


def read_judged(path: Path, dropped: Counter[str]) -> Iterator[JudgedLink]:
    """The links of a table that somebody filled in; those left empty are counted as `not_judged`.

    Raises:
        InputError: no such file, a column is missing, or a judgement is neither right nor wrong; file and line named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    rows = csv.DictReader(StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    if missing := [name for name in NEEDED if name not in (rows.fieldnames or ())]:
        raise InputError(f"{path}: expected the columns {', '.join(NEEDED)}, found no {', '.join(missing)}")
    for row in rows:
        said = (row["judgement"] or "").strip().lower()
        if not said:
            dropped["not_judged"] += 1
            continue
        if said not in (RIGHT, WRONG):
            raise InputError(f"{path}:{rows.line_num}: judgement is {said!r}, expected {RIGHT}, {WRONG} or nothing")
        try:
            start, end = int(row["start"]), int(row["end"])
        except (TypeError, ValueError):
            raise InputError(
                f"{path}:{rows.line_num}: expected whole numbers as start and end, got {row['start']!r} and "
                f"{row['end']!r}"
            ) from None
        yield JudgedLink(row["document"], start, end, row["entity"], said == RIGHT)
