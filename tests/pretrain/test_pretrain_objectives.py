"""Figures against slow counting, and what the table promises of every objective."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ernie.inputs import IGNORED
from kg.errors import InputError
from pretrain.objectives import (
    OBJECTIVES,
    HeldOutScores,
    Objectives,
    ObjectiveWeights,
    _highest,
    measure_dea,
    measure_mlm,
)

ALL = ObjectiveWeights(replacement=1.0)


def dea_case(logits: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None):
    shown = np.ones_like(labels) if mask is None else mask
    batch = {
        "entity_labels": torch.tensor(labels),
        "entity_attention_mask": torch.tensor(shown),
        "entity_weights": torch.ones(labels.shape),
    }
    return SimpleNamespace(entity_logits=torch.tensor(logits)), batch


def test_dea_figures_equal_counting_over_all_orders_of_ties():
    """Ties broken by position score chance as knowledge when the true entity happens to stand first."""
    chance = np.random.default_rng(0)
    logits = chance.integers(0, 3, (4, 5, 6)).astype(np.float64)
    labels = np.where(chance.random((4, 5)) < 0.7, chance.integers(0, 6, (4, 5)), IGNORED)
    mask = chance.integers(0, 2, (4, 5))
    found = measure_dea(*dea_case(logits, labels, mask)).sums
    accuracy, reciprocal, hidden, count = 0.0, 0.0, [0.0, 0.0, 0], 0
    for row, label, shown in zip(logits.reshape(-1, 6), labels.ravel(), mask.ravel(), strict=True):
        if label == IGNORED:
            continue
        count += 1
        above, tied = int((row > row[label]).sum()), int((row == row[label]).sum())
        places = [1 / (above + 1 + i) for i in range(tied)]
        right = (1 / tied) if above == 0 else 0.0
        accuracy += right
        reciprocal += sum(places) / tied
        if not shown:
            hidden = [hidden[0] + right, hidden[1] + sum(places) / tied, hidden[2] + 1]
    assert found["dea_accuracy"] == pytest.approx((accuracy, count))
    assert found["dea_mrr"] == pytest.approx((reciprocal, count))
    assert found["dea_hidden_accuracy"] == pytest.approx((hidden[0], hidden[2]))
    assert found["dea_hidden_mrr"] == pytest.approx((hidden[1], hidden[2]))


def test_vectors_that_tell_nothing_score_exactly_chance():
    found = measure_dea(*dea_case(np.zeros((2, 3, 7)), np.array([[0, 6, 3], [IGNORED, 2, 2]]))).sums
    assert found["dea_accuracy"] == pytest.approx(found["dea_chance"])
    assert found["dea_mrr"] == pytest.approx(found["dea_mrr_chance"])


def test_link_probabilities_weigh_mentions_as_repeating_them_would():
    output, batch = dea_case(np.random.default_rng(1).normal(size=(1, 3, 5)), np.array([[0, 4, IGNORED]]))
    batch["entity_weights"] = torch.tensor([[3.0, 1.0, 7.0]])
    repeated, whole = dea_case(output.entity_logits[:, [0, 0, 0, 1]].numpy(), np.array([[0, 0, 0, 4]]))
    assert float(measure_dea(output, batch).loss) == pytest.approx(float(measure_dea(repeated, whole).loss))
    assert OBJECTIVES["dea"].count(batch) == 4.0, "accumulated batches are shared by the same weights"


def output_and_batch(rows: int, seed: int):
    chance = torch.Generator().manual_seed(seed)
    batch = {
        "labels": torch.where(torch.rand(rows, 6, generator=chance) < 0.3, 2, IGNORED),
        "entity_labels": torch.where(torch.rand(rows, 3, generator=chance) < 0.6, 1, IGNORED),
        "next_sentence_label": torch.where(torch.rand(rows, generator=chance) < 0.7, 1, IGNORED),
        "replacement_labels": torch.where(torch.rand(rows, 3, generator=chance) < 0.6, 1, IGNORED),
        "mention_pieces": torch.rand(rows, 6, generator=chance) < 0.5,
        "entity_attention_mask": torch.ones(rows, 3, dtype=torch.long),
        "entity_weights": torch.ones(rows, 3),
    }
    output = SimpleNamespace(
        logits=torch.randn(int((batch["labels"] != IGNORED).sum()), 9, generator=chance),
        entity_logits=torch.randn(rows, 3, 4, generator=chance),
        seq_relationship_logits=torch.randn(rows, 2, generator=chance),
        replacement_logits=torch.randn(rows, 3, generator=chance),
    )
    return output, batch


class Said(torch.nn.Module):
    """A model whose answer is known."""

    def __init__(self, output: SimpleNamespace) -> None:
        super().__init__()
        self.output = output

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return self.output


def test_losses_are_cross_entropies_over_the_targets():
    """Against torch's own means over the labelled rows, written out."""
    output, batch = output_and_batch(7, 0)
    losses, _ = Objectives(ALL).measure(Said(output), batch)
    cross = torch.nn.functional.cross_entropy
    pairs, entities = batch["next_sentence_label"] != IGNORED, batch["entity_labels"] != IGNORED
    replaced = batch["replacement_labels"] != IGNORED
    expected = {
        "mlm": cross(output.logits, batch["labels"][batch["labels"] != IGNORED]),
        "nsp": cross(output.seq_relationship_logits[pairs], batch["next_sentence_label"][pairs]),
        "dea": cross(output.entity_logits[entities], batch["entity_labels"][entities]),
        "replacement": -output.replacement_logits[replaced].sigmoid().log().mean(),
    }
    assert losses.keys() == {*expected, "loss"}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_words_of_mentions_are_told_apart():
    output, batch = output_and_batch(9, 3)
    sums = measure_mlm(output, batch).sums
    masked = batch["labels"] != IGNORED
    inside = batch["mention_pieces"][masked]
    expected = torch.nn.functional.cross_entropy(output.logits[inside], batch["labels"][masked][inside])
    total, count = sums["mlm_mention_loss"]
    assert total / count == pytest.approx(float(expected))
    assert count == int(inside.sum()) < sums["mlm_accuracy"][1]


