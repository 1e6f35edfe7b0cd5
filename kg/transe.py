"""TransE (Bordes et al. 2013): head + relation lands near tail; trained without autograd and without a dense gradient.

Three things make it fast on a CPU. Negatives are shared inside a chunk of triples, on both sides, so that scoring
them is one matrix product. Gradients are in closed form. Row-wise Adagrad walks only the rows a batch touched.

Entity rows run 1..num_entities, row 0 is padding and stays zero; relation rows run 0..num_relations-1.
A score is minus the distance: larger is better. "Side" 0 asks for the tail, side 1 for the head.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kg.losses import LOSSES, Loss
from kg.negatives import SAMPLERS, KnownQueries, bernoulli_weights

TRIPLES_AT_ONCE = 16_384  # between two reports of progress
SMALLEST_SQUARE = 1e-6  # below this a squared distance is rounding of the matrix product, not a length


class Diverged(RuntimeError):
    """The loss is no longer a number."""


# --- distances ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Norm:
    """A distance and its gradient.

    paired: (..., dim), (..., dim) -> (...): row against row.
    paired_gradient: queries, targets, distances, dL/ddistance (...) -> dL/dqueries; dL/dtargets is its negative.
    crossed: (b, m, dim), (b, n, dim) -> (b, m, n): every query against every candidate of its block.
    crossed_gradient: queries, candidates, distances, dL/ddistance (b, m, n) -> dL/dqueries, dL/dcandidates.
    """

    paired: Callable[[Tensor, Tensor], Tensor]
    paired_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    crossed: Callable[[Tensor, Tensor], Tensor]
    crossed_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _l2_paired(queries: Tensor, targets: Tensor) -> Tensor:
    return (queries - targets).square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()


def _l2_paired_gradient(queries: Tensor, targets: Tensor, distances: Tensor, upstream: Tensor) -> Tensor:
    return (queries - targets) * (upstream / distances).unsqueeze(-1)


def _l2_crossed(queries: Tensor, candidates: Tensor) -> Tensor:
    """|q - n|^2 = |q|^2 + |n|^2 - 2 q.n, one batched matrix product."""
    squares = candidates.square().sum(-1).unsqueeze(1)
    distances = torch.baddbmm(squares, queries, candidates.transpose(1, 2), alpha=-2.0)
    distances += queries.square().sum(-1, keepdim=True)
    return distances.clamp_min_(SMALLEST_SQUARE).sqrt_()


def _l2_crossed_gradient(
    queries: Tensor, candidates: Tensor, distances: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """With W = upstream / distance: dq = q * sum_n W - W n, dn = n * sum_q W - W' q."""
    weights = upstream / distances
    for_queries = torch.baddbmm(queries * weights.sum(2, keepdim=True), weights, candidates, alpha=-1.0)
    swapped = weights.transpose(1, 2)
    for_candidates = torch.baddbmm(candidates * swapped.sum(2, keepdim=True), swapped, queries, alpha=-1.0)
    return for_queries, for_candidates


def _l1_paired(queries: Tensor, targets: Tensor) -> Tensor:
    return (queries - targets).abs().sum(-1)


def _l1_paired_gradient(queries: Tensor, targets: Tensor, distances: Tensor, upstream: Tensor) -> Tensor:
    return (queries - targets).sign() * upstream.unsqueeze(-1)


def _l1_crossed(queries: Tensor, candidates: Tensor) -> Tensor:
    return torch.cdist(queries, candidates, p=1.0)


