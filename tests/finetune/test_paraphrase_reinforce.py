"""Every piece of reinforced matching on a language of six words and their six synonyms, where its effect is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.paraphrase.batches import Timed, sequence_mask, source_pieces, word_mask
from finetune.paraphrase.configuration import ImitationConfig, InverseConfig, ReinforceConfig
from finetune.paraphrase.copying import Generator
from finetune.paraphrase.decoding import sample
from finetune.paraphrase.imitation import dagger, expert_ids, maximum_likelihood, roll_in, scheduled_sampling
from finetune.paraphrase.matchers import DecomposableAttention
from finetune.paraphrase.pointer_generator import PointerGenerator
from finetune.paraphrase.reinforce import Adversaries, InverseLearning, Reinforcement, is_matchers_turn
from finetune.paraphrase.rescaling import (
    curriculum_weights,
    group_normalised,
    leave_one_out,
    rank_rescaled,
    ranks,
)
from finetune.paraphrase.rewards import CONSTANT_STEPS, RewardWatch, matching, overlap, rolled_out, rouge
from finetune.paraphrase.vocabulary import BOS, EOS, PAD
from kg.errors import InputError

FIRST, NUM = 4, 6
SIZE = FIRST + 2 * NUM
"""Words 4 … 9 and their synonyms 10 … 15; a paraphrase of a sentence has a synonym for each of its words."""
PIECES = torch.arange(SIZE)


def synonym(ids: Tensor) -> Tensor:
    return torch.where(ids < FIRST, ids, (ids - FIRST + NUM) % (2 * NUM) + FIRST)


def toy_batch(size: int = 32, seed: int = 0, length: int = 3) -> dict[str, Tensor]:
    """Sources of `length` words; targets of their synonyms; the tokenizer's ids are the generator's."""
    words = torch.randint(FIRST, FIRST + NUM, (size, length), generator=torch.Generator().manual_seed(seed))
    begin, end = torch.full((size, 1), BOS), torch.full((size, 1), EOS)
    sources = torch.cat([begin, words, end], 1)
    return {
        "input_ids": sources,
        "attention_mask": torch.ones_like(sources),
        "source_ids": sources,
        "unknown_pieces": torch.zeros(size, 0, dtype=torch.long),
        "target_ids": torch.cat([synonym(words), end], 1),
        "target_pieces": synonym(words),
        "difficulty": torch.linspace(0, 1, size),
        "progress": torch.zeros(size),
        "turn": torch.zeros(size, dtype=torch.long),
    }


def meaning(batch: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Share of places that keep the source's word or its synonym: a copy earns as much as a paraphrase."""
    sources = batch["source_ids"][:, 1:-1].repeat_interleave(len(ids) // len(batch["source_ids"]), 0)
    length = sources.shape[1]
    own = torch.zeros_like(sources)
    own[:, : min(length, ids.shape[1])] = (ids * word_mask(ids))[:, :length]
    return ((own == sources) | (own == synonym(sources))).float().mean(1)


def fresh(seed: int = 0) -> PointerGenerator:
    torch.manual_seed(seed)
    return PointerGenerator(vocab_size=SIZE, embedding_size=8, hidden_size=16)


def taught(steps: int, *, copies: float = 0.0) -> PointerGenerator:
    """A generator that has seen `steps` batches of targets, a share of which are the sources themselves."""
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        batch = toy_batch(seed=step)
        kept = torch.arange(32) < 32 * copies
        own = torch.where(kept[:, None], batch["source_ids"][:, 1:], batch["target_ids"])
        optimise(model, optimizer, maximum_likelihood, batch | {"target_ids": own})
    return model


def optimise(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, objective: Callable[..., Any], batch: Any
) -> dict:
    optimizer.zero_grad()
    losses = objective(model, batch)
    losses["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def reinforced(
    model: PointerGenerator, objective: Reinforcement, steps: int, lr: float = 0.01
) -> list[dict[str, float]]:
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return [optimise(model, optimizer, objective, toy_batch(seed=100 + step)) for step in range(steps)]


def late(history: list[dict[str, float]], name: str) -> float:
    return float(np.mean([entry[name] for entry in history[-8:]]))


def plain_config(**settings: Any) -> ReinforceConfig:
    return ReinforceConfig(**({"max_length": 5, "kl_weight": 0.0, "copy_penalty": 0.0} | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "rank", "rank_form": "centred"},
        {"advantage": "group"},
        {"advantage": "leave_one_out"},
        {"advantage": "rank", "rollouts": 1, "rollout_stride": 2},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_the_reward_goes_up(settings: dict[str, Any]) -> None:
    """From an untaught generator: chance keeps a meaning at one place of six."""
    objective = Reinforcement(meaning, plain_config(**settings), reference=None, reward_name="meaning")
    history = reinforced(fresh(), objective, 50, lr=0.03)
    assert late(history, "reward") > np.mean([entry["reward"] for entry in history[:4]]) + 0.15


@pytest.mark.parametrize("form", ["paper", "centred"])
def test_ranks_as_the_paper_takes_them_push_all_samples_down(form: Any) -> None:
    """Equal rewards say nothing. Centred ranks then change nothing; the paper's make every sample less likely."""
    model = taught(10)
    objective = Reinforcement(
        lambda batch, ids: torch.ones(len(ids)),
        plain_config(advantage="rank", rank_form=form),
        reference=None,
        reward_name="flat",
    )
    torch.manual_seed(1)
    model.zero_grad()
    objective(model, toy_batch())["loss"].backward()
    norm = float(sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) ** 0.5)
    assert norm == 0.0 if form == "centred" else norm > 0.01
    before = float(model(toy_batch(), toy_batch()["target_ids"]).mean().detach())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    after = float(model(toy_batch(), toy_batch()["target_ids"]).mean().detach())
    assert after == before if form == "centred" else after < before


def test_the_penalty_lowers_copying_and_keeps_the_meaning() -> None:
    """Taught to copy mostly. The bare reward sees no difference between copy and paraphrase."""
    ends = {}
    for penalty in (0.0, 0.5):
        objective = Reinforcement(meaning, plain_config(copy_penalty=penalty), reference=None, reward_name="meaning")
        ends[penalty] = reinforced(taught(40, copies=0.75), objective, 30)
    assert late(ends[0.5], "overlap") < 0.5 * late(ends[0.0], "overlap")
    assert late(ends[0.5], "reward") > late(ends[0.0], "reward") - 0.1


def test_the_kl_term_holds_the_generator_back() -> None:
    far = {}
    for weight in (1e-9, 2.0):
        model, reference = taught(20), taught(20).requires_grad_(False)
        objective = Reinforcement(meaning, plain_config(kl_weight=weight), reference=reference, reward_name="meaning")
        history = reinforced(model, objective, 15)
        assert history[0]["kl"] == pytest.approx(0.0, abs=1e-5), "before the first step they are the same"
        far[weight] = late(history, "kl")
    assert far[2.0] < 0.5 * far[1e-9]


def test_targets_may_be_learnt_beside_the_reward() -> None:
    objective = Reinforcement(
        lambda batch, ids: torch.zeros(len(ids)), plain_config(mle_weight=1.0), reference=None, reward_name="none"
    )
    history = reinforced(fresh(), objective, 30, lr=0.03)
    assert late(history, "nll") < 0.8 * history[0]["nll"]
    assert history[0]["constant_groups"] == 1.0


def test_centred_ranks_have_mean_zero_and_the_papers_have_not() -> None:
    """-0.124 for four samples and delta 12: computed from the formula alone."""
    rewards = torch.tensor([[0.1, 0.7, 0.3, 0.9], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 2.0, 3.0]])
    centred = rank_rescaled(rewards, delta=12, form="centred")
    assert torch.allclose(centred.mean(1), torch.zeros(3), atol=1e-6)
    assert torch.equal(centred[1], torch.zeros(4)), "equal rewards push nothing"
    assert (centred[0].argsort() == rewards[0].argsort()).all()
    paper = rank_rescaled(rewards, delta=12, form="paper")[0]
    formula = [1 / (1 + np.exp(-12 * (0.5 - rank / 4))) - 0.5 for rank in (4, 2, 3, 1)]
    assert paper.numpy() == pytest.approx(formula, abs=1e-6)
    assert float(paper.mean()) == pytest.approx(-0.124, abs=5e-4)


