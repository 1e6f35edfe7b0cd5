"""The aliases of a graph by what they read like: one key for every folded form, found by the hash of its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from entity_linking.normalise import Flags, Ints
from entity_linking.policy import ACRONYM_LENGTH, ADJECTIVES, FUNCTION_WORDS, numerals, plural
from entity_linking.prefixes import NO_KEY, Hashes, Keys, PrefixTable
from entity_linking.tokens import (
    ALL_UPPER,
    BREAK,
    HAS_UPPER,
    IS_NUMBER,
    IS_WORD,
    LONGEST_TOKEN,
    UNSPACED,
    Tokens,
    mix,
    tokenise,
)

MAX_TOKENS = 16
"""Aliases with more tokens are left out."""
STEP = np.uint64(0xD6E8FEB86659FD93)
ALIASES_AT_ONCE = 50_000
ACRONYM, FUNCTION = 1, 2
"""Bits of `AliasTable.key_flags`."""


@dataclass(frozen=True, slots=True)
class Spellings:
    """What an alias table was made of: every alias, then the plurals; arrays of shape (num_spellings,).

    key: int32: of each spelling, `NO_KEY` where it was left out. source: index of the alias it comes from (itself, or
    the singular). capitals, acronym: as for keys.
    """

    key: Keys
    source: Ints
    capitals: Ints
    acronym: Flags


@dataclass(frozen=True, slots=True)
class AliasTable:
    """The folded forms of a graph's aliases, each a key, found by its hash.

    A key's hash is a chain over its tokens: g_1 = h_1, g_k = mix(g_{k-1} * STEP + h_k); a prefix of a key is a
    start of that chain.

    prefixes: the hash of every prefix of every key, with the key it is, `NO_KEY` where it only begins longer ones.
    key_capitals: uint8 (num_keys,): the least number of capitalised tokens a spelling of the text must have.
    key_flags: uint8 (num_keys,): ACRONYM: asks for capitals throughout; FUNCTION: is made of function words only.
    spellings: what it was made of; None where it was read from disk.
    dropped: aliases left out, by reason.
    """

    prefixes: PrefixTable
    key_capitals: npt.NDArray[np.uint8]
    key_flags: npt.NDArray[np.uint8]
    spellings: Spellings | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def num_keys(self) -> int:
        return len(self.key_capitals)

    @classmethod
    def from_aliases(
        cls, aliases: Sequence[str], *, numbers: bool = False, plurals: bool = True, cjk: bool = True
    ) -> AliasTable:
        """Builds the table of distinct alias strings; the switches as in `AliasMatcher.from_graph`."""
        derived = [(i, form) for i, alias in enumerate(aliases) if (form := plural(alias))] if plurals else []
        spellings = [*aliases, *(form for _, form in derived)]
        source = np.array([*range(len(aliases)), *(i for i, _ in derived)], dtype=np.int64)
        read = _Read.joined(
            _read(tokenise(spellings[low : low + ALIASES_AT_ONCE]), numbers=numbers, cjk=cjk)
            for low in range(0, max(len(spellings), 1), ALIASES_AT_ONCE)
        )
        kept = np.flatnonzero(read.reasons == KEPT)
        sizes = read.sizes[kept]
        finals, key = np.unique(read.chains[kept, sizes - 1], return_inverse=True)
        chains = read.chains[kept]
        within = np.arange(MAX_TOKENS) < sizes[:, None]
        prefixes = np.unique(chains[within])
        prefix_key = np.full(len(prefixes), NO_KEY, dtype=np.int32)
        prefix_key[np.searchsorted(prefixes, finals)] = np.arange(len(finals), dtype=np.int32)
        spelling_key = np.full(len(spellings), NO_KEY, dtype=np.int32)
        spelling_key[kept] = key
        key_capitals = np.full(len(finals), MAX_TOKENS + 1, dtype=np.int64)
        np.minimum.at(key_capitals, key, read.capitals[kept])
        key_acronym, key_function = np.ones((2, len(finals)), dtype=bool)
        np.logical_and.at(key_acronym, key, read.acronym[kept])
        np.logical_and.at(key_function, key, read.function[kept])
        return cls(
            prefixes=PrefixTable.build(
                prefixes,
                prefix_key,
                single=np.unique(chains[sizes == 1, 0]),
                parents=np.unique(chains[sizes > 1, 0]),
                longer=np.unique(chains[:, 1:][within[:, 1:]]),
            ),
            key_capitals=key_capitals.astype(np.uint8),
            key_flags=(key_acronym * ACRONYM | key_function * FUNCTION).astype(np.uint8),
            spellings=Spellings(spelling_key, source, read.capitals, read.acronym),
            dropped=Counter(REASONS[code] for code in read.reasons[: len(aliases)].tolist() if code != KEPT),
        )

    def keys_of(self, texts: Sequence[str]) -> Keys:
        """The key that each text reads like as a whole, `NO_KEY` for none; int32 (len(texts),)."""
        tokens = tokenise(texts)
        sizes = np.bincount(tokens.document, minlength=len(texts))
        fits = (sizes > 0) & (sizes <= MAX_TOKENS)
        chains = _chains(tokens.hash, np.cumsum(sizes) - sizes, np.where(fits, sizes, 0))
        keys = np.full(len(texts), NO_KEY, dtype=np.int32)
        keys[fits] = self.prefixes.find(chains[fits, sizes[fits] - 1])[1]
        return keys


def folded_tokens(texts: Sequence[str]) -> list[str]:
    """Texts as aliases read: folded, their tokens parted by one blank."""
    tokens = tokenise(texts)
    bounds = np.searchsorted(tokens.document, np.arange(len(texts) + 1)).tolist()
    return [tokens.text_of(low, high - low) for low, high in pairwise(bounds)]


REASONS = (
    "",
    "alias_without_word",
    "alias_too_long",
    "alias_with_empty_line",
    "alias_number",
    "alias_one_letter",
    "alias_function_word",
    "alias_adjective",
    "alias_without_spaces",
)
KEPT = 0


def chain(hashes: Hashes, token: Hashes) -> Hashes:
    """The chain hash one token on."""
    return mix(hashes * STEP + token)


@dataclass(frozen=True, slots=True)
class _Read:
    """Spellings read: chain hashes (n, MAX_TOKENS), and by spelling: tokens, reason against, capitals, flags."""

    chains: Hashes
    sizes: Ints
    reasons: npt.NDArray[np.uint8]
    capitals: Ints
    acronym: Flags
    function: Flags

    @classmethod
    def joined(cls, parts: Iterable[_Read]) -> _Read:
        """Parts one after the other."""
        listed = list(parts)
        return cls(*(np.concatenate([getattr(part, f.name) for part in listed]) for f in fields(cls)))


def _read(tokens: Tokens, *, numbers: bool, cjk: bool) -> _Read:
    count = tokens.num_documents
    sizes = np.bincount(tokens.document, minlength=count)
    starts = np.cumsum(sizes) - sizes

    def total(flags: Flags) -> Ints:
        return np.bincount(tokens.document[flags], minlength=count)

    is_word = tokens.has(IS_WORD)
    words = total(is_word)
    capitals = total(tokens.has(HAS_UPPER))
    numeral = is_word & (tokens.has(IS_NUMBER) | np.isin(tokens.hash, _hashes(tuple(numerals()))))
    function = total(is_word & np.isin(tokens.hash, _hashes(tuple(sorted(FUNCTION_WORDS))))) == words
    single = sizes == 1
    adjective = single & (total(is_word & np.isin(tokens.hash, _hashes(tuple(sorted(ADJECTIVES))))) == 1)
    length = np.bincount(tokens.document, tokens.length, minlength=count)
    inner_break = tokens.has(BREAK)
    inner_break[starts[sizes > 0]] = False
    reasons = np.zeros(count, dtype=np.uint8)
    rules = (
        ("alias_adjective", adjective & (capitals == 0)),
        ("alias_function_word", function & (capitals == 0)),
        ("alias_one_letter", (words == 1) & single & (length == 1)),
        ("alias_number", (total(numeral) == words) & (not numbers)),
        ("alias_without_spaces", (total(tokens.has(UNSPACED)) > 0) & (not cjk)),
        ("alias_with_empty_line", total(inner_break) > 0),
        ("alias_too_long", (sizes > MAX_TOKENS) | (total(tokens.length > LONGEST_TOKEN) > 0)),
        ("alias_without_word", words == 0),
    )
    for reason, against in rules:
        reasons[against] = REASONS.index(reason)
    acronym = single & (total(tokens.has(ALL_UPPER)) == 1) & (length >= 2) & (length <= ACRONYM_LENGTH)
    return _Read(_chains(tokens.hash, starts, sizes), sizes, reasons, capitals, acronym, function & (words > 0))


def _chains(hashes: Hashes, starts: Ints, sizes: Ints) -> Hashes:
    chains = np.zeros((len(sizes), MAX_TOKENS), dtype=np.uint64)
    longer = np.flatnonzero(sizes > 0)
    chains[longer, 0] = hashes[starts[longer]]
    for now, after in pairwise(range(MAX_TOKENS)):
        longer = longer[sizes[longer] > after]
        chains[longer, after] = chain(chains[longer, now], hashes[starts[longer] + after])
    return chains


@cache
def _hashes(words: tuple[str, ...]) -> Hashes:
    return np.unique(tokenise(words).hash)
