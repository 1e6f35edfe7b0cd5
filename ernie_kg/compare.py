"""The stage `finetune compare`: does the knowledge do anything? One encoder, one data set, the same steps and seeds,
with the knowledge true, taken away, or made senseless."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from ernie.training.configuration import TrainingConfig
from finetune.run import STAGE as FINETUNE
from finetune.run import FinetuneConfig
from finetune.tasks.spec import PoolingChoice
from kg.artifact import (
    MANIFEST,
    ArtifactWriter,
    StageConfig,
    fingerprint,
    open_artifact,
    write_artifact,
)
from kg.errors import InputError
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    from finetune.comparison import Answers
    from finetune.data import Split
    from finetune.tasks import TaskSpec
    from finetune.tasks.schema import Example
    from pretrain.run import PretrainConfig

STAGE = "finetune compare"


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table: which pretraining (a key of PRETRAININGS, empty for the encoder as it is), and what is
    changed in the fine-tuning."""

    pretraining: str
    finetuning: Mapping[str, Any]
    summary: str


TEXT: dict[str, Any] = {"entities": "none"}
ARMS: dict[str, Arm] = {
    "text": Arm("", TEXT, "the text encoder alone"),
    "text_pretrained": Arm("text", TEXT, "text alone, the same extra pretraining on the same paragraphs"),
    "ernie": Arm("true", {}, "ERNIE with the graph's vectors"),
    "ernie_zero": Arm("zero", {"entity_control": "zero"}, "ERNIE, all vectors zero"),
    "ernie_random": Arm("random", {"entity_control": "random"}, "ERNIE, random vectors"),
    "ernie_shuffled": Arm("shuffled", {"entity_control": "shuffled"}, "ERNIE, vectors exchanged among entities"),
    "ernie_shuffled_links": Arm("true", {"link_control": "shuffled"}, "ERNIE, the examples' links exchanged"),
    "ernie_without_dea": Arm("no_dea", {}, "ERNIE, pretrained without the entity objective"),
    "metadata": Arm("text", TEXT | {"metadata": "descriptions"}, "text alone, descriptions behind it as plain words"),
}
"""Every row, in the table's order."""

PRETRAININGS: dict[str, dict[str, Any]] = {
    "text": {"layer_types": "text", "dea": 0.0, "entity_control": "absent"},
    "true": {},
    "zero": {"entity_control": "zero"},
    "random": {"entity_control": "random"},
    "shuffled": {"entity_control": "shuffled"},
    "no_dea": {"dea": 0.0},
}
"""What differs between pretrainings; a control is a control from the first step."""

PAIRS = [("ernie", other) for other in ARMS if other != "ernie"] + [("text_pretrained", "text")]
"""Differences that are tested."""


ONLY_PRETRAINED = ("text_pretrained", "ernie_without_dea")
"""Arms that are no arms of their own where nothing is pretrained."""


