"""All aliases of a graph against texts in one pass, by hashed tokens in numpy.

Every token starts a chain of hashes that grows a token at a time while it is the prefix of some alias; the longest
alias that the text's spelling allows wins at each start, and of overlapping ones the leftmost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_linking.alias_table import MAX_TOKENS, NO_KEY, AliasTable, Keys, chain
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags, Ints
from entity_linking.records import Mention
from entity_linking.tokens import Tokens, mix, tokenise
from kg.graph import KnowledgeGraph

FILTER_BITS = 22
"""The first-token filter has 2^22 slots: most starts are turned away without a search."""


class AliasMatcher:
    """A `MentionDetector` that finds the aliases of a table; usable alone.

    >>> matcher = AliasMatcher(AliasTable.from_aliases(["New York", "dog"]))
    >>> matcher.find("A dog's life in new york, or New York.")
    [Mention(start=2, end=5, alias='dog'), Mention(start=29, end=37, alias='new york')]
    """

    def __init__(self, table: AliasTable) -> None:
        self.table = table
        self._filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._filter[_slot(table.prefixes)] = True

    @classmethod
    def from_graph(cls, graph: KnowledgeGraph, *, numbers: bool = False, plurals: bool = True) -> AliasMatcher:
        """A matcher of all aliases of a graph.

        numbers: also match aliases that are numbers ("1984", "XIV"). plurals: also match the English plural of
        aliases ("cities" for the alias "city").
        """
        aliases = alias_strings(graph)[0]
        return cls(AliasTable.from_aliases(aliases, numbers=numbers, plurals=plurals))

    def find(self, text: str) -> list[Mention]:
        """The mentions of one text, from left to right."""
        found = self.detect([text])
        spans = zip(found.start.tolist(), found.end.tolist())
        return [Mention(start, end, found.alias(i)) for i, (start, end) in enumerate(spans)]

    def detect(self, texts: Sequence[str]) -> MentionTable:
        """The mentions of several texts; those of a text do not depend on the others."""
        tokens = tokenise(texts)
        dropped: Counter[str] = Counter()
        sizes, keys = self._longest(tokens, dropped)
        starts = np.flatnonzero(sizes)
        chosen = leftmost(starts, starts + sizes[starts])
        dropped["overlap"] += len(starts) - len(chosen)
        first = starts[chosen]
        return MentionTable(tokens, first, sizes[first], keys[first], +dropped)

    def _longest(self, tokens: Tokens, dropped: Counter[str]) -> tuple[Ints, Keys]:
        """For every token, the tokens of the longest alias starting there (0 for none), and its key."""
        sizes = np.zeros(len(tokens), dtype=np.int64)
        keys = np.full(len(tokens), NO_KEY, dtype=np.int32)
        capitals = np.concatenate(([0], np.cumsum(tokens.has_upper)))
        hashes = mix(tokens.hash)
        alive = np.flatnonzero(self._filter[_slot(hashes)] & tokens.whole_start)
        hashes = hashes[alive]
        for size in range(1, MAX_TOKENS + 1):
            known, found = self.table.find(hashes)
            alive, hashes, found = alive[known], hashes[known], found[known]
            hits = np.flatnonzero(found != NO_KEY)
            allowed = self._allowed(tokens, alive[hits], size, found[hits], capitals, dropped)
            hits = hits[allowed]
            sizes[alive[hits]] = size
            keys[alive[hits]] = found[hits]
            going = alive + size < len(tokens)
            alive, hashes = alive[going], hashes[going]
            going = ~tokens.breaks[alive + size]
            alive, hashes = alive[going], hashes[going]
            if not len(alive):
                break
            hashes = chain(hashes, tokens.hash[alive + size])
        return sizes, keys

    def _allowed(
        self, tokens: Tokens, first: Ints, size: int, keys: Keys, capitals: Ints, dropped: Counter[str]
    ) -> Flags:
        """Which spans may be mentions by their spelling; the others are counted by the first reason against them."""
        table = self.table
        upper = capitals[first + size] - capitals[first]
        last = first + size - 1
        after = np.minimum(last + 1, len(tokens) - 1)
        glued = tokens.hyphen_before[first] | ((after > last) & tokens.hyphen_before[after])
        function = table.key_function[keys] & (size == 1)
        acronym = tokens.all_upper[first] & table.key_acronym[keys]
        rules = (
            ("part_of_character", ~tokens.whole_end[last]),
            ("not_capitalised", upper < table.key_capitals[keys]),
            ("not_in_capitals", table.key_acronym[keys] & ~tokens.all_upper[first]),
            ("function_word", function & ~acronym & (tokens.sentence_start[first] | (tokens.length[first] <= 2))),
            ("inside_compound", glued & (upper == 0)),
        )
        allowed = np.ones(len(first), dtype=bool)
        for reason, against in rules:
            dropped[reason] += int(np.count_nonzero(allowed & against))
            allowed &= ~against
        return allowed


def leftmost(starts: Ints, ends: Ints) -> Ints:
    """Indices of the spans that stay when each one taken bars those overlapping it, from left to right.

    starts: strictly increasing. ends: each larger than its start.

    Spans fall into clusters no other span reaches into; within each, following "the first span that starts at or
    after my end" from its first span visits those that stay, and doubling that step visits all in log2(size) rounds.
    """
    count = len(starts)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    reach = np.maximum.accumulate(ends)
    roots = np.concatenate(([True], starts[1:] >= reach[:-1]))
    visited = np.append(roots, False)
    after = np.append(np.searchsorted(starts, ends), count)
    sizes = np.diff(np.append(np.flatnonzero(roots), count))
    for _ in range(int(sizes.max()).bit_length()):
        visited[after[visited]] = True
        after = after[after]
    return np.flatnonzero(visited[:-1])


def alias_strings(graph: KnowledgeGraph) -> tuple[list[str], Ints]:
    """The distinct alias strings of a graph, and for each row of its alias table the string's index."""
    column: Any = graph.aliases["alias"].combine_chunks()
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _slot(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return hashes >> np.uint64(64 - FILTER_BITS)
