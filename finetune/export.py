"""The stage `export`: a task model in, safetensors, ONNX and int8 out, each checked against the model it came from.

It stands in `finetune` because the quality gate needs the task's examples; what turns a model into files is
`ernie.export`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data import (
    collate,
    encode_examples,
    load_examples,
    read_entity_rows,
    read_linked_documents,
)
from finetune.tasks import TaskSpec
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import progress

if TYPE_CHECKING:
    from ernie import ErnieTokenizer
    from ernie.export import Predictor

STAGE = "export"
MADE_BY = ("finetune distill", "finetune run")
ONNX, INT8 = "model.onnx", "model.int8.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which model, and how far its copies may differ from it."""

    output: Path
    """Folder to write: config.json, model.safetensors, tokenizer, task.json, model.onnx, model.int8.onnx."""
    model: Path
    """Artifact of `finetune distill`, or of `finetune run` for a model that still takes entities."""
    examples: Path
    """Artifact of `finetune examples` that the copies are checked on."""
    vectors: Path | None = None
    """Artifact of `kg embed`; needed by, and only by, a model that takes entities."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    split: Literal["dev", "test"] = "dev"
    """Examples the copies are checked on."""
    max_examples: int = 0
    """Check on the first so many; 0 is all."""
    int8: bool = True
    """Whether to write the int8 file."""
    tolerance: float = 1e-3
    """Largest difference of a logit between the torch model and the fp32 ONNX file."""
    max_drop: float = 0.02
    """Largest drop of the primary metric from the torch model to the int8 file."""
    opset: int = 23
    """ONNX operator set, 18 or later."""
    batch_size: int = 32
    """Examples a batch while checking."""
    num_timed: int = 40
    """Examples, one at a time, that the latencies are medians of."""
    seed: int = 0
    """Nothing here is drawn; kept so that all stages are alike."""

    def inputs(self) -> dict[str, Path]:
        optional = {"vectors": self.vectors, "linked": self.linked}
        given = {name: path for name, path in optional.items() if path is not None}
        return {"model": self.model, "examples": self.examples, **given}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The model to export, and the examples it is judged on.

    prepare: a collated batch to what the exported file takes (entity vectors in place of rows, or text alone).
    """

    model: nn.Module
    tokenizer: ErnieTokenizer
    spec: TaskSpec
    features: list[dict[str, Any]]
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def batch(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return self.prepare(collate(features, pad_token_id=self.tokenizer.pad_token_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One form of the model: how it answers, what it weighs, its logits (num_examples, num_labels)."""

    predictor: Predictor
    bytes: int
    logits: np.ndarray


def run(config: ExportConfig) -> Path:
    """Writes the copies, answers the examples with each, and refuses what strays from the torch model.

    Raises:
        InputError: onnx or onnxruntime is missing; no such model; the safetensors copy or the fp32 ONNX file gives
            other logits; the int8 file loses more than `max_drop`.
    """
    with write_artifact(config, stage=STAGE) as writer:
        source = _open(config, writer)
        copies = _write(config, source, writer.path)
        rows = _compare(config, source, copies)
        writer.counts["checked_examples"] = len(source.features)
        writer.figures |= {
            "checked_on": f"{config.split} examples",
            "formats": rows,
            "gates": _gates(config, source.spec, rows),
        }
        _refuse(config, source.spec, rows)
        writer.headline = _headline(rows, source.spec)
    return config.output


def _open(config: ExportConfig, writer: ArtifactWriter) -> _Source:
    from finetune.students import text_only
    from finetune.task_model import is_plain_bert, load_task_model, read_task

    open_artifact(config.model, stage=MADE_BY)
    examples = load_examples(config.examples, config.split)
    examples = examples[: config.max_examples] if config.max_examples else examples
    if is_plain_bert(config.model) or read_task(config.model)[2] == "none":
        if config.vectors is not None or config.linked is not None:
            raise InputError(f"{config.model} takes text alone; leave out `vectors` and `linked`")
        task = load_task_model(config.model, {})
        prepare = text_only if is_plain_bert(config.model) else _without_entities
    else:
        task, prepare = _two_stream(config)
    features, counts = encode_examples(
        examples,
        spec=task.spec,
        tokenizer=task.tokenizer,
        label_to_id=task.label_to_id,
        max_length=task.max_length,
        linked=read_linked_documents(config.linked, examples),
        entities=task.entities,
    )
    writer.dropped.update(counts)
    return _Source(
        model=task.model.eval(), tokenizer=task.tokenizer, spec=task.spec, features=features, prepare=prepare
    )


def _without_entities(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if not name.startswith("entity_")}


def _two_stream(config: ExportConfig) -> tuple[Any, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """The task model, and the gathering of entity vectors that whoever runs its ONNX file has to do."""
    from finetune.task_model import load_task_model, trained_entity_table

    if config.vectors is None:
        raise InputError(
            f"{config.model} takes entities; give `vectors`, the artifact of `kg embed` it was trained with"
        )
    table = trained_entity_table(config.model, config.vectors)

    def gather(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        none = torch.zeros(len(batch["input_ids"]), 0, dtype=torch.long)
        entities = {"entity_positions": none, "entity_attention_mask": none}
        others = {name: tensor for name, tensor in batch.items() if name != "entity_ids"}
        return {**entities, **others, "entity_embeds": table.rows(batch.get("entity_ids", none))}

    return load_task_model(config.model, read_entity_rows(config.vectors)), gather


def _write(config: ExportConfig, source: _Source, folder: Path) -> dict[str, _Copy]:
    """Writes every form and answers the examples with each, the torch model first."""
    from ernie.compression import with_word_factors
    from ernie.export import OrtPredictor, TorchPredictor, export_onnx, input_names_of, quantize_int8
    from finetune.task_model import quiet_loading, read_task, save_task_model

    spec, max_length, entities = read_task(config.model)
    save_task_model(
        folder,
        model=source.model,  # pyrefly: ignore[bad-argument-type]
        tokenizer=source.tokenizer,
        spec=spec,
        max_length=max_length,
        entities=entities,
    )
    sample = source.batch(_varied(source.features))
    with quiet_loading():
        reloaded = type(source.model).from_pretrained(folder)  # pyrefly: ignore[missing-attribute]
    small = with_word_factors(source.model)  # pyrefly: ignore[bad-argument-type]
    export_onnx(small, folder / ONNX, batch=sample, opset=config.opset)
    names = input_names_of(sample)
    predictors: dict[str, tuple[Predictor, Path]] = {
        "torch": (TorchPredictor(source.model, input_names=names), config.model / "model.safetensors"),
        "safetensors": (TorchPredictor(reloaded, input_names=names), folder / "model.safetensors"),
        "onnx": (OrtPredictor(folder / ONNX), folder / ONNX),
    }
    if config.int8:
        quantize_int8(folder / ONNX, folder / INT8)
        predictors["onnx int8"] = (OrtPredictor(folder / INT8), folder / INT8)
    return {
        name: _Copy(
            predictor=predictor,
            bytes=path.stat().st_size,
            logits=_answers(predictor, source, batch_size=config.batch_size, what=name),
        )
        for name, (predictor, path) in predictors.items()
    }


def _varied(features: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A few features to trace with: two at least, the one with the most entities among them."""
    most = max(features, key=lambda feature: len(feature["entity_ids"]))
    return [most, features[0], features[-1]]


class _Asked(nn.Module):
    """A predictor behind the interface that scoring asks: batches of features in, `.logits` out."""

    def __init__(self, predictor: Predictor, prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> None:
        super().__init__()
        self.predictor, self.prepare = predictor, prepare
        self.place = nn.Parameter(torch.empty(0))

    def forward(self, **batch: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.predictor(self.prepare(batch)))


def _answers(predictor: Predictor, source: _Source, *, batch_size: int, what: str) -> np.ndarray:
    """Logits as `finetune.evaluation` gives them, in the order of the examples."""
    from finetune.evaluation import predict_logits

    with progress(f"checking {what}", 1) as shown:
        found = predict_logits(
            _Asked(predictor, source.prepare),
            source.features,
            batch_size=batch_size,
            pad_token_id=source.tokenizer.pad_token_id,
        )
        shown.advance()
    return found


def _compare(config: ExportConfig, source: _Source, copies: Mapping[str, _Copy]) -> list[dict[str, Any]]:
    """One row a form: bytes, largest logit difference to torch, share of the same answers, metrics, latency."""
    from ernie.students import latencies
    from finetune.evaluation import gold_labels, predictions, scores

    spec, torch_copy = source.spec, copies["torch"]
    gold = gold_labels(source.features, spec=spec)
    batches = [source.batch([feature]) for feature in source.features[: config.num_timed]]
    times = latencies({name: (copy.predictor, batches) for name, copy in copies.items()})
    expected = predictions(torch_copy.logits, spec=spec)
    rows = []
    for name, copy in copies.items():
        same = _same(predictions(copy.logits, spec=spec), expected, spec)
        rows.append(
            {
                "format": name,
                "bytes": copy.bytes,
                "times_smaller": round(torch_copy.bytes / copy.bytes, 3),
                "max_logit_difference": float(np.abs(_flat(copy.logits) - _flat(torch_copy.logits)).max()),
                "same_answer": round(float(same.mean()), 4),
                **{metric: round(value, 4) for metric, value in scores(copy.logits, gold, spec=spec).items()},
                "milliseconds_an_example": times[name],
                "times_faster": round(times["torch"] / times[name], 3),
            }
        )
    return rows


def _flat(answers: np.ndarray) -> np.ndarray:
    """Answers of words, an array a sentence, one behind the other; others as they are."""
    return np.concatenate(list(answers)) if answers.dtype == object else answers


def _same(answers: np.ndarray, expected: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """Which answers are the same; numbers of a regression where they differ by a hundredth of their spread at most."""
    if spec.problem_type == "regression":
        return np.abs(answers - expected) <= 0.01 * max(float(np.ptp(expected)), 1e-12)
    same = _flat(answers) == _flat(expected)
    return same.reshape(len(same), -1).all(axis=1)


def _gates(config: ExportConfig, spec: TaskSpec, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each form was held to, and what it did."""
    by_name = {row["format"]: row for row in rows}
    found = [
        {"gate": f"{name}: max logit difference", "limit": limit, "found": by_name[name]["max_logit_difference"]}
        for name, limit in (("safetensors", 0.0), ("onnx", config.tolerance))
    ]
    if "onnx int8" in by_name:
        drop = by_name["torch"][spec.primary_metric] - by_name["onnx int8"][spec.primary_metric]
        name = f"onnx int8: drop of {spec.primary_metric}"
        found.append({"gate": name, "limit": config.max_drop, "found": round(drop, 4)})
    return [{**gate, "passed": bool(gate["found"] <= gate["limit"])} for gate in found]


def _refuse(config: ExportConfig, spec: TaskSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    for gate in _gates(config, spec, rows):
        if not gate["passed"]:
            advice = "set int8=false, or raise max_drop" if "int8" in gate["gate"] else "do not use this file"
            raise InputError(
                f"export refused: {gate['gate']} is {gate['found']:.4g} on the {config.split} examples, "
                f"allowed is {gate['limit']:.4g}; {advice}"
            )


def _headline(rows: Sequence[Mapping[str, Any]], spec: TaskSpec) -> str:
    best, torch_row = rows[-1], rows[0]
    name = spec.primary_metric
    return (
        f"{best['format']} {best['bytes'] / 2**20:.1f} MiB ({best['times_smaller']:.1f} × smaller), "
        f"{best['times_faster']:.1f} × faster than torch, {name} {best[name]:.3f} (torch {torch_row[name]:.3f})"
    )