class Unfinished(InputError):
    """The time given is over; what is done stays, and the same command goes on."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How every arm is pretrained."""

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=300, batch_size=16, learning_rate=2e-4, save_every=100)
    )
    """The loop's settings."""
    fresh_learning_rate: float = 1e-3
    """Peak rate of the knowledge parts and the heads."""
    freeze_text_steps: int = 0
    """First steps in which only what starts fresh is trained."""
    heldout_instances: int = 128
    """Held-out instances to measure on before and after."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How every arm is fine-tuned; fields as in `finetune run`."""

    task: str = ""
    """A key of finetune.tasks.TASKS; empty: the one that imported examples are for."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=300, batch_size=32, learning_rate=1e-4, eval_every=60, save_every=60
        )
    )
    """The loop's settings."""
    max_length: int = 96
    """Word pieces a text is cut to."""
    marking: str = "special"
    """How spans are marked."""
    pooling: PoolingChoice = "auto"
    """What the head reads."""
    head_learning_rate: float = 0.0
    """Peak rate of the head; 0 takes training.learning_rate."""
    entity_learning_rate: float = 0.0
    """Peak rate of the knowledge layers' entity side; 0 takes the rate of its layer."""
    max_train: int = 0
    """Train on so many examples; 0 is all."""
    max_dev: int = 0
    """Choose by so many dev examples; 0 is all."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which encoder, examples and knowledge, and how long every arm is trained."""

    WITHOUT_EFFECT: ClassVar[tuple[str, ...]] = ("max_minutes", "work")

    output: Path
    """Folder to write: comparison.json, table.md, every arm's predictions."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`."""
    base: str
    """Folder of the text encoder (a BERT), or `package:NAME/path`."""
    graph: Path
    """Graph artifact the links point into."""
    vectors: Path
    """Artifact of `kg embed` of that graph, embedded with `leave_out` of these examples."""
    instances: Path | None = None
    """Artifact of `pretrain prepare`; none leaves the pretraining away: every arm begins with the encoder as it is."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    work: Path | None = None
    """Folder that keeps every pretrained and fine-tuned model, whatever its settings: a comparison of more arms, or on
    other examples, takes from it what is made already. None keeps them only as long as the comparison runs."""
    pretraining: PretrainSettings = field(default_factory=PretrainSettings)
    """Of every arm that is pretrained."""
    finetuning: FinetuneSettings = field(default_factory=FinetuneSettings)
    """Of every arm."""
    arms: tuple[str, ...] = ()
    """Keys of ernie_kg.compare.ARMS; empty is all, without instances those that differ by more than pretraining."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every arm is fine-tuned once a seed, from the same pretraining."""
    seed: int = 0
    """Of the pretraining, the controls and the drawing of examples."""
    max_minutes: float = 0.0
    """Stops between two arms once it has taken so long; the same command goes on there. 0: no limit."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise InputError(f"arm {unknown[0]!r} is unknown; there are {', '.join(ARMS)}")
        same = [name for name in self.arms if name in ONLY_PRETRAINED]
        if same and self.instances is None:
            raise InputError(f"arm {same[0]!r} differs from another by its pretraining alone; give instances for it")

    def inputs(self) -> dict[str, Path]:
        named = {"instances": self.instances, "linked": self.linked}
        given = {name: path for name, path in named.items() if path is not None}
        own = {"examples": self.examples, "graph": self.graph, "vectors": self.vectors}
        return {**own, "base": source_path(self.base), **given}


def run(config: CompareConfig) -> Path:
    """Pretrains and fine-tunes every arm, and writes one table: comparison.json and table.md.

    Figures of every arm over the seeds, in buckets (`finetune.comparison.buckets`), and paired differences. An arm that
    is done stays done: an interrupted comparison goes on with the next. The arms' weights are removed at the end,
    unless `work` keeps them.

    Raises:
        InputError: the vectors were embedded with the facts that these examples ask for; what the stages raise.
        Unfinished: `max_minutes` are over.
    """
    check_leaks(config)
    started = time.monotonic()
    names = arms_of(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        worked = False
        for number, name in enumerate(names):
            spent = (time.monotonic() - started) / 60
            if worked and config.max_minutes and spent >= config.max_minutes:
                raise Unfinished(
                    f"stopped after {spent:.1f} minutes with {number} of {len(names)} arms done; "
                    f"give the same command again to go on with {name}"
                )
            worked |= train_arm(config, name, writer.path)
        record(config, names, writer)
    return config.output


def arms_of(config: CompareConfig) -> list[str]:
    """The arms asked for, in the table's order."""
    wanted = config.arms or [name for name in ARMS if config.instances is not None or name not in ONLY_PRETRAINED]
    return [name for name in ARMS if name in wanted]


def check_leaks(config: CompareConfig) -> None:
    """Refuses vectors that know what the examples ask for."""
    vectors = open_artifact(config.vectors, stage="kg embed")
    examples = open_artifact(config.examples, stage=("finetune examples", "finetune import"))
    asked = (config.examples / "facts.tsv").stat().st_size > 0
    left_out = [entry["digest"] for name, entry in vectors.data["inputs"].items() if name.startswith("leave_out")]
    if asked and examples.digest not in left_out:
        raise InputError(
            f"{config.vectors} were embedded with the facts that {config.examples} asks for; "
            f"embed the graph again with `leave_out` of these examples"
        )


def train_arm(config: CompareConfig, name: str, folder: Path) -> bool:
    """Pretrains (unless another arm has) and fine-tunes one arm; False where that is done already.

    folder: where models lie that `config.work` does not keep.
    """
    from finetune.run import run as finetune

    arm = ARMS[name]
    if arm.pretraining and config.instances is not None:
        from pretrain.run import STAGE as PRETRAIN
        from pretrain.run import run as pretrain

        settings = pretraining(config, arm.pretraining, folder)
        if not is_made(settings, PRETRAIN):
            pretrain(settings)
    made = arm_config(config, name, folder)
    if is_made(made, FINETUNE):
        return False
    finetune(made)
    return True


