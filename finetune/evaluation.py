"""A model's answers to encoded examples, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.data import collate, lengths_of
from finetune.scorers import SCORERS
from finetune.tasks import TaskSpec
from finetune.tasks.schema import WORD, Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and what they were computed from, in the order of the features.

    metrics: name -> value, in [0, 1] but for correlations. logits: float32 (num_examples, num_labels); of tagged words
        an object array of (num_words, num_labels) a sentence. labels: gold, int64 (num_examples,) of class rows with
        `metrics.UNSEEN` for a label training never saw; bool (num_examples, num_labels + extra) for a multi-label task,
        where the extra columns hold labels training never saw; float64 (num_examples,) of a regression; an object
        array of one array of rows a sentence for tagged words.
    """

    metrics: dict[str, float]
    logits: np.ndarray
    labels: np.ndarray


def evaluate(
    model: nn.Module,
    features: Sequence[Mapping[str, Any]],
    *,
    spec: TaskSpec,
    batch_size: int,
    pad_token_id: int,
) -> Evaluation:
    """Scores `features` (from `data.encode_examples`); the model's train/eval mode is put back afterwards."""
    logits = predict_logits(model, features, batch_size=batch_size, pad_token_id=pad_token_id)
    labels = gold_labels(features, spec=spec)
    return Evaluation(metrics=scores(logits, labels, spec=spec), logits=logits, labels=labels)


@torch.no_grad()
def predict_logits(
    model: nn.Module, features: Sequence[Mapping[str, Any]], *, batch_size: int, pad_token_id: int
) -> np.ndarray:
    """float32 (num_examples, num_labels), in the order of `features`; batches run by length, longest first.

    Features with `word_positions` give an object array instead: (num_words, num_labels) a sentence. A word beyond the
    cut (position -1) answers with label row 0 there, alone at 1.
    """
    assert features, "nothing to predict; the caller refuses an empty split"
    device = next(model.parameters()).device
    order = np.argsort([-n for n in lengths_of(features)], kind="stable")
    was_training = model.training
    model.eval()
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([features[row] for row in rows], pad_token_id=pad_token_id)
        batch.pop("labels", None)
        output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
        found = output.logits.float().cpu().numpy()
        parts += [found] if found.ndim == 2 else [_of_words(found, [features[row] for row in rows])]
    model.train(was_training)
    sorted_logits = np.concatenate(parts)
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return logits


