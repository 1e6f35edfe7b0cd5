"""`kg embed` over a table on disk: what the stage does in memory, in pieces.

Triples are read from the graph in blocks: of a published split only the held-out ones stay in memory, and of an own
one at most `sources.MOST_HELD_OUT` for validation and test each. The audit of a published split and the figures by
cardinality need all triples at once; they are left out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from kg.artifact import ArtifactWriter, release_memory
from kg.embed_config import EmbedConfig
from kg.graph import GraphFacts
from kg.held_out import has_published_split, leak_filter, no_triple_left, too_few
from kg.partitioned.buckets import Source
from kg.partitioned.evaluation import Candidates, rank_on_disk
from kg.partitioned.sources import GraphTriples, HeldOut, hold_out, without
from kg.partitioned.train import PartitionedTraining
from kg.partitioned.warm_start import first_vectors
from kg.ranking import Ranks, metrics_by_relation
from kg.vectors import write_ids, write_index, write_relations


def embed_partitioned(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter, *, threads: int) -> None:
    """Trains, chooses, measures and writes into `writer.path`; goes on where a killed run of the same config ended.

    Raises:
        InputError: as `kg.embed.run`, or `memory_gb`, `partitions` and `processes` do not fit each other.
    """
    source, held_out, reason = _split(graph, config, writer)
    sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
    warm = None
    if config.warm_start is not None:
        warm = first_vectors(config.warm_start, graph, source, dim=config.dim, folder=writer.path)
        writer.counts.update(warm.counts)
    held = graph.entity_ids.nbytes + 2 * graph.num_entities  # ids, and which of them a triple names
    found = PartitionedTraining.begin(source, config, **sizes, folder=writer.path, warm=warm, held_bytes=held)
    release_memory()
    candidates = Candidates.of(graph.num_entities, sample=config.rank_sample, seed=config.seed)

    def ranks(triples: np.ndarray) -> Ranks:
        true_triples = itertools.chain(found.buckets.everything(), held_out)
        given = {"norm": config.norm, "reciprocal": config.reciprocal}
        return rank_on_disk(triples, found.table, found.relations, true_triples, candidates.rows, **given)

    valid = held_out.valid[: config.max_ranked]
    found.fit((lambda: ranks(valid).metrics()["mrr"]) if len(valid) else None)
    writer.figures.update(found.figures())
    writer.counts["train_triples"] = len(found.buckets)
    _note_untrained(found, graph, writer)
    _measure(held_out.test, ranks, candidates, reason, graph, writer)
    write_ids(graph, writer.path)
    write_relations(found.relations, graph.num_relations, writer.path)
    release_memory()
    write_index(found.table, found.trained, graph, config, writer, threads)
    found.clean()


def _split(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter) -> tuple[Source, HeldOut, str]:
    """The training triples, the held-out ones, and why there are none of these, where so."""
    leak_free, nothing = leak_filter(graph, config, writer), np.zeros((0, 3), np.int32)
    published = has_published_split(graph, config)
    writer.figures["split"] = "published" if published else "own"
    source = GraphTriples(graph, leak_free, split=0 if published else None)
    reason, total = "", None
    if published:
        parts = [GraphTriples(graph, leak_free, split=number) for number in (1, 2)]
        held_out = HeldOut(*(np.concatenate([nothing, *part()]) for part in parts))
        for part in parts:
            writer.dropped.update(part.dropped)
        if not min(map(len, held_out)):
            reason = "the published split has no validation or no test"
    elif config.valid == 0 or config.test == 0:
        held_out, reason = HeldOut(nothing, nothing), "no held-out triples were asked for (valid or test is 0)"
    else:
        shares = {"seed": config.seed, "valid": config.valid, "test": config.test}
        sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
        held_out, total = hold_out(source, **sizes, **shares)
        if reason := too_few(len(held_out.valid), len(held_out.test), total):
            held_out = HeldOut(nothing, nothing)
    total = sum(map(len, source())) if total is None else total
    writer.dropped.update(source.dropped)
    if not total - (0 if published else sum(map(len, held_out))):
        raise no_triple_left(graph, config, writer)
    writer.counts.update(valid_triples=len(held_out.valid), test_triples=len(held_out.test))
    return source if published else without(source, held_out), held_out, reason


def _note_untrained(found: PartitionedTraining, graph: GraphFacts, writer: ArtifactWriter) -> None:
    """Counts the rows that are zeros, and why."""
    in_graph = np.zeros(graph.num_entities + 1, bool)
    in_graph[0] = True
    for triples, _ in graph.blocks():
        in_graph[triples[:, 0]] = in_graph[triples[:, 2]] = True
    reasons = {
        "entity_vector_zero_no_triple": int((~in_graph).sum()),
        "entity_vector_zero_all_left_out": int((in_graph[1:] & ~found.trained[1:]).sum()),
        "relation_vector_zero": int((found.triples_by_relation == 0).sum()),
    }
    writer.dropped.update({reason: count for reason, count in reasons.items() if count})


def _measure(
    test: np.ndarray,
    rank: Callable[[np.ndarray], Ranks],
    candidates: Candidates,
    reason: str,
    graph: GraphFacts,
    writer: ArtifactWriter,
) -> None:
    """Filtered test figures of the table as it is written, or `mrr: null` and the reason there are none."""
    if reason:
        writer.counts["held_out_too_small"] = 1
        writer.figures.update(mrr=None, mrr_reason=reason)
        writer.headline = f"{writer.counts['train_triples']:,} triples, none held out"
        return
    started = time.perf_counter()
    ranks = rank(test)
    by_relation = [
        candidates.named(line | {"relation": graph.relation_ids[int(line["relation"])]})
        for line in metrics_by_relation(test, ranks)
    ]
    seconds = round(time.perf_counter() - started, 2)
    writer.figures.update(candidates.figures(ranks), test_seconds=seconds, test_by_relation=by_relation)
    writer.headline = candidates.headline(ranks)
