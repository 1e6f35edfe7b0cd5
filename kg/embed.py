"""`kg embed`: a graph in, TransE vectors out, with what they are worth on triples held out.

The written table is the one that was measured: it was chosen by validation MRR and never saw the validation and
test triples. An entity whose every triple is left out (see `leave_out`) has a zero vector, is counted, and is not in
the index; no vector is made up from neighbours. With `memory_gb`, `partitions` or `processes` the table is trained on
disk (`kg.partitioned.stage`); what is written is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kg.artifact import ArtifactWriter, release_memory, write_artifact
from kg.embed_config import EmbedConfig
from kg.fitting import Ranking, begin, fit
from kg.graph import GraphFacts, KnowledgeGraph
from kg.held_out import split_graph
from kg.inductive import fill, text_encoder
from kg.ranking import cardinalities, metrics_by_cardinality, metrics_by_relation
from kg.sources import resolve_source
from kg.split import TripleSplit
from kg.transe import TransE
from kg.vectors import check_ids, write_entities, write_ids, write_index, write_relations
from kg.warm_start import start_from

STAGE = "kg embed"


def run(config: EmbedConfig) -> Path:
    """Splits, trains, chooses, measures and writes; goes on from the checkpoint of a killed run of the same config.

    Raises:
        InputError: the graph is no graph artifact, no triple is left to train on, a malformed facts file, an older
            vectors artifact of another width, or a loss that stopped being a number.
    """
    graph = GraphFacts(config.graph)
    check_ids(graph)
    resumable = config.save_every > 0 or config.out_of_core
    with write_artifact(config, stage=STAGE, resumable=resumable) as writer, torch_threads(config.threads) as threads:
        writer.counts.update(entities=graph.num_entities, relations=graph.num_relations)
        writer.figures["threads"] = threads
        if config.out_of_core:
            from kg.partitioned.stage import embed_partitioned

            embed_partitioned(graph, config, writer, threads=threads)
        else:
            _embed_in_memory(graph, config, writer, threads=threads)
    return config.output


def _embed_in_memory(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter, *, threads: int) -> None:
    split, reason = split_graph(graph, config, writer)
    release_memory()
    in_graph = _named(graph.triples, graph.num_entities)
    graph.forget_triples()
    sizes = zip(("train_triples", "valid_triples", "test_triples"), map(len, split), strict=True)
    writer.counts.update(dict(sizes))
    ranking = Ranking(split, num_entities=graph.num_entities, num_relations=graph.num_relations, config=config)
    model = _train(split, ranking, graph, config, writer)
    _blank_untrained(model, split.train, in_graph, writer)
    release_memory()
    _measure(model, split, ranking, reason, graph, writer)
    trained = model.entities.any(1).numpy()
    if config.inductive:
        _fill_from_texts(model, graph, config, writer)
    write_ids(graph, writer.path)
    write_relations(model.relations, graph.num_relations, writer.path)
    table = write_entities(model.entities.numpy(), writer.path)
    del model, ranking, split  # the index is built from the file
    release_memory()
    write_index(table, trained, graph, config, writer, threads)


def _train(
    split: TripleSplit, ranking: Ranking, graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter
) -> TransE:
    found = begin(
        split.train,
        config,
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        folder=writer.path,
    )
    release_memory()
    if config.warm_start is not None:
        names = graph.entity_ids.to_pylist(), graph.relation_ids
        writer.counts.update(
            start_from(found.model, config.warm_start, split.train, entity_ids=names[0], relation_ids=names[1])
        )
    found.resume()
    fit(found, split, config, ranking)
    found.clean()
    writer.figures.update(found.figures())
    return found.model.to("cpu")


def _named(triples: np.ndarray, num_entities: int) -> np.ndarray:
    """Which entity rows a triple names, bool (num_entities + 1); row 0 counts as named."""
    named = np.zeros(num_entities + 1, bool)
    named[triples[:, 0]] = named[triples[:, 2]] = True
    named[0] = True
    return named


def _blank_untrained(model: TransE, train: np.ndarray, in_graph: np.ndarray, writer: ArtifactWriter) -> None:
    """Zeroes the rows no training triple ever named, and counts why."""
    trained = _named(train, len(in_graph) - 1)
    model.entities[torch.from_numpy(~trained)] = 0.0
    relations = np.isin(np.arange(model.num_relations), train[:, 1])
    model.relations[: model.num_relations][torch.from_numpy(~relations)] = 0.0
    reasons = {
        "entity_vector_zero_no_triple": int((~in_graph).sum()),
        "entity_vector_zero_all_left_out": int((in_graph & ~trained).sum()),
        "relation_vector_zero": int((~relations).sum()),
    }
    writer.dropped.update({reason: count for reason, count in reasons.items() if count})


def _fill_from_texts(model: TransE, graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter) -> None:
    """Vectors from descriptions for the rows that have none, and the list of them; after all figures are taken."""
    written = KnowledgeGraph.load(config.graph)
    descriptions = written.entities["description"].to_pylist()
    texts = ["", *(f"{label}: {of}" if of else "" for label, of in zip(written.labels[1:], descriptions, strict=True))]
    encoder = text_encoder(resolve_source(config.inductive))
    rows, found = fill(model.entities.numpy(), texts, encoder, seed=config.seed)
    ids = graph.entity_ids.take(pa.array(rows - 1)).cast(pa.string())
    table = pa.table({"row": pa.array(rows, pa.int32()), "id": ids})
    pq.write_table(table, writer.path / "inductive_entities.parquet")
    writer.counts["inductive_entities"] = len(rows)
    if found is not None:
        writer.figures["inductive"] = {
            "cosine": found.cosine,
            "baseline_cosine": found.baseline,
            "ridge": found.ridge,
            "num_fitted": found.num_fitted,
        }


def _measure(
    model: TransE, split: TripleSplit, ranking: Ranking, reason: str, graph: GraphFacts, writer: ArtifactWriter
) -> None:
    """Filtered test figures of the table as it is written, or `mrr: null` and the reason there are none."""
    if reason:
        writer.counts["held_out_too_small"] = 1
        writer.figures.update(mrr=None, mrr_reason=reason)
        writer.headline = f"{len(split.train):,} triples, none held out"
        return
    started = time.perf_counter()
    ranks = ranking.ranks(model, split.test)
    writer.figures.update(ranking.candidates.figures(ranks), test_seconds=round(time.perf_counter() - started, 2))
    release_memory()
    named = ranking.candidates.named
    by_relation = [
        named(line | {"relation": graph.relation_ids[int(line["relation"])]})
        for line in metrics_by_relation(split.test, ranks)
    ]
    kinds = cardinalities(np.concatenate(split), num_relations=graph.num_relations)
    by_cardinality = list(map(named, metrics_by_cardinality(split.test, ranks, kinds)))
    writer.figures.update(test_by_relation=by_relation, test_by_cardinality=by_cardinality)
    writer.headline = ranking.candidates.headline(ranks)


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
