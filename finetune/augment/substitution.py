"""TinyBERT's augmentation (Jiao et al. 2020, algorithm 1): words exchanged for what a masked language model would say
in their place, or, where they are several word pieces, for words with near vectors.

As in the released code: candidates are found once a word, each copy draws anew, the model sees the original sentence
beside the masked one (so the word itself is usually among its candidates), pieces inside words are no candidates. Other
than there: the case of the original is kept, both fields of a pair vary at once, and places that are linked or marked
stay as they are.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ernie.training.precision import choose_precision
from ernie.training.reproducibility import derived_seed
from finetune.augment.neighbours import Neighbours, neighbours_from
from finetune.augment.passages import Passage, Place, Rewriting
from kg.errors import InputError
from kg.sources import resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune.augment.stage import AugmentConfig

WORD = re.compile(r"(?<![\w'’-])[^\W\d_]+(?![\w'’-])")
"""Runs of letters; parts of contractions, hyphenated words and names with digits are none."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A word that may be exchanged: text[start:end], and what may stand there, best first."""

    start: int
    end: int
    candidates: tuple[str, ...]


class Substitution:
    """An Augmenter; see the module.

    candidates_of: texts with the places of single-piece words -> candidates of each. neighbours: near words of a word.
    is_piece: whether the model is asked about a word, as one that is a single piece. p: chance of a word to be
    exchanged in a copy.
    """

    def __init__(
        self,
        *,
        candidates_of: Callable[[Sequence[tuple[str, Place]]], list[tuple[str, ...]]],
        neighbours: Neighbours,
        is_piece: Callable[[str], bool],
        stop_words: frozenset[str],
        p: float,
    ) -> None:
        self.candidates_of, self.neighbours, self.is_piece = candidates_of, neighbours, is_piece
        self.stop_words, self.p = stop_words, p

    def __call__(self, passages: Sequence[Passage], *, copies: int, seed: int) -> list[list[Rewriting]]:
        found = []
        for passage, slots in zip(passages, self.slots(passages), strict=True):
            draws = (random.Random(derived_seed(seed, passage.key, copy)) for copy in range(copies))
            found.append([rewrite(passage, slots, draw, p=self.p) for draw in draws])
        return found

    def slots(self, passages: Sequence[Passage]) -> list[list[Slot]]:
        """The exchangeable words of each passage that have a candidate; the model is asked for all passages at once."""
        places = [free_words(passage, self.stop_words) for passage in passages]
        asked = [
            (passage.text, place)
            for passage, words in zip(passages, places, strict=True)
            for place in words
            if self.is_piece(passage.text[slice(*place)])
        ]
        answers = dict(zip(asked, self.candidates_of(asked), strict=True))
        return [
            [
                Slot(*place, candidates)
                for place in words
                if (candidates := answers.get((passage.text, place)) or self._near(passage.text[slice(*place)]))
            ]
            for passage, words in zip(passages, places, strict=True)
        ]

    def _near(self, word: str) -> tuple[str, ...]:
        return () if self.is_piece(word) else self.neighbours(word)


def free_words(passage: Passage, stop_words: frozenset[str]) -> list[Place]:
    """Places of the words that may be exchanged: no stop words, nothing that touches a kept place."""
    return [
        match.span()
        for match in WORD.finditer(passage.text)
        if match.group().lower() not in stop_words
        and not any(start < match.end() and match.start() < end for start, end in passage.kept)
    ]


def rewrite(passage: Passage, slots: Sequence[Slot], draw: random.Random, *, p: float) -> Rewriting:
    """One copy: each slot is exchanged with chance `p`, by a candidate drawn evenly, in the case of its word.

    `Kyiv is Old`, `Old` to `young`: `Kyiv is Young`. Kept places move along.
    """
    pieces, done, shifts = [], 0, []
    for slot in slots:
        exchange, choice = draw.random() < p, draw.choice(slot.candidates)  # drawn alike whether or not it is used
        if not exchange:
            continue
        word = cased_like(passage.text[slot.start : slot.end], choice)
        pieces += [passage.text[done : slot.start], word]
        done = slot.end
        shifts.append((slot.end, len(word) - (slot.end - slot.start)))
    text = "".join([*pieces, passage.text[done:]])
    kept = tuple(
        (start + by, end + by)
        for start, end in passage.kept
        for by in [sum(shift for position, shift in shifts if position <= start)]
    )
    return Rewriting(text=text, kept=kept)


def cased_like(original: str, word: str) -> str:
    """The word in the original's case: ALL CAPITALS (of two letters or more), Capitalised, or as it is.

    >>> cased_like("USA", "china"), cased_like("Paris", "london"), cased_like("dog", "cat")
    ('CHINA', 'London', 'cat')
    """
    if len(original) > 1 and original.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if original[:1].isupper() else word


