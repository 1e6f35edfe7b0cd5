"""The stage `pretrain prepare`: linked documents in, pre-training instances out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entity_linking.annotate import read_linked
from entity_linking.records import LinkedDocument
from ernie.tokenization import EntitySpan, ErnieTokenizer
from ernie.training.reproducibility import keyed_generator
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import track
from kg.sources import resolve_source, source_path
from kg.split import split_of
from pretrain.dataset import InstanceWriter
from pretrain.instances import (
    EncodedDocument,
    Instance,
    build_instance,
    draw_other_run,
    encode_documents,
    plan_pairs,
    split_long,
)

STAGE = "pretrain prepare"
SPLITS = ("train", "dev")
SPECIAL_PIECES = 3
"""[CLS], [SEP] and [SEP]."""
DOCUMENTS_AT_ONCE = 256
HISTOGRAM_WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Which instances to make of which documents."""

    linked: Path
    """Linked shards, made by `ernie-kg link`."""
    tokenizer: str
    """Folder of the encoder whose word pieces are used (tokenizer.json or vocab.txt), or `package:NAME/path`."""
    vectors: Path
    """Vectors artifact: its vocabulary gives entities their rows."""
    output: Path
    """Folder to write."""
    max_length: int = 128
    """Word pieces of an instance at most, special ones among them."""
    short_seq_prob: float = 0.1
    """Share of instances aimed at a random shorter length, as in BERT."""
    min_entities: int = 1
    """Instances with fewer linked mentions are dropped (the paper: 3 a sentence)."""
    dev: float = 0.1
    """Share of documents whose instances are held out."""
    test: float = 0.1
    """Share of documents left out altogether: with the shares and seed of `finetune examples`, its test documents."""
    seed: int = 0
    """Decides the split of documents and every drawing."""

    def inputs(self) -> dict[str, Path]:
        return {
            "linked": self.linked,
            "tokenizer": source_path(self.tokenizer),
            "vectors": self.vectors,
        }


def run(config: PrepareConfig) -> Path:
    """Writes `train/` and `dev/`, each a folder of flat arrays (`pretrain.dataset.Instances` reads them).

    Raises:
        InputError: an input is not what it should be, a setting is out of range, or no training instance is left.
    """
    _check(config)
    with write_artifact(config, stage=STAGE) as writer:
        rows = read_entity_rows(config.vectors)
        tokenizer = load_tokenizer(resolve_source(config.tokenizer), rows)
        documents = _read_documents(config, tokenizer, writer)
        described = {**describe_tokenizer(tokenizer), **describe_entities(rows), "max_length": config.max_length}
        for split in SPLITS:
            instances = _instances(documents[split], split, config, tokenizer, writer)
            _write_split(instances, split, described, config, writer)
        _require_instances(writer)
    return config.output


