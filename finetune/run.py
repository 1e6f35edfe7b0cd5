"""The stage `finetune run`: a pretrained model and task examples in, a task's model folder out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ernie.training.configuration import TrainingConfig
from finetune.controls import LinkControl, Metadata
from finetune.data import Entities
from finetune.tasks.spec import PoolingChoice
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.sources import source_path

STAGE = "finetune run"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What to learn, from what, and for how long."""

    output: Path
    """Folder to write."""
    task: str = ""
    """A key of finetune.tasks.TASKS; empty: the one that the examples are for."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`."""
    model: Path
    """Pretrained ERNIE folder, or a plain BERT folder (a path or `package:NAME/path`)."""
    vectors: Path | None = None
    """Artifact of `kg embed`: the entities' vectors; none for a task of text alone (`entities: none`)."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' own links."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=200, batch_size=32, learning_rate=1e-4, eval_every=50, save_every=100
        )
    )
    """The loop's settings; every `eval_every` steps dev is scored, and the best weights are kept."""
    patience: int = 0
    """Stops after so many evaluations in a row without a better score on dev; 0 never."""
    layer_decay: float = 1.0
    """Each layer learns at so many times the rate of the layer above it, in (0, 1]."""
    head_learning_rate: float = 0.0
    """Peak rate of the head; 0 takes training.learning_rate."""
    entity_learning_rate: float = 0.0
    """Peak rate of the knowledge layers' entity side; 0 takes the rate of its layer."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class weighs the same in the loss, however rare (one label an example, or one a word)."""
    max_length: int = 96
    """Word pieces a text is cut to; cut examples are counted and scored."""
    marking: str = "special"
    """How spans are marked in the text, a key of finetune.tasks.marks.MARKINGS."""
    pooling: PoolingChoice = "cls"
    """What the head reads: cls, the start (opening mark) of every marked span, or the mean of its pieces; auto = mean
    for tasks that mark spans, cls for others."""
    scorer: str = ""
    """A key of finetune.scorers.SCORERS; empty: that of imported examples, or the one of the kind of answer."""
    argmax_fallback: bool = False
    """Several labels: the likeliest is always predicted, as the first implementation did for FIGER."""
    entities: Entities = "given"
    """given: the links of the examples. none: text alone."""
    entity_control: Literal["true", "zero", "shuffled", "random"] = "true"
    """Which vectors the entities get; all but `true` are controls."""
    link_control: LinkControl = "true"
    """shuffled: the links' entities are exchanged among all examples, a control."""
    metadata: Metadata = "none"
    """types, descriptions: those of the linked entities are read as plain words behind the text."""
    graph: Path | None = None
    """Graph artifact that `metadata` takes its words from."""
    max_train: int = 0
    """Train on so many examples, drawn by seed; 0 is all."""
    max_dev: int = 0
    """Choose by so many dev examples, drawn by seed; 0 is all. The test set is never cut."""
    eval_batch_size: int = 64
    """Examples a batch where nothing is trained."""
    seed: int = 0
    """Of the head, dropout, order and every drawing."""
    seeds: tuple[int, ...] = ()
    """Trains one model a seed, on the same drawn examples; the one that dev likes best is the model of the folder.
    Empty: `seed` alone."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must lie in (0, 1], but is {self.layer_decay}")
        for name in ("patience", "head_learning_rate", "entity_learning_rate"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, but is {getattr(self, name)}")
        if self.entities == "given" and self.vectors is None:
            raise InputError("entities are given to the model by vectors: name `vectors`, or set entities to none")
        if self.metadata != "none" and self.graph is None:
            raise InputError(f"metadata {self.metadata!r} come from a graph; name `graph`")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds {list(self.seeds)} name one twice; the same seed trains the same model")

    def inputs(self) -> dict[str, Path]:
        optional = {"vectors": self.vectors, "linked": self.linked, "graph": self.graph}
        given = {name: path for name, path in optional.items() if path is not None}
        return {"examples": self.examples, "model": source_path(self.model), **given}


def run(config: FinetuneConfig) -> Path:
    """Trains, keeps the weights dev liked best, scores test once, writes the model folder and test predictions.

    With several seeds the folder holds the model of the seed that dev liked best, every seed's figures and predictions,
    and over the seeds mean, standard deviation and a bootstrap interval. Without a test set dev gives the final figures
    (`scored_split` in the manifest says which). Goes on from its last checkpoint when interrupted.

    Raises:
        InputError: unknown task, bad or empty examples, fewer than two labels, a model with another head.
    """
    from finetune.prepared import prepare
    from finetune.seeds import record, train_seed

    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        prepared = prepare(config)
        writer.counts.update(prepared.counts)
        writer.dropped.update(prepared.dropped)
        for seed in config.seeds or (config.seed,):
            train_seed(config, prepared, seed, writer.path)
        record(config, prepared, writer)
    return config.output
