"""Decoding against exhaustive search, and what it must never do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.paraphrase import copying, decoding
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.constraints import find_runs, forbid_repeats
from finetune.paraphrase.copying import Generator, Memory, Mixture, State
from finetune.paraphrase.decoding import decode, sample
from finetune.paraphrase.vocabulary import BOS, EOS, PAD
from kg.errors import InputError

WORDS = [4, 5, 6]
SIZE = 7
UNKNOWN = 7
"""The one numbered unknown id; a row's source holds it."""


class Bigrams(Generator):
    """P(next | previous) from a table, one table a source; writes with 0.8, copies the unknown id otherwise."""

    def __init__(self, seed: int, sources: int) -> None:
        super().__init__()
        self.vocab_size = SIZE
        self.tables = torch.randn(sources, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

    def encode(self, batch: dict[str, Tensor]) -> Memory:
        ids = batch["source_ids"]
        return Memory(ids, torch.ones_like(ids).bool(), self.num_unknown(ids), (self.tables[: len(ids)],))

    def start(self, memory: Memory) -> State:
        return (torch.zeros(len(memory.mask), 1),)

    def step(self, memory: Memory, state: State, previous: Tensor) -> tuple[Mixture, State]:
        logits = memory.states[0][torch.arange(len(previous)), self.known(previous)]
        copies = torch.zeros(memory.source_ids.shape).index_fill(1, torch.tensor([0]), 1.0)
        return Mixture(logits, copies, torch.full((len(previous),), 0.8)), (state[0] + 1,)

    def mixture(self, memory: Memory, inputs: Tensor, places: Tensor) -> Mixture:
        raise AssertionError("decoding takes a step at a time")

    def settings(self) -> dict[str, Any]:
        raise AssertionError("a toy is never saved")

    def log_prob(self, source: int, sentence: list[int]) -> float:
        """Of a sentence and its end; PAD, UNK and BOS keep their mass, as in decoding."""
        memory = self.encode({"source_ids": torch.full((source + 1, 2), UNKNOWN)})
        total, previous = 0.0, BOS
        for one in [*sentence, EOS]:
            mixture, _ = self.step(memory, (torch.zeros(source + 1, 1),), torch.full((source + 1,), previous))
            total += float(mixture.log_probs(memory.source_ids, 1)[source, one])
            previous = one
        return total


def batch_of(sources: int) -> dict[str, Tensor]:
    return {"source_ids": torch.full((sources, 2), UNKNOWN)}


def all_sentences(length: int) -> list[list[int]]:
    ids = [*WORDS, UNKNOWN]
    return [list(s) for n in range(1, length + 1) for s in itertools.product(ids, repeat=n)]


def plain(row: Tensor) -> list[int]:
    ids = row.tolist()
    return ids[: ids.index(EOS)]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(penalty: float) -> None:
    """Three sources at once, up to three words of four: 84 sentences; the widest beam prunes nothing that matters."""
    model = Bigrams(seed=1, sources=3)
    config = DecodingConfig(
        strategy="beam", num_beams=64, num_return=5, max_length=3, no_repeat_ngram=0, length_penalty=penalty
    )
    found = decode(model, batch_of(3), config)
    for source in range(3):
        scored = [
            (model.log_prob(source, sentence) / (len(sentence) + 1) ** penalty, sentence)
            for sentence in all_sentences(3)
        ]
        best = [sentence for _, sentence in sorted(scored, key=lambda pair: -pair[0])[:5]]
        assert [plain(row) for row in found[source]] == best


def test_one_beam_is_greedy() -> None:
    model = Bigrams(seed=2, sources=4)
    greedy = decode(model, batch_of(4), DecodingConfig(max_length=6))
    beam = decode(model, batch_of(4), DecodingConfig(strategy="beam", num_beams=1, max_length=6))
    assert [plain(row) for row in greedy[:, 0]] == [plain(row) for row in beam[:, 0]]


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_comes_twice_and_nothing_special_is_written(strategy: str, n: int) -> None:
    model = Bigrams(seed=3, sources=5)
    config = DecodingConfig(strategy=strategy, max_length=9, min_length=4 if n > 1 else 3, no_repeat_ngram=n)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    for row in decode(model, batch_of(5), config, generator=random).flatten(0, 1):
        ids = plain(row)
        assert set(ids) <= {*WORDS, UNKNOWN}
        assert len(ids) >= config.min_length
        runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        assert len(runs) == len(set(runs))


def test_repeats_are_forbidden_as_the_definition_says() -> None:
    prefixes = torch.tensor([[4, 5, 4, 6, 4], [5, 5, 5, 5, 5], [4, 5, 6, 4, 5]])
    for n in (1, 2, 3):
        scores = torch.zeros(3, SIZE)
        forbid_repeats(scores, prefixes, n)
        for row, ids in enumerate(prefixes.tolist()):
            seen = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
            wanted = [one for one in range(SIZE) if (*ids[len(ids) - n + 1 :], one) in seen]
            assert (scores[row] == float("-inf")).nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
def test_required_runs_survive(strategy: str) -> None:
    """Two runs, one of them twice: whatever the model prefers, all stand in the output, whole."""
    model = Bigrams(seed=4, sources=6)
    required = [(4, UNKNOWN, 5), (6, 6), (6, 6)]
    config = DecodingConfig(strategy=strategy, max_length=9, no_repeat_ngram=3)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    ids = decode(model, batch_of(6), config, required=[required] * 3 + [[]] * 3, generator=random)
    for row in ids[:3, 0]:
        assert None not in find_runs(plain(row), required)
    free = decode(model, batch_of(6), config, generator=torch.Generator().manual_seed(0))
    if strategy != "nucleus":
        assert [plain(row) for row in ids[3:, 0]] == [plain(row) for row in free[3:, 0]], "others are left alone"


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_a_constraint_without_room_is_broken_and_told(strategy: str) -> None:
    model = Bigrams(seed=5, sources=1)
    required = [(4, 5, 6, 4)]
    config = DecodingConfig(strategy=strategy, max_length=3)  # type: ignore[arg-type]
    ids = decode(model, batch_of(1), config, required=[required])
    assert find_runs(plain(ids[0, 0]), required) == [None]


def test_runs_do_not_share_places_and_long_ones_choose_first() -> None:
    assert find_runs([4, 5, 4], [(4,), (4, 5)]) == [(2, 3), (0, 2)]
    assert find_runs([4, 5], [(4,), (4, 5)]) == [None, (0, 2)]
    assert find_runs([4, 4], [(4,), (4,), (4,)]) == [(0, 1), (1, 2), None]


def test_a_nucleus_holds_the_likeliest_alone() -> None:
    model = Bigrams(seed=6, sources=1)
    memory = model.encode(batch_of(1)).repeat(400)
    mixture, _ = model.step(memory, model.start(memory), torch.full((400,), BOS))
    probs = mixture.log_probs(memory.source_ids, 1)[0].exp()
    probs[[PAD, 1, BOS, EOS]] = 0.0
    probs /= probs.sum()
    order = probs.argsort(descending=True).tolist()
    held = next(n for n in range(1, SIZE) if probs[order[:n]].sum() >= 0.6)
    drawn = sample(model, memory, max_length=3, min_length=1, top_p=0.6, generator=torch.Generator().manual_seed(0))
    assert set(drawn[:, 0].tolist()) == set(order[:held])


def test_samples_come_as_often_as_the_model_says() -> None:
    """4,000 draws of the first word against its distribution: within four deviations."""
    model = Bigrams(seed=7, sources=1)
    memory = model.encode(batch_of(1)).repeat(4000)
    mixture, _ = model.step(memory, model.start(memory), torch.full((4000,), BOS))
    probs = mixture.log_probs(memory.source_ids, 1)[0].exp()
    probs[[PAD, 1, BOS]] = 0.0
    probs /= probs.sum()
    drawn = sample(model, memory, max_length=2, generator=torch.Generator().manual_seed(0))[:, 0]
    counts = torch.bincount(drawn, minlength=SIZE + 1) / 4000
    assert ((counts - probs).abs() <= 4 * (probs * (1 - probs) / 4000).sqrt() + 1e-9).all()


def test_numbers_given_for_each_row_make_it_the_same_in_any_batch() -> None:
    """And as often as the model says: the inverse of the distribution, place by place."""
    model = Bigrams(seed=9, sources=1)
    uniforms = torch.linspace(0, 1, 4001)[:-1].unsqueeze(1).repeat(1, 4)
    many = model.encode(batch_of(1)).repeat(4000)
    drawn = sample(model, many, max_length=4, uniforms=uniforms)
    alone = sample(model, model.encode(batch_of(1)), max_length=4, uniforms=uniforms[1234:1235])
    length = alone.shape[1]
    assert drawn[1234, :length].tolist() == alone[0].tolist()
    mixture, _ = model.step(many, model.start(many), torch.full((4000,), BOS))
    probs = mixture.log_probs(many.source_ids, 1)[0].exp()
    probs[[PAD, 1, BOS]] = 0.0
    counts = torch.bincount(drawn[:, 0], minlength=SIZE + 1) / 4000
    assert torch.allclose(counts, probs / probs.sum(), atol=1e-3)


def test_a_wide_nucleus_is_found_among_all_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a few likeliest ids first is a matter of time, not of what is drawn, row by row."""
    model = Bigrams(seed=11, sources=20)
    memory = model.encode(batch_of(20)).repeat(10)
    uniforms = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
    drawn = {}
    for width in (1, 2, 1024):
        monkeypatch.setattr(decoding, "LIKELIEST", width)
        drawn[width] = sample(model, memory, max_length=6, top_p=0.7, uniforms=uniforms).tolist()
    assert drawn[1] == drawn[2] == drawn[1024]
    assert len({tuple(row) for row in drawn[1024]}) > 20


@pytest.mark.parametrize("forced", [False, True])
def test_rows_go_on_alone_when_others_are_done(monkeypatch: pytest.MonkeyPatch, forced: bool) -> None:
    """Leaving rows behind is a matter of time: constraints, forced ids and numbers drawn with stay a row's own."""
    model = Bigrams(seed=12, sources=30)
    memory = model.encode(batch_of(30)).repeat(10)
    draw = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = {
        "uniforms": torch.rand(300, 9, generator=draw),
        "no_repeat_ngram": 2,
        "required": [((4, 5),) if row % 3 == 0 else () for row in range(300)],
    }
    if forced:
        settings["force"] = (torch.rand(300, 9, generator=draw) < 0.3) & (torch.arange(9) < 3)
        settings["forced"] = torch.randint(4, 7, (300, 9), generator=draw)
    written, carried = {}, []
    step = model.step
    monkeypatch.setattr(model, "step", lambda m, s, previous: carried.append(len(previous)) or step(m, s, previous))
    for most in (0.0, 0.75, 1.0):
        monkeypatch.setattr(copying, "MOST_CARRIED", most)
        written[most] = sample(model, memory, max_length=9, **settings).tolist()
    assert written[0.0] == written[0.75] == written[1.0]
    lengths = {row.index(EOS) if EOS in row else 9 for row in written[1.0]}
    assert len(lengths) >= 4
    assert carried[:9] == [300] * 9, "all of them, always"
    assert carried[-1] < 0.75 * 300, "the last step is a few rows' alone"


def test_forced_ids_stand_where_they_were_forced() -> None:
    """The prefix of a roll-out is its sample's; what follows is drawn; an ended prefix stays ended."""
    model = Bigrams(seed=8, sources=2)
    forced = torch.tensor([[4, 6, 5, 0, 0], [5, EOS, 0, 0, 0]])
    force = torch.tensor([[True, True, False, False, False], [True, True, False, False, False]])
    memory = model.encode(batch_of(2))
    drawn = sample(model, memory, max_length=5, forced=forced, force=force, generator=torch.Generator().manual_seed(0))
    assert drawn[0, :2].tolist() == [4, 6]
    assert drawn[1].tolist()[:2] == [5, EOS]
    assert set(drawn[1, 2:].tolist()) <= {PAD}


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.0},
        {"temperature": 0.0},
        {"max_length": 0},
        {"min_length": 30},
        {"num_return": 3},
        {"strategy": "beam", "num_beams": 2, "num_return": 3},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DecodingConfig(**settings)
