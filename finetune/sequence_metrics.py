"""Scores of GLUE's tasks and of tagged words, on numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from finetune.metrics import PRF, prf

OUTSIDE = "O"
Chunk = tuple[int, int, int, str]
"""Sentence, first word, word behind the last, kind."""


def matthews(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Matthews' correlation of two class rows, in [-1, 1] (Gorodkin 2004 for more than two classes).

    0 where either side is constant, as scikit-learn has it.
    """
    classes, rows = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (rows[: len(gold)], rows[len(gold) :]), 1)
    total, correct = table.sum(), np.trace(table)
    there, guessed = table.sum(axis=1), table.sum(axis=0)
    spread = (total**2 - (guessed**2).sum()) * (total**2 - (there**2).sum())
    return float((correct * total - there @ guessed) / np.sqrt(spread)) if spread > 0 else 0.0


def binary_f1(predicted: np.ndarray, gold: np.ndarray, positive: int) -> PRF:
    """Precision, recall and F1 of one class."""
    hits = float(((predicted == positive) & (gold == positive)).sum())
    guessed, there = float((predicted == positive).sum()), float((gold == positive).sum())
    return prf(hits / guessed if guessed else 0.0, hits / there if there else 0.0)


def pearson(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Pearson's correlation, in [-1, 1]; 0 where either side is constant (it is not defined there)."""
    x, y = predicted - predicted.mean(), gold - gold.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / spread, -1, 1)) if spread > 0 else 0.0


def spearman(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank; 0 where either side is constant."""
    return pearson(ranks(predicted), ranks(gold))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 1, float64; equal values have their mean rank.

    >>> ranks(np.array([10.0, 20.0, 10.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, rows, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[rows]


def chunk_scores(predicted: Iterable[np.ndarray], gold: Iterable[np.ndarray], names: Sequence[str]) -> PRF:
    """Precision, recall and F1 of whole chunks (CoNLL-2003's measure): borders and kind must all be right.

    predicted, gold: one array of class rows a sentence; a gold row below 0 (a tag training never saw) is outside
    every chunk. names: tags by row.
    """
    guessed, there = chunks(predicted, names), chunks(gold, names)
    hits = float(len(guessed & there))
    return prf(hits / len(guessed) if guessed else 0.0, hits / len(there) if there else 0.0)


def chunks(sentences: Iterable[np.ndarray], names: Sequence[str]) -> set[Chunk]:
    """The chunks that the tags of sentences mark, by conlleval's rules: a chunk begins at B-, or at an I- behind
    another kind or behind nothing; tags without a prefix are chunks by themselves.

    >>> sorted(chunks([np.array([1, 2, 0])], ["O", "B-PER", "I-PER"]))
    [(0, 0, 2, 'PER')]
    """
    found: set[Chunk] = set()
    for number, rows in enumerate(sentences):
        first, kind = 0, ""
        for place, row in enumerate([*rows.tolist(), -1]):
            prefix, name = _split(names[row] if row >= 0 else OUTSIDE)
            if kind and (prefix == "B" or name != kind):
                found.add((number, first, place, kind))
                kind = ""
            if name and not kind:
                first, kind = place, name
    return found


def _split(tag: str) -> tuple[str, str]:
    """(prefix, kind) of a tag; `O` is ("O", "")."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, name = tag.partition("-")
    return (prefix, name) if dash and prefix in ("B", "I") else ("B", tag)
