"""A model that reads a mention's surroundings and a candidate's description together: the dearest term.

(Cross-encoder re-ranking: Wu et al. 2020, "Scalable Zero-shot Entity Linking with Dense Entity Retrieval", section
4.2.) Any model that classifies pairs of texts will do, of `finetune run` on the pairs that `link pairs` writes or of
transformers; a package whose import makes transformers know the model is named beside it (`DearModels`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_linking.candidates import Candidates, Floats
from entity_linking.encoder import within_margin
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags
from entity_linking.rerank import over_text
from kg.errors import InputError

PairScorer = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""(surroundings, description) pairs -> log odds that the mention in the one means the other, (n,)."""
AROUND = 160
"""Characters of surroundings on each side of a mention."""
MOST_PIECES = 128
BATCH = 32
MATCH = "match"
"""The label of a pair that belongs together, of `link pairs`; the other is `other`."""


class CrossEncoder:
    """Log odds of each pair less the mention's mean, for the best `most` candidates of mentions within `margin`.

    descriptions: by entity row, row 0 "". margin: as in `EncoderSimilarity`. num_pairs, num_mentions, num_seen: what
    was read, for how many mentions of how many, for the record.
    """

    def __init__(self, score_pairs: PairScorer, descriptions: Sequence[str], *, margin: float, most: int = 5) -> None:
        self.score_pairs = score_pairs
        self.descriptions = descriptions
        self.margin = margin
        self.most = most
        self.num_pairs = self.num_mentions = self.num_seen = 0

    def cost(self) -> dict[str, int]:
        """Mentions it was asked about, those it looked at, and pairs it read for them."""
        return {"mentions_seen": self.num_seen, "mentions": self.num_mentions, "texts": self.num_pairs}

    def score(self, mentions: MentionTable, candidates: Candidates, logits: Floats) -> Floats:
        """float64 (num_candidates,), 0 where it did not look; mean over the text's mentions of an alias."""
        hard = within_margin(logits, candidates, self.margin)
        chosen = hard[candidates.mention] & best_of_each(logits, candidates, self.most)
        values = np.zeros(len(candidates), dtype=np.float64)
        if chosen.any():
            mention, entity = candidates.mention[chosen], candidates.entity[chosen]
            around = {i: surroundings(mentions, i) for i in np.unique(mention).tolist()}
            pairs = [
                (around[i], self.descriptions[row]) for i, row in zip(mention.tolist(), entity.tolist(), strict=True)
            ]
            found = self.score_pairs(pairs).astype(np.float64)
            count = len(candidates.bounds) - 1
            mean = np.bincount(mention, found, minlength=count) / np.maximum(np.bincount(mention, minlength=count), 1)
            values[chosen] = found - mean[mention]
        self.num_seen += len(mentions)
        self.num_mentions += int(np.count_nonzero(hard))
        self.num_pairs += int(np.count_nonzero(chosen))
        return over_text(mentions, candidates, values)


def best_of_each(logits: Floats, candidates: Candidates, most: int) -> Flags:
    """Which candidates are among the best `most` of their mention; (num_candidates,)."""
    order = np.lexsort((-logits, candidates.mention))
    kept = np.zeros(len(candidates), dtype=bool)
    kept[order] = np.arange(len(candidates)) - candidates.bounds[candidates.mention[order]] < most
    return kept


def surroundings(mentions: MentionTable, i: int) -> str:
    """The text around a mention, in brackets itself: "He sat on the [ bank ] of the river." """
    text, start, end = mentions.tokens.texts[int(mentions.document[i])], int(mentions.start[i]), int(mentions.end[i])
    before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
    if start > AROUND:
        before = before.partition(" ")[2]
    if end + AROUND < len(text):
        after = after.rpartition(" ")[0]
    return " ".join(f"{before}[ {text[start:end]} ]{after}".split())


def pair_scorer(folder: Path) -> PairScorer:
    """Scores pairs with a model of transformers' sequence classification and its tokenizer.

    One output is taken for the log odds; of two, the difference of `MATCH` (or the second) and the other.

    Raises:
        InputError: the folder holds no such model, or one with more than two labels.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(str(folder), trust_remote_code=False).eval()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: expected a folder with a model that classifies pairs of texts, and its tokenizer, which "
            f"transformers or cross_encoder_package knows ({str(error).splitlines()[0]})"
        ) from None
    labels = model.config.num_labels
    if labels > 2:
        raise InputError(f"{folder}: expected a model of one or two labels ({MATCH}, other), got {labels}")
    match = int(model.config.label2id.get(MATCH, 1))

    def score(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        order = sorted(range(len(pairs)), key=lambda place: sum(map(len, pairs[place])))
        found = np.zeros(len(pairs), np.float32)
        with torch.inference_mode():
            for low in range(0, len(order), BATCH):
                places = order[low : low + BATCH]
                batch = tokenizer(
                    [pairs[place][0] for place in places],
                    [pairs[place][1] for place in places],
                    padding=True,
                    truncation="only_first",
                    max_length=MOST_PIECES,
                    return_tensors="pt",
                )
                logits = model(**batch).logits.float()
                odds = logits[:, 0] if labels == 1 else logits[:, match] - logits[:, 1 - match]
                found[places] = odds.numpy()
        return found

    return score
