"""Figures of a list of outputs beside their sources and targets, by counting and by judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.paraphrase.batches import EncodedPair, collate
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.decoding import decode
from finetune.paraphrase.imitation import held_out_nll
from finetune.paraphrase.meteor import Matches, meteor
from finetune.paraphrase.paraphraser import Paraphraser
from finetune.paraphrase.rendering import render
from finetune.paraphrase.rewards import Reward
from finetune.paraphrase.scores import bleu, distinct_n, ibleu, rouge_l, rouge_n, source_overlap, words

Judge = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""(sources, outputs) -> how much alike each two are, float (n,)."""


def counted_figures(
    outputs: Sequence[str], targets: Sequence[str], sources: Sequence[str], *, alpha: float
) -> dict[str, float]:
    """All figures that need nothing but the three texts; means over sentences but for BLEU, iBLEU and distinct_n."""
    own, gold, read = ([words(text) for text in texts] for texts in (outputs, targets, sources))
    pairs = list(zip(own, gold, strict=True))
    return {
        "rouge_1": _mean(rouge_n(a, b, 1) for a, b in pairs),
        "rouge_2": _mean(rouge_n(a, b, 2) for a, b in pairs),
        "rouge_l": _mean(rouge_l(a, b) for a, b in pairs),
        "bleu_2": bleu(own, gold, max_order=2),
        "bleu_4": bleu(own, gold),
        "ibleu": ibleu(own, gold, read, alpha=alpha),
        "self_bleu": bleu(own, read),
        "source_overlap": _mean(source_overlap(a, b) for a, b in zip(own, read, strict=True)),
        "copies": _mean(a == b for a, b in zip(own, read, strict=True)),
        "distinct_1": distinct_n(own, 1),
        "distinct_2": distinct_n(own, 2),
        "words": _mean(len(a) for a in own),
    }


def judged_figures(
    outputs: Sequence[str],
    targets: Sequence[str],
    sources: Sequence[str],
    *,
    synonyms: Matches | None,
    judges: dict[str, Judge],
) -> dict[str, float]:
    """METEOR, with the synonym stage where `synonyms` are given, and the mean opinion of each judge."""
    scored = (meteor(words(a), words(b), synonyms) for a, b in zip(outputs, targets, strict=True))
    return {"meteor": _mean(scored)} | {name: _mean(judge(sources, outputs)) for name, judge in judges.items()}


def dev_figures(
    paraphraser: Paraphraser, pairs: Sequence[EncodedPair], *, alpha: float, reward: Reward | None
) -> dict[str, float]:
    """Of greedy outputs, at the pieces the pairs are cut to, and the targets' likelihood; a higher figure is better
    but for overlaps. reward: of the outputs, where there is one."""
    assert all(pair.target is not None for pair in pairs), "dev pairs have targets"
    decoding = DecodingConfig(max_length=paraphraser.max_length)
    outputs, batches, rewards = {}, [], []
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row].source))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = collate([pairs[row] for row in rows], paraphraser.vocabulary)
        ids = decode(paraphraser.generator, batch, decoding)[:, 0]
        batches.append(batch)
        outputs |= {
            row: render(output, pairs[row], paraphraser.vocabulary).text
            for row, output in zip(rows, ids.tolist(), strict=True)
        }
        if reward is not None:
            rewards += reward(batch, ids).tolist()
    sources = [pair.source.text for pair in pairs]
    targets = [pair.target.text for pair in pairs if pair.target is not None]
    figures = counted_figures([outputs[row] for row in range(len(pairs))], targets, sources, alpha=alpha)
    figures["minus_nll"] = -held_out_nll(paraphraser.generator, batches)
    return figures | ({"reward": float(np.mean(rewards))} if rewards else {})


def _mean(values) -> float:
    return float(np.mean([float(value) for value in values]))
