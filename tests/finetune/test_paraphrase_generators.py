"""One case for every generator: what it says step by step is what it says at once, and it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.paraphrase import copying
from finetune.paraphrase.batches import collate, encode_pairs, sequence_mask
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.copying import Generator, shifted
from finetune.paraphrase.imitation import maximum_likelihood
from finetune.paraphrase.pairs import Pair
from finetune.paraphrase.paraphraser import GENERATORS, Paraphraser, first_texts
from finetune.paraphrase.pointer_generator import PointerGenerator
from finetune.paraphrase.transformer import CopyTransformer, load_text_encoder
from finetune.paraphrase.vocabulary import EOS, Vocabulary, read_tokenizer
from kg.errors import InputError

PAIRS = [
    Pair(source="a b c d", target="b a"),
    Pair(source="q w", target="w e r t y"),
    Pair(source="кіт a z", target="z кіт"),
]


@pytest.fixture(scope="module")
def vocabulary(pretrained: Path) -> Vocabulary:
    return Vocabulary.build(read_tokenizer(pretrained), ["a b c d e r t y w"], size=13)


@pytest.fixture(params=GENERATORS)
def generator(request: pytest.FixtureRequest, pretrained: Path, vocabulary: Vocabulary) -> Generator:
    torch.manual_seed(0)
    if request.param == "pointer-generator":
        return PointerGenerator(vocab_size=len(vocabulary), embedding_size=12, hidden_size=16).eval()
    return CopyTransformer.from_encoder(
        pretrained, vocabulary, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0
    ).eval()


@pytest.fixture
def batch(vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    return collate(encode_pairs(PAIRS, vocabulary, max_length=10)[0], vocabulary)


def test_steps_say_what_the_whole_says(generator: Generator, batch: dict[str, torch.Tensor]) -> None:
    """A cache that forgets, or a mask that looks ahead, shows here and nowhere else."""
    memory = generator.encode(batch)
    targets = batch["target_ids"]
    whole = generator(batch, targets)
    state, inputs = generator.start(memory), shifted(targets)
    for place in range(targets.shape[1]):
        mixture, state = generator.step(memory, state, inputs[:, place])
        log_probs = mixture.log_probs(memory.source_ids, memory.num_unknown)
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(len(targets)), atol=1e-5)
        own = log_probs.gather(1, targets[:, place : place + 1]).squeeze(1)
        said = sequence_mask(targets)[:, place]
        assert torch.allclose(own[said], whole[said, place], atol=1e-4)
    assert (whole[~sequence_mask(targets)] == 0).all(), "nothing is said behind a target's end"
    assert (~sequence_mask(targets)).any()


def test_padding_changes_nothing(generator: Generator, vocabulary: Vocabulary) -> None:
    encoded, _ = encode_pairs(PAIRS, vocabulary, max_length=10)
    together = collate(encoded, vocabulary)
    whole = generator(together, together["target_ids"])
    for row, pair in enumerate(encoded):
        alone = collate([pair], vocabulary)
        length = len(pair.target_ids)
        assert torch.allclose(generator(alone, alone["target_ids"])[0], whole[row, :length], atol=1e-4)


def test_rows_can_be_repeated_and_reordered(generator: Generator, batch: dict[str, torch.Tensor]) -> None:
    memory = generator.encode(batch)
    targets = batch["target_ids"]
    twice = generator(batch, targets.repeat_interleave(2, 0), memory=memory.repeat(2))
    assert torch.allclose(twice[::2], generator(batch, targets), atol=1e-5)
    order = torch.tensor([2, 0, 1])
    turned = generator(batch, targets[order], memory=memory.select(order))
    assert torch.allclose(turned, generator(batch, targets)[order], atol=1e-5)


def test_it_learns_to_copy_what_it_cannot_write(
    generator: Generator, vocabulary: Vocabulary, pretrained: Path, tmp_path: Path
) -> None:
    """Ten letters are unknown to it: after some steps the loss is small and the unknown word of a source comes out,
    written as the source wrote it. Saved and loaded, it says the same."""
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    batch = collate(encode_pairs(PAIRS, vocabulary, max_length=10)[0], vocabulary)
    first = float(maximum_likelihood(generator, batch)["loss"].detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = maximum_likelihood(generator, batch)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * first
    missing = [n for n, p in generator.named_parameters() if p.grad is None and "pooler" not in n]
    assert missing == []
    kind = "pointer-generator" if isinstance(generator, PointerGenerator) else "transformer"
    paraphraser = Paraphraser(generator=generator, vocabulary=vocabulary, kind=kind, max_length=10)
    said = first_texts(paraphraser, ["Кіт a z", "q w", ""], decoding=DecodingConfig())
    assert said == ["z Кіт", "w e r t y", ""]
    paraphraser.save(tmp_path)
    assert first_texts(Paraphraser.load(tmp_path), ["Кіт a z", "q w", ""], decoding=DecodingConfig()) == said


def test_gradients_of_log_probs_are_the_whole_distributions(
    generator: Generator, batch: dict[str, torch.Tensor]
) -> None:
    """`log_probs_of` leaves the distribution out; value and gradient must not notice."""
    memory = generator.encode(batch)
    quick = generator(batch, batch["target_ids"], memory=memory)[:, 0]
    first = torch.zeros_like(batch["target_ids"], dtype=torch.bool)
    first[:, 0] = True
    one = generator.mixture(memory, shifted(batch["target_ids"]), first)
    logits = one.logits
    whole = torch.cat([logits.softmax(-1) * one.writes[:, None], torch.zeros(len(logits), memory.num_unknown)], 1)
    whole = whole.scatter_add(1, memory.source_ids, one.copy_attention * (1 - one.writes)[:, None]).log()
    slow = whole.gather(1, batch["target_ids"][:, :1]).squeeze(1)
    assert torch.allclose(quick, slow, atol=1e-5)
    parameters = [p for p in generator.parameters() if p.requires_grad]
    left = torch.autograd.grad(quick.sum(), parameters, retain_graph=True, allow_unused=True)
    right = torch.autograd.grad(slow.sum(), parameters, allow_unused=True)
    for a, b in zip(left, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert torch.allclose(a, b, atol=1e-4)


def test_rows_left_behind_are_missed_by_nobody(
    generator: Generator, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short rows leave the decoder early, or all are carried to the end: the same likelihoods, the same gradients."""
    found = {}
    parameters = [p for p in generator.parameters() if p.requires_grad]
    for most in (0.0, 1.0):
        monkeypatch.setattr(copying, "MOST_CARRIED", most)
        log_probs = generator(batch, batch["target_ids"])
        found[most] = [log_probs, *torch.autograd.grad(log_probs.sum(), parameters, allow_unused=True)]
    for a, b in zip(*found.values(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, atol=1e-5)
    longer = torch.cat([batch["target_ids"], torch.full((len(PAIRS), 2), EOS)], dim=1)
    assert torch.allclose(generator(batch, longer)[:, :-2], found[1.0][0], atol=1e-5), "nobody is left at the end"


def test_a_transformer_reads_as_its_encoder(
    pretrained: Path, vocabulary: Vocabulary, batch: dict[str, torch.Tensor]
) -> None:
    """Its memory begins with the states of the encoder's first layers, its words with the encoder's vectors."""
    model = CopyTransformer.from_encoder(
        pretrained, vocabulary, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1
    ).eval()
    encoder = load_text_encoder(pretrained, num_layers=1).eval()
    states = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.allclose(model.encode(batch).states[0], states, atol=1e-5)
    words = encoder.embeddings.word_embeddings.weight[torch.from_numpy(vocabulary.pieces)]
    assert torch.equal(model.embedding.weight, words)
    layer = encoder.encoder.layer[0]
    assert torch.equal(model.layers[0].up.weight, layer.intermediate.dense.weight)


def test_folders_that_are_no_encoder_are_refused(pretrained: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_text_encoder(tmp_path)
    with pytest.raises(InputError, match="has 2 layers"):
        load_text_encoder(pretrained, num_layers=3)
    with pytest.raises(InputError, match="decoder layers begin as layers"):
        CopyTransformer.from_encoder(pretrained, vocabulary, num_encoder_layers=1, num_decoder_layers=2, dropout=0.0)
    with pytest.raises(InputError, match="make it with `ernie-kg finetune paraphrase`"):
        Paraphraser.load(tmp_path)
