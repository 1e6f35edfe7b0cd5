"""The stage `finetune augment`: task examples in, the same and more training examples out."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import orjson

from finetune.augment.passages import Augmenter, Passage, Place, Rewriting, check_rewriting, make_augmenter
from finetune.data import EXAMPLE_STAGES, joined_links, load_examples, read_linked_documents
from finetune.tasks.schema import Example, as_record, read_examples, write_examples
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import track
from kg.sources import source_path

STAGE = "finetune augment"
PARTS = "parts"
CHUNK = 128
"""Examples augmented together; an interrupted run goes on behind the last whole chunk."""

RECIPES: dict[str, int] = {
    "CoLA": 30,
    "MNLI": 10,
    "MRPC": 30,
    "SST-2": 20,
    "STS-B": 30,
    "QQP": 10,
    "QNLI": 20,
    "RTE": 30,
}
"""Copies of each example by GLUE task, as in the released TinyBERT (the paper: 20)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which examples, and how they are varied."""

    output: Path
    """Folder to write: train.jsonl with the originals and their copies, everything else as it was."""
    examples: Path
    """Artifact of `finetune examples` or `finetune import`."""
    model: str
    """Folder of a BERT or ERNIE with a masked-LM head (a path or `package:NAME/path`); for `method: paraphrase` an
    artifact of `finetune paraphrase`."""
    linked: Path | None = None
    """Artifact of `link`; its mentions join the examples' links first: a copy's text is in no document any more."""
    method: str = "substitution"
    """A key of finetune.augment.passages.AUGMENTERS."""
    recipe: str = ""
    """A GLUE task whose number of copies to take: CoLA, MNLI, MRPC, SST-2, STS-B, QQP, QNLI or RTE."""
    copies: int = 20
    """N: copies drawn of each example where no recipe is named; those equal to another are dropped, not drawn again."""
    candidates: Literal["masked_lm", "vectors"] = "masked_lm"
    """What single-piece words are exchanged for: what the model's masked-LM head says, or near words like all others
    (which needs no such head, and looks at no context)."""
    p: float = 0.4
    """Chance of a word to be exchanged in a copy."""
    num_candidates: int = 15
    """K: words that may take a word's place."""
    word_vectors: str | None = None
    """Near words for a word of several pieces: a `.txt` file of GloVe, or `spacy:NAME`; none: the model's."""
    language: str = "en"
    """Whose stop words (spaCy's) are never exchanged; "" exchanges any."""
    max_train: int = 0
    """Augment the first so many training examples and leave the rest out; 0 is all."""
    batch_size: int = 64
    """Masked texts a pass of the model."""
    precision: str = "auto"
    """Of its products: fp32, bf16, or auto: what is quicker here. Another rounding can exchange words that are nearly
    equally likely, so fix it where machines must agree."""
    seed: int = 0
    """Of every drawing."""

    def inputs(self) -> dict[str, Path]:
        linked = {"linked": self.linked} if self.linked is not None else {}
        return {"examples": self.examples, "model": source_path(self.model), **linked}


