"""The entities a mention may mean, by the prior p(entity | alias), for a whole batch of mentions at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_linking.alias_table import AliasTable
from entity_linking.compiled import kernel
from entity_linking.matcher import alias_strings
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags, Ints
from entity_linking.prefixes import NO_KEY
from kg.graph import KnowledgeGraph

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Small = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of a batch of mentions, mention by mention, likeliest first; arrays of shape (num_candidates,).

    bounds: int64 (num_mentions + 1,): mention i has candidates bounds[i] to bounds[i + 1], perhaps none.
    mention: index of the mention. entity: row of the entity. row: place in the `CandidateTable`, -1 for one that no
        name led to (`dense.DescribedCandidates`).
    prior: p(entity | alias) among the candidates of the mention, in (0, 1].
    named: the entity bears the alias as a name in capitals.
    """

    bounds: Ints
    mention: Ints
    entity: Rows
    row: Ints
    prior: Floats
    named: Flags

    def __len__(self) -> int:
        return len(self.entity)

    def among_mention(self, mass: Floats) -> Floats:
        """Shares of a mention's total: mass (num_candidates,), all above 0."""
        total = np.bincount(self.mention, mass, minlength=len(self.bounds) - 1)
        return mass / total[self.mention]

    def with_prior(self, mass: Floats) -> Candidates:
        """The same candidates, their priors proportional to `mass`."""
        return replace(self, prior=self.among_mention(mass))


