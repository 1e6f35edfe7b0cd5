"""Where a text may name an entity: detectors turn texts into spans with the key of the alias they read like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from entity_linking.alias_table import MAX_TOKENS, NO_KEY, AliasTable, Keys, chain
from entity_linking.normalise import Flags, Ints
from entity_linking.tokens import Tokens, mix, tokenise


@dataclass(frozen=True, slots=True)
class MentionTable:
    """Mentions of several texts, in order of text and start, never overlapping; arrays of shape (num_mentions,).

    tokens: the tokens of all the texts. first_token, num_tokens: each mention's place among them.
    key: its alias key in the `AliasTable` (`NO_KEY`: reads like no alias).
    document, start, end: its text, and its span there in code points.
    capitals: number of its tokens holding a capital. all_upper: all of them in capitals.
    capital_evidence: capitalised where the sentence does not ask for it.
    dropped: spans that read like an alias and are no mention, by reason.
    """

    tokens: Tokens
    first_token: Ints
    num_tokens: Ints
    key: Keys
    dropped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def document(self) -> Ints:
        return self.tokens.document[self.first_token]

    @property
    def start(self) -> Ints:
        return self.tokens.start[self.first_token]

    @property
    def end(self) -> Ints:
        return self.tokens.end[self.first_token + self.num_tokens - 1]

    @property
    def capitals(self) -> Ints:
        return count_between(self.tokens.has_upper, self.first_token, self.num_tokens)

    @property
    def all_upper(self) -> Flags:
        return count_between(self.tokens.all_upper, self.first_token, self.num_tokens) == self.num_tokens

    @property
    def capital_evidence(self) -> Flags:
        capitals = self.capitals
        return (capitals > 0) & ((capitals > 1) | ~self.tokens.sentence_start[self.first_token])

    @property
    def inside_name(self) -> Flags:
        """Capitalised, and so is the word right before (not a sentence's first) or right after: "Arthur C. Clarke"."""
        tokens, last = self.tokens, self.first_token + self.num_tokens - 1
        names = np.append(tokens.is_word & tokens.has_upper, False)
        breaks = np.append(tokens.breaks, True)
        before = names[self.first_token - 1] & ~breaks[self.first_token]
        before &= ~np.append(tokens.sentence_start, False)[self.first_token - 1]
        after = names[last + 1] & ~breaks[last + 1]
        return tokens.has_upper[self.first_token] & tokens.has_upper[last] & (before | after)

    def alias(self, mention: int) -> str:
        """The folded form a mention reads like."""
        return self.tokens.text_of(int(self.first_token[mention]), int(self.num_tokens[mention]))


class MentionDetector(Protocol):
    """Finds mentions in texts. The mentions of a text never depend on the texts beside it."""

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
        return MentionTable(tokens, firsts, nums, self._keys(tokens, firsts, nums), dropped)

    def _keys(self, tokens: Tokens, first: Ints, num: Ints) -> Keys:
        keys = np.full(len(first), NO_KEY, dtype=np.int32)
        if not len(first):
            return keys
        hashes = mix(tokens.hash[first])
        for k in range(1, int(num.max()) + 1):
            done = num == k
            keys[done] = self.table.find(hashes[done])[1]
            going = num > k
            hashes[going] = chain(hashes[going], tokens.hash[first[going] + k])
        return keys


def count_between(flags: Flags, first: Ints, num: Ints) -> Ints:
    """How many of the `num` flags from `first` on are set."""
    totals = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))
    return totals[first + num] - totals[first]
