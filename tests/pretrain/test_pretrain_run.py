"""The stage `pretrain run`, from a small BERT to a model folder."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoTokenizer

from ernie.conversion import ernie_from_bert
from ernie.entity_table import EntityTable
from ernie.heads import ErnieForPreTraining
from ernie.training import ExampleBatches, TrainingConfig
from ernie.training.loop import _Loop
from kg.artifact import open_artifact
from kg.errors import InputError
from pretrain import prepare
from pretrain.checks import require_matching
from pretrain.collate import PretrainingCollate
from pretrain.dataset import Instances
from pretrain.flops import TextShape, training_flops
from pretrain.masking import Masking, MaskingRates
from pretrain.model import PretrainingModel
from pretrain.objectives import Objectives, ObjectiveWeights
from pretrain.run import REPLACEMENT_HEAD, PretrainConfig, parameter_groups, run, starts_fresh

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
    of_both = {"mlm_accuracy", "mlm_mention_loss", "nsp_accuracy", "dea_accuracy", "dea_mrr", "dea_hidden_accuracy"}
    assert of_both <= figures["curve"][-1].keys() & after.keys()
    assert figures["curve"][-1]["dea_accuracy"] > 2 * figures["curve"][-1]["dea_chance"]
    assert 0 < figures["mfu"] < 1
    assert 0 < figures["loading_share"] < 1
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


@pytest.mark.parametrize("control", ["zero", "shuffled", "random", "shuffled_links"])
def test_controls_change_the_knowledge_and_nothing_else(config, control, tmp_path):
    """A control that silently trains on the true vectors would prove the method useless, or the reverse."""
    short = dataclasses.replace(config.training, max_steps=2)
    run(dataclasses.replace(config, training=short))
    changed = dataclasses.replace(config, training=short, entity_control=control, output=tmp_path / "control")
    run(changed)
    true, other = (open_artifact(p, stage="pretrain run").figures for p in (config.output, tmp_path / "control"))
    assert true["heldout_before"]["dea_loss"] != other["heldout_before"]["dea_loss"]
    if control != "shuffled_links":
        assert true["heldout_before"]["dea_chance"] == other["heldout_before"]["dea_chance"]
    if control == "zero":
        assert other["heldout_after"]["dea_accuracy"] == pytest.approx(other["heldout_after"]["dea_chance"])


def test_exchanged_links_keep_how_often_each_entity_is_linked(instances):
    true = Instances(instances / "train")
    other = true.with_exchanged_entities(0)
    assert sorted(true.arrays["entity_ids"]) == sorted(other.arrays["entity_ids"])
    assert (true.arrays["entity_ids"] != other.arrays["entity_ids"]).mean() > 0.5
    assert (true[3]["entity_positions"] == other[3]["entity_positions"]).all()
    assert (true[3]["input_ids"] == other[3]["input_ids"]).all()


def test_the_text_only_twin_never_sees_an_entity(config, tmp_path):
    """Same steps, same masks, no entities: vectors of another kind must not change a bit of it."""
    short = dataclasses.replace(config.training, max_steps=3)
    twin = dataclasses.replace(
        config, training=short, entity_control="absent", objectives=ObjectiveWeights(dea=0.0), output=tmp_path / "twin"
    )
    run(twin)
    model = load_file(twin.output / "model.safetensors")
    entity_parts = [n for n in model if "dense_ent.weight" in n or "self_ent" in n or "predictions_ent" in n]
    run(dataclasses.replace(twin, output=tmp_path / "again", training=dataclasses.replace(short, max_steps=1)))
    barely = load_file(tmp_path / "again" / "model.safetensors")
    decay = dataclasses.replace(short, weight_decay=0.0)
    run(dataclasses.replace(twin, output=tmp_path / "free", training=decay))
    free = load_file(tmp_path / "free" / "model.safetensors")
    heads = [n for n in entity_parts if "predictions_ent" in n]
    run(dataclasses.replace(twin, output=tmp_path / "start", training=dataclasses.replace(decay, max_steps=1)))
    start = load_file(tmp_path / "start" / "model.safetensors")
    assert heads
    assert all(torch.equal(free[n], start[n]) for n in heads), "the entity head has no gradient at all"
    assert not torch.equal(model["bert.pooler.dense.weight"], barely["bert.pooler.dense.weight"])


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


def test_a_lower_layer_learns_more_slowly(config, world):
    """Rates by depth: a slip of one layer trains well, only never as configured."""
    model = parts_of(config, world)
    groups = parameter_groups(model, dataclasses.replace(config, layer_decay=0.5), fresh=True)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert len(rates) == len(named)
    base, fresh = config.training.learning_rate, config.fresh_learning_rate
    assert named["ernie.bert.embeddings.word_embeddings.weight"] == base / 4
    assert named["ernie.bert.encoder.layer.0.attention.self.query.weight"] == base / 2
    assert named["ernie.bert.encoder.layer.1.output.dense.bias"] == base
    assert named["ernie.bert.encoder.layer.0.intermediate.dense_ent.weight"] == fresh
    assert named["ernie.cls.predictions.transform.dense.weight"] == fresh


def parts_of(config, world) -> PretrainingModel:
    return PretrainingModel(ernie_from_bert(world.base, entity_size=8))


def test_replaced_entities_are_found_out_and_the_head_is_kept(config, tmp_path):
    """With half of the entities replaced and only that to learn, the head must beat always saying `true`."""
    settings = {
        "objectives": ObjectiveWeights(mlm=0.2, nsp=0.0, dea=0.2, replacement=1.0),
        "rates": MaskingRates(entities_random=0.5, entities_masked=0.0),
        "training": dataclasses.replace(TRAINING, max_steps=150),
    }
    run(dataclasses.replace(config, **settings))
    after = open_artifact(config.output, stage="pretrain run").figures["heldout_after"]
    assert after["replacement_accuracy"] > 0.65
    assert after["replacement_recall"] > 0.5
    head = load_file(config.output / REPLACEMENT_HEAD)
    short = dataclasses.replace(TRAINING, max_steps=1, learning_rate=1e-9)
    again = dataclasses.replace(
        config, **{**settings, "training": short}, base=str(config.output), output=tmp_path / "on",
        fresh_learning_rate=1e-9,
    )  # fmt: skip
    run(again)
    kept = load_file(again.output / REPLACEMENT_HEAD)
    assert all(torch.allclose(kept[name], head[name], atol=1e-6) for name in head)
    before = open_artifact(again.output, stage="pretrain run").figures["heldout_before"]
    assert before["replacement_accuracy"] == pytest.approx(after["replacement_accuracy"])


def test_training_goes_on_from_a_model_of_ours(config, tmp_path):
    """The figures after the first run are those before the second."""
    run(config)
    second = dataclasses.replace(config, base=str(config.output), output=tmp_path / "second")
    run(second)
    first, then = (open_artifact(p, stage="pretrain run").figures for p in (config.output, second.output))
    for name in ("mlm_loss", "dea_loss", "nsp_loss"):
        assert then["heldout_before"][name] == pytest.approx(first["heldout_after"][name], rel=1e-5)
    assert then["heldout_after"]["mlm_loss"] < then["heldout_before"]["mlm_loss"]


def test_random_weights_take_the_shape_only(config, world):
    short = dataclasses.replace(config.training, max_steps=1, learning_rate=1e-9)
    run(dataclasses.replace(config, random_weights=True, training=short, fresh_learning_rate=1e-9))
    base, model = load_file(world.base / "model.safetensors"), load_file(config.output / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert model[name].shape == base[name].shape
    assert not torch.allclose(model[name], base[name], atol=1e-3)


def test_hard_negatives_are_neighbours_in_the_index(config, make, tmp_path):
    """dEA among neighbours is harder than among the batch: its chance falls with every candidate more."""
    vectors = make["indexed"](tmp_path / "vectors")
    with_index = dataclasses.replace(config, vectors=vectors, training=dataclasses.replace(TRAINING, max_steps=4))
    run(dataclasses.replace(with_index, output=tmp_path / "plain"))
    run(dataclasses.replace(with_index, hard_negatives=3, near_strangers=True))
    plain, hard = (open_artifact(p, stage="pretrain run").figures for p in (tmp_path / "plain", config.output))
    assert hard["curve"][0]["dea_chance"] <= plain["curve"][0]["dea_chance"]
    assert hard["heldout_before"] == plain["heldout_before"], "held-out candidates are the batch's alone"


def test_the_best_weights_are_kept_by_a_loss_when_it_is_lowest(config):
    """A rate that ruins the model at the end: the last weights are the worst."""
    ruin = dataclasses.replace(TRAINING, max_steps=60, eval_every=10, learning_rate=0.3)
    run(dataclasses.replace(config, training=ruin, fresh_learning_rate=0.3, keep_best="mlm_loss"))
    figures = open_artifact(config.output, stage="pretrain run").figures
    losses = {entry["step"]: entry["mlm_loss"] for entry in figures["heldout_curve"]}
    assert figures["best_step"] == min(losses, key=lambda step: losses[step])


def test_curves_go_to_a_tracker_beside_the_output(config):
    pytest.importorskip("tensorboard")
    run(dataclasses.replace(config, tracker="tensorboard", training=dataclasses.replace(TRAINING, max_steps=4)))
    folder = config.output.with_name("model.tracking")
    assert [path for path in folder.rglob("*") if path.name.startswith("events")]
    assert not list(config.output.rglob("events*")), "an artifact holds nothing that changes from run to run"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "must be auto, none or one of"), ("wandb", "pip install")]
)
def test_a_tracker_that_is_not_there_is_told_before_training(config, name, message):
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(config, tracker=name))


@pytest.mark.parametrize("unit", ["word", "mention"])
def test_whole_words_and_mentions_train(config, unit):
    short = dataclasses.replace(config.training, max_steps=2)
    run(dataclasses.replace(config, mask_unit=unit, entity_masking="joint", weigh_links=True, training=short))
    assert "mlm_loss" in open_artifact(config.output, stage="pretrain run").figures["heldout_after"]


def test_an_objective_of_weight_zero_leaves_its_head_untouched(config):
    settings = {"objectives": ObjectiveWeights(nsp=0.0), "training": dataclasses.replace(TRAINING, weight_decay=0.0)}
    run(dataclasses.replace(config, **settings))
    model = load_file(config.output / "model.safetensors")
    assert not model["cls.seq_relationship.bias"].any()


@pytest.mark.faults
def test_fewer_instances_than_a_batch_are_refused_and_just_as_many_train(config, instances):
    count = len(Instances(instances / "train"))

    def of(batch_size):
        return dataclasses.replace(
            config, training=dataclasses.replace(config.training, batch_size=batch_size, max_steps=1)
        )

    with pytest.raises(InputError, match=rf"holds {count} instances, fewer than a batch of {count + 1};.*batch_size"):
        run(of(count + 1))
    assert not config.output.exists()
    run(of(count))
    assert open_artifact(config.output, stage="pretrain run").counts["batches_per_epoch"] == 1


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


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 1.0},
        {"fresh_learning_rate": 0.0},
        {"layer_decay": 0.0},
        {"heldout_instances": -1},
        {"near_strangers": True},
        {"heldout_instances": 0, "keep_best": "mlm_loss"},
        {"entity_control": "absent"},
        {"objectives": ObjectiveWeights(mlm=1.0, dea=0.0, replacement=1.0), "entity_control": "absent"},
    ],
)
def test_settings_out_of_range_are_refused(config, settings):
    with pytest.raises(InputError, match=list(settings)[-1]):
        run(dataclasses.replace(config, **settings))


@pytest.mark.parametrize(
    "rates", [{"pieces": 1.5}, {"pieces_masked": 0.95}, {"entities_random": 0.6, "entities_masked": 0.6}]
)
def test_shares_that_are_none_are_refused(rates):
    with pytest.raises(InputError, match=r"rates\."):
        MaskingRates(**rates)


@pytest.mark.faults
def test_vectors_of_another_width_than_the_model_are_refused(config, make, tmp_path):
    run(dataclasses.replace(config, training=dataclasses.replace(TRAINING, max_steps=1)))
    wide = make["vectors"](tmp_path / "wide", width=12)
    with pytest.raises(InputError, match="entity vectors of 8 numbers"):
        run(dataclasses.replace(config, base=str(config.output), vectors=wide, output=tmp_path / "on"))


@pytest.mark.faults
def test_a_folder_without_a_model_is_refused(config, world, tmp_path):
    (tmp_path / "none").mkdir()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "none" / name).write_bytes((world.base / name).read_bytes())
    with pytest.raises(InputError, match="no model at"):
        run(dataclasses.replace(config, base=str(tmp_path / "none")))


@pytest.mark.faults
def test_instances_without_one_are_refused(instances, world, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(instances / "train", folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "shards": []}))
    tokenizer = prepare.load_tokenizer(world.base, {})
    with pytest.raises(InputError, match="holds no instance"):
        require_matching(
            Instances(folder), tokenizer=tokenizer, table=EntityTable.open(world.vectors), entity_rows={}, batch_size=1
        )


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_instance_shard_is_named_and_nothing_is_written(config, instances, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(instances, copy)
    shard = copy / "train" / "shard-00000.arrow"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"shard-00000\.arrow"):
        run(dataclasses.replace(config, instances=copy))
    assert not config.output.exists()


def test_flops_are_those_that_torch_counts(instances, world):
    """Of one instance, forward and backward. Frozen vectors want no gradient, so torch counts a little less."""
    split = Instances(instances / "train")
    row = int(np.argmax(split.num_entities))
    batch = PretrainingCollate(split, seed=0)([split[row]], 0, np.array([row]))
    ernie = ernie_from_bert(world.base, entity_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ernie.attach_entity_table(EntityTable.open(world.vectors))
    ernie.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        Objectives(ObjectiveWeights()).measure(PretrainingModel(ernie), batch)[0]["loss"].backward()
    pieces, entities = batch["input_ids"].shape[1], batch["entity_positions"].shape[1]
    shape = TextShape(
        pieces=pieces,
        squared_pieces=pieces**2,
        masked=int((batch["labels"] != -100).sum()),
        entities=entities,
        squared_entities=entities**2,
        candidates=len(batch["entity_candidate_ids"]),
    )
    expected = training_flops(ernie.config, shape)
    assert 0.93 * expected < counter.get_total_flops() <= expected


def test_a_batch_is_the_same_whenever_it_is_asked_for(instances):
    """Resume asks for batch (epoch, index) out of the blue; it must not depend on the batches before it."""
    split = Instances(instances / "train")
    collate = PretrainingCollate(split, seed=0, masking=Masking(unit="mention"))
    batches = ExampleBatches(split, lengths=split.lengths, batch_size=8, seed=0, collate=collate, whole_batch=True)
    first = batches.batch(1, 2)
    batches.batch(0, 0)
    again = batches.batch(1, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert next(iter(first)) == "input_ids", "the loop counts examples by the first tensor"
