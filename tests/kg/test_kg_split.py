"""No triple of a held-out split can be read off the training triples, and no document changes sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.errors import InputError
from kg.split import split_of, split_triples

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
