"""One unit of a source to one shard of instances a split: the work that processes share out.

Nothing here loads torch or transformers, so that a process starts in a moment and stays small.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import current_process
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers

from kg.artifact import peak_memory_bytes
from kg.split import split_of
from kg.workers import worker_pool
from pretrain.dataset import ShardWriter
from pretrain.instances import (
    EncodedDocument,
    InstanceColumns,
    Plan,
    build_instances,
    count_entities,
    draw_other_run,
    drop_sparse_sentences,
    plan_packed,
    plan_pairs,
    split_long,
)
from pretrain.sources import Block, Reading, Unit, read_unit
from pretrain.wordpieces import PieceCutter

SPLITS = ("train", "dev")
PAIR_SPECIALS, PACKED_SPECIALS = 3, 2
"""[CLS] [SEP] [SEP]; [CLS] and the last [SEP]."""
HISTOGRAM_WIDTH = 16
Layout = Literal["pairs", "packed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How documents become instances (fields as in PrepareConfig), and by which word pieces and entity rows.

    tokenizer: a `tokenizers` tokenizer as JSON. entities: file that names the entity of row 1, 2 … a line each.
    """

    layout: Layout
    max_length: int
    short_seq_prob: float
    min_entities: int
    min_sentence_entities: int
    dev: float
    test: float
    seed: int
    vocab_size: int
    cls_token_id: int
    sep_token_id: int
    unknown_token_id: int
    tokenizer: str
    entities: Path

    @property
    def room(self) -> int:
        """Pieces of text in an instance at most."""
        return self.max_length - (PAIR_SPECIALS if self.layout == "pairs" else PACKED_SPECIALS)


