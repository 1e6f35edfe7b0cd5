"""The matcher against a slow oracle that walks characters and tries every alias at every token."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from entity_linking import characters as characters_module
from entity_linking.alias_table import AliasTable
from entity_linking.characters import SENTENCE_ENDS
from entity_linking.matcher import AliasMatcher
from entity_linking.normalise import fold, fold_character
from entity_linking.policy import ADJECTIVES, FUNCTION_WORDS, numerals
from entity_linking.tokens import (
    ALL_UPPER,
    BREAK,
    HAS_UPPER,
    HYPHEN_BEFORE,
    IS_WORD,
    SENTENCE_START,
    WHOLE_END,
    WHOLE_START,
    tokenise,
)

PIECES = st.sampled_from(
    [
        *(
            "New",
            "new",
            "York",
            "YORK",
            "City",
            "dog",
            "dogs",
            "Dog's",
            "US",
            "us",
            "May",
            "may",
            "it",
            "don't",
            "O'Brien",
        ),
        *(" ", " ", " ", "-", "–", "\n", "\n\n", ". ", ", ", "'", "'s", "’s", "(", "&", "\r\n"),
        *(
            "é",
            "e\u0301",
            "İ",
            "ß",
            "ﬁ",
            "½",
            "\u200d",
            "\ufe0f",
            "\x00",
            "😀",
            "👩🏽‍🚀",
            "東京",
            "東",
            "トヨタ",
            "の",
            "שלום",
            "\u202e",
            "각",
            "\ud800",
        ),
        *("X", "12", "xiv", "1990s", "A", "T"),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.characters()), max_size=25).map("".join)
ALIASES = st.lists(TEXTS.filter(bool), max_size=12, unique=True)


@dataclass
class Token:
    text: str
    start: int
    end: int
    whole_start: bool
    whole_end: bool
    original: str
    hyphen_before: bool = False
    sentence_start: bool = True
    breaks: bool = True

    @property
    def has_upper(self) -> bool:
        return any(unicodedata.category(c) in ("Lu", "Lt") for c in self.original)

    @property
    def all_upper(self) -> bool:
        return self.has_upper and not any(unicodedata.category(c) == "Ll" for c in self.original)

    @property
    def is_word(self) -> bool:
        return kind(self.text[0]) in ("word", "ideograph") or len(self.text) > 1


def kind(c: str) -> str:
    if c == "-":
        return "space"
    if c == "'":
        return "apostrophe"
    if c in "\n\v\f\x85\u2028\u2029":
        return "newline"
    code = ord(c)
    looked_up = code < 0x20000 or 0xE0000 <= code < 0xE01F0
    if unicodedata.category(c)[0] in "ZC" and not 0xD800 <= code < 0xF900 and looked_up:
        return "space"
    if 0x3040 <= code < 0x30A0 or 0x3400 <= code < 0xA000 or code == 0x3005 or 0x20000 <= code < 0x40000:
        return "ideograph"
    if 0xD800 <= code < 0xF900 or code >= 0xF0000:
        return "single"
    return "word" if not looked_up or unicodedata.category(c)[0] in "LNM" else "single"


def characters(text: str) -> list[tuple[str, int, int, bool, bool]]:
    """(folded character, start, end, first of its original, last of it)."""
    out: list[tuple[str, int, int, bool, bool]] = []
    for i, c in enumerate(text):
        folded = fold_character(c)
        if not folded and unicodedata.category(c) == "Mn" and out and out[-1][2] == i:
            start = out[-1][1]
            out = [(f, s, i + 1 if s == start else e, *flags) for f, s, e, *flags in out]
        out += [(f, i, i + 1, k == 0, k == len(folded) - 1) for k, f in enumerate(folded)]
    return out


def slow_tokens(text: str) -> list[Token]:
    chars = characters(text)
    kinds = [kind(c) for c, *_ in chars] + ["space"] * 3
    spans: list[tuple[int, int]] = []
    i = 0
    while i < len(chars):
        if kinds[i] == "word":
            j = i + 1
            while kinds[j] == "word" or (
                kinds[j] == "apostrophe" and kinds[j - 1] == "word" and kinds[j + 1] == "word"
            ):
                possessive = (
                    kinds[j] == "apostrophe" and chars[j + 1][0] == "s" and kinds[j + 2] not in ("word", "apostrophe")
                )
                if possessive:
                    spans += [(i, j)]
                    i, j = j, j + 2
                    break
                j += 1
            spans.append((i, j))
            i = j
        else:
            if kinds[i] in ("single", "apostrophe", "ideograph"):
                spans.append((i, i + 1))
            i += 1
    tokens = []
    for n, (a, b) in enumerate(spans):
        start, end = chars[a][1], chars[b - 1][2]
        token = Token("".join(c[0] for c in chars[a:b]), start, end, chars[a][3], chars[b - 1][4], text[start:end])
        if n:
            gap = range(spans[n - 1][1], a)
            token.breaks = sum(kinds[g] == "newline" for g in gap) >= 2
            token.hyphen_before = len(gap) == 1 and chars[gap[0]][0] == "-"
            token.sentence_start = token.breaks or chars[spans[n - 1][0]][0] in SENTENCE_ENDS
        tokens.append(token)
    return tokens


def slow_find(text: str, aliases: list[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    numbers = set(numerals())
    readings: dict[tuple[str, ...], list[list[Token]]] = {}
    for alias in aliases:
        tokens = slow_tokens(alias)
        words = [t.text for t in tokens if t.is_word]
        numeral = all(
            w in numbers or all(unicodedata.category(c)[0] == "N" for t in tokens if t.text == w for c in t.original)
            for w in words
        )
        lower = not any(t.has_upper for t in tokens)
        bad = not words or numeral or len(tokens) > 16 or any(t.breaks for t in tokens[1:])
        bad |= len(tokens) == 1 and len(words[0]) == 1 if words else False
        bad |= lower and len(tokens) == 1 and tokens[0].text in ADJECTIVES
        if not bad and not (lower and all(w in FUNCTION_WORDS for w in words)):
            readings.setdefault(tuple(t.text for t in tokens), []).append(tokens)
    tokens, found, i = slow_tokens(text), [], 0
    while i < len(tokens):
        size = next((n for n in range(16, 0, -1) if fits(tokens, i, n, readings)), 0)
        if size:
            last = tokens[i + size - 1]
            found.append((tokens[i].start, last.end, tuple(t.text for t in tokens[i : i + size])))
        i += max(size, 1)
    return found


def fits(tokens: list[Token], i: int, n: int, readings: dict[tuple[str, ...], list[list[Token]]]) -> bool:
    span = tokens[i : i + n]
    if len(span) < n or not span[0].whole_start or not span[-1].whole_end or any(t.breaks for t in span[1:]):
        return False
    rows = readings.get(tuple(t.text for t in span), [])
    upper = sum(t.has_upper for t in span)
    short = n == 1 and 2 <= len(span[0].text) <= 4
    acronym = bool(rows) and short and all(row[0].all_upper for row in rows)
    if not rows or upper < min(sum(t.has_upper for t in row) for row in rows):
        return False
    if acronym and not span[0].all_upper:
        return False
    if n == 1 and span[0].text in FUNCTION_WORDS and not acronym and (span[0].sentence_start or len(span[0].text) <= 2):
        return False
    glued = span[0].hyphen_before or (i + n < len(tokens) and tokens[i + n].hyphen_before)
    return not (glued and upper == 0)


@st.composite
def aliases_and_text(draw: st.DrawFn) -> tuple[list[str], str]:
    """Aliases, and a text that holds several of them."""
    aliases = draw(ALIASES)
    pieces = st.one_of(PIECES, st.characters(), st.sampled_from(aliases) if aliases else PIECES)
    return aliases, "".join(draw(st.lists(pieces, max_size=25)))


@given(st.lists(TEXTS, max_size=4))
@example(["x" * 300 + " 7", "O'Brien's ½'s", "", "'s -a", "a-\n\nb\u0301"])
@settings(max_examples=250, deadline=None)
def test_tokens_are_those_that_a_slow_reader_cuts(texts: list[str]) -> None:
    """They are summed up without looking: a wrong mask glues tokens together, or takes a flag from its neighbour."""
    tokens = tokenise(texts)
    slow = [(number, token) for number, text in enumerate(texts) for token in slow_tokens(text)]
    assert tokens.document.tolist() == [number for number, _ in slow]
    assert list(zip(tokens.start.tolist(), tokens.end.tolist())) == [(token.start, token.end) for _, token in slow]
    assert [tokens.text_of(i, 1) for i in range(len(tokens))] == [token.text for _, token in slow]
    kinds = {
        BREAK: "breaks", WHOLE_START: "whole_start", WHOLE_END: "whole_end", IS_WORD: "is_word", HAS_UPPER: "has_upper",
        ALL_UPPER: "all_upper", HYPHEN_BEFORE: "hyphen_before", SENTENCE_START: "sentence_start",
    }  # fmt: skip
    for flag, name in kinds.items():
        assert tokens.has(flag).tolist() == [getattr(token, name) for _, token in slow], name


@given(st.lists(TEXTS, max_size=4))
@example(["½" * 40 + "a\u0301", "\u200d" * 9, "ﷺ ﷺ"])
@settings(max_examples=50, deadline=None)
def test_texts_of_many_odd_characters_are_looked_up_again_with_room(texts: list[str]) -> None:
    """What is written beyond the room is another array's memory."""
    whole = tokenise(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(characters_module, "ROOM", 1)
        again = tokenise(texts)
    for name in ("document", "start", "end", "hash", "length", "flags"):
        assert getattr(again, name).tolist() == getattr(whole, name).tolist(), name


@given(aliases_and_text())
@example((["New", "New\U000e0080"], "New\U000e0080"))
@settings(max_examples=250, deadline=None)
def test_finds_what_the_slow_oracle_finds(drawn: tuple[list[str], str]) -> None:
    """A hash or mask off by one loses or shifts a few mentions in a million, which no average would show."""
    aliases, text = drawn
    matcher = AliasMatcher(AliasTable.from_aliases(aliases, plurals=False))
    found = [(m.start, m.end, tuple(m.alias.split(" "))) for m in matcher.find(text)]
    assert found == slow_find(text, aliases)


@given(aliases_and_text())
@settings(max_examples=200, deadline=None)
def test_every_mention_folds_to_its_alias(drawn: tuple[list[str], str]) -> None:
    """The offset contract: text[start:end] is the mention, whatever the characters around it."""
    aliases, text = drawn
    for mention in AliasMatcher(AliasTable.from_aliases(aliases)).find(text):
        surface = tokenise([text[mention.start : mention.end]])
        assert surface.text_of(0, len(surface)) == mention.alias
        assert fold(mention.alias) == mention.alias


@given(ALIASES, st.lists(TEXTS, max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_text_is_matched_alike_alone_and_in_a_batch(aliases: list[str], texts: list[str]) -> None:
    """Matches reaching over the seam of two texts would appear only at some shard sizes."""
    matcher = AliasMatcher(AliasTable.from_aliases(aliases))
    table = matcher.detect(texts)
    together = list(zip(table.document.tolist(), table.start.tolist(), table.end.tolist()))
    alone = [(i, m.start, m.end) for i, text in enumerate(texts) for m in matcher.find(text)]
    assert together == alone


@pytest.mark.parametrize(
    ("text", "surfaces"),
    [
        ("The dog's bone", ["dog"]),
        ("two dogs, three cities", ["dogs", "cities"]),
        ("In New\nYork City-based firms", ["New\nYork City"]),
        ("New\n\nYork", []),
        ("tell us of the US", ["US"]),
        ("In May it may rain. May day.", ["May"]),
        ("a new york dog", ["dog"]),
        ("hot-dog stand", []),
        ("AT & T and at&t", ["AT & T"]),
        ("Müller, MULLER, muller", ["Müller", "MULLER"]),
        ("cafe\u0301\u0327s", ["cafe\u0301\u0327s"]),
        ("dogma underdog", []),
    ],
)
def test_spelling_decides_which_mentions_count(text: str, surfaces: list[str]) -> None:
    """Too lax links every "us" to a country; too strict loses possessives, plurals and line breaks."""
    aliases = ["dog", "city", "New York", "New York City", "US", "May", "AT&T", "Muller", "café", "it", "in"]
    matcher = AliasMatcher(AliasTable.from_aliases(aliases))
    assert [text[m.start : m.end] for m in matcher.find(text)] == surfaces


def test_aliases_that_are_no_names_are_counted_by_reason() -> None:
    """An alias left out in silence is an entity that is never linked, with nothing to show why."""
    aliases = ["x", "major", "...", "1984", "XIV", "it", "a\n\nb", " ".join("abcdefghijklmnopqrs"), "", "bone"]
    table = AliasTable.from_aliases(aliases)
    assert table.dropped == {
        "alias_one_letter": 1,
        "alias_without_word": 2,
        "alias_number": 2,
        "alias_function_word": 1,
        "alias_adjective": 1,
        "alias_with_empty_line": 1,
        "alias_too_long": 1,
    }
    assert AliasTable.from_aliases(["1984"], numbers=True).num_keys == 1


def test_scripts_without_spaces_match_inside_a_run_and_can_be_switched_off() -> None:
    """Words that no blank parts would be found only where a sentence happens to hold one alone."""
    aliases = ["北京", "北京大学", "東京", "トヨタ", "한국", "ไทย", "東"]
    text = "我在北京大学读书，北京很大。東京のトヨタ自動車、トヨタマ。한국 ไทย"
    found = [text[m.start : m.end] for m in AliasMatcher(AliasTable.from_aliases(aliases)).find(text)]
    assert found == ["北京大学", "北京", "東京", "トヨタ", "한국", "ไทย"]  # katakana run on: another word
    spaced = AliasTable.from_aliases(aliases, cjk=False)
    assert spaced.dropped == {"alias_without_spaces": 4}
    assert [text[m.start : m.end] for m in AliasMatcher(spaced).find(text)] == ["トヨタ", "한국", "ไทย"]


def test_an_empty_table_and_hostile_texts_find_nothing_and_do_not_fail() -> None:
    """Edge shapes: no aliases, no tokens, one token of a million letters, thousands of overlapping starts."""
    assert AliasMatcher(AliasTable.from_aliases([])).find("some text") == []
    matcher = AliasMatcher(AliasTable.from_aliases(["ab ab", "ab"]))
    for text in ("", " ", "\x00", "a" * 1_000_000, "\u200d" * 1000, "\u0301"):
        assert matcher.find(text) == []
    assert len(matcher.find("ab " * 20_001)) == 10_001
