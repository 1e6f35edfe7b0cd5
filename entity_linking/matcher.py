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
ALLOWED, PART_OF_CHARACTER, NOT_CAPITALISED, NOT_IN_CAPITALS, FUNCTION_WORD, INSIDE_COMPOUND, OVERLAP = range(7)

_LONGER_BIT, _PLACE, _YES = np.uint32(31), np.uint32(2**31 - 1), np.uint32(1)
_MOST = np.uint64(MAX_TOKENS)


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
    count, free, num_tokens = np.uint64(0), np.uint64(0), np.uint64(len(hashes))
    places, founds = np.empty(len(hashes), np.uint32), np.empty(len(hashes), np.int32)
    num_places = _may_begin(hashes, starts, chains, places)
    num_places = _worth_a_look(hashes, flags, slots, keys, key_capitals, num_places, places, founds, reasons)
    for n in range(num_places):
        first, found = np.uint64(places[n]), founds[n]
        size, key, upper, beyond = np.uint64(0), NOT_A_PREFIX, 0, first
        chained = hashes[first]
        while found != NOT_A_PREFIX:
            upper += 1 if flags[beyond] & HAS_UPPER else 0
            beyond += ONE
            if found >= 0:
                capitals, spelling = key_capitals[np.uint32(found)], key_flags[np.uint32(found)]
                reason = _refusal(lengths, flags, first, beyond, upper, capitals, spelling)
                if reason == ALLOWED:
                    size, key = beyond - first, found
                else:
                    reasons[reason] += 1
            if beyond - first == _MOST or beyond == num_tokens or flags[beyond] & BREAK or hashes[beyond] == EMPTY:
                break
            chained = mix(chained * STEP + hashes[beyond])
            if may_go_on(chains, chained) == EMPTY:
                break
            found = find(slots, keys, chained)
        if size and first >= free:
            out_first[count], out_num[count], out_key[count] = first, size, key
            count, free = count + ONE, first + size
        elif size:
            reasons[OVERLAP] += 1
    return count


@kernel()
def _may_begin(hashes, starts, chains, places):
    """Writes the tokens that an alias may begin with by the filters, and returns how many.

    The highest bit is set where a longer alias may. No branch depends on the text: a processor guesses wrong at half of
    those that would.
    """
    count, last = np.uint64(0), len(hashes) - 1
    for first in range(last):
        kind = starts_of(starts, hashes[first])
        longer = kind >> ONE & may_go_on(chains, mix(hashes[first] * STEP + hashes[first + 1]))
        places[count] = np.uint32(first) | np.uint32(longer) << _LONGER_BIT
        count += kind & WHOLE | longer
    if last >= 0:
        places[count] = last
        count += starts_of(starts, hashes[last]) & WHOLE
    return count


@kernel()
def _worth_a_look(hashes, flags, slots, keys, key_capitals, num_places, places, founds, reasons):
    """Keeps the places where more can begin than a name written small; writes what each token is alone.

    Most of what the filters let through are common words that some title is made of: counted here, without a branch.
    """
    kept, small = np.uint64(0), 0
    for n in range(num_places):
        first, longer = places[n] & _PLACE, places[n] >> _LONGER_BIT
        found, of = find(slots, keys, hashes[first]), flags[first]
        whole_start, whole_end = np.uint32(of & WHOLE_START != 0), np.uint32(of & WHOLE_END != 0)
        known = np.uint32(found >= 0) & whole_start
        asked = key_capitals[np.uint32(max(found, 0))] if len(key_capitals) else 0
        refused = known & whole_end & np.uint32(asked > np.uint32(of & HAS_UPPER != 0))
        alone = longer ^ _YES
        places[kept], founds[kept] = first, found
        kept += np.uint64(whole_start & (longer | known & (refused ^ _YES)))
        small += alone & refused
    reasons[NOT_CAPITALISED] += small
    return kept


@kernel(inline="always")
def _refusal(lengths, flags, first, beyond, upper, capitals, key_flags):
    """Why the span may not be the alias by its spelling, as a place in `REASONS`: the first rule against it."""
    if flags[beyond - ONE] & WHOLE_END == 0:
        return PART_OF_CHARACTER
    if upper < capitals:
        return NOT_CAPITALISED
    shouted = flags[first] & ALL_UPPER != 0
    if key_flags & ACRONYM and not shouted:
        return NOT_IN_CAPITALS
    mute = flags[first] & SENTENCE_START or lengths[first] <= 2
    if mute and beyond - first == ONE and key_flags & FUNCTION and not (shouted and key_flags & ACRONYM):
        return FUNCTION_WORD
    glued = flags[first] & HYPHEN_BEFORE or (beyond < np.uint64(len(flags)) and flags[beyond] & HYPHEN_BEFORE)
    return INSIDE_COMPOUND if glued and upper == 0 else ALLOWED


def alias_strings(graph: KnowledgeGraph) -> tuple[list[str], Ints]:
    """The distinct alias strings of a graph, and for each row of its alias table the string's index."""
    column: Any = graph.aliases["alias"].combine_chunks()
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
