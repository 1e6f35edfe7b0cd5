"""A corpus in parts: the same bytes whoever links them, in how many processes, on how many machines, killed or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from entity_linking import parts
from entity_linking.annotate import LinkConfig, read_linked, run
from entity_linking.cluster import FinishLinking, LinkParts, link_rank
from entity_linking.parts import parts_of
from kg.artifact import open_artifact
from kg.errors import InputError

SMALL = 300  # bytes a part


@pytest.fixture
def many_files(world: LinkConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LinkConfig:
    """The corpus of `world` in a folder of files, several of them a part."""
    monkeypatch.setattr(parts, "PART_BYTES", SMALL)
    lines = Path(world.source).read_text(encoding="utf-8").splitlines(keepends=True)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(0, len(lines), 2):
        (folder / f"{number:03d}.jsonl").write_text("".join(lines[number : number + 2]), encoding="utf-8")
    return replace(world, source=str(folder), shard_documents=2)


def files_of(folder: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in open_artifact(folder, stage="link").data["files"].items()}


def test_parts_hold_every_file_once_in_order(many_files: LinkConfig) -> None:
    """A file in no part, or in two, is a corpus with holes or repeats."""
    found = parts_of(many_files)
    assert len(found) > 3
    assert [part.number for part in found] == list(range(len(found)))
    names = [name for part in found for _, name in part.files]
    assert names == sorted(path.name for path in Path(many_files.source).iterdir())
    assert all(part.num_bytes >= SMALL for part in found[:-1])


def test_ranks_and_a_single_run_write_the_same_bytes(many_files: LinkConfig) -> None:
    """A rank that restarted its count, or a part linked twice, would show in no total."""
    whole = replace(many_files, output=many_files.output.with_name("whole"))
    run(whole)
    done = [link_rank(many_files, rank, 3) for rank in (2, 0, 1)]
    assert sorted(number for of in done for number in of) == list(range(len(parts_of(many_files))))
    assert link_rank(many_files, 1, 3) == []
    run(many_files)
    assert files_of(many_files.output) == files_of(whole.output)
    documents = [document.id for document in read_linked(many_files.output)]
    assert documents == [f"d{i}" for i in range(23) if i % 4]
    one, other = (open_artifact(c.output, stage="link") for c in (whole, many_files))
    assert {**one.figures, "megabytes_per_second": 0} == {**other.figures, "megabytes_per_second": 0}
    assert (one.counts, one.dropped) == (other.counts, other.dropped)


def test_a_folder_of_another_run_is_refused(many_files: LinkConfig) -> None:
    """Ranks that went on in another run's folder would mix two linkings."""
    link_rank(many_files, 0, 2)
    with pytest.raises(InputError, match="unfinished work of another run"):
        link_rank(replace(many_files, min_score=0.9), 1, 2)
    with pytest.raises(InputError, match="expected a rank from 0 to 1, got 2"):
        link_rank(many_files, 2, 2)


def test_bad_records_are_set_aside_and_ids_compared_across_parts(many_files: LinkConfig) -> None:
    """Ranks see only their own ids: a document that comes in two parts would be there twice."""
    folder = Path(many_files.source)
    (folder / "900.jsonl").write_text('{"text": "Oslo"\n{"id": "d1", "text": "Bergen and Oslo once more"}\n')
    rejecting = replace(many_files, on_bad_record="reject")
    run(replace(rejecting, output=many_files.output.with_name("clean")))
    with pytest.raises(InputError, match=r"900.jsonl:1: not JSON"):
        run(many_files)
    (folder / "900.jsonl").write_text('{"id": "d1", "text": "Bergen and Oslo once more"}\n')
    with pytest.raises(InputError, match="the document id 'd1' came before"):
        run(many_files)
    manifest = open_artifact(run(replace(rejecting, output=many_files.output.with_name("again"))), stage="link")
    assert manifest.dropped["rejected_duplicate_id"] == 1
    [aside] = (many_files.output.with_name("again") / "rejected").glob("repeats-*.jsonl")
    assert json.loads(aside.read_text())["raw"] == "Bergen and Oslo once more"
    clean = open_artifact(many_files.output.with_name("clean"), stage="link")
    assert clean.dropped["rejected_invalid_json"] == 1
    assert clean.dropped["rejected_duplicate_id"] == 1
    for name in ("clean", "again"):
        documents = list(read_linked(many_files.output.with_name(name)))
        assert [document.id for document in documents] == [f"d{i}" for i in range(23) if i % 4]
    (folder / "900.jsonl").unlink()
    without = open_artifact(run(replace(rejecting, output=many_files.output.with_name("without"))), stage="link")
    assert without.counts == manifest.counts == clean.counts
    assert without.figures["score_histogram"] == manifest.figures["score_histogram"]


