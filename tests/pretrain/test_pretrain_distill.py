"""The stage `pretrain distill`, and students built and imported before it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertForPreTraining, BertModel

import ernie
from ernie.compression import FactorisedEmbedding
from ernie.errors import InputError as ModelInputError
from ernie.losses.matching import LossConfig
from ernie.students import StudentConfig
from ernie.training import TrainingConfig
from kg.artifact import open_artifact
from kg.errors import InputError
from pretrain import distill, import_tinybert, prepare, student
from pretrain import run as pretraining
from pretrain.answers import answers_of_teacher, draw_answers, masked_places

SHORT = TrainingConfig(max_steps=8, batch_size=8, learning_rate=2e-3, log_every=4)
ANSWERS = LossConfig(preset="minilmv2", relation=0.0, masked_lm=1.0, denoising_entity=1.0)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Instances, and a teacher that has seen them for a while."""
    folder = tmp_path_factory.mktemp("distilled")
    instances = prepare.run(
        prepare.PrepareConfig(
            linked=world.linked,
            tokenizer=str(world.base),
            vectors=world.vectors,
            output=folder / "instances",
            max_length=48,
            dev=0.2,
            test=0.0,
        )
    )
    teacher = pretraining.run(
        pretraining.PretrainConfig(
            instances=instances,
            vectors=world.vectors,
            base=str(world.base),
            output=folder / "teacher",
            training=TrainingConfig(max_steps=60, batch_size=8, learning_rate=5e-3),
            layer_types=("mix", "fuse"),
            heldout_instances=8,
        )
    )
    return {"instances": instances, "teacher": teacher, "vectors": world.vectors}


def _config(made: dict[str, Path], output: Path, **changes) -> distill.DistillConfig:
    given = {
        "training": SHORT,
        "heldout_instances": 16,
        "min_teacher_gain": -1.0,
        "student": StudentConfig(num_layers=1),
    }
    fixed = {"instances": made["instances"], "vectors": made["vectors"], "teacher": str(made["teacher"])}
    return distill.DistillConfig(output=output, **{**fixed, **given, **changes})


def _figures(folder: Path) -> dict:
    return open_artifact(folder, stage="pretrain distill").figures


def test_a_plain_student_is_an_ordinary_bert_and_nearer_its_teacher_than_before(made, tmp_path):
    folder = distill.run(_config(made, tmp_path / "student", training=dataclasses.replace(SHORT, max_steps=30)))
    figures = _figures(folder)
    assert figures["heldout_after"]["loss"] < figures["heldout_before"]["loss"]
    assert set(figures["heldout_after"]) == {"loss", "embedding", "hidden", "relation", "entity_hidden"}
    assert figures["times_fewer_parameters"] > 1
    loaded = BertModel.from_pretrained(folder)
    assert loaded.config.num_hidden_layers == 1
    assert not [name for name in BertForPreTraining.from_pretrained(folder).state_dict() if "projection" in name]
    assert not (folder / "checkpoints").exists()


def test_a_two_stream_student_is_an_ernie(made, tmp_path):
    shape = StudentConfig(kind="two-stream", num_layers=2, hidden_size=8, num_attention_heads=2, entity_size=4)
    folder = distill.run(_config(made, tmp_path / "student", student=shape))
    model = ernie.ErnieForPreTraining.from_pretrained(folder)
    assert model.config.layer_types == ["mix", "fuse"]
    assert model.entity_input.width == 8
    terms = set(_figures(folder)["heldout_after"])
    assert terms == {"loss", "embedding", "hidden", "relation", "entity_hidden", "entity_relation", "change"}


def test_answers_about_words_and_entities_are_learnt(made, tmp_path):
    """Of masked pieces and of entities, the latter by a head that the plain student is not saved with."""
    learnt = dataclasses.replace(SHORT, max_steps=40)
    shape = StudentConfig(num_layers=1, init="fresh")
    folder = distill.run(_config(made, tmp_path / "student", losses=ANSWERS, training=learnt, student=shape))
    before, after = (_figures(folder)[f"heldout_{when}"] for when in ("before", "after"))
    assert after["masked_lm"] < before["masked_lm"]
    assert after["denoising_entity"] < before["denoising_entity"]
    assert not [name for name in BertForPreTraining.from_pretrained(folder).state_dict() if "probe" in name]
    assert {"mlm_accuracy"} == set(_figures(folder)["heldout"]["student"])


