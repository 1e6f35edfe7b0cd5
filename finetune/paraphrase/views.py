"""What `paraphrase text` is told, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finetune.paraphrase.configuration import DecodingConfig
from kg.artifact import open_artifact
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which generator, and what is to be said otherwise."""

    generator: Path
    """Artifact of `finetune paraphrase`."""
    text: str
    """A sentence; of several words, in quotes."""
    keep: tuple[str, ...] = ()
    """Words that must survive, each as it stands in the sentence."""
    keep_numbers: bool = True
    """Numbers must survive too."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(strategy="beam", num_return=3))
    """How, and how many."""
    seed: int = 0
    """Of nucleus sampling."""


def text(config: TextConfig) -> str:
    """Paraphrases of one sentence, one a line, best first, and below what was dropped and why.

    Raises:
        InputError: no such generator, an empty sentence, one that is too long, a word to keep that is not in it.
    """
    from finetune.paraphrase.paraphraser import STAGE, Paraphraser

    open_artifact(config.generator, stage=STAGE)
    paraphraser = Paraphraser.load(config.generator)
    spans = [_span(word, config.text) for word in config.keep]
    result = paraphraser.paraphrase(
        [config.text],
        decoding=config.decoding,
        spans=[spans],
        keep_numbers=config.keep_numbers,
        seed=config.seed,
    )
    if result.dropped["source_empty"]:
        raise InputError("text is empty; give a sentence")
    if result.dropped["source_too_long"]:
        raise InputError(f"the sentence is longer than the {paraphraser.max_length} word pieces of this generator")
    lines = [paraphrase.text for paraphrase in result.found[0]]
    dropped = [f"{count} dropped: {reason.replace('_', ' ')}" for reason, count in sorted(result.dropped.items())]
    return "\n".join([*lines, *dropped])


def _span(word: str, sentence: str) -> tuple[int, int]:
    start = sentence.find(word)
    if start < 0 or not word:
        raise InputError(f"keep: {word!r} does not stand in the sentence")
    return start, start + len(word)
