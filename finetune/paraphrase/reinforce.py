"""Reinforced matching (Li et al. 2018): a generator that earns what a matching model thinks of its samples.

`Reinforcement` is REINFORCE with whatever reward, rescaling and penalties its config switches on. `InverseLearning`
alternates it with the matching model's own learning from the generator's samples.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from finetune.paraphrase.batches import Batch, sequence_mask, source_pieces, to_pieces
from finetune.paraphrase.configuration import InverseConfig, ReinforceConfig
from finetune.paraphrase.copying import Generator
from finetune.paraphrase.decoding import sample
from finetune.paraphrase.imitation import nll
from finetune.paraphrase.matchers import Matcher
from finetune.paraphrase.rescaling import ADVANTAGES, curriculum_weights, rank_rescaled
from finetune.paraphrase.rewards import Reward, RewardWatch, less_copying, overlap, rolled_out, rouge


class Reinforcement:
    """Σ_t log p(y_t) A_t over sampled sentences, to be maximised: compute_losses of the training loop.

    reward: of samples, before the penalty for copying. reference: what the KL term is to (frozen); None without it.
    reward_name: for messages. The losses besides `loss` are figures: reward (before the penalty), overlap, kl,
    constant_groups (share of sources whose samples all earned the same), length.
    """

    def __init__(
        self, reward: Reward, config: ReinforceConfig, *, reference: Generator | None, reward_name: str
    ) -> None:
        assert reference is not None or config.kl_weight == 0, "a KL term needs the generator it is to"
        self.reward, self.config, self.reference = reward, config, reference
        self.penalised = less_copying(reward, config.copy_penalty)
        self.watch = RewardWatch(reward_name)

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
        """weights: (batch,), 0 or 1 a source (the curriculum); default all 1."""
        config, generator = self.config, cast("Generator", model)
        memory = generator.encode(batch)
        ids, figures, advantages = self._sampled(generator, batch)
        mask = sequence_mask(ids)
        log_probs = model(batch, ids, memory=memory.repeat(config.num_samples))
        if weights is not None:
            advantages = advantages * weights.repeat_interleave(config.num_samples).unsqueeze(1)
        loss = -(advantages * log_probs * mask).sum() / mask.sum()
        if self.reference is not None and config.kl_weight:
            figures["kl"] = self._kl(batch, ids, log_probs, mask)
            loss = loss + config.kl_weight * figures["kl"]
        if config.mle_weight:
            gold = model(batch, batch["target_ids"], memory=memory)
            figures["nll"] = nll(gold, batch["target_ids"])
            loss = loss + config.mle_weight * figures["nll"]
        return {"loss": loss, **figures}

    @torch.no_grad()
    def _sampled(self, generator: Generator, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Ids (batch * num_samples, length), figures, and advantages of the same shape as the ids."""
        config = self.config
        was_training = generator.training
        generator.eval()
        memory = generator.encode(batch).repeat(config.num_samples)
        ids = sample(generator, memory, max_length=config.max_length, temperature=config.temperature)
        rewards = self.penalised(batch, ids)
        constant = self.watch.check(rewards.unflatten(0, (-1, config.num_samples)))
        advantages = self._advantages(rewards.unflatten(0, (-1, config.num_samples))).flatten()
        if config.rollouts:
            worth = rolled_out(
                generator,
                memory,
                batch,
                ids,
                self.penalised,
                rewards,
                rollouts=config.rollouts,
                stride=config.rollout_stride,
                max_length=config.max_length,
            )
            mask = sequence_mask(ids)
            places = rank_rescaled(worth, delta=config.delta2, form=config.rank_form, mask=mask)
            spread = places + advantages.unsqueeze(1)
        else:
            spread = advantages.unsqueeze(1).expand(ids.shape)
        generator.train(was_training)
        copied = overlap(batch, ids)
        figures = {
            "reward": (rewards + config.copy_penalty * copied).mean(),
            "overlap": copied.mean(),
            "constant_groups": torch.tensor(constant),
            "length": sequence_mask(ids).sum(1).float().mean(),
        }
        return ids, figures, spread

    def _advantages(self, rewards: Tensor) -> Tensor:
        """(num_sources, num_samples) -> the same."""
        if self.config.advantage == "rank":
            return rank_rescaled(rewards, delta=self.config.delta1, form=self.config.rank_form)
        return ADVANTAGES[self.config.advantage](rewards)

    def _kl(self, batch: Batch, ids: Tensor, log_probs: Tensor, mask: Tensor) -> Tensor:
        """Mean over places of exp(r) - r - 1, r = log(reference / policy): never negative (Schulman 2020, k3)."""
        assert self.reference is not None, "checked by the caller"
        with torch.no_grad():
            memory = self.reference.encode(batch).repeat(self.config.num_samples)
            theirs = self.reference(batch, ids, memory=memory)
        ratio = (theirs - log_probs).clamp(max=10.0)
        return ((ratio.exp() - ratio - 1) * mask).sum() / mask.sum()


class Adversaries(nn.Module):
    """The two that RbM-IRL trains in turn, as one module of the training loop."""

    def __init__(self, generator: Generator, matcher: Matcher) -> None:
        super().__init__()
        self.generator = generator
        self.matcher = matcher


class InverseLearning:
    """RbM-IRL: the matching model learns to prefer targets to samples by as much as they differ, the generator to earn
    its favour, in turn (eq. 5 and 6). A step's losses are the ones of whoever's turn it is."""

    def __init__(self, reinforcement: Reinforcement, config: InverseConfig, pieces: Tensor) -> None:
        """reinforcement: its reward must be that of the matching model that learns. pieces: as in `to_pieces`."""
        self.reinforcement, self.config, self.pieces = reinforcement, config, pieces

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pair, config = cast("Adversaries", model), self.config
        if is_matchers_turn(int(batch["turn"][0]), config):
            losses = self.matcher_losses(pair, batch)
        else:
            losses = self.reinforcement(pair.generator, batch, self._weights(batch))
        return losses

    def matcher_losses(self, pair: Adversaries, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """mean of w max(0, 1 - ROUGE-L(sample, target) + M(X, sample) - M(X, target)), one sample a source."""
        generator = pair.generator
        was_training = generator.training
        generator.eval()
        with torch.no_grad():
            settings = self.reinforcement.config
            memory = generator.encode(batch)
            ids = sample(generator, memory, max_length=settings.max_length, temperature=settings.temperature)
            likeness = rouge(None)(batch, ids)
        generator.train(was_training)
        sources = source_pieces(batch)
        own = torch.sigmoid(pair.matcher(sources, to_pieces(ids, batch["unknown_pieces"], self.pieces)).float())
        gold = torch.sigmoid(pair.matcher(sources, batch["target_pieces"]).float())
        hinge = (1 - likeness + own - gold).clamp_min(0)
        weights = self._weights(batch)
        figures = {"matcher_of_samples": own.detach().mean(), "matcher_of_targets": gold.detach().mean()}
        return {"loss": (weights * hinge).sum() / weights.sum().clamp_min(1), **figures}

    def _weights(self, batch: Batch) -> Tensor:
        if not self.config.curriculum:
            return torch.ones_like(batch["difficulty"])
        config = self.config
        start, end = config.delta3_start, config.delta3_end
        return curriculum_weights(batch["difficulty"], batch["progress"], start=start, end=end)


def is_matchers_turn(turn: int, config: InverseConfig) -> bool:
    """turn: number of the step, 0 …."""
    if turn < config.warmup_steps:
        return True
    place = (turn - config.warmup_steps) % (config.matcher_steps + config.generator_steps)
    return place < config.matcher_steps
