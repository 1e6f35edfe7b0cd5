"""Official scorers restated: cases by hand, slow restatements under hypothesis, and scikit-learn and scipy."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from finetune.evaluation import predictions, ragged, score_predictions, scores
from finetune.metrics import UNSEEN
from finetune.relation_metrics import macro_prf, micro_without_null, semeval_macro
from finetune.scorers import SCORERS
from finetune.sequence_metrics import binary_f1, chunk_scores, chunks, matthews, pearson, ranks, spearman
from finetune.tasks import TASKS, null_label, with_labels
from finetune.tasks.spec import TaskSpec

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predicted, gold = zip(*pairs)
    return np.array(predicted), np.array(gold)


def tacred_slowly(predicted, gold, null):
    """The official score.py, counter by counter."""
    correct, guessed, there = Counter(), Counter(), Counter()
    for p, g in zip(predicted, gold):
        if g == null and p == null:
            continue
        if g == null:
            guessed[p] += 1
        elif p == null:
            there[g] += 1
        else:
            guessed[p] += 1
            there[g] += 1
            correct[p] += p == g
    precision = sum(correct.values()) / sum(guessed.values()) if sum(guessed.values()) else 1.0
    recall = sum(correct.values()) / sum(there.values()) if sum(there.values()) else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(rows)
def test_tacred_micro_is_the_official_count(pairs):
    """0.88 instead of 0.68 is what users got when another row was the null label."""
    predicted, gold = columns(pairs)
    assert micro_without_null(predicted, gold, 0) == pytest.approx(tacred_slowly(predicted, gold, 0))


def test_tacred_micro_by_hand():
    """Null pairs count nowhere, nothing guessed is precision 1, another null row is another score."""
    gold, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 0, 1, 2])
    assert micro_without_null(predicted, gold, 0) == pytest.approx((2 / 4, 2 / 4, 0.5))
    assert micro_without_null(predicted, gold, None).f1 == pytest.approx(3 / 6)
    assert micro_without_null(np.zeros(3, int), np.zeros(3, int), 0) == (1.0, 0.0, 0.0)
    assert micro_without_null(np.array([1]), np.array([UNSEEN]), 0) == (0.0, 0.0, 0.0)


NAMES = ["A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "B(e2,e1)", "Other"]


def semeval_slowly(predicted, gold):
    """The (9 + 1)-way matrix with its column for a wrong direction (scorer v1.2), relation by relation."""
    found = []
    for relation in "AB":
        of = [name.startswith(f"{relation}(") for name in NAMES]
        hits = sum(p == g for p, g in zip(predicted, gold) if of[g])
        wrong_direction = sum(of[p] and of[g] and p != g for p, g in zip(predicted, gold))
        column = hits + sum(of[p] and not of[g] for p, g in zip(predicted, gold))
        row = sum(of[g] for g in gold)
        precision = hits / (column + wrong_direction) if column + wrong_direction else 0.0
        recall = hits / row if row else 0.0
        found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(found) / 2


@given(rows)
def test_semeval_counts_a_wrong_direction_against_both_sides(pairs):
    """A scorer that merges the directions, or makes eighteen classes of them, gives other figures than the papers'."""
    predicted, gold = columns(pairs)
    assert semeval_macro(predicted, gold, NAMES).f1 == pytest.approx(semeval_slowly(predicted, gold))


def test_semeval_by_hand():
    """A: one hit, one wrong direction, one guess for Other: P 1/3, R 1/2, F1 0.4. B: all right."""
    gold, predicted = np.array([0, 0, 4, 2]), np.array([0, 1, 1, 2])
    assert semeval_macro(predicted, gold, NAMES) == pytest.approx(((1 / 3 + 1) / 2, (1 / 2 + 1) / 2, (0.4 + 1) / 2))
    assert semeval_macro(predicted, gold, ["x"] * 5) == (0.0, 0.0, 0.0)


@given(rows)
def test_single_label_figures_are_scikit_learns(pairs):
    """FewRel's macro F1 is the mean of the classes' F1, not the F1 of the means."""
    predicted, gold = columns(pairs)
    theirs = sklearn.metrics.precision_recall_fscore_support(gold, predicted, average="macro", zero_division=0)
    assert macro_prf(predicted, gold) == pytest.approx(theirs[:3])
    assert matthews(predicted, gold) == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, predicted))
    one = sklearn.metrics.precision_recall_fscore_support(
        gold == 1, predicted == 1, average="binary", zero_division=0, labels=[False, True]
    )
    assert binary_f1(predicted, gold, 1) == pytest.approx(one[:3])


