"""AdamW as BERT trains with it: which parameters decay, and the learning rate at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

ParameterGroups = list[dict[str, Any]]


def decay_groups(model: nn.Module, *, weight_decay: float) -> ParameterGroups:
    """Two groups: matrices decay; biases and LayerNorm gains (all one-dimensional, `LayerNorm_ent` among them) do not.

    Parameters that want no gradient are left in, so that one thawed later is already known to the optimiser.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: Iterable[dict[str, Any]], *, learning_rate: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019; betas .9/.999, eps 1e-8), fused: one pass over the weights a step.

    groups: torch parameter groups; one with its own `lr` keeps it as its peak.
    """
    optimizer = torch.optim.AdamW(list(groups), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def learning_rate_factor(step: int, *, max_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up to 1, then linear decay that would reach 0 one step after the last.

    step: 0 for the first step.

    >>> [round(learning_rate_factor(s, max_steps=10, warmup_ratio=0.2), 3) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]
    """
    warmup = round(max_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (max_steps - step) / max(1, max_steps - warmup)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group to `factor` times its peak; returns the first group's rate, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optimizer.param_groups[0]["lr"]


def thaw(model: nn.Module, trainable_from: Callable[[str], int], step: int) -> None:
    """Lets a parameter train when `step` has reached `trainable_from(name)`, freezes it before (no gradient at all)."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(step >= trainable_from(name))
        if not parameter.requires_grad:
            parameter.grad = None
