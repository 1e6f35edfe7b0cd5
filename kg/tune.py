"""`kg tune`: a small search over TransE's settings, judged on validation triples alone.

Successive halving (Jamieson and Talwalkar 2016): many settings for a few epochs, the better half for twice as many,
and so on. A setting that lasts goes on where it was; nothing is trained twice. The test triples are taken away before
the search begins, even as filter of the ranking.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from kg.artifact import plain, write_artifact
from kg.embed import torch_threads
from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.fitting import Ranking, Training, begin, one_epoch
from kg.graph import GraphFacts
from kg.held_out import split_graph
from kg.progress import progress
from kg.split import TripleSplit

STAGE = "kg tune"
TRIALS, BEST = "trials.json", "best.yaml"
SEARCHED = ("loss", "norm", "reciprocal", "margin", "temperature", "learning_rate", "num_negatives")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    graph: Path
    """Graph artifact (`kg build`)."""
    output: Path
    """Folder of the result: trials.json, and best.yaml for `kg embed --config`."""
    leave_out: tuple[Path, ...] = ()
    """As in `kg embed`: facts that a task will ask for."""
    split: Literal["auto", "own", "published"] = "auto"
    """As in `kg embed`: which triples are held out."""
    trials: int = 12
    """Settings tried at first, drawn from all combinations of the lists below."""
    first_epochs: int = 3
    """Epochs of the first round; every further round doubles them and halves the settings."""
    losses: tuple[str, ...] = ("cross_entropy", "self_adversarial")
    """Values of `loss`."""
    norms: tuple[str, ...] = ("l2", "l1")
    """Values of `norm`."""
    reciprocals: tuple[bool, ...] = (False, True)
    """Values of `reciprocal`."""
    margins: tuple[float, ...] = (3.0, 6.0, 9.0)
    """Values of `margin`; a loss without one is tried once."""
    temperatures: tuple[float, ...] = (1.0, 2.0)
    """Values of `temperature`; a loss without one is tried once."""
    learning_rates: tuple[float, ...] = (0.1, 0.2)
    """Values of `learning_rate`."""
    numbers_of_negatives: tuple[int, ...] = (64, 256)
    """Values of `num_negatives`."""
    dim: int = 100
    """Numbers in a vector."""
    chunk_size: int = 64
    """Triples that share their negatives."""
    batch_size: int = 512
    """Triples a step."""
    max_ranked: int = 1000
    """Validation triples ranked for each setting and round, at most."""
    threads: int = 0
    """Threads of torch; 0 = torch's own choice."""
    seed: int = 0
    """Of the split, the settings drawn, and every training."""

    def inputs(self) -> dict[str, Path]:
        return {"graph": self.graph, **{f"leave_out_{number}": path for number, path in enumerate(self.leave_out)}}

    def __post_init__(self) -> None:
        for name in ("trials", "first_epochs", "max_ranked"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} above 0, got {getattr(self, name)}")


@dataclass(slots=True)
class Trial:
    """One setting, its training, and its validation MRR after each of its rounds (by epochs)."""

    settings: dict[str, Any]
    config: EmbedConfig
    training: Training
    mrr: dict[int, float]

    @property
    def latest(self) -> float:
        return self.mrr[max(self.mrr)] if self.mrr else -1.0


def run(config: TuneConfig) -> Path:
    """Draws, trains, halves until one setting is left, and writes what was seen.

    Raises:
        InputError: no graph artifact, no validation triples, or a list with a value `kg embed` refuses.
    """
    graph = GraphFacts(config.graph)
    base = EmbedConfig(
        **{name: getattr(config, name) for name in ("graph", "leave_out", "split", "dim", "chunk_size", "batch_size")},
        **{name: getattr(config, name) for name in ("max_ranked", "threads", "seed")},
        output=config.output,
    )
    drawn = draw(config)
    with write_artifact(config, stage=STAGE) as writer, torch_threads(config.threads):
        split, reason = split_graph(graph, base, writer)
        if reason:
            raise InputError(f"{config.graph}: nothing to judge settings by: {reason}")
        blind = TripleSplit(split.train, split.valid, np.zeros((0, 3), np.int32))
        trials = [_trial(settings, base, blind, graph) for settings in drawn]
        sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
        best = halve(trials, blind, config.first_epochs, Ranking(blind, config=base, **sizes))
        table = [
            {**trial.settings, "epochs": max(trial.mrr), "validation_mrr": trial.latest}
            for trial in sorted(trials, key=lambda trial: (-max(trial.mrr), -trial.latest))
        ]
        (writer.path / TRIALS).write_text(json.dumps(table, indent=1), encoding="utf-8")
        found = {**best.settings, "dim": config.dim, "chunk_size": config.chunk_size, "batch_size": config.batch_size}
        (writer.path / BEST).write_text(yaml.safe_dump(plain(found), sort_keys=False), encoding="utf-8")
        writer.counts.update(trials=len(trials), epochs=sum(trial.training.history.epoch for trial in trials))
        writer.figures.update(trials=table, best=best.settings, validation_mrr=best.latest)
        chosen = ", ".join(f"{name} {value}" for name, value in best.settings.items())
        writer.headline = f"validation MRR {best.latest:.3f} after {max(best.mrr)} epochs: {chosen}"
    return config.output


def draw(config: TuneConfig) -> list[dict[str, Any]]:
    """Settings to try, without repeats, in the order they are drawn; all of them where there are no more.

    Cross-entropy knows neither margin nor temperature, and margin ranking no temperature: such combinations are one.
    """
    lists = (
        config.losses,
        config.norms,
        config.reciprocals,
        config.margins,
        config.temperatures,
        config.learning_rates,
        config.numbers_of_negatives,
    )
    settings: dict[tuple, dict[str, Any]] = {}
    for values in itertools.product(*lists):
        of = dict(zip(SEARCHED, values, strict=True))
        if of["loss"] == "cross_entropy":
            del of["margin"]
        if of["loss"] != "self_adversarial":
            del of["temperature"]
        settings.setdefault(tuple(of.items()), of)
    every = list(settings.values())
    return random.Random(f"kg tune:{config.seed}").sample(every, min(config.trials, len(every)))


def halve(trials: list[Trial], split: TripleSplit, first_epochs: int, ranking: Ranking) -> Trial:
    """Rounds of training until one trial is left; returns it. The worse half of a round is not trained further."""
    left, epochs = list(trials), first_epochs
    while True:
        with progress(
            f"kg tune: {len(left)} settings, {epochs} epochs", len(left) * epochs * len(split.train)
        ) as shown:
            for trial in left:
                while trial.training.history.epoch < epochs:
                    one_epoch(trial.training, trial.config, shown)
                valid = split.valid[: trial.config.max_ranked]
                trial.mrr[epochs] = ranking.mrr(trial.training.model, valid)
        left.sort(key=lambda trial: -trial.latest)
        if len(left) == 1:
            return left[0]
        left, epochs = left[: (len(left) + 1) // 2], 2 * epochs


def _trial(settings: dict[str, Any], base: EmbedConfig, split: TripleSplit, graph: GraphFacts) -> Trial:
    config = replace(base, **settings)
    training = begin(split.train, config, num_entities=graph.num_entities, num_relations=graph.num_relations)
    return Trial(settings, config, training, {})
