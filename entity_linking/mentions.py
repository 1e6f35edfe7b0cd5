"""Where a text may name an entity: detectors turn texts into spans with the key of the alias they read like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from entity_linking.alias_table import MAX_TOKENS, AliasTable, chain
from entity_linking.compiled import kernel
from entity_linking.normalise import Flags, Ints
from entity_linking.prefixes import NO_KEY, Keys
from entity_linking.tokens import ALL_UPPER, BREAK, HAS_UPPER, IS_WORD, SENTENCE_START, Tokens, tokenise


@dataclass(frozen=True, slots=True)
class MentionTable:
    """Mentions of several texts, in order of text and start, never overlapping; arrays of shape (num_mentions,).

    tokens: the tokens of all the texts. first_token, num_tokens: each mention's place among them.
    key: its alias key in the `AliasTable` (`NO_KEY`: reads like no alias).
    document, start, end: its text, and its span there in code points.
    capitals: number of its tokens holding a capital. all_upper: all of them in capitals.
    capital_evidence: capitalised where the sentence does not ask for it.
    inside_name: capitalised, and so is the word right before (not a sentence's first) or right after: "Arthur C.
        Clarke".
    dropped: spans that read like an alias and are no mention, by reason.
    """

    tokens: Tokens
    first_token: Ints
    num_tokens: Ints
    key: Keys
    document: Ints
    start: Ints
    end: Ints
    capitals: Ints
    all_upper: Flags
    capital_evidence: Flags
    inside_name: Flags
    dropped: Counter[str]

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def of(cls, tokens: Tokens, first: Ints, num: Ints, key: Keys, dropped: Counter[str] | None = None) -> MentionTable:
        """Works out the columns that the tokens decide."""
        capitals = np.empty(len(first), dtype=np.int64)
        flags = np.empty((3, len(first)), dtype=bool)
        _describe(tokens.flags, first, num, capitals, *flags)
        return cls(
            tokens=tokens,
            first_token=first,
            num_tokens=num,
            key=key,
            document=tokens.document[first].astype(np.int64),
            start=tokens.start[first].astype(np.int64),
            end=tokens.end[first + num - 1].astype(np.int64),
            capitals=capitals,
            all_upper=flags[0],
            capital_evidence=flags[1],
            inside_name=flags[2],
            dropped=Counter() if dropped is None else dropped,
        )

    def alias(self, mention: int) -> str:
        """The folded form a mention reads like."""
        return self.tokens.text_of(int(self.first_token[mention]), int(self.num_tokens[mention]))


@kernel()
def _describe(flags, firsts, nums, capitals, all_upper, evidence, inside_name):
    for i in range(len(firsts)):
        first, last = firsts[i], firsts[i] + nums[i] - 1
        upper, shouted = 0, 0
        for token in range(first, last + 1):
            upper += 1 if flags[token] & HAS_UPPER else 0
            shouted += 1 if flags[token] & ALL_UPPER else 0
        capitals[i], all_upper[i] = upper, shouted == nums[i]
        evidence[i] = upper > 1 or (upper == 1 and flags[first] & SENTENCE_START == 0)
        beside = first > 0 and _is_name(flags[first - 1]) and flags[first] & BREAK == 0
        beside = beside and flags[first - 1] & SENTENCE_START == 0
        if last + 1 < len(flags) and _is_name(flags[last + 1]) and flags[last + 1] & BREAK == 0:
            beside = True
        inside_name[i] = beside and flags[first] & HAS_UPPER != 0 and flags[last] & HAS_UPPER != 0


@kernel(inline="always")
def _is_name(flag):
    return flag & IS_WORD != 0 and flag & HAS_UPPER != 0


class MentionDetector(Protocol):
    """Finds mentions in texts, as keys of a table. The mentions of a text never depend on the texts beside it."""

    table: AliasTable

    def detect(self, texts: Sequence[str]) -> MentionTable: ...


class GivenSpans:
    """A detector for spans that are known (gold mentions, an NER's): looks up what each reads like.

    table: the aliases to look up in. spans: for each text, its (start, end) in order, not overlapping.
    A span that does not begin and end with tokens is counted under `span_inside_token` and left out.
    """

    def __init__(self, table: AliasTable, spans: Sequence[Sequence[tuple[int, int]]]) -> None:
        self.table = table
        self.spans = spans

    def detect(self, texts: Sequence[str]) -> MentionTable:
        tokens = tokenise(texts)
        bounds = np.searchsorted(tokens.document, np.arange(len(texts) + 1))
        first, num, dropped = [], [], Counter[str]()
        for text, spans in enumerate(self.spans):
            low, high = int(bounds[text]), int(bounds[text + 1])
            begin = {int(s): low + i for i, s in enumerate(tokens.start[low:high])}
            finish = {int(e): low + i for i, e in enumerate(tokens.end[low:high])}
            for start, end in spans:
                if start in begin and end in finish and begin[start] <= finish[end] < begin[start] + MAX_TOKENS:
                    first.append(begin[start])
                    num.append(finish[end] - begin[start] + 1)
                else:
                    dropped["span_inside_token"] += 1
        firsts, nums = np.array(first, dtype=np.int64), np.array(num, dtype=np.int64)
        return MentionTable.of(tokens, firsts, nums, self._keys(tokens, firsts, nums), dropped)

    def _keys(self, tokens: Tokens, first: Ints, num: Ints) -> Keys:
        keys = np.full(len(first), NO_KEY, dtype=np.int32)
        if not len(first):
            return keys
        hashes = tokens.hash[first]
        for k in range(1, int(num.max()) + 1):
            done = num == k
            keys[done] = self.table.prefixes.find(hashes[done])[1]
            going = num > k
            hashes[going] = chain(hashes[going], tokens.hash[first[going] + k])
        return keys


def merged(first: MentionTable, second: MentionTable) -> MentionTable:
    """All mentions of the first table, and those of the second that overlap none of them; of the same texts."""
    covered = np.zeros(len(first.tokens) + 1, dtype=np.int64)
    np.add.at(covered, first.first_token, 1)
    np.add.at(covered, first.first_token + first.num_tokens, -1)
    inside = np.concatenate(([0], np.cumsum(np.cumsum(covered[:-1]))))
    free = inside[second.first_token + second.num_tokens] == inside[second.first_token]
    starts = np.concatenate((first.first_token, second.first_token[free]))
    order = np.argsort(starts, kind="stable")
    num = np.concatenate((first.num_tokens, second.num_tokens[free]))[order]
    key = np.concatenate((first.key, second.key[free]))[order]
    return MentionTable.of(first.tokens, starts[order], num, key, first.dropped + second.dropped)


class Union:
    """A detector of what any of several detectors finds; where they overlap, an earlier one's mention stays."""

    def __init__(self, *detectors: MentionDetector) -> None:
        self.detectors = detectors
        self.table = detectors[0].table

    def detect(self, texts: Sequence[str]) -> MentionTable:
        found = self.detectors[0].detect(texts)
        for detector in self.detectors[1:]:
            found = merged(found, detector.detect(texts))
        return found
