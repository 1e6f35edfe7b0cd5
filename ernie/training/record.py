"""What a training remembers of itself: its place, its curve, its best; plain JSON values, kept in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ernie.training.precision import Precision

StoppedBy = Literal["max_steps", "max_minutes", "patience"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training did.

    steps: optimiser steps taken in all, those before a resume among them. history: one entry every log_every steps,
    `{"step", "loss", …, "learning_rate", "grad_norm"}`, means since the entry before. evaluations: `{"step", …}`.
    tokens_per_second: real word pieces (attention_mask) over the time of the steps alone, of all processes.
    loading_share: share of that time spent on making batches. resumed_from: the step a checkpoint was found at, or
    None. best_step: the step whose weights the model now has when `keep_best` was asked for, else None.
    skipped_steps: bad steps that changed nothing.
    """

    steps: int
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    tokens_per_second: float
    loading_share: float
    resumed_from: int | None
    precision: Precision
    seconds: float
    stopped_by: StoppedBy
    best_step: int | None
    skipped_steps: int


@dataclass
class Record:
    """step: steps taken. seconds, loading: of the steps, and of that on batches. skipped: bad steps among them.

    window: name -> [sum, count] since the last entry of the history. recent: the last losses. best: [figure, step].
    """

    step: int = 0
    seconds: float = 0.0
    loading: float = 0.0
    tokens: int = 0
    skipped: int = 0
    window: dict[str, list[float]] = field(default_factory=dict)
    recent: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def add(self, figures: Mapping[str, float], sums: Mapping[str, tuple[float, float]]) -> None:
        """A step's figures into the open window; sums: name -> (sum, count)."""
        for name, (value, count) in [*((n, (v, 1)) for n, v in figures.items()), *sums.items()]:
            total = self.window.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += count

    def open_window(self) -> list[dict[str, float]]:
        """Means of the steps since the last entry of the history; empty when there are none."""
        means = {name: total / count for name, (total, count) in self.window.items() if count}
        return [{"step": self.step, **means}] if means else []

    def evaluations_without_gain(self) -> int:
        """Evaluations since the best."""
        return sum(entry["step"] > self.best[1] for entry in self.evaluations) if self.best else 0
