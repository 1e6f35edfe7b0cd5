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
from ernie.losses.distillation import LayerLosses, LayerLossWeights, record_features
from ernie.training import TrainingConfig
from finetune import distill, run
from finetune.students import latencies, size_of, student_of, teacher_slices
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
    given = {"num_layers": 1, "intermediate": SHORT, "prediction": SHORT, "num_timed": 3}
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
    with pytest.raises(ModelInputError, match="3 layers cannot be mapped"):
        distill.run(_config(world, tmp_path / "student", num_layers=3))
    with pytest.raises(ModelInputError, match="relation_heads"):
        distill.run(_config(world, tmp_path / "student", relation_heads=7))


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
    folder = distill.run(_config(world, tmp_path / "student", student=str(narrow)))
    student = BertForSequenceClassification.from_pretrained(folder)
    assert student.config.hidden_size == 16
    assert student.config.vocab_size == len(pieces) + 2
    assert not [name for name in student.state_dict() if "projection" in name]
    swapped = _bert(tmp_path / "swapped", [*pieces[:5], *reversed(pieces[5:])])
    with pytest.raises(InputError, match="tokenizer differs"):
        distill.run(_config(world, tmp_path / "other", student=str(swapped)))


def _teacher(layer_types: list[str]) -> ernie.ErnieForEntityTyping:
    torch.manual_seed(0)
    config = ernie.ErnieConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=len(layer_types),
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=20,
        entity_size=8,
        num_entity_attention_heads=2,
        layer_types=layer_types,
        num_labels=3,
        initializer_range=0.3,
        problem_type="single_label_classification",
    )
    model = ernie.ErnieForEntityTyping(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parity
@pytest.mark.parametrize("layer_types", [["text", "text"], ["text", "mix"]])
def test_a_student_of_all_layers_is_the_teacher_on_plain_text(layer_types):
    """`dense_ent.bias` reaches every token, also without entities; left out, every student starts off the mark."""
    teacher = _teacher(layer_types)
    student = student_of(teacher, num_layers=2).eval()
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits, atol=1e-5, rtol=1e-4)
        losses = LayerLosses(
            student_width=16,
            teacher_width=16,
            layer_map=(1, 2),
            weights=LayerLossWeights(attention=1.0),
            relation_heads=4,
            num_heads=(4, 4),
        )
        found = losses(
            record_features(student.bert, inputs, layers=(1, 2)),
            record_features(teacher.bert, inputs, layers=(1, 2)),
            MASK,
        )
    assert float(found["loss"]) == pytest.approx(0, abs=1e-6)


def test_slices_are_the_last_layers_of_each_block():
    """Layer m must start where the losses pull it."""
    teacher = _teacher(["text", "text", "mix", "fuse", "fuse", "fuse"])
    slices = teacher_slices(teacher.state_dict(), (2, 4, 6))
    for m, g in enumerate((2, 4, 6)):
        name = "attention.self.query.weight"
        expected = teacher.state_dict()[f"bert.encoder.layer.{g - 1}.{name}"]
        assert torch.equal(slices[f"bert.encoder.layer.{m}.{name}"], expected)
    assert not [name for name in slices if "_ent" in name]


def test_recorded_queries_and_keys_are_those_of_the_attention():
    """Hooks on the wrong module would give tensors of the right shape."""
    bert = BertModel(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32),
    ).eval()
    bert.set_attn_implementation("eager")
    inputs = {"input_ids": IDS[:1], "attention_mask": MASK[:1]}
    with torch.no_grad():
        shown = record_features(bert, inputs, layers=(2,))
        expected = bert(**inputs, output_attentions=True).attentions[1]
    split = [x.view(1, 4, 4, 4).transpose(1, 2) for x in (shown.queries[1], shown.keys[1])]
    torch.testing.assert_close((split[0] @ split[1].transpose(-1, -2) / 2).softmax(-1), expected)
    assert shown.queries[0].numel() == 0
    assert not bert.encoder.layer[1].attention.self.query._forward_hooks


def test_flops_are_those_of_the_formula():
    """Printed before training, so that nobody trains a student that is no smaller."""
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    size = size_of(BertForSequenceClassification(config), num_pieces=8)
    layer = 2 * 8 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 8 * 8 * 16
    assert size.flops == 2 * layer + 2 * 16 * 16 + 2 * 16 * 2


def test_latencies_are_medians_of_every_models_own_calls():
    """The first call warms up and must not count."""
    calls = []
    times = latencies(
        {"a": (lambda batch: calls.append("a"), [{}] * 3), "b": (lambda batch: calls.append("b"), [{}] * 3)}
    )
    assert calls == ["a", "b"] * 4
    assert set(times) == {"a", "b"}
