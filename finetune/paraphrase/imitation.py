"""Learning from targets: maximum likelihood, scheduled sampling, DAgger.

All three minimise -log P(expert's piece | source, what stands before). They differ in what stands before (the target's
own pieces, or partly the model's) and in what the expert then says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from finetune.paraphrase.batches import Batch, plain_length, sequence_mask
from finetune.paraphrase.configuration import ImitationConfig
from finetune.paraphrase.copying import Generator, Memory, shifted
from finetune.paraphrase.decoding import sample
from finetune.paraphrase.scores import edit_distances
from finetune.paraphrase.vocabulary import EOS, PAD, UNK

Objective = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


def maximum_likelihood(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the target's pieces, EOS among them; pieces that nothing can say (UNK) are passed over."""
    return {"loss": nll(model(batch, batch["target_ids"]), batch["target_ids"])}


def scheduled_sampling(config: ImitationConfig) -> Objective:
    """Bengio et al. 2015: the expert says what the target has at that place, whatever stands before."""

    def compute(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = batch["target_ids"]
        rate = config.rate * float(batch["progress"][0])
        memory = cast("Generator", model).encode(batch)
        own = roll_in(cast("Generator", model), memory, targets, rate=rate, greedy=config.draw == "greedy")
        log_probs = model(batch, targets, inputs=shifted(own), memory=memory)
        return {"loss": nll(log_probs, targets)}

    return compute


def dagger(config: ImitationConfig) -> Objective:
    """Ross et al. 2011, with a dynamic expert: what the target has next, given how far what was said has got in it.

    How far is where an edit-distance alignment of what was said with the target's prefixes is cheapest (Sabour et al.
    2019). With rate 0 it is maximum likelihood.
    """

    def compute(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        memory = cast("Generator", model).encode(batch)
        greedy = config.draw == "greedy"
        own = roll_in(cast("Generator", model), memory, batch["target_ids"], rate=config.rate, greedy=greedy)
        targets = expert_ids(own, batch["target_ids"])
        log_probs = model(batch, targets, inputs=shifted(own), memory=memory)
        return {"loss": nll(log_probs, targets)}

    return compute


@torch.no_grad()
def roll_in(
    model: Generator,
    memory: Memory,
    targets: Tensor,
    *,
    rate: float,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The targets, each piece replaced by the model's own with probability `rate`; (rows, length) as they are.

    The model goes on from what it said itself. It never ends a sentence before its target does.
    """
    if rate == 0:
        return targets
    length = targets.shape[1]
    gold = torch.rand(targets.shape, generator=generator).to(targets.device) >= rate
    was_training = model.training
    model.eval()
    own = sample(
        model,
        memory,
        max_length=length + 1,
        min_length=length,
        greedy=greedy,
        forced=_wider(targets, PAD),
        force=_wider(gold | (targets == EOS), False),
        generator=generator,
    )[:, :length]
    model.train(was_training)
    return own.masked_fill(targets == PAD, PAD)


def expert_ids(said: Tensor, targets: Tensor) -> Tensor:
    """What the dynamic expert says at each place, (rows, length); PAD where the target has no place.

    Of equally cheap alignments the one nearest to the place itself counts.
    """
    out = torch.full_like(targets, PAD)
    for row, (own, target) in enumerate(zip(said.tolist(), targets.tolist(), strict=True)):
        length = plain_length(target)
        costs = edit_distances(own[:length], target[:length])
        for place in range(length + 1):
            best = np.flatnonzero(costs[place] == costs[place].min())
            next_place = int(best[np.abs(best - place).argmin()])
            out[row, place] = target[next_place]
    return out


def nll(log_probs: Tensor, targets: Tensor) -> Tensor:
    """-mean of log_probs (rows, length) over real pieces that are not UNK."""
    mask = sequence_mask(targets) & (targets != UNK)
    return -(log_probs * mask).sum() / mask.sum().clamp_min(1)


def held_out_nll(model: Generator, batches: list[Batch]) -> float:
    """Mean over all pieces of some batches, in nats."""
    total, count = 0.0, 0
    for batch in batches:
        targets = batch["target_ids"]
        mask = sequence_mask(targets) & (targets != UNK)
        total -= float((model(batch, targets) * mask).sum())
        count += int(mask.sum())
    return total / max(1, count)


def _wider(tensor: Tensor, filling: int | bool) -> Tensor:
    """One more column: `sample` keeps its last place for EOS."""
    return torch.cat([tensor, torch.full_like(tensor[:, :1], filling)], dim=1)