numbers = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)


@given(numbers)
def test_correlations_are_scipys(pairs):
    """Ties share their mean rank; a constant side has no correlation, and gets 0 rather than NaN."""
    predicted, gold = (column.astype(float) for column in columns(pairs))
    assert ranks(predicted).tolist() == scipy.stats.rankdata(predicted).tolist()
    if np.ptp(predicted) and np.ptp(gold):
        assert pearson(predicted, gold) == pytest.approx(scipy.stats.pearsonr(predicted, gold)[0])
        assert spearman(predicted, gold) == pytest.approx(scipy.stats.spearmanr(predicted, gold)[0])
    else:
        assert pearson(predicted, gold) == spearman(predicted, gold) == 0.0


TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def chunks_slowly(sentence: list[int]) -> set[tuple[int, int, str]]:
    """conlleval's start and end of a chunk, from each pair of neighbours."""
    found, begun = set(), None
    tags = [TAGS[row] for row in sentence]
    for place, tag in enumerate([*tags, "O"]):
        before = tags[place - 1] if place else "O"
        same = before[2:] == tag[2:] and before != "O" and tag != "O"
        if before != "O" and (not same or tag[0] == "B"):
            found.add((begun, place, before[2:]))
        if tag != "O" and (not same or tag[0] == "B"):
            begun = place
    return found


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_chunks_begin_and_end_as_in_conlleval(sentence: list[int]):
    """An I- behind another kind begins a chunk; two B- next to each other are two."""
    assert {c[1:] for c in chunks([np.array(sentence)], TAGS)} == chunks_slowly(sentence)


def test_chunks_are_not_joined_across_sentences_and_unseen_tags_are_none():
    """Sentences laid end to end would make one chunk of two."""
    gold = ragged([np.array([1]), np.array([2, 0])])
    assert len(chunks(gold, TAGS)) == 2
    assert chunk_scores(ragged([np.array([1]), np.array([0, 0])]), gold, TAGS) == pytest.approx((1.0, 0.5, 2 / 3))
    assert chunks([np.array([UNSEEN, 1])], TAGS) == {(0, 1, 2, "X")}


ANSWERS = {
    "single_label_classification": (np.array([[0.0, 2, 1], [3, 0, 1]]), np.array([1, 2])),
    "multi_label_classification": (np.array([[1.0, -1, -1], [-1, -2, -3]]), np.array([[1, 0, 1], [0, 1, 0]], bool)),
    "regression": (np.array([[0.5], [2.0]]), np.array([1.0, 2.0])),
    "token_classification": (ragged([np.eye(3)[:2], np.eye(3)[2:]]), ragged([np.array([0, 1]), np.array([2])])),
}


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_has_its_primary_figure_and_finite_numbers(name: str):
    """A primary figure that is not computed would be found when the first evaluation is over."""
    scorer = SCORERS[name]
    logits, gold = ANSWERS[scorer.problem_type]
    spec = TaskSpec(
        name="t",
        model_class_name="x",
        problem_type=scorer.problem_type,  # type: ignore[arg-type]
        markers={},
        primary_metric=scorer.primary,
        scorer=name,
        label_names=("O", "B-X", "I-X"),
    )
    found = scores(logits, gold, spec=spec)
    assert scorer.primary in found
    assert all(np.isfinite(list(found.values())))
    assert score_predictions(predictions(logits, spec=spec), gold, spec=spec) == found


def test_the_argmax_is_added_only_where_it_is_asked_for():
    """FIGER's first implementation always predicts one type, Open Entity's does not."""
    spec = dataclasses.replace(TASKS["entity_typing"], problem_type="multi_label_classification", scorer="types")
    logits = np.array([[-1.0, -0.5, -2.0]])
    assert predictions(logits, spec=spec).sum() == 0
    fallback = dataclasses.replace(spec, argmax_fallback=True)
    assert predictions(logits, spec=fallback).tolist() == [[False, True, False]]


def test_the_null_label_is_found_by_its_name():
    """It is `no_relation`, `NA` or `Other` by the data set, and never row 0 by right."""
    assert null_label(["a", "NA"]) == "NA"
    assert null_label(["Other", "x(e1,e2)"]) == "Other"
    assert null_label(["a", "b"]) is None
    spec = with_labels(TASKS["relation_classification"], ["a", "no_relation"])
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    spec = dataclasses.replace(spec, scorer="relation_micro")
    assert scores(logits, np.array([1, 0]), spec=spec)["micro_f1"] == 1.0
