"""`kg embed`: a graph in, TransE vectors out, with what they are worth on triples held out.

The written table is the one that was measured: it was chosen by validation MRR and never saw the validation and
test triples. An entity whose every triple is left out (see `leave_out`) has a zero vector, is counted, and is not in
the index; no vector is made up from neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.filters import fact_rows, read_facts, without_facts
from kg.graph import KnowledgeGraph
from kg.index import VectorIndex
from kg.progress import progress
from kg.ranking import KnownAnswers, Ranks, fitting_batch_size, metrics_by_relation, rank_triples
from kg.split import TripleSplit, split_triples
from kg.transe import Diverged, Trainer, TransE

STAGE = "kg embed"
FACTS = "facts.tsv"
MIN_HELD_OUT = 10  # fewer validation or test triples measure nothing
MIN_STEPS_PER_EPOCH = 20


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    graph: Path
    """Graph artifact (`kg build`)."""
    output: Path
    """Folder of the vectors artifact."""
    leave_out: tuple[Path, ...] = ()
    """Task example folders (`finetune examples`), or files head<TAB>relation<TAB>tail: facts a task will ask for.
    No triple between the two entities of such a fact, and none with its head and relation, is trained on or ranked."""
    dim: int = 100
    """Numbers in a vector."""
    norm: Literal["l1", "l2"] = "l2"
    """Distance between head + relation and tail; l1 is 15 to 20 times slower on a CPU."""
    loss: Literal["cross_entropy", "self_adversarial", "margin"] = "cross_entropy"
    """cross_entropy: softmax over a true triple and its negatives; self_adversarial: RotatE's; margin: the paper's."""
    margin: float = 6.0
    """Gamma of self_adversarial and margin, in units of distance; cross_entropy has none."""
    temperature: float = 1.0
    """Alpha of self_adversarial: 0 weighs all negatives alike."""
    reciprocal: bool = False
    """Gives every relation a second vector for the question "which head?"; only the first is written."""
    learning_rate: float = 0.2
    """Of row-wise Adagrad."""
    init_scale: float = 0.1
    """Standard deviation of the first vectors' numbers."""
    num_negatives: int = 512
    """Negatives of a chunk on each side, uniform, known triples left out: a triple meets twice as many."""
    chunk_size: int = 512
    """Triples that share their negatives."""
    batch_size: int = 512
    """Triples a step; less on a small graph, so that an epoch has at least about 20 steps."""
    epochs: int = 20
    """Passes over the training triples, at most."""
    valid: float = 0.02
    """Share of the triples held out for choosing the epoch."""
    test: float = 0.02
    """Share of the triples held out for the reported figures."""
    evaluate_every: int = 4
    """Epochs between validations."""
    max_ranked: int = 1000
    """Validation triples ranked each time, at most (both sides, against every entity); the test ranks all."""
    patience: int = 2
    """Validations in a row without a better MRR before training stops; 0 = never."""
    max_minutes: float = 0.0
    """Stops after the epoch in which this time is over; 0 = no limit. With one, the result depends on the machine."""
    threads: int = 0
    """Threads of torch and of faiss (never busy together); 0 = torch's own choice, which heeds OMP_NUM_THREADS."""
    seed: int = 0
    """Of the split, the first vectors, the order and the negatives."""

    def inputs(self) -> dict[str, Path]:
        named = {f"leave_out_{number}": path for number, path in enumerate(self.leave_out)}
        return {"graph": self.graph, **named}

    def __post_init__(self) -> None:
        positive = ("dim", "learning_rate", "init_scale", "num_negatives", "chunk_size", "batch_size", "epochs")
        for name in (*positive, "evaluate_every", "max_ranked"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} above 0, got {getattr(self, name)}")
        for name in ("margin", "temperature", "patience", "max_minutes", "threads"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} of at least 0, got {getattr(self, name)}")


def run(config: EmbedConfig) -> Path:
    """Splits, trains, chooses, measures and writes.

    Raises:
        InputError: the graph is no graph artifact, no triple is left to train on, a malformed facts file, or a loss
            that stopped being a number.
    """
    graph = KnowledgeGraph.load(config.graph)
    with write_artifact(config, stage=STAGE) as writer, _torch_threads(config.threads) as threads:
        triples = _without_left_out(graph, config, writer)
        split, reason = _split(triples, config)
        found = fit(split, config, num_entities=graph.num_entities, num_relations=graph.num_relations)
        _blank_untrained(found.model, split.train, graph, writer)
        writer.counts.update(
            entities=graph.num_entities,
            relations=graph.num_relations,
            train_triples=len(split.train),
            valid_triples=len(split.valid),
            test_triples=len(split.test),
        )
        writer.figures.update(found.figures(), threads=threads)
        _measure(found.model, split, reason, graph, writer)
        _write(found.model, graph, writer, threads=threads, seed=config.seed)
    return config.output


