"""The stage `pretrain prepare` on many machines that share a file system, by the same steps as `link`.

    linked = LocalPipelineExecutor([LinkParts(link)], tasks=8, workers=2, logging_dir="logs/link")
    joined = LocalPipelineExecutor([FinishLinking(link)], tasks=1, depends=linked, logging_dir="logs/joined")
    made = LocalPipelineExecutor([PrepareParts(prepare)], tasks=8, workers=2, depends=joined, logging_dir="logs/made")
    LocalPipelineExecutor([FinishPreparing(prepare)], tasks=1, depends=made, logging_dir="logs/done").run()

Instances are numbered through the whole corpus and drawn by that number, and a document that came twice leaves its
shard when the parts are joined: so preparing waits until linking is finished. With one task, all four are one pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

from kg.ranks import RankStep, begin_together, share_of
from pretrain.prepare import STAGE, PrepareConfig, check, recipe_of, run, units_of
from pretrain.shards import prepare_units, tally_path


def prepare_rank(config: PrepareConfig, rank: int, world_size: int) -> list[int]:
    """Prepares the units `rank`, `rank + world_size`, … of the source that are not prepared yet; their numbers.

    Writes into the unfinished folder of `config.output`, in one process whatever `config.processes` is; `run(config)`
    makes the artifact of it, and prepares what is still missing.

    Raises:
        InputError: a rank outside the world, a folder with another run's work, or as `run`.
    """
    check(config)
    units = units_of(config)
    share = share_of(units, rank, world_size)
    folder = begin_together(config, stage=STAGE, work=[[unit.path.name, dict(unit.settings)] for unit in units])
    mine = [unit for unit in share if not tally_path(folder, unit.number).exists()]
    if mine:
        for _ in prepare_units(mine, recipe_of(config)[0], folder, processes=1):
            pass
    return [unit.number for unit in mine]


@dataclass(frozen=True)
class PrepareParts(RankStep):
    """A step that prepares this rank's units; give the executor as many tasks as there should be ranks."""

    config: PrepareConfig

    def work(self, rank: int, world_size: int) -> None:
        prepare_rank(self.config, rank, world_size)


@dataclass(frozen=True)
class FinishPreparing(RankStep):
    """A step of one task, run behind `PrepareParts`: makes the artifact."""

    config: PrepareConfig

    def work(self, rank: int, world_size: int) -> None:
        run(self.config)
