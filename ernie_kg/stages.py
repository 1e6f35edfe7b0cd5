"""Every command, by the words a user types: stages write a folder, views print. Modules load when one is asked for."""

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

    module: where `run(config) -> Path` stands, and the config class unless `config_module` names another, which loads
    quickly. config: the class's name. summary: a line of help.
    places: keys that bare words on the command line stand for, in this order. explains: the module has
    `explained(config) -> str` too, which `--explain` prints in place of a run.
    """

    module: str
    config: str
    summary: str
    places: tuple[str, ...] = ()
    explains: bool = False
    config_module: str = ""

    def config_class(self) -> type[Any]:
        return getattr(importlib.import_module(self.config_module or self.module), self.config)

    def run(self, config: StageConfig) -> Path:
        return importlib.import_module(self.module).run(config)

    def explain(self, config: StageConfig) -> str:
        return importlib.import_module(self.module).explained(config)


@dataclass(frozen=True, slots=True)
class View:
    """A command that prints and writes nothing, so that no road has it for a step.

    module: where the config class and the function stand. config: the class's name. function: `(config) -> str`.
    summary: a line of help. places: as in `Stage`.
    """

    module: str
    config: str
    function: str
    summary: str
    places: tuple[str, ...] = ()

    def config_class(self) -> type[Any]:
        return getattr(importlib.import_module(self.module), self.config)

    def run(self, config: Any) -> str:
        return getattr(importlib.import_module(self.module), self.function)(config)


STAGES: dict[str, Stage] = {
    "kg build": Stage("kg.build", "BuildConfig", "graph artifact from WordNet, triples files and other sources"),
    "kg embed": Stage(
        "kg.embed",
        "EmbedConfig",
        "TransE vectors of a graph, ranked on held-out facts, indexed in faiss",
        config_module="kg.embed_config",
    ),
    "kg tune": Stage("kg.tune", "TuneConfig", "a small search over TransE's settings, judged on validation triples"),
    "kg export": Stage(
        "kg.export",
        "ExportConfig",
        "a graph as GraphML, TSV, N-Triples, OpenKE's layout or networkx JSON",
        places=("graph",),
    ),
    "link": Stage("entity_linking.annotate", "LinkConfig", "entity links in a corpus, written as parquet shards"),
    "link train": Stage(
        "entity_linking.train", "LinkTrainConfig", "a linker, weighed and calibrated on gold links, that opens at once"
    ),
    "link calibrate": Stage(
        "entity_linking.calibrate",
        "CalibrateConfig",
        "a linker whose scores say how often it is right, from judged links",
    ),
    "link fit-priors": Stage(
        "entity_linking.fit_priors", "FitPriorsConfig", "what every alias means, counted in linked text"
    ),
    "link pairs": Stage(
        "entity_linking.pairs", "PairsConfig", "pairs of surroundings and descriptions that a cross-encoder learns from"
    ),
    "link self-label": Stage(
        "entity_linking.self_labels",
        "SelfLabelConfig",
        "gold links for free: long names shortened where they are known",
    ),
    "pretrain prepare": Stage("pretrain.prepare", "PrepareConfig", "training instances from linked shards"),
    "pretrain run": Stage("pretrain.run", "PretrainConfig", "knowledge-enhanced checkpoint from a BERT and instances"),
    "student build": Stage(
        "pretrain.student", "BuildConfig", "a student cut from its teacher, measured before any training"
    ),
    "student import": Stage("pretrain.import_tinybert", "ImportConfig", "a released TinyBERT as a model folder"),
    "pretrain distill": Stage(
        "pretrain.distill", "DistillConfig", "small student of a pre-trained model, on plain linked text", explains=True
    ),
    "finetune examples": Stage(
        "finetune.examples", "ExamplesConfig", "labelled task examples from a graph and a corpus"
    ),
    "finetune import": Stage(
        "finetune.importing", "ImportConfig", "task examples from Open Entity, FewRel, TACRED, GLUE, CoNLL and others"
    ),
    "finetune convert": Stage("finetune.converting", "ConvertConfig", "task examples written in one of those layouts"),
    "finetune augment": Stage(
        "finetune.augment.stage", "AugmentConfig", "more training examples: words exchanged for likely or near ones"
    ),
    "finetune run": Stage(
        "finetune.run", "FinetuneConfig", "task model: entity typing, relations, sequences, tagged words"
    ),
    "finetune evaluate": Stage("finetune.evaluate", "EvaluateConfig", "figures of a task model on labelled examples"),
    "finetune compare": Stage(
        "ernie_kg.compare", "CompareConfig", "what the knowledge is worth: text alone, ERNIE, and senseless controls"
    ),
    "finetune predict": Stage("finetune.predict", "PredictConfig", "labels for new text from a task model"),
    "finetune distill": Stage(
        "finetune.distill", "DistillConfig", "small student of a task model, in two phases", explains=True
    ),
    "finetune matcher": Stage(
        "finetune.paraphrase.matcher", "MatcherConfig", "a model that tells whether two sentences say the same"
    ),
    "finetune paraphrase": Stage(
        "finetune.paraphrase.train", "ParaphraseConfig", "a generator of paraphrases, from targets or rewards (RbM)"
    ),
    "paraphrase evaluate": Stage(
        "finetune.paraphrase.evaluate",
        "EvaluateConfig",
        "generators beside copying, by counts and by judges that rewarded none",
    ),
    "export": Stage(
        "finetune.export", "ExportConfig", "safetensors, ONNX and int8 files, each checked against its origin"
    ),
    "report": Stage(
        "ernie_kg.report",
        "ReportConfig",
        "one HTML page of one run or several side by side, from their manifests",
        places=("artifacts…",),
    ),
}

VIEWS: dict[str, View] = {
    "explore": View(
        "ernie_kg.explorer.config",
        "ExploreConfig",
        "explore",
        "a page on this machine: link text, walk the graph, ask the models of a run",
        places=("folder",),
    ),
    "verify": View(
        "ernie_kg.verify", "VerifyConfig", "verify", "every byte of a run against its digests", places=("folder",)
    ),
    "push": View(
        "ernie_kg.push",
        "PushConfig",
        "push",
        "a finished model to a hub, with its card",
        places=("folder", "repository"),
    ),
    "doctor": View(
        "ernie_kg.doctor", "DoctorConfig", "doctor", "what this machine lacks, and a mend for each", places=("folder",)
    ),
    "completion": View(
        "ernie_kg.completion",
        "CompletionConfig",
        "completion",
        "a script that completes commands and options in bash, zsh or fish",
        places=("shell",),
    ),
    "link text": View(
        "entity_linking.views", "TextConfig", "text", "the links of a text, with the reasons for each", places=("text",)
    ),
    "link view": View(
        "entity_linking.views", "ViewConfig", "view", "linked text as a page of HTML", places=("linked",)
    ),
    "link evaluate": View(
        "entity_linking.views", "EvaluateConfig", "evaluate", "a linker's figures against gold links", places=("gold",)
    ),
    "link sample": View(
        "entity_linking.views", "SampleConfig", "sample", "links to judge, as a table to fill in", places=("linked",)
    ),
    "paraphrase text": View(
        "finetune.paraphrase.views", "TextConfig", "text", "a sentence said otherwise", places=("generator", "text")
    ),
    "kg info": View(
        "kg.views", "InfoConfig", "info", "tables of a graph: counts, degrees, components, relations", places=("graph",)
    ),
    "kg query": View(
        "kg.views", "QueryConfig", "query", "an entity by name or id, with its neighbours", places=("graph", "name")
    ),
    "kg neighbours": View(
        "kg.views",
        "NeighboursConfig",
        "neighbours",
        "the nearest entities by vector, next to those in the graph",
        places=("vectors", "name"),
    ),
}


def find_stage(name: str) -> Stage:
    """Raises InputError, with the nearest names, for a stage that does not exist."""
    if name in STAGES:
        return STAGES[name]
    near = difflib.get_close_matches(name, STAGES, n=2)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(STAGES)}"
    raise InputError(f"unknown stage {name!r}; {hint}")
