"""Scores of relation classification as the official scorers compute them; class rows in, as in `finetune.metrics`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from finetune.metrics import PRF, prf

DIRECTED = re.compile(r"^(?P<relation>.+)\((?P<first>e[12]),(?P<second>e[12])\)$")


def micro_without_null(predicted: np.ndarray, gold: np.ndarray, null_row: int | None) -> PRF:
    """TACRED's scorer (Zhang et al. 2017): micro P, R and F1 over every label but the null one.

    An example with null gold and null guess counts nowhere; a wrong guess between two relations costs both precision
    and recall. Precision is 1 where nothing was guessed, recall 0 where nothing was there, as in that scorer.
    null_row: None counts every label.
    """
    null = -1 if null_row is None else null_row
    guessed, there = predicted != null, gold != null
    correct = float((guessed & there & (predicted == gold)).sum())
    precision = correct / float(guessed.sum()) if guessed.any() else 1.0
    return prf(precision, correct / float(there.sum()) if there.any() else 0.0)


def macro_prf(predicted: np.ndarray, gold: np.ndarray) -> PRF:
    """Means of precision, recall and F1 over the classes that occur among gold or predicted (scikit-learn's macro).

    FewRel's figures of the ERNIE paper; the mean of the F1s, not the F1 of the means. A class never predicted has
    precision 0, one never gold has recall 0.
    """
    classes, rows = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    of_gold, of_predicted = rows[: len(gold)], rows[len(gold) :]
    hits = np.bincount(of_gold[of_gold == of_predicted], minlength=len(classes))
    num_gold = np.bincount(of_gold, minlength=len(classes))
    num_predicted = np.bincount(of_predicted, minlength=len(classes))
    precision, recall = hits / np.maximum(num_predicted, 1), hits / np.maximum(num_gold, 1)
    f1 = 2 * hits / (num_gold + num_predicted)
    return PRF(float(precision.mean()), float(recall.mean()), float(f1.mean()))


def semeval_macro(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> PRF:
    """SemEval-2010 Task 8's official figures: (9 + 1)-way with direction, means over the relations without `Other`.

    A relation guessed with the wrong direction is no hit, and stands in the denominators of both its precision and its
    recall. The mean runs over the relations that `names` hold (nine, with the whole data).

    names: label names by row, `Cause-Effect(e1,e2)` or without a direction; those without are left out of the mean.
    """
    relations = sorted({m["relation"] for name in names if (m := DIRECTED.match(name))})
    if not relations:
        return PRF(0.0, 0.0, 0.0)
    number = {relation: row for row, relation in enumerate(relations)}
    of_row = np.array([number[m["relation"]] if (m := DIRECTED.match(name)) else -1 for name in names])
    guessed = of_row[predicted]
    there = np.where(gold >= 0, of_row[np.maximum(gold, 0)], -1)
    count = len(relations)
    right = predicted == gold
    hits = np.bincount(guessed[right & (guessed >= 0)], minlength=count)
    num_guessed = np.bincount(guessed[guessed >= 0], minlength=count)
    num_there = np.bincount(there[there >= 0], minlength=count)
    precision, recall = hits / np.maximum(num_guessed, 1), hits / np.maximum(num_there, 1)
    f1 = 2 * hits / np.maximum(num_guessed + num_there, 1)
    return PRF(float(precision.mean()), float(recall.mean()), float(f1.mean()))
