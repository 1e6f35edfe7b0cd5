"""Several processes on one table: each round they train pairs of partitions that have none in common.

No lock is needed: a partition is one process's for a round, and goes from hand to hand through its file. At the end of
a round the processes meet: relation vectors become the mean weighted by how many triples of the relation each process
saw, accumulators add up, and the first process commits. The random choices of a visit depend on the seed, the epoch and
the pair alone, so that the result is the same for a seed and a number of processes, and after a kill.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.partitioned.buckets import Buckets
from kg.partitioned.layout import Layout, Plan, Visit, rounds
from kg.partitioned.store import Residents, Shared, State, Store
from kg.partitioned.visiting import Tally, train_visit
from kg.workers import end_with_parent


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is told. meeting: URL by which they find each other. last: the step to stop before."""

    settings: EmbedConfig
    plan: Plan
    layout: Layout
    num_relations: int
    folder: Path
    started: dict[str, Any]
    last: int
    meeting: str


def num_rounds(num_partitions: int) -> int:
    """Of an epoch."""
    return num_partitions - 1


def train_together(
    settings: EmbedConfig,
    plan: Plan,
    layout: Layout,
    num_relations: int,
    folder: Path,
    *,
    started: dict[str, Any],
    last: int,
    on_round: Callable[[int], None] = lambda triples: None,
) -> None:
    """Starts `settings.processes` processes on the state in `folder` and waits for all; the state is then theirs.

    Raises:
        InputError: a process was killed, or found what only the user can mend. The others are ended.
    """
    meeting = folder / f"meeting-{uuid.uuid4().hex}"
    job = Job(settings, plan, layout, num_relations, folder, started, last, meeting.resolve().as_uri())
    context = torch.multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(settings.processes)]
    workers = [
        context.Process(target=_work, args=(rank, job, sender), daemon=True) for rank, (_, sender) in enumerate(pipes)
    ]
    try:
        for worker, (_, sender) in zip(workers, pipes, strict=True):
            worker.start()
            sender.close()  # so that the pipe ends with the process
        _watch(workers, [receiver for receiver, _ in pipes], on_round)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
            worker.join()
        meeting.unlink(missing_ok=True)


def _watch(workers: list[Any], receivers: list[Connection], on_round: Callable[[int], None]) -> None:
    """Until every process is done, or one is not well."""
    open_ends = dict(zip(receivers, range(len(workers)), strict=True))
    while open_ends:
        for receiver in connection.wait(list(open_ends)):
            assert isinstance(receiver, Connection), "only pipes were waited for"
            rank = open_ends[receiver]
            try:
                message = receiver.recv()
            except EOFError:
                del open_ends[receiver]
                workers[rank].join()
                _check_end(rank, len(workers), workers[rank].exitcode)
                continue
            if isinstance(message, InputError):
                raise message
            on_round(message)


def _check_end(rank: int, processes: int, exit_code: int) -> None:
    if exit_code == 0:
        return
    if exit_code < 0:
        raise InputError(
            f"training process {rank + 1} of {processes} was ended by signal {-exit_code} (9: often for want of "
            "memory); run the same again, it goes on after the last finished round"
        )
    raise RuntimeError(f"training process {rank + 1} of {processes} failed, see its message above")


# --- inside a process -----------------------------------------------------------------------------------------


def _work(rank: int, job: Job, sender: Connection) -> None:
    """One process from its start to `job.last`; sends the triples of every round, or an InputError."""
    end_with_parent()
    torch.set_num_threads(1)
    timeout = timedelta(minutes=job.settings.timeout_minutes)
    dist.init_process_group(
        "gloo", init_method=job.meeting, rank=rank, world_size=job.settings.processes, timeout=timeout
    )
    try:
        _Worker(rank, job).run(sender)
    except InputError as error:
        sender.send(error)
    finally:
        sender.close()
    dist.destroy_process_group()


class _Worker:
    def __init__(self, rank: int, job: Job) -> None:
        self.rank, self.job, self.settings = rank, job, job.settings
        self.store = Store(job.folder, job.layout, job.settings.dim)
        found = self.store.load(job.started)
        assert found is not None, "a training is begun before it is shared"
        self.state: State = found[0]
        self.shared: Shared = found[1]
        self.buckets = Buckets(job.folder / "triples.bin", job.layout, np.load(job.folder / "starts.npy"))
        self.residents = Residents(self.store, self.state.versions)
        dist.barrier()  # all have read the state before any changes it

    def run(self, sender: Connection) -> None:
        per_epoch = num_rounds(self.job.plan.num_partitions)
        while self.state.step < self.job.last:
            began = time.perf_counter()
            epoch, index = divmod(self.state.step, per_epoch)
            mine = rounds(self.job.plan.num_partitions, self.settings.processes, epoch)[index][self.rank]
            before = self.shared.relations.clone(), self.shared.accumulated.clone()
            tally = self._train(mine, epoch)
            loss, triples = self._meet(tally, *before)
            self.state.note(loss, triples, per_epoch)
            self.state.commit += 1
            self.state.seconds += time.perf_counter() - began
            if self.rank == 0:
                self.store.commit(self.state, self.shared)
            dist.barrier()
            sender.send(tally.triples)

    def _train(self, mine: list[Visit], epoch: int) -> Tally:
        """This process's visits of a round; their partitions are on disk afterwards."""
        tally, commit = Tally.empty(self.job.num_relations), self.state.commit + 1
        for visit in mine:
            train_visit(
                visit,
                tally,
                residents=self.residents,
                shared=self.shared,
                buckets=self.buckets,
                settings=self.settings,
                epoch=epoch,
                commit=commit,
                triples_at_once=self.job.plan.triples_at_once,
                generator=_generator(self.settings.seed, epoch, visit),
            )
        self.residents.flush(commit)
        return tally

    def _meet(self, tally: Tally, relations: Tensor, accumulated: Tensor) -> tuple[float, int]:
        """Exchanges what a round changed; returns loss and triples of all. relations, accumulated: as it began."""
        seen = torch.from_numpy(tally.by_relation).double().repeat(2 if self.settings.reciprocal else 1)
        residents, state = self.residents, self.state
        work = [residents.loads, residents.bytes_read, residents.bytes_written]
        residents.loads = residents.bytes_read = residents.bytes_written = 0
        sums = _gathered(torch.tensor([tally.loss, tally.triples, *work], dtype=torch.float64)).sum(0).tolist()
        state.loads += int(sums[2])
        state.bytes_read += int(sums[3])
        state.bytes_written += int(sums[4])
        versions = _gathered(torch.tensor(state.versions)).amax(0)
        state.versions[:] = versions.tolist()
        weights = _gathered(seen)
        changes = (_gathered(self.shared.relations - relations).double() * weights.unsqueeze(2)).sum(0)
        mean = changes / weights.sum(0).clamp_min(1).unsqueeze(1)
        self.shared.relations = (relations.double() + mean).float()
        grown = _gathered(self.shared.accumulated - accumulated).double().sum(0)
        self.shared.accumulated = (accumulated.double() + grown).float()
        return sums[0], int(sums[1])


def _gathered(mine: Tensor) -> Tensor:
    """Everyone's tensor by rank, (processes, ...), so that whoever adds them up does it in the same order."""
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine.contiguous())
    return torch.stack(found)


def _generator(seed: int, epoch: int, visit: Visit) -> torch.Generator:
    state = np.random.SeedSequence([seed, epoch, *visit.slots]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
