"""From rewards to what a policy is pushed by: ranks, group baselines, the curriculum (Li et al. 2018, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from finetune.paraphrase.configuration import RankForm


def ranks(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rank of each value within its row, 1 the largest; equal values share their mean rank.

    values: (…, n). mask: (…, n) bool, values that count; a rank elsewhere says nothing.
    """
    counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    larger = ((values.unsqueeze(-2) > values.unsqueeze(-1)) & counted.unsqueeze(-2)).sum(-1)
    equal = ((values.unsqueeze(-2) == values.unsqueeze(-1)) & counted.unsqueeze(-2)).sum(-1)
    return larger + (equal + 1) / 2


def rank_rescaled(values: Tensor, *, delta: float, form: RankForm, mask: Tensor | None = None) -> Tensor:
    """sigmoid(delta (0.5 - r)) - 0.5 (eq. 9): between -0.5 and 0.5 whatever the rewards' scale.

    r is rank / n in the paper, whose mean over a row is below zero (-0.124 for n = 4 and delta = 12): a biased
    baseline, which pushes all samples down. `centred` takes (rank - 0.5) / n, whose mean is zero.

    values: (…, n). mask: as in `ranks`; n is the number of values that count.
    """
    number = values.shape[-1] if mask is None else mask.sum(-1, keepdim=True).clamp_min(1)
    shift = 0.5 if form == "centred" else 0.0
    return torch.sigmoid(delta * (0.5 - (ranks(values, mask) - shift) / number)) - 0.5


def group_normalised(rewards: Tensor) -> Tensor:
    """(R - mean) / deviation over the samples of a source (GRPO, Shao et al. 2024); zeros where all are equal."""
    spread = rewards.std(dim=-1, keepdim=True, correction=0)
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return torch.where(spread > 1e-6, centred / spread.clamp_min(1e-6), torch.zeros_like(centred))


def leave_one_out(rewards: Tensor) -> Tensor:
    """R less the mean of the other samples of its source (RLOO, Kool et al. 2019): unbiased, not rescaled."""
    number = rewards.shape[-1]
    return (rewards - rewards.mean(dim=-1, keepdim=True)) * number / max(1, number - 1)


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "group": group_normalised,
    "leave_one_out": leave_one_out,
    "none": lambda rewards: rewards,
}
"""What needs no setting; `rank` (`rank_rescaled`) needs two. Each: (num_sources, num_samples) -> the same."""


def curriculum_weights(
    difficulty: Tensor, progress: Tensor, *, start: float, end: float, generator: torch.Generator | None = None
) -> Tensor:
    """w ~ Bernoulli(sigmoid(delta (0.5 - difficulty))), delta falling linearly from `start` to `end` (eq. 10).

    Easy pairs (small edit distance between source and target) come first; a delta near 0 takes all alike, half of them.

    difficulty: (batch,), rank in 0 … 1 (`batches.ranks_in_unit`). progress: (batch,), 0 … 1.
    """
    delta = start + (end - start) * progress
    return torch.bernoulli(torch.sigmoid(delta * (0.5 - difficulty)), generator=generator)
