"""Held-out figures against slow counting, and what the table promises of every objective."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ernie.inputs import IGNORED
from kg.errors import InputError
from pretrain.objectives import OBJECTIVES, HeldOutScores, ObjectiveWeights, count_targets, dea_scores


def dea_case(logits: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None):
    shown = np.ones_like(labels) if mask is None else mask
    batch = {"entity_labels": torch.tensor(labels), "entity_attention_mask": torch.tensor(shown)}
    return SimpleNamespace(entity_logits=torch.tensor(logits)), batch


def test_dea_scores_equal_counting_over_all_orders_of_ties():
    """Ties broken by position score chance as knowledge when the true entity happens to stand first."""
    chance = np.random.default_rng(0)
    logits = chance.integers(0, 3, (4, 5, 6)).astype(np.float64)
    labels = np.where(chance.random((4, 5)) < 0.7, chance.integers(0, 6, (4, 5)), IGNORED)
    mask = chance.integers(0, 2, (4, 5))
    found = dea_scores(*dea_case(logits, labels, mask))
    accuracy, reciprocal, hidden = 0.0, 0.0, [0.0, 0.0, 0]
    for row, label, shown in zip(logits.reshape(-1, 6), labels.ravel(), mask.ravel(), strict=True):
        if label == IGNORED:
            continue
        above, tied = int((row > row[label]).sum()), int((row == row[label]).sum())
        places = [1 / (above + 1 + i) for i in range(tied)]
        right = (1 / tied) if above == 0 else 0.0
        accuracy += right
        reciprocal += sum(places) / tied
        if not shown:
            hidden = [hidden[0] + right, hidden[1] + sum(places) / tied, hidden[2] + 1]
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["mrr"] == pytest.approx(reciprocal)
    assert [found["hidden_accuracy"], found["hidden_mrr"], found["hidden"]] == pytest.approx(hidden)


def test_vectors_that_tell_nothing_score_exactly_chance():
    found = dea_scores(*dea_case(np.zeros((2, 3, 7)), np.array([[0, 6, 3], [IGNORED, 2, 2]])))
    assert found["accuracy"] == pytest.approx(found["chance"])
    assert found["mrr"] == pytest.approx(found["mrr_chance"])


def output_and_batch(rows: int, seed: int):
    chance = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.rand(rows, 6, generator=chance) < 0.3, 2, IGNORED)
    entity_labels = torch.where(torch.rand(rows, 3, generator=chance) < 0.6, 1, IGNORED)
    nsp = torch.where(torch.rand(rows, generator=chance) < 0.7, 1, IGNORED)
    batch = {
        "labels": labels,
        "entity_labels": entity_labels,
        "next_sentence_label": nsp,
        "entity_attention_mask": torch.ones(rows, 3, dtype=torch.long),
    }
    masked = torch.randn(int((labels != IGNORED).sum()), 9, generator=chance)
    entity_logits = torch.randn(rows, 3, 4, generator=chance)
    nsp_logits = torch.randn(rows, 2, generator=chance)

    def mean(logits, targets):
        kept = targets != IGNORED
        return torch.nn.functional.cross_entropy(logits[kept], targets[kept])

    output = SimpleNamespace(
        logits=masked,
        entity_logits=entity_logits,
        seq_relationship_logits=nsp_logits,
        mlm_loss=torch.nn.functional.cross_entropy(masked, labels[labels != IGNORED]),
        nsp_loss=mean(nsp_logits, nsp),
        dea_loss=mean(entity_logits, entity_labels),
    )
    return output, batch


def test_held_out_figures_are_means_over_targets_not_over_batches():
    """A mean of batch means weighs the last, small batch like a full one."""
    scores, totals, counts, right = HeldOutScores(), {}, {}, 0
    for rows, seed in ((40, 0), (3, 1)):
        output, batch = output_and_batch(rows, seed)
        scores.add(output, batch)
        for name, count in count_targets(batch).items():
            counts[name] = counts.get(name, 0) + count
            totals[name] = totals.get(name, 0) + float(OBJECTIVES[name].loss(output)) * count
        labels = batch["labels"][batch["labels"] != IGNORED]
        right += int((output.logits.argmax(-1) == labels).sum())
    figures = scores.figures()
    for name in OBJECTIVES:
        assert figures[f"{name}_loss"] == pytest.approx(totals[name] / counts[name])
    assert figures["mlm_accuracy"] == pytest.approx(right / counts["mlm"])


def test_a_batch_without_targets_adds_nothing():
    output, batch = output_and_batch(4, 0)
    batch["entity_labels"] = torch.full((4, 3), IGNORED)
    output.dea_loss = torch.tensor(float("nan"))
    scores = HeldOutScores()
    scores.add(output, batch)
    assert not any(name.startswith("dea") for name in scores.figures())


def test_every_objective_has_a_weight_and_a_loss():
    assert set(ObjectiveWeights().by_name()) == set(OBJECTIVES)
    output, batch = output_and_batch(5, 2)
    for objective in OBJECTIVES.values():
        assert objective.label in batch
        assert objective.loss(output).ndim == 0
        assert "accuracy" in objective.scores(output, batch)


@pytest.mark.parametrize("weights", [{"mlm": 0.0, "nsp": 0.0, "dea": 0.0}, {"mlm": -1.0}])
def test_weights_that_train_nothing_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        ObjectiveWeights(**weights)
