"""The stage `finetune distill`: a task's teacher in, a plain BERT student out.

TinyBERT's task stage (Jiao et al. 2020, section 3.2) in its two phases: first the student's inside learns the
teacher's inside, then its answers the teacher's answers. The teacher sees text and linked entities, the student the
same word pieces alone: what entities tell the teacher, the student has to learn by heart (generalised distillation,
Lopez-Paz et al. 2016).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie.losses.distillation import LayerLossWeights
from ernie.training.configuration import TrainingConfig
from finetune.data import (
    SPLITS,
    Split,
    collate,
    encode_examples,
    label_rows,
    load_examples,
    read_entity_rows,
    read_linked_documents,
)
from finetune.distill_phases import TeacherAndStudent, learn_answers, learn_layers
from kg.artifact import ArtifactWriter, read_manifest, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    from ernie.training import TrainingResult
    from finetune.task_model import TaskModel

STAGE = "finetune distill"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Which teacher, which student, and what of the teacher is learnt for how long."""

    output: Path
    """Folder to write: the student, as `save_pretrained` writes it, and task.json."""
    teacher: Path
    """Artifact of `finetune run`."""
    examples: Path
    """Artifact of `finetune examples`, the one the teacher was trained on."""
    vectors: Path
    """Artifact of `kg embed`: the vectors of the teacher's entities."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links, for the teacher alone."""
    student: str | None = None
    """A plain BERT's folder (a path or `package:NAME/path`) to start from; none: the teacher's own layers."""
    num_layers: int = 3
    """Layers of a student made of the teacher's; a folder's student has its own number."""
    intermediate: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=200, batch_size=32, learning_rate=1e-4, save_every=100)
    )
    """The loop of the first phase: embeddings, hidden states, attention or relations."""
    prediction: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=200, batch_size=32, learning_rate=1e-4, eval_every=50, save_every=100
        )
    )
    """The loop of the second phase; every `eval_every` steps dev is scored, and the best weights are kept."""
    weights: LayerLossWeights = field(default_factory=LayerLossWeights)
    """Factors of the first phase's terms."""
    relation_heads: int = 0
    """Heads the relations are split into, a divisor of both widths; 0: the largest up to the teacher's heads."""
    temperature: float = 1.0
    """Of both softmaxes in the second phase; the paper finds 1 best."""
    class_mean: bool = False
    """Divide the prediction loss by the number of classes, as TinyBERT's released code does."""
    hard_label_weight: float = 0.0
    """Factor of the ordinary loss on the gold labels in the second phase; the paper has none."""
    min_teacher_gain: float = 0.05
    """The teacher's primary dev metric must exceed that of always answering the commonest label by so much."""
    eval_batch_size: int = 64
    """Examples a batch where nothing is trained."""
    num_timed: int = 40
    """Test examples, one at a time, that the latencies are medians of."""
    seed: int = 0
    """Of dropout, order, fresh heads and projections."""

    def inputs(self) -> dict[str, Path]:
        optional = {"linked": self.linked, "student": source_path(self.student) if self.student else None}
        return {
            "teacher": self.teacher,
            "examples": self.examples,
            "vectors": self.vectors,
            **{name: path for name, path in optional.items() if path is not None},
        }


def run(config: DistillConfig) -> Path:
    """Checks the teacher on dev, trains the student in two phases, scores both on test once, writes the student.

    Goes on from its last checkpoint when interrupted.

    Raises:
        InputError: a teacher near chance or of other labels, a student folder with another tokenizer, a layer map or
            loss that does not fit.
    """
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        pair = _prepare(config, writer)
        _check_teacher(config, pair, writer)
        _record_sizes(config, pair, writer)
        first = learn_layers(config, pair, writer.path / CHECKPOINTS / "intermediate")
        second = learn_answers(config, pair, writer.path / CHECKPOINTS / "prediction")
        _record_training(first, second, pair, writer)
        _record_test(config, pair, writer)
        _save(pair, writer.path)
    return config.output