WORKER = """
import sys
from entity_linking import parts
from entity_linking.annotate import LinkConfig
from entity_linking.cluster import link_rank
parts.PART_BYTES = int(sys.argv[1])
rank, world_size, pause = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
from pathlib import Path
import time
config = LinkConfig(graph=Path(sys.argv[5]), vectors=Path(sys.argv[6]), corpus="jsonl", source=sys.argv[7],
                    output=Path(sys.argv[8]), shard_documents=2)
write = parts.link_shard
def slowly(*args, **options):
    write(*args, **options)
    time.sleep(pause)
parts.link_shard = slowly
link_rank(config, rank, world_size)
"""


def worker(config: LinkConfig, rank: int, *, pause: float) -> subprocess.Popen[bytes]:
    paths = [str(path) for path in (config.graph, config.vectors, config.source, config.output)]
    return subprocess.Popen([sys.executable, "-c", WORKER, str(SMALL), str(rank), "2", str(pause), *paths])


@pytest.mark.faults
def test_two_workers_one_killed_and_every_document_once(many_files: LinkConfig) -> None:
    """What a killed machine leaves, half a shard or a part without its record, must neither stay nor be lost."""
    whole = replace(many_files, output=many_files.output.with_name("whole"))
    run(whole)
    partial = many_files.output.with_name(many_files.output.name + ".partial")
    killed, other = worker(many_files, 0, pause=60), worker(many_files, 1, pause=0)
    try:
        while not list(partial.glob("shard-00000-*.parquet")):
            assert killed.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert other.wait(60) == 0
    finally:
        for process in (killed, other):
            process.kill()
    (partial / "shard-00000-00001.parquet.77.tmp").write_bytes(b"torn")
    assert not (partial / "parts" / "part-00000.json").exists()
    assert 0 in link_rank(many_files, 0, 2)
    run(many_files)
    assert files_of(many_files.output) == files_of(whole.output)
    assert [document.id for document in read_linked(many_files.output)] == [f"d{i}" for i in range(23) if i % 4]


def test_steps_of_a_datatrove_pipeline(many_files: LinkConfig, tmp_path: Path) -> None:
    """The executors call a step with data, rank and world size; Slurm and Ray do it as this machine does."""
    executor = pytest.importorskip("datatrove.executor", reason="the extra `cluster` is not installed")
    whole = replace(many_files, output=many_files.output.with_name("whole"))
    run(whole)
    for number, (step, tasks) in enumerate(((LinkParts(many_files), 2), (FinishLinking(many_files), 1))):
        executor.LocalPipelineExecutor(
            [step], tasks=tasks, workers=1, logging_dir=str(tmp_path / f"logs{number}")
        ).run()
        assert len(list((tmp_path / f"logs{number}" / "completions").iterdir())) == tasks
    assert files_of(many_files.output) == files_of(whole.output)


@pytest.mark.slow
def test_processes_write_the_same_bytes_and_share_the_tables(many_files: LinkConfig) -> None:
    """Parts in several processes, and shards of one part in several, are two ways through the code."""
    run(replace(many_files, output=many_files.output.with_name("whole"), processes=1))
    run(replace(many_files, processes=2))
    assert files_of(many_files.output) == files_of(many_files.output.with_name("whole"))
    assert not list(many_files.output.rglob("*.tmp"))


def test_a_long_document_is_a_shard_of_its_own(world: LinkConfig, tmp_path: Path, monkeypatch) -> None:
    """Two thousand books in one shard do not fit in memory."""
    from entity_linking import shards

    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 100)
    texts = ["Oslo " * 50, "short", "also short", "Bergen " * 30]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run(replace(world, source=str(tmp_path / "long.jsonl"), shard_documents=100))
    assert [pq.read_metadata(path).num_rows for path in sorted(world.output.glob("shard-*"))] == [1, 2, 1]
