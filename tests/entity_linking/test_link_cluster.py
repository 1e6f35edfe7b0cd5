"""The stage `link` through datatrove's own executor: workers that are killed, and every document once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from entity_linking import parts
from entity_linking.annotate import LinkConfig, read_linked, run
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.ranks import RankStep, share_of

pytest.importorskip("datatrove", reason="the extra `cluster` is not installed")

TASKS, SMALL, PATIENCE = 2, 300, 60

EXECUTOR = """
import sys, time
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from entity_linking import parts
from entity_linking.annotate import LinkConfig
from entity_linking.cluster import LinkParts

small, tasks, notes, graph, vectors, source, output, logs = sys.argv[1:]

def small_parts_and_a_slow_first_rank(data, rank=0, world_size=1):
    import os, time
    from pathlib import Path
    from entity_linking import parts
    parts.PART_BYTES = int(small)
    link = parts.link_shard
    def slowly(*args, **options):
        link(*args, **options)
        if rank == 0:
            Path(notes, "slow").write_text(str(os.getpid()))
            time.sleep(600)
    if Path(notes).exists():
        parts.link_shard = slowly
    return data

if __name__ == "__main__":
    config = LinkConfig(graph=Path(graph), vectors=Path(vectors), corpus="jsonl", source=source, output=Path(output),
                        shard_documents=2)
    steps = [small_parts_and_a_slow_first_rank, LinkParts(config)]
    LocalPipelineExecutor(steps, tasks=int(tasks), workers=2, logging_dir=logs).run()
"""

STAND_INS = {
    "sbatch": """
tasks=$(sed -n 's/^#SBATCH --array=\\([0-9]*\\)-\\([0-9]*\\).*/\\1 \\2/p' "${@: -1}")
for task in $(seq ${tasks:-1 0}); do
  SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=7 SLURM_NODELIST=here SLURM_NODEID=0 RUN_OFFSET=0 bash "${@: -1}" >&2 || exit 1
done
echo 7
""",
    "srun": """
while [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done
exec "$@"
""",
    "scontrol": "echo here",
}
"""Slurm's commands as far as datatrove asks for them: a job's tasks run here, in order, then its id is told."""


def executor(config: LinkConfig, script: Path, notes: Path, logs: Path) -> subprocess.Popen[bytes]:
    """Two workers of datatrove's local executor, in a session of their own; rank 0 sleeps where `notes` is a folder."""
    given = [SMALL, TASKS, notes, config.graph, config.vectors, config.source, config.output, logs]
    return subprocess.Popen([sys.executable, script, *map(str, given)], start_new_session=True)


def wait_until(there: Callable[[], bool], running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, f"nothing within {PATIENCE} s"
        time.sleep(0.05)


@pytest.mark.faults
def test_two_workers_of_an_executor_one_killed_and_every_document_once(
    world: LinkConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that the executor believes done, or does again beside its own leavings, loses or doubles documents."""
    monkeypatch.setattr(parts, "PART_BYTES", SMALL)
    lines = Path(world.source).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "corpus").mkdir()
    for number in range(0, len(lines), 2):
        (tmp_path / "corpus" / f"{number:03d}.jsonl").write_text("".join(lines[number : number + 2]), encoding="utf-8")
    config = replace(world, source=str(tmp_path / "corpus"), shard_documents=2)
    whole = run(replace(config, output=tmp_path / "whole"))
    script, notes, logs = tmp_path / "executor.py", tmp_path / "notes", tmp_path / "logs"
    script.write_text(EXECUTOR, encoding="utf-8")
    notes.mkdir()

    first = executor(config, script, notes, logs)
    try:
        wait_until(lambda: (notes / "slow").exists() and (notes / "slow").read_text().isdigit(), first)
        killed = int((notes / "slow").read_text())
        assert killed != first.pid
        os.kill(killed, signal.SIGKILL)
        wait_until((logs / "completions" / "00001").exists, first)
        assert not (logs / "completions" / "00000").exists()
    finally:
        os.killpg(first.pid, signal.SIGKILL)  # a pool waits for ever for a worker that was killed
        first.wait()
    partial = config.output.with_name(config.output.name + ".partial")
    left = len(list(partial.glob("parts/part-*.json")))
    assert 0 < left < len(parts.parts_of(config))

    notes.rename(tmp_path / "nothing-is-slow-now")
    assert executor(config, script, notes, logs).wait(PATIENCE) == 0
    assert sorted(path.name for path in (logs / "completions").iterdir()) == ["00000", "00001"]
    assert len(list(partial.glob("parts/part-*.json"))) == len(parts.parts_of(config))
    documents = [document.id for document in read_linked(run(config))]
    assert documents == [f"d{i}" for i in range(23) if i % 4]
    one, other = (open_artifact(folder, stage="link").data["files"] for folder in (whole, config.output))
    assert one == other


@pytest.mark.faults
def test_jobs_for_slurm_hold_all_they_need(world: LinkConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that cannot be pickled, or asks for what only the launching process knows, fails on the cluster alone."""
    from datatrove.executor import SlurmPipelineExecutor

    from entity_linking.cluster import FinishLinking, LinkParts

    commands = tmp_path / "commands"
    commands.mkdir()
    for name, lines in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{lines}", encoding="utf-8")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(commands), str(Path(sys.executable).parent), os.environ["PATH"])))
    whole = run(replace(world, output=tmp_path / "whole"))
    given = {"tasks": 1, "time": "00:01:00", "partition": "cpu"}
    link = SlurmPipelineExecutor([LinkParts(world)], logging_dir=str(tmp_path / "link"), **given)
    SlurmPipelineExecutor([FinishLinking(world)], depends=link, logging_dir=str(tmp_path / "end"), **given).run()
    one, other = (open_artifact(folder, stage="link").data["files"] for folder in (whole, world.output))
    assert one == other


class Noting(RankStep):
    """Notes when its work is done."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def work(self, rank: int, world_size: int) -> None:
        self.notes.append(f"{self.name} {rank}/{world_size}")


def test_steps_of_one_pipeline_work_in_its_order() -> None:
    """A later step that began first would finish an artifact before its parts are there."""
    notes: list[str] = []
    data = None
    for name in ("first", "second", "third"):
        data = Noting(name, notes)(data, 1, 4)
    assert list(data or ()) == []
    assert notes == ["first 1/4", "second 1/4", "third 1/4"]
    assert list(Noting("last", notes)(iter("ab"), 0, 1)) == ["a", "b"]


def test_shares_are_a_partition() -> None:
    """Work in no share, or in two."""
    for world_size in range(1, 6):
        shares = [share_of(range(11), rank, world_size) for rank in range(world_size)]
        assert sorted(item for share in shares for item in share) == list(range(11))
    with pytest.raises(InputError, match="expected a rank from 0 to 1, got 2"):
        share_of(range(3), 2, 2)