def _prepare(config: DistillConfig, writer: ArtifactWriter) -> TeacherAndStudent:
    from finetune.students import student_from_folder, student_of
    from finetune.task_model import load_task_model, trained_entity_table

    made_by = read_manifest(config.teacher).data if (config.teacher / "manifest.json").exists() else {}
    if made_by.get("stage", "finetune run") != "finetune run":
        raise InputError(f"{config.teacher} was made by `{made_by['stage']}`; a teacher comes from `finetune run`")
    teacher = load_task_model(config.teacher, read_entity_rows(config.vectors))
    teacher.model.attach_entity_table(trained_entity_table(config.teacher, config.vectors))
    teacher.model.eval().requires_grad_(False)
    features = _features(config, teacher, writer)
    if config.student is None:
        student = student_of(teacher.model, num_layers=config.num_layers)
    else:
        student = student_from_folder(
            resolve_source(config.student),
            teacher=teacher.model,
            tokenizer=teacher.tokenizer,
            spec=teacher.spec,
            seed=config.seed,
        )
    return TeacherAndStudent(teacher=teacher, student=student, features=features)


def _features(config: DistillConfig, teacher: TaskModel, writer: ArtifactWriter) -> dict[Split, list[dict[str, Any]]]:
    features = {}
    for split in SPLITS:
        examples = load_examples(config.examples, split)
        if split == "train" and (found := set(label_rows(examples))) != set(teacher.label_to_id):
            odd = sorted(found ^ set(teacher.label_to_id))
            raise InputError(
                f"the teacher answers with {len(teacher.label_to_id)} labels, {config.examples} has {len(found)}, "
                f"different ones are {', '.join(map(repr, odd[:3]))}; distil on the teacher's own examples"
            )
        features[split], counts = encode_examples(
            examples,
            spec=teacher.spec,
            tokenizer=teacher.tokenizer,
            label_to_id=teacher.label_to_id,
            max_length=teacher.max_length,
            linked=read_linked_documents(config.linked, examples),
            entities=teacher.entities,
        )
        writer.counts[split] = len(examples)
        writer.dropped.update({f"{split}_{reason}": count for reason, count in counts.items()})
    return features


