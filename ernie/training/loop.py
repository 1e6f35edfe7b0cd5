"""The one training loop: accumulate, clip, schedule, log, evaluate, checkpoint, and go on exactly where it stopped.

On accelerate for devices and processes. It knows neither data sets nor tasks: it gets batches, a function that gives
losses, and a function that evaluates.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ernie.errors import InputError
from ernie.training.accumulation import Accumulator, ComputeLosses, CountTargets
from ernie.training.bad_steps import RECENT, not_finite, spike
from ernie.training.batches import Batches, part_of
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
from ernie.training.processes import (
    gathered,
    make_accelerator,
    of_first_process,
    shard,
    slice_optimizer_state,
    sum_over_processes,
)
from ernie.training.record import Record, StoppedBy, TrainingResult
from ernie.training.reproducibility import isolated_randomness

BEST = "best.safetensors"


class BadStep(InputError):
    """A step that must not be taken; the message names the file that holds its batch."""


class NonFiniteLoss(BadStep):
    """A loss or gradient became NaN or infinite."""


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
    count_targets: CountTargets | None = None,
    loss_weights: Mapping[str, float] | None = None,
    trainable_from: Callable[[str], int] | None = None,
    evaluate_at_start: bool = False,
    keep_best: str | None = None,
    best_is_lowest: bool = False,
    patience: int = 0,
    tracker: str | None = None,
    tracking_folder: Path | None = None,
) -> TrainingResult:
    """Trains `model` in place; goes on exactly from `checkpoint_folder` when that holds a checkpoint.

    Exactly: weights, optimiser, order of the data, dropout and the logged history end bit for bit as if nothing had
    happened (same machine, same number of threads). Dropout is keyed by (seed, step), so neither an evaluation nor a
    stop moves it; torch's global generators are left as they were found.

    With several processes each takes its part of every batch (`batches.part`); gradients, losses and figures are those
    of all together. Every process calls this with the same arguments; the first one writes.

    compute_losses: (model, batch) -> losses by name; `loss` is what is minimised, a mean over the batch's examples.
        Or a pair of these and sums, name -> (sum, count): figures to report as means, always of the same names.
    seed: of dropout; the order of the data is the batches' own.
    evaluate: called with the model in eval mode and without gradients, every eval_every steps and at the end, and
        before the first step with `evaluate_at_start`.
    on_step: called after every step with the step's number (1 …) and its losses, `tokens_per_second` among them.
    parameter_groups: torch groups (`params`, `lr`, `weight_decay`); default: matrices decay, vectors do not.
    count_targets: for losses that are means over something else than examples (masked pieces, mentions): the number
        of targets in a batch by loss name. The loop then minimises the sum of loss_weights[name] (1 where unnamed)
        times that loss, each averaged over the targets of all accumulated batches; a name with no target is left out.
    trainable_from: first step (0 …) at which a parameter of that name trains; until then it is frozen.
    keep_best: name of an evaluation figure, higher is better unless best_is_lowest; the model ends with the weights
        that had the best (first of equals).
    patience: training ends after so many evaluations in a row without a better figure of `keep_best`; 0 goes on.
    tracker: a tracker of accelerate's (tensorboard, wandb, …), which gets the history and the evaluations.
    tracking_folder: where that tracker keeps its files.

    Raises:
        NonFiniteLoss: the loss or the gradient is NaN or infinite; the batch lies in `checkpoint_folder`.
        BadStep: the loss spiked (`spike_factor`); the batch lies there too.
        InputError: the checkpoint is of another model, seed or config, or cannot be written.
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
        best_is_lowest=best_is_lowest,
        patience=patience,
        tracker=tracker,
        tracking_folder=tracking_folder,
    )
    loop.open(parameter_groups)
    was_training = model.training
    with isolated_randomness(seed):
        if evaluate_at_start and loop.state.step == 0:
            loop.run_evaluation()
        result = loop.run()
    model.train(was_training)
    return result


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
        count_targets: CountTargets | None,
        loss_weights: Mapping[str, float],
        trainable_from: Callable[[str], int] | None,
        keep_best: str | None,
        best_is_lowest: bool,
        patience: int,
        tracker: str | None,
        tracking_folder: Path | None,
    ) -> None:
        self.model, self.compute_losses = model, compute_losses
        self.config, self.seed, self.folder = config, seed, folder
        self.evaluate, self.on_step = evaluate, on_step
        self.keep_best, self.best_is_lowest, self.patience = keep_best, best_is_lowest, patience
        self.count_targets, self.loss_weights, self.trainable_from = count_targets, loss_weights, trainable_from
        self.accelerator = make_accelerator(tracker, str(tracking_folder) if tracking_folder else None)
        self.tracker = tracker
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = part_of(batches, self.rank, self.world)
        self.state = Record()
        self.resumed_from: int | None = None

    def open(self, parameter_groups: ParameterGroups | None) -> None:
        """Optimiser, precision, and whatever an earlier run left."""
        groups = parameter_groups or decay_groups(self.model, weight_decay=self.config.weight_decay)
        sharded = self.world > 1 and self.config.parallel == "fsdp2"
        if sharded:
            groups = shard(self.model, groups)
        optimizer = adamw(groups, learning_rate=self.config.learning_rate)
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint is not None:
            self._check_same_run(checkpoint.state)
            restore_weights(self.model, checkpoint.weights)
            self.state = Record(**checkpoint.state["loop"])
            self.resumed_from = self.state.step
            self.precision = Precision(**checkpoint.state["precision"])
        else:
            self.precision = of_first_process(choose_precision(self.config.precision, self.accelerator.device))
        if sharded:
            self.wrapped, self.optimizer = self.model, self.accelerator.prepare(optimizer)
        else:
            self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if checkpoint is not None:
            state = slice_optimizer_state(checkpoint.optimizer, optimizer) if sharded else checkpoint.optimizer
            self.optimizer.load_state_dict(state)
        self.accumulator = Accumulator(
            model=self.model,
            wrapped=self.wrapped,
            accelerator=self.accelerator,
            batches=self.batches,
            compute_losses=self.compute_losses,
            count_targets=self.count_targets,
            loss_weights=self.loss_weights,
            num_batches=self.config.gradient_accumulation,
            bf16=self.precision.name == "bf16",
            seed=self.seed,
        )
        if self.tracker is not None:
            self.accelerator.init_trackers("training", config={"seed": self.seed, **dataclasses.asdict(self.config)})

    def run(self) -> TrainingResult:
        stopped_by: StoppedBy = "max_steps"
        limit = self.config.max_minutes * 60 or math.inf
        while self.state.step < self.config.max_steps:
            if self.state.seconds >= limit:
                stopped_by = "max_minutes"
                break
            if self.patience and self.state.evaluations_without_gain() >= self.patience:
                stopped_by = "patience"
                break
            self._step()
        self._finish()
        if self.tracker is not None:
            for tracker in self.accelerator.trackers:  # `end_training` would end the processes' group, too
                tracker.finish()
        state = self.state
        return TrainingResult(
            steps=state.step,
            history=[*state.history, *state.open_window()],
            evaluations=state.evaluations,
            tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
            loading_share=state.loading / state.seconds if state.seconds else 0.0,
            resumed_from=self.resumed_from,
            precision=self.precision,
            seconds=state.seconds,
            stopped_by=stopped_by,
            best_step=int(state.best[1]) if state.best else None,
            skipped_steps=state.skipped,
        )

    def run_evaluation(self) -> None:
        """One evaluation into the state, and the weights put aside when they are the best so far."""
        if self.evaluate is None:
            return
        self.model.eval()
        with torch.no_grad(), self.accumulator.autocast():
            figures = self.evaluate(self.model)
        self.state.evaluations.append({"step": self.state.step, **figures})
        self._track({f"heldout/{name}": value for name, value in figures.items()})
        if self.keep_best is None:
            return
        if self.keep_best not in figures:
            raise InputError(f"keep_best={self.keep_best!r} is not evaluated; there are {sorted(figures)}")
        value, best = figures[self.keep_best], self.state.best
        if not best or (value < best[0] if self.best_is_lowest else value > best[0]):
            self.state.best = [value, self.state.step]
            weights = gathered(weights_of(self.model))
            if self.accelerator.is_main_process:
                save_weights(self.folder / BEST, weights)

    def _step(self) -> None:
        started = time.perf_counter()
        config, state = self.config, self.state
        if self.trainable_from is not None:
            thaw(self.model, self.trainable_from, state.step)
        factor = learning_rate_factor(state.step, max_steps=config.max_steps, warmup_ratio=config.warmup_ratio)
        rate = set_learning_rates(self.optimizer, factor)
        self.model.train()
        step = self.accumulator.gradients(state.step)
        state.loading += step.loading
        figures = {**step.losses, "grad_norm": self._clip()}
        if self._is_bad(figures, step.worst):
            state.skipped += 1
        else:
            self.optimizer.step()
            state.recent = [*state.recent, figures["loss"]][-RECENT:] if config.spike_factor else []
            state.add(figures, step.sums)
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        seconds = time.perf_counter() - started
        everyone = sum_over_processes(self.accelerator, {"tokens": step.tokens, "seconds": seconds})
        state.tokens += int(everyone["tokens"])
        state.seconds += everyone["seconds"] / self.world
        self._close_window(rate)
        if self.on_step is not None:
            self.on_step(state.step, {**step.losses, "tokens_per_second": everyone["tokens"] / seconds})
        if config.eval_every and state.step % config.eval_every == 0:
            self.run_evaluation()
        if config.save_every and state.step % config.save_every == 0 and state.step < config.max_steps:
            self._save()

    def _clip(self) -> float:
        """The gradient's norm before it is scaled down."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if norm is None:
            return 0.0
        return float(gathered({"norm": norm})["norm"])

    def _close_window(self, rate: float) -> None:
        """At every log_every-th step the window becomes one entry of the history."""
        state = self.state
        if state.step % self.config.log_every and state.step != self.config.max_steps:
            return
        for means in state.open_window():
            state.history.append({**means, "learning_rate": rate})
            self._track(state.history[-1])
        state.window = {}

    def _track(self, figures: Mapping[str, float]) -> None:
        if self.tracker is not None:
            self.accelerator.log({n: v for n, v in figures.items() if n != "step"}, step=self.state.step)

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
        """Every process gathers; the first one writes, the same files whatever the number of processes."""
        weights, optimizer = gathered(weights_of(self.model)), gathered(self.optimizer.state_dict())
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.folder,
                step=self.state.step,
                weights=weights,
                optimizer=optimizer,
                state={
                    "loop": dataclasses.asdict(self.state),
                    "precision": dataclasses.asdict(self.precision),
                    **self._identity(),
                },
                keep=self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from; batch_size is that of all processes."""
        free = {"max_minutes", "save_every", "keep_checkpoints", "precision", "on_bad_step", "parallel"}
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in free}
        settings["batch_size"] *= self.world
        return {"seed": self.seed, "batches": len(self.batches), "config": settings}

    def _check_same_run(self, state: Mapping[str, Any]) -> None:
        for name, value in self._identity().items():
            if state[name] != value:
                raise InputError(
                    f"{self.folder} holds a checkpoint made with {name} {state[name]}, this run has {value}; "
                    f"use the same, or delete the folder to start anew"
                )

    def _is_bad(self, figures: Mapping[str, float], batch: Mapping[str, Tensor]) -> bool:
        """Whether the step is not to be taken; its batch is then in a file. All processes answer alike.

        Raises:
            BadStep: it is not, and the config says to stop.
        """
        strange = not_finite(figures)
        wrong = strange or spike(figures["loss"], self.state.recent, self.config.spike_factor)
        if wrong is None:
            return False
        kind = "non-finite" if strange else "spike"
        own = f"-process-{self.rank}" if self.world > 1 else ""
        path = self.folder / f"{kind}-step-{self.state.step + 1:08d}{own}.safetensors"
        save_weights(path, {name: tensor.cpu() for name, tensor in batch.items()})
        if self.config.on_bad_step == "skip":
            return True
        raise (NonFiniteLoss if strange else BadStep)(
            f"training stopped at step {self.state.step + 1}: {wrong}; the batch is in {path}; look at its inputs, "
            f"lower training.learning_rate (now {self.config.learning_rate}), or set training.on_bad_step to skip"
        )