class MaskedLanguageModel:
    """What a BERT or ERNIE with a masked-LM head would say in a word's place, many words a pass.

    Input: `[CLS] masked text [SEP] text [SEP]`; a long text is cut to the pieces round its masked word. Logits are
    computed at the masked pieces alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_candidates: int,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of the encoder's products; its head's are in fp32, or many words would be equally likely."""
        self.model, self.tokenizer, self.dtype = model.eval(), tokenizer, dtype
        self.num_candidates, self.batch_size = num_candidates, batch_size
        self.window = (int(model.config.max_position_embeddings) - 3) // 2
        self.allowed = candidate_rows(tokenizer)
        self.names = tokenizer.convert_ids_to_tokens(self.allowed.tolist())

    def __call__(self, places: Sequence[tuple[str, Place]]) -> list[tuple[str, ...]]:
        """Candidates of each (text, place of a single-piece word), likeliest first."""
        encoded: dict[str, Any] = {}
        rows = []
        for text, (start, _) in places:
            if text not in encoded:
                encoded[text] = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            rows.append(self._row(encoded[text], start))
        order = sorted(range(len(rows)), key=lambda row: (-len(rows[row][0]), row))
        found: list[tuple[str, ...]] = [()] * len(rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):  # weights are cast once
            for begin in range(0, len(order), self.batch_size):
                chosen = order[begin : begin + self.batch_size]
                for row, best in zip(chosen, self._best([rows[row] for row in chosen]), strict=True):
                    found[row] = best
        return found

    def _row(self, encoded: Any, start: int) -> tuple[list[int], int, int]:
        """Piece rows of the input, where the masked one is, and where the second part begins."""
        pieces, offsets = encoded["input_ids"], encoded["offset_mapping"]
        at = next(i for i, (begin, end) in enumerate(offsets) if begin <= start < end)
        first = max(0, min(at - self.window // 2, len(pieces) - self.window))
        pieces, at = list(pieces[first : first + self.window]), at - first
        masked = [*pieces[:at], self.tokenizer.mask_token_id, *pieces[at + 1 :]]
        ends = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return [ends[0], *masked, ends[1], *pieces, ends[1]], at + 1, len(masked) + 2

    @torch.inference_mode()
    def _best(self, rows: Sequence[tuple[list[int], int, int]]) -> list[tuple[str, ...]]:
        longest = max(len(pieces) for pieces, _, _ in rows)
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id or 0))
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, (pieces, _, second) in enumerate(rows):
            ids[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = 1
            types[row, second : len(pieces)] = 1
        states = self.model.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        at = states[torch.arange(len(rows)), torch.tensor([place for _, place, _ in rows])].float()
        with torch.autocast("cpu", enabled=False):
            logits = self.model.cls.predictions(at)[:, self.allowed]
        best = logits.topk(min(self.num_candidates, len(self.allowed)), dim=-1).indices
        return [tuple(self.names[column] for column in columns) for columns in best.tolist()]


def candidate_rows(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Rows of whole words of letters: no special piece, no `##` piece, no punctuation, no number."""
    special = set(tokenizer.all_special_ids)
    rows = [row for piece, row in tokenizer.get_vocab().items() if row not in special and piece.isalpha()]
    return torch.tensor(sorted(rows))


def stop_words_of(language: str) -> frozenset[str]:
    """spaCy's stop words of a language (`en`); of "" none.

    Raises:
        InputError: spaCy knows no such language.
    """
    if not language:
        return frozenset()
    try:
        return frozenset(importlib.import_module(f"spacy.lang.{language}.stop_words").STOP_WORDS)
    except ImportError:
        raise InputError(f"language {language!r}: spaCy has no stop words for it; give its code (en, de, …)") from None


def from_config(config: AugmentConfig) -> Substitution:
    """
    Raises:
        InputError: a model without a masked-LM head, vectors that cannot be read, an unknown language or precision.
    """
    asks_model = config.candidates == "masked_lm"
    model, tokenizer = masked_lm(resolve_source(config.model), needs_head=asks_model)
    table = model.get_input_embeddings().weight.detach()
    neighbours = neighbours_from(
        config.word_vectors, tokenizer=tokenizer, table=table, num_candidates=config.num_candidates
    )
    lower = bool(getattr(tokenizer, "do_lower_case", False)) or tokenizer.tokenize("A") == tokenizer.tokenize("a")
    vocabulary = _words(tokenizer.get_vocab())
    return Substitution(
        candidates_of=MaskedLanguageModel(
            model,
            tokenizer,
            num_candidates=config.num_candidates,
            batch_size=config.batch_size,
            dtype=choose_precision(config.precision, torch.device("cpu")).dtype,
        ),
        neighbours=neighbours,
        is_piece=lambda word: asks_model and (word.lower() if lower else word) in vocabulary,
        stop_words=stop_words_of(config.language),
        p=config.p,
    )


def _words(vocabulary: Mapping[str, int] | Iterable[str]) -> frozenset[str]:
    return frozenset(piece for piece in vocabulary if piece.isalpha())


def masked_lm(folder: Path, *, needs_head: bool = True) -> tuple[Any, Any]:
    """A model with `.bert` and `.cls.predictions`, fp32, and its fast tokenizer.

    needs_head: whether the head must have been trained.

    Raises:
        InputError: no such folder, another kind of model, or one whose masked-LM head was never trained.
    """
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

    import ernie
    from finetune.task_model import check_model_folder, quiet_loading

    check_model_folder(folder)
    classes: dict[str, Any] = {"bert": BertForMaskedLM, ernie.ErnieConfig.model_type: ernie.ErnieForPreTraining}
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in classes:
        raise InputError(f"{folder} holds a {kind!r} model; candidates come from a 'bert' or 'ernie-kg'")
    with quiet_loading():
        model, info = classes[kind].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    absent = sorted(name for name in info["missing_keys"] if name.startswith("cls.predictions.transform"))
    if absent and needs_head:
        raise InputError(
            f"{folder} has no masked-LM head ({absent[0]} is missing): its words would be drawn at random; give a BERT "
            f"with its pre-training head, the artifact of `pretrain run`, or set candidates=vectors"
        )
    return model, AutoTokenizer.from_pretrained(folder)
