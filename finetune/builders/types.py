"""Entity typing from a graph: which types has the entity that is mentioned here?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from entity_linking.corpus import Document
from finetune.builders.drafts import Draft, Window, normalised, window_around
from finetune.builders.relations import Linker, linked
from finetune.tasks.schema import EntityLink, Example, Span
from kg.graph import KnowledgeGraph
from kg.split import split_of


def type_drafts(
    documents: Iterable[Document],
    *,
    graph: KnowledgeGraph,
    linker: Linker,
    multi_label: bool,
    max_characters: int,
    dev: float,
    test: float,
    seed: int,
    dropped: Counter[str],
) -> Iterator[Draft]:
    """One draft for every typed entity of a document, at its first mention; the graph's types are the labels.

    multi_label: all types of an entity; otherwise its only one, and an entity with more is left out
    (`several_types`). Entities without a type are left out (`no_type`). The split is the document's: an entity can
    stand in two splits, in different texts.
    """
    types = [(), *(tuple(names) for names in graph.entities["types"].to_pylist())]
    for document, links in linked(documents, linker):
        split = split_of(document.id, seed=seed, dev=dev, test=test)
        seen: set[str] = set()
        for link in links:
            row = graph.entity_vocab.get(link.entity)
            if not row or link.entity in seen:
                continue
            seen.add(link.entity)
            names = types[row]
            if not names or (len(names) > 1 and not multi_label):
                dropped["several_types" if names else "no_type"] += 1
                continue
            part = window_around(document.text, Window(0, len(document.text)), link.start, link.end, max_characters)
            if part is None:
                dropped["mention_too_long"] += 1
                continue
            start, end = link.start - part.start, link.end - part.start
            example = Example(
                id=f"type:{document.id}:{link.entity}",
                text=document.text[part.start : part.end],
                document=document.id,
                offset=part.start,
                spans=(Span(start=start, end=end),),
                links=(EntityLink(start=start, end=end, entity=link.entity, score=link.score),),
                label=None if multi_label else names[0],
                labels=names if multi_label else None,
            )
            keys = (("document", document.id), ("text", normalised(document.text)))
            yield Draft(example=example, split=split, keys=keys)
