"""The stage `finetune distill`: a real teacher of a few layers, taught and measured on letters."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

import ernie
from ernie.errors import InputError as ModelInputError
from ernie.losses.matching import LossConfig
from ernie.students import StudentConfig
from ernie.training import TrainingConfig
from finetune import distill, run
from finetune.data import read_entity_rows
from finetune.students import make_student
from finetune.task_model import load_task_model
from finetune.tasks.schema import EntityLink, Example, Span, write_examples
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError

SHORT = TrainingConfig(max_steps=6, batch_size=8, learning_rate=2e-3, log_every=2)
LETTERS = {"even": "a", "odd": "b"}


def _examples(count: int, seed: int) -> list[Example]:
    """Texts of eight letters; the marked letter is the label's, the rest are noise; half carry a link."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        label = draw.choice(sorted(LETTERS))
        noise = [draw.choice("cdefghijkl") for _ in range(7)]
        text = " ".join([LETTERS[label], *noise])
        links = (EntityLink(start=0, end=1, entity="Q1"),) if number % 2 else ()
        found.append(Example(id=f"{seed}-{number}", text=text, spans=(Span(start=0, end=1),), links=links, label=label))
    return found


@dataclass(frozen=True, kw_only=True)
class _MadeConfig:
    """The least a stage's config offers, for artifacts written here."""

    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def _examples_artifact(folder: Path, **splits: list[Example]) -> Path:
    with write_artifact(_MadeConfig(output=folder), stage="finetune examples") as writer:
        for split, examples in splits.items():
            write_examples(writer.path / f"{split}.jsonl", examples)
    return folder


