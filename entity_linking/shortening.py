"""Long names that mean one entity alone, replaced by short ones that could mean others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from entity_linking.gold import GoldDocument
from entity_linking.linker import EntityLinker
from entity_linking.prefixes import NO_KEY
from entity_linking.records import Link


def shorter_names(linker: EntityLinker, aliases: list[list[str]]) -> dict[int, str]:
    """By entity row, its longest alias that other entities share, for entities with an alias of two words or more."""
    pairs = [(row, name) for row, names in enumerate(aliases) if len(names) > 1 for name in names]
    keys = linker.alias_table.keys_of([name for _, name in pairs])
    bounds = linker.candidates.bounds
    found: dict[int, str] = {}
    for (row, name), key in zip(pairs, keys.tolist(), strict=True):
        shared = key != NO_KEY and bounds[key + 1] - bounds[key] > 1
        if shared and len(name) > len(found.get(row, "")):
            found[row] = name
    return found


def labelled(linker: EntityLinker, documents: list[tuple[str, str]], shorter: dict[int, str]) -> Iterator[GoldDocument]:
    """The documents in which some name was shortened. documents: (id, text). shorter: `shorter_names`.

    A name is put in the place of a longer one of at least two words that means its entity alone.
    """
    mentions = linker.detector.detect([text for _, text in documents])
    candidates = linker.candidates.of(mentions)
    alone = (np.diff(candidates.bounds) == 1) & (mentions.num_tokens > 1)
    changes: list[list[tuple[int, int, int]]] = [[] for _ in documents]
    for mention in np.flatnonzero(alone).tolist():
        entity = int(candidates.entity[candidates.bounds[mention]])
        start, end = int(mentions.start[mention]), int(mentions.end[mention])
        if len(shorter.get(entity, "")) and len(shorter[entity]) < end - start:
            changes[int(mentions.document[mention])].append((start, end, entity))
    for (name, text), of in zip(documents, changes, strict=True):
        if of:
            names = linker.names(np.array([entity for _, _, entity in of]))
            made, links, at = "", [], 0
            for (start, end, entity), entity_id in zip(of, names, strict=True):
                made += text[at:start]
                links.append(Link(len(made), len(made) + len(shorter[entity]), entity_id, 1.0))
                made, at = made + shorter[entity], end
            yield GoldDocument(name, made + text[at:], tuple(links))
