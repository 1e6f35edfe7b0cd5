"""The stage `finetune distill`: a task's teacher in, a small student out.

TinyBERT's task stage (Jiao et al. 2020, section 3.2) in its two phases: first the student's inside learns the
teacher's inside, then its answers the teacher's answers. The teacher sees text and linked entities. A plain BERT
student sees the same word pieces alone: what entities tell the teacher, it has to learn by heart (generalised
distillation, Lopez-Paz et al. 2016). A two-stream student sees the entities too.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ernie.losses.matching import LossConfig, Shape, explain, match_table
from ernie.students import StudentConfig, latencies, size_of
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
from finetune.distill_phases import TeacherAndStudent, fitted_inside, learn_answers, learn_inside
from finetune.students import make_student, text_only
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import source_path

if TYPE_CHECKING:
    from ernie.distilling import InsideDistillation
    from ernie.training import TrainingResult
    from finetune.task_model import TaskModel

STAGE = "finetune distill"
CHECKPOINTS = "checkpoints"
CACHE = "teacher-answers"


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Which teacher, which student, and what of the teacher is learnt for how long."""

    WITHOUT_EFFECT: ClassVar[tuple[str, ...]] = ("cache",)
    """Keys that change nothing of what is written."""
    output: Path
    """Folder to write: the student, as `save_pretrained` writes it, and task.json."""
    teacher: Path
    """Artifact of `finetune run`."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`, the one the teacher was trained on."""
    augmented: Path | None = None
    """Artifact of `finetune augment` of those examples; its training examples take the place of theirs."""
    vectors: Path | None = None
    """Artifact of `kg embed`: the vectors of the teacher's entities; none for a teacher that was given none."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """How large the student is, what it begins as, and whether it takes entities."""
    losses: LossConfig = field(default_factory=LossConfig)
    """What the first phase compares."""
    phases: Literal["both", "intermediate", "prediction"] = "both"
    """Which of the two phases to run."""
    intermediate: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=200, batch_size=32, learning_rate=5e-4, save_every=100)
    )
    """The loop of the first phase."""
    prediction: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=600, batch_size=32, learning_rate=5e-4, eval_every=100, save_every=100
        )
    )
    """The loop of the second phase; every `eval_every` steps dev is scored, and the best weights are kept."""
    projection_learning_rate: float = 1e-3
    """Peak rate of the first phase's projections, which begin as least-squares maps."""
    temperature: float = 1.0
    """Of both softmaxes in the second phase; the paper finds 1 best."""
    soft_label_weight: float = 1.0
    """Factor of the loss against the teacher's answers; 0 trains on the gold labels alone, without distillation."""
    hard_label_weight: float = 0.0
    """Factor of the ordinary loss on the gold labels; the paper has none."""
    teacher_entities: Literal["given", "none", "shuffled"] = "given"
    """What entities the teacher sees; all but `given` are controls: `none` its text side alone, `shuffled` the vectors
    of others."""
    cache: Path | None = None
    """Folder that keeps the teacher's answers for further runs; none: they are kept for this run alone."""
    min_teacher_gain: float = 0.05
    """The teacher's primary dev metric must exceed that of always answering the commonest label by so much."""
    eval_batch_size: int = 64
    """Examples a batch where nothing is trained."""
    num_timed: int = 40
    """Test examples, one at a time, that the latencies are medians of."""
    seed: int = 0
    """Of dropout, order, fresh weights and shuffled entities."""

    def inputs(self) -> dict[str, Path]:
        optional = {
            "augmented": self.augmented,
            "vectors": self.vectors,
            "linked": self.linked,
            "student": source_path(self.student.folder) if self.student.folder else None,
        }
        return {
            "teacher": self.teacher,
            "examples": self.examples,
            **{name: path for name, path in optional.items() if path is not None},
        }


def run(config: DistillConfig) -> Path:
    """Checks the teacher on dev, trains the student in two phases, scores both on test once, writes the student.

    Goes on from its last checkpoint when interrupted.

    Raises:
        InputError: a teacher near chance or of other labels, a student folder with another tokenizer, a layer map or
            loss that does not fit, a cache of another teacher.
    """
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        pair = _prepare(config, writer)
        _check_teacher(config, pair, writer)
        _record_sizes(config, pair, writer)
        _learn(config, pair, writer)
        _record_test(config, pair, writer)
        _save(pair, writer.path)
    return config.output


