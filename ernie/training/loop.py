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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ernie.errors import InputError
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
    shard,
    slice_optimizer_state,
    sum_over_processes,
    synchronise_gradients,
)
from ernie.training.record import Record, StoppedBy, TrainingResult
from ernie.training.reproducibility import derived_seed, isolated_randomness

Losses = dict[str, Tensor]
Sums = dict[str, tuple[float, float]]
ComputeLosses = Callable[[nn.Module, dict[str, Tensor]], "Losses | tuple[Losses, Sums]"]
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
    count_targets: Callable[[Mapping[str, Tensor]], Mapping[str, float]] | None = None,
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


@dataclass(slots=True)
class _Step:
    """One step before it is taken. losses: of all processes. sums: figures, name -> (sum, count). worst: this process's
    batch with the highest loss, or the first with one that is not finite."""

    losses: dict[str, float]
    sums: Sums
    tokens: int
    worst: dict[str, Tensor]


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
            self.precision = choose_precision(self.config.precision, self.accelerator.device)
        if sharded:
            self.wrapped, self.optimizer = self.model, self.accelerator.prepare(optimizer)
        else:
            self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if checkpoint is not None:
            state = slice_optimizer_state(checkpoint.optimizer, optimizer) if sharded else checkpoint.optimizer
            self.optimizer.load_state_dict(state)
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
            self.accelerator.end_training()
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
        with torch.no_grad(), self._autocast():
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
        step = self._accumulate()
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

    def _accumulate(self) -> _Step:
        """Gradients of one optimiser step."""
        count = self.config.gradient_accumulation
        started = time.perf_counter()
        group = [self._fetch(index) for index in range(count)]
        self.state.loading += time.perf_counter() - started
        shares, without_target = self._shares(group)
        parts: dict[str, float] = {"loss": 0.0}
        sums: dict[str, list[float]] = {}
        worst, highest = group[0], -math.inf
        for index, (batch, share) in enumerate(zip(group, shares, strict=True)):
            torch.manual_seed(derived_seed(self.seed, self.state.step, index, self.rank))
            losses, figures, total = self._backward(batch, share, last=index + 1 == count)
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
        return _Step(
            sum_over_processes(self.accelerator, parts),
            self._sum_figures(sums),
            sum(_tokens(batch) for batch in group),
            worst,
        )

    def _backward(
        self, batch: dict[str, Tensor], share: Mapping[str, float], *, last: bool
    ) -> tuple[Losses, Sums, float]:
        """Losses and figures of one batch, and its part of the step's loss, whose gradient is added.

        Processes average their gradients, so each multiplies its part by their number.
        """
        synchronise_gradients(self.model, last)
        with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
            with self._autocast():
                found = self.compute_losses(self.wrapped, batch)
            losses, figures = found if isinstance(found, tuple) else (found, {})
            total = self._total(losses, share)
            if total.requires_grad:
                self.accelerator.backward(total * self.world)
        return losses, figures, float(total.detach())

    def _fetch(self, index: int) -> dict[str, Tensor]:
        """Batch `index` of this step."""
        number = self.state.step * self.config.gradient_accumulation + index
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

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision.name == "bf16")

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


def _tokens(batch: Mapping[str, Tensor]) -> int:
    """Real word pieces of a batch; its examples where it holds none."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    tensor = batch.get("input_ids", next(iter(batch.values())))
    return tensor.numel() if "input_ids" in batch else len(tensor)
