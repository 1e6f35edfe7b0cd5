"""What the commands that only print are told: `link text`, `link view`, `link evaluate`, `link sample`.

Importing this module loads no array library, so that their help is quick; each function loads what it needs.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kg.errors import InputError


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


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Which links are drawn to be judged."""

    linked: Path
    """Artifact of `link`, made with `min_score` 0 where all mentions are to be judged."""
    graph: Path
    """Graph artifact (`kg build`), whose names and descriptions are shown."""
    number: int = 200
    """Links drawn."""
    coverage: float = 1.0
    """Share of all mentions, the surest, that they are drawn from, in (0, 1]."""
    seed: int = 0
    """Decides which are drawn."""

    def __post_init__(self) -> None:
        if self.number < 1 or not 0.0 < self.coverage <= 1.0:
            raise InputError(f"expected number from 1 and coverage in (0, 1], got {self.number} and {self.coverage}")


def text(config: TextConfig) -> str:
    """Every mention of the text with its candidates and what each term adds."""
    from entity_linking.show import explained_text, linker_at

    linker = linker_at(config.linker, config.graph, config.vectors)
    return explained_text(linker.explain(config.text), candidates=config.candidates)


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
    from entity_linking.show import linker_at

    dropped: Counter[str] = Counter()
    documents = list(read_gold(config.gold_format, config.gold, dropped))
    figures = evaluation.evaluate(linker_at(config.linker, config.graph, config.vectors), documents)
    return json.dumps(figures | {"dropped": dict(dropped)}) if config.json else evaluation.shown(figures, dropped)


def sample(config: SampleConfig) -> str:
    """Links with their surroundings as tab-separated lines, the last column to be filled in for `link calibrate`."""
    from entity_linking.judged import as_table
    from entity_linking.judged import sample as drawn

    return as_table(
        drawn(config.linked, config.graph, number=config.number, coverage=config.coverage, seed=config.seed)
    )


def _one_linker(linker: Path | None, graph: Path | None) -> None:
    if (linker is None) == (graph is None):
        raise InputError("expected a linker (`link train`) or a graph (`kg build`), and not both")
