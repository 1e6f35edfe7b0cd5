"""The vector index against brute force, and its files."""

import json

import numpy as np
import pytest

from kg.errors import InputError
from kg.index import VectorIndex


def made_vectors(num_vectors=300, dim=20, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(num_vectors, dim)).astype(np.float32)
    return vectors, [f"id{i}" for i in range(num_vectors)]


def brute_force(vectors, queries, metric):
    vectors, queries = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ vectors.T


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_flat_search_equals_brute_force(metric):
    """Padding to a multiple of 16 and the sign of a score are invisible in an index that is only asked itself."""
    vectors, ids = made_vectors()
    queries = np.random.default_rng(1).normal(size=(7, 20)).astype(np.float32)
    index = VectorIndex.build(vectors, ids, metric, threads=1)
    found, scores = index.search(queries, 5)
    expected = brute_force(vectors, queries, metric)
    order = np.argsort(-expected, axis=1)[:, :5]
    assert (index.kind, index.recall, index.index.d) == ("flat", 1.0, 32)
    assert found == [[ids[row] for row in line] for line in order]
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_hnsw_reports_the_recall_it_has(metric):
    """A recall that is assumed, not measured, would hide an index built with the wrong metric."""
    vectors, ids = made_vectors(2000, 16)
    index = VectorIndex.build(vectors, ids, metric, kind="hnsw", threads=1)
    found, _ = index.search(vectors[:100], 10)
    order = np.argsort(-brute_force(vectors, vectors[:100], metric), axis=1)[:, :10]
    recall = np.mean([len(set(a) & {ids[r] for r in b}) / 10 for a, b in zip(found, order, strict=True)])
    assert index.recall > 0.9
    assert abs(recall - index.recall) < 0.05


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_loaded_index_answers_as_the_saved_one(tmp_path, kind, mmap):
    """An index mapped from disk is another faiss code path, and ids live in another file than vectors."""
    vectors, ids = made_vectors()
    ids[3] = "naïve – id\u2028with separators"
    index = VectorIndex.build(vectors, ids, "cosine", kind=kind, threads=1)
    index.save(tmp_path)
    loaded = VectorIndex.load(tmp_path, mmap=mmap, threads=1)
    before, after = index.search(vectors[:9], 4), loaded.search(vectors[:9], 4)
    assert before[0] == after[0]
    assert after[0][3][0] == ids[3]
    np.testing.assert_array_equal(before[1], after[1])
    assert (loaded.metric, loaded.kind, loaded.dim) == ("cosine", kind, 20)


def test_k_beyond_the_vectors_and_empty_queries():
    """faiss pads short answers with row -1, which would name the last id."""
    vectors, ids = made_vectors(3, 4)
    index = VectorIndex.build(vectors, ids, threads=1)
    found, scores = index.search(vectors, 10)
    assert [len(line) for line in found] == [3, 3, 3]
    assert scores.shape == (3, 3)
    assert index.search(np.zeros((0, 4), np.float32), 2)[0] == []
    assert not index.search(np.zeros((1, 4), np.float32), 2)[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, i: (v, i[:-1]), "one id a vector"),
        (lambda v, i: (v, [i[0], *i[:-1]]), "every id once"),
        (lambda v, i: (v * np.nan, i), "NaN"),
        (lambda v, i: (v * 0, i), "no direction"),
        (lambda v, i: (v[:0], []), "at least one"),
    ],
)
def test_vectors_that_would_search_wrong_are_refused(change, message):
    """Each of these builds an index that answers, wrongly."""
    vectors, ids = change(*made_vectors(5, 4))
    with pytest.raises(InputError, match=message):
        VectorIndex.build(vectors, ids, threads=1)


def test_damaged_files_are_named(tmp_path):
    """Ids of another run give plausible names to the wrong vectors."""
    with pytest.raises(InputError, match="no such file"):
        VectorIndex.load(tmp_path)
    vectors, ids = made_vectors(5, 4)
    VectorIndex.build(vectors, ids, threads=1).save(tmp_path)
    settings = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(settings | {"ids": ids[:3]}))
    with pytest.raises(InputError, match="different runs"):
        VectorIndex.load(tmp_path, threads=1)
    (tmp_path / "index.faiss").write_bytes(b"no index at all")
    with pytest.raises(InputError, match="not a readable index"):
        VectorIndex.load(tmp_path, threads=1)
    with pytest.raises(InputError, match="expected queries of 4 numbers"):
        VectorIndex.build(vectors, ids, threads=1).search(np.zeros((1, 5)), 1)