def _l1_crossed_gradient(
    queries: Tensor, candidates: Tensor, distances: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """sum sign(q - n) * upstream, by the kernel torch keeps for `cdist` (the signs are never stored)."""
    backward = torch.ops.aten._cdist_backward
    swapped = [t.transpose(1, 2).contiguous() for t in (upstream, distances)]
    for_queries = backward(upstream.contiguous(), queries, candidates, 1.0, distances)
    for_candidates = backward(swapped[0], candidates, queries, 1.0, swapped[1])
    return for_queries, for_candidates


NORMS = {
    "l1": Norm(_l1_paired, _l1_paired_gradient, _l1_crossed, _l1_crossed_gradient),
    "l2": Norm(_l2_paired, _l2_paired_gradient, _l2_crossed, _l2_crossed_gradient),
}


# --- model ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchGradient:
    """What one batch asks of the tables: rows (may repeat) and the gradient each occurrence adds."""

    loss: Tensor
    entity_rows: Tensor
    entity_gradients: Tensor
    relation_rows: Tensor
    relation_gradients: Tensor


class TransE:
    """Two tables and the rule between them.

    entities: (num_entities + 1, dim), row 0 zeros. relations: (num_relations, dim), or (2 * num_relations, dim)
    with `reciprocal`: the second half answers "which head?" as tail + inverse relation (Lacroix et al. 2018)
    instead of tail - relation.
    """

    def __init__(self, entities: Tensor, relations: Tensor, *, norm: str = "l2", reciprocal: bool = False) -> None:
        assert entities.shape[1] == relations.shape[1], "entities and relations share one width"
        self.entities = entities
        self.relations = relations
        self.norm = NORMS[norm]
        self.reciprocal = reciprocal
        self.num_relations = len(relations) // 2 if reciprocal else len(relations)

    @classmethod
    def initialised(
        cls,
        *,
        num_entities: int,
        num_relations: int,
        dim: int,
        scale: float,
        generator: torch.Generator,
        norm: str = "l2",
        reciprocal: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> TransE:
        """Tables of independent normal values with standard deviation `scale`."""
        entities = torch.randn(num_entities + 1, dim, generator=generator, dtype=dtype) * scale
        entities[0] = 0.0
        rows = num_relations * (2 if reciprocal else 1)
        relations = torch.randn(rows, dim, generator=generator, dtype=dtype) * scale
        return cls(entities, relations, norm=norm, reciprocal=reciprocal)

    def queries(self, triples: Tensor, side: int) -> Tensor:
        """Where the missing entity should lie, shape (n, dim); triples: (n, 3) head, relation, tail."""
        known = self.entities.index_select(0, triples[:, 0 if side == 0 else 2])
        if side == 0:
            return known + self.relations.index_select(0, triples[:, 1])
        if self.reciprocal:
            return known + self.relations.index_select(0, triples[:, 1] + self.num_relations)
        return known - self.relations.index_select(0, triples[:, 1])

    def score_all(self, triples: Tensor, side: int) -> Tensor:
        """Scores of every entity row as the missing entity, shape (n, num_entities + 1); column 0 means nothing."""
        found = self.norm.crossed(self.queries(triples, side).unsqueeze(0), self.entities.unsqueeze(0))
        return found.squeeze(0).neg_()

    def gradient(
        self,
        triples: Tensor,
        negatives: Tensor,
        *,
        loss: Loss,
        margin: float,
        temperature: float,
        known: KnownQueries | None = None,
        weights: Tensor | None = None,
    ) -> BatchGradient:
        """Loss and gradient of a batch cut into chunks, each chunk against its own negatives on both sides.

        triples: (num_chunks * chunk, 3). negatives: entity rows (2 * num_chunks, num_negatives), side 0 first.
        known: negatives that are true triples are ignored; None keeps them.
        weights: (num_chunks * chunk, 2), how much each side of each triple counts; None = 1.
        """
        blocks, dim = len(negatives), self.entities.shape[1]
        heads, tails = (self.entities.index_select(0, triples[:, column]) for column in (0, 2))
        queries = self._translate(heads, triples[:, 1], tails).view(blocks, -1, dim)
        targets = torch.stack([tails, heads]).view_as(queries)
        candidates = self.entities.index_select(0, negatives.view(-1)).view(blocks, -1, dim)
        near, far = self.norm.paired(queries, targets), self.norm.crossed(queries, candidates)
        scores = -far
        if known is not None:
            scores[known.true_negatives(triples, negatives)] = -torch.inf
        values, by_positive, by_negative = loss(-near, scores, margin=margin, temperature=temperature)
        if weights is not None:
            shares = weights.T.reshape(near.shape)
            values, by_positive = values * shares, by_positive * shares
            by_negative = by_negative * shares.unsqueeze(-1)
        pull = self.norm.paired_gradient(queries, targets, near, by_positive.neg_())
        by_queries, by_candidates = self.norm.crossed_gradient(queries, candidates, far, by_negative.neg_())
        by_queries = (by_queries + pull).view(2, -1, dim)
        by_targets = pull.view(2, -1, dim).flip(0)
        relation_rows, by_relations = self._relation_gradient(triples[:, 1], by_queries)
        return BatchGradient(
            values.sum(),
            torch.cat([triples[:, 0], triples[:, 2], negatives.view(-1)]),
            torch.cat([(by_queries - by_targets).view(-1, dim), by_candidates.view(-1, dim)]),
            relation_rows,
            by_relations,
        )

    def _translate(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """Both sides' queries from gathered entity rows, shape (2, n, dim)."""
        forward = self.relations.index_select(0, relations)
        if not self.reciprocal:
            return torch.stack([heads + forward, tails - forward])
        inverse = self.relations.index_select(0, relations + self.num_relations)
        return torch.stack([heads + forward, tails + inverse])

    def _relation_gradient(self, relations: Tensor, by_queries: Tensor) -> tuple[Tensor, Tensor]:
        if self.reciprocal:
            return torch.cat([relations, relations + self.num_relations]), by_queries.flatten(0, 1)
        return relations, by_queries[0] - by_queries[1]


# --- optimiser ------------------------------------------------------------------------------------------------


class RowAdagrad:
    """Adagrad with one accumulator a row (the mean square of the row's gradient), in place, touched rows only."""

    def __init__(self, table: Tensor, *, learning_rate: float) -> None:
        self.table, self.learning_rate = table, learning_rate
        self.accumulated = torch.zeros(len(table), dtype=table.dtype)

    def step(self, rows: Tensor, gradients: Tensor) -> None:
        """rows: (n,), repeats allowed: their gradients are summed first. gradients: (n, dim)."""
        touched, place = torch.unique(rows, return_inverse=True)
        summed = torch.zeros(len(touched), gradients.shape[1], dtype=gradients.dtype)
        summed.index_add_(0, place, gradients)
        state = self.accumulated[touched] + summed.square().mean(1)
        self.accumulated[touched] = state
        steps = summed * (self.learning_rate / (state.sqrt() + 1e-10)).unsqueeze(1)
        self.table.index_copy_(0, touched, self.table.index_select(0, touched).sub_(steps))


# --- engines --------------------------------------------------------------------------------------------------


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
    """Closed-form gradients as torch operations: any device, any floating type."""

    def __init__(self, model: TransE, settings: StepSettings, *, learning_rate: float) -> None:
        self.model, self.settings = model, settings
        self._entities = RowAdagrad(model.entities, learning_rate=learning_rate)
        self._relations = RowAdagrad(model.relations, learning_rate=learning_rate)
        self.accumulated = self._entities.accumulated, self._relations.accumulated
        self.learning_rate = learning_rate

    def steps(self, batches: Tensor, negatives: Tensor, weights: Tensor | None) -> float:
        total, given = torch.zeros((), dtype=torch.float64), self.settings
        self._entities.learning_rate = self._relations.learning_rate = self.learning_rate
        for step, batch in enumerate(batches):
            found = self.model.gradient(
                batch,
                negatives[step],
                loss=LOSSES[given.loss],
                margin=given.margin,
                temperature=given.temperature,
                known=given.known,
                weights=None if weights is None else weights[step],
            )
            self._entities.step(found.entity_rows, found.entity_gradients)
            self._relations.step(found.relation_rows, found.relation_gradients)
            total += found.loss
        return float(total)


class FusedEngine:
    """The compiled step of `kg.fused`: float32 tables on the CPU; threads as torch has at the moment of a step."""

    def __init__(self, model: TransE, settings: StepSettings, *, learning_rate: float) -> None:
        from kg import fused

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


def choose_engine(name: str) -> tuple[str, str]:
    """The engine that `name` means here, and why; auto = fused where numba can be imported, else torch.

    On every setting measured (`benchmarks/embedding.py`) the fused engine was at least as fast; it takes the same
    steps, so that there is nothing else to choose by.
    """
    if name != "auto":
        return name, "as asked"
    if importlib.util.find_spec("numba") is None:
        return "torch", "numba is not installed"
    return "fused", "numba is installed"


# --- training -------------------------------------------------------------------------------------------------


class Trainer:
    """Batches of shuffled triples, fresh negatives, one optimiser step each; every choice from one generator.

    triples: (n, 3) int64, at least one. batch_size and chunk_size are cut to n on a small graph; the last batch of
    an epoch is filled up with triples of its beginning, so that all batches have one shape.
    num_negatives: a chunk and side; two sides make it twice as many a triple.
    engine: torch or fused. negatives: a name of `SAMPLERS`. filtered: whether true triples count as negatives.
    """

    def __init__(
        self,
        model: TransE,
        triples: Tensor,
        *,
        loss: str,
        margin: float,
        temperature: float,
        learning_rate: float,
        num_negatives: int,
        batch_size: int,
        chunk_size: int,
        generator: torch.Generator,
        engine: str = "torch",
        negatives: str = "uniform",
        filtered: bool = True,
    ) -> None:
        assert len(triples) > 0, "training needs a triple"
        self.model, self.triples, self.generator = model, triples, generator
        self.num_negatives = num_negatives
        self.chunk_size = min(chunk_size, batch_size, len(triples))
        self.num_chunks = max(1, min(batch_size, len(triples)) // self.chunk_size)
        self.batch_size = self.chunk_size * self.num_chunks
        self.steps_per_epoch = -(-len(triples) // self.batch_size)
        num_entities = len(model.entities) - 1
        counts = {"num_entities": num_entities, "num_relations": model.num_relations}
        self.known = KnownQueries(triples, **counts) if filtered else None
        settings = StepSettings(loss, margin, temperature, self.known)
        self.engine = ENGINES[engine](model, settings, learning_rate=learning_rate)
        self._draw = SAMPLERS[negatives](triples, num_entities=num_entities)
        self._weights = bernoulli_weights(triples) if negatives == "bernoulli" else None

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next step on."""
        self.engine.learning_rate = learning_rate

    def state_dict(self) -> dict[str, Tensor]:
        """What an exact continuation needs besides the model's tables: accumulators and the generator's state."""
        entities, relations = self.engine.accumulated
        state = self.generator.get_state()
        return {"entity_accumulated": entities, "relation_accumulated": relations, "generator": state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` gave; the tables are the model's to restore, in place."""
        for mine, name in zip(self.engine.accumulated, ("entity_accumulated", "relation_accumulated"), strict=True):
            mine.copy_(state[name])
        self.generator.set_state(state["generator"])

    def epoch(self, on_step: Callable[[int], None] = lambda triples: None) -> float:
        """One pass over the triples; returns the mean loss a query. `on_step` gets how many triples were just seen.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        order = torch.randperm(len(self.triples), generator=self.generator)
        order = torch.cat([order, order[: self.steps_per_epoch * self.batch_size - len(order)]])
        total = 0.0
        for rows in order.view(self.steps_per_epoch, self.batch_size).split(max(1, TRIPLES_AT_ONCE // self.batch_size)):
            total += self._steps(rows)
            if not math.isfinite(total):
                raise Diverged(f"the loss became {total}; lower the learning rate (now {self.engine.learning_rate})")
            on_step(rows.numel())
        return total / (2 * order.numel())

    def _steps(self, rows: Tensor) -> float:
        """One optimiser step a line of `rows` (steps, batch_size), positions among the triples."""
        batches = self.triples[rows]
        negatives = self._draw(batches, self.num_chunks, self.num_negatives, self.generator)
        return self.engine.steps(batches, negatives, None if self._weights is None else self._weights[rows])