def explained(config: DistillConfig) -> str:
    """The match table: what is compared with what, through which projections, and each term's share of the loss on the
    first batch. Nothing is trained or written."""
    pair = _prepare(config, ArtifactWriter(path=Path(config.output)))
    return _explained(config, pair, fitted_inside(config, pair))


def _explained(config: DistillConfig, pair: TeacherAndStudent, inside: InsideDistillation) -> str:
    first = collate(pair.features["train"][: config.intermediate.batch_size], pad_token_id=pair.pad_token_id)
    values = inside.term_values(first, pair.teacher.model)
    return explain(pair.matches, settings=pair.settings, values=values)


def _prepare(config: DistillConfig, writer: ArtifactWriter) -> TeacherAndStudent:
    from finetune.task_model import load_task_model, trained_entity_table

    _check(config)
    manifest = open_artifact(config.teacher, stage="finetune run")
    rows = read_entity_rows(config.vectors) if config.vectors is not None else {}
    teacher = load_task_model(config.teacher, rows)
    if config.vectors is not None and teacher.entities == "given":
        table = trained_entity_table(config.teacher, config.vectors)
        if config.teacher_entities == "shuffled":
            table = table.controlled("shuffled", config.seed)
        teacher.model.attach_entity_table(table)
    elif teacher.entities == "given":
        raise InputError(f"{config.teacher} was given entities: `vectors` must name the artifact they came from")
    teacher.model.eval().requires_grad_(False)
    features = _features(config, teacher, writer, record=True)
    student = make_student(
        config.student,
        teacher=teacher,
        train_pieces=[feature["input_ids"] for feature in features["train"]],
        seed=config.seed,
    )
    if student.two_stream and config.vectors is not None:
        student.task.model.attach_entity_table(trained_entity_table(config.teacher, config.vectors))
    trained = manifest.figures.get("trained_entities") or manifest.data["config"]
    writer.figures["trained_entities"] = {name: trained[name] for name in ("entity_control", "seed")}
    shapes = {"student": Shape.of(student.model.config), "teacher": Shape.of(teacher.model.config)}
    settings = config.losses.resolved(
        "two-stream" if student.two_stream else "bert",
        teacher_knows=shapes["teacher"].two_stream and teacher.entities == "given",
    )
    return TeacherAndStudent(
        teacher=teacher,
        student=student,
        features=features,
        student_features=features if student.pieces is None else _features(config, student.task, writer, record=False),
        settings=settings,
        matches=match_table(settings, layer_map=student.layer_map, **shapes),
        teacher_sees_entities=config.teacher_entities != "none" and teacher.entities == "given",
        teacher_digest=manifest.digest,
    )


def _features(
    config: DistillConfig, task: TaskModel, writer: ArtifactWriter, *, record: bool
) -> dict[Split, list[dict[str, Any]]]:
    features = {}
    for split in SPLITS:
        augmented = split == "train" and config.augmented is not None
        source = config.augmented if augmented and config.augmented is not None else config.examples
        examples = load_examples(source, split, may_be_empty=split == "test")
        if split == "train" and (found := set(label_rows(examples))) != set(task.label_to_id):
            odd = sorted(found ^ set(task.label_to_id))
            raise InputError(
                f"the teacher answers with {len(task.label_to_id)} labels, {source} has {len(found)}, "
                f"different ones are {', '.join(map(repr, odd[:3]))}; distil on the teacher's own examples"
            )
        features[split], counts = encode_examples(
            examples,
            spec=task.spec,
            tokenizer=task.tokenizer,
            label_to_id=task.label_to_id,
            max_length=task.max_length,
            linked=read_linked_documents(config.linked, examples),
            entities=task.entities,
        )
        if record:
            writer.counts[split] = len(examples)
            writer.dropped.update({f"{split}_{reason}": count for reason, count in counts.items()})
    return features


