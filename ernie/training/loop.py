"""The one training loop: accumulate, clip, schedule, log, evaluate, checkpoint, and go on exactly where it stopped.

On accelerate for devices and processes. It knows neither data sets nor tasks: it gets batches, a function that gives
losses, and a function that evaluates.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from ernie.errors import InputError
from ernie.training.batches import Batches
from ernie.training.checkpointing import (
    latest_checkpoint,
    restore_weights,
    save_checkpoint,
    save_weights,
    weights_of,
)
from ernie.training.configuration import TrainingConfig
from ernie.training.optimisation import (
    ParameterGroups,
    adamw,
    decay_groups,
    learning_rate_factor,
    set_learning_rates,
    thaw,
)
from ernie.training.precision import Precision, choose_precision
from ernie.training.reproducibility import derived_seed, isolated_randomness

Losses = dict[str, Tensor]
ComputeLosses = Callable[[nn.Module, dict[str, Tensor]], Losses]
BEST = "best.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training did.

    steps: optimiser steps taken in all, those before a resume among them. history: one entry every log_every steps,
    `{"step", "loss", …, "learning_rate", "grad_norm"}`, means since the entry before. evaluations: `{"step", …}`.
    tokens_per_second: real word pieces (attention_mask) over the time of the steps alone. resumed_from: the step a
    checkpoint was found at, or None. stopped_by: `max_steps`, `max_minutes` or `patience`. best_step: the step
    whose weights the model now has when `keep_best` was asked for, else None.
    """

    steps: int
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    tokens_per_second: float
    resumed_from: int | None
    precision: Precision
    seconds: float
    stopped_by: Literal["max_steps", "max_minutes", "patience"]
    best_step: int | None


class NonFiniteLoss(InputError):
    """A loss or gradient became NaN or infinite; the message names the file that holds the batch."""


def train(
    model: nn.Module,
    *,
    batches: Batches,
    compute_losses: ComputeLosses,
    config: TrainingConfig,
    seed: int,
    checkpoint_folder: Path,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    parameter_groups: ParameterGroups | None = None,
    count_targets: Callable[[Mapping[str, Tensor]], Mapping[str, float]] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    trainable_from: Callable[[str], int] | None = None,
    evaluate_at_start: bool = False,
    keep_best: str | None = None,
    patience: int = 0,
) -> TrainingResult:
    """Trains `model` in place; goes on exactly from `checkpoint_folder` when that holds a checkpoint.

    Exactly: weights, optimiser, order of the data, dropout and the logged history end bit for bit as if nothing had
    happened (same machine, same number of threads). Dropout is keyed by (seed, step), so neither an evaluation nor a
    stop moves it; torch's global generators are left as they were found.

    compute_losses: (model, batch) -> losses by name; `loss` is what is minimised, a mean over the batch's examples.
    seed: of dropout; the order of the data is the batches' own.
    evaluate: called with the model in eval mode and without gradients, every eval_every steps and at the end, and
        before the first step with `evaluate_at_start`.
    on_step: called after every step with the step's number (1 …) and its losses, `tokens_per_second` among them.
    parameter_groups: torch groups (`params`, `lr`, `weight_decay`); default: matrices decay, vectors do not.
    count_targets: for losses that are means over something else than examples (masked pieces, mentions): the number
        of targets in a batch by loss name. The loop then minimises the sum of loss_weights[name] (1 where unnamed)
        times that loss, each averaged over the targets of all accumulated batches; a name with no target is left out.
    trainable_from: first step (0 …) at which a parameter of that name trains; until then it is frozen.
    keep_best: name of an evaluation figure, higher is better; the model ends with the weights that had the best
        (first of equals).
    patience: training ends after so many evaluations in a row without a better figure of `keep_best`; 0 goes on.

    Raises:
        NonFiniteLoss: the loss or the gradient is NaN or infinite; the batch lies in `checkpoint_folder`.
        InputError: the checkpoint is of another model, seed or config.
    """
    loop = _Loop(
        model,
        batches,
        compute_losses,
        config,
        seed,
        Path(checkpoint_folder),
        evaluate=evaluate,
        on_step=on_step,
        count_targets=count_targets,
        loss_weights=loss_weights or {},
        trainable_from=trainable_from,
        keep_best=keep_best,
        patience=patience,
    )
    loop.open(parameter_groups)
    was_training = model.training
    with isolated_randomness(seed):
        if evaluate_at_start and loop.state.step == 0:
            loop.run_evaluation()
        result = loop.run()
    model.train(was_training)
    return result


