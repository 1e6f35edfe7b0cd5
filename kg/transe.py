"""TransE (Bordes et al. 2013): head + relation lands near tail; trained without autograd and without a dense gradient.

Three things make it fast on a CPU. Negatives are shared inside a chunk of triples, on both sides, so that scoring
them is one matrix product. Gradients are in closed form. Row-wise Adagrad walks only the rows a batch touched.

Entity rows run 1..num_entities, row 0 is padding and stays zero; relation rows run 0..num_relations-1.
A score is minus the distance: larger is better. "Side" 0 asks for the tail, side 1 for the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kg.ranking import KnownQueries

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


# --- losses ---------------------------------------------------------------------------------------------------


class Loss(Protocol):
    """A loss over shared negatives, with its gradient.

    positive: scores of the true triples, shape (num_blocks, num_queries).
    negative: scores of the negatives, shape (num_blocks, num_queries, num_negatives); -inf = a true triple, ignore;
        may be overwritten.
    margin: gamma, in units of distance. temperature: alpha, sharpness of the self-adversarial weights.

    Returns the sum over queries (a scalar), and its gradients by `positive` and by `negative`.
    """

    def __call__(
        self, positive: Tensor, negative: Tensor, *, margin: float, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...


def self_adversarial(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log s(gamma + f+) - sum_j w_j log s(-gamma - f_j), w = softmax(alpha f) taken as a constant.

    Sun et al. 2019 (RotatE), equations 5 and 6, with f = minus the distance.
    """
    weights = torch.softmax(temperature * negative, -1).masked_fill(negative == -torch.inf, 0.0)
    for_positive, for_negative = positive + margin, negative + margin
    logsigmoid = torch.nn.functional.logsigmoid
    value = -logsigmoid(for_positive).sum() - (weights * logsigmoid(-for_negative)).sum()
    return value, -torch.sigmoid(-for_positive), weights * torch.sigmoid(for_negative)


def cross_entropy(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log softmax of the true triple among itself and its negatives; `margin` and `temperature` play no part.

    Ruffinelli et al. 2020 ("You CAN teach an old dog new tricks"), there called KL, over sampled negatives.
    """
    highest = torch.maximum(positive, negative.amax(-1))
    shares = negative.sub_(highest.unsqueeze(-1)).exp_()
    positive = positive - highest
    normaliser = shares.sum(-1) + positive.exp()
    shares /= normaliser.unsqueeze(-1)
    value = (normaliser.log() - positive).sum()
    return value, positive.exp() / normaliser - 1.0, shares


def margin_ranking(
    positive: Tensor, negative: Tensor, *, margin: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_j max(0, gamma - f+ + f_j) / num_negatives: equation 1 of Bordes et al. 2013, averaged over negatives."""
    hinge = torch.relu(margin - positive.unsqueeze(-1) + negative)
    share = 1.0 / negative.shape[-1]
    active = (hinge > 0).to(negative.dtype) * share
    return hinge.sum() * share, -active.sum(-1), active


LOSSES: dict[str, Loss] = {
    "self_adversarial": self_adversarial,
    "cross_entropy": cross_entropy,
    "margin": margin_ranking,
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
    ) -> BatchGradient:
        """Loss and gradient of a batch cut into chunks, each chunk against its own negatives on both sides.

        triples: (num_chunks * chunk, 3). negatives: entity rows (2 * num_chunks, num_negatives), side 0 first.
        known: negatives that are true triples are ignored; None keeps them.
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
        value, by_positive, by_negative = loss(-near, scores, margin=margin, temperature=temperature)
        pull = self.norm.paired_gradient(queries, targets, near, by_positive.neg_())
        by_queries, by_candidates = self.norm.crossed_gradient(queries, candidates, far, by_negative.neg_())
        by_queries = (by_queries + pull).view(2, -1, dim)
        by_targets = pull.view(2, -1, dim).flip(0)
        relation_rows, by_relations = self._relation_gradient(triples[:, 1], by_queries)
        return BatchGradient(
            value,
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


# --- training -------------------------------------------------------------------------------------------------


class Trainer:
    """Batches of shuffled triples, fresh negatives, one optimiser step each; every choice from one generator.

    triples: (n, 3) int64, at least one. batch_size and chunk_size are cut to n on a small graph; the last batch of
    an epoch is filled up with triples of its beginning, so that all batches have one shape.
    num_negatives: a chunk and side; two sides make it twice as many a triple.
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
    ) -> None:
        assert len(triples) > 0, "training needs a triple"
        self.model, self.triples, self.generator = model, triples, generator
        self.loss, self.margin, self.temperature = LOSSES[loss], margin, temperature
        self.num_negatives = num_negatives
        self.chunk_size = min(chunk_size, batch_size, len(triples))
        self.num_chunks = max(1, min(batch_size, len(triples)) // self.chunk_size)
        self.batch_size = self.chunk_size * self.num_chunks
        self.steps_per_epoch = -(-len(triples) // self.batch_size)
        self.num_entities = len(model.entities) - 1
        self.known = KnownQueries(triples, num_entities=self.num_entities, num_relations=model.num_relations)
        self.entity_optimiser = RowAdagrad(model.entities, learning_rate=learning_rate)
        self.relation_optimiser = RowAdagrad(model.relations, learning_rate=learning_rate)

    def epoch(self, on_step: Callable[[int], None] = lambda triples: None) -> float:
        """One pass over the triples; returns the mean loss a query. `on_step` gets the triples of each step.

        Raises:
            Diverged: the epoch's loss is NaN or infinite.
        """
        order = torch.randperm(len(self.triples), generator=self.generator)
        order = torch.cat([order, order[: self.steps_per_epoch * self.batch_size - len(order)]])
        total = torch.zeros((), dtype=torch.float64)
        for rows in order.view(self.steps_per_epoch, self.batch_size):
            total += self.step(self.triples.index_select(0, rows))
            on_step(self.batch_size)
        mean = float(total) / (2 * order.numel())
        if not torch.isfinite(total):
            raise Diverged(
                f"the loss became {mean}; lower the learning rate (now {self.entity_optimiser.learning_rate})"
            )
        return mean

    def step(self, batch: Tensor) -> Tensor:
        """One optimiser step on `batch` (batch_size, 3); returns the loss, summed over both sides."""
        negatives = torch.randint(
            1, self.num_entities + 1, (2 * self.num_chunks, self.num_negatives), generator=self.generator
        )
        found = self.model.gradient(
            batch, negatives, loss=self.loss, margin=self.margin, temperature=self.temperature, known=self.known
        )
        self.entity_optimiser.step(found.entity_rows, found.entity_gradients)
        self.relation_optimiser.step(found.relation_rows, found.relation_gradients)
        return found.loss
