"""Filtered ranks against brute force, and scorers that must not look good."""

import numpy as np
import pytest
import torch

from kg.ranking import KnownAnswers, fitting_batch_size, metrics_by_relation, rank_triples

NUM_ENTITIES, NUM_RELATIONS = 30, 4


def made_triples(count=120, seed=0):
    random = np.random.default_rng(seed)
    columns = [(1, NUM_ENTITIES + 1), (0, NUM_RELATIONS), (1, NUM_ENTITIES + 1)]
    return np.unique(np.stack([random.integers(*bounds, count) for bounds in columns], 1), axis=0)


def coarse_score(triples, side):
    """Few different values, so that ties are everywhere; column 0 would win if it counted."""
    known = triples[:, :1] if side == 0 else triples[:, 2:]
    scores = ((known * 7 + triples[:, 1:2] * 3 + torch.arange(NUM_ENTITIES + 1) * (5 + side)) % 6).float()
    scores[:, 0] = 99.0
    return scores


def constant_score(triples, side):
    return torch.zeros(len(triples), NUM_ENTITIES + 1)


def brute_force(triples, everything, score):
    true = {tuple(triple) for triple in everything.tolist()}
    ranks = np.zeros((len(triples), 2, 2))
    for i, (h, r, t) in enumerate(triples.tolist()):
        for side in (0, 1):
            scores = score(torch.tensor([[h, r, t]]), side)[0].tolist()
            target = t if side == 0 else h
            rivals = [
                scores[e]
                for e in range(1, NUM_ENTITIES + 1)
                if e != target and ((h, r, e) if side == 0 else (e, r, t)) not in true
            ]
            better = sum(s > scores[target] for s in rivals)
            ranks[i, side] = better + 1, better + sum(s == scores[target] for s in rivals) + 1
    return ranks


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_ranks_equal_brute_force(batch_size):
    """A filter that forgets one side, or takes the truth out with the known answers, shifts every figure a little."""
    everything = made_triples()
    test = everything[::5]
    ranks = rank_triples(
        test, coarse_score, KnownAnswers(everything, num_relations=NUM_RELATIONS), batch_size=batch_size
    )
    expected = brute_force(test, everything, coarse_score)
    np.testing.assert_array_equal(ranks.optimistic, expected[..., 0])
    np.testing.assert_array_equal(ranks.pessimistic, expected[..., 1])
    np.testing.assert_array_equal(ranks.of("realistic"), expected.mean(-1))


def test_metrics_are_means_over_both_sides():
    """Averaging only tails looks better on most graphs."""
    everything = made_triples()
    ranks = rank_triples(everything[:20], coarse_score, KnownAnswers(everything, num_relations=NUM_RELATIONS))
    realistic = ranks.of().ravel()
    metrics = ranks.metrics()
    assert metrics["mrr"] == pytest.approx(np.mean(1 / realistic))
    assert metrics["hits@3"] == pytest.approx(np.mean(realistic <= 3))
    assert metrics["mean_rank"] == pytest.approx(realistic.mean())
    assert ranks.metrics("optimistic")["mrr"] > metrics["mrr"] > ranks.metrics("pessimistic")["mrr"]


def test_a_constant_scorer_looks_as_bad_as_it_is():
    """An evaluator that counts only strictly better rivals gives a model that learned nothing MRR 1."""
    everything = made_triples()
    ranks = rank_triples(everything, constant_score, KnownAnswers(everything, num_relations=NUM_RELATIONS))
    assert ranks.metrics("optimistic")["mrr"] == 1.0
    assert ranks.metrics("realistic")["mrr"] < 0.1
    assert ranks.metrics("pessimistic")["mrr"] < 0.06
    assert ranks.metrics("realistic")["hits@10"] == 0.0


def test_nan_scores_never_help():
    """NaN compares false with everything: as a rival it would vanish, as the truth it would rank first."""
    everything = made_triples()
    known = KnownAnswers(everything, num_relations=NUM_RELATIONS)

    def rival_is_nan(triples, side):
        scores = torch.ones(len(triples), NUM_ENTITIES + 1)
        scores[:, 1:] = torch.nan
        return scores.scatter(1, triples[:, 2:] if side == 0 else triples[:, :1], 1.0)

    ranks = rank_triples(everything[:5], rival_is_nan, known)
    assert (ranks.optimistic > 15).all()
    with pytest.raises(ValueError, match="is NaN"):
        rank_triples(everything[:5], lambda t, side: constant_score(t, side) * torch.nan, known)


def test_relations_get_their_own_figures():
    """The table of relations must add up to the whole."""
    everything = made_triples()
    ranks = rank_triples(everything, coarse_score, KnownAnswers(everything, num_relations=NUM_RELATIONS))
    table = metrics_by_relation(everything, ranks)
    assert [line["num_triples"] for line in table] == sorted((line["num_triples"] for line in table), reverse=True)
    mean = sum(line["mrr"] * line["num_triples"] for line in table) / len(everything)
    assert mean == pytest.approx(ranks.metrics()["mrr"])


def test_no_triples_give_no_figures():
    """A mean over nothing is NaN, and NaN in a manifest reads as a figure."""
    ranks = rank_triples(np.zeros((0, 3)), constant_score, KnownAnswers(np.zeros((0, 3)), num_relations=1))
    with pytest.raises(ValueError, match="no triple was ranked"):
        ranks.metrics()
    assert fitting_batch_size(10**9) == 1
