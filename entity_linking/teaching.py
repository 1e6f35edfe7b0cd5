"""What a config's gold links and priors do to a linker."""

from __future__ import annotations

from collections import Counter

import numpy as np

from entity_linking.folder import save_held_out
from entity_linking.gold import read_gold
from entity_linking.linker import EntityLinker
from entity_linking.priors import fitted_table, read_counts
from entity_linking.train import LinkTrainConfig
from entity_linking.training import gold_batches, link_counts, train
from kg.artifact import ArtifactWriter
from kg.errors import InputError
from kg.vocab import Vocabulary

TARGETS = (0.8, 0.85, 0.9, 0.95, 0.98)
"""Precisions whose scores are written down."""
LEAST_DOCUMENTS = 10
UNMOVED = 1e9
"""So many links is a prior of before worth that no count moves it."""


def take_priors(linker: EntityLinker, config: LinkTrainConfig, writer: ArtifactWriter) -> None:
    """Priors and log odds of an artifact of `link fit-priors` take the place of the graph's."""
    assert config.priors is not None, "asked for where there are some"
    entities = Vocabulary(linker.entities.to_pylist()[1:], first_row=1, what="entity")
    counts, odds, strange = read_counts(config.priors, linker.alias_table, linker.candidates, entities)
    linker.candidates = fitted_table(linker.candidates, counts, smoothing=config.prior_smoothing)
    linker.reranker.link_log_odds = odds.astype(np.float32)
    writer.dropped.update(strange)


def learn(linker: EntityLinker, config: LinkTrainConfig, writer: ArtifactWriter) -> None:
    """Weights, priors and the score to cut at from the config's gold links, and what they are worth.

    The dear terms look at every mention here; later only at those within their margin.
    """
    assert config.gold is not None, "asked for where there is some"
    dropped: Counter[str] = Counter()
    for part in linker.reranker.dear().values():
        part.margin = float("inf")
    documents = list(read_gold(config.gold_format, config.gold, dropped))
    if len(documents) < max(config.folds, LEAST_DOCUMENTS):
        raise InputError(
            f"{config.gold}: expected at least {max(config.folds, LEAST_DOCUMENTS)} documents for cross-validation, "
            f"got {len(documents)}; cut long ones at their paragraphs, or give more"
        )
    exhaustive = config.unlabelled == "nil"
    batches = list(gold_batches(linker, documents, unlabelled_is_nil=exhaustive, dropped=dropped))
    own_priors, rank = config.priors is None, config.fit == "all"
    smoothing = config.prior_smoothing if rank else UNMOVED
    found = train(
        linker,
        batches,
        folds=config.folds,
        smoothing=smoothing,
        log_odds=exhaustive and own_priors,
        own_priors=own_priors,
        seed=config.seed,
        ranking=None if rank else linker.reranker.weights,
        without=config.without,
    )
    linker.reranker.weights = found.weights
    for name, part in linker.reranker.dear().items():
        part.margin = config.encoder_margin if name == "encoder" else config.cross_encoder_margin
    if own_priors:
        counts = link_counts(batches)
        if rank:
            rows = counts.of_rows(len(linker.candidates.entity))
            linker.candidates = fitted_table(linker.candidates, rows, smoothing=smoothing)
        if exhaustive:
            linker.reranker.link_log_odds = counts.log_odds(linker.alias_table.num_keys).astype(np.float32)
    save_held_out(writer.path, found.score, found.correct, found.agreed)
    scores = {str(target): found.threshold(target) for target in TARGETS}
    linker.min_score = _min_score(config, found.threshold(config.target_precision or 1.0))
    writer.dropped.update(+dropped)
    writer.counts.update(documents=len(documents), gold_links=found.figures["links"])
    writer.figures.update(found.figures, scores_for_precision=scores)
    writer.headline = f"{found.figures['accuracy_ambiguous']:.3f} of ambiguous links right, held out"


def _min_score(config: LinkTrainConfig, reached: float | None) -> float:
    if not config.target_precision:
        return config.min_score
    if reached is None:
        raise InputError(
            f"no score reaches a precision of {config.target_precision} on held-out documents; ask for less, or give "
            f"more gold links"
        )
    return reached