def _of_words(logits: np.ndarray, features: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(batch, seq_len, num_labels) of pieces to those of each word's first piece."""
    rows = []
    for of_pieces, feature in zip(logits, features, strict=True):
        positions = np.asarray(feature["word_positions"])
        found = of_pieces[np.maximum(positions, 0)]
        found[positions < 0] = np.eye(1, logits.shape[-1], dtype=found.dtype)
        rows.append(found)
    return ragged(rows)


def gold_labels(features: Sequence[Mapping[str, Any]], *, spec: TaskSpec) -> np.ndarray:
    """Gold labels as `Evaluation.labels` describes them."""
    if spec.of_tokens:
        return ragged([np.asarray(feature["word_labels"], dtype=np.int64) for feature in features])
    if spec.problem_type == "regression":
        return np.array([feature["labels"] for feature in features], dtype=np.float64)
    if not spec.multi_label:
        return np.array([feature["labels"] for feature in features], dtype=np.int64)
    known = np.stack([feature["labels"] for feature in features]).astype(bool)
    num_unseen = np.array([feature["num_unseen_labels"] for feature in features])
    unseen = np.arange(num_unseen.max())[None, :] < num_unseen[:, None]
    return np.hstack([known, unseen])


def predictions(logits: np.ndarray, *, spec: TaskSpec) -> np.ndarray:
    """What the logits say, as `finetune.scorers` takes it.

    Class rows (num_examples,), the lowest among equal logits; booleans (num_examples, num_labels), logit > 0, and the
    likeliest always where the spec has the arg-max fallback; numbers (num_examples,); or rows of the words of each
    example.
    """
    if spec.of_tokens:
        return ragged([rows.argmax(axis=1) for rows in logits])
    if spec.problem_type == "regression":
        return logits[:, 0].astype(np.float64)
    if not spec.multi_label:
        return logits.argmax(axis=1)
    chosen = logits > 0
    if spec.argmax_fallback:
        chosen[np.arange(len(logits)), logits.argmax(axis=1)] = True
    return chosen


def scores(logits: np.ndarray, labels: np.ndarray, *, spec: TaskSpec) -> dict[str, float]:
    """Every figure of the task's scorer, the primary one among them."""
    return score_predictions(predictions(logits, spec=spec), labels, spec=spec)


def score_predictions(predicted: np.ndarray, labels: np.ndarray, *, spec: TaskSpec) -> dict[str, float]:
    """As `scores`, of predictions."""
    if spec.multi_label:
        predicted = widen(predicted, labels)
    return SCORERS[spec.scorer].compute(predicted, labels, spec.label_names)


def widen(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predictions with as many columns as the gold labels: a label training never saw is never predicted."""
    extra = labels.shape[1] - predicted.shape[1]
    return np.pad(predicted, ((0, 0), (0, extra)))


def answers(logits: np.ndarray, labels: np.ndarray, *, spec: TaskSpec) -> np.ndarray:
    """`predictions`, with as many columns as the gold labels where several labels hold."""
    predicted = predictions(logits, spec=spec)
    return widen(predicted, labels) if spec.multi_label else predicted


def primary_score(spec: TaskSpec) -> Callable[[np.ndarray, np.ndarray], float]:
    """The task's primary metric as a function of (predicted, gold), for intervals."""
    return lambda predicted, gold: score_predictions(predicted, gold, spec=spec)[spec.primary_metric]


def ragged(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of different length as one object array (num_examples,), which fancy indices take apart."""
    out = np.empty(len(rows), dtype=object)
    out[:] = list(rows)
    return out


def without_entities(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The feature with its entities taken away, its text and marks as they are."""
    none = np.zeros(0, dtype=np.int64)
    return {**feature, "entity_ids": none, "entity_positions": none}


def prediction_records(
    examples: Sequence[Example], logits: np.ndarray, *, names: Sequence[str], spec: TaskSpec
) -> Iterator[dict[str, Any]]:
    """One JSON object an example: id, what was predicted with its probabilities, and the gold answer where known.

    Single label: `predicted` and the softmax `probability` of it. Several: `predicted` is a list, `probabilities`
    holds the sigmoid of each. Tagged words: both are lists, one entry a word. A number: `predicted` alone.
    """
    for example, row in zip(examples, logits, strict=True):
        record: dict[str, Any] = {"id": example.id}
        gold: Any = None
        if spec.of_tokens:
            words = [span for span in example.spans if span.role == WORD]
            record["predicted"] = [names[label] for label in row.argmax(axis=1)]
            record["probabilities"] = [round(_softmax_of_best(word), 6) for word in row.astype(np.float64)]
            gold = [span.type for span in words] if all(span.type for span in words) else None
        elif spec.multi_label:
            chosen = np.flatnonzero(predictions(row[None], spec=spec)[0]).tolist()
            record["predicted"] = [names[label] for label in chosen]
            record["probabilities"] = [round(float(1 / (1 + np.exp(-float(row[label])))), 6) for label in chosen]
            gold = list(example.labels) if example.labels is not None else None
        elif spec.problem_type == "regression":
            record["predicted"] = round(float(row[0]), 6)
            gold = example.value
        else:
            record["predicted"] = names[int(row.argmax())]
            record["probability"] = round(_softmax_of_best(row.astype(np.float64)), 6)
            gold = example.label
        yield record if gold is None else {**record, "gold": gold}


def _softmax_of_best(row: np.ndarray) -> float:
    return float(1 / np.exp(row - row.max()).sum())
