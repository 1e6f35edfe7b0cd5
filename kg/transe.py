"""TransE (Bordes et al. 2013): head + relation lands near tail; the model, its distances and its gradient.

Negatives are shared inside a chunk of triples, on both sides, so that scoring them is one matrix product; gradients
are in closed form. `kg.engines` takes steps by them, `kg.trainer` chooses what the steps see.

Entity rows run 1..num_entities, row 0 is padding and stays zero; relation rows run 0..num_relations-1.
A score is minus the distance: larger is better. "Side" 0 asks for the tail, side 1 for the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kg.losses import Loss
from kg.negatives import KnownQueries

SMALLEST_SQUARE = 1e-6  # below this a squared distance is rounding of the matrix product, not a length


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
    squares = torch.linalg.vector_norm(candidates, dim=-1).square_().unsqueeze(1)  # `square` would copy the table
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


NormName = Literal["l1", "l2"]
NORMS: dict[NormName, Norm] = {
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

    def __init__(self, entities: Tensor, relations: Tensor, *, norm: NormName = "l2", reciprocal: bool = False) -> None:
        assert entities.shape[1] == relations.shape[1], "entities and relations share one width"
        self.entities = entities
        self.relations = relations
        self.norm, self.norm_name = NORMS[norm], norm
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
        norm: NormName = "l2",
        reciprocal: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> TransE:
        """Tables of independent normal values with standard deviation `scale`."""
        entities = torch.randn(num_entities + 1, dim, generator=generator, dtype=dtype) * scale
        entities[0] = 0.0
        rows = num_relations * (2 if reciprocal else 1)
        relations = torch.randn(rows, dim, generator=generator, dtype=dtype) * scale
        return cls(entities, relations, norm=norm, reciprocal=reciprocal)

    def to(self, device: str) -> TransE:
        """The same model there; itself where it is there already."""
        tables = self.entities.to(device), self.relations.to(device)
        moved = TransE(*tables, norm=self.norm_name, reciprocal=self.reciprocal)
        return self if self.entities is tables[0] else moved

    def queries(self, triples: Tensor, side: int) -> Tensor:
        """Where the missing entity should lie, shape (n, dim); triples: (n, 3) head, relation, tail."""
        known = self.entities.index_select(0, triples[:, 0 if side == 0 else 2])
        if side == 0:
            return known + self.relations.index_select(0, triples[:, 1])
        if self.reciprocal:
            return known + self.relations.index_select(0, triples[:, 1] + self.num_relations)
        return known - self.relations.index_select(0, triples[:, 1])

    def score_all(self, triples: Tensor, side: int) -> Tensor:
        """Scores of every entity row as the missing entity, shape (n, num_entities + 1), on the CPU; column 0 means
        nothing."""
        queries = self.queries(triples.to(self.entities.device), side)
        return self.norm.crossed(queries.unsqueeze(0), self.entities.unsqueeze(0)).squeeze(0).neg_().cpu()

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
