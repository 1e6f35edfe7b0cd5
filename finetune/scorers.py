"""Every way a task is scored, in one table.

A scorer takes predictions, gold labels and the label names by row, and gives figures by name. Class rows are int64
(num_examples,), with `metrics.UNSEEN` for a label training never saw; several labels a bool matrix; numbers float64;
tagged words an object array of one array of rows a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune import metrics
from finetune.relation_metrics import macro_prf, micro_without_null, semeval_macro
from finetune.sequence_metrics import binary_f1, chunk_scores, matthews, pearson, spearman
from finetune.tasks.spec import null_label

Figures = dict[str, float]
Compute = Callable[[np.ndarray, np.ndarray, Sequence[str]], Figures]


@dataclass(frozen=True, slots=True)
class Scorer:
    """primary: the figure dev chooses by. problem_type: the kind of answers it takes. summary: for tables."""

    compute: Compute
    primary: str
    problem_type: str
    summary: str


def single_label(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    found = macro_prf(predicted, gold)
    return {
        "accuracy": metrics.accuracy(predicted, gold),
        "macro_f1": found.f1,
        "macro_precision": found.precision,
        "macro_recall": found.recall,
    }


def types(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    micro = metrics.loose_micro(predicted, gold)
    return {
        "strict_accuracy": metrics.strict_accuracy(predicted, gold),
        "loose_micro_f1": micro.f1,
        "loose_micro_precision": micro.precision,
        "loose_micro_recall": micro.recall,
        "loose_macro_f1": metrics.loose_macro(predicted, gold).f1,
        "loose_macro_over_all_f1": metrics.loose_macro_over_all(predicted, gold).f1,
    }


def relation_micro(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    null = null_label(names)
    found = micro_without_null(predicted, gold, None if null is None else list(names).index(null))
    return {
        "micro_f1": found.f1,
        "micro_precision": found.precision,
        "micro_recall": found.recall,
        "accuracy": metrics.accuracy(predicted, gold),
    }


def semeval(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    found = semeval_macro(predicted, gold, names)
    return {
        "semeval_macro_f1": found.f1,
        "semeval_macro_precision": found.precision,
        "semeval_macro_recall": found.recall,
        "accuracy": metrics.accuracy(predicted, gold),
    }


def accuracy(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    return {"accuracy": metrics.accuracy(predicted, gold), "macro_f1": metrics.macro_f1(predicted, gold)}


def matthews_correlation(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    return {"matthews": matthews(predicted, gold), "accuracy": metrics.accuracy(predicted, gold)}


def f1_and_accuracy(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    """F1 of the last label, `1` in GLUE's files."""
    return {
        "f1": binary_f1(predicted, gold, len(names) - 1).f1,
        "accuracy": metrics.accuracy(predicted, gold),
    }


def correlation(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    found = {"pearson": pearson(predicted, gold), "spearman": spearman(predicted, gold)}
    return {**found, "pearson_spearman": sum(found.values()) / 2}


def tagged_chunks(predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> Figures:
    found = chunk_scores(predicted, gold, names)
    words = metrics.accuracy(np.concatenate(list(predicted)), np.concatenate(list(gold)))
    return {
        "span_f1": found.f1,
        "span_precision": found.precision,
        "span_recall": found.recall,
        "word_accuracy": words,
    }


SINGLE, MULTI = "single_label_classification", "multi_label_classification"
SCORERS: dict[str, Scorer] = {
    "single_label": Scorer(single_label, "macro_f1", SINGLE, "accuracy, macro P/R/F1 (FewRel)"),
    "types": Scorer(types, "loose_micro_f1", MULTI, "strict accuracy, loose micro, loose macro twice"),
    "relation_micro": Scorer(relation_micro, "micro_f1", SINGLE, "TACRED: micro P/R/F1 without the null label"),
    "semeval": Scorer(semeval, "semeval_macro_f1", SINGLE, "SemEval-2010 Task 8: macro-F1 with direction"),
    "accuracy": Scorer(accuracy, "accuracy", SINGLE, "accuracy (SST-2, MNLI, QNLI, RTE)"),
    "matthews": Scorer(matthews_correlation, "matthews", SINGLE, "Matthews' correlation (CoLA)"),
    "f1_and_accuracy": Scorer(f1_and_accuracy, "f1", SINGLE, "F1 of the positive class (MRPC, QQP)"),
    "correlation": Scorer(correlation, "pearson_spearman", "regression", "Pearson and Spearman (STS-B)"),
    "chunks": Scorer(tagged_chunks, "span_f1", "token_classification", "F1 of whole chunks (CoNLL)"),
}
"""By name; `primary` is the figure dev chooses by, higher is better."""
