"""Which triples and negatives the steps see: shuffled batches, fresh negatives, every choice from one generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kg.engines import ENGINES, StepSettings
from kg.negatives import SAMPLERS, KnownQueries, bernoulli_weights
from kg.transe import TransE

TRIPLES_AT_ONCE = 16_384  # between two reports of progress


class Diverged(RuntimeError):
    """The loss is no longer a number."""


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