def run(config: AugmentConfig) -> Path:
    """Writes an artifact of task examples whose `train.jsonl` holds each example and behind it its copies.

    Labels are the original's; ids are `ID+1`, `ID+2`, …; spans and links lie on the same characters as before.
    Goes on behind the last whole chunk when interrupted.

    Raises:
        InputError: bad settings, a model without a masked-LM head, a copy with nothing left in it.
    """
    _check(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        open_artifact(config.examples, stage=EXAMPLE_STAGES)
        examples = _with_links(config, writer)
        parts = writer.path / PARTS
        parts.mkdir(exist_ok=True)
        if config.method == "substitution":
            config = replace(config, precision=_settled_precision(config.precision, parts))
            writer.figures["precision"] = config.precision
        augmenter = make_augmenter(config.method, config)
        chunks = [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]
        for number, chunk in enumerate(track(chunks, "augmenting")):
            _write_part(parts / f"{number:06d}.jsonl", chunk, augmenter, config)
        writer.dropped.update(getattr(augmenter, "dropped", {}))  # where it says why; of the chunks made in this run
        _assemble(config, len(examples), len(chunks), writer)
    return config.output


def _settled_precision(asked: str, parts: Path) -> str:
    """What was asked for or measured, once for all chunks, so that a run that goes on rounds as the one before."""
    import torch

    from ernie.training import choose_precision

    settled = parts / "precision"
    if not settled.exists():
        unfinished = settled.with_suffix(".tmp")
        unfinished.write_text(choose_precision(asked, torch.device("cpu")).name, encoding="utf-8")
        unfinished.rename(settled)
    return settled.read_text(encoding="utf-8")


def augmented(examples: Sequence[Example], augmenter: Augmenter, *, copies: int, seed: int) -> Iterator[Example]:
    """Each example and behind it its copies that differ from it and from one another.

    The two texts of a pair are varied apart: copy i has the i-th rewriting of each, or the text itself where the
    augmenter found fewer.

    Raises:
        InputError: a rewriting that is empty or lost a linked or marked place.
    """
    passages = [passage for example in examples for passage in passages_of(example)]
    found = dict(zip((p.key for p in passages), augmenter(passages, copies=copies, seed=seed), strict=True))
    for example in examples:
        yield example
        own = passages_of(example)
        seen = {(example.text, example.text_pair)}
        number = 0
        for rewritings in zip(*(_filled(found[passage.key], passage, copies) for passage in own), strict=True):
            for passage, rewriting in zip(own, rewritings, strict=True):
                check_rewriting(passage, rewriting)
            copy = _copy(example, rewritings)
            if (copy.text, copy.text_pair) in seen:
                continue
            seen.add((copy.text, copy.text_pair))
            number += 1
            yield replace(copy, id=f"{example.id}+{number}")


def _filled(rewritings: Sequence[Rewriting], passage: Passage, copies: int) -> list[Rewriting]:
    """As many as `copies`: a text of a pair that has fewer stays as it is beside the other's."""
    same = Rewriting(text=passage.text, kept=passage.kept)
    return [*rewritings[:copies], *[same] * (copies - len(rewritings))]


def passages_of(example: Example) -> list[Passage]:
    """Its text, whose spans and links are kept, and its second text."""
    first = Passage(key=f"{example.id}:text", text=example.text, kept=_places(example))
    if example.text_pair is None:
        return [first]
    return [first, Passage(key=f"{example.id}:text_pair", text=example.text_pair)]


def _places(example: Example) -> tuple[Place, ...]:
    return tuple((item.start, item.end) for item in (*example.spans, *example.links))


def _copy(example: Example, rewritings: Sequence[Rewriting]) -> Example:
    moved = rewritings[0].kept
    spans, links = moved[: len(example.spans)], moved[len(example.spans) :]
    return replace(
        example,
        text=rewritings[0].text,
        text_pair=rewritings[1].text if example.text_pair is not None else None,
        document=None,
        offset=None,
        spans=tuple(replace(s, start=a, end=b) for s, (a, b) in zip(example.spans, spans, strict=True)),
        links=tuple(replace(k, start=a, end=b) for k, (a, b) in zip(example.links, links, strict=True)),
    )


def _with_links(config: AugmentConfig, writer: ArtifactWriter) -> list[Example]:
    """The training examples, their documents' mentions among their links where there is a `linked` artifact."""
    examples = load_examples(config.examples, "train")
    writer.dropped["train_left_out_by_max_train"] = max(0, len(examples) - config.max_train) if config.max_train else 0
    examples = examples[: config.max_train] if config.max_train else examples
    documents = read_linked_documents(config.linked, examples)
    if documents is None:
        return examples
    return [
        replace(example, links=joined_links(example, documents, writer.dropped), document=None, offset=None)
        for example in examples
    ]


def _write_part(path: Path, examples: Sequence[Example], augmenter: Augmenter, config: AugmentConfig) -> None:
    if path.exists():
        return
    unfinished = path.with_suffix(".tmp")
    copies = RECIPES[config.recipe] if config.recipe else config.copies
    write_examples(unfinished, augmented(examples, augmenter, copies=copies, seed=config.seed))
    unfinished.rename(path)


def _assemble(config: AugmentConfig, originals: int, num_parts: int, writer: ArtifactWriter) -> None:
    """train.jsonl of the parts, and everything else of the examples' folder."""
    parts = [writer.path / PARTS / f"{number:06d}.jsonl" for number in range(num_parts)]
    count, pieces = 0, Counter()
    with (writer.path / "train.jsonl").open("wb") as file:
        for part in parts:
            for example in read_examples(part):
                file.write(orjson.dumps(as_record(example)) + b"\n")
                pieces[bool(example.links)] += 1
                count += 1
    shutil.rmtree(writer.path / PARTS)
    writer.copy(open_artifact(config.examples, stage=EXAMPLE_STAGES), without=("train.jsonl",))
    asked = originals * (RECIPES[config.recipe] if config.recipe else config.copies)
    writer.counts.update(train=count, originals=originals, copies=count - originals, with_links=pieces[True])
    writer.dropped["copies_equal_to_another"] = asked - (count - originals)
    writer.headline = f"{count:,} training examples of {originals:,}"


def _check(config: AugmentConfig) -> None:
    if config.precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision must be auto, fp32 or bf16, but is {config.precision!r}")
    if config.recipe and config.recipe not in RECIPES:
        raise InputError(f"recipe {config.recipe!r} is unknown; there are {', '.join(RECIPES)}")
    if not 0 < config.p <= 1:
        raise InputError(f"p must lie above 0 and not above 1, but is {config.p}")
    for name in ("copies", "num_candidates", "batch_size"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, but is {getattr(config, name)}")