def _check_teacher(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Scores the teacher on dev and refuses one that does no better than the commonest label."""
    from finetune.evaluation import gold_labels, scores

    spec = pair.teacher.spec
    with progress("scoring the teacher", 1) as shown:
        found = pair.score(pair.teacher.model, "dev", config.eval_batch_size)
        shown.advance()
    gold = gold_labels(pair.features["train"], spec=spec)
    commonest = int((gold.sum(axis=0) if spec.multi_label else np.bincount(gold)).argmax())
    always = np.full_like(found.logits, -1.0)
    always[:, commonest] = 1.0
    chance = scores(always, found.labels, spec=spec)
    writer.figures["dev"] = {"teacher": found.metrics, "always the commonest label": chance}
    name = spec.primary_metric
    note = f"the teacher's dev {name} is {found.metrics[name]:.3f}, the commonest label's {chance[name]:.3f}"
    print(f"  {note}", file=sys.stderr, flush=True)
    if found.metrics[name] < chance[name] + config.min_teacher_gain:
        raise InputError(
            f"{note}: near chance, there is nothing to learn from it; train the teacher longer, or lower "
            f"min_teacher_gain (now {config.min_teacher_gain})"
        )


def _record_sizes(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Parameters, bytes and FLOPs of both, printed before any training; the teacher's entity table stands apart."""
    from finetune.students import size_of

    pieces = pair.teacher.max_length
    sizes = {
        "teacher": size_of(pair.teacher.model, num_pieces=pieces),
        "student": size_of(pair.student, num_pieces=pieces),
    }
    for name, size in sizes.items():
        print(
            f"  {name}: {size.parameters:,} parameters, {size.bytes / 2**20:.1f} MiB, "
            f"{size.flops / 1e9:.2f} GFLOPs for {pieces} pieces",
            file=sys.stderr,
            flush=True,
        )
    table = pair.teacher.model.entity_table
    assert table is not None, "_prepare attaches the table"
    writer.figures["size"] = {
        name: {"parameters": size.parameters, "bytes": size.bytes, f"flops_of_{pieces}_pieces": size.flops}
        for name, size in sizes.items()
    }
    writer.figures["teacher_entity_table_bytes"] = table.num_rows * table.entity_size * 4
    writer.figures["times_fewer_parameters"] = round(sizes["teacher"].parameters / sizes["student"].parameters, 3)


def _record_training(
    first: TrainingResult, second: TrainingResult, pair: TeacherAndStudent, writer: ArtifactWriter
) -> None:
    name = pair.teacher.spec.primary_metric
    kept = next(entry for entry in second.evaluations if entry["step"] == second.best_step)
    writer.figures["dev"]["student"] = {key: value for key, value in kept.items() if key != "step"}
    writer.figures |= {
        "intermediate_curve": first.history,
        "prediction_curve": second.history,
        "dev_curve": second.evaluations,
        "num_dev_evaluations": len(second.evaluations),
        "best_step": second.best_step,
        "dev_retention": _share(kept[name], writer.figures["dev"]["teacher"][name]),
        "steps": {"intermediate": first.steps, "prediction": second.steps},
        "stopped_by": {"intermediate": first.stopped_by, "prediction": second.stopped_by},
    }


def _record_test(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Both on test once: scores, what is kept of the teacher's, how often they agree, and how fast each answers."""
    from finetune.evaluation import predictions
    from finetune.students import latencies, text_only

    spec = pair.teacher.spec
    name = spec.primary_metric
    with progress("scoring test", 2) as shown:
        teacher = pair.score(pair.teacher.model, "test", config.eval_batch_size)
        shown.advance()
        student = pair.score(pair.student, "test", config.eval_batch_size)
        shown.advance()
    same = predictions(teacher.logits, spec=spec) == predictions(student.logits, spec=spec)
    agreement = float(same.all(axis=1).mean() if spec.multi_label else same.mean())
    timed = pair.features["test"][: config.num_timed]
    pad = pair.teacher.tokenizer.pad_token_id
    milliseconds = latencies(
        {
            "teacher": (pair.teacher.model, [collate([feature], pad_token_id=pad) for feature in timed]),
            "student": (pair.student, [text_only(collate([feature], pad_token_id=pad)) for feature in timed]),
        }
    )
    retention = _share(student.metrics[name], teacher.metrics[name])
    writer.figures |= {
        "test": {"teacher": teacher.metrics, "student": student.metrics},
        "retention": retention,
        "agreement_with_teacher": round(agreement, 4),
        "milliseconds_an_example_without_linking": milliseconds,
        "times_faster": round(milliseconds["teacher"] / milliseconds["student"], 3),
    }
    writer.headline = (
        f"keeps {retention:.1%} of the teacher's test {name} ({student.metrics[name]:.3f} of "
        f"{teacher.metrics[name]:.3f}), {writer.figures['times_fewer_parameters']:.1f} × smaller, "
        f"{writer.figures['times_faster']:.1f} × faster"
    )


def _save(pair: TeacherAndStudent, folder: Path) -> None:
    from finetune.task_model import save_task_model

    save_task_model(
        folder,
        model=pair.student,  # pyrefly: ignore[bad-argument-type]
        tokenizer=pair.teacher.tokenizer,
        spec=pair.teacher.spec,
        max_length=pair.teacher.max_length,
        entities="none",
    )
    shutil.rmtree(folder / CHECKPOINTS)


def _share(part: float, whole: float) -> float:
    """part / whole, four digits; 0 where the teacher itself scores 0."""
    return round(part / whole, 4) if whole else 0.0
