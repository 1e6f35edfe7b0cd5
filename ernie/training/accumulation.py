"""The gradients of one optimiser step: of several batches, on several processes, as of one large batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ernie.training.attention import training_attention
from ernie.training.batches import Batches
from ernie.training.processes import sum_over_processes, synchronise_gradients
from ernie.training.reproducibility import derived_seed

Losses = dict[str, Tensor]
Sums = dict[str, tuple[float, float]]
ComputeLosses = Callable[[nn.Module, dict[str, Tensor]], "Losses | tuple[Losses, Sums]"]
CountTargets = Callable[[Mapping[str, Tensor]], Mapping[str, float]]


@dataclass(slots=True)
class Step:
    """One step before it is taken. losses: of all processes. sums: figures, name -> (sum, count). worst: this process's
    batch with the highest loss, or the first with one that is not finite. loading: seconds spent on making batches."""

    losses: dict[str, float]
    sums: Sums
    tokens: int
    worst: dict[str, Tensor]
    loading: float


class Accumulator:
    """What makes gradients. model: the one whose parameters they belong to; wrapped: the one to call (DDP's).

    Losses that are means over something else than examples are shared out by their own targets (`train` explains).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        wrapped: nn.Module,
        accelerator: Accelerator,
        batches: Batches,
        compute_losses: ComputeLosses,
        count_targets: CountTargets | None,
        loss_weights: Mapping[str, float],
        num_batches: int,
        bf16: bool,
        seed: int,
    ) -> None:
        self.model, self.wrapped, self.accelerator, self.batches = model, wrapped, accelerator, batches
        self.compute_losses, self.count_targets, self.loss_weights = compute_losses, count_targets, loss_weights
        self.num_batches, self.bf16, self.seed = num_batches, bf16, seed
        self.rank, self.world = accelerator.process_index, accelerator.num_processes

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)

    def _attention(self, batch: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        return training_attention(batch, device=self.accelerator.device, dtype=dtype)

    def gradients(self, step: int) -> Step:
        """Adds up the gradients of optimiser step `step` (0 …)."""
        started = time.perf_counter()
        group = [self._fetch(step, index) for index in range(self.num_batches)]
        loading = time.perf_counter() - started
        shares, without_target = self._shares(group)
        parts: dict[str, float] = {"loss": 0.0}
        sums: dict[str, list[float]] = {}
        worst, highest = group[0], -math.inf
        for index, (batch, share) in enumerate(zip(group, shares, strict=True)):
            torch.manual_seed(derived_seed(self.seed, step, index, self.rank))
            losses, figures, total = self._backward(batch, share, last=index + 1 == self.num_batches)
            for name, loss in losses.items():
                if name != "loss" and name not in without_target:
                    part = share.get(name, share["loss"])
                    parts[name] = parts.get(name, 0.0) + (part * float(loss.detach()) if part else 0.0)
            parts["loss"] += total
            for name, (value, targets) in figures.items():
                kept = sums.setdefault(name, [0.0, 0.0])
                kept[0], kept[1] = kept[0] + value, kept[1] + targets
            if not total <= highest:
                worst, highest = batch, total if math.isfinite(total) else math.inf
        return Step(
            sum_over_processes(self.accelerator, parts),
            self._sum_figures(sums),
            sum(_tokens(batch) for batch in group),
            worst,
            loading,
        )

    def _backward(
        self, batch: dict[str, Tensor], share: Mapping[str, float], *, last: bool
    ) -> tuple[Losses, Sums, float]:
        """Losses and figures of one batch, and its part of the step's loss, whose gradient is added.

        Processes average their gradients, so each multiplies its part by their number.
        """
        synchronise_gradients(self.model, last)
        with nullcontext() if last else self.accelerator.no_sync(self.wrapped), self._attention(batch):
            with self.autocast():
                found = self.compute_losses(self.wrapped, batch)
            losses, figures = found if isinstance(found, tuple) else (found, {})
            total = self._total(losses, share)
            if total.requires_grad:
                self.accelerator.backward(total * self.world)
        return losses, figures, float(total.detach())

    def _fetch(self, step: int, index: int) -> dict[str, Tensor]:
        """Batch `index` of a step."""
        number = step * self.num_batches + index
        batch = self.batches.batch(*divmod(number, len(self.batches)))
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def _shares(self, group: list[dict[str, Tensor]]) -> tuple[list[dict[str, float]], set[str]]:
        """What part of the step's targets each batch holds, by loss name (`loss`: by examples), of all processes'; and
        the losses for which there is none."""
        counts = [{"loss": float(len(next(iter(batch.values()))))} for batch in group]
        if self.count_targets is not None:
            counts = [{**count, **self.count_targets(batch)} for count, batch in zip(counts, group)]
        totals = sum_over_processes(
            self.accelerator, {name: sum(count[name] for count in counts) for name in counts[0]}
        )
        shares = [{name: value / totals[name] for name, value in count.items() if totals[name]} for count in counts]
        return shares, {name for name, total in totals.items() if not total}

    def _total(self, losses: Losses, share: Mapping[str, float]) -> Tensor:
        """This batch's part of the step's loss. A loss of weight 0 takes part with a gradient of 0, and among several
        processes so does one without a target: what one process has a gradient for, all must have."""
        if self.count_targets is None:
            return losses["loss"] * share["loss"]
        terms = [
            self.loss_weights.get(name, 1.0) * share.get(name, 0.0) * loss
            for name, loss in losses.items()
            if name != "loss" and (share.get(name) or self.world > 1)
        ]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def _sum_figures(self, sums: Mapping[str, list[float]]) -> Sums:
        flat = {f"{name} {part}": value for name, pair in sums.items() for part, value in enumerate(pair)}
        everyone = sum_over_processes(self.accelerator, flat)
        return {name: (everyone[f"{name} 0"], everyone[f"{name} 1"]) for name in sums}


def _tokens(batch: Mapping[str, Tensor]) -> int:
    """Real word pieces of a batch; its examples where it holds none."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    tensor = batch.get("input_ids", next(iter(batch.values())))
    return tensor.numel() if "input_ids" in batch else len(tensor)
