"""Training of a table larger than memory: what it costs, one JSON line.

python benchmarks/partitions.py                                  2 million entities inside 0.6 GB
python benchmarks/partitions.py --entities 20000000 --dim 100 --triples 40000000 --memory 4
python benchmarks/partitions.py --visits 5                       stops early, and says so
python benchmarks/partitions.py --quality FOLDER --partitions 4  train.tsv, valid.tsv, test.tsv: against memory

The made graph: heads fall in frequency as a power of their rank (density of row e proportional to e ** -0.5); each of
100 relations has its own hundredth of the entities as tails, again some far more often than others, as countries,
genres and professions are. Which tails belong to which relation is what can be learned from so few triples.
Memory is that of the
training processes together, watched from outside: `rss_peak_mb` is what they had resident at most, `anonymous_peak_mb`
that without pages of files, `vm_hwm_mb` the kernel's own high-water mark of the first process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kg.embed_config import EmbedConfig
from kg.partitioned.buckets import Source, blocks
from kg.partitioned.evaluation import link_prediction
from kg.partitioned.files import TableFile
from kg.partitioned.train import TABLE, PartitionedTraining

RELATIONS, BLOCK, HELD_OUT = 100, 1 << 18, 1_000
WATCH_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=2_000_000)
    parser.add_argument("--triples", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--memory", type=float, default=0.6, help="10^9 bytes, all processes together")
    parser.add_argument("--partitions", type=int, default=0, help="0 = by the rule of kg.partitioned.layout.plan")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--negatives", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--visits", type=int, help="stops after so many visits (rounds with several processes)")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile; needs the table twice")
    parser.add_argument("--quality", type=Path, help="folder with train.tsv, valid.tsv, test.tsv")
    arguments = parser.parse_args()
    settings = EmbedConfig(
        graph=Path("."),
        output=Path("."),
        dim=arguments.dim,
        memory_gb=arguments.memory,
        partitions=arguments.partitions,
        processes=arguments.processes,
        num_negatives=arguments.negatives,
        chunk_size=arguments.chunk,
        batch_size=arguments.batch,
        epochs=arguments.epochs,
    )
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        if arguments.quality:
            quality(arguments.quality, settings, folder)
        else:
            at_scale(arguments.entities, arguments.triples, settings, arguments.visits, folder)
    finally:
        shutil.rmtree(folder)


# --- scale ----------------------------------------------------------------------------------------------------


def at_scale(entities: int, triples: int, settings: EmbedConfig, visits: int | None, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=trained, args=(sender, entities, triples, settings, visits, folder))
    child.start()
    sender.close()
    peaks = watched(child)
    if child.exitcode:
        raise SystemExit(f"the training ended with code {child.exitcode}")
    line = {"benchmark": "kg.partitioned", "entities": entities, "dim": settings.dim, "triples": triples}
    line |= {"memory_gb": settings.memory_gb, "table_mb": entities * settings.dim * 4 // 10**6}
    steps = {"num_negatives": settings.num_negatives, "chunk_size": settings.chunk_size}
    print(json.dumps(line | steps | receiver.recv() | peaks))


def trained(sender: Any, entities: int, triples: int, settings: EmbedConfig, visits: int | None, folder: Path) -> None:
    """Sorts, trains, writes and ranks; sends the figures. Runs in a process of its own, whose memory is watched."""
    clock = time.perf_counter()
    source = made_graph(entities, triples)
    found = PartitionedTraining.begin(source, settings, num_entities=entities, num_relations=RELATIONS, folder=folder)
    figures: dict[str, Any] = {"prepare_seconds": round(time.perf_counter() - clock, 1)}
    found.train(visits)
    clock = time.perf_counter()
    table = found.write()
    figures["write_seconds"] = round(time.perf_counter() - clock, 1)
    clock = time.perf_counter()
    held_out = np.unique(made_block(entities, HELD_OUT, seed=(1, 0)), axis=0)
    figures |= link_prediction(
        held_out, table, found.relations, found.buckets.everything(), norm=settings.norm, reciprocal=settings.reciprocal
    )
    figures["ranking_seconds"] = round(time.perf_counter() - clock, 1)
    done = found.figures()
    figures |= {name: value for name, value in done.items() if name not in ("loss_curve", "epochs")}
    figures["loss"] = [round(point["loss"], 4) for point in done["loss_curve"]]
    figures["epochs_done"] = round(found.state.triples_seen / triples, 3)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    figures["vm_hwm_mb"] = field(status, "VmHWM")
    sender.send(figures)


def made_graph(entities: int, triples: int) -> Source:
    def read() -> Iterator[np.ndarray]:
        for number, start in enumerate(range(0, triples, BLOCK)):
            yield made_block(entities, min(BLOCK, triples - start), seed=(0, number))

    return read


def made_block(entities: int, count: int, *, seed: tuple[int, int]) -> np.ndarray:
    """Triples (count, 3) int32; the same for the same seed."""
    random = np.random.default_rng(seed)
    heads = (entities * random.random(count) ** 2).astype(np.int64)
    relations = random.integers(0, RELATIONS, count)
    width = entities // RELATIONS
    tails = relations * width + (width * random.random(count) ** 4).astype(np.int64)
    return np.stack([heads + 1, relations, tails + 1], 1).astype(np.int32)


# --- memory ---------------------------------------------------------------------------------------------------


def watched(child: Any) -> dict[str, int]:
    """Peaks of the process and its children together, until it ends."""
    resident, anonymous = 0, 0
    while child.is_alive():
        statuses = [status for pid in family(child.pid) if (status := read_status(pid))]
        resident = max(resident, sum(field(status, "VmRSS") for status in statuses))
        anonymous = max(anonymous, sum(field(status, "RssAnon") for status in statuses))
        child.join(WATCH_SECONDS)
    return {"rss_peak_mb": resident, "anonymous_peak_mb": anonymous}


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:  # it has just ended
        return []
    return [pid, *(grandchild for child in children for grandchild in family(int(child)))]


def read_status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # it has just ended
        return ""


def field(status: str, name: str) -> int:
    """10^6 bytes of a line of /proc/PID/status; 0 where a process that is ending has none."""
    kilobytes = [int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":")]
    return kilobytes[0] * 1024 // 10**6 if kilobytes else 0


# --- quality --------------------------------------------------------------------------------------------------


def quality(data: Path, settings: EmbedConfig, folder: Path) -> None:
    """Test figures of the published split after the same epochs: one partition, which is training in memory, and P."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    parts = {}
    for name in ("train", "valid", "test"):
        lines = [line.split("\t") for line in (data / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
        rows = [
            (
                entities.setdefault(head, len(entities) + 1),
                relations.setdefault(relation, len(relations)),
                entities.setdefault(tail, len(entities) + 1),
            )
            for head, relation, tail in lines
        ]
        parts[name] = np.array(rows, np.int32)
    asked = {"partitions": settings.partitions or 4, "memory_gb": max(settings.memory_gb, 4.0)}
    for changes in ({"partitions": 1, "processes": 1}, {}):
        given = EmbedConfig(**{**vars(settings), **asked, **changes})
        own = folder / str(given.partitions)
        sizes = {"num_entities": len(entities), "num_relations": len(relations)}
        found = PartitionedTraining.begin(blocks(parts["train"]), given, folder=own, **sizes)
        found.train()
        found.write()
        ranks = {"norm": given.norm, "reciprocal": given.reciprocal}
        figures = link_prediction(parts["test"], TableFile(own / TABLE), found.relations, list(parts.values()), **ranks)
        done = found.figures()
        kept = ("partitions", "processes", "epochs", "training_seconds", "triples_per_second", "partition_loads")
        line = {"benchmark": "kg.partitioned quality", "data": data.name, "loss": done["loss_curve"][-1]["loss"]}
        print(json.dumps(line | figures | {name: done[name] for name in kept}), flush=True)


if __name__ == "__main__":
    main()