def test_ranks_share_and_leave_out() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [1.5, 4.0, 1.5, 3.0]
    masked = ranks(torch.tensor([3.0, 9.0, 1.0]), torch.tensor([True, False, True]))
    assert masked[[0, 2]].tolist() == [1.0, 2.0]


def test_group_baselines_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    assert group_normalised(rewards)[0].numpy() == pytest.approx(np.array([-1, 0, 1]) / np.sqrt(2 / 3), abs=1e-5)
    assert group_normalised(rewards)[1].tolist() == [0.0, 0.0, 0.0]
    assert leave_one_out(rewards)[0].tolist() == [1 - 2.5, 0.0, 3 - 1.5]


def test_the_curriculum_takes_near_pairs_first_and_all_alike_in_the_end() -> None:
    difficulty = torch.tensor([0.0, 0.5, 1.0]).repeat(4000)
    random = torch.Generator().manual_seed(0)

    def share(progress: float, end: float) -> list[float]:
        where = torch.full((12000,), progress)
        drawn = curriculum_weights(difficulty, where, start=15.0, end=end, generator=random)
        return drawn.view(-1, 3).mean(0).tolist()

    assert share(0.0, 8.0) == pytest.approx([0.9994, 0.5, 0.0006], abs=0.03)
    assert share(1.0, 0.0) == pytest.approx([0.5, 0.5, 0.5], abs=0.03)


