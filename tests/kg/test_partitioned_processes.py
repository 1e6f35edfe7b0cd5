"""Two processes on one table: the same result every time, as good as one, and no waiting for the dead."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.partitioned.buckets import blocks
from kg.partitioned.train import PartitionedTraining

NUM_ENTITIES, NUM_RELATIONS = 120, 3


def made_triples(count=1500):
    random = np.random.default_rng(0)
    heads, relations = random.integers(1, 121, count), random.integers(0, NUM_RELATIONS, count)
    return np.stack([heads, relations, (heads + 7 * relations + 6) % 120 + 1], 1)


def begun(folder, **changes):
    given = {"dim": 8, "num_negatives": 8, "batch_size": 32, "chunk_size": 16, "engine": "torch"}
    settings = EmbedConfig(
        **{
            **given,
            "graph": Path("graph"),
            "output": Path("vectors"),
            "learning_rate": 0.1,
            "processes": 2,
            "partitions": 4,
            "epochs": 2,
            **changes,
        }
    )
    of = {"num_entities": NUM_ENTITIES, "num_relations": NUM_RELATIONS}
    return PartitionedTraining.begin(blocks(made_triples()), settings, folder=folder, **of)


@pytest.mark.parametrize("reciprocal", [False, True])
def test_two_processes_learn_are_deterministic_and_resume_exactly(tmp_path, reciprocal):
    """Which process is faster must not show in the vectors."""
    whole, stopped = (begun(tmp_path / name, epochs=4, reciprocal=reciprocal) for name in ("whole", "stopped"))
    untrained = whole.relations.clone()
    whole.train()
    stopped.train(4)
    assert stopped.state.step == 4
    stopped = begun(tmp_path / "stopped", epochs=4, reciprocal=reciprocal)
    stopped.train()
    assert whole.finished
    assert stopped.finished
    assert whole.state.triples_seen == stopped.state.triples_seen == 4 * 1500
    assert whole.state.loss_curve == stopped.state.loss_curve
    assert whole.state.loss_curve[-1] < 0.8 * whole.state.loss_curve[0]
    np.testing.assert_array_equal(whole.write().block(0, 121), stopped.write().block(0, 121))
    torch.testing.assert_close(whole.relations, stopped.relations, rtol=0, atol=0)
    assert len(whole.relations) == NUM_RELATIONS * (1 + reciprocal)
    assert ((whole.relations - untrained).abs().amax(1) > 0.01).all()
    alone = begun(tmp_path / "alone", epochs=4, processes=1, reciprocal=reciprocal)
    alone.train()
    assert whole.state.loss_curve[-1] < 1.25 * alone.state.loss_curve[-1]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "entity_embeddings.safetensors",
        "partitioned",
    ]
    assert not list((tmp_path / "whole" / "partitioned").glob("meeting-*"))


@pytest.mark.faults
def test_a_killed_process_ends_the_training_with_a_message_and_costs_one_round(tmp_path):
    """The other process waits for it at the end of the round: without a watch, for an hour."""
    found = begun(tmp_path, epochs=100_000)
    raised = []

    def train():
        try:
            found.train()
        except InputError as error:
            raised.append(str(error))

    thread = threading.Thread(target=train)
    thread.start()
    deadline = time.monotonic() + 60
    state = tmp_path / "partitioned" / "state.json"
    while '"step": 0' in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    thread.join(20)
    assert not thread.is_alive()
    assert not multiprocessing.active_children()
    assert len(raised) == 1
    assert "signal 9" in raised[0]
    again = begun(tmp_path, epochs=100_000)
    before = again.state.step
    assert before > 0
    again.train(2)
    assert again.state.step == before + 2


@pytest.mark.faults
def test_what_one_process_finds_wrong_is_what_the_user_reads(tmp_path):
    found = begun(tmp_path, learning_rate=1e30, loss="margin", epochs=5)
    with pytest.raises(InputError, match="lower the learning rate"):
        found.train()
    assert not multiprocessing.active_children()
