"""Surface form -> (entity, prior p(entity | alias))."""

from __future__ import annotations

from array import array
from collections import Counter

import numpy as np
import pyarrow as pa

from kg.errors import InputError
from kg.graph import ALIASES
from kg.records import Entity


class AliasTable:
    """Collects the aliases of entities row by row, and turns their counts into priors at the end.

    p(entity | alias) is proportional to count + smoothing / (1 + rank): counts decide; a sense nobody counted keeps
    mass; where counts are equal the source's order decides. With a smoothing up to 1 the order never overrules a
    count.

    min_length: shorter surfaces, in code points without surrounding blanks, are left out.
    """

    def __init__(self, *, min_length: int = 2, smoothing: float = 1.0) -> None:
        if min_length < 1 or not 0 < smoothing < float("inf"):
            raise InputError(
                f"expected an alias length of at least 1 and a smoothing above 0, got {min_length} and {smoothing}"
            )
        self.min_length = min_length
        self.smoothing = smoothing
        self.dropped: Counter[str] = Counter()
        self._surfaces: list[str] = []
        self._entities = array("i")
        self._weights = array("d")

    def add(self, row: int, entity: Entity) -> list[str]:
        """Adds an entity's aliases under its row; equal surfaces are one alias with their counts added.

        Returns: the surfaces that were kept. The others count as `empty_alias` or `short_alias`.
        """
        counts: dict[str, tuple[int, int]] = {}
        for alias in entity.aliases:
            surface = " ".join(alias.surface.split())
            if len(surface) < self.min_length:
                self.dropped["short_alias" if surface else "empty_alias"] += 1
                continue
            count, rank = counts.get(surface, (0, alias.rank))
            counts[surface] = count + alias.count, min(rank, alias.rank)
        for surface, (count, rank) in counts.items():
            self._surfaces.append(surface)
            self._entities.append(row)
            self._weights.append(count + self.smoothing / (1 + rank))
        return list(counts)

    def table(self) -> pa.Table:
        """(alias, entity, prior), sorted by alias, then by falling prior, then by row."""
        surfaces = pa.array(self._surfaces, pa.string()).dictionary_encode()
        codes = surfaces.indices.to_numpy()
        weights = np.frombuffer(self._weights, np.float64)
        priors = weights / np.bincount(codes, weights)[codes]
        columns = {
            "alias": surfaces.cast(pa.string()),
            "entity": pa.array(np.frombuffer(self._entities, np.int32)),
            "prior": pa.array(priors.astype(np.float32)),
        }
        keys = [("alias", "ascending"), ("prior", "descending"), ("entity", "ascending")]
        table = pa.table(columns, schema=ALIASES)
        return table.sort_by(keys)
