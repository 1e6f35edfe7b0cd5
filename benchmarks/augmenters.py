"""What different kinds of augmentation are worth to a distilled student: equal steps, equal seeds, one table.

    python benchmarks/augmenters.py --work FOLDER --glue GLUE --tasks rte mrpc --mle GENERATOR --rbm GENERATOR
                                    [--examples fewrel=EXAMPLES] [--arms none substitution …] [--seeds 0 1 2]

Arms: `none`; `substitution` (words exchanged for near vectors, as in TinyBERT); `mle` and `rbm`, paraphrases of two
generators of `finetune paraphrase`; `both`, one copy of substitution and one of rbm; `random`, other sentences of the
task under the same label, marked places woven in: what more steps over other text alone are worth. The teacher answers
anew for every text, so what an arm changes is the text. Finished models are kept in --work; --minutes stops it.
Prints a JSON line a student (its score, its teacher's, the seconds its augmentation took and the texts it made), and at
the end means over seeds. Teachers, splits and the student's shape are those of retention.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import retention

from ernie.training import derived_seed
from finetune import distill
from finetune.augment import stage as augmenting
from finetune.augment.passages import Augmenter, Passage, Rewriting, make_augmenter
from finetune.data import load_examples
from finetune.tasks.schema import Example, write_examples
from kg.artifact import read_manifest, write_artifact

ARMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "substitution": ("substitution",),
    "mle": ("mle",),
    "rbm": ("rbm",),
    "both": ("substitution", "rbm"),
    "random": ("random",),
}
COPIES = 2
"""Copies of each example, shared by the ways of an arm."""


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """The config of an arm's folder of examples."""

    output: Path
    examples: Path
    ways: tuple[str, ...]
    generators: dict[str, Path]
    copies: int = COPIES
    seed: int = 0

    def inputs(self) -> dict[str, Path]:
        return {"examples": self.examples, **{way: self.generators[way] for way in self.ways if way in self.generators}}


class RandomSentences:
    """An Augmenter that says something else: the words of another passage, the kept places woven in in their order."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.texts = [example.text for example in examples]

    def __call__(self, passages: Sequence[Passage], *, copies: int, seed: int) -> list[list[Rewriting]]:
        return [
            [self._one(passage, random.Random(derived_seed(seed, passage.key, copy))) for copy in range(copies)]
            for passage in passages
        ]

    def _one(self, passage: Passage, draw: random.Random) -> Rewriting:
        words = draw.choice(self.texts).split()
        moved: dict[tuple[int, int], tuple[int, int]] = {}
        text, done = "", 0
        merged = merge(passage.kept)
        cuts = sorted(draw.randint(0, len(words)) for _ in merged)
        for (start, end), cut in zip(merged, cuts, strict=True):
            text = " ".join(filter(None, [text, *words[done:cut]]))
            done, begin = cut, len(text) + bool(text)
            text = f"{text} {passage.text[start:end]}".lstrip(" ") if begin else passage.text[start:end]
            for a, b in passage.kept:
                if start <= a and b <= end:
                    moved[a, b] = (a - start + begin, b - start + begin)
        text = " ".join(filter(None, [text, *words[done:]]))
        return Rewriting(text=text, kept=tuple(moved[place] for place in passage.kept))


def merge(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping places joined, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def augmented_of(task: str, arm: str, plan: retention.Plan, generators: dict[str, Path]) -> Path:
    """The examples of an arm: each original and behind it `COPIES` copies, divided among the arm's ways."""
    output = plan.work / task / f"examples-{arm}"
    if (output / "manifest.json").exists():
        return output
    config = ArmConfig(output=output, examples=retention.examples_of(task, plan), ways=ARMS[arm], generators=generators)
    with write_artifact(config, stage=augmenting.STAGE) as writer:
        examples = load_examples(config.examples, "train")
        copies = COPIES // len(config.ways)
        found: list[Example] = list(examples)
        started = time.perf_counter()
        for way in config.ways:
            augmenter = way_of(way, config, plan, examples)
            made = augmenting.augmented(examples, augmenter, copies=copies, seed=config.seed)
            known = {example.id for example in examples}
            found += [dataclasses.replace(e, id=f"{e.id} {way}") for e in made if e.id not in known]
            writer.dropped.update(getattr(augmenter, "dropped", {}))
        writer.figures["seconds"] = round(time.perf_counter() - started, 1)
        writer.counts.update(train=len(found), originals=len(examples))
        write_examples(writer.path / "train.jsonl", found)
        for name in read_manifest(config.examples).data["files"]:
            if name != "train.jsonl":
                (writer.path / name).write_bytes((config.examples / name).read_bytes())
    return output


