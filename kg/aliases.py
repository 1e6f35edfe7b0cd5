"""Surface form -> (entity, prior p(entity | alias))."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kg.errors import InputError
from kg.graph import ALIASES
from kg.records import Alias

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
LONGEST = 1_000
"""Code points; a longer surface is no mention anybody writes."""


@dataclass(frozen=True, slots=True)
class AliasWeights:
    """What each surface of an entity weighs; `alias_table` turns weights into priors.

    p(entity | alias) is proportional to count + smoothing / (1 + rank): counts decide; a sense nobody counted keeps
    mass; where counts are equal the source's order decides. With a smoothing up to 1 the order never overrules a
    count.

    min_length: shorter surfaces, in code points without surrounding blanks, are left out.
    """

    min_length: int = 2
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if self.min_length < 1 or not 0 < self.smoothing < float("inf"):
            raise InputError(
                f"expected an alias length of at least 1 and a smoothing above 0, got {self.min_length} and "
                f"{self.smoothing}"
            )

    def of(self, aliases: Iterable[Alias], dropped: Counter[str]) -> dict[str, float]:
        """Weight by surface, blanks tidied; equal surfaces are one alias with their counts added.

        dropped: receives `empty_alias`, `short_alias` and `long_alias` (above `LONGEST`).
        """
        counts: dict[str, tuple[int, int]] = {}
        for alias in aliases:
            surface = " ".join(alias.surface.split())
            if not self.min_length <= len(surface) <= LONGEST:
                dropped["long_alias" if len(surface) > LONGEST else "short_alias" if surface else "empty_alias"] += 1
                continue
            count, rank = counts.get(surface, (0, alias.rank))
            counts[surface] = count + alias.count, min(rank, alias.rank)
        return {surface: count + self.smoothing / (1 + rank) for surface, (count, rank) in counts.items()}


def alias_table(surfaces: pa.ChunkedArray, entities: np.ndarray, weights: np.ndarray) -> pa.Table:
    """(alias, entity, prior), sorted by alias, then by falling prior, then by row.

    surfaces: text. entities: int32 rows. weights: float64. One place each an alias of an entity.
    """
    encoded = surfaces.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy()
    priors = (weights / np.bincount(codes, weights)[codes]).astype(np.float32)
    place = np.empty(len(encoded.dictionary), np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    order = np.lexsort((entities, -priors, place[codes]))
    columns = [encoded.dictionary.take(pa.array(codes[order])), pa.array(entities[order]), pa.array(priors[order])]
    return pa.table(columns, schema=ALIASES)
