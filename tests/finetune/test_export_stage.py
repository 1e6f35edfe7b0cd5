"""The stage `export`: files that answer as the student does, and gates that close when they do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from ernie.export import OrtPredictor, TorchPredictor
from finetune import export
from finetune.data import add_markers
from finetune.task_model import load_task_model, save_task_model
from finetune.tasks import TASKS
from finetune.tasks.schema import Example, Span, write_examples
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError

SPEC = TASKS["entity_typing"]


@dataclass(frozen=True, kw_only=True)
class _MadeConfig:
    """The least a stage's config offers, for artifacts written here."""

    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def _examples(count: int) -> list[Example]:
    return [
        Example(
            id=str(number),
            text=" ".join("abcdefghij"[number % 7 : number % 7 + 1 + number % 4]),
            spans=(Span(start=0, end=1),),
            label=("x", "y")[number % 2],
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def made(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student of random weights, and examples; how good it is does not matter to export."""
    import ernie

    folder = tmp_path_factory.mktemp("made")
    tokenizer = ernie.ErnieTokenizer.from_pretrained(pretrained, {})
    add_markers(tokenizer, SPEC)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer.fast_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
        id2label={0: "x", 1: "y"},
        label2id={"x": 0, "y": 1},
        problem_type="single_label_classification",
    )
    with write_artifact(_MadeConfig(output=folder / "student"), stage="finetune distill") as writer:
        student = BertForSequenceClassification(config)
        save_task_model(
            writer.path,
            model=student,  # pyrefly: ignore[bad-argument-type]
            tokenizer=tokenizer,
            spec=SPEC,
            max_length=24,
            entities="none",
        )
    with write_artifact(_MadeConfig(output=folder / "examples"), stage="finetune examples") as writer:
        for split in ("train", "dev", "test"):
            write_examples(writer.path / f"{split}.jsonl", _examples(21))
    return {"model": folder / "student", "examples": folder / "examples"}


@pytest.fixture(scope="module")
def exported(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "export"
    return export.run(export.ExportConfig(output=output, **made, batch_size=4, num_timed=3, max_drop=1.0))


def test_the_folder_holds_three_forms_of_one_model(made, exported):
    """The safetensors copy is what people load; it must be the model, not a cousin of it."""
    manifest = open_artifact(exported, stage="export")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "task.json", "model.onnx", "model.int8.onnx"):
        assert name in manifest.data["files"]
    before, after = (BertForSequenceClassification.from_pretrained(f) for f in (made["model"], exported))
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    rows = {row["format"]: row for row in manifest.figures["formats"]}
    assert list(rows) == ["torch", "safetensors", "onnx", "onnx int8"]
    assert rows["safetensors"]["max_logit_difference"] == 0
    assert rows["onnx"]["max_logit_difference"] < 1e-4
    assert rows["onnx"]["same_answer"] == 1
    assert 0 < rows["onnx int8"]["max_logit_difference"] < 0.2
    assert rows["onnx"]["macro_f1"] == rows["torch"]["macro_f1"]
    assert rows["onnx int8"]["bytes"] == (exported / "model.int8.onnx").stat().st_size
    assert all(gate["passed"] for gate in manifest.figures["gates"])
    assert manifest.counts["checked_examples"] == 21


def test_the_onnx_file_answers_new_text_as_the_student(made, exported):
    """The gate reads only dev examples; a text longer than any of them must do as well."""
    student = load_task_model(made["model"], {})
    encoded = student.tokenizer.encode(["[ENT] a [/ENT] " + "b c d e " * 4], [()], max_length=24)[0]
    ids = torch.from_numpy(encoded.input_ids)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    expected = TorchPredictor(student.model)(batch)
    torch.testing.assert_close(OrtPredictor(exported / "model.onnx")(batch), expected, atol=1e-4, rtol=1e-4)


def _rows(**changes: float) -> list[dict]:
    common = {"bytes": 100, "times_smaller": 1.0, "max_logit_difference": 0.0, "macro_f1": 0.9, "times_faster": 1.0}
    rows = [{"format": name, **common} for name in ("torch", "safetensors", "onnx", "onnx int8")]
    for name, value in changes.items():
        rows[2 if name == "max_logit_difference" else 3][name] = value
    return rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_logit_difference": 0.5}, "onnx: max logit difference is 0.5"),
        ({"max_logit_difference": float("nan")}, "onnx: max logit difference is nan"),
        ({"macro_f1": 0.85}, "drop of macro_f1 is 0.05 .* set int8=false"),
    ],
)
def test_a_copy_that_strays_is_refused(tmp_path, changes, message):
    """A gate that writes the file and only notes the failure gets that file deployed."""
    config = export.ExportConfig(output=tmp_path / "x", model=tmp_path, examples=tmp_path)
    export._refuse(config, SPEC, _rows())
    with pytest.raises(InputError, match=message):
        export._refuse(config, SPEC, _rows(**changes))


def test_a_refused_export_leaves_no_folder(made, tmp_path, monkeypatch):
    """The stage writes before it judges; what fails must not stay."""

    def refuse(*_):
        raise InputError("export refused")

    monkeypatch.setattr(export, "_write", refuse)
    with pytest.raises(InputError, match="export refused"):
        export.run(export.ExportConfig(output=tmp_path / "x", **made))
    assert not list(tmp_path.iterdir())


def test_wrong_models_are_named(made, tmp_path):
    """Each of these would otherwise end in a message of another library."""
    (tmp_path / "half").mkdir()
    with pytest.raises(InputError, match="no finished artifact; make it with `ernie-kg finetune distill`"):
        export.run(export.ExportConfig(output=tmp_path / "x", model=tmp_path / "half", examples=made["examples"]))
    with pytest.raises(InputError, match="takes text alone"):
        export.run(export.ExportConfig(output=tmp_path / "x", **made, vectors=made["model"]))
