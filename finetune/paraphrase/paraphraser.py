"""A generator with its vocabulary and limits: saved, loaded, and asked for paraphrases of plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from safetensors.torch import load_file, save_file

from ernie.training.reproducibility import keyed_generator
from finetune.paraphrase.batches import EncodedPair, collate, encode_pair
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.copying import Generator
from finetune.paraphrase.decoding import decode
from finetune.paraphrase.pairs import normalised
from finetune.paraphrase.pointer_generator import PointerGenerator
from finetune.paraphrase.rendering import Area, areas_of, number_spans, render
from finetune.paraphrase.transformer import CopyTransformer
from finetune.paraphrase.vocabulary import Vocabulary
from kg.errors import InputError

SETTINGS, WEIGHTS = "paraphraser.json", "generator.safetensors"
STAGE = "finetune paraphrase"

GENERATORS: dict[str, Callable[..., Generator]] = {
    "pointer-generator": PointerGenerator,
    "transformer": CopyTransformer,
}


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """text: one paraphrase. spans: where the spans that had to survive now stand, in the order they were given."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """found: by source, its paraphrases, best first, each different from it and from the others. dropped: by reason:
    source_empty, source_too_long, span_without_words (sources); same_as_source, repeated, span_lost, number_lost,
    empty (outputs)."""

    found: list[list[Paraphrase]]
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paraphraser:
    """kind: a key of GENERATORS. max_length: pieces of a source that it was trained with."""

    generator: Generator
    vocabulary: Vocabulary
    kind: str
    max_length: int

    @classmethod
    def load(cls, folder: Path) -> Paraphraser:
        """From a folder of `finetune paraphrase`, in eval mode.

        Raises:
            InputError: the folder holds none.
        """
        if not (Path(folder) / SETTINGS).is_file():
            raise InputError(f"{folder}: no {SETTINGS}; make it with `ernie-kg {STAGE}`")
        described: dict[str, Any] = orjson.loads((Path(folder) / SETTINGS).read_bytes())
        generator = GENERATORS[described["kind"]](**described["settings"])
        generator.load_state_dict(load_file(Path(folder) / WEIGHTS))
        vocabulary = Vocabulary.load(folder)
        return cls(
            generator=generator.eval(),
            vocabulary=vocabulary,
            kind=described["kind"],
            max_length=described["max_length"],
        )

    def save(self, folder: Path) -> None:
        settings = {"kind": self.kind, "max_length": self.max_length, "settings": self.generator.settings()}
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        (Path(folder) / SETTINGS).write_bytes(orjson.dumps(settings, option=options))
        save_file({n: t.contiguous() for n, t in self.generator.state_dict().items()}, Path(folder) / WEIGHTS)
        self.vocabulary.save(folder)

    def paraphrase(
        self,
        texts: Sequence[str],
        *,
        decoding: DecodingConfig,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
        keep_numbers: bool = True,
        batch_size: int = 64,
        seed: int = 0,
        keys: Sequence[str] | None = None,
    ) -> Paraphrases:
        """Paraphrases of each text; what was left out is counted.

        spans: by text, (start, end) characters that must stand in every output as they are, mentions for example; they
        may overlap. keep_numbers: the same of numbers. A text longer than the generator was trained for has no
        paraphrase: its end would be lost. seed, keys: nucleus sampling of a text is keyed by both (default: its place
        in the list), whatever stands beside it.
        """
        result = Paraphrases([[] for _ in texts])
        sources = []
        for row, (text, sentence) in enumerate(zip(texts, self.vocabulary.encode(list(texts)), strict=True)):
            source = _Source.of(
                encode_pair(sentence, None, self.vocabulary),
                row=row,
                key=str(row) if keys is None else keys[row],
                spans=[] if spans is None else [(start, end) for start, end in spans[row]],
                numbers=number_spans(text) if keep_numbers else [],
            )
            reason = source.refused(self.max_length)
            if reason:
                result.dropped[reason] += 1
            else:
                sources.append(source)
        sources.sort(key=lambda source: len(source.pair.source))
        for start in range(0, len(sources), batch_size):
            self._paraphrase_batch(sources[start : start + batch_size], decoding, seed, result)
        return result

    def _paraphrase_batch(
        self, sources: list[_Source], decoding: DecodingConfig, seed: int, result: Paraphrases
    ) -> None:
        shape = (decoding.num_return, decoding.max_length + 1)
        drawn = [keyed_generator(seed, "paraphrase", source.key).random(shape) for source in sources]
        ids = decode(
            self.generator,
            collate([source.pair for source in sources], self.vocabulary),
            decoding,
            required=[[area.run for area in source.areas] for source in sources],
            uniforms=torch.from_numpy(np.concatenate(drawn)),
        )
        for source, outputs in zip(sources, ids.tolist(), strict=True):
            original = normalised(source.pair.source.text).casefold()
            seen = {original}
            for output in outputs:
                paraphrase = self._finished(output, source, result.dropped)
                if paraphrase is None:
                    continue
                key = normalised(paraphrase.text).casefold()
                if key in seen:
                    result.dropped["same_as_source" if key == original else "repeated"] += 1
                    continue
                seen.add(key)
                result.found[source.row].append(paraphrase)

    def _finished(self, output: list[int], source: _Source, dropped: Counter[str]) -> Paraphrase | None:
        """The output as text, or None, counted, where it is empty or broke a constraint."""
        rendered = render(output, source.pair, self.vocabulary, source.areas)
        starts = rendered.starts
        if None in starts:
            lost = any(starts[number] is None for number in source.area_of)
            dropped["span_lost" if lost else "number_lost"] += 1
            return None
        if not rendered.text.strip():
            dropped["empty"] += 1
            return None
        spans = tuple(
            source.areas[number].moved(span, starts[number] or 0)
            for span, number in zip(source.spans, source.area_of, strict=True)
        )
        return Paraphrase(rendered.text, spans)


@dataclass(frozen=True, slots=True)
class _Source:
    """One text on its way. areas: what must survive; area_of: the area of each span, -1 for one that has none."""

    row: int
    key: str
    pair: EncodedPair
    spans: list[tuple[int, int]]
    areas: list[Area]
    area_of: list[int]

    @classmethod
    def of(
        cls, pair: EncodedPair, *, row: int, key: str, spans: list[tuple[int, int]], numbers: list[tuple[int, int]]
    ) -> _Source:
        areas, found = areas_of(pair, [*spans, *numbers])
        return cls(row, key, pair, spans, areas, [-1 if one is None else one for one in found[: len(spans)]])

    def refused(self, max_length: int) -> str:
        """Why it has no paraphrase; "" where it may have one."""
        if not len(self.pair.source):
            return "source_empty"
        if len(self.pair.source) > max_length:
            return "source_too_long"
        return "span_without_words" if -1 in self.area_of else ""


def first_texts(
    paraphraser: Paraphraser, texts: Sequence[str], *, decoding: DecodingConfig, batch_size: int = 64, seed: int = 0
) -> list[str]:
    """The first paraphrase of each text, nothing dropped, longer texts cut: what an evaluation scores.

    An empty text has an empty one. seed: of nucleus sampling.
    """
    sentences = [sentence.cut(paraphraser.max_length) for sentence in paraphraser.vocabulary.encode(list(texts))]
    pairs = [encode_pair(sentence, None, paraphraser.vocabulary) for sentence in sentences]
    order = sorted((row for row in range(len(pairs)) if len(sentences[row])), key=lambda row: len(sentences[row]))
    found, one = [""] * len(pairs), replace(decoding, num_return=1)
    random = torch.Generator().manual_seed(seed)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([pairs[row] for row in rows], paraphraser.vocabulary)
        ids = decode(paraphraser.generator, batch, one, generator=random)
        for row, output in zip(rows, ids[:, 0].tolist(), strict=True):
            found[row] = render(output, pairs[row], paraphraser.vocabulary).text
    return found
