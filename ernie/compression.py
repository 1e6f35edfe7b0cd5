"""A smaller word table: as two factors while training and in exported files, or without the pieces nobody uses.

Two thirds of TinyBERT4 are its word table (30,522 × 312).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ernie.errors import InputError

RANK = "word_embedding_rank"
"""Field of a saved config: the word table is a product of factors that wide, so that `word_factors` gives them back."""

VOCABULARY_PARTS = ("word_embeddings.weight", "cls.predictions.bias", "cls.predictions.decoder")
"""Parameters with one row a word piece."""


class FactorisedEmbedding(nn.Module):
    """Rows of codes @ basis: (vocab_size, rank) and (rank, width) in place of (vocab_size, width)."""

    def __init__(self, codes: Tensor, basis: Tensor, *, padding_idx: int | None) -> None:
        super().__init__()
        self.codes = nn.Embedding(*codes.shape, padding_idx=padding_idx)
        self.basis = nn.Linear(basis.shape[0], basis.shape[1], bias=False)
        with torch.no_grad():
            self.codes.weight.copy_(codes)
            self.basis.weight.copy_(basis.T)
        self.num_embeddings, self.embedding_dim = codes.shape[0], basis.shape[1]

    def forward(self, input_ids: Tensor) -> Tensor:
        """(…) -> (…, width)."""
        return self.basis(self.codes(input_ids))

    @torch.no_grad()
    def product(self) -> Tensor:
        """The whole table, (vocab_size, width)."""
        return self.basis(self.codes.weight)


def word_factors(table: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of that rank (truncated singular value decomposition), (vocab_size, rank) and (rank, width);
    exact for a table that has that rank.

    Raises:
        InputError: a rank that is not below the width, or saves nothing.
    """
    width = table.shape[1]
    if not 0 < rank < width:
        raise InputError(f"embedding_size must lie in 1 … {width - 1}, below the student's width, but is {rank}")
    # Of the small square: its eigenvectors are the right singular ones, at a fraction of the cost.
    _, vectors = torch.linalg.eigh(table.double().T @ table.double())
    basis = vectors[:, -rank:].T
    return (table.double() @ basis.T).to(table.dtype), basis.to(table.dtype)


def factorise_words(model: PreTrainedModel, rank: int) -> None:
    """Puts a `FactorisedEmbedding` in place of the word table; `materialise_words` undoes it before saving."""
    table = cast("nn.Embedding", model.get_input_embeddings())
    codes, basis = word_factors(table.weight.detach(), rank)
    model.set_input_embeddings(FactorisedEmbedding(codes, basis, padding_idx=table.padding_idx))


def materialise_words(model: PreTrainedModel) -> None:
    """An ordinary word table again, its rank noted in the config; nothing to do for one that is ordinary."""
    found = cast("nn.Module", model.get_input_embeddings())
    if not isinstance(found, FactorisedEmbedding):
        return
    table = nn.Embedding(found.num_embeddings, found.embedding_dim, padding_idx=found.codes.padding_idx)
    with torch.no_grad():
        table.weight.copy_(found.product())
    model.set_input_embeddings(table)
    model.tie_weights()
    setattr(model.config, RANK, found.codes.embedding_dim)


def with_word_factors(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a saved model that looks its words up in two factors, as its config says it was trained; the model
    itself where it was not."""
    rank = getattr(model.config, RANK, 0)
    if not rank:
        return model
    small = copy.deepcopy(model)
    factorise_words(small, rank)
    return small


def seen_pieces(tokenizer: PreTrainedTokenizerBase, texts: Iterable[np.ndarray]) -> np.ndarray:
    """Rows of the vocabulary that stay when only what the texts use is kept, rising, int64.

    texts: arrays of piece rows. All special and added pieces and all single characters stay too, so that any word can
    still be spelt.
    """
    vocabulary = tokenizer.get_vocab()
    keep = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    for rows in texts:
        keep[rows] = True
    always = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    keep[[row for piece, row in vocabulary.items() if row in always or len(piece.removeprefix("##")) == 1]] = True
    return np.flatnonzero(keep)


def prune_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int] | np.ndarray) -> PreTrainedTokenizerBase:
    """The tokenizer with the kept pieces alone, row i now the i-th of them.

    A text of kept pieces is cut as before: the longest piece that fits is still there, and still the longest.

    Raises:
        InputError: not a word-piece tokenizer.
    """
    backend = cast("Any", tokenizer).backend_tokenizer
    data = json.loads(backend.to_str())
    if data["model"]["type"] != "WordPiece":
        raise InputError(f"a vocabulary is pruned for word-piece tokenizers, this one is {data['model']['type']}")
    new = {int(old): row for row, old in enumerate(kept)}
    data["model"]["vocab"] = {piece: new[row] for piece, row in data["model"]["vocab"].items() if row in new}
    for entry in data["added_tokens"]:
        entry["id"] = new[entry["id"]]
    _renumber(data.get("post_processor") or {}, new)
    pruned = copy.deepcopy(tokenizer)
    cast("Any", pruned)._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    return pruned


def _renumber(processor: dict[str, Any], new: dict[int, int]) -> None:
    """Special rows inside a post-processor, of either kind that BERT tokenizers have."""
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name][1] = new[processor[name][1]]
    for entry in processor.get("special_tokens", {}).values():
        entry["ids"] = [new[row] for row in entry["ids"]]


def prune_words(model: PreTrainedModel, kept: Sequence[int] | np.ndarray) -> PreTrainedModel:
    """A model of the same class with the kept rows of its word table (and of a masked-LM head) alone."""
    rows = torch.as_tensor(np.asarray(kept))
    config = copy.deepcopy(model.config)
    config.vocab_size = len(rows)
    small = type(model)(config)
    state = {
        name: tensor[rows] if any(part in name for part in VOCABULARY_PARTS) else tensor
        for name, tensor in model.state_dict().items()
    }
    small.load_state_dict(state)
    small.tie_weights()
    return cast("PreTrainedModel", small.train(model.training))


def piece_map(kept: Sequence[int] | np.ndarray, *, vocab_size: int, unknown: int) -> Tensor:
    """Old row -> new row, int64 (vocab_size,); `unknown`, a new row, for pieces that are gone."""
    mapped = torch.full((vocab_size,), unknown)
    mapped[torch.as_tensor(np.asarray(kept))] = torch.arange(len(kept))
    return mapped
