"""Pairs that say different things, for a matching model to learn from: drawn at random, near ones, and broken ones.

| kind | what stands beside the source |
|---|---|
| random | the target of any other pair |
| near | the target of the pair whose source shares most with this one (TF-IDF), from another group of paraphrases |
| swapped | its own target with two words exchanged |
| replaced | its own target with one of its rarer words replaced by one of another target |
| repeated | its own target with a stretch written twice in place of what followed |

Near ones teach what may not differ. The three broken ones teach what a generator that is after a reward will try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ernie.training import keyed_generator
from finetune.paraphrase.pairs import Pair
from kg.errors import InputError

Words = list[str]


def negative_pairs(pairs: Sequence[Pair], kinds: Sequence[str], *, seed: int) -> list[Pair]:
    """One negative a pair and kind, labelled so; a kind that finds none for a pair (too short) gives none.

    pairs: paraphrases. Negatives never join two sentences that a chain of these pairs joins.

    Raises:
        InputError: an unknown kind, or fewer than two groups of paraphrases to draw from.
    """
    unknown = [kind for kind in kinds if kind not in NEGATIVES]
    if unknown:
        raise InputError(f"negatives of kind {unknown[0]!r} are unknown; there are {', '.join(NEGATIVES)}")
    groups = paraphrase_groups(pairs)
    if len(set(groups.values())) < 2:
        raise InputError("negatives need sentences of at least two meanings; all pairs here are one chain")
    found = []
    for kind in kinds:
        generator = keyed_generator(seed, "negatives", kind)
        targets = NEGATIVES[kind](pairs, groups, generator)
        found += [
            Pair(source=pair.source, target=target, is_paraphrase=False)
            for pair, target in zip(pairs, targets, strict=True)
            if target is not None and target.casefold() not in (pair.source.casefold(), pair.target.casefold())
        ]
    return found


def paraphrase_groups(pairs: Sequence[Pair]) -> dict[str, int]:
    """Sentence (case folded) -> number of its group: sentences joined by a chain of pairs."""
    import networkx

    graph = networkx.Graph()
    graph.add_edges_from((pair.source.casefold(), pair.target.casefold()) for pair in pairs)
    components = networkx.connected_components(graph)
    return {sentence: number for number, group in enumerate(components) for sentence in group}


Draw = Callable[[Sequence[Pair], dict[str, int], np.random.Generator], list[str | None]]


def _random(pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator) -> list[str | None]:
    return [_other_target(pair, pairs, groups, generator) for pair in pairs]


def _near(pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator) -> list[str | None]:
    """Nearest source by cosine of TF-IDF vectors, in blocks of 1,000 rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(lowercase=True, token_pattern=r"\w+")
    vectors: Any = weigh.fit_transform([pair.source for pair in pairs])  # a scipy CSR matrix
    group = np.array([groups[pair.source.casefold()] for pair in pairs])
    chosen: list[str | None] = []
    for start in range(0, len(pairs), 1000):
        similarity = np.asarray((vectors[start : start + 1000] @ vectors.T).toarray())
        similarity[group[start : start + 1000, None] == group[None, :]] = -1.0
        best = similarity.argmax(1)
        rows = zip(best.tolist(), similarity.max(1).tolist(), strict=True)
        chosen += [pairs[place].target if score > 0 else None for place, score in rows]
    return chosen


def _swapped(pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator) -> list[str | None]:
    def swap(words: Words) -> Words | None:
        if len(words) < 4:
            return None
        left, right = sorted(generator.choice(len(words), size=2, replace=False).tolist())
        if words[left] == words[right]:
            return None
        return [*words[:left], words[right], *words[left + 1 : right], words[left], *words[right + 1 :]]

    return [_broken(pair.target, swap) for pair in pairs]


def _replaced(pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator) -> list[str | None]:
    counts: dict[str, int] = {}
    for pair in pairs:
        for word in pair.target.casefold().split():
            counts[word] = counts.get(word, 0) + 1

    def replace(words: Words) -> Words | None:
        rare = sorted(range(len(words)), key=lambda place: counts[words[place].casefold()])[: max(1, len(words) // 2)]
        place = int(generator.choice(rare))
        other = pairs[int(generator.integers(len(pairs)))].target.split()
        word = min(other, key=lambda one: counts[one.casefold()])
        return [*words[:place], word, *words[place + 1 :]]

    return [_broken(pair.target, replace) for pair in pairs]


def _repeated(pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator) -> list[str | None]:
    def repeat(words: Words) -> Words | None:
        if len(words) < 4:
            return None
        size = int(generator.integers(1, len(words) // 2 + 1))
        start = int(generator.integers(0, len(words) - size))
        return [*words[: start + size], *words[start : start + size], *words[start + 2 * size :]]

    return [_broken(pair.target, repeat) for pair in pairs]


NEGATIVES: dict[str, Draw] = {
    "random": _random,
    "near": _near,
    "swapped": _swapped,
    "replaced": _replaced,
    "repeated": _repeated,
}


def _other_target(
    pair: Pair, pairs: Sequence[Pair], groups: dict[str, int], generator: np.random.Generator
) -> str | None:
    for _ in range(100):
        other = pairs[int(generator.integers(len(pairs)))]
        if groups[other.target.casefold()] != groups[pair.source.casefold()]:
            return other.target
    return None


def _broken(text: str, change: Callable[[Words], Words | None]) -> str | None:
    changed = change(text.split())
    return None if changed is None else " ".join(changed)
