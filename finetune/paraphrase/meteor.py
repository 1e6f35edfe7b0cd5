"""METEOR (Banerjee & Lavie 2005; Lavie & Agarwal 2007): words matched exactly, by stem, by WordNet synonym."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import snowballstemmer

from kg.errors import InputError
from kg.readers import wordnet

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
"""Weight of recall, sharpness and weight of the penalty for broken order: the values of 2005."""
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
DETACHMENTS = {
    "n": (
        *(("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y"), ("s", "")),
    ),
    "v": (("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("s", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}
"""Endings that morphy(7WN) takes off, by part of speech."""

Matches = Callable[[str, str], bool]
_STEMMER = snowballstemmer.stemmer("porter")


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Porter's stem."""
    return _STEMMER.stemWord(word)


class Synonyms:
    """WordNet's synsets by word, all four parts of speech; a folder with index.noun, index.verb, noun.exc …"""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: default as `kg build --reader wordnet` finds it.

        Raises:
            InputError: no WordNet there.
        """
        folder = Path(folder) if folder is not None else wordnet.locate()
        self._synsets: dict[tuple[str, str], frozenset[str]] = {}
        self._exceptions: dict[tuple[str, str], tuple[str, ...]] = {}
        for name, part in PARTS.items():
            for line in _lines(folder / f"index.{name}"):
                lemma, _, count, *rest = line.split()
                self._synsets[part, lemma] = frozenset(rest[-int(count) :])
            for line in _lines(folder / f"{name}.exc"):
                form, *lemmas = line.split()
                self._exceptions[part, form] = tuple(lemmas)
        self._found = lru_cache(maxsize=100_000)(self._synsets_of)

    def __call__(self, left: str, right: str) -> bool:
        """Whether the two words, or base forms of them, stand in one synset."""
        return not self._found(left).isdisjoint(self._found(right))

    def _synsets_of(self, word: str) -> frozenset[tuple[str, str]]:
        found = set()
        for part in PARTS.values():
            for lemma in self._base_forms(word, part):
                found |= {(part, offset) for offset in self._synsets.get((part, lemma), ())}
        return frozenset(found)

    def _base_forms(self, word: str, part: str) -> set[str]:
        """The word itself, and what its exception list or its endings reduce it to."""
        exceptions = self._exceptions.get((part, word))
        if exceptions:
            return {word, *exceptions}
        endings = DETACHMENTS[part]
        return {word, *(word.removesuffix(old) + new for old, new in endings if word.endswith(old) and word != old)}


def meteor(candidate: Sequence[str], reference: Sequence[str], synonyms: Matches | None) -> float:
    """F of precision and recall of matched words (recall weighs 0.9), less up to half for broken order.

    candidate, reference: lower-cased words. Stages in order: equal words, equal Porter stems, `synonyms(a, b)` (none:
    that stage is left out); within a stage each word of the candidate takes the free word of the reference that keeps
    most of the order: the neighbour of its predecessor's match, else the nearest place.

    >>> round(meteor("the cat sat".split(), "the cat sat".split(), None), 4)
    0.9815
    """
    matches = align(candidate, reference, synonyms)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(candidate), len(matches) / len(reference)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    return mean * (1 - GAMMA * (num_chunks(matches) / len(matches)) ** BETA)


def align(candidate: Sequence[str], reference: Sequence[str], synonyms: Matches | None) -> dict[int, int]:
    """Place in the candidate -> place in the reference, each place at most once."""
    stages: list[Matches] = [lambda a, b: a == b, lambda a, b: stem(a) == stem(b)]
    if synonyms is not None:
        stages.append(synonyms)
    found: dict[int, int] = {}
    free = set(range(len(reference)))
    for same in stages:
        for place, word in enumerate(candidate):
            if place in found:
                continue
            choices = [other for other in free if same(word, reference[other])]
            if choices:
                wanted = found.get(place - 1, place - 1) + 1
                found[place] = min(choices, key=lambda other: (abs(other - wanted), other))
                free.discard(found[place])
    return found


def num_chunks(matches: dict[int, int]) -> int:
    """Runs of matches that are neighbours in both sentences."""
    return sum(matches.get(place - 1, -2) != other - 1 for place, other in matches.items())


def _lines(path: Path) -> list[str]:
    """Lines of a WordNet file without its licence (which is indented)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; METEOR's synonyms need a whole WordNet (Debian's wordnet-base)")
    text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith(" ")]
