"""Training over partitions against training in memory, against being killed, and against chance."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from kg.embed_config import EmbedConfig
from kg.errors import InputError
from kg.partitioned import store as store_module
from kg.partitioned.buckets import blocks
from kg.partitioned.evaluation import link_prediction
from kg.partitioned.files import TableFile
from kg.partitioned.layout import num_loads
from kg.partitioned.store import Store
from kg.partitioned.train import PartitionedTraining, fit_partitioned
from kg.trainer import Trainer
from kg.transe import TransE

NUM_ENTITIES, NUM_RELATIONS = 211, 8


def made_triples():
    """200 entities in a ring, relation r leads r + 1 on: what is held out follows from the rest. 11 are strangers."""
    heads, relations = (axis.ravel() for axis in np.meshgrid(np.arange(200), np.arange(NUM_RELATIONS)))
    found = np.stack([heads + 1, relations, (heads + relations + 1) % 200 + 1], 1)
    return np.random.default_rng(0).permutation(found).astype(np.int32)


TRIPLES = made_triples()


def made_settings(**changes):
    given = {"dim": 8, "num_negatives": 8, "batch_size": 32, "chunk_size": 16, "epochs": 3, "engine": "torch"}
    places = {"graph": Path("graph"), "output": Path("vectors")}
    return EmbedConfig(**{**places, **given, "learning_rate": 0.1, "partitions": 4, **changes})


def fitted(folder, settings, triples=TRIPLES):
    given = {"num_entities": NUM_ENTITIES, "num_relations": NUM_RELATIONS}
    return fit_partitioned(blocks(triples, 400), settings, folder=folder, **given)


def begun(folder, settings):
    given = {"num_entities": NUM_ENTITIES, "num_relations": NUM_RELATIONS}
    return PartitionedTraining.begin(blocks(TRIPLES, 400), settings, folder=folder, **given)


def in_memory(settings):
    generator = torch.Generator().manual_seed(settings.seed)
    model = TransE.initialised(
        num_entities=NUM_ENTITIES,
        num_relations=NUM_RELATIONS,
        dim=settings.dim,
        scale=settings.init_scale,
        generator=generator,
        norm=settings.norm,
        reciprocal=settings.reciprocal,
    )
    names = ("loss", "margin", "temperature", "learning_rate", "num_negatives", "batch_size", "chunk_size")
    trainer = Trainer(
        model,
        torch.from_numpy(TRIPLES.astype(np.int64)),
        generator=generator,
        engine=settings.engine,
        negatives=settings.negatives,
        filtered=settings.filtered,
        **{name: getattr(settings, name) for name in names},
    )
    losses = []
    for epoch in range(settings.epochs):
        trainer.set_learning_rate(settings.rate(epoch))
        losses.append(trainer.epoch())
    return model, losses


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"engine": "fused"},
        {"norm": "l1", "reciprocal": True, "negatives": "bernoulli", "learning_rate_schedule": "linear"},
        {"loss": "self_adversarial", "negatives": "typed", "filtered": False},
    ],
)
def test_one_partition_is_training_in_memory_byte_by_byte(tmp_path, changes):
    """Every difference would be a fault of the moving about, since the steps are the same."""
    settings = made_settings(partitions=1, **changes)
    found = fitted(tmp_path, settings)
    model, losses = in_memory(settings)
    named = np.unique(TRIPLES[:, [0, 2]])
    table = found.write().block(0, NUM_ENTITIES + 1)
    np.testing.assert_array_equal(table[named], model.entities.numpy()[named])
    assert not np.delete(table, named, axis=0).any()
    torch.testing.assert_close(found.relations, model.relations, rtol=0, atol=0)
    assert found.state.loss_curve == pytest.approx(losses)
    with safe_open(tmp_path / "entity_embeddings.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("entity_embeddings"), table)


@pytest.mark.parametrize("partitions", [2, 3, 4])
def test_partitions_learn_as_memory_does(tmp_path, partitions):
    held_out = TRIPLES[::25]
    train = np.delete(TRIPLES, np.arange(0, len(TRIPLES), 25), axis=0)
    given = {"epochs": 20, "num_negatives": 32, "learning_rate": 0.3, "dim": 16}
    settings = made_settings(partitions=partitions, **given)
    found = fitted(tmp_path / "parted", settings, train)
    assert found.state.loads == found.figures()["partition_loads"] == num_loads(partitions, 20)
    assert found.state.triples_seen == 20 * len(train)
    whole = fitted(tmp_path / "whole", made_settings(partitions=1, **given), train)
    mrr = [
        link_prediction(
            held_out, TableFile(one.folder / "entity_embeddings.safetensors"), one.relations, [TRIPLES], **NORM
        )["mrr"]
        for one in (found, whole)
    ]
    chance = np.mean(1 / np.arange(1, NUM_ENTITIES))
    assert min(mrr) > 3 * chance
    assert mrr[0] > 0.8 * mrr[1]


NORM = {"norm": "l2", "reciprocal": False}


def bytes_of(folder):
    return (folder / "entity_embeddings.safetensors").read_bytes()


@pytest.mark.parametrize("visits_per_commit", [1, 4])
def test_a_run_stopped_after_any_visit_goes_on_exactly(tmp_path, visits_per_commit):
    """A swap, an accumulator or a random state that is not saved shows only as other vectors."""
    settings = made_settings(epochs=2, visits_per_commit=visits_per_commit)
    whole = fitted(tmp_path / "whole", settings)
    expected = bytes_of(tmp_path / "whole")
    for stop in range(1, 2 * whole.steps_per_epoch):
        folder = tmp_path / f"after-{stop}"
        begun(folder, settings).train(stop)
        resumed = fitted(folder, settings)
        assert bytes_of(folder) == expected
        torch.testing.assert_close(resumed.relations, whole.relations, rtol=0, atol=0)
        assert resumed.state.loss_curve == whole.state.loss_curve
        shutil.rmtree(folder)


class Killed(BaseException):
    """Stands for a signal: nothing of ours catches it."""


@pytest.mark.faults
@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("visit", [0, 4])
def test_a_kill_in_the_middle_of_writing_is_recovered_from(tmp_path, monkeypatch, moment, visit):
    """Half-written files of the killed visit must not be taken for the partition."""
    settings = made_settings(epochs=1)
    fitted(tmp_path / "whole", settings)
    folder = tmp_path / "killed"
    found = begun(folder, settings)
    found.train(visit)
    calls = 0
    real = {"write": store_module.write_all, "save": store_module.save_file, "to_disk": store_module._to_disk}

    def dying(name):
        def call(*arguments, **named):
            nonlocal calls
            if calls == moment:
                if name == "write":
                    real[name](arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                raise Killed
            calls += 1
            return real[name](*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_all", dying("write"))
        patch.setattr(store_module, "save_file", dying("save"))
        patch.setattr(store_module, "_to_disk", dying("to_disk"))
        with pytest.raises(Killed):
            found.train(1)
    fitted(folder, settings)
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


@pytest.mark.faults
def test_a_kill_while_the_table_is_written_leaves_no_half_table(tmp_path, monkeypatch):
    settings = made_settings(epochs=1)
    found = begun(tmp_path, settings)
    found.train()
    real, calls = Store._vectors, 0

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_vectors", dying)
        with pytest.raises(Killed):
            found.write()
    assert not (tmp_path / "entity_embeddings.safetensors").exists()
    again = fitted(tmp_path, settings)
    assert again.state.triples_seen == len(TRIPLES)
    again.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["entity_embeddings.safetensors"]


def test_other_settings_do_not_go_on_with_old_work(tmp_path):
    begun(tmp_path, made_settings()).train(1)
    with pytest.raises(InputError, match="unfinished training with another learning_rate"):
        begun(tmp_path, made_settings(learning_rate=0.3))
    with pytest.raises(InputError, match="another partitions"):
        begun(tmp_path, made_settings(partitions=3))


def test_triples_beyond_the_memory_are_trained_in_parts(tmp_path, monkeypatch):
    """A bucket with a hub can hold most of the graph; every triple of it must still be seen once an epoch."""
    monkeypatch.setattr("kg.partitioned.layout.FEWEST_TRIPLES", 100)
    monkeypatch.setattr("kg.partitioned.layout.BYTES_PER_TRIPLE", 10_000_000)
    found = fitted(tmp_path, made_settings(partitions=2))
    assert found.plan.triples_at_once == 100
    assert found.state.triples_seen == 3 * len(TRIPLES)
    assert found.state.loss_curve[-1] < found.state.loss_curve[0]


def test_more_partitions_than_meetings_leave_empty_visits_unloaded(tmp_path):
    triples = np.array([[1, 0, 2], [2, 1, 1]], np.int32)
    found = fitted(tmp_path, made_settings(partitions=50, epochs=2), triples)
    assert found.state.loads < 10
    assert found.trained is not None
    assert np.flatnonzero(found.trained).tolist() == [1, 2]


def test_divergence_names_where_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"epoch 1, partitions .*lower the learning rate"):
        fitted(tmp_path, made_settings(learning_rate=1e30, epochs=3, loss="margin"))


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"memory_gb": -1.0}, {"partitions": -1}, {"visits_per_commit": 0}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        made_settings(**changes)


def test_no_machine_path_enters_the_state(tmp_path):
    """A folder that was moved goes on as it did."""
    settings = made_settings(epochs=1)
    begun(tmp_path / "here", settings).train(2)
    Path(tmp_path / "here").rename(tmp_path / "there")
    fitted(tmp_path / "there", settings)
    fitted(tmp_path / "whole", settings)
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "whole")
