"""Held-out figures: the same instances, masked alike, every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from ernie.training.reproducibility import derived_seed
from pretrain.collate import PretrainingCollate
from pretrain.dataset import Instances
from pretrain.masking import Masking, WordPieces
from pretrain.objectives import HeldOutScores, Objectives

EVALUATION_BATCH = 32


def heldout_evaluator(
    instances: Instances,
    *,
    words: WordPieces,
    objectives: Objectives,
    masking: Masking,
    limit: int,
    seed: int,
    text_only: bool,
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that scores a model on at most `limit` held-out instances.

    dEA's candidates are the batch's entities alone, without hard negatives, so that figures of different trainings
    compare.
    """
    chosen = np.random.Generator(np.random.Philox(derived_seed(seed, "held-out")))
    rows = np.sort(chosen.permutation(len(instances))[:limit])
    rows = rows[np.argsort(instances.lengths[rows], kind="stable")]
    collate = PretrainingCollate(
        instances,
        words=words,
        seed=derived_seed(seed, "held-out masks"),
        masking=Masking(rates=masking.rates, unit=masking.unit, entity_masking=masking.entity_masking),
        text_only=text_only,
        fixed_epoch=0,
    )
    groups = [rows[i : i + EVALUATION_BATCH] for i in range(0, len(rows), EVALUATION_BATCH)]
    batches = [collate([instances[int(row)] for row in group], 0, group) for group in groups]

    def evaluate(model: nn.Module) -> dict[str, float]:
        scores = HeldOutScores(objectives)
        device = next(model.parameters()).device
        for batch in batches:
            scores.add(model, {name: tensor.to(device) for name, tensor in batch.items()})
        return scores.figures()

    return evaluate
