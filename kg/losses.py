"""Losses of link prediction over shared negatives, in closed form: each returns its value and its gradients.

Scores are minus distances: larger is better.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Loss(Protocol):
    """A loss over shared negatives, with its gradient.

    positive: scores of the true triples, shape (num_blocks, num_queries).
    negative: scores of the negatives, shape (num_blocks, num_queries, num_negatives); -inf = a true triple, ignore;
        may be overwritten.
    margin: gamma, in units of distance. temperature: alpha, sharpness of the self-adversarial weights.

    Returns the loss of each query (num_blocks, num_queries), and its gradients by `positive` and by `negative`.
    """

    def __call__(
        self, positive: Tensor, negative: Tensor, *, margin: float, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...


def self_adversarial(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log s(gamma + f+) - sum_j w_j log s(-gamma - f_j), w = softmax(alpha f) taken as a constant.

    Sun et al. 2019 (RotatE), equations 5 and 6, with f = minus the distance.
    """
    weights = torch.softmax(temperature * negative, -1).masked_fill(negative == -torch.inf, 0.0)
    for_positive, for_negative = positive + margin, negative + margin
    logsigmoid = torch.nn.functional.logsigmoid
    value = -logsigmoid(for_positive) - (weights * logsigmoid(-for_negative)).sum(-1)
    return value, -torch.sigmoid(-for_positive), weights * torch.sigmoid(for_negative)


def cross_entropy(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log softmax of the true triple among itself and its negatives; `margin` and `temperature` play no part.

    Ruffinelli et al. 2020 ("You CAN teach an old dog new tricks"), there called KL, over sampled negatives.
    """
    highest = torch.maximum(positive, negative.amax(-1))
    shares = negative.sub_(highest.unsqueeze(-1)).exp_()
    positive = positive - highest
    normaliser = shares.sum(-1) + positive.exp()
    shares /= normaliser.unsqueeze(-1)
    value = normaliser.log() - positive
    return value, positive.exp() / normaliser - 1.0, shares


def margin_ranking(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_j max(0, gamma - f+ + f_j) / num_negatives: equation 1 of Bordes et al. 2013, averaged over negatives."""
    hinge = torch.relu(margin - positive.unsqueeze(-1) + negative)
    share = 1.0 / negative.shape[-1]
    active = (hinge > 0).to(negative.dtype) * share
    return hinge.sum(-1) * share, -active.sum(-1), active


LOSSES: dict[str, Loss] = {
    "self_adversarial": self_adversarial,
    "cross_entropy": cross_entropy,
    "margin": margin_ranking,
}