def test_roll_outs_are_worth_what_is_expected_of_a_prefix() -> None:
    """Against enumeration: the mean reward of all completions, weighed by their probability."""
    model = taught(5).eval()
    batch = toy_batch(size=2, seed=3, length=2)
    memory, length = model.encode(batch), 4
    ids = torch.tensor([[4, 5, 10, EOS], [12, EOS, PAD, PAD]])

    def reward(_: Any, rows: Tensor) -> Tensor:
        """Depends on all that is written, behind the prefix too."""
        return ((rows * word_mask(rows)) % 3 == 1).sum(1) / 4.0

    rewards = reward(batch, ids)
    found = rolled_out(
        model,
        memory,
        batch,
        ids,
        reward,
        rewards,
        rollouts=3000,
        stride=1,
        max_length=length,
        generator=torch.Generator().manual_seed(0),
    )
    for place in (0, 1):
        assert float(found[0, place]) == pytest.approx(
            expected_reward(model, batch, ids[0, : place + 1], reward), abs=0.02
        )
    assert found[0, 3] == rewards[0], "the whole sentence is worth its own reward"
    assert found[1, 1] == rewards[1]


@torch.no_grad()
def expected_reward(model: Generator, batch: Any, prefix: Tensor, reward: Callable[..., Tensor]) -> float:
    """Of completions to three words at most, over the ids that may be written, renormalised as sampling does."""
    memory = model.encode(batch).select(torch.tensor([0]))
    words = list(range(FIRST, SIZE))
    total = 0.0
    tails = [[], *([w] for w in words), *map(list, itertools.product(words, repeat=2))]
    for tail in tails:
        sentence = [*prefix.tolist(), *tail]
        if len(sentence) > 3:
            continue
        state, previous, chance = model.start(memory), torch.tensor([BOS]), 1.0
        for place, one in enumerate([*sentence, EOS]):
            mixture, state = model.step(memory, state, previous)
            probs = mixture.log_probs(memory.source_ids, 0).exp()[0]
            allowed = torch.tensor([EOS, *words])
            if place >= len(prefix) and place < 3:
                chance *= float(probs[one] / probs[allowed].sum())
            previous = torch.tensor([one])
        total += chance * float(reward(batch, torch.tensor([[*sentence, EOS]]))[0])
    return total


