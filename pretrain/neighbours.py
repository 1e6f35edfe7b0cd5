"""The entities nearest to those of a corpus, found once by faiss: hard negatives for the entity losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ernie.entity_table import EntityTable
from kg.errors import InputError
from kg.index import VectorIndex

SEARCHED_AT_ONCE = 1024


class Neighbours:
    """Nearest entities of some entities.

    rows: (n,) sorted table rows. nearest: (n, k) table rows, nearest first, never the entity itself; an entity with
    fewer neighbours repeats its last.
    """

    def __init__(self, rows: np.ndarray, nearest: np.ndarray) -> None:
        assert len(rows) == len(nearest), "one row of neighbours an entity"
        self.rows, self.nearest = rows, nearest

    def of(self, entity_ids: np.ndarray) -> np.ndarray:
        """(num_entities,) of `rows` -> (num_entities, k)."""
        return self.nearest[np.searchsorted(self.rows, entity_ids)]

    def one_of(self, entity_ids: np.ndarray, replacement: np.ndarray, *, otherwise: np.ndarray) -> np.ndarray:
        """A neighbour of each entity, uniform; `otherwise` at padding (0). All three of one shape; replacement in
        [0, 1)."""
        real = entity_ids != 0
        chosen = otherwise.copy()
        column = (replacement[real] * self.nearest.shape[1]).astype(np.int64)
        chosen[real] = self.of(entity_ids[real])[np.arange(len(column)), column]
        return chosen

    @classmethod
    def find(
        cls, rows: np.ndarray, count: int, *, vectors: Path, table: EntityTable, entity_rows: Mapping[str, int]
    ) -> Neighbours:
        """The `count` nearest of each of `rows` (sorted, distinct) in the index of a vectors artifact.

        Raises:
            InputError: the graph has too few entities, or none other than one is indexed.
        """
        if not 1 <= count < len(entity_rows):
            raise InputError(f"hard negatives: expected 1 … {len(entity_rows) - 1} of this graph's, got {count}")
        index = VectorIndex.load(vectors, mmap=True)
        nearest = np.zeros((len(rows), count), dtype=np.int64)
        for start in range(0, len(rows), SEARCHED_AT_ONCE):
            block = rows[start : start + SEARCHED_AT_ONCE]
            found, _ = index.search(table.rows(torch.from_numpy(block)).numpy(), count + 1)
            for place, (own, names) in enumerate(zip(block.tolist(), found, strict=True), start=start):
                others = [row for name in names if name and (row := entity_rows[name]) != own][:count]
                if not others:
                    raise InputError(f"{vectors}: the index finds no neighbour of row {own}; make the vectors again")
                nearest[place] = (others + others[-1:] * count)[:count]
        return cls(rows, nearest)
