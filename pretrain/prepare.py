"""The stage `pretrain prepare`: linked documents in, pre-training instances out."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ernie.tokenization import ErnieTokenizer
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.ranks import forget_plan
from kg.sources import resolve_source, source_path
from kg.split import split_of
from pretrain.dataset import write_index
from pretrain.shards import SPLITS, Layout, Recipe, Tally, entity_rows, prepare_units, shard_name, tally_path
from pretrain.sources import Unit, aligned_units, dataset_units, linked_units

STAGE = "pretrain prepare"
VOCABULARY = "vocabulary.txt"
"""Of a vectors artifact: the entity of each row."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Which instances to make of which documents. Exactly one of linked, aligned and dataset is given."""

    linked: Path | None = None
    """Linked shards, made by `ernie-kg link`."""
    aligned: Path | None = None
    """Folder with pairs of files NAME_token and NAME_entity, the layout of ERNIE's own pre-training data: a document a
    line, `number of sentences, length, word pieces …, length, …` in tabs, and the entity of each piece or #UNK#."""
    aligned_tokens: Literal["pieces", "ids"] = "pieces"
    """What NAME_token holds: word pieces by name, or their numbers."""
    dataset: Path | None = None
    """Data set saved by `datasets` (save_to_disk), or a parquet or JSON-lines file."""
    text_column: str = "text"
    """Column of `dataset` with the text."""
    mentions_column: str = "mentions"
    """Column of `dataset` with a list of {start, end, entity, score}; offsets are code points, score may be missing."""
    name_column: str | None = None
    """Column of `dataset` that names a document, which decides its split; none: the row's number."""
    tokenizer: str
    """Folder of the encoder whose word pieces are used (tokenizer.json or vocab.txt), or `package:NAME/path`."""
    vectors: Path
    """Vectors artifact: its vocabulary gives entities their rows."""
    output: Path
    """Folder to write."""
    layout: Layout = "pairs"
    """pairs: two segments and whether the second is the true next (BERT). packed: whole sentences over the ends of
    documents until the instance is full (RoBERTa's FULL-SENTENCES), without that question."""
    max_length: int = 128
    """Word pieces of an instance at most, special ones among them."""
    short_seq_prob: float = 0.1
    """Share of pairs aimed at a random shorter length, as in BERT."""
    min_entities: int = 1
    """Instances with fewer linked mentions are dropped."""
    min_sentence_entities: int = 0
    """Sentences with fewer linked mentions are dropped (the paper: 3; then the rest of a document closes the gap)."""
    dev: float = 0.1
    """Share of documents whose instances are held out."""
    test: float = 0.1
    """Share of documents left out altogether: with the shares and seed of `finetune examples`, its test documents."""
    processes: int = 1
    """Processes that prepare shards side by side; the result is the same for any number."""
    seed: int = 0
    """Decides the split of documents and every drawing."""

    def inputs(self) -> dict[str, Path]:
        given = {"linked": self.linked, "aligned": self.aligned, "dataset": self.dataset}
        return {
            **{name: path for name, path in given.items() if path is not None},
            "tokenizer": source_path(self.tokenizer),
            "vectors": self.vectors,
        }


