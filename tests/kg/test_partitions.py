"""Entities in partitions, triples in buckets, the order of visits, and the written table."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from kg.errors import InputError
from kg.partitioned.buckets import Buckets, blocks
from kg.partitioned.evaluation import link_prediction, rank_on_disk
from kg.partitioned.files import TableFile, read_into, write_all
from kg.partitioned.layout import BASE_BYTES, BYTES_PER_ROW, Layout, num_loads, plan, rounds, visits
from kg.partitioned.store import Residents, Shared, State, Store
from kg.ranking import KnownAnswers, rank_triples
from kg.transe import TransE


def made_triples(count, num_entities=50, num_relations=4, seed=0):
    random = np.random.default_rng(seed)
    columns = [random.integers(1, num_entities + 1, count), random.integers(0, num_relations, count)]
    return np.stack([*columns, random.integers(1, num_entities + 1, count)], 1).astype(np.int32)


# --- layout


@given(st.integers(1, 200), st.integers(1, 30))
def test_rows_and_places_are_one_to_one(num_entities, num_partitions):
    """Two entities at one place would share a vector, and only the ranking would suffer."""
    if num_partitions > num_entities:
        with pytest.raises(InputError, match="partitions"):
            Layout(num_entities, num_partitions)
        return
    layout = Layout(num_entities, num_partitions)
    rows = np.arange(1, num_entities + 1)
    partitions, places = layout.locate(rows)
    np.testing.assert_array_equal(layout.rows(partitions, places), rows)
    for partition in range(num_partitions):
        assert sorted(places[partitions == partition]) == list(range(layout.size(partition)))
    assert layout.capacity - min(layout.size(p) for p in range(num_partitions)) in (0, 1)


def walked(epochs):
    """Loads of a walk, counted by hand: what is not in its slot is read."""
    held, loads = [None, None], 0
    for visit in (visit for epoch in epochs for visit in epoch):
        assert len(set(visit.slots)) == len(visit.slots)
        assert {p for bucket in visit.buckets for p in bucket} <= set(visit.slots)
        for slot, partition in enumerate(visit.slots):
            loads += held[slot] != partition
            held[slot] = partition
    return loads


@pytest.mark.parametrize("num_partitions", [1, 2, 3, 4, 7, 12])
def test_an_epoch_sees_every_bucket_once_and_loads_as_rarely_as_is_said(num_partitions):
    """A bucket never visited leaves its triples untrained; a wasted load costs gigabytes."""
    every = {(a, b) for a in range(num_partitions) for b in range(num_partitions)}
    for epoch in (0, 1):
        seen = Counter(bucket for visit in visits(num_partitions, epoch) for bucket in visit.buckets)
        assert set(seen) == every
        assert set(seen.values()) == {1}
    for epochs in (1, 2, 5):
        assert walked(visits(num_partitions, epoch) for epoch in range(epochs)) == num_loads(num_partitions, epochs)


@pytest.mark.parametrize(("num_partitions", "processes"), [(2, 1), (4, 1), (4, 2), (6, 2), (8, 3), (10, 5)])
def test_rounds_see_every_bucket_once_and_no_partition_twice_at_a_time(num_partitions, processes):
    """Two processes on one partition overwrite each other without a word."""
    every = {(a, b) for a in range(num_partitions) for b in range(num_partitions)}
    for epoch in (0, 1):
        seen = Counter()
        for one in rounds(num_partitions, processes, epoch):
            assert len(one) == processes
            used = Counter(partition for mine in one for visit in mine for partition in visit.slots)
            assert set(used.values()) == {1}
            seen.update(bucket for mine in one for visit in mine for bucket in visit.buckets)
        assert set(seen) == every
        assert set(seen.values()) == {1}


def test_plan_is_the_smallest_number_of_partitions_whose_pair_fits():
    planned = plan(num_entities=20_000_000, dim=100, memory_gb=4.0)
    in_tables = 0.75 * (4e9 - BASE_BYTES)

    def pair(partitions):
        return 2 * 20_000_000 / partitions * (400 + BYTES_PER_ROW)

    assert pair(planned.num_partitions) <= in_tables < pair(planned.num_partitions - 1)
    assert plan(num_entities=100_000, dim=100, memory_gb=4.0).num_partitions == 1
    assert plan(num_entities=100_000, dim=100, memory_gb=4.0, processes=3).num_partitions == 6


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"memory_gb": 0.2}, "give at least 0.5"),
        ({"memory_gb": 4.0, "partitions": 101}, "between 1 and 100 partitions"),
        ({"memory_gb": 4.0, "partitions": 5, "processes": 2}, "even number of partitions, at least 4"),
        ({"memory_gb": 4.0, "partitions": 2, "processes": 2}, "even number of partitions, at least 4"),
    ],
)
def test_what_cannot_fit_is_refused(given_, message):
    with pytest.raises(InputError, match=message):
        plan(num_entities=100, dim=8, **given_)


# --- buckets


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 64), st.integers(0, 5))
def test_buckets_are_a_permutation_in_order_and_read_back_whole(tmp_path_factory, count, parts, block, seed):
    """A triple lost or doubled while sorting changes nothing that anybody looks at."""
    triples = made_triples(count, seed=seed)
    layout = Layout(50, parts)
    path = tmp_path_factory.mktemp("buckets") / "triples.bin"
    buckets = Buckets.sort(blocks(triples, block), path, layout, num_relations=4)
    assert len(buckets) == count
    found = np.concatenate(list(buckets.everything()))
    head, tail = layout.locate(triples[:, 0])[0], layout.locate(triples[:, 2])[0]
    order = np.argsort(head * parts + tail, kind="stable")
    np.testing.assert_array_equal(found, triples[order])
    pair = [(0, parts - 1), (parts - 1, 0)][: 1 if parts == 1 else 2]
    before = {0: 1, parts - 1: 1 if parts == 1 else 1 + layout.size(0)}
    read = list(buckets.read(pair, before=before, at_once=7))
    assert sum(map(len, read)) == buckets.count(pair)
    assert max(map(len, read), default=0) <= 7
    lengths = {len(part) for part in read}
    assert len(lengths) < 3
    if not read:
        return
    together = np.concatenate(read)
    table = np.concatenate([[0], layout.rows(0, np.arange(layout.size(0)))])
    if parts > 1:
        table = np.concatenate([table, layout.rows(parts - 1, np.arange(layout.size(parts - 1)))])
    named = np.stack([table[together[:, 0]], together[:, 1], table[together[:, 2]]], 1)
    wanted = [triples[(head == a) & (tail == b)] for a, b in pair]
    np.testing.assert_array_equal(named, np.concatenate(wanted))


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (np.zeros((0, 3), np.int32), "no triple"),
        (np.array([[0, 0, 1]]), "head is none of the entity rows 1 to 50"),
        (np.array([[1, 0, 51]]), "tail is none of the entity rows 1 to 50"),
        (np.array([[1, 4, 2]]), "relation rows 0 to 3"),
        (np.array([[1, 0]]), r"shape \(n, 3\)"),
        (np.array([[1.0, 0.0, 2.0]]), "integers"),
    ],
)
def test_triples_of_another_graph_are_refused(tmp_path, triples, message):
    with pytest.raises(InputError, match=message):
        Buckets.sort(blocks(triples), tmp_path / "triples.bin", Layout(50, 2), num_relations=4)


def test_a_source_that_changes_between_two_readings_is_noticed(tmp_path):
    """An iterator that is used up would leave a file of zeros, which are triples of entity 1."""
    once = iter([made_triples(20)])
    with pytest.raises(InputError, match="other triples when read again"):
        Buckets.sort(lambda: once, tmp_path / "triples.bin", Layout(50, 2), num_relations=4)


# --- files


def test_a_cut_off_file_is_named_damaged(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(b"\0" * 30)
    with path.open("r+b") as file:
        with pytest.raises(InputError, match="2 bytes too early"):
            read_into(file.fileno(), np.zeros(8, np.float32), 0)
        assert write_all(file.fileno(), np.arange(3, dtype=np.float32), 4) == 12
        found = np.zeros(3, np.float32)
        assert read_into(file.fileno(), found, 4) == 12
    np.testing.assert_array_equal(found, [0, 1, 2])


def test_the_written_table_is_what_safetensors_reads(tmp_path):
    table = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
    TableFile.write(tmp_path / "t.safetensors", "vectors", (11, 3), iter([table[:4], table[4:4], table[4:]]))
    with safe_open(tmp_path / "t.safetensors", "np") as file:
        assert list(file.keys()) == ["vectors"]
        np.testing.assert_array_equal(file.get_tensor("vectors"), table)
    found = TableFile(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(found.rows(np.array([10, 0, 3, 3])), table[[10, 0, 3, 3]])
    np.testing.assert_array_equal(np.concatenate([block for _, block in found.blocks(4)]), table)
    assert not list(tmp_path.glob("*.tmp"))


# --- store


@pytest.mark.parametrize("num_entities", [8, 9, 10, 11])
def test_pairs_in_memory_are_one_table_without_a_gap_and_changes_reach_the_files(tmp_path, num_entities):
    """A gap would be drawn as a negative; a change left in memory would be lost at the next swap."""
    layout = Layout(num_entities, 4)
    store = Store(tmp_path, layout, 2)
    rows = {p: layout.rows(p, np.arange(layout.size(p))) for p in range(4)}
    for partition in range(4):
        vectors = torch.from_numpy(rows[partition]).float().unsqueeze(1).repeat(1, 2)
        store.write(partition, 0, vectors, torch.full((layout.size(partition),), float(partition)))
    residents = Residents(store, versions := [0] * 4)
    for number, visit in enumerate(visits(4, 0) + visits(4, 1), 1):
        residents.bring(visit.slots, commit=number)
        vectors, accumulated, before = residents.tables(visit.slots)
        assert len(vectors) == len(accumulated) == 1 + sum(layout.size(p) for p in visit.slots)
        for partition in visit.slots:
            mine = slice(before[partition], before[partition] + layout.size(partition))
            assert (vectors[mine, 0] % 100).tolist() == rows[partition].tolist()
            vectors[mine] += 100
            accumulated[mine] += 10
    residents.flush(99)
    assert residents.loads == num_loads(4, 2)
    for partition in range(4):
        vectors, accumulated = torch.zeros(layout.size(partition), 2), torch.zeros(layout.size(partition))
        store.read(partition, versions[partition], vectors, accumulated)
        assert vectors[:, 1].tolist() == (rows[partition] + 600).tolist()
        assert accumulated.tolist() == [partition + 60.0] * layout.size(partition)


def test_what_a_killed_run_left_over_is_removed_and_what_counts_stays(tmp_path):
    store = Store(tmp_path, Layout(4, 2), 2)
    state = State({"dim": 2}, [0, 0])
    shared = Shared(torch.ones(1, 2), torch.zeros(1), torch.arange(5, dtype=torch.uint8))
    for partition in (0, 1):
        store.write(partition, 0, torch.ones(2, 2), torch.zeros(2))
    store.commit(state, shared)
    kept = {path.name for path in tmp_path.iterdir()}
    store.write(1, 1, torch.zeros(2, 2), torch.zeros(2))
    found = store.load({"dim": 2})
    assert found is not None
    store.sweep(found[0])
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert found[1].generator.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="another dim"):
        store.load({"dim": 3})


# --- ranking


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_ranks_streamed_from_disk_are_those_of_the_table_in_memory(tmp_path, norm, reciprocal):
    model = TransE.initialised(
        num_entities=60,
        num_relations=3,
        dim=6,
        scale=1.0,
        generator=torch.Generator().manual_seed(0),
        norm=norm,
        reciprocal=reciprocal,
    )
    model.entities[5:9] = 0.0
    triples = np.unique(made_triples(300, num_entities=60, num_relations=3), axis=0)
    TableFile.write(tmp_path / "t", "e", (61, 6), [model.entities.numpy()])
    table, held_out = TableFile(tmp_path / "t"), triples[::7]
    expected = rank_triples(held_out, model.score_all, KnownAnswers(triples, num_relations=3))
    given_ = {"norm": norm, "reciprocal": reciprocal}
    found = rank_on_disk(held_out, table, model.relations, [triples[:90], triples[90:]], None, **given_)
    np.testing.assert_array_equal(found.optimistic, expected.optimistic)
    np.testing.assert_array_equal(found.pessimistic, expected.pessimistic)
    few = rank_on_disk(held_out, table, model.relations, [triples], np.array([2, 6, 7, 30, 31]), **given_)
    assert few.pessimistic.max() <= 6
    assert (few.optimistic <= expected.optimistic).all()
    every = np.arange(1, 61)
    again = rank_on_disk(held_out, table, model.relations, [triples], every, **given_)
    np.testing.assert_array_equal(again.optimistic, expected.optimistic)


def test_sampled_figures_say_so_in_their_names(tmp_path, monkeypatch):
    """A sampled rank that is called mrr gets compared with a full one."""
    TableFile.write(tmp_path / "t", "e", (51, 4), [np.ones((51, 4), np.float32)])
    table, triples = TableFile(tmp_path / "t"), made_triples(30)
    given_ = {"norm": "l2", "reciprocal": False, "sample": 20}
    full = link_prediction(triples, table, torch.zeros(4, 4), [triples], **given_)
    assert set(full) == {"mrr", "hits@1", "hits@3", "hits@10", "mean_rank"}
    monkeypatch.setattr("kg.partitioned.evaluation.FULL_UP_TO", 10)
    sampled = link_prediction(triples, table, torch.zeros(4, 4), [triples], **given_)
    assert set(sampled) == {f"sampled_{name}@20" for name in full}
    assert full["mrr"] < 0.06 < sampled["sampled_mrr@20"] < 0.15
    (tmp_path / "nan").write_bytes((tmp_path / "t").read_bytes().replace(b"\0\0\x80\x3f", b"\0\0\xc0\x7f"))
    with pytest.raises(ValueError, match="NaN"):
        link_prediction(triples, TableFile(tmp_path / "nan"), torch.zeros(4, 4), [triples], **given_)


def test_every_pair_of_consecutive_visits_shares_a_partition():
    for epoch in (0, 1):
        for one, other in pairwise(visits(6, epoch)):
            assert sum(a == b for a, b in zip(one.slots, other.slots, strict=True)) == 1
