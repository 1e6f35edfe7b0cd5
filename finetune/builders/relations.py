"""Relation classification from a graph: two linked names in one stretch of text, and the triple that joins them.

Distant supervision (Mintz et al. 2009): the text need not say what the graph says. A pair that no triple joins, in
either direction, is an example of `no_relation`.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice, pairwise
from typing import NamedTuple, Protocol

import numpy as np

from entity_linking.corpus import Document
from entity_linking.records import Link
from finetune.builders.drafts import Draft, Window, stable_order, window_around
from finetune.tasks.schema import EntityLink, Example, Span
from kg.graph import KnowledgeGraph
from kg.records import Triple
from kg.split import split_of

NO_RELATION = "no_relation"
NO_RELATION_PER_DOCUMENT = 4
"""More unrelated pairs of one document add little that is new."""
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


class Pair(NamedTuple):
    """Two links to different entities inside one window."""

    window: Window
    first: Link
    second: Link


class RelationTable:
    """Which relations join two entities: lookups over the graph's triples, 12 bytes a triple.

    Pairs are numbers head * (num_entities + 1) + tail; the table is sorted, a lookup is two binary searches.
    """

    def __init__(self, graph: KnowledgeGraph) -> None:
        self._width = graph.num_entities + 1
        keys = self._keys_of(graph.triples[:, 0], graph.triples[:, 2])
        order = np.argsort(keys, kind="stable")
        self._keys, self._relations = keys[order], graph.triples[order, 1]

    def between(self, heads: np.ndarray, tails: np.ndarray) -> list[np.ndarray]:
        """For every pair the relation rows of all triples (head, ·, tail), in the graph's order; mostly empty.

        heads, tails: entity rows, int, shape (num_pairs,).
        """
        keys = self._keys_of(heads, tails)
        first, last = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        return [self._relations[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]

    def _keys_of(self, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        return heads.astype(np.int64) * self._width + tails


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
    """One draft for every entity pair that a triple joins, at a document's first window that links both.

    Of triples in both directions the seed decides whose head comes first, so that neither text order nor the
    graph's order gives the label away. A pair with several relations in that direction (`several_relations`) and one
    too far apart (`pair_too_far_apart`) are left out. Of the pairs that no triple joins, up to
    `NO_RELATION_PER_DOCUMENT` a document are drawn (`no_relation_not_drawn`). The split is the document's; the keys
    keep a pair out of two splits.

    linker: gives the most likely senses; entities outside the graph are not considered.
    window_sentences: so many neighbouring sentences are searched together.
    """
    table = RelationTable(graph)
    for document, links in linked(documents, linker):
        split = split_of(document.id, seed=seed, dev=dev, test=test)
        draw = random.Random(stable_order(document.id, seed=seed))
        pairs = linked_pairs(document.text, [k for k in links if graph.entity_vocab.get(k.entity)], window_sentences)
        for pair, label in labelled(pairs, graph, table, draw, dropped):
            start, end = min(pair.first.start, pair.second.start), max(pair.first.end, pair.second.end)
            part = window_around(document.text, pair.window, start, end, max_characters)
            if part is None:
                dropped["pair_too_far_apart"] += 1
            else:
                yield _draft(document, part, pair.first, label, pair.second, split)


def linked_pairs(text: str, links: Sequence[Link], window_sentences: int) -> list[Pair]:
    """Pairs of links to different entities that lie in one window, each unordered entity pair once."""
    seen: set[tuple[str, str]] = set()
    pairs = []
    for window in sentence_windows(text, window_sentences):
        inside = [link for link in links if link.start >= window.start and link.end <= window.end]
        for first, second in combinations(inside, 2):
            one, other = first.entity, second.entity
            if one != other and (one, other) not in seen:
                seen.update(((one, other), (other, one)))
                pairs.append(Pair(window, first, second))
    return pairs


def labelled(
    pairs: Sequence[Pair],
    graph: KnowledgeGraph,
    table: RelationTable,
    draw: random.Random,
    dropped: Counter[str],
) -> list[tuple[Pair, str]]:
    """Pairs as (head, tail) with their relation's id, or in a drawn direction with `no_relation`."""
    drawn = [pair if draw.random() < 0.5 else pair._replace(first=pair.second, second=pair.first) for pair in pairs]
    rows = np.array([[graph.entity_vocab.get(link.entity) for link in pair[1:]] for pair in drawn], dtype=np.int64)
    heads, tails = rows.reshape(-1, 2).T
    kept, unrelated = [], []
    for pair, ahead, back in zip(drawn, table.between(heads, tails), table.between(tails, heads), strict=True):
        relations = ahead if len(ahead) else back
        if len(relations) == 0:
            unrelated.append((pair, NO_RELATION))
        elif len(relations) > 1:
            dropped["several_relations"] += 1
        else:
            directed = pair if len(ahead) else pair._replace(first=pair.second, second=pair.first)
            kept.append((directed, graph.relation_vocab.identifier(int(relations[0]))))
    chosen = draw.sample(unrelated, min(NO_RELATION_PER_DOCUMENT, len(unrelated)))
    if len(chosen) < len(unrelated):
        dropped["no_relation_not_drawn"] += len(unrelated) - len(chosen)
    return kept + chosen


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
