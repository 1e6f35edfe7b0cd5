"""All aliases of a graph against texts in one pass, by hashed tokens.

Every token starts a chain of hashes that grows a token at a time while it is the prefix of some alias; the longest
alias that the text's spelling allows wins at each start, and of overlapping ones the leftmost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from entity_linking.alias_table import ACRONYM, FUNCTION, MAX_TOKENS, STEP, AliasTable
from entity_linking.compiled import kernel
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from entity_linking.prefixes import EMPTY, NOT_A_PREFIX, ONE, WHOLE, find, may_go_on, starts_of
from entity_linking.records import Mention
from entity_linking.tokens import (
    ALL_UPPER,
    BREAK,
    HAS_UPPER,
    HYPHEN_BEFORE,
    SENTENCE_START,
    WHOLE_END,
    WHOLE_START,
    mix,
    tokenise,
)
from kg.graph import KnowledgeGraph

REASONS = ("", "part_of_character", "not_capitalised", "not_in_capitals", "function_word", "inside_compound", "overlap")
"""Why a span that reads like an alias is no mention; 0 = it is one."""
ALLOWED = 0
OVERLAP = REASONS.index("overlap")


class AliasMatcher:
    """A `MentionDetector` that finds the aliases of a table; usable alone.

    >>> matcher = AliasMatcher(AliasTable.from_aliases(["New York", "dog"]))
    >>> matcher.find("A dog's life in new york, or New York.")
    [Mention(start=2, end=5, alias='dog'), Mention(start=29, end=37, alias='new york')]
    """

    def __init__(self, table: AliasTable) -> None:
        self.table = table

    @classmethod
    def from_graph(
        cls, graph: KnowledgeGraph, *, numbers: bool = False, plurals: bool = True, cjk: bool = True
    ) -> AliasMatcher:
        """A matcher of all aliases of a graph.

        numbers: also match aliases that are numbers ("1984", "XIV"). plurals: also match the English plural of
        aliases ("cities" for the alias "city"). cjk: also match aliases in ideographs or hiragana, anywhere in a run of
        them, since no spaces show where their words begin.
        """
        aliases = alias_strings(graph)[0]
        return cls(AliasTable.from_aliases(aliases, numbers=numbers, plurals=plurals, cjk=cjk))

    def find(self, text: str) -> list[Mention]:
        """The mentions of one text, from left to right."""
        found = self.detect([text])
        spans = zip(found.start.tolist(), found.end.tolist())
        return [Mention(start, end, found.alias(i)) for i, (start, end) in enumerate(spans)]

    def detect(self, texts: Sequence[str]) -> MentionTable:
        """The mentions of several texts; those of a text do not depend on the others."""
        tokens, prefixes = tokenise(texts), self.table.prefixes
        first, num = np.empty((2, len(tokens)), dtype=np.int64)
        key = np.empty(len(tokens), dtype=np.int32)
        reasons = np.zeros(len(REASONS), dtype=np.int64)
        count = _match(
            tokens.hash, tokens.length, tokens.flags, prefixes.slots, prefixes.keys, prefixes.starts, prefixes.chains,
            self.table.key_capitals, self.table.key_flags, first, num, key, reasons,
        )  # fmt: skip
        dropped = Counter({reason: int(n) for reason, n in zip(REASONS, reasons, strict=True) if n and reason})
        return MentionTable.of(tokens, first[:count], num[:count], key[:count], dropped)


@kernel()
def _match(
    hashes, lengths, flags, slots, keys, starts, chains, key_capitals, key_flags, out_first, out_num, out_key, reasons
):  # fmt: skip
    """Writes first token, number of tokens and key of every mention, counts refusals by reason; returns how many.

    A start that an earlier mention covers is tried all the same, so that what is counted depends on the text alone.
    """
    count, free = 0, 0
    places = np.empty(len(hashes), np.int32)
    for first in places[: _may_begin(hashes, starts, chains, places)]:
        chained = hashes[first]
        if flags[first] & WHOLE_START == 0 or chained == EMPTY:
            continue
        size, key, upper, length = 0, NOT_A_PREFIX, 0, 1
        while True:
            found = find(slots, keys, chained)
            if found == NOT_A_PREFIX:
                break
            upper += 1 if flags[first + length - 1] & HAS_UPPER else 0
            if found >= 0:
                reason = _refusal(lengths, flags, first, length, upper, key_capitals[found], key_flags[found])
                if reason == ALLOWED:
                    size, key = length, found
                else:
                    reasons[reason] += 1
            beyond = first + length
            if length == MAX_TOKENS or beyond == len(hashes) or flags[beyond] & BREAK or hashes[beyond] == EMPTY:
                break
            chained = mix(chained * STEP + hashes[beyond])
            if may_go_on(chains, chained) == EMPTY:
                break
            length += 1
        if size and first >= free:
            out_first[count], out_num[count], out_key[count] = first, size, key
            count, free = count + 1, first + size
        elif size:
            reasons[OVERLAP] += 1
    return count


@kernel()
def _may_begin(hashes, starts, chains, places):
    """Writes the tokens that an alias may begin with by the filters, and returns how many.

    No branch depends on the text: a processor guesses wrong at half of those that would.
    """
    count, last = 0, len(hashes) - 1
    for first in range(last):
        kind = starts_of(starts, hashes[first])
        pair = may_go_on(chains, mix(hashes[first] * STEP + hashes[first + 1]))
        places[count] = first
        count += np.int64(kind & WHOLE | kind >> ONE & pair)
    if last >= 0:
        places[count] = last
        count += np.int64(starts_of(starts, hashes[last]) & WHOLE)
    return count


@kernel(inline="always")
def _refusal(lengths, flags, first, num, upper, capitals, key_flags):
    """Why the span may not be the alias by its spelling, as a place in `REASONS`: the first rule against it."""
    last = first + num - 1
    if flags[last] & WHOLE_END == 0:
        return 1
    if upper < capitals:
        return 2
    shouted = flags[first] & ALL_UPPER != 0
    if key_flags & ACRONYM and not shouted:
        return 3
    mute = flags[first] & SENTENCE_START or lengths[first] <= 2
    if mute and num == 1 and key_flags & FUNCTION and not (shouted and key_flags & ACRONYM):
        return 4
    glued = flags[first] & HYPHEN_BEFORE or (last + 1 < len(flags) and flags[last + 1] & HYPHEN_BEFORE)
    return 5 if glued and upper == 0 else ALLOWED


def alias_strings(graph: KnowledgeGraph) -> tuple[list[str], Ints]:
    """The distinct alias strings of a graph, and for each row of its alias table the string's index."""
    column: Any = graph.aliases["alias"].combine_chunks()
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
