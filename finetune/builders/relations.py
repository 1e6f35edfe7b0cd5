"""Relation classification from a graph: two linked names in one stretch of text, and the triple that joins them.

Distant supervision (Mintz et al. 2009): the text need not say what the graph says. A pair that no triple joins, in
either direction, is an example of `no_relation`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice, pairwise
from typing import Protocol

import numpy as np

from entity_linking.corpus import Document
from entity_linking.records import Link
from finetune.builders.drafts import Draft, Window, stable_order, window_around
from finetune.tasks.schema import EntityLink, Example, Span
from kg.graph import KnowledgeGraph
from kg.records import Triple
from kg.split import split_of

NO_RELATION = "no_relation"
BATCH = 256
"""Texts linked together."""
SENTENCE_END = re.compile(r"""(?<!\b[A-Z])[.!?]["')\]]*\s+(?=["'(\[]?[A-Z0-9])""")


class Linker(Protocol):
    """What the builders ask of an entity linker."""

    def link_batch(self, texts: Sequence[str]) -> Sequence[Sequence[Link]]: ...


def linked(documents: Iterable[Document], linker: Linker) -> Iterator[tuple[Document, Sequence[Link]]]:
    """Documents with their links, `BATCH` texts at a time."""
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        yield from zip(batch, linker.link_batch([document.text for document in batch]), strict=True)


class RelationTable:
    """Which relations join two entities: row lookups over the graph's triples, 12 bytes a triple.

    Pairs are numbers head * (num_entities + 1) + tail; the table is sorted, a lookup is two binary searches.
    """

    def __init__(self, graph: KnowledgeGraph) -> None:
        self._width = graph.num_entities + 1
        keys = self._key(graph.triples[:, 0], graph.triples[:, 2])
        order = np.argsort(keys, kind="stable")
        self._keys, self._relations = keys[order], graph.triples[order, 1]

    def between(self, head: int, tail: int) -> np.ndarray:
        """Relation rows of all triples (head, ·, tail), in the graph's order; empty where there is none."""
        key = self._key(np.int64(head), np.int64(tail))
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        return self._relations[first:last]

    def _key(self, head: np.ndarray | np.int64, tail: np.ndarray | np.int64):
        return np.asarray(head).astype(np.int64) * self._width + tail


def relation_drafts(
    documents: Iterable[Document],
    *,
    graph: KnowledgeGraph,
    linker: Linker,
    window_sentences: int,
    max_characters: int,
    dev: float,
    test: float,
    seed: int,
    dropped: Counter[str],
) -> Iterator[Draft]:
    """One draft for every pair of entities linked in one window of a document, at the first window that has both.

    Of two triples in both directions the seed decides whose head comes first, so that neither text order nor the
    graph's order gives the label away; a pair joined by several relations in that direction is left out
    (`several_relations`), as is one too far apart (`pair_too_far_apart`). The split is the document's; the keys keep a
    pair out of two splits.

    linker: gives the most likely senses; entities outside the graph are not considered.
    window_sentences: so many neighbouring sentences are searched together.
    """
    table = RelationTable(graph)
    for document, found_links in linked(documents, linker):
        split = split_of(document.id, seed=seed, dev=dev, test=test)
        links = [link for link in found_links if graph.entity_vocab.get(link.entity)]
        for window, first, second in linked_pairs(document.text, links, window_sentences):
            found = directed(first, second, document, graph, table, seed=seed, dropped=dropped)
            if found is None:
                continue
            head, label, tail = found
            start, end = min(head.start, tail.start), max(head.end, tail.end)
            part = window_around(document.text, window, start, end, max_characters)
            if part is None:
                dropped["pair_too_far_apart"] += 1
                continue
            yield _draft(document, part, head, label, tail, split)


def linked_pairs(text: str, links: Sequence[Link], window_sentences: int) -> Iterator[tuple[Window, Link, Link]]:
    """Pairs of links to different entities that lie in one window, each unordered entity pair once."""
    seen: set[frozenset[str]] = set()
    for window in sentence_windows(text, window_sentences):
        inside = [link for link in links if link.start >= window.start and link.end <= window.end]
        for first, second in combinations(inside, 2):
            pair = frozenset((first.entity, second.entity))
            if len(pair) == 2 and pair not in seen:
                seen.add(pair)
                yield window, first, second


def sentence_windows(text: str, size: int) -> list[Window]:
    """Every run of `size` neighbouring sentences (all of them where there are fewer).

    A sentence ends at . ! or ? before white space and a capital or digit, not after a single capital (`J. Smith`).
    """
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    bounds = [0, *[end for end in ends if end < len(text)], len(text)]
    sentences = [Window(a, b) for a, b in pairwise(bounds) if text[a:b].strip()]
    size = min(size, len(sentences))
    runs = [sentences[n : n + size] for n in range(len(sentences) - size + 1)] if sentences else []
    return [_stripped(text, Window(run[0].start, run[-1].end)) for run in runs]


def directed(
    first: Link,
    second: Link,
    document: Document,
    graph: KnowledgeGraph,
    table: RelationTable,
    *,
    seed: int,
    dropped: Counter[str],
) -> tuple[Link, str, Link] | None:
    """(head, label, tail): the pair in the direction of its triple, or in a drawn one with `no_relation`."""
    order = stable_order(f"{document.id}\n{first.entity}\n{second.entity}", seed=seed)
    head, tail = (first, second) if order[0] % 2 else (second, first)
    for one, other in ((head, tail), (tail, head)):
        rows = table.between(graph.entity_vocab.get(one.entity), graph.entity_vocab.get(other.entity))
        if len(rows) > 1:
            dropped["several_relations"] += 1
            return None
        if len(rows) == 1:
            return one, graph.relation_vocab.identifier(int(rows[0])), other
    return head, NO_RELATION, tail


def _draft(document: Document, part: Window, head: Link, label: str, tail: Link, split) -> Draft:
    spans = [
        Span(start=link.start - part.start, end=link.end - part.start, role=role)
        for link, role in ((head, "head"), (tail, "tail"))
    ]
    links = [
        EntityLink(start=span.start, end=span.end, entity=link.entity, score=link.score)
        for span, link in zip(spans, (head, tail), strict=True)
    ]
    fact = None if label == NO_RELATION else Triple(head.entity, label, tail.entity)
    pair = "\t".join(sorted((head.entity, tail.entity)))
    return Draft(
        example=Example(
            id=f"relation:{document.id}:{head.entity}:{tail.entity}",
            text=document.text[part.start : part.end],
            document=document.id,
            offset=part.start,
            spans=tuple(spans),
            links=tuple(links),
            label=label,
        ),
        split=split,
        keys=(("document", document.id), ("pair", pair)),
        fact=fact,
    )


def _stripped(text: str, window: Window) -> Window:
    part = text[window.start : window.end]
    start = window.start + len(part) - len(part.lstrip())
    return Window(start, start + len(part.strip()))
