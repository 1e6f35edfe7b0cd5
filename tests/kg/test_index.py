"""The vector index against brute force, and its files."""

import doctest
import json

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kg.index_kinds
from kg.errors import InputError
from kg.index import VectorIndex
from kg.index_kinds import KINDS, choose_kind, num_lists

LARGE = 20_000
KIND_NAMES = sorted(KINDS)


@pytest.fixture(scope="module")
def large():
    """Vectors in rough clusters, enough to train every kind, and an index of each kind over them."""
    random = np.random.default_rng(5)
    centres = random.normal(size=(400, 16))
    vectors = (centres[random.integers(0, 400, LARGE)] + 0.5 * random.normal(size=(LARGE, 16))).astype(np.float32)
    ids = [f"Q{row}" for row in range(LARGE)]
    return vectors, {kind: VectorIndex.build(vectors, ids, "cosine", kind=kind, threads=1) for kind in KIND_NAMES}


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


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivf_sq8", 0.9), ("ivf_pq", 0.6)])
def test_the_recall_a_kind_reports_is_the_one_it_has(large, kind, least):
    """A recall that is assumed, not measured, would hide an index built with the wrong metric."""
    vectors, indexes = large
    index = indexes[kind]
    queries = vectors[:300] + 0.3 * np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    found, _ = index.search(queries, 10)
    order = np.argsort(-brute_force(vectors, queries, "cosine"), axis=1)[:, :10]
    recall = np.mean([len(set(a) & {f"Q{r}" for r in b}) / 10 for a, b in zip(found, order, strict=True)])
    assert index.recall >= least
    assert abs(recall - index.recall) < 0.06


def test_every_kind_has_its_least_recall_in_the_tests():
    """A new kind without a case would be measured by nobody."""
    cases = test_the_recall_a_kind_reports_is_the_one_it_has.pytestmark[0].args[1]
    assert [kind for kind, _ in cases] == list(KINDS)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("kind", ["hnsw", "ivf_sq8"])
def test_other_metrics_are_searched_by_their_own_order(kind, metric):
    """An index that searched by cosine whatever it was told would pass every cosine test."""
    vectors, ids = made_vectors(2_000, 12)
    vectors *= np.random.default_rng(2).uniform(0.3, 3.0, (2_000, 1)).astype(np.float32)
    index = VectorIndex.build(vectors, ids, metric, kind=kind, threads=1)
    found, scores = index.search(vectors[:50], 10)
    expected = brute_force(vectors, vectors[:50], metric)
    order = np.argsort(-expected, axis=1)[:, :10]
    recall = np.mean([len(set(a) & {ids[r] for r in b}) / 10 for a, b in zip(found, order, strict=True)])
    assert recall > 0.9
    np.testing.assert_allclose(scores[:, 0], np.take_along_axis(expected, order, 1)[:, 0], rtol=0.05, atol=0.2)


@st.composite
def changes(draw):
    """Which of 40 vectors are built, added and removed, in steps; the model is a set."""
    steps, alive = [], set()
    for _ in range(draw(st.integers(1, 4))):
        new = draw(st.sets(st.integers(0, 39), max_size=12)) - alive
        alive |= new
        gone = draw(st.sets(st.sampled_from(sorted(alive)), max_size=8)) if alive else set()
        alive -= gone
        steps.append((sorted(new), sorted(gone)))
    return steps, sorted(alive)


