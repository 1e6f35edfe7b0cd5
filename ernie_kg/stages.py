"""Every stage the command line knows, by the words a user types. Modules are imported when a stage is asked for."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kg.artifact import StageConfig
from kg.errors import InputError


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    module: where `run(config) -> Path` and the config class stand. config: the class's name. summary: a line of help.
    """

    module: str
    config: str
    summary: str

    def config_class(self) -> type[Any]:
        return getattr(importlib.import_module(self.module), self.config)

    def run(self, config: StageConfig) -> Path:
        return importlib.import_module(self.module).run(config)


STAGES: dict[str, Stage] = {
    "kg build": Stage("kg.build", "BuildConfig", "graph artifact from WordNet, triples files and other sources"),
    "kg embed": Stage(
        "kg.embed", "EmbedConfig", "TransE vectors of a graph, ranked on held-out facts, indexed in faiss"
    ),
    "link": Stage("entity_linking.annotate", "LinkConfig", "entity links in a corpus, written as parquet shards"),
    "pretrain prepare": Stage("pretrain.prepare", "PrepareConfig", "training instances from linked shards"),
    "pretrain run": Stage("pretrain.run", "PretrainConfig", "knowledge-enhanced checkpoint from a BERT and instances"),
    "finetune examples": Stage(
        "finetune.examples", "ExamplesConfig", "labelled task examples from a graph and a corpus"
    ),
    "finetune run": Stage("finetune.run", "FinetuneConfig", "task model: entity typing or relation classification"),
    "finetune predict": Stage("finetune.predict", "PredictConfig", "labels for new text from a task model"),
    "finetune distill": Stage("finetune.distill", "DistillConfig", "small student of a task model, in two phases"),
    "export": Stage(
        "finetune.export", "ExportConfig", "safetensors, ONNX and int8 files, each checked against its origin"
    ),
    "report": Stage("ernie_kg.report", "ReportConfig", "one HTML page of a run, from its manifests"),
}


def find_stage(name: str) -> Stage:
    """Raises InputError, with the nearest names, for a stage that does not exist."""
    if name in STAGES:
        return STAGES[name]
    near = difflib.get_close_matches(name, STAGES, n=2)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(STAGES)}"
    raise InputError(f"unknown stage {name!r}; {hint}")
