"""The stage `link` on many machines that share a file system: parts of the corpus by rank, then one finishing run.

`LinkParts` is one step of a datatrove pipeline, which runs it on this machine, by Slurm or on Ray:

    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    linking = SlurmPipelineExecutor([LinkParts(config)], tasks=64, time="04:00:00", partition="cpu", logging_dir="logs")
    SlurmPipelineExecutor([FinishLinking(config)], tasks=1, depends=linking, ...).launch()

Anything else that knows a rank and how many there are can call `link_rank` itself (a Slurm array, a job's index).
A rank that was killed is run again; what it had linked stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entity_linking.annotate import STAGE, run
from entity_linking.link_config import LinkConfig
from entity_linking.linking import linker_of, titles_of
from entity_linking.parts import Part, link_part, parts_of
from kg.artifact import STATE, fingerprint, plain
from kg.errors import InputError

PLAN = "plan.json.tmp"
"""What is linked, in the unfinished folder: goes with everything else that only the work needs."""


def link_rank(config: LinkConfig, rank: int, world_size: int) -> list[int]:
    """Links the parts `rank`, `rank + world_size`, … of the corpus that are not linked yet; their numbers.

    Writes into the unfinished folder of `config.output`; `run(config)` makes the artifact of it, and links what is
    still missing.

    Raises:
        InputError: a rank outside the world, a folder with another run's work, or as `run`.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
    folder = Path(config.output).with_name(Path(config.output).name + ".partial")
    parts = parts_of(config)
    _begin(config, parts, folder)
    mine = [part for part in parts[rank::world_size] if not part.record(folder).exists()]
    if mine:
        linker = linker_of(config)
        titles = titles_of(config, linker)
        for part in mine:
            link_part(linker, titles, part, config, folder)
    return [part.number for part in mine]


def _begin(config: LinkConfig, parts: list[Part], folder: Path) -> None:
    """Makes the unfinished folder for this run, or sees that it is this run's; any number of ranks may do so at once.

    What was planned is compared by names and sizes: reading the whole corpus is done once, by the rank that came first.
    """
    settings = {name: of for name, of in plain(config).items() if name not in ("output", *config.WITHOUT_EFFECT)}
    files = [[[name, file.stat().st_size] for file, name in part.files] for part in parts]
    plan = json.dumps({"config": settings, "parts": files}, sort_keys=True)
    path = folder / PLAN
    if path.exists():
        if path.read_text(encoding="utf-8") != plan:
            raise InputError(f"{folder} holds the unfinished work of another run; delete it, or choose another output")
        return
    folder.mkdir(parents=True, exist_ok=True)
    state, digest = folder / STATE, fingerprint(STAGE, config)
    if state.exists() and state.read_text(encoding="utf-8") != digest:
        raise InputError(f"{folder} holds the unfinished work of another run; delete it, or choose another output")
    for target, text in ((state, digest), (path, plan)):
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target)


@dataclass(frozen=True, slots=True)
class LinkParts:
    """A step that links this rank's parts; give the executor as many tasks as there should be ranks."""

    config: LinkConfig

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        link_rank(self.config, rank, world_size)
        yield from data or ()


@dataclass(frozen=True, slots=True)
class FinishLinking:
    """A step of one task, run behind `LinkParts`: makes the artifact."""

    config: LinkConfig

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        run(self.config)
        yield from data or ()