def read_entity_rows(vectors: Path) -> dict[str, int]:
    """Entity identifier -> row of the vectors, 1 …, from `vocabulary.txt`."""
    open_artifact(vectors, stage="kg embed")
    names = (vectors / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    return {name: row for row, name in enumerate(names, start=1) if name}


def load_tokenizer(folder: Path, entity_rows: dict[str, int]) -> ErnieTokenizer:
    """
    Raises:
        InputError: the folder holds no tokenizer, or one without [CLS], [SEP], [MASK] or padding.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(f"{folder}: expected a tokenizer, but there is neither tokenizer.json nor vocab.txt")
    tokenizer = ErnieTokenizer.from_pretrained(folder, entity_rows)
    fast = tokenizer.fast_tokenizer
    missing = [n for n in ("cls_token", "sep_token", "mask_token", "pad_token") if getattr(fast, n) is None]
    if missing:
        raise InputError(f"{folder}: the tokenizer has no {', '.join(missing)}; use a BERT's")
    return tokenizer


def describe_tokenizer(tokenizer: ErnieTokenizer) -> dict[str, Any]:
    """What later stages need of a tokenizer, and the digest that tells two vocabularies apart."""
    fast = tokenizer.fast_tokenizer
    vocabulary = sorted(fast.get_vocab().items())
    return {
        "vocab_size": len(fast),
        "tokenizer_digest": hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest(),
        "mask_token_id": fast.mask_token_id,
        "pad_token_id": fast.pad_token_id,
        "special_ids": sorted(set(fast.all_special_ids)),
    }


def describe_entities(rows: dict[str, int]) -> dict[str, Any]:
    """Number of entities, and the digest of their order."""
    return {"num_entities": len(rows), "entities_digest": hashlib.sha256("\n".join(rows).encode()).hexdigest()}


def _read_documents(
    config: PrepareConfig, tokenizer: ErnieTokenizer, writer: ArtifactWriter
) -> dict[str, list[EncodedDocument]]:
    """Encoded documents by split, in the shards' order; what is left out is counted."""
    kept: dict[str, list[EncodedDocument]] = {split: [] for split in SPLITS}
    source = track(read_linked(config.linked), "reading linked documents")
    while documents := list(itertools.islice(source, DOCUMENTS_AT_ONCE)):
        splits = [split_of(d.id, seed=config.seed, dev=config.dev, test=config.test) for d in documents]
        wanted = [(d, split) for d, split in zip(documents, splits, strict=True) if split != "test"]
        writer.dropped["test_documents"] += len(documents) - len(wanted)
        texts = [document.text for document, _ in wanted]
        spans = [_entity_spans(document) for document, _ in wanted]
        encoded = encode_documents(texts, spans, tokenizer, writer.dropped)
        for (_, split), document in zip(wanted, encoded, strict=True):
            if len(document.segment.pieces) == 0:
                writer.dropped["documents_without_word_pieces"] += 1
                continue
            borders = split_long(document.borders, room=config.max_length - SPECIAL_PIECES)
            kept[split].append(EncodedDocument(document.segment, borders))
            writer.counts[f"{split}_documents"] += 1
        writer.counts["characters"] += sum(map(len, texts))
    return kept


def _entity_spans(document: LinkedDocument) -> list[EntitySpan]:
    return [EntitySpan(m.start, m.end, m.entity) for m in document.mentions]


def _instances(
    documents: Sequence[EncodedDocument],
    split: str,
    config: PrepareConfig,
    tokenizer: ErnieTokenizer,
    writer: ArtifactWriter,
) -> Iterator[Instance]:
    """Every instance of a split; a document's drawings are keyed by its number, so the order of work is free."""
    segments = [document.segment for document in documents]
    borders = [document.borders for document in documents]
    fast = tokenizer.fast_tokenizer
    ends = {"cls_token_id": fast.cls_token_id, "sep_token_id": fast.sep_token_id}
    for number in track(range(len(documents)), f"writing {split} instances"):
        generator = keyed_generator(config.seed, "pairs", split, number)
        plans = plan_pairs(
            borders[number],
            document=number,
            room=config.max_length - SPECIAL_PIECES,
            short_seq_prob=config.short_seq_prob,
            generator=generator,
            draw_run=lambda pieces, n=number, g=generator: draw_other_run(
                borders, document=n, pieces=pieces, generator=g
            ),
        )
        for plan in plans:
            instance = build_instance(plan, segments, **ends)
            if len(instance.entity_ids) < config.min_entities:
                writer.dropped["instances_with_too_few_entities"] += 1
            else:
                yield instance


def _write_split(
    instances: Iterator[Instance],
    split: str,
    described: dict[str, Any],
    config: PrepareConfig,
    writer: ArtifactWriter,
) -> None:
    """Writes a split and its statistics."""
    histogram = np.zeros(-(-config.max_length // HISTOGRAM_WIDTH), dtype=np.int64)
    pairs: Counter[int] = Counter()
    folder = writer.path / split
    with InstanceWriter(folder, vocab_size=described["vocab_size"], described=described) as out:
        for instance in instances:
            out.append(instance)
            histogram[(len(instance.input_ids) - 1) // HISTOGRAM_WIDTH] += 1
            pairs[instance.next_sentence_label] += 1
    number, tokens, entities = (out.sizes[name] for name in ("lengths", "input_ids", "entity_ids"))
    writer.counts[f"{split}_instances"] = number
    writer.counts[f"{split}_tokens"] = tokens
    writer.counts[f"{split}_entities"] = entities
    writer.figures[split] = {
        "entities_per_instance": entities / max(1, number),
        "share_of_tokens_with_entity": entities / max(1, tokens),
        "tokens_per_instance": tokens / max(1, number),
        "next_sentence": {"next": pairs[0], "random": pairs[1], "lone_sentence": pairs[-100]},
        "length_histogram": [
            {"up_to": (i + 1) * HISTOGRAM_WIDTH, "instances": int(count)} for i, count in enumerate(histogram)
        ],
    }


def _require_instances(writer: ArtifactWriter) -> None:
    counts, dropped = writer.counts, writer.dropped
    if counts["train_instances"] == 0:
        raise InputError(
            f"no training instance is left of {counts['train_documents']} training documents; dropped: "
            f"{dict(dropped)}; lower min_entities, dev or test, or link more text"
        )
    writer.headline = (
        f"{counts['train_instances']:,} instances, {writer.figures['train']['entities_per_instance']:.1f} entities each"
    )


def _check(config: PrepareConfig) -> None:
    if not 8 <= config.max_length <= 4096:
        raise InputError(f"max_length must lie in 8 … 4096, but is {config.max_length}")
    if not 0 <= config.short_seq_prob <= 1:
        raise InputError(f"short_seq_prob must lie in 0 … 1, but is {config.short_seq_prob}")
    if config.min_entities < 0:
        raise InputError(f"min_entities must be at least 0, but is {config.min_entities}")
