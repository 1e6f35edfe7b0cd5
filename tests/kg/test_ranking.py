"""Filtered ranks against brute force, and scorers that must not look good."""

import doctest
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kg.ranking
from kg.ranking import (
    CARDINALITIES,
    KnownAnswers,
    Ranks,
    cardinalities,
    fitting_batch_size,
    metrics_by_cardinality,
    metrics_by_relation,
    rank_triples,
)
from kg.transe import TransE

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
    first = ranks.select(everything[:, 1] == table[0]["relation"])
    assert table[0]["mean_rank"] == pytest.approx(first.of().mean())


def test_no_triples_give_no_figures():
    """A mean over nothing is NaN, and NaN in a manifest reads as a figure."""
    ranks = rank_triples(np.zeros((0, 3)), constant_score, KnownAnswers(np.zeros((0, 3)), num_relations=1))
    with pytest.raises(ValueError, match="no triple was ranked"):
        ranks.metrics()
    assert fitting_batch_size(10**9) == 1


ranked_lists = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3), st.integers(1, 8)), min_size=1, max_size=30)


@given(ranked_lists, ranked_lists, st.integers(1, 9))
def test_ranks_of_any_triples_equal_brute_force(test, others, batch_size):
    """Repeated triples, self-loops and questions nobody else answers: cells that are left out twice shift a rank."""
    test, everything = np.array(test), np.array(test + others)
    known = KnownAnswers(everything, num_relations=NUM_RELATIONS)
    ranks = rank_triples(test, coarse_score, known, batch_size=batch_size)
    expected = brute_force(test, everything, coarse_score)
    np.testing.assert_array_equal(ranks.optimistic, expected[..., 0])
    np.testing.assert_array_equal(ranks.pessimistic, expected[..., 1])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_a_model_is_ranked_by_its_own_distance(norm, reciprocal):
    """The matrix product against the paper's sentence: a sign or a side that is wrong only lowers the figures."""
    model = TransE.initialised(
        num_entities=NUM_ENTITIES,
        num_relations=NUM_RELATIONS,
        dim=7,
        scale=1.0,
        generator=torch.Generator().manual_seed(3),
        norm=norm,
        reciprocal=reciprocal,
    )
    entities, relations = model.entities.double().numpy(), model.relations.double().numpy()

    def plain_score(triples, side):
        (head, relation, tail) = triples[0].tolist()
        turned = relations[relation + NUM_RELATIONS] if reciprocal else -relations[relation]
        query = entities[head] + relations[relation] if side == 0 else entities[tail] + turned
        return -torch.from_numpy(np.linalg.norm(query - entities, ord=int(norm[1]), axis=1)).unsqueeze(0)

    everything = made_triples()
    ranks = rank_triples(everything[::4], model.score_all, KnownAnswers(everything, num_relations=NUM_RELATIONS))
    np.testing.assert_array_equal(ranks.optimistic, brute_force(everything[::4], everything, plain_score)[..., 0])


@given(ranked_lists)
def test_kinds_of_relations_follow_the_paper(triples):
    """Heads for a tail and tails for a head are easily exchanged; the table then explains another model."""
    heads, tails = defaultdict(lambda: defaultdict(set)), defaultdict(lambda: defaultdict(set))
    for head, relation, tail in triples:
        heads[relation][tail].add(head)
        tails[relation][head].add(tail)
    expected = [
        "-".join("N" if np.mean([len(x) for x in side[relation].values()]) > 1.5 else "1" for side in (heads, tails))
        if relation in heads
        else ""
        for relation in range(NUM_RELATIONS)
    ]
    assert cardinalities(np.array(triples), num_relations=NUM_RELATIONS) == expected


def test_kinds_of_relations_add_up_to_the_whole():
    """Four kinds and two sides: their weighted mean is the figure everybody quotes."""
    everything = np.array([(1, 0, 2), (3, 0, 4), (1, 1, 5), (1, 1, 6), (1, 1, 7), (5, 2, 9), (6, 2, 9), (7, 2, 9)])
    everything = np.concatenate([everything, [(a, 3, b) for a in (11, 12, 13) for b in (14, 15)]])
    ranks = rank_triples(everything, coarse_score, KnownAnswers(everything, num_relations=NUM_RELATIONS))
    kinds = cardinalities(everything, num_relations=NUM_RELATIONS)
    table = metrics_by_cardinality(everything, ranks, kinds)
    assert kinds == list(CARDINALITIES)
    assert [(line["cardinality"], line["side"]) for line in table] == [
        (kind, side) for kind in CARDINALITIES for side in ("tail", "head")
    ]
    for name in ("mrr", "hits@10", "mean_rank"):
        mean = sum(line[name] * line["num_triples"] for line in table) / (2 * len(everything))
        assert mean == pytest.approx(ranks.metrics()[name])
    one_to_many = ranks.select(everything[:, 1] == 1)
    assert table[2]["mean_rank"] == pytest.approx(one_to_many.of()[:, 0].mean())
    with pytest.raises(ValueError, match="relation row 3 has no kind"):
        metrics_by_cardinality(everything, ranks, [*kinds[:3], ""])
    nothing = Ranks(*np.zeros((2, 0, 2), np.int64))
    assert metrics_by_cardinality(everything[:0], nothing, kinds) == []


def test_the_examples_of_the_ranking_module_hold():
    """An example that has drifted explains another function."""
    found = doctest.testmod(kg.ranking)
    assert found.attempted >= 1
    assert found.failed == 0
