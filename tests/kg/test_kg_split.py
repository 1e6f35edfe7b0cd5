"""No triple of a held-out split can be read off the training triples, and no document changes sides."""

from __future__ import annotations

import doctest
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kg.split
from kg.errors import InputError
from kg.split import audit, split_of, split_triples

triple_lists = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=80, unique=True
)
shares = st.sampled_from([0.0, 0.1, 0.2, 0.4])


def array(triples):
    return np.array(triples, np.int32).reshape(-1, 3)


@given(triple_lists, shares, shares, st.integers(0, 5))
def test_splits_partition_the_triples(triples, valid, test, seed):
    """A triple in two splits is a leak, one in none is lost."""
    parts = split_triples(array(triples), seed=seed, valid=valid, test=test)
    assert Counter(map(tuple, np.concatenate(parts).tolist())) == Counter(triples)
    assert len(parts.valid) <= round(valid * len(triples))
    assert len(parts.test) <= round(test * len(triples))


@given(triple_lists, shares, shares, st.integers(0, 5))
def test_no_entity_pair_lies_in_two_splits(triples, valid, test, seed):
    """An inverse or a second relation between the same entities gives the answer away: FB15k's fault."""
    parts = split_triples(array(triples), seed=seed, valid=valid, test=test)
    pairs = [{frozenset((head, tail)) for head, _, tail in part.tolist()} for part in parts]
    assert len(pairs[0] | pairs[1] | pairs[2]) == sum(map(len, pairs))


@given(triple_lists, shares, shares, st.integers(0, 5))
def test_everything_asked_for_was_trained(triples, valid, test, seed):
    """An entity without a training triple has a random vector: its rank is noise that looks like a result."""
    parts = split_triples(array(triples), seed=seed, valid=valid, test=test)
    entities = set(parts.train[:, [0, 2]].ravel().tolist())
    relations = set(parts.train[:, 1].tolist())
    for part in (parts.valid, parts.test):
        assert set(part[:, [0, 2]].ravel().tolist()) <= entities
        assert set(part[:, 1].tolist()) <= relations


@given(triple_lists, st.randoms(use_true_random=False), st.integers(0, 5))
def test_the_split_depends_on_the_set_and_the_seed(triples, random, seed):
    """A reader that yields in another order must not move triples from test to training."""
    parts = split_triples(array(triples), seed=seed, valid=0.2, test=0.2)
    shuffled = random.sample(triples, len(triples))
    again = split_triples(array(shuffled), seed=seed, valid=0.2, test=0.2)
    for one, other in zip(parts, again, strict=True):
        assert set(map(tuple, one.tolist())) == set(map(tuple, other.tolist()))


def test_a_dense_graph_gives_the_shares_asked_for():
    """The constraints must not eat the test set where there is room for it."""
    random = np.random.default_rng(0)
    triples = np.unique(random.integers([1, 0, 1], [100, 4, 100], (2_000, 3)), axis=0)
    parts = split_triples(triples, seed=1, valid=0.1, test=0.05)
    assert len(parts.valid) == pytest.approx(0.1 * len(triples), abs=2)
    assert len(parts.test) == pytest.approx(0.05 * len(triples), abs=2)
    other = split_triples(triples, seed=2, valid=0.1, test=0.05)
    assert set(map(tuple, other.test.tolist())) != set(map(tuple, parts.test.tolist()))


def test_no_triples_give_three_empty_splits():
    """An empty graph is somebody else's error; here it must not be a crash."""
    assert [part.shape for part in split_triples(array([]), seed=0, valid=0.1, test=0.1)] == [(0, 3)] * 3


def test_document_splits_never_change():
    """These are the splits of artifacts on people's disks: another hash would put test paragraphs into training."""
    titles = ["Ada Lovelace", "Zürich", "東京", "", "\ud800"]
    found = [split_of(title, seed=0, dev=0.3, test=0.3) for title in titles]
    assert found == ["train", "dev", "test", "train", "test"]


@given(st.text(), st.integers(0, 99))
def test_a_test_document_stays_one_whatever_the_dev_share(key, seed):
    """Two stages with other dev shares must agree on what the test set is."""
    assert (split_of(key, seed=seed, dev=0.0, test=0.2) == "test") == (
        split_of(key, seed=seed, dev=0.5, test=0.2) == "test"
    )


def test_document_shares_are_met():
    """A hash that is not uniform would make a small test set quietly."""
    counts = Counter(split_of(f"document {number}", seed=3, dev=0.1, test=0.2) for number in range(4_000))
    assert counts["test"] == pytest.approx(800, abs=100)
    assert counts["dev"] == pytest.approx(400, abs=80)


@pytest.mark.parametrize(("dev", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, float("nan"))])
def test_impossible_shares_are_refused(dev, test):
    """Nothing left for training would surface as an empty-batch error three stages later."""
    with pytest.raises(InputError, match="expected shares"):
        split_of("a", seed=0, dev=dev, test=test)
    with pytest.raises(InputError, match="expected shares"):
        split_triples(array([(1, 0, 2)]), seed=0, valid=dev, test=test)


