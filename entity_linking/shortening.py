"""Long names that mean one entity alone, replaced by short ones that could mean others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from entity_linking.alias_table import AliasTable
from entity_linking.gold import GoldDocument
from entity_linking.linker import EntityLinker
from entity_linking.matcher import AliasMatcher
from entity_linking.prefixes import NO_KEY
from entity_linking.priors import ANY
from entity_linking.records import Link
from entity_linking.tokens import SENTENCE_START


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


class Spellings:
    """How often a name is written as one: in capitals where the sentence does not ask for them, or not.

    "Apple" and "May" are common words, too: what is written small is no mention, and says how likely one is where a
    sentence begins. tally: as `priors.write_counts` takes it, `ANY` for an occurrence in capitals.
    """

    def __init__(self, table: AliasTable) -> None:
        anyhow = AliasTable(table.prefixes, np.zeros_like(table.key_capitals), np.zeros_like(table.key_flags))
        self._capitals = table.key_capitals
        self._matcher = AliasMatcher(anyhow)
        self.tally: Counter[tuple[str, str]] = Counter()

    def count(self, texts: Sequence[str]) -> None:
        """Adds the occurrences in some texts."""
        found = self._matcher.detect(texts)
        asked = self._capitals[found.key]
        starts = found.tokens.flags[found.first_token] & np.uint16(SENTENCE_START)
        named = found.capitals >= asked
        for mention in np.flatnonzero((asked > 0) & (starts == 0)).tolist():
            self.tally[found.alias(mention), ANY if named[mention] else ""] += 1