@settings(max_examples=40, deadline=None)
@given(changes(), st.sampled_from(["cosine", "inner_product", "l2"]), st.sampled_from(["flat", "hnsw"]))
def test_added_and_removed_equals_built_anew(plan, metric, kind):
    """A removal that renumbers the rows behind it names the wrong ids, and every answer still looks like one."""
    steps, alive = plan
    vectors, ids = made_vectors(41, 6)
    index = VectorIndex.build(vectors[40:], ids[40:], metric, kind=kind, threads=1)
    for new, gone in steps:
        index.add(vectors[new], [ids[row] for row in new])
        index.remove([ids[row] for row in gone])
    rows = [*alive, 40]
    assert sorted(index.ids) == sorted(ids[row] for row in rows)
    assert len(index) == len(rows)
    anew = VectorIndex.build(vectors[rows], [ids[row] for row in rows], metric, threads=1)
    (found, scores), (expected, expected_scores) = (each.search(vectors[:9], 5) for each in (index, anew))
    assert found == expected
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_removed_vector_is_gone_and_stays_so_on_disk(tmp_path, large, kind):
    """hnsw cannot remove: a mark that is lost in the file brings withdrawn entities back."""
    vectors, indexes = large
    indexes[kind].save(tmp_path)
    index = VectorIndex.load(tmp_path, threads=1)
    gone = [f"Q{row}" for row in range(0, LARGE, 2)]
    index.remove(gone)
    index.add(vectors[:1] * 2, ["Q0"])
    assert len(index) == LARGE // 2 + 1
    index.save(tmp_path)
    for loaded in (VectorIndex.load(tmp_path, mmap=mmap, threads=1) for mmap in (False, True)):
        found, scores = loaded.search(vectors[:40], 10)
        assert found[0][0] == "Q0"
        assert not {name for line in found for name in line} & set(gone[1:])
        assert found == index.search(vectors[:40], 10)[0]
        assert np.isfinite(scores).all()
        own = sum(found[row][0] == f"Q{row}" for row in range(1, 40, 2))
        assert own >= (20 if kind in ("flat", "hnsw") else 15)
    assert "Q2" not in loaded.ids
    with pytest.raises(InputError, match="cannot remove 'Q2': the index has no such id"):
        index.remove(["Q1", "Q2"])
    assert len(index) == LARGE // 2 + 1


def test_few_are_found_where_most_were_removed(large):
    """Passing over nine in ten must not leave the search with fewer answers than were asked for."""
    vectors, _ = large
    index = VectorIndex.build(vectors[:5_000], [f"Q{row}" for row in range(5_000)], kind="hnsw", threads=1)
    index.remove([f"Q{row}" for row in range(4_800)])
    found, _ = index.search(vectors[:50], 10)
    order = np.argsort(-brute_force(vectors[4_800:5_000], vectors[:50], "cosine"), axis=1)[:, :10] + 4_800
    recall = np.mean([len(set(a) & {f"Q{r}" for r in b}) / 10 for a, b in zip(found, order, strict=True)])
    assert recall > 0.9


def test_a_mapped_index_takes_no_change(tmp_path):
    """faiss ends the whole process when a mapped index is added to."""
    vectors, ids = made_vectors(10, 4)
    VectorIndex.build(vectors, ids, threads=1).save(tmp_path)
    index = VectorIndex.load(tmp_path, mmap=True, threads=1)
    with pytest.raises(InputError, match=r"cannot add to an index opened with mmap.*load it without"):
        index.add(vectors[:1], ["new"])
    with pytest.raises(InputError, match="cannot remove from an index opened with mmap"):
        index.remove(ids[:1])


def test_an_index_mapped_elsewhere_may_be_written_anew(tmp_path):
    """Writing into the file that another process has mapped would pull its vectors away."""
    vectors, ids = made_vectors(10, 4)
    VectorIndex.build(vectors, ids, threads=1).save(tmp_path)
    mapped = VectorIndex.load(tmp_path, mmap=True, threads=1)
    VectorIndex.build(vectors[:1], ["other"], threads=1).save(tmp_path)
    assert [line[0] for line in mapped.search(vectors, 1)[0]] == ids
    assert VectorIndex.load(tmp_path, threads=1).ids == ["other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.faiss", "index.json", "index_ids.arrow"]


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (np.ones((1, 4)), ["id3"], "already has 'id3'; remove it first"),
        (np.ones((1, 5)), ["new"], "expected vectors of 4 numbers, got 5"),
        (np.ones((2, 4)), ["new", "new"], "every id once"),
        (np.full((1, 4), np.inf), ["new"], "the vector of 'new' has a NaN"),
        (np.ones((1, 4)), [""], "at least one character"),
    ],
)
def test_what_cannot_be_added_is_named(vectors, ids, message):
    """An id with two vectors answers with either."""
    index = VectorIndex.build(*made_vectors(5, 4), threads=1)
    with pytest.raises(InputError, match=message):
        index.add(vectors, ids)
    assert index.ids == made_vectors(5, 4)[1]
    with pytest.raises(InputError, match="removed once"):
        index.remove(["id1", "id1"])
    index.remove(index.ids)
    assert (len(index), index.search(np.ones((2, 4)), 3)[0]) == (0, [[], []])