@dataclass(slots=True)
class Training:
    """A model in training, or trained: its best tables so far and its history."""

    model: TransE
    loss_curve: list[dict[str, float]] = field(default_factory=list)
    validation_curve: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    best_epoch: int = 0
    steps: int = 0
    stopped_by: str = "epochs"
    seconds: float = 0.0
    triples_seen: int = 0

    def offer(self, mrr: float, epoch: int) -> None:
        """Keeps a copy of the tables when `mrr` is the best yet."""
        self.validation_curve.append({"step": self.steps, "epoch": epoch, "mrr": mrr})
        if self.best is None or mrr > self.best[0]:
            self.best = (mrr, self.model.entities.clone(), self.model.relations.clone())
            self.best_epoch = epoch

    def restore(self) -> None:
        if self.best is not None:
            _, self.model.entities, self.model.relations = self.best

    def figures(self) -> dict[str, Any]:
        return {
            "loss_curve": self.loss_curve,
            "validation_curve": self.validation_curve,
            "validation_mrr": self.best[0] if self.best else None,
            "best_epoch": self.best_epoch,
            "epochs": len(self.loss_curve),
            "stopped_by": self.stopped_by,
            "training_seconds": round(self.seconds, 2),
            "triples_per_second": round(self.triples_seen / max(self.seconds, 1e-9)),
        }


def _without_left_out(graph: KnowledgeGraph, config: EmbedConfig, writer: ArtifactWriter) -> np.ndarray:
    """The graph's triples without those the tasks will ask for."""
    triples = graph.triples
    for path in config.leave_out:
        facts, strange = fact_rows(
            read_facts(_facts_file(path)), entities=graph.entity_vocab, relations=graph.relation_vocab
        )
        triples, dropped = without_facts(triples, facts)
        writer.counts["facts_left_out"] += len(facts)
        writer.counts.update(strange)
        writer.dropped.update(dropped)
    if not len(triples):
        raise InputError(
            f"{config.graph}: no triple is left to train on ({graph.num_triples:,} in the graph, dropped: "
            f"{dict(writer.dropped)}); give a larger graph, or leave fewer facts out"
        )
    return triples


def _facts_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    open_artifact(path, stage="finetune examples")
    return path / FACTS


def _split(triples: np.ndarray, config: EmbedConfig) -> tuple[TripleSplit, str]:
    """Train, validation and test; all of it for training, with the reason, when the held-out parts are too small."""
    nothing = np.zeros((0, 3), np.int32)
    if config.valid == 0 or config.test == 0:
        return TripleSplit(triples, nothing, nothing), "no held-out triples were asked for (valid or test is 0)"
    split = split_triples(triples, seed=config.seed, valid=config.valid, test=config.test)
    if min(len(split.valid), len(split.test)) >= MIN_HELD_OUT:
        return split, ""
    reason = (
        f"{len(triples)} triples could spare {len(split.valid)} for validation and {len(split.test)} for the test, "
        f"fewer than {MIN_HELD_OUT} each; all were trained on"
    )
    return TripleSplit(triples, nothing, nothing), reason


def fit(split: TripleSplit, config: EmbedConfig, *, num_entities: int, num_relations: int) -> Training:
    """Trains until the epochs, the patience or the minutes are over; the best tables by validation MRR stay.

    Without validation triples the last epoch's tables stay. Reads no folder: `config.graph` plays no part.

    Raises:
        InputError: the loss stopped being a number.
    """
    found, trainer = _begin(split.train, config, num_entities, num_relations)
    known = KnownAnswers(np.concatenate(split), num_relations=num_relations)
    valid = split.valid[: config.max_ranked]
    started = time.monotonic()
    with progress("kg embed: training triples", config.epochs * len(split.train)) as shown:
        for epoch in range(1, config.epochs + 1):
            _one_epoch(found, trainer, shown)
            late = config.max_minutes > 0 and time.monotonic() - started > 60 * config.max_minutes
            last = late or epoch == config.epochs
            if len(valid) and (last or epoch % config.evaluate_every == 0):
                found.offer(_rank(found.model, valid, known).metrics()["mrr"], epoch)
                shown.figures["MRR"] = found.validation_curve[-1]["mrr"]
            if late:
                found.stopped_by = "max_minutes"
                break
            unrewarded = (epoch - found.best_epoch) // config.evaluate_every
            if len(valid) and found.best and config.patience and unrewarded >= config.patience:
                found.stopped_by = "patience"
                break
    found.restore()
    return found


def _begin(triples: np.ndarray, config: EmbedConfig, num_entities: int, num_relations: int) -> tuple[Training, Trainer]:
    generator = torch.Generator().manual_seed(config.seed)
    model = TransE.initialised(
        num_entities=num_entities,
        num_relations=num_relations,
        dim=config.dim,
        scale=config.init_scale,
        generator=generator,
        norm=config.norm,
        reciprocal=config.reciprocal,
    )
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
    )
    return Training(model), trainer