def audited(train, held_out, num_relations, overlap, min_pairs):
    """The sentence of the docstring in plain loops."""
    pairs = [
        {(h, t) for h, r, t in {*train, *held_out} if r == relation and h != t} for relation in range(num_relations)
    ]
    turned = [{(t, h) for h, t in found} for found in pairs]

    def gives_away(giver, given, inverse):
        shared = pairs[giver] & (turned if inverse else pairs)[given]
        return len(pairs[giver]) >= min_pairs and len(shared) >= overlap * len(pairs[giver]) and bool(shared)

    counts = Counter(num_held_out=len(held_out))
    entities, relations = {e for h, _, t in train for e in (h, t)}, {r for _, r, _ in train}
    for head, relation, tail in held_out:
        same = {r for h, r, t in train if (h, t) == (head, tail) and h != t}
        back = {r for h, r, t in train if (t, h) == (head, tail) and h != t}
        reasons = {
            "exact": relation in same,
            "duplicate_relation": any(r != relation and gives_away(r, relation, inverse=False) for r in same),
            "inverse_relation": any(r != relation and gives_away(r, relation, inverse=True) for r in back),
            "symmetric_relation": relation in back and gives_away(relation, relation, inverse=True),
        }
        counts["readable"] += any(reasons.values())
        reasons["pair_in_train"] = bool(same or back)
        reasons["unseen_entity"] = not {head, tail} <= entities
        reasons["unseen_relation"] = relation not in relations
        counts.update({reason: int(found) for reason, found in reasons.items()})
    return counts


crowded = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(1, 4)), max_size=40)


@given(crowded, crowded, st.sampled_from([0.5, 0.75, 1.0]), st.integers(1, 4))
def test_the_audit_counts_what_plain_loops_count(train, held_out, overlap, min_pairs):
    """An audit that overlooks one direction calls a leaking split clean."""
    found = audit(array(train), array(held_out), 3, overlap=overlap, min_pairs=min_pairs)
    expected = audited(train, held_out, 3, overlap, min_pairs)
    assert {name: found[name] for name in expected} == expected
    assert found["readable_share"] == pytest.approx(expected["readable"] / max(1, len(held_out)))


def test_a_leak_made_by_hand_is_named_by_its_relations():
    """Relation 1 is relation 0 turned round, 2 is 0 again, 3 is symmetric, 4 shares nothing."""
    pairs = [(i, 100 + i) for i in range(1, 21)]
    everything = [(h, 0, t) for h, t in pairs] + [(t, 1, h) for h, t in pairs[:19]] + [(h, 2, t) for h, t in pairs[1:]]
    everything += [triple for i in range(1, 11) for triple in ((200 + i, 3, 300 + i), (300 + i, 3, 200 + i))]
    everything += [(h, 4, 100 + 3 * h + 1) for h in range(1, 11)]
    held_out = [(1, 0, 101), (20, 0, 120), (2, 0, 102), (310, 3, 210), (5, 4, 116)]
    found = audit(array([triple for triple in everything if triple not in held_out]), array(held_out), 5)
    reasons = ("exact", "duplicate_relation", "inverse_relation", "symmetric_relation", "readable", "pair_in_train")
    assert [found[reason] for reason in reasons] == [0, 2, 2, 1, 4, 4]
    named = [(line["relation"], line["given_away_by"], line["inverse"]) for line in found["relations"]]
    assert sorted(named) == [(0, 1, True), (0, 2, False), (3, 3, True)]
    assert [line["num_held_out"] for line in found["relations"]] == [2, 2, 1]


@given(triple_lists, st.integers(0, 5))
def test_our_own_splits_pass_the_audit(triples, seed):
    """Two ways to the same promise: no pair of a held-out triple stands in training."""
    parts = split_triples(array(triples), seed=seed, valid=0.2, test=0.2)
    found = audit(parts.train, np.concatenate(parts[1:]), 4, overlap=0.0, min_pairs=1)
    assert (found["pair_in_train"], found["readable"], found["unseen_entity"]) == (0, 0, 0)


def test_published_splits_get_their_known_verdict():
    """FB15k-237 was cut so that no held-out pair stands in training; WN18RR kept its symmetric relations."""
    data = Path(__file__).parents[3] / "shared" / "data"
    if not (data / "wn18rr").is_dir():
        pytest.skip("needs the published FB15k-237 and WN18RR triples beside the checkout")
    found = {}
    for name in ("fb15k237", "wn18rr"):
        rows: dict[str, int] = {}
        parts = [
            [[rows.setdefault(word, len(rows)) for word in line.split("\t")] for line in path.read_text().splitlines()]
            for path in (data / name / f"{part}.tsv" for part in ("train", "valid", "test"))
        ]
        found[name] = audit(array(parts[0]), array(parts[1] + parts[2]), len(rows))
    assert (found["fb15k237"]["pair_in_train"], found["fb15k237"]["readable"]) == (0, 0)
    assert found["wn18rr"]["symmetric_relation"] == found["wn18rr"]["readable"] == 2_098


def test_the_examples_of_the_split_module_hold():
    """An example that has drifted explains another function."""
    found = doctest.testmod(kg.split)
    assert found.attempted >= 4
    assert found.failed == 0
