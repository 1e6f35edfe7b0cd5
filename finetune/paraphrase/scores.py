"""What a list of paraphrases is worth by counting words: ROUGE, BLEU, iBLEU, overlap with the source, variety.

A sentence is a list of words (`words`). Every score lies in 0 … 1, higher is better for all but `self_bleu` and
`source_overlap`, which say how much was merely copied.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Words = Sequence[str]
WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks.

    >>> words("What's up?")
    ['what', "'", 's', 'up', '?']
    """
    return WORD.findall(text.lower())


def ngrams(sentence: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def rouge_n(candidate: Words, reference: Words, n: int) -> float:
    """F1 of the n-grams two sentences share, each counted as often as both have it (Lin 2004); 0 where one has none.

    >>> rouge_n("the cat sat".split(), "the cat ran off".split(), 1)
    0.5714285714285714
    """
    left, right = ngrams(candidate, n), ngrams(reference, n)
    return _f1((left & right).total(), left.total(), right.total())


def rouge_l(candidate: Words, reference: Words) -> float:
    """F1 of the longest common subsequence (Lin 2004, with beta = 1)."""
    return _f1(longest_common_subsequence(candidate, reference), len(candidate), len(reference))


def longest_common_subsequence(left: Sequence[object], right: Sequence[object]) -> int:
    row = [0] * (len(right) + 1)
    for item in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            above = row[column]
            row[column] = diagonal + 1 if item == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def bleu(candidates: Sequence[Words], references: Sequence[Words], *, max_order: int = 4) -> float:
    """Corpus BLEU with one reference a candidate (Papineni et al. 2002): clipped precisions of orders 1 … max_order
    over the whole list, their geometric mean times the brevity penalty; 0 where an order has no match.
    """
    assert len(candidates) == len(references), "one reference a candidate"
    matched, total = np.zeros(max_order), np.zeros(max_order)
    for candidate, reference in zip(candidates, references, strict=True):
        for order in range(1, max_order + 1):
            own = ngrams(candidate, order)
            matched[order - 1] += (own & ngrams(reference, order)).total()
            total[order - 1] += own.total()
    if not matched.all():
        return 0.0
    length, wanted = sum(map(len, candidates)), sum(map(len, references))
    brevity = min(1.0, math.exp(1 - wanted / length))
    return brevity * math.exp(float(np.log(matched / total).mean()))


def ibleu(candidates: Sequence[Words], references: Sequence[Words], sources: Sequence[Words], *, alpha: float) -> float:
    """alpha BLEU(candidate, reference) - (1 - alpha) BLEU(candidate, source), orders 1 … 4 (Sun & Zhou 2012, eq. 5).

    It may be negative. alpha: in 0 … 1; papers use 0.9 or 0.8, and figures of two alphas say nothing to each other.
    """
    return alpha * bleu(candidates, references) - (1 - alpha) * bleu(candidates, sources)


def source_overlap(candidate: Words, source: Words) -> float:
    """Mean of the shares of the candidate's 1-, 2-, 3- and 4-grams that the source has too; 1 for a copy.

    Orders that the candidate is too short for are left out; an empty candidate overlaps with nothing: 0.
    """
    shares = []
    for order in range(1, 5):
        own, there = ngrams(candidate, order), ngrams(source, order)
        if own:
            shares.append((own & there).total() / own.total())
    return float(np.mean(shares)) if shares else 0.0


def distinct_n(candidates: Iterable[Words], n: int) -> float:
    """Different n-grams over all n-grams of the whole list (Li et al. 2016)."""
    counts: Counter[tuple[str, ...]] = Counter()
    for candidate in candidates:
        counts += ngrams(candidate, n)
    return len(counts) / counts.total() if counts else 0.0


def edit_distance(left: Sequence[object], right: Sequence[object]) -> int:
    """Fewest insertions, deletions and replacements (Levenshtein)."""
    return int(edit_distances(left, right)[-1, -1])


def edit_distances(left: Sequence[object], right: Sequence[object]) -> npt.NDArray[np.int64]:
    """Levenshtein distance of every prefix of `left` to every prefix of `right`, (len(left) + 1, len(right) + 1)."""
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=np.int64)
    table[0] = np.arange(len(right) + 1)
    steps = np.arange(len(right) + 1)
    for row, item in enumerate(left, start=1):
        replaced = table[row - 1, :-1] + np.array([item != other for other in right], dtype=np.int64)
        best = np.concatenate([[row], np.minimum(replaced, table[row - 1, 1:] + 1)])
        table[row] = np.minimum.accumulate(best - steps) + steps  # insertions along the row, all at once
    return table


def _f1(shared: int, in_candidate: int, in_reference: int) -> float:
    return 2 * shared / (in_candidate + in_reference) if shared else 0.0
