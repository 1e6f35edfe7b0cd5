"""One model a seed, each whole on disk before the next begins; and what they say together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ernie.training import TrainingResult
from finetune import metrics
from finetune.evaluation import (
    Evaluation,
    answers,
    evaluate,
    gold_labels,
    prediction_records,
    primary_score,
    score_predictions,
    without_entities,
)
from finetune.learning import fit
from finetune.prepared import Prepared, Task, build
from finetune.task_model import save_task_model
from finetune.tasks import TaskSpec, null_label
from kg.artifact import ArtifactWriter
from kg.progress import progress

if TYPE_CHECKING:
    from finetune.run import FinetuneConfig

CHECKPOINTS = "checkpoints"
SEEDS = "seeds"
FIGURES = "figures.json"
PREDICTIONS = "predictions.jsonl"
MODEL = "model"


def train_seed(config: FinetuneConfig, prepared: Prepared, seed: int, folder: Path) -> None:
    """Trains and scores one seed into `folder/seeds/SEED`; does nothing where that is complete already."""
    own = folder / SEEDS / str(seed)
    if (own / FIGURES).exists():
        return
    own.mkdir(parents=True, exist_ok=True)
    task = build(config, prepared, seed)
    checkpoints = folder / CHECKPOINTS / str(seed)
    result = fit(config, task, seed=seed, checkpoints=checkpoints)
    found, figures = score(config, task, seed)
    save_task_model(
        own / MODEL,
        model=task.model,
        tokenizer=task.tokenizer,
        spec=task.spec,
        max_length=config.max_length,
        entities=config.entities,
    )
    records = prediction_records(task.examples[task.scored_split], found.logits, names=task.names, spec=task.spec)
    (own / PREDICTIONS).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    unfinished = own / f"{FIGURES}.tmp"
    unfinished.write_bytes(orjson.dumps({**training_figures(result, task.spec), **figures}))
    unfinished.rename(own / FIGURES)
    shutil.rmtree(checkpoints)


def training_figures(result: TrainingResult, spec: TaskSpec) -> dict[str, Any]:
    return {
        "loss_curve": [{"step": entry["step"], "loss": entry["loss"]} for entry in result.history],
        "dev_curve": result.evaluations,
        "num_dev_evaluations": len(result.evaluations),
        "best_step": result.best_step,
        "best_dev": max(entry[spec.primary_metric] for entry in result.evaluations),
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "precision": result.precision.name,
    }


def score(config: FinetuneConfig, task: Task, seed: int) -> tuple[Evaluation, dict[str, Any]]:
    """The chosen weights' figures on the scored split, once more with the entities taken away, and the majority's."""
    split, name = task.scored_split, task.spec.primary_metric
    settings = {"spec": task.spec, "batch_size": config.eval_batch_size, "pad_token_id": task.pad_token_id}
    figures: dict[str, Any] = {"scored_split": split}
    with progress(f"scoring {split}", 2) as shown:
        found = evaluate(task.model, task.features[split], **settings)
        shown.advance()
        figures[split] = found.metrics
        if config.entities == "given":
            bare = [without_entities(feature) for feature in task.features[split]]
            figures[f"{split}_without_entities"] = evaluate(task.model, bare, **settings).metrics
            shown.advance()
    predicted = answers(found.logits, found.labels, spec=task.spec)
    low, high = metrics.bootstrap_interval(primary_score(task.spec), predicted, found.labels, seed=seed)
    figures[f"{split}_interval_95"] = {name: [low, high]}
    if task.spec.problem_type == "single_label_classification":
        classes, counts = np.unique(gold_labels(task.features["train"], spec=task.spec), return_counts=True)
        always = np.full(len(found.labels), classes[np.argmax(counts)])
        figures["majority_baseline"] = score_predictions(always, found.labels, spec=task.spec)
    return found, figures


def record(config: FinetuneConfig, prepared: Prepared, writer: ArtifactWriter) -> None:
    """The model that dev liked best into the folder, every seed's figures and their summary into the manifest."""
    seeds = config.seeds or (config.seed,)
    own = {seed: orjson.loads((writer.path / SEEDS / str(seed) / FIGURES).read_bytes()) for seed in seeds}
    best = max(seeds, key=lambda seed: own[seed]["best_dev"])
    split, name = prepared.scored_split, prepared.spec.primary_metric
    writer.figures |= {**own[best], "scorer": prepared.spec.scorer, "primary_metric": name}
    null = null_label(prepared.spec.label_names)
    if prepared.spec.scorer == "relation_micro":
        writer.figures["null_label"] = null
    keep_best(writer.path, best)
    figure = own[best][split][name]
    spread = ""
    if len(seeds) > 1:
        writer.figures["seeds"] = {str(seed): own[seed][split] | {"best_dev": own[seed]["best_dev"]} for seed in seeds}
        writer.figures["over_seeds"] = over_seeds([own[seed][split] for seed in seeds])
        writer.figures["chosen_seed"] = best
        found = writer.figures["over_seeds"][name]
        figure, spread = found["mean"], f" ± {found['sd']:.1%} over {len(seeds)} seeds"
    elif "majority_baseline" in own[best]:
        spread = f" (majority {own[best]['majority_baseline'][name]:.1%})"
    said = f", null label {null!r}" if "null_label" in writer.figures else ""
    writer.headline = f"{split} {name} {figure:.1%}{spread}, {len(prepared.features[split]):,} examples{said}"


def over_seeds(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of every figure: mean, standard deviation (n - 1) and 95 % bootstrap interval of the mean over the seeds."""
    summary = {}
    for name in found[0]:
        values = np.array([figures[name] for figures in found])
        draws = np.random.default_rng(0).integers(0, len(values), size=(2000, len(values)))
        low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
        summary[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "low": float(low),
            "high": float(high),
        }
    return summary


def keep_best(folder: Path, best: int) -> None:
    """Moves the best seed's model and predictions to the top; of the others only figures and predictions stay."""
    seeds = folder / SEEDS
    if (seeds / str(best) / MODEL).exists():
        for file in (seeds / str(best) / MODEL).iterdir():
            file.rename(folder / file.name)
        shutil.copyfile(seeds / str(best) / PREDICTIONS, folder / PREDICTIONS)
    own = sorted(path for path in seeds.iterdir() if path.is_dir())
    for path in own:
        shutil.rmtree(path / MODEL, ignore_errors=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for path in own:
        (path / FIGURES).unlink()
    if len(own) == 1:
        shutil.rmtree(seeds)
