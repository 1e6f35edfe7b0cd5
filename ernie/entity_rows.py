"""Entity identifiers to table rows, and what becomes of an identifier that the table does not know."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ernie.entity_table import NAMES_FILE, EntityTable
from ernie.errors import InputError

EntityFallback = Literal["error", "zero", "description"]
Describe = Callable[[str], "np.ndarray | None"]
"""Entity identifier -> vector (entity_size,) from what is written about it, None where nothing is."""

LEAST_FITTED, MOST_FITTED = 20, 10_000
MOST_PIECES = 64
SUGGEST_UP_TO = 100_000
"""Largest vocabulary that is searched for the nearest identifier."""


class EntityRows(Mapping[str, int]):
    """The `entity_rows` of an ErnieTokenizer, with a rule for identifiers that have no row.

    error: an InputError names the identifier. zero: row 0, "no entity"; the tokenizer counts the mention as
    `unknown_entity` and the text is read without it. description: `describe` gives it a vector, which becomes a row of
    `table` for as long as the process lives (so encode in the process that holds the model's table, not in a loader's
    workers); without a description as zero. `unknown` and `described` count identifiers met.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        *,
        entity_fallback: EntityFallback = "error",
        table: EntityTable | None = None,
        describe: Describe | None = None,
    ) -> None:
        """rows: identifier -> row, 1.. . table (the model's) and describe: for entity_fallback="description"."""
        if entity_fallback not in get_args(EntityFallback):
            raise InputError(
                f"entity_fallback is one of {', '.join(get_args(EntityFallback))}, got {entity_fallback!r}"
            )
        if entity_fallback == "description" and (table is None or describe is None):
            raise InputError("entity_fallback='description' needs the table to add rows to, and describe")
        self.rows = rows
        self.entity_fallback = entity_fallback
        self.table = table
        self.describe = describe
        self.described: dict[str, int] = {}
        self.unknown: Counter[str] = Counter()

    @classmethod
    def open(cls, folder: str | Path, **settings: Any) -> EntityRows:
        """The identifiers of a vectors folder: line i of its vocabulary.txt, from 1, is row i; settings as above."""
        path = Path(folder) / NAMES_FILE
        if not path.is_file():
            raise InputError(f"no {NAMES_FILE} in {folder}: expected a vectors folder, `ernie-kg kg embed` makes one")
        with path.open(encoding="utf-8", newline="\n") as lines:
            return cls({line.rstrip("\r\n"): row for row, line in enumerate(lines, start=1)}, **settings)

    def __getitem__(self, entity: str) -> int:
        row = self.rows.get(entity) or self.described.get(entity)
        if row:
            return row
        if self.entity_fallback == "error":
            raise InputError(
                f"entity {entity!r} is not among the {len(self.rows)} of the table{self._nearest(entity)}: link with "
                f"the table's own graph, or choose entity_fallback='zero' or 'description'"
            )
        vector = self.describe(entity) if self.entity_fallback == "description" and self.describe else None
        if vector is None or self.table is None:
            self.unknown[entity] += 1
            return 0
        self.described[entity] = self.table.append(vector[None])
        return self.described[entity]

    def get(self, entity: str, default: int | None = 0) -> int | None:  # type: ignore[override]
        """The row by the rule above; `default` is what a plain mapping would return and is not used."""
        return self[entity]

    def __contains__(self, entity: object) -> bool:
        return entity in self.rows or entity in self.described

    def __iter__(self) -> Iterator[str]:
        yield from self.rows
        yield from self.described

    def __len__(self) -> int:
        return len(self.rows) + len(self.described)

    def _nearest(self, entity: str) -> str:
        if len(self.rows) > SUGGEST_UP_TO:
            return ""
        near = difflib.get_close_matches(entity, self.rows, n=1)
        return f", the nearest is {near[0]!r}" if near else ""


def describe_by_words(
    descriptions: Mapping[str, str],
    *,
    known: Mapping[str, int],
    table: EntityTable,
    words: nn.Embedding,
    tokenizer: PreTrainedTokenizerBase,
    ridge: float = 1.0,
) -> Describe:
    """Vectors from descriptions: the mean word embedding of a description, through a ridge regression.

    descriptions: identifier -> text, of known entities (fitted on, MOST_FITTED at most) and of unknown ones. known:
    identifier -> row of table. words: `model.get_input_embeddings()`. The regression is centred; found vectors are
    stretched to the known ones' mean length, of which a regression keeps the less the less it knows.
    """
    both = sorted(entity for entity in descriptions if known.get(entity))[:MOST_FITTED]
    if len(both) < LEAST_FITTED:
        raise InputError(
            f"entity_fallback='description' is fitted on known entities with a description: expected at least "
            f"{LEAST_FITTED}, got {len(both)}; give more descriptions or choose entity_fallback='zero'"
        )
    features = _mean_words([descriptions[entity] for entity in both], words, tokenizer)
    vectors = table.rows(torch.tensor([known[entity] for entity in both])).numpy().astype(np.float64)
    centre, mean = features.mean(0), vectors.mean(0)
    x = features - centre
    scale = ridge * np.trace(x.T @ x) / x.shape[1] / len(both)
    weights = np.linalg.solve(x.T @ x + scale * np.eye(x.shape[1]), x.T @ (vectors - mean))
    length = float(np.linalg.norm(vectors, axis=1).mean())

    def describe(entity: str) -> np.ndarray | None:
        text = descriptions.get(entity)
        if not text:
            return None
        found = (_mean_words([text], words, tokenizer)[0] - centre) @ weights + mean
        return (found * (length / max(float(np.linalg.norm(found)), 1e-12))).astype(np.float32)

    return describe


@torch.no_grad()
def _mean_words(texts: Sequence[str], words: nn.Embedding, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(len(texts), hidden_size) float64; zeros for a text without a word piece."""
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=MOST_PIECES)
    out = np.zeros((len(texts), words.embedding_dim))
    for row, ids in enumerate(encoded["input_ids"]):
        if ids:
            out[row] = words(torch.tensor(ids, device=words.weight.device)).double().mean(0).cpu().numpy()
    return out
