"""Tab-separated triples and records, which the reader `tsv` turns into the same graph again.

`triples.tsv` (`train.tsv`, `valid.tsv`, `test.tsv` where the graph has a published split): head, relation and tail by
id. `entities.jsonl`: a record a line, `{"id", "label", "aliases", "description", "types", "count"}`, aliases as an
object surface -> count. `relations.tsv`: id and label.

The graph keeps priors, not the counts they came from. The counts written are the smallest whole numbers that give the
same priors again (with the reader's own smoothing of 1), or numbers in proportion where no small ones do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kg.graph import KnowledgeGraph
from kg.writers.rows import BLOCK, entity_records, named_triples, one_line_names, published_parts

BREAKS = re.compile("[\t\n\r]+")
HEADER = ("head", "relation", "tail")
UNITS = 60  # the least weight of an alias may be any of 1 to 60: ranks give weights of 1, 1/2, 1/3, …
PROPORTION = 2**40


def write(graph: KnowledgeGraph, folder: Path, *, vectors: Path | None = None) -> Counter[str]:
    """Writes the triples and the records.

    Returns: `label_becomes_alias`: entities whose label (of two characters at least) is none of their aliases, and
        will be one when it is read.

    Raises:
        InputError: an id with a tab or a line break, or a blank one.
    """
    parts = published_parts(graph) or {"triples": graph.triples}
    entities = ["", *one_line_names(graph.entity_vocab.identifiers, what="entity", file="a tab-separated file")]
    relations = one_line_names(graph.relation_vocab.identifiers, what="relation", file="a tab-separated file")
    for name, triples in parts.items():
        _write_triples(folder / f"{name}.tsv", named_triples(graph, entities, relations, triples))
    with (folder / "relations.tsv").open("w", encoding="utf-8", newline="\n") as file:
        for name, label in zip(relations, graph.relations["label"].to_pylist(), strict=True):
            file.write(f"{name}\t{BREAKS.sub(' ', label)}\n")
    dropped: Counter[str] = Counter()
    with (folder / "entities.jsonl").open("wb") as file:
        for entity, counts in zip(entity_records(graph), _surfaces(graph), strict=True):
            label = _normal(entity["label"])
            dropped["label_becomes_alias"] += len(label) > 1 and label not in counts
            file.write(orjson.dumps(_record(entity, counts)) + b"\n")
    return +dropped


def whole_counts(groups: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Counts c such that (c + 1) / (sum of c + 1 over the alias) is the prior again: int64, shape (n,).

    groups: int, shape (n,): which alias a line belongs to, from 0. priors: float32, shape (n,).
    """
    wide = priors.astype(np.float64)
    least = np.full(int(groups.max(initial=-1)) + 1, np.inf)
    np.minimum.at(least, groups, wide)
    weights = np.maximum(np.rint(wide * PROPORTION), 1.0)
    open_ = np.ones(len(least), bool)
    for unit in range(1, UNITS + 1):
        tried = np.rint(wide / least[groups] * unit)
        again = (tried / np.bincount(groups, tried, len(least))[groups]).astype(np.float32)
        wrong = np.zeros(len(least), bool)
        wrong[groups[again != priors]] = True
        weights = np.where((open_ & ~wrong)[groups], tried, weights)
        open_ &= wrong
        if not open_.any():
            break
    return weights.astype(np.int64) - 1


def _write_triples(path: Path, triples: Iterable[tuple[str, str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, triple in enumerate(triples):
            if number == 0 and tuple(name.strip().lower() for name in triple) == HEADER:
                file.write("\t".join(HEADER) + "\n")  # or the reader would take this triple for the header
            file.write("\t".join(triple) + "\n")


def _surfaces(graph: KnowledgeGraph) -> Iterator[dict[str, int]]:
    """Aliases of each entity with the counts to write, in the order of rows."""
    codes = graph.aliases["alias"].combine_chunks().dictionary_encode().indices.to_numpy()
    counts = whole_counts(codes, graph.aliases["prior"].to_numpy())
    rows = graph.aliases["entity"].to_numpy()
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(1, graph.num_entities + 2))
    for first in range(0, graph.num_entities, BLOCK):
        last = min(first + BLOCK, graph.num_entities)
        lines = order[starts[first] : starts[last]]
        names, times = graph.aliases["alias"].take(lines).to_pylist(), counts[lines].tolist()
        for row in range(first, last):
            own = slice(starts[row] - starts[first], starts[row + 1] - starts[first])
            yield dict(zip(names[own], times[own], strict=True))


def _record(entity: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """The record of an entity: label's surface first and as the label has it, then in the entity's order."""
    ordered = sorted(entity["aliases"], key=lambda surface: surface != _normal(entity["label"]))
    kept = {surface: counts[surface] for surface in [*ordered, *counts] if surface in counts}
    surfaces = {entity["label"] if s == _normal(entity["label"]) else s: times for s, times in kept.items()}
    return _told({**{key: entity[key] for key in ("id", "label")}, "aliases": surfaces}) | _told(
        {key: entity[key] for key in ("description", "types", "count")}
    )


def _told(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value}


def _normal(surface: str) -> str:
    return " ".join(surface.split())
