"""What a visit does: the training of `kg.transe` on the triples between the partitions in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kg.embed_config import EmbedConfig
from kg.engines import choose_engine
from kg.errors import InputError
from kg.partitioned.buckets import Buckets
from kg.partitioned.layout import Visit
from kg.partitioned.store import Residents, Shared
from kg.trainer import Diverged, Trainer
from kg.transe import TransE


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
    settings: EmbedConfig,
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
    model: TransE, triples: torch.Tensor, settings: EmbedConfig, epoch: int, generator: torch.Generator
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
