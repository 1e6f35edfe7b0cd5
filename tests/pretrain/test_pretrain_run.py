"""The stage `pretrain run`, from a small BERT to a model folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from ernie.entity_table import EntityTable
from ernie.heads import ErnieForPreTraining
from ernie.training import ExampleBatches, TrainingConfig
from ernie.training.loop import _Loop
from kg.artifact import open_artifact
from kg.errors import InputError
from pretrain import prepare
from pretrain.dataset import Instances
from pretrain.objectives import ObjectiveWeights
from pretrain.run import PretrainConfig, PretrainingCollate, run, starts_fresh

TRAINING = TrainingConfig(max_steps=12, batch_size=8, learning_rate=5e-3, log_every=4, save_every=5, precision="fp32")


@pytest.fixture(scope="module")
def instances(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("instances") / "out"
    prepare.run(
        prepare.PrepareConfig(
            linked=world.linked, vectors=world.vectors, tokenizer=str(world.base), max_length=32, output=output
        )
    )
    return output


@pytest.fixture
def config(world, instances, tmp_path):
    return PretrainConfig(
        instances=instances,
        vectors=world.vectors,
        base=str(world.base),
        output=tmp_path / "model",
        training=TRAINING,
        fresh_learning_rate=1e-2,
        heldout_instances=40,
    )


@pytest.fixture(scope="module")
def trained(world, instances, tmp_path_factory):
    """One full run, 120 steps, read by several tests."""
    output = tmp_path_factory.mktemp("trained") / "model"
    run(
        PretrainConfig(
            instances=instances,
            vectors=world.vectors,
            base=str(world.base),
            output=output,
            training=dataclasses.replace(TRAINING, max_steps=120),
            fresh_learning_rate=1e-2,
            dropout=0.0,
        )
    )
    return output


def test_held_out_losses_fall_and_the_curve_is_kept(trained):
    figures = open_artifact(trained, stage="pretrain run").figures
    before, after = figures["heldout_before"], figures["heldout_after"]
    assert after["mlm_loss"] < 0.8 * before["mlm_loss"]
    assert after["dea_loss"] < 0.9 * before["dea_loss"]
    assert after["dea_accuracy"] > 2 * after["dea_chance"]
    assert before["dea_chance"] == after["dea_chance"], "the same held-out masks before and after"
    assert figures["curve"][-1]["step"] == 120
    assert {"loss", "mlm", "nsp", "dea", "learning_rate", "grad_norm"} <= figures["curve"][0].keys()
    assert figures["tokens_per_second"] > 0
    assert figures["precision"] == "fp32"


def test_the_folder_is_a_model_for_anyone(trained, world):
    """Loaded by the Auto classes, with entities and without; nothing of the training is left in it."""
    model, report = AutoModel.from_pretrained(str(trained), output_loading_info=True)
    assert not report["missing_keys"]
    assert model.config.hidden_dropout_prob == pytest.approx(0.1), "fine-tuning wants the base's dropout"
    assert not (trained / "checkpoints").exists()
    tokenizer = AutoTokenizer.from_pretrained(str(trained))
    inputs = tokenizer("then anna kern met boris lund .", return_tensors="pt")
    model.eval()
    model.attach_entity_table(EntityTable.open(world.vectors))
    plain = model(**inputs).last_hidden_state
    known = model(**inputs, entity_ids=torch.tensor([[1]]), entity_positions=torch.tensor([[2]])).last_hidden_state
    assert not torch.equal(plain, known)
    whole = ErnieForPreTraining.from_pretrained(str(trained))
    tied = whole.cls.predictions.decoder.weight
    assert tied.data_ptr() == whole.bert.embeddings.word_embeddings.weight.data_ptr()


@pytest.mark.faults
@pytest.mark.parametrize("dies_at", [3, 5, 11])
def test_a_killed_run_goes_on_to_the_same_model(config, monkeypatch, tmp_path, dies_at):
    """Same weights to the bit and the same curve, through the stage and its artifact."""
    straight = dataclasses.replace(config, output=tmp_path / "straight", dropout=0.1)
    run(straight)
    killed = dataclasses.replace(straight, output=tmp_path / "killed")
    step = _Loop._step

    def dying(self):
        if self.state.step == dies_at and self.resumed_from is None:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(killed)
    assert not killed.output.exists()
    run(killed)
    left, right = (load_file(c.output / "model.safetensors") for c in (straight, killed))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    first, second = (open_artifact(c.output, stage="pretrain run").figures for c in (straight, killed))
    for name in ("curve", "heldout_before", "heldout_after"):
        assert first[name] == second[name]


@pytest.mark.parametrize("control", ["zero", "shuffled", "random"])
def test_controls_change_the_vectors_and_nothing_else(config, control, tmp_path):
    """A control that silently trains on the true vectors would prove the method useless, or the reverse."""
    short = dataclasses.replace(config.training, max_steps=2)
    run(dataclasses.replace(config, training=short))
    changed = dataclasses.replace(config, training=short, entity_control=control, output=tmp_path / "control")
    run(changed)
    true, other = (open_artifact(p, stage="pretrain run").figures for p in (config.output, tmp_path / "control"))
    assert true["heldout_before"]["dea_chance"] == other["heldout_before"]["dea_chance"]
    assert true["heldout_before"]["dea_loss"] != other["heldout_before"]["dea_loss"]
    if control == "zero":
        assert other["heldout_after"]["dea_accuracy"] == pytest.approx(other["heldout_after"]["dea_chance"])


def test_text_weights_wait_for_their_step(config, world):
    frozen = dataclasses.replace(
        config, freeze_text_steps=2, training=dataclasses.replace(config.training, max_steps=2)
    )
    run(frozen)
    base = load_file(world.base / "model.safetensors")
    model = load_file(frozen.output / "model.safetensors")
    of_base = [name for name in model if not starts_fresh(name)]
    assert len(of_base) > 20
    assert all(torch.equal(model[name], base[name]) for name in of_base)
    fresh = [name for name in model if "dense_ent" in name]
    assert any(model[name].abs().sum() > 0 for name in fresh if name.endswith("bias")), "knowledge parts do train"


def test_an_objective_of_weight_zero_leaves_its_head_untouched(config):
    settings = {"objectives": ObjectiveWeights(nsp=0.0), "training": dataclasses.replace(TRAINING, weight_decay=0.0)}
    run(dataclasses.replace(config, **settings))
    model = load_file(config.output / "model.safetensors")
    assert not model["cls.seq_relationship.bias"].any()


@pytest.mark.faults
def test_fewer_instances_than_a_batch_are_used_and_said(config, instances):
    count = len(Instances(instances / "train"))
    large = dataclasses.replace(config.training, batch_size=10_000, max_steps=1)
    run(dataclasses.replace(config, training=large))
    manifest = open_artifact(config.output, stage="pretrain run")
    assert manifest.figures["batch_size_used"] == count
    assert manifest.counts["batches_per_epoch"] == 1


@pytest.mark.faults
def test_instances_of_another_vocabulary_are_refused(config, make, tmp_path):
    """The same number of pieces in another order trains without an error, on other words."""
    other = make["base"](tmp_path / "other", make["words"]()[::-1])
    with pytest.raises(InputError, match="another vocabulary"):
        run(dataclasses.replace(config, base=str(other)))


@pytest.mark.faults
def test_a_model_with_fewer_embeddings_than_its_tokenizer_is_refused(config, make, tmp_path):
    other = make["base"](tmp_path / "other", vocab_size=12)
    with pytest.raises(InputError, match="only 12 embeddings"):
        run(dataclasses.replace(config, base=str(other)))


@pytest.mark.faults
@pytest.mark.parametrize("rows", [5, 40])
def test_vectors_of_another_graph_are_refused(config, make, tmp_path, rows):
    """Too many rows read without an error too: the wrong ones."""
    other = make["vectors"](tmp_path / "other", rows=rows)
    with pytest.raises(InputError, match="entity rows"):
        run(dataclasses.replace(config, vectors=other))


@pytest.mark.faults
def test_vectors_of_the_same_entities_in_another_order_are_refused(config, make, tmp_path):
    other = make["vectors"](tmp_path / "other", make["names"]()[::-1])
    with pytest.raises(InputError, match="another order"):
        run(dataclasses.replace(config, vectors=other))


@pytest.mark.faults
def test_an_artifact_of_another_stage_is_refused(config, world):
    with pytest.raises(InputError, match="ernie-kg pretrain prepare"):
        run(dataclasses.replace(config, instances=world.linked))


@pytest.mark.faults
def test_without_held_out_text_there_are_no_held_out_figures(config):
    short = dataclasses.replace(config.training, max_steps=1)
    run(dataclasses.replace(config, heldout_instances=0, training=short))
    manifest = open_artifact(config.output, stage="pretrain run")
    assert manifest.figures["heldout_after"] is None
    assert "no held-out text" in manifest.data["headline"]


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"fresh_learning_rate": 0.0}, {"heldout_instances": -1}])
def test_settings_out_of_range_are_refused(config, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        run(dataclasses.replace(config, **settings))


def test_a_batch_is_the_same_whenever_it_is_asked_for(instances):
    """Resume asks for batch (epoch, index) out of the blue; it must not depend on the batches before it."""
    split = Instances(instances / "train")
    batches = ExampleBatches(
        split, lengths=split.lengths, batch_size=8, seed=0, collate=PretrainingCollate(split, seed=0)
    )
    first = batches.batch(1, 2)
    batches.batch(0, 0)
    again = batches.batch(1, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert next(iter(first)) == "input_ids", "the loop counts examples by the first tensor"
