"""A resumable stage done by many ranks that share a file system: what they agree on, and a step of a pipeline for each.

A rank takes a share of the stage's work and writes into the unfinished folder; `run` of the stage, called behind them,
does what is missing and makes the artifact. Whoever knows a rank and how many there are can call a rank's function
itself (a Slurm array, a job's index); `RankStep` is the same for a datatrove pipeline, which runs it on this machine,
by Slurm or on Ray.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kg.artifact import STATE, StageConfig, fingerprint, plain
from kg.errors import InputError

PLAN = "plan.json.tmp"
"""What is to be done, in the unfinished folder; `forget_plan` takes it away before the artifact is made."""

Item = TypeVar("Item")


def share_of(items: Sequence[Item], rank: int, world_size: int) -> Sequence[Item]:
    """Items `rank`, `rank + world_size`, …

    Raises:
        InputError: a rank outside the world.

    >>> share_of("abcdefg", 1, 3)
    'be'
    """
    if not 0 <= rank < world_size:
        raise InputError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
    return items[rank::world_size]


def begin_together(config: StageConfig, *, stage: str, work: Any) -> Path:
    """The unfinished folder of a resumable stage, made or found to be this run's; any number of ranks may call at once.

    work: JSON values that say what there is to do (names and sizes of files). It is compared by every rank, for reading
    whole inputs is done once, by the rank that comes first.

    Raises:
        InputError: the folder holds the work of another run.
    """
    output = Path(config.output)
    folder = output.with_name(output.name + ".partial")
    without_effect = ("output", *getattr(config, "WITHOUT_EFFECT", ()))
    settings = {name: value for name, value in plain(config).items() if name not in without_effect}
    text = json.dumps({"config": settings, "work": work}, sort_keys=True)
    plan, state = folder / PLAN, folder / STATE
    if plan.exists():
        _same_run(plan, text)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    digest = fingerprint(stage, config)
    if state.exists():
        _same_run(state, digest)
    for target, content in ((state, digest), (plan, text)):
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(target)
    return folder


def forget_plan(folder: Path) -> None:
    """Takes the plan out of a folder that is to become an artifact."""
    (folder / PLAN).unlink(missing_ok=True)


def _same_run(file: Path, text: str) -> None:
    if file.read_text(encoding="utf-8") != text:
        raise InputError(f"{file.parent} holds the unfinished work of another run; delete it, or choose another output")


class RankStep(ABC):
    """A step of a datatrove pipeline; what stands before it in the pipeline is done first, and handed on."""

    @abstractmethod
    def work(self, rank: int, world_size: int) -> None: ...

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        yield from data or ()
        self.work(rank, world_size)
