"""Whole sentences said otherwise by a generator of `finetune paraphrase`, linked and marked places kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.augment.passages import Passage, Place, Rewriting
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.paraphraser import Paraphrase, Paraphraser
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.sources import resolve_source

if TYPE_CHECKING:
    from finetune.augment.stage import AugmentConfig

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
TOP_P = 0.95


class Paraphrasing:
    """An Augmenter: each sentence of a passage that the generator can read is drawn anew, the others stay.

    A copy in which no sentence changed is left out, so a passage may have fewer copies than asked for, or none: one
    that is longer than the generator was trained for, for example. dropped: why, counted over all calls
    (`Paraphrases.dropped`), and `nothing_changed`, copies left out.
    """

    def __init__(self, paraphraser: Paraphraser, *, batch_size: int) -> None:
        """batch_size: sentences decoded at once, each copy counted."""
        self.paraphraser, self.batch_size = paraphraser, batch_size
        self.dropped: Counter[str] = Counter()

    def __call__(self, passages: Sequence[Passage], *, copies: int, seed: int) -> list[list[Rewriting]]:
        sentences = [sentences_of(passage) for passage in passages]
        asked = [(passage, place) for passage, places in zip(passages, sentences, strict=True) for place in places]
        result = self.paraphraser.paraphrase(
            [passage.text[start:end] for passage, (start, end) in asked],
            decoding=DecodingConfig(
                strategy="nucleus", top_p=TOP_P, num_return=copies, max_length=self.paraphraser.max_length
            ),
            spans=[_inside(passage.kept, place) for passage, place in asked],
            batch_size=max(1, self.batch_size // copies),
            seed=seed,
            keys=[f"{passage.key}:{start}" for passage, (start, _) in asked],
        )
        self.dropped += result.dropped
        found, done = [], 0
        for passage, places in zip(passages, sentences, strict=True):
            own = result.found[done : done + len(places)]
            done += len(places)
            made = [rewriting for copy in range(copies) if (rewriting := _joined(passage, places, own, copy))]
            self.dropped["nothing_changed"] += copies - len(made)
            found.append(made)
        return found


def sentences_of(passage: Passage) -> list[Place]:
    """Where its sentences stand, blanks between them left out; none ends inside a kept place.

    >>> sentences_of(Passage(key="", text="Dr. No! Who? Me.", kept=((0, 6),)))
    [(0, 7), (8, 12), (13, 16)]
    """
    places, begin = [], 0
    for match in SENTENCE_END.finditer(passage.text):
        if any(start < match.end() and match.start() < end for start, end in passage.kept):
            continue
        places.append((begin, match.start() + len(match.group().rstrip())))
        begin = match.end()
    return [(start, end) for start, end in [*places, (begin, len(passage.text))] if start < end]


def from_config(config: AugmentConfig) -> Paraphrasing:
    """
    Raises:
        InputError: `model` is no artifact of `finetune paraphrase`.
    """
    folder = resolve_source(config.model)
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: method paraphrase takes as `model` a folder of `ernie-kg finetune paraphrase`")
    open_artifact(folder, stage="finetune paraphrase")
    return Paraphrasing(Paraphraser.load(folder), batch_size=config.batch_size)


def _inside(kept: Sequence[Place], sentence: Place) -> list[Place]:
    """The kept places of one sentence, counted from its beginning."""
    first, last = sentence
    return [(start - first, end - first) for start, end in kept if first <= start and end <= last]


def _joined(
    passage: Passage, places: Sequence[Place], found: Sequence[Sequence[Paraphrase]], copy: int
) -> Rewriting | None:
    """The passage with the copy-th paraphrase of each sentence that has so many; None where none has."""
    if not any(copy < len(paraphrases) for paraphrases in found):
        return None
    pieces, done, moved = [], 0, {}
    length = 0
    for (start, end), paraphrases in zip(places, found, strict=True):
        pieces.append(passage.text[done:start])
        length += start - done
        own = [place for place in passage.kept if start <= place[0] and place[1] <= end]
        if copy < len(paraphrases):
            text, spans = paraphrases[copy].text, paraphrases[copy].spans
        else:
            text, spans = passage.text[start:end], tuple((a - start, b - start) for a, b in own)
        moved |= {place: (a + length, b + length) for place, (a, b) in zip(own, spans, strict=True)}
        pieces.append(text)
        length += len(text)
        done = end
    pieces.append(passage.text[done:])
    return Rewriting(text="".join(pieces), kept=tuple(moved[place] for place in passage.kept))
