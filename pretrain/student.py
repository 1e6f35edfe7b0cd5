"""The stage `student build`: a small model cut from its teacher and measured before anything is trained."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ernie.losses.matching import Shape
from ernie.students import StudentConfig, build_student, latencies, layer_map_of, size_of
from ernie.tokenization import ErnieTokenizer
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.sources import resolve_source, source_path
from pretrain.distill import load_teacher

STAGE = "student build"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Which student to make of which teacher."""

    output: Path
    """Folder to write: the student as it begins, and the teacher's tokenizer."""
    teacher: str
    """Artifact of `pretrain run`, or the folder of a plain BERT (a path or `package:NAME/path`)."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Its kind, size and beginning; `folder`, `vocabulary` and `embedding_size` belong to the distilling stages."""
    num_pieces: int = 128
    """Word pieces of the text that FLOPs and latency are measured with."""
    num_entities: int = 4
    """Entities of that text, for models that take them."""
    num_timed: int = 10
    """Calls that a latency is the median of, both models in turns."""
    seed: int = 0
    """Of what begins fresh."""

    def inputs(self) -> dict[str, Path]:
        return {"teacher": source_path(self.teacher)}


def run(config: BuildConfig) -> Path:
    """Writes the student, and prints parameters, bytes, FLOPs and latency of both encoders.

    Raises:
        InputError: no teacher in the folder, or a student that cannot be cut from it.
    """
    shape = config.student
    if shape.folder is not None or shape.vocabulary != "full" or shape.embedding_size:
        raise InputError(
            f"{STAGE} makes a student of its teacher: leave out student.folder, student.vocabulary and "
            f"student.embedding_size, and give them to `pretrain distill` or `finetune distill`"
        )
    with write_artifact(config, stage=STAGE) as writer:
        folder = resolve_source(config.teacher)
        teacher = load_teacher(folder)
        student = build_student(teacher, shape, seed=config.seed)
        rows = _measured(config, {"teacher": teacher, "student": student})
        for name, row in rows.items():
            print("  " + _line(name, row), file=sys.stderr, flush=True)
        writer.figures |= {
            "encoders": rows,
            "layer_map": list(layer_map_of(shape, teacher.config)),
            "kinds": list(Shape.of(student.config).kinds),
        }
        student.save_pretrained(writer.path)
        ErnieTokenizer.from_pretrained(str(folder), {}).save_pretrained(writer.path)
        fewer, faster = (rows["teacher"][key] / rows["student"][key] for key in ("parameters", "milliseconds"))
        writer.headline = f"{rows['student']['parameters']:,} parameters, {fewer:.1f} × smaller, {faster:.1f} × faster"
    return config.output


def _measured(config: BuildConfig, models: dict[str, PreTrainedModel]) -> dict[str, dict[str, Any]]:
    """Of the encoders, without pre-training heads, as they are used later."""
    encoders = {name: model.get_submodule("bert") for name, model in models.items()}
    batches = {name: [_text(config, cast("Any", encoder))] * config.num_timed for name, encoder in encoders.items()}
    times = latencies({name: (encoder, batches[name]) for name, encoder in encoders.items()})
    rows = {}
    for name, encoder in encoders.items():
        entities = config.num_entities if "entity_embeds" in batches[name][0] else 0
        size = size_of(encoder, num_pieces=config.num_pieces, num_entities=entities)
        rows[name] = {
            "parameters": size.parameters,
            "bytes": size.bytes,
            "flops": size.flops,
            "milliseconds": times[name],
        }
    return rows


def _text(config: BuildConfig, encoder: Any) -> dict[str, torch.Tensor]:
    inputs = {
        "input_ids": torch.ones(1, config.num_pieces, dtype=torch.long),
        "attention_mask": torch.ones(1, config.num_pieces, dtype=torch.long),
    }
    if Shape.of(encoder.config).two_stream and config.num_entities:
        inputs["entity_embeds"] = torch.ones(1, config.num_entities, encoder.entity_input.width)
        inputs["entity_positions"] = torch.arange(config.num_entities)[None] % config.num_pieces
    return inputs


def _line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['parameters']:,} parameters, {row['bytes'] / 2**20:.1f} MiB, {row['flops'] / 1e9:.2f} GFLOPs, "
        f"{row['milliseconds']:.1f} ms"
    )
