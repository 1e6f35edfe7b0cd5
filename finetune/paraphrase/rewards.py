"""What a sampled paraphrase earns: a matching model's opinion or ROUGE to a reference, less what it copied.

A reward looks at (batch, ids): ids are (num_sources * num_samples, length), the samples of a source side by side. It
gives one number a sample, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.paraphrase.batches import Batch, sequence_mask, source_pieces, to_pieces, word_mask
from finetune.paraphrase.copying import Generator, Memory
from finetune.paraphrase.decoding import sample
from finetune.paraphrase.matchers import Matcher
from finetune.paraphrase.scores import rouge_l, rouge_n, source_overlap
from finetune.paraphrase.vocabulary import EOS, PAD
from kg.errors import InputError

Reward = Callable[[Batch, Tensor], Tensor]
CONSTANT_STEPS = 50
"""So many steps in a row without any difference within any group, and training is stopped."""


def matching(matcher: Matcher, pieces: Tensor) -> Reward:
    """M(X, sample) in 0 … 1. pieces: (vocab_size,), the tokenizer's id of each generator id."""

    def reward(batch: Batch, ids: Tensor) -> Tensor:
        times = len(ids) // len(batch["input_ids"])
        own = to_pieces(ids, batch["unknown_pieces"].repeat_interleave(times, 0), pieces)
        return matcher.probability(source_pieces(batch).repeat_interleave(times, 0), own)

    return reward


def rouge(order: int | None) -> Reward:
    """ROUGE-`order` F1 to the target in 0 … 1, over pieces; None: ROUGE-L."""

    def reward(batch: Batch, ids: Tensor) -> Tensor:
        targets = plain_ids(batch["target_ids"])
        times = len(ids) // len(targets)
        scored = [
            rouge_l(own, targets[row // times]) if order is None else rouge_n(own, targets[row // times], order)
            for row, own in enumerate(plain_ids(ids))
        ]
        return torch.tensor(scored, dtype=torch.float32)

    return reward


def overlap(batch: Batch, ids: Tensor) -> Tensor:
    """Share of a sample's 1- to 4-grams that its source has, 0 … 1 (`scores.source_overlap`, over pieces)."""
    sources = [row[1:] for row in plain_ids(batch["source_ids"])]  # without BOS
    times = len(ids) // len(sources)
    shares = [source_overlap(own, sources[row // times]) for row, own in enumerate(plain_ids(ids))]
    return torch.tensor(shares, dtype=torch.float32)


def less_copying(reward: Reward, weight: float) -> Reward:
    """The reward less `weight` times the overlap: copying is the best answer to a reward for matching alone."""
    if weight == 0:
        return reward
    return lambda batch, ids: reward(batch, ids) - weight * overlap(batch, ids)


def plain_ids(ids: Tensor) -> list[list[str]]:
    """Rows of ids up to EOS, as words that the scores take."""
    mask = word_mask(ids)
    return [[str(one) for one in row[keep].tolist()] for row, keep in zip(ids, mask, strict=True)]


@torch.no_grad()
def rolled_out(
    model: Generator,
    memory: Memory,
    batch: Batch,
    ids: Tensor,
    reward: Reward,
    rewards: Tensor,
    *,
    rollouts: int,
    stride: int,
    max_length: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Q_t, what each prefix of a sample is worth: the mean reward of `rollouts` completions of it (eq. 8).

    The last place is worth the sample's own reward. Only every `stride`-th prefix is completed; the places before it
    share its worth (stride 1 is the paper's; the cost is length / stride * rollouts decodings).

    memory: of the samples, (num_samples_in_all, …). ids: (num_samples_in_all, length). rewards: theirs.
    Returns (num_samples_in_all, length); places behind EOS hold the sample's own reward.
    """
    rows, length = ids.shape
    worth = rewards.unsqueeze(1).repeat(1, length)
    alive, places = sequence_mask(ids), torch.arange(length)
    padded = torch.cat([ids, ids.new_full((rows, max(0, max_length - length)), PAD)], dim=1)
    repeated = memory.repeat(rollouts)
    for place in range(stride - 1, length - 1, stride):
        force = (torch.arange(padded.shape[1]) <= place) & sequence_mask(padded)
        completed = sample(
            model,
            repeated,
            max_length=max_length,
            forced=padded.repeat_interleave(rollouts, 0),
            force=force.repeat_interleave(rollouts, 0),
            generator=generator,
        )
        means = reward(batch, completed).unflatten(0, (rows, rollouts)).mean(1)
        shares = (places <= place) & (places > place - stride) & alive & (ids[:, place : place + 1] != EOS)
        unended = shares & alive[:, place : place + 1]
        worth = torch.where(unended, means.unsqueeze(1), worth)
    return worth


@dataclass
class RewardWatch:
    """Refuses rewards that teach nothing: not finite, or the same for all samples of every source for long."""

    name: str
    constant_steps: int = 0

    def check(self, rewards: Tensor) -> float:
        """rewards: (num_sources, num_samples). Returns the share of sources whose samples all earned the same.

        Raises:
            InputError: NaN or infinite, or `CONSTANT_STEPS` steps without any difference.
        """
        if not bool(torch.isfinite(rewards).all()):
            strange = rewards[~torch.isfinite(rewards)][0]
            raise InputError(f"the reward {self.name} is {float(strange)} for a sample; look at its matching model")
        equal = (rewards.amax(-1) == rewards.amin(-1)).float().mean().item()
        self.constant_steps = self.constant_steps + 1 if equal == 1 else 0
        if self.constant_steps >= CONSTANT_STEPS:
            raise InputError(
                f"the reward {self.name} was the same for all samples of every source in {CONSTANT_STEPS} steps: there "
                f"is nothing to learn from; take more samples, a higher temperature or another reward"
            )
        return equal
