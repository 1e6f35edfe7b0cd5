"""Which triples a training sees: without what tasks will ask for, and without those that its figures are taken on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from kg.artifact import ArtifactWriter
from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.filters import fact_rows, read_facts, task_facts, without_facts
from kg.graph import GraphFacts
from kg.split import TripleSplit, audit, split_triples

MIN_HELD_OUT = 10
"""Fewer validation or test triples measure nothing."""
LeakFilter = Callable[[np.ndarray], tuple[np.ndarray, Counter[str]]]
"""Any triples (n, 3) -> those that no task asks for, and how many were dropped by reason."""


def split_graph(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter) -> tuple[TripleSplit, str]:
    """Train, validation and test without what the tasks will ask for; and why nothing is held out, where so.

    Raises:
        InputError: a published split is asked for and there is none, or no triple is left to train on.
    """
    published = has_published_split(graph, config)
    leak_free = leak_filter(graph, config, writer)

    def kept(triples: np.ndarray) -> np.ndarray:
        triples, dropped = leak_free(triples)
        writer.dropped.update(dropped)
        return triples

    if published:
        assert graph.splits is not None, "a published split is one of numbers"
        split = TripleSplit(*(kept(graph.triples[graph.splits == number]) for number in range(3)))
        _note_unseen(split, writer)
        writer.figures["split"] = "published"
    else:
        split = TripleSplit(kept(graph.triples), *(np.zeros((0, 3), np.int32) for _ in range(2)))
        writer.figures["split"] = "own"
    if not len(split.train):
        raise no_triple_left(graph, config, writer)
    if not published:
        return _own_split(split.train, config)
    return split, "" if min(len(split.valid), len(split.test)) else "the published split has no validation or no test"


def has_published_split(graph: GraphFacts, config: EmbedConfig) -> bool:
    """Whether the source's own split is the one to use.

    Raises:
        InputError: it is asked for, and there is none.
    """
    if config.split == "published" and not graph.has_splits:
        raise InputError(f"{config.graph}: its source had no published split; set split to own or auto")
    return config.split != "own" and graph.has_splits


def leak_filter(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter) -> LeakFilter:
    """Drops from any triples those that the tasks of `leave_out` will ask for; counts the facts."""
    parts = []
    for path in config.leave_out:
        facts = read_facts(task_facts(path))
        names = [name for fact in facts for name in (fact.head, fact.tail)]
        rows, strange = fact_rows(facts, entities=graph.entities_named(names), relations=graph.relation_vocab)
        parts.append(rows)
        writer.counts["facts_left_out"] += len(rows)
        writer.counts.update(strange)

    def keep(triples: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
        dropped: Counter[str] = Counter()
        for facts in parts:
            triples, reasons = without_facts(triples, facts)
            dropped.update(reasons)
        return triples, dropped

    return keep


def no_triple_left(graph: GraphFacts, config: EmbedConfig, writer: ArtifactWriter) -> InputError:
    return InputError(
        f"{config.graph}: no triple is left to train on ({graph.num_triples:,} in the graph, dropped: "
        f"{dict(writer.dropped)}); give a larger graph, or leave fewer facts out"
    )


def too_few(valid: int, test: int, triples: int) -> str:
    """Why so few held-out triples are trained on instead; empty where they are enough."""
    if min(valid, test) >= MIN_HELD_OUT:
        return ""
    return (
        f"{triples} triples could spare {valid} for validation and {test} for the test, "
        f"fewer than {MIN_HELD_OUT} each; all were trained on"
    )


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
    if reason := too_few(len(split.valid), len(split.test), len(triples)):
        return TripleSplit(triples, nothing, nothing), reason
    return split, ""