def _check_teacher(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Scores the teacher on dev and refuses one that does no better than the commonest label."""
    name = pair.teacher.spec.primary_metric
    with progress("scoring the teacher", 1) as shown:
        found = pair.score_teacher("dev", config.eval_batch_size)
        shown.advance()
    chance = _chance(pair, found.labels)
    writer.figures["dev"] = {"teacher": found.metrics, "always the commonest label": chance}
    note = f"the teacher's dev {name} is {found.metrics[name]:.3f}, the commonest label's {chance[name]:.3f}"
    print(f"  {note}", file=sys.stderr, flush=True)
    if found.metrics[name] < chance[name] + config.min_teacher_gain:
        raise InputError(
            f"{note}: near chance, there is nothing to learn from it; train the teacher longer, or lower "
            f"min_teacher_gain (now {config.min_teacher_gain})"
        )


def _chance(pair: TeacherAndStudent, gold: np.ndarray) -> dict[str, float]:
    """Scores of always answering the training examples' commonest label (of a regression, one number: 0)."""
    from finetune.evaluation import gold_labels, scores

    spec, name = pair.teacher.spec, pair.teacher.spec.primary_metric
    if spec.problem_type == "regression":
        return {name: 0.0}
    train = gold_labels(pair.features["train"], spec=spec)
    width = len(pair.teacher.label_to_id)
    if spec.of_tokens:
        train = np.concatenate(list(train))
    commonest = int((train.sum(axis=0)[:width] if spec.multi_label else np.bincount(train[train >= 0])).argmax())
    always = np.full(width, -1.0, dtype=np.float32)
    always[commonest] = 1.0
    if not spec.of_tokens:
        return scores(np.tile(always, (len(gold), 1)), gold, spec=spec)
    answers = np.empty(len(gold), dtype=object)
    answers[:] = [np.tile(always, (len(words), 1)) for words in gold]
    return scores(answers, gold, spec=spec)


def _record_sizes(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Parameters, bytes, FLOPs and latency of both, printed before any training; the entity table stands apart."""
    pieces = pair.teacher.max_length
    models = {"teacher": pair.teacher.model, "student": pair.student.model}
    sizes = {name: size_of(model, num_pieces=pieces) for name, model in models.items()}
    times = _latencies(config, pair, "dev")
    for name, size in sizes.items():
        print(
            f"  {name}: {size.parameters:,} parameters, {size.bytes / 2**20:.1f} MiB, "
            f"{size.flops / 1e9:.2f} GFLOPs for {pieces} pieces, {times[name]:.1f} ms an example",
            file=sys.stderr,
            flush=True,
        )
    table = getattr(pair.teacher.model, "entity_table", None)
    writer.figures["size"] = {
        name: {"parameters": size.parameters, "bytes": size.bytes, f"flops_of_{pieces}_pieces": size.flops}
        for name, size in sizes.items()
    }
    writer.figures["teacher_entity_table_bytes"] = table.num_rows * table.entity_size * 4 if table is not None else 0
    writer.figures["times_fewer_parameters"] = round(sizes["teacher"].parameters / sizes["student"].parameters, 3)


def _latencies(config: DistillConfig, pair: TeacherAndStudent, split: Split) -> dict[str, float]:
    """Median milliseconds of one example, linking not among them."""
    pad = pair.pad_token_id
    timed = pair.features[split][: config.num_timed]
    own = pair.student_features[split][: config.num_timed]
    shown = [collate([feature], pad_token_id=pad) for feature in own]
    batches = {
        "teacher": [pair.teacher_inputs(collate([feature], pad_token_id=pad)) for feature in timed],
        "student": shown if pair.student.two_stream else [text_only(batch) for batch in shown],
    }
    models = {"teacher": pair.teacher.model, "student": pair.student.model}
    return latencies({name: (model, batches[name]) for name, model in models.items()})


def _learn(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    name = pair.teacher.spec.primary_metric
    results: dict[str, TrainingResult] = {}
    if config.phases != "prediction":
        inside = fitted_inside(config, pair)
        writer.figures["matches"] = _explained(config, pair, inside).splitlines()
        results["intermediate"] = learn_inside(config, pair, inside, writer.path / CHECKPOINTS / "intermediate")
    if config.phases != "intermediate":
        folder = config.cache or writer.path / CACHE
        results["prediction"] = learn_answers(config, pair, writer.path / CHECKPOINTS / "prediction", folder)
    second = results.get("prediction")
    if second is None:
        dev = pair.score_student("dev", config.eval_batch_size).metrics
    else:
        dev = next(entry for entry in second.evaluations if entry["step"] == second.best_step)
        writer.figures |= {
            "dev_curve": second.evaluations,
            "num_dev_evaluations": len(second.evaluations),
            "best_step": second.best_step,
        }
    writer.figures["dev"]["student"] = {key: value for key, value in dev.items() if key != "step"}
    writer.figures |= {f"{phase}_curve": result.history for phase, result in results.items()}
    writer.figures |= {
        "dev_retention": _share(dev[name], writer.figures["dev"]["teacher"][name]),
        "steps": {phase: result.steps for phase, result in results.items()},
        "stopped_by": {phase: result.stopped_by for phase, result in results.items()},
    }


def _record_test(config: DistillConfig, pair: TeacherAndStudent, writer: ArtifactWriter) -> None:
    """Both on test once (on dev where there is none): scores, what is kept of the teacher's, how often they agree, and
    how fast each answers."""
    name, split = pair.teacher.spec.primary_metric, pair.scored_split
    with progress(f"scoring {split}", 2) as shown:
        teacher = pair.score_teacher(split, config.eval_batch_size)
        shown.advance()
        student = pair.score_student(split, config.eval_batch_size)
        shown.advance()
    milliseconds = _latencies(config, pair, split)
    retention = _share(student.metrics[name], teacher.metrics[name])
    writer.figures |= {
        "scored_on": split,
        "test": {"teacher": teacher.metrics, "student": student.metrics},
        "retention": retention,
        **_agreement(pair, teacher.logits, student.logits),
        "milliseconds_an_example_without_linking": milliseconds,
        "times_faster": round(milliseconds["teacher"] / milliseconds["student"], 3),
    }
    writer.headline = (
        f"keeps {retention:.1%} of the teacher's {split} {name} ({student.metrics[name]:.3f} of "
        f"{teacher.metrics[name]:.3f}), {writer.figures['times_fewer_parameters']:.1f} × smaller, "
        f"{writer.figures['times_faster']:.1f} × faster"
    )


def _agreement(pair: TeacherAndStudent, teacher: np.ndarray, student: np.ndarray) -> dict[str, float]:
    """How often both give the same answer; of a regression, the mean difference of their values."""
    from finetune.evaluation import predictions

    spec = pair.teacher.spec
    answers = [predictions(logits, spec=spec) for logits in (teacher, student)]
    if spec.problem_type == "regression":
        return {"mean_difference_from_teacher": round(float(np.abs(answers[0] - answers[1]).mean()), 4)}
    if spec.of_tokens:
        answers = [np.concatenate(list(rows)) for rows in answers]
    same = answers[0] == answers[1]
    return {"agreement_with_teacher": round(float(same.reshape(len(same), -1).all(axis=1).mean()), 4)}


def _save(pair: TeacherAndStudent, folder: Path) -> None:
    from ernie.compression import materialise_words
    from finetune.task_model import save_task_model

    task = pair.student.task
    materialise_words(pair.student.model)
    save_task_model(
        folder,
        model=task.model,
        tokenizer=task.tokenizer,
        spec=task.spec,
        max_length=task.max_length,
        entities=task.entities,
    )
    for part in (CHECKPOINTS, CACHE):
        shutil.rmtree(folder / part, ignore_errors=True)


def _share(part: float, whole: float) -> float:
    """part / whole, four digits; 0 where the teacher itself scores 0."""
    return round(part / whole, 4) if whole else 0.0


def _check(config: DistillConfig) -> None:
    if min(config.soft_label_weight, config.hard_label_weight) < 0 or not (
        config.soft_label_weight or config.hard_label_weight
    ):
        raise InputError(
            f"soft_label_weight and hard_label_weight are at least 0 and one of them above, but are "
            f"{config.soft_label_weight} and {config.hard_label_weight}"
        )
    if config.projection_learning_rate <= 0:
        raise InputError(f"projection_learning_rate must be above 0, but is {config.projection_learning_rate}")