def test_cached_answers_are_draws_that_a_second_run_takes_over(made, tmp_path, monkeypatch):
    """The second student must ask nothing; another seed masks other pieces, and its cache would answer for those."""
    config = _config(made, tmp_path / "a", losses=ANSWERS, cache=tmp_path / "cache")
    first = distill.run(config)
    from pretrain import answers

    def refuse(*_, **__):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(answers, "_draw", refuse)
    again = distill.run(dataclasses.replace(config, output=tmp_path / "b"))
    assert _figures(again)["curve"] == _figures(first)["curve"]
    for changes, what in (({"seed": 1}, "seed"), ({"teacher_entities": "none"}, "teacher_entities")):
        with pytest.raises(ModelInputError, match=f"another {what}"):
            distill.run(dataclasses.replace(config, output=tmp_path / "c", **changes))
    with pytest.raises(InputError, match="layers are compared too"):
        distill.run(dataclasses.replace(config, output=tmp_path / "d", losses=LossConfig()))


def test_draws_come_from_the_teachers_distribution(made, tmp_path):
    """Many draws of one target against its softmax; a shifted target would draw another's."""
    config = _config(made, tmp_path / "x", losses=ANSWERS)
    pair = distill._prepare(config)
    batches, reading = distill._batches(config, pair), pair.phase.reading
    key = {"seed": 0, "num_draws": 4000}
    caches = draw_answers(
        pair.teacher, batches, reading, folder=tmp_path / "c", key=key, num_batches=1, num_rows=len(pair.train_set)
    )
    batch, rows = batches.batch(0, 0), batches.rows(0, 0)
    answers = answers_of_teacher(pair.teacher, batch, reading)
    assert answers.pieces is not None
    _, real = masked_places(batch["labels"])
    row = int(real.sum(1).argmax())
    found = torch.from_numpy(caches["drawn_pieces"][int(rows[row])][0]).long()
    expected = answers.pieces[row, 0].softmax(-1)
    torch.testing.assert_close(found.bincount(minlength=len(expected)) / 4000, expected.float(), atol=0.05, rtol=0)


def test_masked_places_are_in_text_order():
    labels = torch.tensor([[-100, 5, -100, 7], [-100, -100, -100, 4]])
    places, real = masked_places(labels)
    assert real.tolist() == [[True, True], [True, False]]
    assert places[0].tolist() == [1, 3]
    assert places[1, 0] == 3