def test_an_inverse_learner_tells_targets_from_samples_and_the_generator_follows() -> None:
    """RbM-IRL from a generator that mostly copies: the matching model comes to prefer synonyms, and is followed."""
    torch.manual_seed(0)
    generator = taught(40, copies=0.8)
    matcher = DecomposableAttention(num_pieces=SIZE, embedding_size=12, hidden_size=24, dropout=0.0)
    with torch.no_grad():
        matcher.embedding.weight[:, :12] = torch.cat([torch.zeros(4, 12), torch.eye(12)])
    learning = Reinforcement(matching(matcher, PIECES), plain_config(), reference=None, reward_name="of the matcher")
    config = InverseConfig(curriculum=False, warmup_steps=10)
    objective = InverseLearning(learning, config, PIECES)
    pair = Adversaries(generator, matcher)
    optimizer = torch.optim.Adam([p for p in pair.parameters() if p.requires_grad], lr=0.01)
    torch.manual_seed(1)
    history = []
    for step in range(70):
        batch = toy_batch(seed=200 + step) | {"turn": torch.full((32,), step)}
        history.append(optimise(pair, optimizer, objective, batch))
    judged = [entry for entry in history if "matcher_of_targets" in entry]
    gaps = [entry["matcher_of_targets"] - entry["matcher_of_samples"] for entry in judged]
    assert abs(gaps[0]) < 0.1
    assert max(gaps) > 0.3, "it separates them"
    written = [entry for entry in history if "overlap" in entry]
    assert np.mean([e["overlap"] for e in written[-5:]]) < 0.6 * np.mean([e["overlap"] for e in written[:3]])


def test_turns_alternate_after_the_warm_up() -> None:
    config = InverseConfig(warmup_steps=2, matcher_steps=1, generator_steps=2)
    turns = "".join("M" if is_matchers_turn(turn, config) else "g" for turn in range(8))
    assert turns == "MMMggMgg"


def test_a_turn_trains_its_own_side_alone() -> None:
    generator = fresh()
    matcher = DecomposableAttention(num_pieces=SIZE, embedding_size=12, hidden_size=8, dropout=0.0)
    learning = Reinforcement(matching(matcher, PIECES), plain_config(), reference=None, reward_name="m")
    objective, pair = InverseLearning(learning, InverseConfig(), PIECES), Adversaries(generator, matcher)
    for turn, (trained, left) in enumerate([(matcher, generator), (generator, matcher)]):
        pair.zero_grad()
        batch = toy_batch() | {"turn": torch.full((32,), turn), "difficulty": torch.zeros(32)}
        objective(pair, batch)["loss"].backward()
        assert any(p.grad is not None and p.grad.any() for p in trained.parameters())
        assert all(p.grad is None for p in left.parameters())


def test_rouge_and_overlap_are_the_samples_own() -> None:
    """Samples of a source lie side by side: a reward that mixes sources up would still train."""
    batch = toy_batch(size=2, seed=5)
    copy, target = batch["source_ids"][:, 1:], batch["target_ids"]
    ids = torch.stack([copy, target], 1).flatten(0, 1)
    assert overlap(batch, ids).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert rouge(2)(batch, ids).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert rouge(None)(batch, ids).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert meaning(batch, ids).tolist() == [1.0] * 4


