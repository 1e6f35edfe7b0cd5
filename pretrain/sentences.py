"""Sentences by rule: exact offsets, no model."""

from __future__ import annotations

import re

BREAK = re.compile(
    r"""
    (?P<stop> [.!?…]+ ) [)\]"'”’»]*          # closing marks belong to the sentence they close
    (?P<gap> \s+ ) (?= [(\["'“‘«¿¡]* [^\W_a-z] )  # what follows opens with a capital, a digit or a letter without case
    | [。！？]+ [」』”’]*                      # full-width stops need no space
    | \n+                                      # a line break always ends a sentence
    """,
    re.VERBOSE,
)
ABBREVIATION = re.compile(r"(?:^|[\s(\[\"'“‘])(?P<word>[^\s(\[\"'“‘]+)\.$")
TITLES_AND_SHORTENINGS = """
    mr mrs ms dr prof st sr jr rev hon gen col capt lt sgt maj gov sen rep pres mt ft ed eds vs cf al etc approx
    e.g i.e a.k.a inc ltd co corp bros dept univ u.s u.k ph.d
"""
ABBREVIATIONS = frozenset(TITLES_AND_SHORTENINGS.split())
"""Words, without their last stop, that seldom end a sentence."""
NUMBERED = "no nos vol pp p fig b d r c ca fl jan feb mar apr jun jul aug sep sept oct nov dec"
BEFORE_NUMBERS = frozenset(NUMBERED.split())
"""Words that seldom end a sentence when a number follows."""


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin, white space before them included, in order; the first is 0.

    A stop after an abbreviation or a single capital (`J. Smith`) ends nothing.
    """
    starts = [0]
    for found in BREAK.finditer(text):
        if found["stop"] != "." or not _is_abbreviation(text, found.end("stop"), found.end()):
            starts.append(found.end())
    return starts


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Sentences as (start, end) code points, in order, without the white space between them.

    Every character that is not white space lies in exactly one sentence; an empty text has no sentence.

    >>> text = "Dr. Ada Lovelace met C. Babbage. She wrote notes!  'They run.' 3 copies survive."
    >>> [text[start:end] for start, end in split_sentences(text)]
    ['Dr. Ada Lovelace met C. Babbage.', 'She wrote notes!', "'They run.'", '3 copies survive.']
    """
    starts = sentence_starts(text)
    spans = (_trim(text, start, end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return [(start, end) for start, end in spans if start < end]


def _is_abbreviation(text: str, stop: int, following: int) -> bool:
    """Whether the stop that ends at `stop` belongs to the word before it; `following`: where the next word begins."""
    found = ABBREVIATION.search(text[max(0, stop - 24) : stop])
    if found is None:
        return False
    word = found["word"]
    if word.lower() in BEFORE_NUMBERS and text[following].isdigit():
        return True
    return word.lower() in ABBREVIATIONS or (len(word) == 1 and word.isupper()) or _is_initials(word)


def _is_initials(word: str) -> bool:
    """`J.R.R` and its like."""
    return "." in word and all(len(part) == 1 and part.isupper() for part in word.split("."))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