def test_an_interrupted_run_ends_as_an_undisturbed_one(made, tmp_path, monkeypatch):
    whole = distill.run(_config(made, tmp_path / "whole"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "_report", stop)
    with pytest.raises(KeyboardInterrupt):
        distill.run(_config(made, tmp_path / "broken"))
    monkeypatch.undo()
    resumed = distill.run(_config(made, tmp_path / "broken"))
    weights = [BertForPreTraining.from_pretrained(folder).state_dict() for folder in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_small_word_tables(made, tmp_path):
    """Pruned and factorised at once; saved as an ordinary model with a tokenizer of the same length."""
    shape = StudentConfig(num_layers=1, vocabulary="seen", embedding_size=6)
    folder = distill.run(_config(made, tmp_path / "student", student=shape))
    model = BertForPreTraining.from_pretrained(folder)
    assert not isinstance(model.get_input_embeddings(), FactorisedEmbedding)
    assert model.config.word_embedding_rank == 6
    from transformers import AutoTokenizer

    assert len(AutoTokenizer.from_pretrained(str(folder))) == model.config.vocab_size


def test_a_teacher_near_chance_and_foreign_students_are_refused(made, world, make, tmp_path):
    """Untrained heads teach noise; position by position another tokenizer's losses compare different words."""
    with pytest.raises(InputError, match="near chance"):
        distill.run(_config(made, tmp_path / "a", min_teacher_gain=0.99))
    swapped = make["base"](tmp_path / "swapped", list(reversed(make["words"]())))
    with pytest.raises(ModelInputError, match="tokenizer differs"):
        distill.run(_config(made, tmp_path / "b", student=StudentConfig(folder=str(swapped))))
    with pytest.raises(InputError, match="plain BERT; set it to 0"):
        distill.run(_config(made, tmp_path / "c", teacher=str(world.base), losses=ANSWERS))
    with pytest.raises(InputError, match="num_draws"):
        distill.run(_config(made, tmp_path / "d", num_draws=0))


def test_a_plain_bert_teaches_too(made, world, tmp_path):
    """The control without any knowledge: the same stage, another teacher."""
    folder = distill.run(_config(made, tmp_path / "student", teacher=str(world.base)))
    assert set(_figures(folder)["heldout_after"]) == {"loss", "embedding", "hidden", "relation"}


def test_a_teacher_without_a_masked_lm_head_teaches_its_inside_alone(made, world, tmp_path, capsys):
    """A sentence encoder's answers for masked pieces would be noise: no reason to refuse what its layers know."""
    bare = tmp_path / "bare"
    shutil.copytree(world.base, bare)
    BertModel.from_pretrained(bare).save_pretrained(bare)
    asked = {"teacher": str(bare), "min_teacher_gain": 0.99}
    figures = _figures(distill.run(_config(made, tmp_path / "student", **asked)))
    assert "heldout" not in figures, "no score of a head that nobody trained"
    assert {"hidden", "relation"} < set(figures["heldout_after"])
    assert "no masked-LM head to judge it by" in capsys.readouterr().err
    only_words = dataclasses.replace(ANSWERS, denoising_entity=0.0)
    with pytest.raises(InputError, match=r"bare has no masked-LM head, so .* set losses\.masked_lm"):
        distill.run(_config(made, tmp_path / "refused", losses=only_words, **asked))


def test_explaining_writes_nothing(made, tmp_path):
    shown = distill.explained(_config(made, tmp_path / "student"))
    assert "entity_hidden  mention 1" in shown
    assert not list(tmp_path.iterdir())


def test_a_student_is_built_and_measured_before_training(made, tmp_path, capsys):
    """Its parameters are those of the encoder that is written; and it is where the distilling stage may start."""
    shape = StudentConfig(kind="two-stream", num_layers=2, hidden_size=8)
    config = student.BuildConfig(
        output=tmp_path / "student", teacher=str(made["teacher"]), student=shape, num_pieces=16, num_timed=2
    )
    manifest = open_artifact(student.run(config), stage="student build")
    row = manifest.figures["encoders"]["student"]
    model = ernie.ErnieForPreTraining.from_pretrained(config.output)
    assert row["parameters"] == sum(p.numel() for p in model.bert.parameters())
    assert manifest.figures["encoders"]["teacher"]["flops"] > row["flops"] > 0
    assert "parameters" in capsys.readouterr().err
    folder = distill.run(_config(made, tmp_path / "d", student=StudentConfig(folder=str(config.output))))
    assert ernie.ErnieForPreTraining.from_pretrained(folder).config.hidden_size == 8
    with pytest.raises(InputError, match="leave out"):
        student.run(dataclasses.replace(config, student=StudentConfig(vocabulary="seen")))


def test_a_released_tinybert_becomes_a_folder_that_the_stages_take(made, world, tmp_path):
    """Its config has no model_type and its folder no tokenizer.json, by which nothing would recognise it."""
    base = BertForPreTraining.from_pretrained(world.base)
    released = tmp_path / "released"
    released.mkdir()
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
              "max_position_embeddings")  # fmt: skip
    described = {name: getattr(base.config, name) for name in fields}
    (released / "config.json").write_text(json.dumps({**described, "cell": {}, "emb_size": 16}))
    fit = {"fit_dense.weight": torch.zeros(32, 16), "fit_dense.bias": torch.zeros(32)}
    torch.save({**base.state_dict(), **fit}, released / "pytorch_model.bin")
    config = import_tinybert.ImportConfig(output=tmp_path / "tinybert", folder=released)
    with pytest.raises(InputError, match=r"no vocab\.txt"):
        import_tinybert.run(config)
    (released / "vocab.txt").write_bytes((world.base / "vocab.txt").read_bytes())
    folder = import_tinybert.run(config)
    student_folder = distill.run(_config(made, tmp_path / "s", student=StudentConfig(folder=str(folder), num_layers=2)))
    assert BertModel.from_pretrained(student_folder).config.hidden_size == 16
