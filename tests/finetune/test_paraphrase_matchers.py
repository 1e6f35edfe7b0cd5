"""Matching models: padding and batching change nothing, order and entities count, training separates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from finetune.paraphrase.batches import padded
from finetune.paraphrase.matchers import (
    MATCHERS,
    CrossEncoder,
    DecomposableAttention,
    Matcher,
    load_matcher,
    mention_inputs,
    pair_inputs,
    save_matcher,
)
from kg.errors import InputError

CLS, SEP = 2, 3
VOCAB = 5 + 26 + 26 + 3
ROWS = st.lists(st.lists(st.integers(4, 9), max_size=4), min_size=1, max_size=4)


@pytest.fixture(params=MATCHERS)
def matcher(request: pytest.FixtureRequest, pretrained: Path) -> Matcher:
    torch.manual_seed(0)
    if request.param == DecomposableAttention.kind:
        return DecomposableAttention.from_encoder(pretrained, hidden_size=16, dropout=0.0).eval()
    return CrossEncoder.from_encoder(pretrained, num_layers=1, special=(CLS, SEP), dropout=0.0).eval()


def tensors(rows: list[list[int]]) -> Tensor:
    return padded([torch.tensor(row, dtype=torch.long).numpy() for row in rows], 0)


def test_padding_changes_nothing(matcher: Matcher) -> None:
    left, right = [[5, 6, 7, 8], [9], []], [[5, 6], [9, 10, 11], [7]]
    whole = matcher(tensors(left), tensors(right))
    assert whole.isfinite().all()
    for row in range(3):
        alone = matcher(tensors([left[row]]), tensors([right[row]]))
        assert torch.allclose(alone, whole[row], atol=1e-5)


def test_word_order_counts(matcher: Matcher) -> None:
    """Attention and sums alone know no order: a generator would be rewarded for shuffled words."""
    left = tensors([[5, 6, 7, 8]] * 2)
    straight, turned = matcher(left, tensors([[5, 6, 7, 8], [8, 7, 6, 5]])).detach()
    assert abs(float(straight - turned)) > 1e-5


def test_sums_alone_know_no_order(pretrained: Path) -> None:
    torch.manual_seed(0)
    matcher = DecomposableAttention(num_pieces=VOCAB, embedding_size=8, hidden_size=16, dropout=0.0, positions=False)
    left = tensors([[5, 6, 7, 8]] * 2)
    straight, turned = matcher(left, tensors([[5, 6, 7, 8], [8, 7, 6, 5]])).detach()
    assert abs(float(straight - turned)) < 1e-6


def test_it_learns_what_matches_and_is_the_same_after_saving(matcher: Matcher, tmp_path: Path) -> None:
    """Equal letters match, others do not; sixty steps tell them apart."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([p for p in matcher.parameters() if p.requires_grad], lr=0.01)
    left = torch.randint(5, 30, (64, 3), generator=generator)
    other = torch.randint(5, 30, (64, 3), generator=generator)
    labels = torch.arange(64) % 2
    right = torch.where(labels[:, None] == 1, left, other)
    for _ in range(60):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(matcher(left, right), labels.float()).backward()
        optimizer.step()
    probability = matcher.probability(left, right)
    assert ((probability > 0.5) == (labels == 1)).float().mean() > 0.9
    save_matcher(tmp_path / "matcher", matcher)
    assert torch.allclose(load_matcher(tmp_path / "matcher").probability(left, right), probability, atol=1e-6)


def test_probability_leaves_the_mode_alone(matcher: Matcher) -> None:
    matcher.train()
    assert matcher.probability(tensors([[5]]), tensors([[6]])).shape == (1,)
    assert matcher.training


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_two_padded_sentences_become_one_without_gaps(rows: list[list[int]], random) -> None:
    others = [[random.randint(4, 9) for _ in range(random.randint(0, 4))] for _ in rows]
    made = pair_inputs(tensors(rows), tensors(others), cls=CLS, sep=SEP)
    for row, (a, b) in enumerate(zip(rows, others)):
        wanted = [CLS, *a, SEP, *b, SEP]
        length = len(wanted)
        assert made["input_ids"][row].tolist() == wanted + [0] * (made["input_ids"].shape[1] - length)
        assert made["attention_mask"][row].sum() == length
        assert made["token_type_ids"][row].tolist()[:length] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert not made["token_type_ids"][row][length:].any()


def test_mentions_are_found_longest_first() -> None:
    ids = torch.tensor([[CLS, 5, 6, SEP, 5, 7, SEP], [CLS, 8, SEP, 9, SEP, 0, 0]])
    found = mention_inputs(ids, {(5,): 1, (5, 6): 2})
    assert found["entity_ids"].tolist() == [[2, 1], [0, 0]]
    assert found["entity_positions"].tolist() == [[1, 4], [0, 0]]
    assert found["entity_attention_mask"].tolist() == [[1, 1], [0, 0]]
    assert mention_inputs(ids, {(11,): 1}) == {}


def test_an_entity_changes_what_a_cross_encoder_on_an_ernie_thinks(
    pretrained: Path, make_vectors: Callable[..., Path], tmp_path: Path
) -> None:
    """The same words, another vector under the mention: another opinion; and it is kept when saved."""
    left, right = tensors([[5, 6, 7]]), tensors([[6, 5, 8]])
    opinions = []
    for value in (1.0, -1.0):
        vectors = make_vectors({"Q1": [value] * 8})
        torch.manual_seed(0)
        matcher = CrossEncoder.from_ernie(pretrained, special=(CLS, SEP), dropout=0.0).eval()
        without = float(matcher(left, right).detach())
        matcher.read_mentions({(5,): 1}, vectors)
        opinions.append(float(matcher(left, right).detach()))
        assert abs(opinions[-1] - without) > 1e-6
        save_matcher(tmp_path / "matcher", matcher)
        assert float(load_matcher(tmp_path / "matcher", vectors=vectors)(left, right)) == pytest.approx(opinions[-1])
        assert float(load_matcher(tmp_path / "matcher")(left, right)) == pytest.approx(without, abs=1e-6)
    assert abs(opinions[0] - opinions[1]) > 1e-6


def test_a_plain_bert_reads_no_entities(pretrained: Path, make_vectors: Callable[..., Path]) -> None:
    matcher = CrossEncoder.from_encoder(pretrained, num_layers=1, special=(CLS, SEP), dropout=0.0)
    with pytest.raises(InputError, match="only a matcher on an ERNIE reads entities"):
        matcher.read_mentions({(5,): 1}, make_vectors({"Q1": [1.0] * 8}))


def test_a_folder_without_a_matcher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finetune matcher"):
        load_matcher(tmp_path)