@dataclass(slots=True)
class Tally:
    """What units hold, in numbers that add up.

    lengths: instances by split and word pieces, in steps of HISTOGRAM_WIDTH. entities: instances by split and number of
    mentions. pairs: instances by split and next-sentence label.
    """

    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: Counter[str] = field(default_factory=Counter)
    entities: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            getattr(self, name).update(getattr(other, name))

    def count(self, split: str, made: InstanceColumns) -> None:
        self.counts[f"{split}_instances"] += len(made.lengths)
        self.counts[f"{split}_tokens"] += len(made.input_ids)
        self.counts[f"{split}_entities"] += len(made.entity_ids)
        steps = -(-made.lengths // HISTOGRAM_WIDTH) * HISTOGRAM_WIDTH
        for tally, values in (
            (self.lengths, steps), (self.entities, made.entity_counts), (self.pairs, made.next_sentence_label)
        ):  # fmt: skip
            tally.update({f"{split} {value}": int(n) for value, n in zip(*np.unique(values, return_counts=True))})

    def to_json(self) -> str:
        return json.dumps({name: dict(sorted(getattr(self, name).items())) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str) -> Tally:
        return cls(**{name: Counter(values) for name, values in json.loads(text).items()})


def prepare_units(units: Sequence[Unit], recipe: Recipe, folder: Path, *, processes: int) -> Iterator[int]:
    """Prepares every unit; yields, in the units' order, the highest memory of the process that did it so far, in bytes.

    A lone unit is prepared here, several in processes of their own: one that never loads torch and transformers needs
    less than half the memory. A worker of a pool may start none, and does all itself.
    """
    if len(units) == 1 or current_process().daemon:
        reading = read_with(recipe)
        for unit in units:
            prepare_unit(unit, recipe, reading, folder)
            yield peak_memory_bytes()
        return
    with worker_pool(processes, _open_worker, recipe, folder) as pool:
        yield from pool.map(_prepare_in_worker, units)


_worker: tuple[Recipe, Reading, Path] | None = None


def _open_worker(recipe: Recipe, folder: Path) -> None:
    global _worker
    _worker = recipe, read_with(recipe), folder


def _prepare_in_worker(unit: Unit) -> int:
    assert _worker is not None, "opened when the process began"
    prepare_unit(unit, *_worker)
    return peak_memory_bytes()


def read_with(recipe: Recipe) -> Reading:
    """What readers need, made once a process."""
    backend = tokenizers.Tokenizer.from_str(recipe.tokenizer)
    return Reading(PieceCutter(backend), backend.get_vocab(), entity_rows(recipe.entities), recipe.unknown_token_id)


def entity_rows(names: Path) -> dict[str, int]:
    """Entity identifier -> row of the vectors, 1 …, from the file that names them a line each."""
    lines = names.read_text(encoding="utf-8").split("\n")
    return {name: row for row, name in enumerate(lines, start=1) if name}


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def tally_path(folder: Path, number: int) -> Path:
    """Written last: a unit with a tally is done."""
    return folder / f".unit-{number:05d}.json"


def prepare_unit(unit: Unit, recipe: Recipe, reading: Reading, folder: Path) -> None:
    """Writes `train/` and `dev/shard-….arrow` of a unit and then its tally; what is there already is written anew.

    Depends on the unit and the recipe alone, so the shards are the same whichever process makes them, in any order.
    """
    tally = Tally()
    paths = {split: folder / split / shard_name(unit.number) for split in SPLITS}
    unfinished = {split: path.with_name(path.name + ".tmp") for split, path in paths.items()}
    with (
        ShardWriter(unfinished["train"], vocab_size=recipe.vocab_size) as train,
        ShardWriter(unfinished["dev"], vocab_size=recipe.vocab_size) as dev,
    ):
        for number, block in enumerate(read_unit(unit, reading, tally.dropped)):
            tally.counts.update(characters=block.characters, bytes=block.bytes)
            for split, documents in _by_split(block, recipe, tally).items():
                generator = _generator(recipe.seed, "pairs", split, unit.number, number)
                made = instances_of(documents, generator, recipe, tally.dropped)
                if made is not None:
                    tally.count(split, made)
                    (train if split == "train" else dev).write(made)
    for split, path in paths.items():
        unfinished[split].rename(path)
    done = tally_path(folder, unit.number)
    done.with_suffix(".tmp").write_text(tally.to_json(), encoding="utf-8")
    done.with_suffix(".tmp").rename(done)


def _generator(*keys: int | str) -> np.random.Generator:
    """A generator of its own for every tuple of keys."""
    digest = hashlib.blake2b(json.dumps(keys).encode(), digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


def _by_split(block: Block, recipe: Recipe, tally: Tally) -> Mapping[str, list[EncodedDocument]]:
    """The block's documents by split, sentences cut to the room and filtered; what is left out is counted."""
    kept: dict[str, list[EncodedDocument]] = {split: [] for split in SPLITS}
    for name, document in zip(block.names, block.documents, strict=True):
        split = split_of(name, seed=recipe.seed, dev=recipe.dev, test=recipe.test)
        if split == "test":
            tally.dropped["test_documents"] += 1
            continue
        if len(document.segment.pieces) == 0:
            tally.dropped["documents_without_word_pieces"] += 1
            continue
        document = EncodedDocument(document.segment, split_long(document.borders, room=recipe.room))
        if recipe.min_sentence_entities:
            document = drop_sparse_sentences(document, min_entities=recipe.min_sentence_entities, dropped=tally.dropped)
            if len(document.segment.pieces) == 0:
                tally.dropped["documents_without_sentences_left"] += 1
                continue
        tally.counts[f"{split}_documents"] += 1
        kept[split].append(document)
    return kept


def instances_of(
    documents: Sequence[EncodedDocument], generator: np.random.Generator, recipe: Recipe, dropped: Counter[str]
) -> InstanceColumns | None:
    """Every instance of a block's documents; None when there is none."""
    segments = [document.segment for document in documents]
    borders = [document.borders for document in documents]
    plans = plan_packed(borders, room=recipe.room) if recipe.layout == "packed" else _pairs(borders, generator, recipe)
    plans = list(plans)
    enough = count_entities(plans, segments) >= recipe.min_entities
    dropped["instances_with_too_few_entities"] += int((~enough).sum())
    kept = [plan for plan, keep in zip(plans, enough, strict=True) if keep]
    if not kept:
        return None
    return build_instances(kept, segments, cls_token_id=recipe.cls_token_id, sep_token_id=recipe.sep_token_id)


def _pairs(borders: Sequence[np.ndarray], generator: np.random.Generator, recipe: Recipe) -> Iterator[Plan]:
    for number in range(len(borders)):
        yield from plan_pairs(
            borders[number],
            document=number,
            room=recipe.room,
            short_seq_prob=recipe.short_seq_prob,
            generator=generator,
            draw_run=lambda pieces, n=number: draw_other_run(borders, document=n, pieces=pieces, generator=generator),
        )
