"""`kg embed`: a graph in, TransE vectors out, with what they are worth on triples held out.

The written table is the one that was measured: it was chosen by validation MRR and never saw the validation and
test triples. An entity whose every triple is left out (see `leave_out`) has a zero vector, is counted, and is not in
the index; no vector is made up from neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from kg.artifact import ArtifactWriter, write_artifact
from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.filters import fact_rows, read_facts, task_facts, without_facts
from kg.fitting import Training, begin, fit, rank
from kg.graph import KnowledgeGraph
from kg.index import VectorIndex
from kg.inductive import fill, text_encoder
from kg.ranking import KnownAnswers, cardinalities, metrics_by_cardinality, metrics_by_relation
from kg.sources import resolve_source
from kg.split import TripleSplit, audit, split_triples
from kg.transe import TransE
from kg.warm_start import start_from

STAGE = "kg embed"
MIN_HELD_OUT = 10  # fewer validation or test triples measure nothing


def run(config: EmbedConfig) -> Path:
    """Splits, trains, chooses, measures and writes; goes on from the checkpoint of a killed run of the same config.

    Raises:
        InputError: the graph is no graph artifact, no triple is left to train on, a malformed facts file, an older
            vectors artifact of another width, or a loss that stopped being a number.
    """
    graph = KnowledgeGraph.load(config.graph)
    resumable = config.save_every > 0
    with write_artifact(config, stage=STAGE, resumable=resumable) as writer, torch_threads(config.threads) as threads:
        split, reason = split_graph(graph, config, writer)
        found = _train(split, graph, config, writer)
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
        trained = found.model.entities.any(1).numpy()
        if config.inductive:
            _fill_from_texts(found.model, graph, config, writer)
        _write(found.model, graph, writer, indexed=trained, threads=threads, seed=config.seed)
    return config.output


def _train(split: TripleSplit, graph: KnowledgeGraph, config: EmbedConfig, writer: ArtifactWriter) -> Training:
    found = begin(
        split.train,
        config,
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        folder=writer.path,
    )
    if config.warm_start is not None:
        names = graph.entity_vocab.identifiers, graph.relation_vocab.identifiers
        writer.counts.update(
            start_from(found.model, config.warm_start, split.train, entity_ids=names[0], relation_ids=names[1])
        )
    found.resume()
    fit(found, split, config)
    found.clean()
    return found


def split_graph(graph: KnowledgeGraph, config: EmbedConfig, writer: ArtifactWriter) -> tuple[TripleSplit, str]:
    """Train, validation and test without what the tasks will ask for; and why nothing is held out, where so."""
    if config.split == "published" and graph.splits is None:
        raise InputError(f"{config.graph}: its source had no published split; set split to own or auto")
    leak_free = _leak_filter(graph, config, writer)
    if config.split != "own" and graph.splits is not None:
        split = TripleSplit(*(leak_free(graph.triples[graph.splits == number]) for number in range(3)))
        _note_unseen(split, writer)
        writer.figures["split"] = "published"
    else:
        split = TripleSplit(leak_free(graph.triples), *(np.zeros((0, 3), np.int32) for _ in range(2)))
        writer.figures["split"] = "own"
    if not len(split.train):
        raise InputError(
            f"{config.graph}: no triple is left to train on ({graph.num_triples:,} in the graph, dropped: "
            f"{dict(writer.dropped)}); give a larger graph, or leave fewer facts out"
        )
    if writer.figures["split"] == "own":
        return _own_split(split.train, config)
    return split, "" if min(len(split.valid), len(split.test)) else "the published split has no validation or no test"


def _leak_filter(
    graph: KnowledgeGraph, config: EmbedConfig, writer: ArtifactWriter
) -> Callable[[np.ndarray], np.ndarray]:
    """Drops from any triples those that the tasks of `leave_out` will ask for, and counts them."""
    parts = []
    for path in config.leave_out:
        facts, strange = fact_rows(
            read_facts(task_facts(path)), entities=graph.entity_vocab, relations=graph.relation_vocab
        )
        parts.append(facts)
        writer.counts["facts_left_out"] += len(facts)
        writer.counts.update(strange)

    def keep(triples: np.ndarray) -> np.ndarray:
        for facts in parts:
            triples, dropped = without_facts(triples, facts)
            writer.dropped.update(dropped)
        return triples

    return keep


def _note_unseen(split: TripleSplit, writer: ArtifactWriter) -> None:
    """Counts what held-out triples name and no training triple does; they stay in the ranking, with zero vectors."""
    for name, held_out in (("valid", split.valid), ("test", split.test)):
        strange = np.setdiff1d(held_out[:, [0, 2]], split.train[:, [0, 2]])
        writer.counts[f"unseen_{name}_entities"] = len(strange)
    held_out = np.concatenate([split.valid, split.test])
    num_relations = int(np.concatenate(split)[:, 1].max(initial=0)) + 1
    found = audit(split.train, held_out, num_relations)
    writer.figures["split_audit"] = {name: value for name, value in found.items() if name != "relations"}


def _own_split(triples: np.ndarray, config: EmbedConfig) -> tuple[TripleSplit, str]:
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


def _fill_from_texts(model: TransE, graph: KnowledgeGraph, config: EmbedConfig, writer: ArtifactWriter) -> None:
    """Vectors from descriptions for the rows that have none, and the list of them; after all figures are taken."""
    descriptions = graph.entities["description"].to_pylist()
    texts = ["", *(f"{label}: {of}" if of else "" for label, of in zip(graph.labels[1:], descriptions, strict=True))]
    encoder = text_encoder(resolve_source(config.inductive))
    rows, found = fill(model.entities.numpy(), texts, encoder, seed=config.seed)
    ids = [graph.entity_vocab.identifier(row) for row in rows.tolist()]
    table = pa.table({"row": pa.array(rows, pa.int32()), "id": pa.array(ids, pa.string())})
    pq.write_table(table, writer.path / "inductive_entities.parquet")
    writer.counts["inductive_entities"] = len(rows)
    if found is not None:
        writer.figures["inductive"] = {
            "cosine": found.cosine,
            "baseline_cosine": found.baseline,
            "ridge": found.ridge,
            "num_fitted": found.num_fitted,
        }


def _measure(model: TransE, split: TripleSplit, reason: str, graph: KnowledgeGraph, writer: ArtifactWriter) -> None:
    """Filtered test figures of the table as it is written, or `mrr: null` and the reason there are none."""
    if reason:
        writer.counts["held_out_too_small"] = 1
        writer.figures.update(mrr=None, mrr_reason=reason)
        writer.headline = f"{len(split.train):,} triples, none held out"
        return
    known = KnownAnswers(np.concatenate(split), num_relations=graph.num_relations)
    started = time.perf_counter()
    ranks = rank(model, split.test, known)
    figures = ranks.metrics()
    writer.figures.update(
        figures,
        mrr_optimistic=ranks.metrics("optimistic")["mrr"],
        mrr_pessimistic=ranks.metrics("pessimistic")["mrr"],
        test_seconds=round(time.perf_counter() - started, 2),
        test_by_relation=[
            line | {"relation": graph.relation_vocab.identifier(int(line["relation"]))}
            for line in metrics_by_relation(split.test, ranks)
        ],
        test_by_cardinality=metrics_by_cardinality(
            split.test, ranks, cardinalities(np.concatenate(split), num_relations=graph.num_relations)
        ),
    )
    writer.headline = f"filtered MRR {figures['mrr']:.3f}, hits@10 {figures['hits@10']:.3f}"


def _write(
    model: TransE, graph: KnowledgeGraph, writer: ArtifactWriter, *, indexed: np.ndarray, threads: int, seed: int
) -> None:
    """The two tables, the ids of their rows, and the index of the entities that were trained (`indexed`: by row)."""
    ids = graph.entity_vocab.identifiers
    broken = next((name for name in (*ids, *graph.relation_vocab) if "\n" in name or "\r" in name), None)
    if broken is not None:
        raise InputError(f"the id {broken!r} has a line break; ids are written one a line, rename it")
    relations = model.relations[: graph.num_relations].contiguous()
    save_file({"entity_embeddings": model.entities}, writer.path / "entity_embeddings.safetensors")
    tables = {"relation_embeddings": relations}
    if model.reciprocal:
        tables["inverse_relation_embeddings"] = model.relations[graph.num_relations :].contiguous()
    save_file(tables, writer.path / "relation_embeddings.safetensors")
    for name, of in (("vocabulary.txt", ids), ("relations.txt", graph.relation_vocab.identifiers)):
        with (writer.path / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{identifier}\n" for identifier in of)
    vectors = model.entities.numpy()
    rows = np.flatnonzero(indexed)
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
def torch_threads(threads: int) -> Iterator[int]:
    """torch's pool of this size for the block; 0 leaves it as it is. Gives the size."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