def is_made(config: StageConfig, stage: str) -> bool:
    """Whether the artifact of these settings and inputs lies at its place."""
    if not (Path(config.output) / MANIFEST).exists():
        return False
    return open_artifact(config.output, stage=stage).data["fingerprint"] == fingerprint(stage, config)


def pretraining(config: CompareConfig, name: str, folder: Path) -> PretrainConfig:
    """The settings of one pretraining, and in its `output` where its model lies."""
    from pretrain.run import STAGE as PRETRAIN

    made = pretrain_config(config, name, folder / "pretrained" / name)
    return made if config.work is None else replace(made, output=_kept(config.work, PRETRAIN, made))


def arm_config(config: CompareConfig, name: str, folder: Path) -> FinetuneConfig:
    """The fine-tuning of one arm, and in its `output` where it lies; what it begins with must be made."""
    arm = ARMS[name]
    model = source_path(config.base)
    if arm.pretraining and config.instances is not None:
        model = pretraining(config, arm.pretraining, folder).output
    made = finetune_config(config, arm, model, folder / "arms" / name)
    return made if config.work is None else replace(made, output=_kept(config.work, FINETUNE, made))


def _kept(work: Path, stage: str, made: StageConfig) -> Path:
    """Where an artifact is kept for other comparisons: by its kind and name, apart from those of other settings."""
    place = Path(made.output)
    return work / place.parent.name / f"{place.name}-{fingerprint(stage, made)[:12]}"


def pretrain_config(config: CompareConfig, name: str, output: Path) -> PretrainConfig:
    """The settings of one pretraining."""
    from pretrain.run import PretrainConfig

    changes = dict(PRETRAININGS[name])
    settings = config.pretraining
    if changes.pop("layer_types", None) == "text":
        shape = orjson.loads((resolve_source(config.base) / "config.json").read_bytes())
        changes["layer_types"] = ("text",) * shape["num_hidden_layers"]
    dea = changes.pop("dea", None)
    assert config.instances is not None, "asked for only with instances"
    made = PretrainConfig(
        instances=config.instances,
        vectors=config.vectors,
        base=config.base,
        output=output,
        training=settings.training,
        fresh_learning_rate=settings.fresh_learning_rate,
        freeze_text_steps=settings.freeze_text_steps,
        heldout_instances=settings.heldout_instances,
        seed=config.seed,
        **changes,
    )
    return made if dea is None else replace(made, objectives=replace(made.objectives, dea=dea))


def finetune_config(config: CompareConfig, arm: Arm, model: Path, output: Path) -> FinetuneConfig:
    """The settings of one arm's fine-tuning."""
    settings = config.finetuning
    return FinetuneConfig(
        output=output,
        task=settings.task,
        examples=config.examples,
        model=model,
        vectors=config.vectors,
        linked=config.linked,
        graph=config.graph if "metadata" in arm.finetuning else None,
        training=settings.training,
        max_length=settings.max_length,
        marking=settings.marking,
        pooling=settings.pooling,
        head_learning_rate=settings.head_learning_rate,
        entity_learning_rate=settings.entity_learning_rate,
        max_train=settings.max_train,
        max_dev=settings.max_dev,
        seed=config.seed,
        seeds=config.seeds,
        **arm.finetuning,
    )


