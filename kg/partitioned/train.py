"""Training of a table larger than memory, from triples to the written vectors."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kg.embed_config import EmbedConfig
from kg.engines import choose_engine
from kg.partitioned.buckets import Buckets, Source
from kg.partitioned.files import TableFile
from kg.partitioned.layout import Layout, Plan, plan, visits
from kg.partitioned.processes import num_rounds, train_together
from kg.partitioned.store import Residents, Shared, State, Store
from kg.partitioned.visiting import Tally, train_visit
from kg.partitioned.warm_start import FirstVectors
from kg.progress import progress

WORK = "partitioned"
TABLE = "entity_embeddings.safetensors"
BEST = "best-{epoch}.safetensors"
BEST_RELATIONS = "relations-of-{epoch}.safetensors"
DEFAULT_MEMORY_GB = 4.0
DECIDING = (
    *("dim", "norm", "loss", "margin", "temperature", "reciprocal", "learning_rate", "learning_rate_schedule"),
    *("init_scale", "num_negatives", "negatives", "filtered", "chunk_size", "batch_size", "epochs", "memory_gb"),
    *("processes", "visits_per_commit", "seed"),
)
"""Settings that decide what is trained: work of other ones is not gone on with."""


def fit_partitioned(
    source: Source, settings: EmbedConfig, *, num_entities: int, num_relations: int, folder: Path
) -> PartitionedTraining:
    """Trains to the end and writes `folder`/entity_embeddings.safetensors, (num_entities + 1, dim) float32.

    Without validation; `PartitionedTraining.fit` chooses an epoch. Goes on after the last finished visit where `folder`
    holds work of a killed call with the same settings; then the result is, byte by byte, that of a call that was not
    killed. The disk needs the table twice, two partitions and 12 bytes a triple. `clean` of the result removes all of
    it but the written table.

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

    trained: bool (num_entities + 1), which rows a triple names. triples_by_relation: int64 (num_relations,).
    """

    folder: Path
    settings: EmbedConfig
    plan: Plan
    num_relations: int
    store: Store
    buckets: Buckets
    state: State
    shared: Shared
    trained: np.ndarray
    triples_by_relation: np.ndarray

    @classmethod
    def begin(
        cls,
        source: Source,
        settings: EmbedConfig,
        *,
        num_entities: int,
        num_relations: int,
        folder: Path,
        warm: FirstVectors | None = None,
        held_bytes: int = 0,
    ) -> PartitionedTraining:
        """Sorts the triples and draws the first vectors, or finds both as a killed run left them.

        warm: vectors that are known already. held_bytes: what the caller holds of `memory_gb` meanwhile.
        """
        planned = plan(
            num_entities=num_entities,
            dim=settings.dim,
            memory_gb=(settings.memory_gb or DEFAULT_MEMORY_GB) - held_bytes / 1e9,
            processes=settings.processes,
            partitions=settings.partitions,
        )
        layout = Layout(num_entities, planned.num_partitions)
        started = {
            **{name: getattr(settings, name) for name in DECIDING},
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
            left = _first_tables(store, settings, num_relations, started, warm)
        else:
            buckets = Buckets(work / "triples.bin", layout, np.load(work / "starts.npy"))
            store.sweep(left[0])
        named = _named(buckets, num_entities, num_relations)
        return cls(folder, settings, planned, num_relations, store, buckets, *left, *named)

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

    @property
    def table(self) -> TableFile:
        """The table that `write` or `fit` wrote last."""
        return TableFile(self.folder / TABLE)

    def fit(self, validate: Callable[[], float] | None) -> None:
        """Trains until the epochs, the patience or the minutes are over, and writes the best table by `validate`.

        validate: MRR of the table just written, with its relations; None = the last epoch's table is written.
        Goes on after a kill to the same bytes.
        """
        settings, state = self.settings, self.state
        while True:
            epoch = len(state.loss_curve)
            late = settings.max_minutes > 0 and state.seconds > 60 * settings.max_minutes
            due = epoch > 0 and (late or self.finished or epoch % settings.evaluate_every == 0)
            if validate is not None and due and state.validated != epoch:
                self.write()
                self._offer(validate(), epoch)
            if self.finished or self._stopped(late):
                break
            per_epoch = self.steps_per_epoch
            until = 1 if settings.max_minutes > 0 else settings.evaluate_every - epoch % settings.evaluate_every
            self.train((epoch + until) * per_epoch - state.step)
            state = self.state
        if validate is not None and state.best_mrr is not None:
            best = self.folder / BEST.format(epoch=state.best_epoch)
            if best.exists():  # else a killed run had come this far
                best.replace(self.folder / TABLE)
            self.shared.relations = load_file(self.folder / BEST_RELATIONS.format(epoch=state.best_epoch))["relations"]
        else:
            self.write()
        self.shared.relations[: self.num_relations][torch.from_numpy(self.triples_by_relation == 0)] = 0.0

    def _offer(self, mrr: float, epoch: int) -> None:
        """Keeps the table just written where it is the best yet, and commits that it was validated."""
        state = self.state
        state.validation_curve.append({"epoch": epoch, "mrr": mrr})
        if state.best_mrr is None or mrr > state.best_mrr:
            state.best_mrr, state.best_epoch = mrr, epoch
            (self.folder / TABLE).replace(self.folder / BEST.format(epoch=epoch))
            save_file({"relations": self.shared.relations}, self.folder / BEST_RELATIONS.format(epoch=epoch))
        self.store.commit(state, self.shared)
        for path in (*self.folder.glob(BEST.format(epoch="*")), *self.folder.glob(BEST_RELATIONS.format(epoch="*"))):
            if path.stem.split("-")[-1] != str(state.best_epoch):
                path.unlink()

    def _stopped(self, late: bool) -> bool:
        """Whether training is over before its epochs are; notes why."""
        state, settings = self.state, self.settings
        unrewarded = (len(state.loss_curve) - state.best_epoch) // settings.evaluate_every
        patient = not settings.patience or state.best_mrr is None or unrewarded < settings.patience
        state.stopped_by = "max_minutes" if late else "epochs" if patient else "patience"
        return late or not patient

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
            if unsaved >= self.settings.visits_per_commit or state.step == last:
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
        shape = layout.num_entities + 1, self.settings.dim
        path = self.folder / TABLE
        TableFile.write(path, "entity_embeddings", shape, self.store.table(self.state.versions, self.trained))
        return TableFile(path)

    def clean(self) -> None:
        """Removes the work of the training; the written table stays."""
        shutil.rmtree(self.store.folder)
        for path in self.folder.glob(BEST_RELATIONS.format(epoch="*")):
            path.unlink()

    def figures(self) -> dict[str, Any]:
        state = self.state
        return {
            "loss_curve": [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(state.loss_curve, 1)],
            "epochs": len(state.loss_curve),
            "stopped_by": state.stopped_by,
            "validation_curve": state.validation_curve,
            "validation_mrr": state.best_mrr,
            "best_epoch": state.best_epoch,
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
    store: Store, settings: EmbedConfig, num_relations: int, started: dict[str, Any], warm: FirstVectors | None
) -> tuple[State, Shared]:
    """Vectors of independent normal numbers, as `TransE.initialised` draws them, one partition after the other; those
    that are known already take their place."""
    generator = torch.Generator().manual_seed(settings.seed)
    nothing = torch.zeros(store.layout.capacity)
    buffer = torch.empty(store.layout.capacity + 1, settings.dim)
    for partition in range(store.layout.num_partitions):
        size = store.layout.size(partition)
        buffer[: size + 1].normal_(generator=generator).mul_(settings.init_scale)
        if warm is not None:
            warm.fill(store.layout.rows(partition, np.arange(size)), buffer[1 : size + 1].numpy())
        store.write(partition, 0, buffer[1 : size + 1], nothing[:size])
    rows = num_relations * (2 if settings.reciprocal else 1)
    relations = torch.randn(rows, settings.dim, generator=generator) * settings.init_scale
    if warm is not None:
        relations[:num_relations][torch.from_numpy(warm.known_relations)] = torch.from_numpy(
            warm.relations[warm.known_relations]
        )
    state = State(started, [0] * store.layout.num_partitions)
    shared = Shared(relations, torch.zeros(rows), generator.get_state())
    store.commit(state, shared)
    return state, shared


def _named(buckets: Buckets, num_entities: int, num_relations: int) -> tuple[np.ndarray, np.ndarray]:
    """Which entity rows a triple names, bool (num_entities + 1), and how many triples each relation has."""
    entities, relations = np.zeros(num_entities + 1, bool), np.zeros(num_relations, np.int64)
    for block in buckets.everything():
        entities[block[:, 0]] = entities[block[:, 2]] = True
        relations += np.bincount(block[:, 1], minlength=num_relations)
    return entities, relations