def run(config: PrepareConfig) -> Path:
    """Writes `train/` and `dev/`, each a folder of Arrow shards (`pretrain.dataset.Instances` reads them).

    A shard of the source makes a shard of each; an interrupted run goes on behind those it has finished.

    Raises:
        InputError: an input is not what it should be, a setting is out of range, or no training instance is left.
    """
    check(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        open_artifact(config.vectors, stage="kg embed")
        units = units_of(config)
        recipe, described = recipe_of(config)
        total, began, made, memory = Tally(), time.perf_counter(), 0, 0
        with progress("preparing shards", len(units)) as bar:
            for tally, worker_memory in _tallies(units, recipe, config.processes, writer.path):
                total.add(tally)
                made += tally.counts["bytes"] * (worker_memory > 0)
                memory = max(memory, worker_memory)
                bar.advance()
        seconds = time.perf_counter() - began
        _write_indexes(units, described, writer.path)
        writer.figures.update(megabytes_per_second=round(made / 1e6 / seconds, 3), worker_memory_bytes=memory)
        _report(total, writer)
    return config.output


def units_of(config: PrepareConfig) -> list[Unit]:
    """The source in units, in order; a unit's number decides what is drawn for it."""
    if config.linked is not None:
        return linked_units(config.linked)
    if config.aligned is not None:
        return aligned_units(config.aligned, tokens=config.aligned_tokens)
    assert config.dataset is not None, "checked before"
    columns = {"text": config.text_column, "mentions": config.mentions_column, "name": config.name_column}
    return dataset_units(config.dataset, **columns)


def _tallies(units: list[Unit], recipe: Recipe, processes: int, folder: Path) -> Iterator[tuple[Tally, int]]:
    """The tally of every unit in order, and the memory of the process that made it now; units of an interrupted run are
    not made again, their memory is 0."""
    waiting = [unit for unit in units if not tally_path(folder, unit.number).exists()]
    new = {unit.number for unit in waiting}
    finished = prepare_units(waiting, recipe, folder, processes=processes)
    for unit in units:
        memory = next(finished) if unit.number in new else 0
        yield Tally.from_json(tally_path(folder, unit.number).read_text(encoding="utf-8")), memory


def recipe_of(config: PrepareConfig) -> tuple[Recipe, dict[str, Any]]:
    """How to make instances, and what their readers must know of the tokenizer and the graph."""
    tokenizer = load_tokenizer(resolve_source(config.tokenizer), {})
    fast: Any = tokenizer.fast_tokenizer
    recipe = Recipe(
        layout=config.layout,
        max_length=config.max_length,
        short_seq_prob=config.short_seq_prob,
        min_entities=config.min_entities,
        min_sentence_entities=config.min_sentence_entities,
        dev=config.dev,
        test=config.test,
        seed=config.seed,
        vocab_size=len(fast),
        cls_token_id=fast.cls_token_id,
        sep_token_id=fast.sep_token_id,
        unknown_token_id=fast.mask_token_id if fast.unk_token_id is None else fast.unk_token_id,
        tokenizer=fast.backend_tokenizer.to_str(),
        entities=config.vectors / VOCABULARY,
    )
    rows = read_entity_rows(config.vectors)
    described = {**describe_tokenizer(tokenizer), **describe_entities(rows), "max_length": config.max_length}
    return recipe, described


def read_entity_rows(vectors: Path) -> dict[str, int]:
    """Entity identifier -> row of the vectors, 1 …, from `vocabulary.txt`."""
    open_artifact(vectors, stage="kg embed")
    return entity_rows(vectors / VOCABULARY)


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


def _write_indexes(units: list[Unit], described: dict[str, Any], folder: Path) -> None:
    """`index.json` of both splits; the tallies of single units have served."""
    counts = {unit.number: _unit_counts(folder, unit) for unit in units}
    for split in SPLITS:
        shards = {shard_name(number): tally[f"{split}_instances"] for number, tally in counts.items()}
        write_index(folder / split, described=described, shards=shards)
    for unit in units:
        tally_path(folder, unit.number).unlink()
    forget_plan(folder)


def _unit_counts(folder: Path, unit: Unit) -> Counter[str]:
    return Tally.from_json(tally_path(folder, unit.number).read_text(encoding="utf-8")).counts


def _report(total: Tally, writer: ArtifactWriter) -> None:
    """Counts and statistics into the manifest.

    Raises:
        InputError: no training instance is left.
    """
    counts = total.counts
    writer.dropped.update(total.dropped)
    names = [f"{split}_{what}" for split in SPLITS for what in ("documents", "instances", "tokens", "entities")]
    writer.counts.update({name: counts[name] for name in [*names, "characters"]})
    if counts["train_instances"] == 0:
        raise InputError(
            f"no training instance is left of {counts['train_documents']} training documents; dropped: "
            f"{ {reason: n for reason, n in total.dropped.items() if n} }; lower min_entities, dev or test, or link "
            f"more text"
        )
    for split in SPLITS:
        writer.figures[split] = _statistics(split, total)
    per_instance = writer.figures["train"]["entities_per_instance"]
    writer.headline = f"{counts['train_instances']:,} instances, {per_instance:.1f} entities each"


def _statistics(split: str, total: Tally) -> dict[str, Any]:
    number, tokens, entities = (total.counts[f"{split}_{name}"] for name in ("instances", "tokens", "entities"))

    def histogram(counter: Counter[str]) -> list[tuple[int, int]]:
        keys = (key.split(" ") for key in counter)
        return sorted((int(value), counter[f"{name} {value}"]) for name, value in keys if name == split)

    pairs = dict(histogram(total.pairs))
    return {
        "entities_per_instance": entities / max(1, number),
        "share_of_tokens_with_entity": entities / max(1, tokens),
        "tokens_per_instance": tokens / max(1, number),
        "next_sentence": {"next": pairs.get(0, 0), "random": pairs.get(1, 0), "no_pair": pairs.get(-100, 0)},
        "length_histogram": [{"up_to": n, "instances": count} for n, count in histogram(total.lengths)],
        "entity_histogram": [{"entities": n, "instances": count} for n, count in histogram(total.entities)],
    }


def check(config: PrepareConfig) -> None:
    """
    Raises:
        InputError: a setting is out of range, or not exactly one source is given.
    """
    given = [name for name in ("linked", "aligned", "dataset") if getattr(config, name) is not None]
    if len(given) != 1:
        raise InputError(f"expected exactly one of linked, aligned and dataset, got {' and '.join(given) or 'none'}")
    if not 8 <= config.max_length <= 4096:
        raise InputError(f"max_length must lie in 8 … 4096, but is {config.max_length}")
    if not 0 <= config.short_seq_prob <= 1:
        raise InputError(f"short_seq_prob must lie in 0 … 1, but is {config.short_seq_prob}")
    for name, least in (("min_entities", 0), ("min_sentence_entities", 0), ("processes", 1)):
        if getattr(config, name) < least:
            raise InputError(f"{name} must be at least {least}, but is {getattr(config, name)}")
    split_of("", seed=0, dev=config.dev, test=config.test)