def test_a_matching_reward_sees_source_and_sample_in_the_tokenizers_ids() -> None:
    seen = {}

    class Spy(DecomposableAttention):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            seen.update(left=left, right=right)
            return torch.zeros(len(left))

    batch = toy_batch(size=2, seed=6)
    pieces = torch.arange(SIZE) + 100
    batch["input_ids"] = torch.where(batch["source_ids"] >= FIRST, batch["source_ids"] + 100, batch["source_ids"])
    ids = batch["target_ids"].repeat_interleave(2, 0)
    spy = Spy(num_pieces=SIZE + 200, embedding_size=4)
    assert matching(spy, pieces)(batch, ids).tolist() == [0.5] * 4
    assert seen["left"][:, :3].tolist() == (batch["source_ids"][:, 1:-1] + 100).repeat_interleave(2, 0).tolist()
    assert seen["right"].tolist() == [
        [*row, 0] for row in (batch["target_pieces"] + 100).repeat_interleave(2, 0).tolist()
    ]
    assert source_pieces(batch).shape == (2, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_stops_training(value: float) -> None:
    objective = Reinforcement(
        lambda batch, ids: torch.full((len(ids),), value), plain_config(), reference=None, reward_name="broken"
    )
    with pytest.raises(InputError, match=f"the reward broken is {value}"):
        objective(fresh(), toy_batch())


def test_a_constant_reward_is_counted_and_then_refused() -> None:
    watch = RewardWatch("flat")
    assert watch.check(torch.tensor([[1.0, 1.0], [1.0, 2.0]])) == 0.5
    for _ in range(CONSTANT_STEPS - 1):
        assert watch.check(torch.ones(2, 2)) == 1.0
    with pytest.raises(InputError, match="the same for all samples of every source in 50 steps"):
        watch.check(torch.ones(2, 2))


def test_scheduled_sampling_with_rate_zero_is_maximum_likelihood() -> None:
    model, batch = taught(5), toy_batch()
    batch["progress"] = torch.ones(32)
    plain = float(maximum_likelihood(model, batch)["loss"])
    for objective in (scheduled_sampling, dagger):
        assert float(objective(ImitationConfig(rate=0.0))(model, batch)["loss"]) == pytest.approx(plain, abs=1e-6)


def test_what_is_rolled_in_is_the_models_own_as_often_as_asked() -> None:
    model, batch = fresh(), toy_batch(size=400)
    targets, memory = batch["target_ids"], model.encode(batch)
    for rate, low, high in ((0.0, 0.0, 0.0), (0.4, 0.3, 0.45), (1.0, 0.8, 1.0)):
        own = roll_in(model, memory, targets, rate=rate, generator=torch.Generator().manual_seed(0))
        changed = (own != targets)[:, :3].float().mean()
        assert low <= changed <= high, "an untaught model seldom says the target's word by chance"
        assert (own[:, 3] == EOS).all()
        assert not (own[:, :3] == EOS).any(), "it does not end before its target"


def test_scheduled_sampling_meets_mistakes_that_maximum_likelihood_never_sees() -> None:
    """After training, going on from a wrong word costs less with it than without."""
    losses = {}
    for name, objective in (("mle", maximum_likelihood), ("sampled", scheduled_sampling(ImitationConfig(rate=0.9)))):
        model = fresh()
        torch.manual_seed(2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(120):
            batch = toy_batch(seed=step) | {"progress": torch.full((32,), step / 120)}
            optimise(model, optimizer, objective, batch)
        batch = toy_batch(size=128, seed=999)
        wrong = batch["target_ids"].clone()
        wrong[:, 0] = (wrong[:, 0] - FIRST + 1) % NUM + FIRST
        inputs = torch.cat([torch.full((128, 1), BOS), wrong[:, :-1]], 1)
        losses[name] = float(-model(batch, batch["target_ids"], inputs=inputs)[:, 1:3].mean())
    assert losses["sampled"] < losses["mle"]


@pytest.mark.parametrize(
    ("said", "expert"),
    [
        ([7, 8, 9], [7, 8, 9, EOS]),
        ([8, 9, 4], [7, 8, EOS, EOS]),
        ([7, 4, 4], [7, 8, 9, EOS]),
    ],
)
def test_the_dynamic_expert_goes_on_from_what_was_said(said: list[int], expert: list[int]) -> None:
    """Target 7 8 9. Having said 8 9, all that is left is to end; a wrong word takes the place of the right one."""
    found = expert_ids(torch.tensor([[*said, EOS]]), torch.tensor([[7, 8, 9, EOS]]))
    assert found.tolist() == [expert]


def test_batches_tell_where_training_stands() -> None:
    class Two:
        def __len__(self) -> int:
            return 2

        def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
            return {"input_ids": torch.zeros(3, 1)}

    timed = Timed(Two(), max_steps=4, batches_a_step=2)
    steps = [timed.batch(epoch, index) for epoch in range(5) for index in range(2)]
    assert [int(batch["turn"][0]) for batch in steps] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [float(batch["progress"][0]) for batch in steps[::2]] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_samples_of_a_policy_end_and_are_padded() -> None:
    model, batch = fresh(), toy_batch(size=50)
    ids = sample(model, model.encode(batch), max_length=5, generator=torch.Generator().manual_seed(0))
    assert ids.shape[1] <= 5
    for row, mask in zip(ids.tolist(), sequence_mask(ids).tolist(), strict=True):
        end = row.index(EOS)
        assert mask == [place <= end for place in range(len(row))]
        assert set(row[end + 1 :]) <= {PAD}


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": 1}, {"rollouts": -1}, {"rollout_stride": 0}, {"max_length": 1}, {"temperature": 0.0}],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ReinforceConfig(**settings)
    with pytest.raises(InputError):
        InverseConfig(matcher_steps=0)
    with pytest.raises(InputError):
        ImitationConfig(rate=1.5)
