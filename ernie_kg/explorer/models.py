"""The task models of a run asked about one text: with and without its entities, teacher beside students, timed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ernie.export import OrtPredictor
from ernie_kg.explorer.run_folder import Compared, RunFolder, marks_its_texts
from finetune.data import collate, encode_examples, read_entity_rows
from finetune.evaluation import without_entities
from finetune.students import text_only
from finetune.task_model import TaskModel, is_plain_bert, load_task_model, read_task, trained_entity_table
from finetune.tasks.schema import EntityLink, Example, Span
from kg.artifact import Manifest
from kg.errors import InputError

TIMED = 5
MAX_LABELS = 8
EXPORTED = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


class Models:
    """All tasks of a run; a model is loaded when it is asked for the first time."""

    def __init__(self, run: RunFolder) -> None:
        self.tasks = {compared.teacher.folder.name: Task(compared, run) for compared in run.models}

    def about(self) -> list[dict[str, Any]]:
        """Name, kind, roles of spans that must be marked, students of each."""
        return [task.about() for task in self.tasks.values()]

    def ask(self, name: str, example: Example) -> list[dict[str, Any]]:
        """Answers of a task's models; see `Task.ask`.

        Raises:
            InputError: no such task, or the task needs spans that the example lacks.
        """
        if name not in self.tasks:
            raise InputError(f"no task model is named {name!r}; there are {', '.join(self.tasks) or 'none'}")
        return self.tasks[name].ask(example)


class Task:
    """A teacher of `finetune run`, its students, and the exported files of any of them."""

    def __init__(self, compared: Compared, run: RunFolder) -> None:
        self.compared, self.run = compared, run

    @cached_property
    def teacher(self) -> TaskModel:
        vectors = self._vectors
        task = load_task_model(self.compared.teacher.folder, read_entity_rows(vectors) if vectors else {})
        if vectors and task.entities == "given":
            task.model.attach_entity_table(trained_entity_table(self.compared.teacher.folder, vectors))
        task.model.eval()
        return task

    @cached_property
    def students(self) -> dict[str, TaskModel]:
        return {manifest.folder.name: load_task_model(manifest.folder, {}) for manifest in self.compared.students}

    @cached_property
    def exports(self) -> dict[str, OrtPredictor]:
        """ONNX files of models that take text alone, where onnxruntime is installed."""
        found = {}
        for manifest in self.compared.exports:
            for precision, file in EXPORTED.items():
                if (manifest.folder / file).is_file() and is_plain_bert(manifest.folder) and _onnxruntime_is_there():
                    found[f"{manifest.folder.name} {precision}"] = OrtPredictor(manifest.folder / file)
        return found

    @property
    def _vectors(self) -> Path | None:
        """The vectors that the model was trained with, where they lie in the run."""
        wanted, there = self.compared.teacher.data.get("inputs", {}).get("vectors"), self.run.vectors
        return there.folder if wanted and there and there.digest == wanted["digest"] else None

    def about(self) -> dict[str, Any]:
        teacher: Manifest = self.compared.teacher
        config = teacher.data.get("config", {})
        marked = marks_its_texts(teacher, self.run.folder)
        spec, _, _ = read_task(teacher.folder)
        return {
            "name": teacher.folder.name,
            "task": spec.name,
            "roles": list(spec.roles) if marked else [],
            "headline": teacher.data["headline"],
            "students": [manifest.folder.name for manifest in self.compared.students],
            "control": config.get("entity_control", "true"),
        }

    def ask(self, example: Example) -> list[dict[str, Any]]:
        """One row a model: who, with or without knowledge, labels with probabilities, median milliseconds of a call.

        Raises:
            InputError: a role that the task marks is missing from the example's spans.
        """
        for role in self.about()["roles"]:
            if example.span(role) is None:
                raise InputError(f"{self.compared.teacher.folder.name} asks what a {role} is: choose one in the text")
        feature = self._feature(self.teacher, example)
        rows = []
        if len(feature["entity_ids"]):
            rows.append(self._row("teacher", "with knowledge", self.teacher, feature))
        rows.append(self._row("teacher", "without knowledge", self.teacher, without_entities(feature)))
        for name, student in self.students.items():
            rows.append(self._row(name, "text alone", student, self._feature(student, example)))
        if self.students:
            first = next(iter(self.students.values()))
            for name, predictor in self.exports.items():
                batch = text_only(self._batch(first, self._feature(first, example)))
                logits, milliseconds = _timed(lambda: predictor(batch).numpy())  # noqa: B023
                rows.append(_answer(name, "text alone, onnxruntime", first, logits[0], milliseconds))
        return rows

    def _feature(self, task: TaskModel, example: Example) -> Mapping[str, Any]:
        features, _ = encode_examples(
            [example],
            spec=task.spec,
            tokenizer=task.tokenizer,
            label_to_id=task.label_to_id,
            max_length=task.max_length,
            linked=None,
            entities=task.entities if self._vectors else "none",
        )
        return features[0]

    def _batch(self, task: TaskModel, feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        batch = collate([feature], pad_token_id=task.tokenizer.pad_token_id)
        batch.pop("labels", None)
        return batch

    def _row(self, who: str, how: str, task: TaskModel, feature: Mapping[str, Any]) -> dict[str, Any]:
        batch = self._batch(task, feature)
        batch = text_only(batch) if task.entities == "none" else batch
        with torch.inference_mode():
            logits, milliseconds = _timed(lambda: task.model.eval()(**batch).logits.float().numpy())
        return _answer(who, how, task, logits[0], milliseconds) | {"entities": len(feature["entity_ids"])}


def example_of(text: str, spans: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]]) -> Example:
    """A text with its marked spans {start, end, role} and links {start, end, entity}, checked when it is encoded."""
    return Example(
        id="explorer",
        text=text,
        spans=tuple(Span(start=s["start"], end=s["end"], role=s["role"]) for s in spans),
        links=tuple(EntityLink(start=k["start"], end=k["end"], entity=k["entity"]) for k in links),
    )


def _answer(who: str, how: str, task: TaskModel, logits: np.ndarray, milliseconds: float) -> dict[str, Any]:
    names = sorted(task.label_to_id, key=task.label_to_id.__getitem__)
    values = logits.astype(np.float64)
    if task.spec.multi_label:
        probabilities = 1 / (1 + np.exp(-values))
    else:
        probabilities = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    best = np.argsort(-probabilities, kind="stable")[:MAX_LABELS].tolist()
    return {
        "model": who,
        "how": how,
        "milliseconds": milliseconds,
        "labels": [{"label": names[row], "probability": float(probabilities[row])} for row in best],
    }


def _timed(call) -> tuple[np.ndarray, float]:
    """What a call returns, and the median milliseconds of `TIMED` calls after a first one."""
    answer, times = call(), []
    for _ in range(TIMED):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return answer, round(float(np.median(times)), 2)


def _onnxruntime_is_there() -> bool:
    import importlib.util

    return importlib.util.find_spec("onnxruntime") is not None
