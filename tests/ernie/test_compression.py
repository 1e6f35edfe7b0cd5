"""Smaller word tables: factors that give the table back, and vocabularies that cut text as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from ernie.compression import (
    FactorisedEmbedding,
    factorise_words,
    materialise_words,
    piece_map,
    prune_tokenizer,
    prune_words,
    seen_pieces,
    with_word_factors,
    word_factors,
)
from ernie.errors import InputError

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefgh",
    *(f"##{x}" for x in "abcdefgh"),
    "cab",
    "##bed",
    "bag",
]


def _model() -> BertForPreTraining:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return BertForPreTraining(config).eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


def test_factors_are_the_best_of_their_rank_and_exact_where_they_can_be():
    """Against NumPy's singular values: the error of the best rank-r product is what they leave."""
    table = torch.randn(40, 10, generator=torch.Generator().manual_seed(1))
    codes, basis = word_factors(table, 4)
    left = np.linalg.svd(table.numpy(), compute_uv=False)[4:]
    assert float((codes @ basis - table).norm()) == pytest.approx(float(np.sqrt((left**2).sum())), rel=1e-4)
    again = word_factors(codes @ basis, 4)
    torch.testing.assert_close(again[0] @ again[1], codes @ basis, atol=1e-4, rtol=1e-4)
    for rank in (0, 10):
        with pytest.raises(InputError, match="embedding_size must lie in 1 … 9"):
            word_factors(table, rank)


@torch.no_grad()
def test_a_factorised_model_is_saved_whole_and_exported_small(tmp_path):
    """Whoever loads it sees an ordinary table; its config says which factors give it back, exactly."""
    model = _model()
    factorise_words(model, 5)
    ids = torch.tensor([[2, 6, 9, 3]])
    expected = model(input_ids=ids).seq_relationship_logits
    words = model.get_input_embeddings()
    assert isinstance(words, FactorisedEmbedding)
    assert sum(p.numel() for p in words.parameters()) == 5 * (len(PIECES) + 12)
    materialise_words(model)
    model.save_pretrained(tmp_path)
    loaded = BertForPreTraining.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(input_ids=ids).seq_relationship_logits, expected, atol=1e-5, rtol=1e-4)
    small = with_word_factors(loaded)
    assert isinstance(small.get_input_embeddings(), FactorisedEmbedding)
    assert not isinstance(loaded.get_input_embeddings(), FactorisedEmbedding)
    torch.testing.assert_close(small(input_ids=ids).seq_relationship_logits, expected, atol=1e-5, rtol=1e-4)
    plain = _model()
    assert with_word_factors(plain) is plain


@torch.no_grad()
def test_a_pruned_model_answers_as_before_on_what_it_kept(tokenizer):
    """A row moved by one gives every word its neighbour's vector, and still trains."""
    model, text = _model(), "cab abed ha"
    before = tokenizer(text)["input_ids"]
    kept = seen_pieces(tokenizer, [np.array(before)])
    assert PIECES.index("bag") not in kept
    pruned = prune_tokenizer(tokenizer, kept)
    after = pruned(text)["input_ids"]
    assert pruned.convert_ids_to_tokens(after) == tokenizer.convert_ids_to_tokens(before)
    assert after == piece_map(kept, vocab_size=len(PIECES), unknown=1)[torch.tensor(before)].tolist()
    small = prune_words(model, kept)
    whole = model(input_ids=torch.tensor([before]))
    found = small(input_ids=torch.tensor([after]))
    torch.testing.assert_close(found.seq_relationship_logits, whole.seq_relationship_logits)
    torch.testing.assert_close(found.prediction_logits, whole.prediction_logits[..., kept])
    assert pruned.tokenize("bag") == ["b", "##a", "##g"]


def test_a_pruned_tokenizer_survives_saving(tokenizer, tmp_path):
    """The rows of [CLS] and [SEP] stand in the post-processor too, and would point at other pieces."""
    from transformers import AutoTokenizer

    kept = seen_pieces(tokenizer, [np.array([20])])
    prune_tokenizer(tokenizer, kept[1:] if kept[0] else kept).save_pretrained(str(tmp_path))
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded.convert_ids_to_tokens(loaded("ha", "cab")["input_ids"]) == [
        "[CLS]", "h", "##a", "[SEP]", *loaded.tokenize("cab"), "[SEP]",
    ]  # fmt: skip
