"""What a visit does: the training of `kg.transe` on the triples between the partitions in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from kg.errors import InputError
from kg.partitioned.buckets import Buckets
from kg.partitioned.layout import Visit
from kg.partitioned.store import Residents, Shared
from kg.transe import Diverged, Trainer, TransE, choose_engine


@dataclass(frozen=True, kw_only=True)
class Settings:
    dim: int = 100
    """Numbers in a vector."""
    norm: Literal["l1", "l2"] = "l2"
    """Distance between head + relation and tail."""
    loss: Literal["cross_entropy", "self_adversarial", "margin"] = "cross_entropy"
    """A name of `kg.losses.LOSSES`."""
    margin: float = 6.0
    """Gamma of self_adversarial and margin, in units of distance."""
    temperature: float = 1.0
    """Alpha of self_adversarial."""
    reciprocal: bool = False
    """Gives every relation a second vector for the question "which head?"."""
    learning_rate: float = 0.2
    """Of row-wise Adagrad."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 over the epochs."""
    init_scale: float = 0.1
    """Standard deviation of the first vectors' numbers."""
    num_negatives: int = 512
    """Negatives of a chunk on each side, drawn from the partitions in memory."""
    negatives: Literal["uniform", "bernoulli", "typed", "degree"] = "uniform"
    """A name of `kg.negatives.SAMPLERS`; what it counts, it counts on the triples in memory."""
    filtered: bool = True
    """Passes over negatives that are true triples, as far as those are in memory."""
    engine: Literal["auto", "torch", "fused"] = "auto"
    """A name of `kg.transe.ENGINES`, or auto."""
    chunk_size: int = 512
    """Triples that share their negatives."""
    batch_size: int = 512
    """Triples a step."""
    epochs: int = 20
    """Passes over the triples."""
    partitions: int = 0
    """P; 0 = the fewest that fit into memory_gb (`layout.plan`)."""
    memory_gb: float = 4.0
    """Memory of all training processes together, in 10^9 bytes; also bounds the triples in memory at once."""
    processes: int = 1
    """Processes of one thread each, training pairs of partitions that have none in common."""
    checkpoint_every: int = 1
    """Visits with triples between two commits, from which a killed run goes on exactly; several processes commit after
    every round."""
    timeout_minutes: float = 60.0
    """Several processes: how long one waits for the others at the end of a round."""
    seed: int = 0
    """Of the first vectors, the order and the negatives."""

    def __post_init__(self) -> None:
        positive = ("dim", "learning_rate", "init_scale", "num_negatives", "chunk_size", "batch_size", "epochs")
        for name in (*positive, "memory_gb", "processes", "checkpoint_every", "timeout_minutes"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} above 0, got {getattr(self, name)}")
        for name in ("margin", "temperature", "partitions"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} of at least 0, got {getattr(self, name)}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        falling = self.learning_rate_schedule == "linear"
        return self.learning_rate * (1 - epoch / self.epochs) if falling else self.learning_rate


@dataclass(slots=True)
class Tally:
    """Of some visits: loss summed over triples (mean of both sides), triples, triples by relation row."""

    loss: float
    triples: int
    by_relation: np.ndarray

    @classmethod
    def empty(cls, num_relations: int) -> Tally:
        return cls(0.0, 0, np.zeros(num_relations, np.int64))


def train_visit(
    visit: Visit,
    tally: Tally,
    *,
    residents: Residents,
    shared: Shared,
    buckets: Buckets,
    settings: Settings,
    epoch: int,
    commit: int,
    triples_at_once: int,
    generator: torch.Generator,
    on_step: Callable[[int], None] = lambda triples: None,
) -> None:
    """Trains the visit's buckets once, in place in `residents` and `shared`, and adds to the tally.

    A visit without triples loads nothing. Every random choice is the generator's.

    Raises:
        InputError: the loss stopped being a number.
    """
    if not buckets.count(visit.buckets):
        return
    residents.bring(visit.slots, commit=commit)
    vectors, accumulated, before = residents.tables(visit.slots)
    model = TransE(vectors, shared.relations, norm=settings.norm, reciprocal=settings.reciprocal)
    for part in buckets.read(visit.buckets, before=before, at_once=triples_at_once):
        tally.by_relation += np.bincount(part[:, 1], minlength=len(tally.by_relation))
        trainer = _trainer(model, torch.from_numpy(part), settings, epoch, generator)
        try:
            tally.loss += _train_part(trainer, (accumulated, shared.accumulated), on_step) * len(part)
        except Diverged as error:
            raise InputError(f"training stopped in epoch {epoch + 1}, partitions {visit.slots}: {error}") from None
        tally.triples += len(part)
        del trainer, part  # before the next part takes memory


def _train_part(
    trainer: Trainer, accumulated: tuple[torch.Tensor, torch.Tensor], on_step: Callable[[int], None]
) -> float:
    """One pass over the trainer's triples, from and to the accumulators given; returns the mean loss."""
    for theirs, mine in zip(trainer.engine.accumulated, accumulated, strict=True):
        theirs.copy_(mine)
    left = len(trainer.triples)

    def own(triples: int) -> None:
        """Without those that only fill up the last batch."""
        nonlocal left
        on_step(min(triples, left))
        left -= min(triples, left)

    loss = trainer.epoch(own)
    for theirs, mine in zip(trainer.engine.accumulated, accumulated, strict=True):
        mine.copy_(theirs)
    return loss


def _trainer(
    model: TransE, triples: torch.Tensor, settings: Settings, epoch: int, generator: torch.Generator
) -> Trainer:
    return Trainer(
        model,
        triples,
        loss=settings.loss,
        margin=settings.margin,
        temperature=settings.temperature,
        learning_rate=settings.rate(epoch),
        num_negatives=settings.num_negatives,
        batch_size=settings.batch_size,
        chunk_size=settings.chunk_size,
        generator=generator,
        engine=choose_engine(settings.engine)[0],
        negatives=settings.negatives,
        filtered=settings.filtered,
    )