def record(config: CompareConfig, names: list[str], writer: ArtifactWriter) -> None:
    """The table from the arms' predictions; their weights go, their predictions and manifests stay."""
    from finetune.comparison import buckets, paired_difference
    from finetune.evaluation import primary_score
    from finetune.task_model import read_task

    arms = {name: arm_config(config, name, writer.path).output for name in names}
    spec, _, _ = read_task(arms[names[0]])
    split = open_artifact(arms[names[0]], stage="finetune run").figures["scored_split"]
    answers = {name: arm_answers(config, folder, spec) for name, folder in arms.items()}
    score = primary_score(spec)
    found = buckets(*_examples(config, split), degree=degrees(config.graph), roles=spec.roles)
    figures = {
        "scored_split": split,
        "metric": spec.primary_metric,
        "examples": len(answers[names[0]].gold),
        "buckets": {name: len(rows) for name, rows in found.items()},
        "arms": {
            name: {
                **_over_seeds(folder, split),
                "in_buckets": {b: answers[name][rows].score(score) for b, rows in found.items() if len(rows)},
                "minutes": open_artifact(folder, stage="finetune run").data["seconds"] / 60,
            }
            for name, folder in arms.items()
        },
        "differences": {
            f"{one} - {other}": paired_difference(answers[one], answers[other], score, seed=config.seed)
            for one, other in PAIRS
            if one in names and other in names
        },
    }
    writer.figures |= figures
    writer.counts.update(arms=len(names), seeds=len(config.seeds), examples=figures["examples"])
    (writer.path / "comparison.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    (writer.path / "table.md").write_text(table(figures), encoding="utf-8")
    writer.headline = _headline(figures)
    keep_predictions(writer.path, arms)


def arm_answers(config: CompareConfig, folder: Path, spec: TaskSpec) -> Answers:
    from finetune.comparison import read_answers

    several = len(config.seeds) > 1
    paths = [folder / "seeds" / str(seed) / "predictions.jsonl" for seed in config.seeds]
    return read_answers(paths if several else [folder / "predictions.jsonl"], spec)


def degrees(graph: Path) -> dict[str, int]:
    """Entity -> number of triples it is in."""
    import numpy as np

    from kg.graph import KnowledgeGraph

    loaded = KnowledgeGraph.load(graph)
    counts = np.bincount(loaded.triples[:, [0, 2]].ravel(), minlength=loaded.num_entities + 1)
    return dict(zip(loaded.entities["id"].to_pylist(), counts[1:].tolist(), strict=True))


def table(figures: Mapping[str, Any]) -> str:
    """Arms, buckets and differences as Markdown; scores in percent."""
    metric, names = figures["metric"], list(figures["buckets"])
    head = ["arm", f"{figures['scored_split']} {metric}", *(f"{b} ({figures['buckets'][b]})" for b in names), "min"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for arm, found in figures["arms"].items():
        own = found["in_buckets"]
        spread = f" ± {100 * found[metric]['sd']:.1f}" if "sd" in found[metric] else ""
        cells = [f"{100 * own[b]:.1f}" if b in own else "" for b in names]
        lines.append(
            "| "
            + " | ".join([arm, f"{100 * found[metric]['mean']:.1f}{spread}", *cells, f"{found['minutes']:.1f}"])
            + " |"
        )
    lines += ["", "| difference | points | 95 % interval | p |", "|---|--:|--:|--:|"]
    for pair, d in figures["differences"].items():
        interval = f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}"
        lines.append(f"| {pair} | {100 * d['difference']:+.1f} | {interval} | {d['p']:.3f} |")
    return "\n".join(lines) + "\n"


def keep_predictions(folder: Path, arms: Mapping[str, Path]) -> None:
    """Copies manifests and predictions of the arms as plain files; removes the models that lie in the folder."""
    for name, own in arms.items():
        for path in sorted(own.rglob("*.jsonl")):
            part = "" if path.parent == own else f"-{path.parent.name}"
            shutil.copyfile(path, folder / f"{name}{part}.jsonl")
        shutil.copyfile(own / MANIFEST, folder / f"{name}.json")
    for part in ("arms", "pretrained"):
        shutil.rmtree(folder / part, ignore_errors=True)


def _over_seeds(folder: Path, split: str) -> dict[str, dict[str, float]]:
    found = open_artifact(folder, stage="finetune run").figures
    if "over_seeds" in found:
        return found["over_seeds"]
    return {name: {"mean": value} for name, value in found[split].items()}


def _examples(config: CompareConfig, split: Split) -> tuple[list[Example], list[Example]]:
    """Scored and training examples, with all links that a model is shown."""
    from finetune.data import load_examples, read_linked_documents, with_joined_links

    scored, train = (load_examples(config.examples, name) for name in (split, "train"))
    if config.linked is None:
        return scored, train
    documents = read_linked_documents(config.linked, [*scored, *train])
    return with_joined_links(scored, documents, Counter()), with_joined_links(train, documents, Counter())


def _headline(figures: Mapping[str, Any]) -> str:
    metric, arms = figures["metric"], figures["arms"]
    said = ", ".join(f"{name} {arms[name][metric]['mean']:.1%}" for name in ("text", "ernie") if name in arms)
    return f"{figures['scored_split']} {metric}: {said or f'{len(arms)} arms'}"