def _one_epoch(found: Training, trainer: Trainer, shown: Any) -> None:
    started, before = time.perf_counter(), found.triples_seen

    def on_step(triples: int) -> None:
        found.triples_seen += triples
        found.steps += 1
        passed = found.seconds + time.perf_counter() - started
        shown.advance(triples, **{"triples/s": f"{found.triples_seen / max(passed, 1e-9):,.0f}"})

    try:
        loss = trainer.epoch(on_step)
    except Diverged as error:
        raise InputError(
            f"training stopped after {found.triples_seen - before:,} triples of an epoch: {error}"
        ) from None
    found.seconds += time.perf_counter() - started
    found.loss_curve.append({"step": found.steps, "loss": loss})
    shown.figures["loss"] = loss


def _rank(model: TransE, triples: np.ndarray, known: KnownAnswers) -> Ranks:
    with progress("kg embed: ranking triples", len(triples)) as shown:
        size = fitting_batch_size(len(model.entities) - 1)
        return rank_triples(triples, model.score_all, known, batch_size=size, on_batch=shown.advance)


def _blank_untrained(model: TransE, train: np.ndarray, graph: KnowledgeGraph, writer: ArtifactWriter) -> None:
    """Zeroes the rows no training triple ever named, and counts why."""
    trained, in_graph = (np.zeros(graph.num_entities + 1, bool) for _ in range(2))
    trained[train[:, [0, 2]].ravel()] = True
    in_graph[graph.triples[:, [0, 2]].ravel()] = True
    in_graph[0] = trained[0] = True
    model.entities[torch.from_numpy(~trained)] = 0.0
    relations = np.isin(np.arange(graph.num_relations), train[:, 1])
    model.relations[: graph.num_relations][torch.from_numpy(~relations)] = 0.0
    reasons = {
        "entity_vector_zero_no_triple": int((~in_graph).sum()),
        "entity_vector_zero_all_left_out": int((in_graph & ~trained).sum()),
        "relation_vector_zero": int((~relations).sum()),
    }
    writer.dropped.update({reason: count for reason, count in reasons.items() if count})


def _measure(model: TransE, split: TripleSplit, reason: str, graph: KnowledgeGraph, writer: ArtifactWriter) -> None:
    """Filtered test figures of the table as it is written, or `mrr: null` and the reason there are none."""
    if reason:
        writer.counts["held_out_too_small"] = 1
        writer.figures.update(mrr=None, mrr_reason=reason)
        writer.headline = f"{len(split.train):,} triples, none held out"
        return
    known = KnownAnswers(np.concatenate(split), num_relations=graph.num_relations)
    ranks = _rank(model, split.test, known)
    figures = ranks.metrics()
    writer.figures.update(
        figures,
        mrr_optimistic=ranks.metrics("optimistic")["mrr"],
        mrr_pessimistic=ranks.metrics("pessimistic")["mrr"],
        test_by_relation=[
            line | {"relation": graph.relation_vocab.identifier(int(line["relation"]))}
            for line in metrics_by_relation(split.test, ranks)
        ],
    )
    writer.headline = f"filtered MRR {figures['mrr']:.3f}, hits@10 {figures['hits@10']:.3f}"


def _write(model: TransE, graph: KnowledgeGraph, writer: ArtifactWriter, *, threads: int, seed: int) -> None:
    """The two tables, the ids of their rows, and the index of the entities that have a vector."""
    ids = graph.entity_vocab.identifiers
    broken = next((name for name in ids if "\n" in name or "\r" in name), None)
    if broken is not None:
        raise InputError(f"entity id {broken!r} has a line break; ids are written one a line, rename it")
    relations = model.relations[: graph.num_relations].contiguous()
    save_file({"entity_embeddings": model.entities}, writer.path / "entity_embeddings.safetensors")
    save_file({"relation_embeddings": relations}, writer.path / "relation_embeddings.safetensors")
    with (writer.path / "vocabulary.txt").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{name}\n" for name in ids)
    vectors = model.entities.numpy()
    rows = np.flatnonzero(np.abs(vectors).max(axis=1) > 0)
    index = VectorIndex.build(vectors[rows], [ids[row - 1] for row in rows], "cosine", threads=threads, seed=seed)
    index.save(writer.path)
    writer.counts["indexed_entities"] = len(index)
    writer.figures.update(
        {
            "index": index.kind,
            "index_metric": index.metric,
            "index_recall@10": index.recall,
            "mean_vector_length": float(np.linalg.norm(vectors[rows], axis=1).mean()),
        }
    )


@contextmanager
def _torch_threads(threads: int) -> Iterator[int]:
    """torch's pool of this size for the block; 0 leaves it as it is. Gives the size."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