class CandidateTable:
    """Alias key -> (entity, prior), in compressed rows, cut to the likeliest.

    bounds: int64 (num_keys + 1,). entity, prior, capitals, acronym: by row, best prior first within a key, ties by
    entity row. capitals, acronym: what the text's spelling must have for the entity, as in `AliasTable`.
    num_cut: candidates left out for being beyond the limit.
    """

    def __init__(
        self, *, bounds: Ints, entity: Rows, prior: Singles, capitals: Small, acronym: Flags, num_cut: int
    ) -> None:
        self.bounds = bounds
        self.entity = entity
        self.prior = prior
        self.capitals = capitals
        self.acronym = acronym
        self.num_cut = num_cut

    @classmethod
    def from_graph(
        cls, graph: KnowledgeGraph, table: AliasTable, *, max_candidates: int = 20, uniform: bool = False
    ) -> CandidateTable:
        """table: made from `alias_strings(graph)`. max_candidates: kept for each key.

        uniform: takes no notice of the graph's priors, every entity of an alias weighs alike.

        Aliases of one folded form share their candidates; each alias weighs as much as its entities were counted,
        plus one, so that a rare spelling of the same letters does not take half of a common word's mass.
        """
        made_of = table.spellings
        assert made_of is not None, "a table read from disk comes with its candidates"
        strings, string_of_row = alias_strings(graph)
        entity = graph.aliases["entity"].to_numpy().astype(np.int64)
        prior = graph.aliases["prior"].to_numpy().astype(np.float64)
        counts: Any = graph.entities["count"].to_numpy()
        weight = 1.0 + np.bincount(string_of_row, prior * counts[entity - 1], minlength=len(strings))
        mass_of_row = np.ones(len(entity)) if uniform else prior * weight[string_of_row]
        row_order = np.argsort(string_of_row, kind="stable")
        row_bounds = np.searchsorted(string_of_row[row_order], np.arange(len(strings) + 1))
        spellings = np.flatnonzero(made_of.key != NO_KEY)
        source = made_of.source[spellings]
        of_spelling, within = expand(row_bounds[source], row_bounds[source + 1])
        rows, spelling = row_order[within], spellings[of_spelling]
        return cls._merged(
            table.num_keys,
            key=made_of.key[spelling].astype(np.int64),
            entity=entity[rows],
            mass=mass_of_row[rows],
            capitals=made_of.capitals[spelling],
            acronym=made_of.acronym[spelling],
            max_candidates=max_candidates,
            uniform=uniform,
        )

    @classmethod
    def _merged(
        cls,
        num_keys: int,
        *,
        key: Ints,
        entity: Ints,
        mass: Floats,
        capitals: Ints,
        acronym: Flags,
        max_candidates: int,
        uniform: bool,
    ) -> CandidateTable:
        """One row for each (key, entity): masses added, the mildest demand on the spelling kept; then the cut."""
        order = np.lexsort((entity, key))
        key, entity = key[order], entity[order]
        new = np.ones(len(key), dtype=bool)
        new[1:] = (key[1:] != key[:-1]) | (entity[1:] != entity[:-1])
        first = np.flatnonzero(new)
        key, entity = key[first], entity[first]
        if len(first):
            mass = np.ones(len(first)) if uniform else np.add.reduceat(mass[order], first)
            capitals = np.minimum.reduceat(capitals[order], first)
            acronym = np.logical_and.reduceat(acronym[order], first)
        prior = mass / np.bincount(key, mass, minlength=num_keys)[key]
        order = np.lexsort((entity, -prior, key))
        rank = np.arange(len(key)) - np.searchsorted(key, key)
        kept = order[rank < max_candidates]
        return cls(
            bounds=np.searchsorted(key[kept], np.arange(num_keys + 1)),
            entity=entity[kept].astype(np.int32),
            prior=prior[kept].astype(np.float32),
            capitals=capitals[kept].astype(np.uint8),
            acronym=acronym[kept],
            num_cut=len(key) - len(kept),
        )

    def of(self, mentions: MentionTable) -> Candidates:
        """The candidates whose spelling fits each mention's; a mention of no key has none."""
        bounds = np.empty(len(mentions) + 1, dtype=np.int64)
        size = _most_candidates(self.bounds, mentions.key)
        mention, row = np.empty((2, size), dtype=np.int64)
        entity, prior, named = np.empty(size, np.int32), np.empty(size, np.float64), np.empty(size, bool)
        count = _fitting(
            self.bounds, self.entity, self.prior, self.capitals, self.acronym,
            mentions.key, mentions.capitals, mentions.all_upper, bounds, mention, row, entity, prior, named,
        )  # fmt: skip
        return Candidates(bounds, mention[:count], entity[:count], row[:count], prior[:count], named[:count])

    @property
    def key(self) -> Ints:
        """The alias key of every row."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


@kernel()
def _most_candidates(bounds, keys):
    """How many candidates mentions of these keys have at most."""
    count = 0
    for key in keys:
        if key != NO_KEY:
            count += bounds[key + 1] - bounds[key]
    return count


@kernel()
def _fitting(
    bounds, entities, priors, capitals, acronyms, keys, upper, all_upper,
    out_bounds, out_mention, out_row, out_entity, out_prior, out_named,
):  # fmt: skip
    """Writes the candidates of every mention that its spelling allows, their priors summing to 1; returns how many."""
    count = 0
    for i in range(len(keys)):
        out_bounds[i] = count
        if keys[i] == NO_KEY:
            continue
        total = 0.0
        for row in range(bounds[keys[i]], bounds[keys[i] + 1]):
            if capitals[row] <= upper[i] and (not acronyms[row] or all_upper[i]):
                out_mention[count], out_row[count] = i, row
                out_entity[count], out_prior[count] = entities[row], priors[row]
                out_named[count] = capitals[row] > 0
                total += out_prior[count]
                count += 1
        for c in range(out_bounds[i], count):
            out_prior[c] /= total
    out_bounds[len(keys)] = count
    return count


def expand(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Ranges written out: for every position of every range, the range's index and the position.

    >>> [a.tolist() for a in expand(np.array([4, 0, 7]), np.array([6, 0, 8]))]
    [[0, 0, 2], [4, 5, 7]]
    """
    sizes = high - low
    index = np.repeat(np.arange(len(sizes)), sizes)
    return index, np.arange(int(sizes.sum())) + np.repeat(low - (np.cumsum(sizes) - sizes), sizes)