def test_held_out_figures_are_means_over_targets_not_over_batches():
    """A mean of batch means weighs the last, small batch like a full one."""
    objectives = Objectives(ALL)
    scores, totals, counts, right = HeldOutScores(objectives), {}, {}, 0
    for rows, seed in ((40, 0), (3, 1)):
        output, batch = output_and_batch(rows, seed)
        scores.add(Said(output), batch)
        losses, _ = objectives.measure(Said(output), batch)
        for name, count in objectives.count(batch).items():
            counts[name] = counts.get(name, 0) + count
            totals[name] = totals.get(name, 0) + float(losses[name]) * count
        labels = batch["labels"][batch["labels"] != IGNORED]
        right += int((output.logits.argmax(-1) == labels).sum())
    figures = scores.figures()
    for name in OBJECTIVES:
        assert figures[f"{name}_loss"] == pytest.approx(totals[name] / counts[name])
    assert figures["mlm_accuracy"] == pytest.approx(right / counts["mlm"])


def test_what_has_no_target_has_no_figure_and_no_gradient():
    """A mean over nothing is NaN, and NaN times 0 still is."""
    output, batch = output_and_batch(4, 0)
    for name in ("labels", "entity_labels", "next_sentence_label", "replacement_labels"):
        batch[name] = torch.full_like(batch[name], IGNORED)
    output.logits = output.logits[:0]
    objectives, scores = Objectives(ALL), HeldOutScores(Objectives(ALL))
    losses, _ = objectives.measure(Said(output), batch)
    assert all(float(loss) == 0 for loss in losses.values())
    scores.add(Said(output), batch)
    assert scores.figures() == {}
    assert set(objectives.count(batch).values()) == {0.0}


def test_every_objective_has_a_weight_a_loss_and_an_accuracy():
    assert set(ALL.by_name()) == set(OBJECTIVES)
    output, batch = output_and_batch(5, 2)
    for name, objective in OBJECTIVES.items():
        assert objective.label in batch
        measured = objective.measure(output, batch)
        assert measured.loss.ndim == 0
        assert f"{name}_accuracy" in measured.sums


def test_the_replacement_head_is_only_asked_for_when_it_counts():
    assert "replacement" not in Objectives(ObjectiveWeights()).table
    assert "nsp" in Objectives(ObjectiveWeights(nsp=0.0)).table, "measured, though not trained"


@pytest.mark.parametrize("weights", [{"mlm": 0.0, "nsp": 0.0, "dea": 0.0}, {"mlm": -1.0}])
def test_weights_that_train_nothing_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        ObjectiveWeights(**weights)


def test_a_tie_is_right_in_part_and_all_else_as_argmax_says():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 7
    assert torch.equal(_highest(logits, targets), (logits.argmax(-1) == targets).float())
    tied = torch.tensor([[2.0, 2.0, 0.0], [0.0, 1.0, 1.0], [float("nan"), 0.0, 0.0]], dtype=torch.bfloat16)
    assert _highest(tied, torch.tensor([1, 0, 1])).tolist() == [0.5, 0.0, 0.0]