@dataclass
class _State:
    """What a checkpoint remembers besides tensors; plain JSON values."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    window: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)


class _Loop:
    """The parts of one call of `train`."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        compute_losses: ComputeLosses,
        config: TrainingConfig,
        seed: int,
        folder: Path,
        *,
        evaluate: Callable[[nn.Module], dict[str, float]] | None,
        on_step: Callable[[int, dict[str, float]], None] | None,
        count_targets: Callable[[Mapping[str, Tensor]], Mapping[str, float]] | None,
        loss_weights: Mapping[str, float],
        trainable_from: Callable[[str], int] | None,
        keep_best: str | None,
        patience: int,
    ) -> None:
        self.model, self.batches, self.compute_losses = model, batches, compute_losses
        self.config, self.seed, self.folder = config, seed, folder
        self.evaluate, self.on_step, self.keep_best = evaluate, on_step, keep_best
        self.patience = patience
        self.count_targets, self.loss_weights, self.trainable_from = count_targets, loss_weights, trainable_from
        # Precision is autocast of our own: accelerate holds one mixed precision a process, and stages differ.
        self.accelerator = Accelerator(mixed_precision="no")
        self.state = _State()
        self.resumed_from: int | None = None

    def open(self, parameter_groups: ParameterGroups | None) -> None:
        """Optimiser, precision, and whatever an earlier run left."""
        groups = parameter_groups or decay_groups(self.model, weight_decay=self.config.weight_decay)
        optimizer = adamw(groups, learning_rate=self.config.learning_rate)
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint is not None:
            self._check_same_run(checkpoint.state)
            restore_weights(self.model, checkpoint.weights)
            self.state = _State(**checkpoint.state["loop"])
            self.resumed_from = self.state.step
            self.precision = Precision(**checkpoint.state["precision"])
        else:
            self.precision = choose_precision(self.config.precision, self.accelerator.device)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if checkpoint is not None:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        self._thawed_at: int | None = None

    def run(self) -> TrainingResult:
        stopped_by: Literal["max_steps", "max_minutes", "patience"] = "max_steps"
        limit = self.config.max_minutes * 60 or math.inf
        while self.state.step < self.config.max_steps:
            if self.state.seconds >= limit:
                stopped_by = "max_minutes"
                break
            if self._without_gain():
                stopped_by = "patience"
                break
            self._step()
        self._finish()
        state = self.state
        return TrainingResult(
            steps=state.step,
            history=[*state.history, *self._open_window()],
            evaluations=state.evaluations,
            tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
            resumed_from=self.resumed_from,
            precision=self.precision,
            seconds=state.seconds,
            stopped_by=stopped_by,
            best_step=int(state.best[1]) if state.best else None,
        )

    def run_evaluation(self) -> None:
        """One evaluation into the state, and the weights put aside when they are the best so far."""
        if self.evaluate is None:
            return
        self.model.eval()
        with torch.no_grad(), self._autocast():
            figures = self.evaluate(self.model)
        self.state.evaluations.append({"step": self.state.step, **figures})
        if self.keep_best is None:
            return
        if self.keep_best not in figures:
            raise InputError(f"keep_best={self.keep_best!r} is not evaluated; there are {sorted(figures)}")
        if not self.state.best or figures[self.keep_best] > self.state.best[0]:
            self.state.best = [figures[self.keep_best], self.state.step]
            save_weights(self.folder / BEST, weights_of(self.model))

    def _without_gain(self) -> bool:
        """Whether the last `patience` evaluations all fell short of the best."""
        if not self.patience or not self.state.best:
            return False
        later = [entry for entry in self.state.evaluations if entry["step"] > self.state.best[1]]
        return len(later) >= self.patience

    def _step(self) -> None:
        started = time.perf_counter()
        config, state = self.config, self.state
        if self.trainable_from is not None:
            thaw(self.model, self.trainable_from, state.step)
        factor = learning_rate_factor(state.step, max_steps=config.max_steps, warmup_ratio=config.warmup_ratio)
        rate = set_learning_rates(self.optimizer, factor)
        self.model.train()
        losses, tokens, batch = self._accumulate()
        clipped = self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        norm = float(clipped) if clipped is not None else 0.0
        self._require_finite({**losses, "grad_norm": norm}, batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.tokens += tokens
        seconds = time.perf_counter() - started
        state.seconds += seconds
        self._log({**losses, "grad_norm": norm}, rate)
        if self.on_step is not None:
            self.on_step(state.step, {**losses, "tokens_per_second": tokens / seconds})
        if config.eval_every and state.step % config.eval_every == 0:
            self.run_evaluation()
        if config.save_every and state.step % config.save_every == 0 and state.step < config.max_steps:
            self._save()

    def _accumulate(self) -> tuple[dict[str, float], int, dict[str, Tensor]]:
        """Gradients of one optimiser step; the step's losses, its word pieces, and the last batch."""
        count = self.config.gradient_accumulation
        group = [self._fetch(index) for index in range(count)]
        shares = self._shares(group)
        sums: dict[str, float] = {}
        for index, (batch, share) in enumerate(zip(group, shares, strict=True)):
            torch.manual_seed(derived_seed(self.seed, self.state.step, index, self.accelerator.process_index))
            waits = self.accelerator.no_sync(self.wrapped) if index + 1 < count else nullcontext()
            with waits:
                with self._autocast():
                    losses = self.compute_losses(self.wrapped, batch)
                total = self._total(losses, share)
                if total.requires_grad:
                    self.accelerator.backward(total)
            parts = {
                name: share.get(name, share["loss"]) * float(loss.detach())
                for name, loss in losses.items()
                if share.get(name, 1.0) > 0
            }
            parts["loss"] = float(total.detach())
            self._require_finite(parts, batch)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums, sum(_tokens(batch) for batch in group), group[-1]

    def _fetch(self, index: int) -> dict[str, Tensor]:
        """Batch `index` of this step; with several processes each takes its own."""
        accelerator = self.accelerator
        number = self.state.step * self.config.gradient_accumulation + index
        number = number * accelerator.num_processes + accelerator.process_index
        batch = self.batches.batch(*divmod(number, len(self.batches)))
        return {name: tensor.to(accelerator.device) for name, tensor in batch.items()}

    def _shares(self, group: list[dict[str, Tensor]]) -> list[dict[str, float]]:
        """What part of the step's targets each batch holds, by loss name (`loss`: by examples)."""
        counts = [{"loss": float(len(next(iter(batch.values()))))} for batch in group]
        if self.count_targets is not None:
            counts = [{**count, **self.count_targets(batch)} for count, batch in zip(counts, group)]
        totals = {name: sum(count[name] for count in counts) for name in counts[0]}
        return [
            {name: value / totals[name] if totals[name] else 0.0 for name, value in count.items()} for count in counts
        ]

    def _total(self, losses: Losses, share: Mapping[str, float]) -> Tensor:
        if self.count_targets is None:
            return losses["loss"] * share["loss"]
        terms = [
            self.loss_weights.get(name, 1.0) * part * losses[name]
            for name, part in share.items()
            if name != "loss" and part > 0 and self.loss_weights.get(name, 1.0) != 0
        ]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def _log(self, figures: Mapping[str, float], rate: float) -> None:
        """Adds a step to the open window, and closes the window into one entry of the history."""
        state = self.state
        for name, value in figures.items():
            total = state.window.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1
        if state.step % self.config.log_every == 0 or state.step == self.config.max_steps:
            (means,) = self._open_window()
            state.history.append({**means, "learning_rate": rate})
            state.window = {}

    def _open_window(self) -> list[dict[str, float]]:
        """Means of the steps since the last entry of the history; empty when there are none."""
        means = {name: total / count for name, (total, count) in self.state.window.items()}
        return [{"step": self.state.step, **means}] if means else []

    def _finish(self) -> None:
        """The evaluation of the end, the last checkpoint, the best weights."""
        state = self.state
        evaluated = state.evaluations[-1]["step"] if state.evaluations else None
        if evaluated != state.step:
            self.run_evaluation()
        if self.resumed_from != state.step:
            self._save()
        if state.best and state.best[1] != state.step:
            restore_weights(self.model, load_file(self.folder / BEST))

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.folder,
                step=self.state.step,
                weights=weights_of(self.model),
                optimizer=self.optimizer.state_dict(),
                state={
                    "loop": dataclasses.asdict(self.state),
                    "precision": dataclasses.asdict(self.precision),
                    **self._identity(),
                },
                keep=self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        free = {"max_minutes", "save_every", "keep_checkpoints", "precision"}
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in free}
        return {"seed": self.seed, "batches": len(self.batches), "config": settings}

    def _check_same_run(self, state: Mapping[str, Any]) -> None:
        for name, value in self._identity().items():
            if state[name] != value:
                raise InputError(
                    f"{self.folder} holds a checkpoint made with {name} {state[name]}, this run has {value}; "
                    f"use the same, or delete the folder to start anew"
                )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision.name == "bf16")

    def _require_finite(self, figures: Mapping[str, float], batch: Mapping[str, Tensor]) -> None:
        strange = {name: value for name, value in figures.items() if not math.isfinite(value)}
        if not strange:
            return
        path = self.folder / f"non-finite-step-{self.state.step + 1:08d}.safetensors"
        save_weights(path, {name: tensor.cpu() for name, tensor in batch.items()})
        named = ", ".join(f"{name} is {value}" for name, value in strange.items())
        raise NonFiniteLoss(
            f"training stopped at step {self.state.step + 1}: {named}; the batch is in {path}; "
            f"look at its inputs, or lower training.learning_rate (now {self.config.learning_rate})"
        )


def _tokens(batch: Mapping[str, Tensor]) -> int:
    """Real word pieces of a batch; its examples where it holds none."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    tensor = batch.get("input_ids", next(iter(batch.values())))
    return tensor.numel() if "input_ids" in batch else len(tensor)
