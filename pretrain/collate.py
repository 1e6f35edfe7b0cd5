"""Instances to masked batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ernie.collation import pad_batch
from ernie.inputs import INPUTS
from ernie.tokenization import ErnieTokenizer
from pretrain.dataset import Instances
from pretrain.masking import Masking, WordPieces, mask_batch

NO_ENTITIES = ("entity_ids", "entity_attention_mask")
"""What a model that reads text alone is not given."""


class PretrainingCollate:
    """Pads instances and masks them: (features, epoch, rows[, rows of all processes]) -> batch.

    instances: where the rows are from. words: of the vocabulary (`words_of`); without them pieces are masked one by
    one. seed: of the masks. weigh_links: an
    entity counts in dEA by its link's probability, not by 1. text_only: the model gets no entities, only the positions
    it is asked about. fixed_epoch: draw every epoch's masks as this one's (held-out text is always masked alike).
    """

    def __init__(
        self,
        instances: Instances,
        *,
        words: WordPieces | None = None,
        seed: int,
        masking: Masking | None = None,
        weigh_links: bool = False,
        text_only: bool = False,
        fixed_epoch: int | None = None,
    ) -> None:
        described = instances.described
        if words is None:
            known = {name: described[name] for name in ("vocab_size", "mask_token_id", "special_ids")}
            words = WordPieces.of(**known)
        self.instances, self.words, self.seed = instances, words, seed
        self.pad_token_id = described["pad_token_id"]
        self.masking = masking or Masking()
        self.weigh_links, self.text_only, self.fixed_epoch = weigh_links, text_only, fixed_epoch

    def __call__(
        self, features: list[dict[str, np.ndarray]], epoch: int, rows: np.ndarray, all_rows: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        inputs = [{name: value for name, value in f.items() if name in INPUTS} for f in features]
        batch = pad_batch(inputs, pad_token_id=self.pad_token_id)
        shape = tuple(batch["entity_ids"].shape)
        lengths, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        for row, feature in enumerate(features):
            count = len(feature["entity_lengths"])
            lengths[row, :count] = feature["entity_lengths"]
            weights[row, :count] = feature["entity_scores"] if self.weigh_links else 1.0
        masked = mask_batch(
            batch,
            lengths,
            rows=rows,
            pool=self._pool(batch, rows, all_rows),
            seed=self.seed,
            epoch=epoch if self.fixed_epoch is None else self.fixed_epoch,
            words=self.words,
            masking=self.masking,
        )
        masked["entity_weights"] = torch.from_numpy(weights)
        return {n: t for n, t in masked.items() if n not in NO_ENTITIES} if self.text_only else masked

    def _pool(self, batch: dict[str, Tensor], rows: np.ndarray, all_rows: np.ndarray | None) -> np.ndarray:
        """Distinct entities of the whole batch. Every process reads those of the others from the shards, which costs
        less than sending them, so that all choose among the same candidates."""
        if all_rows is None or len(all_rows) == len(rows):
            ids = batch["entity_ids"].numpy().ravel()
        else:
            ids = np.concatenate([self.instances.entity_ids(int(row)) for row in all_rows])
        return np.unique(ids[ids != 0]).astype(np.int64)


def words_of(tokenizer: ErnieTokenizer) -> WordPieces:
    """What masking must know of a tokenizer's vocabulary; a word goes on in pieces that begin with ##."""
    fast: Any = tokenizer.fast_tokenizer
    return WordPieces.of(
        vocab_size=len(fast),
        mask_token_id=fast.mask_token_id,
        special_ids=sorted(set(fast.all_special_ids)),
        continuing_ids=[number for piece, number in fast.get_vocab().items() if piece.startswith("##")],
    )
