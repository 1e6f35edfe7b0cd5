"""The settings of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ernie.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast to train."""

    max_steps: int = 100
    """Optimiser steps in all, at least 1."""
    batch_size: int = 32
    """Examples a batch and process; a step sees batch_size * gradient_accumulation * processes of them."""
    gradient_accumulation: int = 1
    """Batches an optimiser step; losses are averaged over all their targets, as one big batch would."""
    learning_rate: float = 5e-5
    """Peak, reached after the warm-up."""
    weight_decay: float = 0.01
    """On matrices only; biases and LayerNorms are left out."""
    warmup_ratio: float = 0.1
    """Share of max_steps over which the rate rises linearly; afterwards it falls linearly to 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures matrix products in both for a moment and takes bf16 only where it is faster."""
    eval_every: int = 0
    """Steps between evaluations; 0: only at the end."""
    save_every: int = 0
    """Steps between checkpoints; 0: only when training stops."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    max_minutes: float = 0.0
    """Stop cleanly, with a checkpoint, once training has taken this long; 0: no limit."""
    log_every: int = 10
    """Steps whose mean makes one entry of the history."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What to do with a step whose loss or gradient is not finite or spikes: stop, with its batch in a file, or leave
    the weights as they are, count it and go on."""
    spike_factor: float = 0.0
    """A loss above this many times the median of the last 50 steps is a bad step; 0: none is."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes (`accelerate launch`, `torchrun`): each holds all weights, or a slice of them (FSDP2)."""

    def __post_init__(self) -> None:
        least = {"max_steps": 1, "batch_size": 1, "gradient_accumulation": 1, "log_every": 1}
        least |= {"keep_checkpoints": 1, "eval_every": 0, "save_every": 0, "max_minutes": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"training.{name} must be at least {bound}, but is {getattr(self, name)}")
        if self.spike_factor != 0 and self.spike_factor <= 1:
            raise InputError(f"training.spike_factor must be 0 or above 1, but is {self.spike_factor}")
        if not 0 <= self.warmup_ratio <= 1:
            raise InputError(f"training.warmup_ratio must lie in 0 … 1, but is {self.warmup_ratio}")
        if not (self.learning_rate > 0 and self.max_grad_norm > 0 and self.weight_decay >= 0):
            raise InputError(
                "training.learning_rate and max_grad_norm must be above 0, weight_decay not below, but are "
                f"{self.learning_rate}, {self.max_grad_norm} and {self.weight_decay}"
            )