@pytest.fixture(scope="module")
def world(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Examples, vectors and a teacher that has learnt the task."""
    folder = tmp_path_factory.mktemp("world")
    examples = _examples_artifact(
        folder / "examples", train=_examples(64, 1), dev=_examples(24, 2), test=_examples(24, 3)
    )
    with write_artifact(_MadeConfig(output=folder / "vectors"), stage="kg embed") as writer:
        table = torch.tensor([[0.0] * 8, [1.0] * 8, [-1.0] * 8])
        save_file({"entity_embeddings": table}, writer.path / "entity_embeddings.safetensors")
        (writer.path / "vocabulary.txt").write_text("Q1\nQ2\n", encoding="utf-8")
    teacher = run.run(
        run.FinetuneConfig(
            output=folder / "teacher",
            task="entity_typing",
            examples=examples,
            model=pretrained,
            vectors=folder / "vectors",
            training=TrainingConfig(max_steps=40, batch_size=16, learning_rate=3e-3),
            max_length=16,
        )
    )
    return {"examples": examples, "vectors": folder / "vectors", "teacher": teacher}


def _config(world: dict[str, Path], output: Path, **settings) -> distill.DistillConfig:
    given = {
        "student": StudentConfig(num_layers=1),
        "intermediate": SHORT,
        "prediction": SHORT,
        "num_timed": 3,
    }
    return distill.DistillConfig(output=output, **world, **{**given, **settings})


def test_a_student_learns_its_teachers_answers(world, tmp_path):
    """The figures are the stage's whole point: each is recomputed here from the written student."""
    config = _config(world, tmp_path / "student", prediction=dataclasses.replace(SHORT, max_steps=30))
    figures = open_artifact(distill.run(config), stage="finetune distill").figures
    assert figures["dev"]["teacher"]["macro_f1"] > 0.9
    assert figures["retention"] > 0.9
    assert figures["agreement_with_teacher"] > 0.9
    first, last = figures["intermediate_curve"][0], figures["intermediate_curve"][-1]
    assert last["loss"] < first["loss"]
    assert figures["prediction_curve"][-1]["loss"] < figures["prediction_curve"][0]["loss"]
    sizes = figures["size"]
    student = BertForSequenceClassification.from_pretrained(config.output)
    assert sizes["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    assert sizes["student"]["bytes"] == 4 * sizes["student"]["parameters"]
    assert sizes["teacher"]["flops_of_16_pieces"] > sizes["student"]["flops_of_16_pieces"] > 0
    assert figures["teacher_entity_table_bytes"] == 3 * 8 * 4
    assert figures["milliseconds_an_example_without_linking"]["student"] > 0
    assert not (config.output / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["bert", "two-stream"])
def test_a_teacher_that_reads_marked_spans_is_distilled(world, pretrained, tmp_path, kind):
    """Its head asks for spans wherever it is called, sizes and latencies too; a plain student reads [CLS] instead."""
    teacher = run.run(
        run.FinetuneConfig(
            output=tmp_path / "teacher",
            task="entity_typing",
            examples=world["examples"],
            model=pretrained,
            vectors=world["vectors"],
            training=TrainingConfig(max_steps=2, batch_size=8, learning_rate=3e-3),
            max_length=16,
            pooling="mean",
        )
    )
    student = StudentConfig(num_layers=2, intermediate_size=32, kind=kind)
    config = _config(world | {"teacher": teacher}, tmp_path / "student", student=student, min_teacher_gain=-1.0)
    figures = open_artifact(distill.run(config), stage="finetune distill").figures
    assert figures["size"]["teacher"]["flops_of_16_pieces"] > figures["size"]["student"]["flops_of_16_pieces"]
    pooling = load_task_model(
        config.output, None if kind == "bert" else read_entity_rows(world["vectors"])
    ).spec.pooling
    assert pooling == ("cls" if kind == "bert" else "mean")


def test_the_student_loads_without_our_package(world, tmp_path):
    """A drop-in that needs `import ernie` is none; the subprocess makes that import fail."""
    folder = distill.run(_config(world, tmp_path / "student"))
    code = f"""
import sys
for name in ("ernie", "kg", "finetune", "entity_linking"): sys.modules[name] = None
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
model = AutoModelForSequenceClassification.from_pretrained({str(folder)!r})
assert model.config.id2label == {{0: "even", 1: "odd"}}, model.config.id2label
print(model(**tokenizer("[ENT] a [/ENT] c d", return_tensors="pt")).logits.tolist())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    student = load_task_model(folder, {})
    encoded = student.tokenizer.encode(["[ENT] a [/ENT] c d"], [()], max_length=16)[0]
    with torch.no_grad():
        own = student.model(input_ids=torch.from_numpy(encoded.input_ids)[None]).logits
    torch.testing.assert_close(torch.tensor(json.loads(shown.stdout)), own, atol=1e-6, rtol=1e-5)


def test_an_interrupted_run_ends_as_an_undisturbed_one(world, tmp_path, monkeypatch):
    """Going on in the second phase must not repeat or skip the first."""
    whole = distill.run(_config(world, tmp_path / "whole"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "learn_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        distill.run(_config(world, tmp_path / "broken"))
    monkeypatch.undo()
    resumed = distill.run(_config(world, tmp_path / "broken"))
    assert open_artifact(resumed, stage="finetune distill").data["resumed"]
    weights = [BertForSequenceClassification.from_pretrained(folder).state_dict() for folder in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_interruption_while_the_teacher_answers_changes_nothing(world, tmp_path, monkeypatch):
    """Other batches pad otherwise and round otherwise: the resumed student would be another, if only by a little."""
    from ernie.teacher_cache import TeacherCache

    settings = {"phases": "prediction", "eval_batch_size": 8}
    whole = distill.run(_config(world, tmp_path / "whole", **settings))
    flush, calls = TeacherCache.flush, []

    def stop_at_the_third(cache):
        calls.append(flush(cache))
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TeacherCache, "flush", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        distill.run(_config(world, tmp_path / "broken", **settings))
    resumed = distill.run(_config(world, tmp_path / "broken", **settings))
    asked = -(-min(64, SHORT.max_steps * SHORT.batch_size) // 8)
    assert len(calls) == asked
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_teacher_near_chance_is_refused(world, tmp_path):
    """The commonest way to fail: a base model given as teacher, whose noise the student then copies faithfully."""
    with pytest.raises(InputError, match="near chance"):
        distill.run(_config(world, tmp_path / "student", min_teacher_gain=0.95))


def test_other_labels_than_the_teachers_are_refused(world, tmp_path):
    """Rows would mean other labels, and the scores would only look low."""
    other = [dataclasses.replace(e, label=f"new {e.label}") for e in _examples(12, 1)]
    examples = _examples_artifact(tmp_path / "examples", train=other, dev=other, test=other)
    with pytest.raises(InputError, match="teacher's own examples"):
        distill.run(_config({**world, "examples": examples}, tmp_path / "student"))


def test_layers_and_heads_that_do_not_fit_are_refused(world, tmp_path):
    """Each would otherwise fail deep inside torch, after the teacher was scored."""
    refused = [
        ({"student": StudentConfig(num_layers=3)}, "3 layers cannot be mapped"),
        ({"losses": LossConfig(relation_heads=7)}, "relation_heads"),
        ({"losses": LossConfig(entity_relation=1.0)}, "without a pair of layers"),
        ({"student": StudentConfig(num_layers=1, num_attention_heads=1), "losses": LossConfig(attention=1.0)}, "head"),
        ({"student": StudentConfig(num_layers=1, hidden_size=48)}, "nowhere wider"),
        ({"student": StudentConfig(num_layers=1, embedding_size=32)}, "embedding_size must lie"),
        ({"student": StudentConfig(num_layers=1, vocabulary="some")}, "full or seen"),
        ({"soft_label_weight": 0.0}, "one of them above"),
    ]
    for settings, message in refused:
        with pytest.raises((InputError, ModelInputError), match=message):
            distill.run(_config(world, tmp_path / "student", **settings))


def _bert(folder: Path, pieces: list[str], width: int = 16) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=width, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_students_folder_may_have_another_width_but_no_other_tokenizer(world, pretrained, tmp_path):
    """Position by position the losses would compare different words, and still go down."""
    pieces = (pretrained / "vocab.txt").read_text().split()
    narrow = _bert(tmp_path / "narrow", pieces)
    folder = distill.run(_config(world, tmp_path / "student", student=StudentConfig(folder=str(narrow))))
    student = BertForSequenceClassification.from_pretrained(folder)
    assert student.config.hidden_size == 16
    assert student.config.vocab_size == len(pieces) + 2
    assert not [name for name in student.state_dict() if "projection" in name]
    swapped = _bert(tmp_path / "swapped", [*pieces[:5], *reversed(pieces[5:])])
    with pytest.raises(ModelInputError, match="tokenizer differs"):
        distill.run(_config(world, tmp_path / "other", student=StudentConfig(folder=str(swapped))))


def test_a_students_folder_learns_the_tasks_marks_from_its_teacher(world, pretrained, tmp_path):
    """A general student has never seen them: with random rows it would first have to find out what they mean."""
    pieces = (pretrained / "vocab.txt").read_text().split()
    teacher = load_task_model(world["teacher"], read_entity_rows(world["vectors"]))
    rows = teacher.model.get_input_embeddings().weight
    for width, same in ((rows.shape[1], True), (16, False)):
        folder = _bert(tmp_path / str(width), pieces, width=width)
        student = make_student(StudentConfig(folder=str(folder)), teacher=teacher, train_pieces=[], seed=0)
        marks = student.model.get_input_embeddings().weight[len(pieces) :]
        assert len(marks) == 2
        assert (marks.shape == rows[len(pieces) :].shape and torch.equal(marks, rows[len(pieces) :])) == same


def _figures(folder: Path) -> dict:
    return open_artifact(folder, stage="finetune distill").figures


def test_a_two_stream_student_still_takes_entities(world, tmp_path):
    """Saved as an ERNIE with its task, and scored with entities: without them its answers differ."""
    student = StudentConfig(kind="two-stream", num_layers=2, entity_size=4)
    folder = distill.run(_config(world, tmp_path / "student", student=student))
    loaded = load_task_model(folder, {"Q1": 1, "Q2": 2})
    assert isinstance(loaded.model, ernie.ErnieForEntityTyping)
    assert loaded.entities == "given"
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]])}
    with torch.no_grad():
        told = loaded.model(**inputs, entity_embeds=torch.ones(1, 1, 8), entity_positions=torch.ones(1, 1).long())
        assert not torch.allclose(told.logits, loaded.model(**inputs).logits)
    assert any("entity_hidden" in line for line in _figures(folder)["matches"])
    assert any("change" in line for line in _figures(folder)["matches"])


def test_the_tinybert_preset_and_gold_labels_alone_run_too(world, tmp_path):
    """`soft_label_weight` 0 is the control without distillation: the teacher must not be asked for answers."""
    losses, narrow = LossConfig(preset="tinybert"), StudentConfig(num_layers=1, hidden_size=16)
    figures = _figures(distill.run(_config(world, tmp_path / "tiny", losses=losses, student=narrow)))
    assert [line.split()[0] for line in figures["matches"][1:]] == ["embedding", "hidden", "attention"]
    alone = _config(world, tmp_path / "alone", soft_label_weight=0.0, hard_label_weight=1.0, phases="prediction")
    figures = _figures(distill.run(alone))
    assert "intermediate_curve" not in figures
    assert set(figures["prediction_curve"][0]) >= {"loss"}


SWAPS = 3
"""A seed that exchanges the two entities there are."""


def test_a_teacher_without_entities_needs_no_vectors(world, pretrained, tmp_path):
    """GLUE and the like: the usual losses are then those without entities, not an error about a stream."""
    teacher = run.run(
        run.FinetuneConfig(
            output=tmp_path / "teacher",
            task="entity_typing",
            examples=world["examples"],
            model=pretrained,
            entities="none",
            training=SHORT,
            max_length=16,
        )
    )
    given = {"examples": world["examples"], "teacher": teacher, "vectors": None}
    figures = _figures(distill.run(_config(given, tmp_path / "student", min_teacher_gain=-1.0)))
    assert {line.split()[0] for line in figures["matches"][1:]} == {"embedding", "hidden", "relation"}
    assert figures["teacher_entity_table_bytes"] == 0
    with pytest.raises(InputError, match="`vectors` must name"):
        distill.run(_config({**world, "vectors": None}, tmp_path / "x"))


def test_a_teacher_may_be_shown_no_or_wrong_entities(world, tmp_path):
    """The controls; that they change nothing else is what makes them controls."""
    seen = {}
    for control in ("given", "none", "shuffled"):
        config = _config(world, tmp_path / control, teacher_entities=control, seed=SWAPS)
        seen[control] = _figures(distill.run(config))
    first = {control: figures["prediction_curve"][0]["loss"] for control, figures in seen.items()}
    assert len(set(first.values())) == 3
    assert {json.dumps(figures["size"]) for figures in seen.values()} == {json.dumps(seen["given"]["size"])}


def test_answers_are_cached_for_the_next_student_and_no_other_teacher(world, pretrained, tmp_path):
    """A cache of another teacher would train the student on somebody else's answers, and look fine."""
    cache = tmp_path / "cache"
    first = distill.run(_config(world, tmp_path / "first", cache=cache))
    uncached = distill.run(_config(world, tmp_path / "uncached"))
    weights = [BertForSequenceClassification.from_pretrained(folder).state_dict() for folder in (first, uncached)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (uncached / "teacher-answers").exists()
    again = distill.run(_config(world, tmp_path / "again", cache=cache))
    assert _figures(again)["prediction_curve"] == _figures(first)["prediction_curve"]
    untaught = {
        "task": "entity_typing",
        "examples": world["examples"],
        "model": pretrained,
        "vectors": world["vectors"],
    }
    other = run.run(
        run.FinetuneConfig(
            output=tmp_path / "teacher", training=dataclasses.replace(SHORT, max_steps=1), max_length=16, **untaught
        )
    )
    with pytest.raises(ModelInputError, match="outputs of another teacher"):
        distill.run(_config({**world, "teacher": other}, tmp_path / "x", cache=cache, min_teacher_gain=-1.0))
    with pytest.raises(ModelInputError, match="another teacher_entities"):
        distill.run(_config(world, tmp_path / "y", cache=cache, teacher_entities="none"))


def test_a_small_word_table_is_saved_whole_and_marked(world, tmp_path):
    """Factors while training, an ordinary table for everybody else; exact, since it has that rank."""
    student = StudentConfig(num_layers=1, embedding_size=6)
    folder = distill.run(_config(world, tmp_path / "student", student=student))
    model = BertForSequenceClassification.from_pretrained(folder)
    table = model.bert.embeddings.word_embeddings.weight
    assert int(torch.linalg.matrix_rank(table.double(), tol=1e-4)) <= 6
    assert model.config.word_embedding_rank == 6


def test_a_pruned_vocabulary_cuts_the_same_text_alike(world, tmp_path):
    """Only seen pieces have rows; a wrong map would give every word another's vector and still train."""
    folder = distill.run(_config(world, tmp_path / "student", student=StudentConfig(num_layers=1, vocabulary="seen")))
    whole = distill.run(_config(world, tmp_path / "whole"))
    pruned, full = (load_task_model(path, {}) for path in (folder, whole))
    text = "[ENT] a [/ENT] c d"
    pieces = [task.tokenizer.fast_tokenizer.tokenize(text) for task in (pruned, full)]
    assert pieces[0] == pieces[1]
    assert pruned.model.config.vocab_size == len(pruned.tokenizer.fast_tokenizer)
    assert _figures(folder)["test"] == _figures(whole)["test"]


def test_the_match_table_is_explained_before_anything_is_written(world, tmp_path):
    shown = distill.explained(_config(world, tmp_path / "student"))
    assert shown.splitlines()[0].split()[0] == "term"
    assert {line.split()[0] for line in shown.splitlines()[1:]} == {"embedding", "hidden", "relation", "entity_hidden"}
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / "student.partial").exists()


def test_the_command_line_explains_and_stops(world, tmp_path, capsys):
    """`--explain` must neither train nor leave a folder that blocks the run it was asked about."""
    from ernie_kg.cli import main

    given = {**{name: str(path) for name, path in world.items()}, "output": str(tmp_path / "student")}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert main(["finetune", "distill", *options, "--student.num_layers", "1", "--explain"]) == 0
    assert capsys.readouterr().out.startswith("term")
    assert not list(tmp_path.iterdir())
