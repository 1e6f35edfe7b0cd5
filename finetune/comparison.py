"""Models side by side on the same examples: in buckets, and with a paired test of their difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from finetune.evaluation import ragged
from finetune.metrics import UNSEEN
from finetune.tasks import TaskSpec
from finetune.tasks.schema import Example
from kg.errors import InputError

Score = Callable[[np.ndarray, np.ndarray], float]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the models of several seeds said to the same examples.

    predicted: one array a seed, as `finetune.scorers` takes them. gold: the same for all.
    """

    predicted: list[np.ndarray]
    gold: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Answers:
        return Answers(predicted=[found[rows] for found in self.predicted], gold=self.gold[rows])

    def score(self, score: Score) -> float:
        """Mean over the seeds."""
        return float(np.mean([score(found, self.gold) for found in self.predicted]))


def read_answers(paths: Sequence[Path], spec: TaskSpec) -> Answers:
    """The predictions files of several seeds of one model (`evaluation.prediction_records`, gold among them).

    Raises:
        InputError: a file without gold answers, or seeds that answered other examples.
    """
    files = [[orjson.loads(line) for line in path.read_bytes().splitlines()] for path in paths]
    for path, records in zip(paths, files, strict=True):
        if [record["id"] for record in records] != [record["id"] for record in files[0]]:
            raise InputError(f"{path} answers other examples than {paths[0]}")
        if any("gold" not in record for record in records):
            raise InputError(f"{path} has no gold answers; compare on examples that have")
    gold = _coded([record["gold"] for record in files[0]], spec, files[0])
    return Answers(
        predicted=[_coded([record["predicted"] for record in records], spec, files[0]) for records in files], gold=gold
    )


def paired_difference(one: Answers, other: Answers, score: Score, *, seed: int) -> dict[str, float]:
    """How much better `one` scores than `other`: the difference, its 95 % bootstrap interval, and a p-value.

    Examples are drawn with replacement, the same for both, and scores averaged over the seeds (paired bootstrap; Berg-
    Kirkpatrick et al. 2012). p: two-sided, twice the smaller share of resamples on either side of no difference.
    """
    found = one.score(score) - other.score(score)
    rng = np.random.default_rng(seed)
    count = len(one.gold)
    draws = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows = rng.integers(0, count, size=count)
        draws[number] = one[rows].score(score) - other[rows].score(score)
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min((draws <= 0).mean(), (draws >= 0).mean())
    return {"difference": found, "low": float(low), "high": float(high), "p": float(min(1.0, 2 * tail))}


def buckets(
    scored: Sequence[Example], train: Iterable[Example], *, degree: Mapping[str, int], roles: Sequence[str]
) -> dict[str, np.ndarray]:
    """Bucket -> rows of the scored examples in it; every example is in one bucket of each pair.

    linked / not_linked: an entity of the graph stands on a marked span (anywhere, where the task marks none).
    frequent / rare: of the linked, the least known of those entities has more triples than the median, or not.
    seen / unseen: of the linked, all of those entities stood on a span in training, or not.

    degree: entity -> triples of the graph it is in.
    """
    known = [_entities(example, roles) & degree.keys() for example in scored]
    trained: set[str] = set()
    for example in train:
        trained |= _entities(example, roles)
    least = np.array([min((degree[entity] for entity in own), default=-1) for own in known])
    median = float(np.median(least[least >= 0])) if (least >= 0).any() else 0.0
    seen = np.array([bool(own) and own <= trained for own in known])
    masks = {
        "linked": least >= 0,
        "not_linked": least < 0,
        "frequent": least > median,
        "rare": (least >= 0) & (least <= median),
        "seen": seen,
        "unseen": (least >= 0) & ~seen,
    }
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def _entities(example: Example, roles: Sequence[str]) -> set[str]:
    """Entities linked on the spans of these roles; all of the example's where there are no roles."""
    if not roles:
        return {link.entity for link in example.links}
    spans = [span for span in example.spans if span.role in roles]
    return {k.entity for k in example.links if any(k.start < s.end and s.start < k.end for s in spans)}


def _coded(answers: Sequence[Any], spec: TaskSpec, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Label names as rows; labels that training never saw come behind the known ones."""
    row = {name: number for number, name in enumerate(spec.label_names)}
    if spec.problem_type == "regression":
        return np.array(answers, dtype=np.float64)
    if spec.of_tokens:
        return ragged([np.array([row.get(tag, UNSEEN) for tag in tags], dtype=np.int64) for tags in answers])
    if not spec.multi_label:
        return np.array([row.get(name, UNSEEN) for name in answers], dtype=np.int64)
    unseen = sorted({name for record in records for name in record["gold"]} - row.keys())
    row |= {name: len(row) + number for number, name in enumerate(unseen)}
    hot = np.zeros((len(answers), len(row)), dtype=bool)
    for number, names in enumerate(answers):
        hot[number, [row[name] for name in names]] = True
    return hot
