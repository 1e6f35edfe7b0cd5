"""The training loop of `kg embed`: epochs, validation, early stopping, checkpoints from which a run goes on exactly."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from kg.artifact import release_memory
from kg.embed_config import EmbedConfig
from kg.engines import choose_engine
from kg.errors import InputError
from kg.partitioned.evaluation import Candidates, MemoryTable, rank_on_disk
from kg.partitioned.files import read_tensors, write_tensors
from kg.progress import Progress, progress
from kg.ranking import KnownAnswers, Ranks, fitting_batch_size, rank_triples
from kg.split import TripleSplit
from kg.trainer import Diverged, Trainer
from kg.transe import TransE

MIN_STEPS_PER_EPOCH = 20
CHECKPOINT = "checkpoint.safetensors"
BEST = "best-{epoch}.safetensors"


@dataclass(slots=True)
class History:
    """What happened so far, as JSON values; all of it goes through a checkpoint."""

    loss_curve: list[dict[str, float]] = field(default_factory=list)
    validation_curve: list[dict[str, float]] = field(default_factory=list)
    best_mrr: float | None = None
    best_epoch: int = 0
    steps: int = 0
    triples_seen: int = 0
    seconds: float = 0.0
    stopped_by: str = "epochs"

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return len(self.loss_curve)


class Training:
    """A model in training, or trained, and the best of its tables by validation MRR.

    folder: where the best tables and the checkpoint lie meanwhile, so that memory holds the tables once; None keeps
        the best tables in memory and writes no checkpoint.
    """

    def __init__(self, model: TransE, trainer: Trainer, *, engine: str, folder: Path | None) -> None:
        self.model, self.trainer, self.engine, self.folder = model, trainer, engine, folder
        self.history = History()
        self._best: tuple[torch.Tensor, torch.Tensor] | None = None

    def offer(self, mrr: float, *, keep_older: bool) -> None:
        """Keeps the tables when `mrr` is the best yet. keep_older: a checkpoint still needs the best before."""
        history = self.history
        history.validation_curve.append({"step": history.steps, "epoch": history.epoch, "mrr": mrr})
        if history.best_mrr is not None and mrr <= history.best_mrr:
            return
        history.best_mrr, history.best_epoch = mrr, history.epoch
        if self.folder is None:
            self._best = self.model.entities.clone(), self.model.relations.clone()
            return
        write_tensors(self.folder / BEST.format(epoch=history.epoch), self._arrays(self._tables()))
        if not keep_older:
            self._forget_older()

    def restore_best(self) -> None:
        """The best tables become the model's, in place; nothing happens where none were offered."""
        if self.history.best_mrr is None:
            return
        if self.folder is not None:
            self._fill(self.folder / BEST.format(epoch=self.history.best_epoch), self._tables())
            return
        assert self._best is not None, "a best MRR comes with its tables"
        for table, best in zip(self._tables().values(), self._best, strict=True):
            table.copy_(best)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        assert self.folder is not None, "a checkpoint needs a folder"
        tensors = self._tables() | self.trainer.state_dict()
        history = json.dumps({name: getattr(self.history, name) for name in History.__slots__})
        write_tensors(self.folder / CHECKPOINT, self._arrays(tensors), {"history": history})
        self._forget_older()

    def resume(self) -> None:
        """Goes back to the checkpoint, where there is one."""
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return
        with safe_open(self.folder / CHECKPOINT, "pt") as file:
            history = json.loads(file.metadata()["history"])
        state = self.trainer.state_dict()
        self._fill(self.folder / CHECKPOINT, self._tables() | state)
        self.trainer.load_state_dict(state)
        self.history = History(**history)

    def _tables(self) -> dict[str, torch.Tensor]:
        return {"entities": self.model.entities, "relations": self.model.relations}

    @staticmethod
    def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    @staticmethod
    def _fill(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Reads a file into the tensors, in place."""
        arrays = Training._arrays(tensors)  # on the CPU the same memory
        read_tensors(path, arrays)
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                tensor.copy_(torch.from_numpy(arrays[name]))

    def clean(self) -> None:
        """Removes checkpoint and best tables: the folder is about to become the artifact."""
        if self.folder is not None:
            for path in (*self.folder.glob(BEST.format(epoch="*")), *self.folder.glob(CHECKPOINT + "*")):
                path.unlink()

    def figures(self) -> dict[str, Any]:
        history = self.history
        return {
            "loss_curve": history.loss_curve,
            "validation_curve": history.validation_curve,
            "validation_mrr": history.best_mrr,
            "best_epoch": history.best_epoch,
            "epochs": history.epoch,
            "stopped_by": history.stopped_by,
            "training_seconds": round(history.seconds, 2),
            "triples_per_second": round(history.triples_seen / max(history.seconds, 1e-9)),
            "engine": self.engine,
            "memory_forecast_mb": self.memory_forecast(),
        }

    def memory_forecast(self) -> dict[str, float]:
        """Megabytes of what training holds: tables, optimiser state, triples and the filter of negatives."""
        known = self.trainer.known
        held = {
            "tables": (self.model.entities, self.model.relations),
            "optimiser": self.trainer.engine.accumulated,
            "triples": (self.trainer.triples,),
            "filter": (known.questions, known.starts) if known else (),
        }
        return {name: round(sum(t.numel() * t.element_size() for t in of) / 2**20, 1) for name, of in held.items()}

    def _forget_older(self) -> None:
        assert self.folder is not None, "only files are forgotten"
        for path in self.folder.glob(BEST.format(epoch="*")):
            if path.name != BEST.format(epoch=self.history.best_epoch):
                path.unlink()


def begin(
    triples: np.ndarray, config: EmbedConfig, *, num_entities: int, num_relations: int, folder: Path | None = None
) -> Training:
    """A fresh model and its trainer; every random choice from one generator of the config's seed, on the CPU, so that
    the choices are the same on every device.

    Raises:
        InputError: there is no such device.
    """
    generator = torch.Generator().manual_seed(config.seed)
    engine, _ = choose_engine(config.engine, config.device)
    model = TransE.initialised(
        num_entities=num_entities,
        num_relations=num_relations,
        dim=config.dim,
        scale=config.init_scale,
        generator=generator,
        norm=config.norm,
        reciprocal=config.reciprocal,
    ).to(config.device)
    trainer = Trainer(
        model,
        torch.from_numpy(triples.astype(np.int64)),
        loss=config.loss,
        margin=config.margin,
        temperature=config.temperature,
        learning_rate=config.learning_rate,
        num_negatives=config.num_negatives,
        batch_size=min(config.batch_size, max(16, len(triples) // MIN_STEPS_PER_EPOCH)),
        chunk_size=config.chunk_size,
        generator=generator,
        engine=engine,
        negatives=config.negatives,
        filtered=config.filtered,
    )
    return Training(model, trainer, engine=engine, folder=folder)


class Ranking:
    """Filtered ranks among all entities, or among a sample where there are very many (`rank_sample`).

    split: its triples together are what is held true. candidates: among which entities is ranked.
    """

    def __init__(self, split: TripleSplit, *, num_entities: int, num_relations: int, config: EmbedConfig) -> None:
        self.candidates = Candidates.of(num_entities, sample=config.rank_sample, seed=config.seed)
        self._split = split
        self._known = KnownAnswers(np.concatenate(split), num_relations=num_relations)

    def ranks(self, model: TransE, triples: np.ndarray) -> Ranks:
        """Of both sides of the triples, with progress."""
        release_memory()  # what training freed: the score matrices fit into that
        if self.candidates.rows is not None:
            given = {"norm": model.norm_name, "reciprocal": model.reciprocal}
            table, relations = MemoryTable(model.entities.cpu().numpy()), model.relations.cpu()
            return rank_on_disk(triples, table, relations, self._split, self.candidates.rows, **given)
        with progress("kg embed: ranking triples", len(triples)) as shown:
            size = fitting_batch_size(len(model.entities) - 1)
            return rank_triples(triples, model.score_all, self._known, batch_size=size, on_batch=shown.advance)

    def mrr(self, model: TransE, triples: np.ndarray) -> float:
        return self.ranks(model, triples).metrics()["mrr"]


def fit(found: Training, split: TripleSplit, config: EmbedConfig, ranking: Ranking) -> None:
    """Trains until the epochs, the patience or the minutes are over; the best tables by validation MRR stay.

    Goes on after `found.resume()`. Without validation triples the last epoch's tables stay.

    Raises:
        InputError: the loss stopped being a number.
    """
    valid, history = split.valid[: config.max_ranked], found.history
    left = (config.epochs - history.epoch) * len(split.train)
    with progress("kg embed: training triples", left) as shown:
        while history.epoch < config.epochs and not _stopped(history, config, validated=len(valid) > 0):
            one_epoch(found, config, shown)
            late = config.max_minutes > 0 and history.seconds > 60 * config.max_minutes
            if len(valid) and (late or history.epoch == config.epochs or history.epoch % config.evaluate_every == 0):
                mrr = ranking.mrr(found.model, valid)
                found.offer(mrr, keep_older=config.save_every > 0)
                shown.figures["MRR"] = mrr
            if config.save_every and (history.epoch % config.save_every == 0 or history.epoch == config.epochs):
                found.save()
    found.restore_best()


def _stopped(history: History, config: EmbedConfig, *, validated: bool) -> bool:
    """Whether training is over before its epochs are; notes why."""
    if config.max_minutes > 0 and history.seconds > 60 * config.max_minutes:
        history.stopped_by = "max_minutes"
        return True
    unrewarded = (history.epoch - history.best_epoch) // config.evaluate_every
    if validated and history.best_mrr is not None and config.patience and unrewarded >= config.patience:
        history.stopped_by = "patience"
        return True
    return False


def one_epoch(found: Training, config: EmbedConfig, shown: Progress) -> None:
    """Trains one epoch at the rate the schedule gives it, and notes what it took.

    Raises:
        InputError: the loss stopped being a number.
    """
    history, trainer = found.history, found.trainer
    trainer.set_learning_rate(config.rate(history.epoch))
    started, before, seen = time.perf_counter(), history.triples_seen, 0

    def on_step(triples: int) -> None:
        nonlocal seen
        seen += triples
        passed = history.seconds + time.perf_counter() - started
        shown.advance(triples, **{"triples/s": f"{(before + seen) / max(passed, 1e-9):,.0f}"})

    try:
        loss = trainer.epoch(on_step)
    except Diverged as error:
        raise InputError(f"training stopped after {seen:,} triples of epoch {history.epoch + 1}: {error}") from None
    history.seconds += time.perf_counter() - started
    history.triples_seen += seen
    history.steps += trainer.steps_per_epoch
    history.loss_curve.append({"step": history.steps, "loss": loss})
    shown.figures["loss"] = loss