def way_of(way: str, config: ArmConfig, plan: retention.Plan, examples: Sequence[Example]) -> Augmenter:
    if way == "random":
        return RandomSentences(examples)
    settings = {"output": config.output, "examples": config.examples, "copies": COPIES}
    if way == "substitution":
        named = augmenting.AugmentConfig(model=plan.pretrained, candidates="vectors", **settings)
        return make_augmenter("substitution", named)
    named = augmenting.AugmentConfig(model=str(config.generators[way]), method="paraphrase", **settings)
    return make_augmenter("paraphrase", named)


def student_of(task: str, arm: str, plan: retention.Plan, generators: dict[str, Path], *, seed: int) -> Path:
    output = plan.work / task / f"student-{arm}-{seed}"
    if (output / "manifest.json").exists():
        return output
    knows = plan.knows(task)
    return distill.run(
        distill.DistillConfig(
            output=output,
            teacher=retention.teacher_of(task, plan, seed=seed, text_only=not knows),
            examples=retention.examples_of(task, plan),
            augmented=augmented_of(task, arm, plan, generators) if ARMS[arm] else None,
            vectors=plan.vectors if knows else None,
            linked=plan.linked if knows else None,
            intermediate=retention.training(plan.inside_steps, rate=retention.STUDENT_RATE),
            prediction=retention.training(plan.answer_steps, rate=retention.STUDENT_RATE),
            min_teacher_gain=-1.0,
            num_timed=10,
            seed=seed,
            student=retention.STUDENT,
        )
    )


def rows(given: argparse.Namespace, plan: retention.Plan, generators: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """A row a finished student, until the time is over."""
    for seed in given.seeds:
        for task in given.tasks:
            for arm in given.arms:
                done = plan.work / task / f"student-{arm}-{seed}" / "manifest.json"
                if not done.exists() and time.monotonic() > plan.deadline:
                    continue
                folder = student_of(task, arm, plan, generators, seed=seed)
                figures, name = read_manifest(folder).figures, retention.primary_metric(folder)
                made = read_manifest(augmented_of(task, arm, plan, generators)) if ARMS[arm] else None
                yield {
                    "task": task,
                    "arm": arm,
                    "seed": seed,
                    "metric": name,
                    "teacher": round(figures["test"]["teacher"][name], 4),
                    "student": round(figures["test"]["student"][name], 4),
                    "texts": made.counts["train"] - made.counts["originals"] if made else 0,
                    "seconds": made.figures["seconds"] if made else 0.0,
                }


def main(words: Sequence[str] | None = None) -> None:
    parser = retention.parser_of(__doc__)
    parser.add_argument("--mle", type=Path, required=True)
    parser.add_argument("--rbm", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args(words)
    plan = retention.plan_of(given)
    found = []
    for row in rows(given, plan, {"mle": given.mle, "rbm": given.rbm}):
        found.append(row)
        print(json.dumps(row), flush=True)
    for task, arm in dict.fromkeys((row["task"], row["arm"]) for row in found):
        own = [row for row in found if (row["task"], row["arm"]) == (task, arm)]
        scores, kept = [row["student"] for row in own], [row["student"] / row["teacher"] for row in own]
        deviation = round(stdev(scores), 4) if len(own) > 1 else None
        line = {"task": task, "arm": arm, "seeds": len(own), "student": round(mean(scores), 4), "sd": deviation}
        print(json.dumps(line | {"retention": round(mean(kept), 4)}), flush=True)


if __name__ == "__main__":
    main()