def test_the_rule_is_the_one_that_is_written_down():
    """Each line of the module's table, at its edge: a budget that is read wrong builds for hours and does not fit."""
    assert [choose_kind(number, 100, 10_000) for number in (1, 100_000, 100_001)] == ["flat", "flat", "hnsw"]
    assert choose_kind(5_000_000, 128, 5_000_000 * (4 * 128 + 272) // 1_000_000) == "hnsw"
    assert choose_kind(5_000_000, 128, 5_000_000 * (4 * 128 + 272) // 1_000_000 - 1) == "ivf_sq8"
    assert choose_kind(5_000_000, 128, 5_000_000 * (128 + 8) // 1_000_000 - 1) == "ivf_pq"
    assert choose_kind(5_000, 128, 1) == "ivf_sq8", "too few to train codes for ivf_pq"
    assert [num_lists(number) for number in (1, 100, 100_000, 5_000_000)] == [1, 2, 1265, 8944]
    assert all(number >= 39 * num_lists(number) for number in (39, 1_000, 10_000, 30_000))
    assert doctest.testmod(kg.index_kinds).failed == 0


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_kind_takes_the_memory_the_rule_says(tmp_path, large, kind):
    """The rule's formula against the file faiss writes."""
    large[1][kind].save(tmp_path)
    size = (tmp_path / "index.faiss").stat().st_size
    tables = {"ivf_sq8": 4 * 16 * num_lists(LARGE), "ivf_pq": 4 * 16 * (num_lists(LARGE) + 256)}.get(kind, 0)
    expected = LARGE * KINDS[kind].bytes_per_vector(16) + tables
    assert expected * 0.9 < size < expected * 1.1


def test_faiss_gets_its_threads_back():
    """torch's pool beside faiss's own, both at full size, slows both; a call must not change the caller's setting."""
    before = faiss.omp_get_max_threads()
    index = VectorIndex.build(*made_vectors(50, 4), threads=before + 1)
    index.search(np.ones((1, 4)), 1)
    assert index.threads == before + 1
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf_sq8"])
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
    (tmp_path / "index.json").write_text(json.dumps(settings | {"num_rows": 3}))
    with pytest.raises(InputError, match="different runs"):
        VectorIndex.load(tmp_path, threads=1)
    (tmp_path / "index.json").write_text(json.dumps(settings))
    whole = (tmp_path / "index_ids.arrow").read_bytes()
    (tmp_path / "index_ids.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable index"):
        VectorIndex.load(tmp_path, threads=1)
    (tmp_path / "index_ids.arrow").write_bytes(whole)
    (tmp_path / "index.faiss").write_bytes(b"no index at all")
    with pytest.raises(InputError, match="not a readable index"):
        VectorIndex.load(tmp_path, threads=1)
    with pytest.raises(InputError, match="expected queries of 4 numbers"):
        VectorIndex.build(vectors, ids, threads=1).search(np.zeros((1, 5)), 1)
    with pytest.raises(InputError, match="expected metric one of cosine, inner_product, l2, got 'l1'"):
        VectorIndex.build(vectors, ids, "l1")
    with pytest.raises(InputError, match="at least 9,984 vectors to train ivf_pq, got 5; use flat"):
        VectorIndex.build(vectors, ids, kind="ivf_pq")
