"""Training of a table larger than memory, from triples to the written vectors."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kg.partitioned.buckets import Buckets, Source
from kg.partitioned.files import TableFile
from kg.partitioned.layout import Layout, Plan, plan, visits
from kg.partitioned.processes import num_rounds, train_together
from kg.partitioned.store import Residents, Shared, State, Store
from kg.partitioned.visiting import Settings, Tally, train_visit
from kg.progress import progress
from kg.transe import choose_engine

WORK = "partitioned"
TABLE = "entity_embeddings.safetensors"


def fit_partitioned(
    source: Source, settings: Settings, *, num_entities: int, num_relations: int, folder: Path
) -> PartitionedTraining:
    """Trains to the end and writes `folder`/entity_embeddings.safetensors, (num_entities + 1, dim) float32.

    Goes on after the last finished visit where `folder` holds work of a killed call with the same settings; then the
    result is, byte by byte, that of a call that was not killed. The disk needs the table twice, two partitions and 12
    bytes a triple. `clean` of the result removes everything but the written table.

    source: the training triples (`buckets.blocks` makes one of an array).

    Raises:
        InputError: no triple, rows that are none of the graph's, settings that do not fit each other or the work
            found, a loss that stopped being a number, a training process that was killed.
    """
    found = PartitionedTraining.begin(
        source, settings, num_entities=num_entities, num_relations=num_relations, folder=folder
    )
    found.train()
    found.write()
    return found


@dataclass(slots=True)
class PartitionedTraining:
    """A training on disk, at the last commit. relations: (num_relations, dim), twice the rows if reciprocal.

    trained: bool (num_entities + 1), which rows a triple names; known after `write`.
    """

    folder: Path
    settings: Settings
    plan: Plan
    num_relations: int
    store: Store
    buckets: Buckets
    state: State
    shared: Shared
    trained: np.ndarray | None = None

    @classmethod
    def begin(
        cls, source: Source, settings: Settings, *, num_entities: int, num_relations: int, folder: Path
    ) -> PartitionedTraining:
        """Sorts the triples and draws the first vectors, or finds both as a killed run left them."""
        planned = plan(
            num_entities=num_entities,
            dim=settings.dim,
            memory_gb=settings.memory_gb,
            processes=settings.processes,
            partitions=settings.partitions,
        )
        layout = Layout(num_entities, planned.num_partitions)
        started = {
            **dataclasses.asdict(settings),
            "num_entities": num_entities,
            "num_relations": num_relations,
            "partitions": planned.num_partitions,
            "engine": choose_engine(settings.engine)[0],
        }
        work = folder / WORK
        store = Store(work, layout, settings.dim)
        left = store.load(started)
        if left is None:
            shutil.rmtree(work)
            work.mkdir()
            buckets = Buckets.sort(source, work / "triples.bin", layout, num_relations=num_relations)
            np.save(work / "starts.npy", buckets.starts)
            left = _first_tables(store, settings, num_relations, started)
        else:
            buckets = Buckets(work / "triples.bin", layout, np.load(work / "starts.npy"))
            store.sweep(left[0])
        return cls(folder, settings, planned, num_relations, store, buckets, *left)

    @property
    def steps_per_epoch(self) -> int:
        """Visits, or with several processes rounds."""
        parts, processes = self.plan.num_partitions, self.settings.processes
        return len(visits(parts, 0)) if processes == 1 else num_rounds(parts)

    @property
    def finished(self) -> bool:
        return self.state.step >= self.steps_per_epoch * self.settings.epochs

    @property
    def relations(self) -> Tensor:
        return self.shared.relations

    def train(self, steps: int | None = None) -> None:
        """All that is left, or so many steps (visits; rounds with several processes) of it, the last one committed."""
        last = self.steps_per_epoch * self.settings.epochs
        last = last if steps is None else min(last, self.state.step + steps)
        with progress("kg embed: training triples", len(self.buckets) * self.settings.epochs) as shown:
            shown.done = self.state.triples_seen

            def on_step(triples: int) -> None:
                shown.advance(triples, partitions=self.plan.num_partitions)

            if self.settings.processes == 1:
                self._train_alone(last, on_step)
                return
            job = (self.settings, self.plan, self.store.layout, self.num_relations, self.store.folder)
            train_together(*job, started=self.state.started, last=last, on_round=on_step)
        reloaded = self.store.load(self.state.started)
        assert reloaded is not None, "the processes committed every round"
        self.state, self.shared = reloaded

    def _train_alone(self, last: int, on_step: Callable[[int], None]) -> None:
        state, per_epoch = self.state, self.steps_per_epoch
        residents = Residents(self.store, state.versions)
        generator = torch.Generator()
        generator.set_state(self.shared.generator)
        began, unsaved = time.perf_counter(), 0
        before = state.loads, state.bytes_read, state.bytes_written, state.seconds
        orders = [visits(self.plan.num_partitions, direction) for direction in (0, 1)]
        while state.step < last:
            epoch, index = divmod(state.step, per_epoch)
            tally = Tally.empty(self.num_relations)
            train_visit(
                orders[epoch % 2][index],
                tally,
                residents=residents,
                shared=self.shared,
                buckets=self.buckets,
                settings=self.settings,
                epoch=epoch,
                commit=state.commit + 1,
                triples_at_once=self.plan.triples_at_once,
                generator=generator,
                on_step=on_step,
            )
            state.note(tally.loss, tally.triples, per_epoch)
            unsaved += tally.triples > 0
            if unsaved >= self.settings.checkpoint_every or state.step == last:
                unsaved = 0
                residents.flush(state.commit + 1)
                state.commit += 1
                state.loads, state.bytes_read = before[0] + residents.loads, before[1] + residents.bytes_read
                state.bytes_written = before[2] + residents.bytes_written
                state.seconds = before[3] + time.perf_counter() - began
                self.shared.generator = generator.get_state()
                self.store.commit(state, self.shared)

    def write(self) -> TableFile:
        """Streams the vectors into one file, in the order of the entities; rows that no triple names are zeros."""
        layout = self.store.layout
        self.trained = np.zeros(layout.num_entities + 1, bool)
        for block in self.buckets.everything():
            self.trained[block[:, 0]] = self.trained[block[:, 2]] = True
        shape = layout.num_entities + 1, self.settings.dim
        path = self.folder / TABLE
        TableFile.write(path, "entity_embeddings", shape, self.store.table(self.state.versions, self.trained))
        return TableFile(path)

    def clean(self) -> None:
        """Removes the work of the training; the written table stays."""
        shutil.rmtree(self.store.folder)

    def figures(self) -> dict[str, Any]:
        state = self.state
        return {
            "loss_curve": [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(state.loss_curve, 1)],
            "epochs": len(state.loss_curve),
            "stopped_by": "epochs" if self.finished else "asked to",
            "training_seconds": round(state.seconds, 2),
            "triples_per_second": round(state.triples_seen / max(state.seconds, 1e-9)),
            "engine": state.started["engine"],
            "partitions": self.plan.num_partitions,
            "processes": self.settings.processes,
            "triples_in_memory": self.plan.triples_at_once,
            "steps": state.step,
            "partition_loads": state.loads,
            "bytes_read": state.bytes_read,
            "bytes_written": state.bytes_written,
        }


def _first_tables(
    store: Store, settings: Settings, num_relations: int, started: dict[str, Any]
) -> tuple[State, Shared]:
    """Vectors of independent normal numbers, as `TransE.initialised` draws them, one partition after the other."""
    generator = torch.Generator().manual_seed(settings.seed)
    nothing = torch.zeros(store.layout.capacity)
    buffer = torch.empty(store.layout.capacity + 1, settings.dim)
    for partition in range(store.layout.num_partitions):
        size = store.layout.size(partition)
        buffer[: size + 1].normal_(generator=generator).mul_(settings.init_scale)
        store.write(partition, 0, buffer[1 : size + 1], nothing[:size])
    rows = num_relations * (2 if settings.reciprocal else 1)
    relations = torch.randn(rows, settings.dim, generator=generator) * settings.init_scale
    state = State(started, [0] * store.layout.num_partitions)
    shared = Shared(relations, torch.zeros(rows), generator.get_state())
    store.commit(state, shared)
    return state, shared
