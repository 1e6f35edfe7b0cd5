"""What a road of `configs/kg` reaches, one JSON line an engine: quality, speed, memory.

python benchmarks/embedding.py configs/kg/fb15k237.yaml --source FOLDER        train.tsv, valid.tsv, test.tsv in it
python benchmarks/embedding.py configs/kg/wn18rr.yaml --source FOLDER --engines torch fused
python benchmarks/embedding.py configs/kg/wordnet.yaml --set vectors.epochs=5

`ernie-kg run` of the road in a fresh folder, as a user would start it: `kg build`, then `kg embed`. The first fused run
of an installation compiles the kernels, in a process of its own: `embed_seconds` holds that, `training_seconds` not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from kg.artifact import read_manifest

MEASURED = ("mrr", "hits@1", "hits@3", "hits@10", "mean_rank", "validation_mrr", "best_epoch", "epochs")
TIMED = ("training_seconds", "triples_per_second", "test_seconds", "engine", "threads")
SETTINGS = ("dim", "norm", "loss", "reciprocal", "num_negatives", "chunk_size", "batch_size", "learning_rate", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("road", type=Path, help="a file of configs/kg")
    parser.add_argument("--source", type=Path, help="the folder that `kg build` reads; else the road's own")
    parser.add_argument("--engines", nargs="+", default=["auto"], help="auto, torch, fused")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="a value of the road")
    arguments = parser.parse_args()
    overrides = dict(text.partition("=")[::2] for text in arguments.set)
    if arguments.source:
        overrides["graph.source"] = str(arguments.source.resolve())
    for engine in arguments.engines:
        print(json.dumps(measured(arguments.road, overrides | {"vectors.engine": engine})), flush=True)


def measured(road: Path, overrides: dict[str, str]) -> dict[str, Any]:
    """Runs a road in a fresh folder and reads its manifests."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word for key, value in overrides.items() for word in (f"--{key}", value)]
        command = [sys.executable, "-m", "ernie_kg.cli", "run", str(road), "--output", folder, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        graph, vectors = (read_manifest(Path(folder) / name) for name in ("graph", "vectors"))
    figures, settings = vectors.figures, vectors.data["config"]
    table = 4 * settings["dim"] * (vectors.counts["entities"] + 1)
    allowed = 2.5 * table + 500e6
    return {
        "benchmark": "kg embed",
        "road": road.name,
        "build_seconds": graph.data["seconds"],
        **{name: figures.get(name) for name in (*MEASURED, *TIMED)},
        "embed_seconds": vectors.data["seconds"],
        "peak_memory_mb": round(vectors.data["peak_memory_bytes"] / 1e6),
        "allowed_memory_mb": round(allowed / 1e6),
        "memory_ok": vectors.data["peak_memory_bytes"] <= allowed,
        "settings": {name: settings[name] for name in SETTINGS},
        "overrides": {key: yaml.safe_load(value) for key, value in overrides.items() if key != "graph.source"},
    }


if __name__ == "__main__":
    main()
