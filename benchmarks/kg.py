"""What `kg embed` reaches, one JSON line a figure: filtered MRR, hits@10, triples a second, peak memory.

python benchmarks/kg.py                                  the graph of installed WordNet nouns, defaults
python benchmarks/kg.py --triples FOLDER                 train.tsv, valid.tsv, test.tsv, as published (WN18RR …)
python benchmarks/kg.py --triples FOLDER --set epochs=10 --set reciprocal=true
"""
# ruff: noqa: E402 (this file is named `kg` too: its folder leaves sys.path before the package is imported)

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from kg.artifact import open_artifact
from kg.build import BuildConfig
from kg.build import run as build
from kg.embed import EmbedConfig, fit
from kg.embed import run as embed
from kg.ranking import KnownAnswers, fitting_batch_size, rank_triples
from kg.split import TripleSplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=Path, help="folder with train.tsv, valid.tsv, test.tsv")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of EmbedConfig")
    arguments = parser.parse_args()
    settings = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    with tempfile.TemporaryDirectory() as folder:
        config = EmbedConfig(graph=Path(folder) / "graph", output=Path(folder) / "vectors", **settings)
        figures = published(arguments.triples, config) if arguments.triples else wordnet(config)
    own = {f.name for f in dataclasses.fields(EmbedConfig)} - {"graph", "output", "leave_out"}
    chosen = {name: value for name, value in dataclasses.asdict(config).items() if name in own}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    data = str(arguments.triples.name) if arguments.triples else "wordnet nouns"
    print(json.dumps({"benchmark": "kg embed", "data": data, **figures, "peak_memory_mb": peak, "settings": chosen}))


def wordnet(config: EmbedConfig) -> dict[str, Any]:
    """The two stages as a user runs them, on their own split."""
    build(BuildConfig(output=config.graph))
    figures = open_artifact(embed(config), stage="kg embed").figures
    names = ("mrr", "hits@1", "hits@10", "validation_mrr", "epochs", "training_seconds", "triples_per_second")
    return {name: figures[name] for name in names}


def published(folder: Path, config: EmbedConfig) -> dict[str, Any]:
    """Trained on the published split: chosen on valid.tsv, measured on test.tsv, both sides, realistic ties."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    parts = []
    for name in ("train", "valid", "test"):
        lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [
            (
                entities.setdefault(head, len(entities) + 1),
                relations.setdefault(relation, len(relations)),
                entities.setdefault(tail, len(entities) + 1),
            )
            for head, relation, tail in (line.split("\t") for line in lines)
        ]
        parts.append(np.array(rows, np.int32))
    split = TripleSplit(*parts)
    if config.threads:
        torch.set_num_threads(config.threads)
    found = fit(split, config, num_entities=len(entities), num_relations=len(relations))
    started = time.perf_counter()
    known = KnownAnswers(np.concatenate(split), num_relations=len(relations))
    ranks = rank_triples(split.test, found.model.score_all, known, batch_size=fitting_batch_size(len(entities)))
    evaluation = {"test_seconds": round(time.perf_counter() - started, 2)}
    names = ("validation_mrr", "best_epoch", "epochs", "training_seconds", "triples_per_second")
    return ranks.metrics() | evaluation | {name: found.figures()[name] for name in names}


if __name__ == "__main__":
    main()
