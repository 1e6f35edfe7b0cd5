"""A model's answers to encoded examples, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune import metrics
from finetune.data import collate, lengths_of
from finetune.tasks import TaskSpec
from finetune.tasks.schema import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and what they were computed from, in the order of the features.

    metrics: name -> value in [0, 1]. logits: float32 (num_examples, num_labels). labels: gold, int64 (num_examples,)
        of class rows with `metrics.UNSEEN` for a label training never saw, or bool (num_examples, num_labels + extra)
        for a multi-label task, where the extra columns hold labels training never saw.
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
    """float32 (num_examples, num_labels), in the order of `features`; batches run by length, longest first."""
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
        parts.append(output.logits.float().cpu().numpy())
    model.train(was_training)
    sorted_logits = np.concatenate(parts)
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return logits


def gold_labels(features: Sequence[Mapping[str, Any]], *, spec: TaskSpec) -> np.ndarray:
    """Gold labels as `Evaluation.labels` describes them."""
    if not spec.multi_label:
        return np.array([feature["labels"] for feature in features], dtype=np.int64)
    known = np.stack([feature["labels"] for feature in features]).astype(bool)
    num_unseen = np.array([feature["num_unseen_labels"] for feature in features])
    unseen = np.arange(num_unseen.max())[None, :] < num_unseen[:, None]
    return np.hstack([known, unseen])


def predictions(logits: np.ndarray, *, spec: TaskSpec) -> np.ndarray:
    """Class rows (num_examples,), the lowest among equal logits; or booleans (num_examples, num_labels), logit > 0."""
    return logits > 0 if spec.multi_label else logits.argmax(axis=1)


def scores(logits: np.ndarray, labels: np.ndarray, *, spec: TaskSpec) -> dict[str, float]:
    """Every metric of the task's kind, the primary one among them."""
    predicted = predictions(logits, spec=spec)
    if not spec.multi_label:
        return {
            "accuracy": metrics.accuracy(predicted, labels),
            "macro_f1": metrics.macro_f1(predicted, labels),
        }
    predicted = widen(predicted, labels)
    micro = metrics.loose_micro(predicted, labels)
    return {
        "strict_accuracy": metrics.strict_accuracy(predicted, labels),
        "loose_micro_f1": micro.f1,
        "loose_micro_precision": micro.precision,
        "loose_micro_recall": micro.recall,
        "loose_macro_f1": metrics.loose_macro(predicted, labels).f1,
        "loose_macro_over_all_f1": metrics.loose_macro_over_all(predicted, labels).f1,
    }


def widen(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predictions with as many columns as the gold labels: a label training never saw is never predicted."""
    extra = labels.shape[1] - predicted.shape[1]
    return np.pad(predicted, ((0, 0), (0, extra)))


def primary_score(spec: TaskSpec) -> Callable[[np.ndarray, np.ndarray], float]:
    """The task's primary metric as a function of (predicted, gold), for intervals."""
    chosen: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "strict_accuracy": metrics.strict_accuracy,
        "loose_micro_f1": lambda predicted, gold: metrics.loose_micro(predicted, gold).f1,
        "loose_macro_f1": lambda predicted, gold: metrics.loose_macro(predicted, gold).f1,
    }
    return chosen[spec.primary_metric]


def without_entities(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The feature with its entities taken away, its text and marks as they are."""
    none = np.zeros(0, dtype=np.int64)
    return {**feature, "entity_ids": none, "entity_positions": none}


def prediction_records(
    examples: Sequence[Example], logits: np.ndarray, *, names: Sequence[str], spec: TaskSpec
) -> Iterator[dict[str, Any]]:
    """One JSON object an example: id, what was predicted with its probabilities, and the gold answer where known.

    Single label: `predicted` and the softmax `probability` of it. Several: `predicted` is a list, `probabilities`
    holds the sigmoid of each.
    """
    for example, row in zip(examples, logits.astype(np.float64), strict=True):
        record: dict[str, Any] = {"id": example.id}
        if spec.multi_label:
            chosen = np.flatnonzero(row > 0).tolist()
            record["predicted"] = [names[label] for label in chosen]
            record["probabilities"] = [round(float(1 / (1 + np.exp(-row[label]))), 6) for label in chosen]
            gold = list(example.labels) if example.labels is not None else None
        else:
            best = int(row.argmax())
            record["predicted"] = names[best]
            record["probability"] = round(float(1 / np.exp(row - row[best]).sum()), 6)
            gold = example.label
        yield record if gold is None else {**record, "gold": gold}
