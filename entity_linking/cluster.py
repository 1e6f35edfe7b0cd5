"""The stage `link` on many machines that share a file system: parts of the corpus by rank, then one finishing run.

`LinkParts` is one step of a datatrove pipeline (`kg.ranks.RankStep`), run on this machine, by Slurm or on Ray:

    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    linking = SlurmPipelineExecutor([LinkParts(config)], tasks=64, time="04:00:00", partition="cpu", logging_dir="logs")
    SlurmPipelineExecutor([FinishLinking(config)], tasks=1, depends=linking, ...).launch()

A rank that was killed is run again; what it had linked stays. `pretrain.cluster` prepares instances in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from entity_linking.annotate import STAGE, run
from entity_linking.link_config import LinkConfig
from entity_linking.linking import linker_of, titles_of
from entity_linking.parts import link_part, parts_of
from kg.ranks import RankStep, begin_together, share_of


def link_rank(config: LinkConfig, rank: int, world_size: int) -> list[int]:
    """Links the parts `rank`, `rank + world_size`, … of the corpus that are not linked yet; their numbers.

    Writes into the unfinished folder of `config.output`; `run(config)` makes the artifact of it, and links what is
    still missing.

    Raises:
        InputError: a rank outside the world, a folder with another run's work, or as `run`.
    """
    parts = parts_of(config)
    share = share_of(parts, rank, world_size)
    files = [[[name, file.stat().st_size] for file, name in part.files] for part in parts]
    folder = begin_together(config, stage=STAGE, work=files)
    mine = [part for part in share if not part.record(folder).exists()]
    if mine:
        linker = linker_of(config)
        titles = titles_of(config, linker)
        for part in mine:
            link_part(linker, titles, part, config, folder)
    return [part.number for part in mine]


@dataclass(frozen=True)
class LinkParts(RankStep):
    """A step that links this rank's parts; give the executor as many tasks as there should be ranks."""

    config: LinkConfig

    def work(self, rank: int, world_size: int) -> None:
        link_rank(self.config, rank, world_size)


@dataclass(frozen=True)
class FinishLinking(RankStep):
    """A step of one task, run behind `LinkParts`: makes the artifact."""

    config: LinkConfig

    def work(self, rank: int, world_size: int) -> None:
        run(self.config)
