"""Optimiser steps of TransE: row-wise Adagrad on the rows a batch touched, by two engines that take the same steps.

`torch` is plain tensor operations, on any device; `fused` is compiled by numba for the CPU (`kg.fused`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kg.errors import InputError
from kg.losses import LOSSES
from kg.negatives import KnownQueries
from kg.transe import NORMS, TransE


class RowAdagrad:
    """Adagrad with one accumulator a row (the mean square of the row's gradient), in place, touched rows only."""

    def __init__(self, table: Tensor, *, learning_rate: float) -> None:
        self.table, self.learning_rate = table, learning_rate
        self.accumulated = torch.zeros(len(table), dtype=table.dtype, device=table.device)

    def step(self, rows: Tensor, gradients: Tensor) -> None:
        """rows: (n,), repeats allowed: their gradients are summed first. gradients: (n, dim)."""
        touched, place = torch.unique(rows, return_inverse=True)
        summed = gradients.new_zeros(len(touched), gradients.shape[1])
        summed.index_add_(0, place, gradients)
        state = self.accumulated[touched] + summed.square().mean(1)
        self.accumulated[touched] = state
        steps = summed * (self.learning_rate / (state.sqrt() + 1e-10)).unsqueeze(1)
        self.table.index_copy_(0, touched, self.table.index_select(0, touched).sub_(steps))


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What every step of a training shares. known: None keeps negatives that are true triples."""

    loss: str
    margin: float
    temperature: float
    known: KnownQueries | None


class Engine(Protocol):
    """Takes optimiser steps on a model's tables, in place; the same steps, up to rounding, whatever the engine.

    accumulated: Adagrad's accumulators of the entities and of the relations. learning_rate: may be set between steps.
    """

    accumulated: tuple[Tensor, Tensor]
    learning_rate: float

    def steps(self, batches: Tensor, negatives: Tensor, weights: Tensor | None) -> float:
        """batches: (steps, batch_size, 3). negatives: (steps, 2 * chunks, n). weights: (steps, batch_size, 2).

        Returns the loss, summed over steps, triples and sides.
        """
        ...


class TorchEngine:
    """Closed-form gradients as torch operations, where the model's tables lie: any device, any floating type."""

    def __init__(self, model: TransE, settings: StepSettings, *, learning_rate: float) -> None:
        self.model, self.settings, self.device = model, settings, model.entities.device
        self._known = None if settings.known is None else settings.known.to(self.device)
        self._entities = RowAdagrad(model.entities, learning_rate=learning_rate)
        self._relations = RowAdagrad(model.relations, learning_rate=learning_rate)
        self.accumulated = self._entities.accumulated, self._relations.accumulated
        self.learning_rate = learning_rate

    def steps(self, batches: Tensor, negatives: Tensor, weights: Tensor | None) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batches, negatives = batches.to(self.device), negatives.to(self.device)
        weights = None if weights is None else weights.to(self.device)
        self._entities.learning_rate = self._relations.learning_rate = self.learning_rate
        with _deterministic(self.device):
            for step, batch in enumerate(batches):
                total += self._step(batch, negatives[step], None if weights is None else weights[step])
        return float(total)

    def _step(self, batch: Tensor, negatives: Tensor, weights: Tensor | None) -> Tensor:
        given = self.settings
        found = self.model.gradient(
            batch,
            negatives,
            loss=LOSSES[given.loss],
            margin=given.margin,
            temperature=given.temperature,
            known=self._known,
            weights=weights,
        )
        self._entities.step(found.entity_rows, found.entity_gradients)
        self._relations.step(found.relation_rows, found.relation_gradients)
        return found.loss


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a graphics card sums in a fixed order, at some cost; the CPU's are so anyway."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class FusedEngine:
    """The compiled step of `kg.fused`: float32 tables on the CPU; threads as torch has at the moment of a step."""

    def __init__(self, model: TransE, settings: StepSettings, *, learning_rate: float) -> None:
        from kg import fused

        fused.compile_ahead()
        self._fused = fused
        self._tables = model.entities.numpy(), model.relations.numpy()
        self.accumulated = torch.zeros(len(model.entities)), torch.zeros(len(model.relations))
        self._marks = tuple(np.zeros(len(table), np.int32) for table in self._tables for _ in ("first", "mark"))
        self._known = self._empty_known() if settings.known is None else self._known_arrays(settings.known)
        self._settings = (
            fused.LOSS_CODES[settings.loss],
            np.float32(settings.margin),
            np.float32(settings.temperature),
            model.norm is NORMS["l2"],
            model.reciprocal,
            settings.known is not None,
        )
        self.learning_rate, self._steps_taken = learning_rate, 0

    def steps(self, batches: Tensor, negatives: Tensor, weights: Tensor | None) -> float:
        nothing = torch.zeros(len(batches), 0, 2)
        threads = self._fused.use_threads(torch.get_num_threads())
        total = self._fused.run_steps(
            self._tables,
            tuple(state.numpy() for state in self.accumulated),
            self._marks,
            batches.numpy(),
            negatives.numpy(),
            (nothing if weights is None else weights).numpy(),
            self._known,
            self._settings,
            np.float32(self.learning_rate),
            self._steps_taken + 1,
            threads,
        )
        self._steps_taken += len(batches)
        return float(total)

    @staticmethod
    def _known_arrays(known: KnownQueries) -> tuple[np.ndarray, np.ndarray]:
        return known.questions.numpy(), known.starts.numpy()

    @staticmethod
    def _empty_known() -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)


ENGINES: dict[str, Callable[..., Engine]] = {"torch": TorchEngine, "fused": FusedEngine}


def choose_engine(name: str, device: str = "cpu") -> tuple[str, str]:
    """The engine that `name` means here, and why; auto = fused where numba can be imported, else torch.

    On every setting measured (`benchmarks/embedding.py`) the fused engine was at least as fast; it takes the same
    steps, so that there is nothing else to choose by. Only torch knows other devices than the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device}: torch {torch.__version__} finds no graphics card here; set device to cpu")
    if name != "auto":
        return name, "as asked"
    if device != "cpu":
        return "torch", "the device is no CPU"
    if importlib.util.find_spec("numba") is None:
        return "torch", "numba is not installed"
    return "fused", "numba is installed"
