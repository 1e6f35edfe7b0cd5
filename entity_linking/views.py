"""What the commands that only print are told: `link text`, `link view`, `link evaluate`.

Importing this module loads no array library, so that their help is quick; each function loads what it needs.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kg.errors import InputError

if TYPE_CHECKING:
    from entity_linking.linker import EntityLinker
    from entity_linking.records import ExplainedMention


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text, and what links it."""

    text: str
    """The text, in quotes."""
    linker: Path | None = None
    """Linker of `link train`; or a graph instead."""
    graph: Path | None = None
    """Graph artifact (`kg build`), for a linker of default weights."""
    vectors: Path | None = None
    """Vectors artifact (`kg embed`) of that graph."""
    candidates: int = 5
    """Candidates shown for each mention."""

    def __post_init__(self) -> None:
        _one_linker(self.linker, self.graph)
        if self.candidates < 1:
            raise InputError(f"expected candidates of at least 1, got {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Which linked text, and how much of it."""

    linked: Path
    """Artifact of `link`."""
    documents: int = 20
    """Documents shown, the first that have a link."""

    def __post_init__(self) -> None:
        if self.documents < 1:
            raise InputError(f"expected documents of at least 1, got {self.documents}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which linker, against which gold links."""

    gold: Path
    """Text with gold links; none of it may have trained the linker."""
    gold_format: str = "jsonl"
    """jsonl, semcor, aida, nif or linked (an artifact of `link`)."""
    linker: Path | None = None
    """Linker of `link train`; or a graph instead."""
    graph: Path | None = None
    """Graph artifact (`kg build`), for a linker of default weights."""
    vectors: Path | None = None
    """Vectors artifact (`kg embed`) of that graph."""
    json: bool = False
    """Prints the figures as one JSON object instead of tables."""

    def __post_init__(self) -> None:
        _one_linker(self.linker, self.graph)


def text(config: TextConfig) -> str:
    """Every mention of the text with its candidates and what each term adds."""
    linker = _linker(config.linker, config.graph, config.vectors)
    explained = linker.explain(config.text)
    if not explained:
        return "no alias of the graph stands in this text"
    return "\n\n".join(_explained(mention, config.candidates) for mention in explained)


def view(config: ViewConfig) -> str:
    """A page of HTML with the links of the first documents, by displaCy."""
    from itertools import islice

    from entity_linking.annotate import read_linked
    from entity_linking.page import linked_page

    linked = (document for document in read_linked(config.linked) if document.mentions)
    return linked_page(list(islice(linked, config.documents)))


def evaluate(config: EvaluateConfig) -> str:
    """The linker's figures as tables, or JSON."""
    from entity_linking import evaluate as evaluation
    from entity_linking.gold import read_gold

    dropped: Counter[str] = Counter()
    documents = list(read_gold(config.gold_format, config.gold, dropped))
    figures = evaluation.evaluate(_linker(config.linker, config.graph, config.vectors), documents)
    return json.dumps(figures | {"dropped": dict(dropped)}) if config.json else evaluation.shown(figures, dropped)


def _linker(linker: Path | None, graph: Path | None, vectors: Path | None) -> EntityLinker:
    from entity_linking.linker import EntityLinker

    if linker is not None:
        return EntityLinker.from_pretrained(linker)
    assert graph is not None, "checked when the config was made"
    return EntityLinker.from_artifacts(graph, vectors)


def _explained(mention: ExplainedMention, most: int) -> str:
    from kg.tables import plain, table

    where = f"{mention.mention.start}–{mention.mention.end}"
    outcome = f"-> {mention.link.entity} ({mention.link.score:.3f})" if mention.link else "-> no link"
    names = list(mention.candidates[0].contributions) if mention.candidates else []
    rows = [
        (c.entity_id, c.label, f"{c.score:.3f}", *(f"{c.contributions[name]:+.2f}" for name in names))
        for c in mention.candidates[:most]
    ]
    nil = ", ".join(f"{name} {value:+.2f}" for name, value in mention.nil_contributions.items())
    rows.append(("none of them", "", f"{mention.nil_score:.3f}", *("" for _ in names)))
    heads = ["entity", "label", "score", *names]
    shown = table(heads, rows, right=range(2, len(heads)), widest=40)
    return f"{plain(mention.surface)} ({where}) {plain(outcome)}\n{shown}\nnone of them: {nil}"


def _one_linker(linker: Path | None, graph: Path | None) -> None:
    if (linker is None) == (graph is None):
        raise InputError("expected a linker (`link train`) or a graph (`kg build`), and not both")
