"""What linked text tells about aliases: whom they mean, and how often they are a mention at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import Candidates, CandidateTable, Floats
from entity_linking.normalise import Ints
from entity_linking.prefixes import NO_KEY
from kg.artifact import open_artifact
from kg.vocab import Vocabulary

STAGE = "link fit-priors"
FILE = "priors.parquet"
COLUMNS = pa.schema(
    [
        pa.field("alias", pa.string(), False),
        pa.field("entity", pa.string(), False),
        pa.field("count", pa.int64(), False),
    ]
)
"""Of priors.parquet: how often the alias (folded, tokens parted by a blank) meant the entity; "" = was no link, "?" =
was one to an entity that nobody knows."""
ANY = "?"
"""As an entity: the occurrence is a link, nobody knows to which."""
SMOOTHING = 0.5
"""Links that the prior of before is worth, for an alias."""
UNSEEN_ODDS = 0.5
"""Added to links and to other occurrences of an alias before the log odds are taken."""


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """What was counted, by document, for a table of aliases and its candidates.

    document, row: int64 (num_links,): document and `CandidateTable` row of every gold link whose entity is a
        candidate of its alias.
    key_document, key: int64 (num_occurrences,): document and alias key of every occurrence of an alias whose fate is
        known; linked: bool (num_occurrences,): it is a link.
    """

    document: Ints
    row: Ints
    key_document: Ints
    key: Ints
    linked: npt.NDArray[np.bool_]

    def without(self, documents: npt.NDArray[np.bool_]) -> LinkCounts:
        """What the other documents tell. documents: bool (num_documents,), those left out."""
        links, occurrences = ~documents[self.document], ~documents[self.key_document]
        return LinkCounts(
            self.document[links],
            self.row[links],
            self.key_document[occurrences],
            self.key[occurrences],
            self.linked[occurrences],
        )

    def of_rows(self, num_rows: int) -> Floats:
        """Links by candidate row."""
        return np.bincount(self.row, minlength=num_rows).astype(np.float64)

    def log_odds(self, num_keys: int) -> Floats:
        """By alias key, log odds that an occurrence is a link, float64 (num_keys,); 0 for one that never occurred."""
        seen = np.bincount(self.key, minlength=num_keys)
        links = np.bincount(self.key[self.linked], minlength=num_keys)
        odds = np.log(links + UNSEEN_ODDS) - np.log(seen - links + UNSEEN_ODDS)
        return np.where(seen > 0, odds, 0.0)


def fitted_mass(candidates: Candidates, counts: Floats, *, smoothing: float = SMOOTHING) -> Floats:
    """Links of each candidate plus `smoothing` times its prior; (num_candidates,). counts: by candidate row."""
    return counts[candidates.row] + smoothing * candidates.prior


def fitted_table(table: CandidateTable, counts: Floats, *, smoothing: float = SMOOTHING) -> CandidateTable:
    """The table with priors (count + smoothing * prior) / (sum of counts + smoothing), likeliest first again."""
    key = table.key
    mass = counts + smoothing * table.prior
    prior = mass / np.bincount(key, mass, minlength=len(table.bounds) - 1)[key]
    order = np.lexsort((table.entity, -prior, key))
    return CandidateTable(
        bounds=table.bounds,
        entity=table.entity[order],
        prior=prior[order].astype(np.float32),
        capitals=table.capitals[order],
        acronym=table.acronym[order],
        num_cut=table.num_cut,
    )


def write_counts(folder: Path, tally: Mapping[tuple[str, str], int]) -> None:
    """Writes priors.parquet, sorted. tally: by alias (folded) and entity, "" for an occurrence that is no link."""
    pairs = sorted(tally)
    columns = ([alias for alias, _ in pairs], [entity for _, entity in pairs], [tally[pair] for pair in pairs])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=COLUMNS), folder / FILE)


def read_counts(
    folder: Path, table: AliasTable, candidates: CandidateTable, entities: Vocabulary
) -> tuple[Floats, Floats, dict[str, int]]:
    """Links by candidate row, log odds by alias key, and what could not be used, by reason.

    Raises:
        InputError: the folder is no artifact of `link fit-priors` or `link self-label`.
    """
    open_artifact(folder, stage=(STAGE, "link self-label"))
    rows = pq.read_table(folder / FILE, schema=COLUMNS)
    key = table.keys_of(rows["alias"].to_pylist()).astype(np.int64)
    names, count = rows["entity"].to_pylist(), rows["count"].to_numpy()
    entity = np.array([entities.get(name) for name in names], dtype=np.int64)
    num_keys, known = table.num_keys, key != NO_KEY
    linked = np.array([bool(name) for name in names], dtype=bool)
    named = np.array([name not in ("", ANY) for name in names], dtype=bool)
    place = _places(candidates, key, entity)
    used = known & named & (place >= 0)
    counts = np.bincount(place[used], count[used], minlength=len(candidates.entity)).astype(np.float64)
    seen = np.bincount(key[known], count[known], minlength=num_keys)
    links = np.bincount(key[known & linked], count[known & linked], minlength=num_keys)
    odds = np.where(seen > 0, np.log(links + UNSEEN_ODDS) - np.log(seen - links + UNSEEN_ODDS), 0.0)
    strange = {
        "prior_of_unknown_alias": int((~known).sum()),
        "prior_of_unknown_entity": int((known & named & (entity == 0)).sum()),
        "prior_of_no_candidate": int((known & named & (entity > 0) & (place < 0)).sum()),
    }
    return counts, odds, {reason: number for reason, number in strange.items() if number}


def count_in(document: Ints, item: Ints, *, at_document: Ints, at_item: Ints) -> Floats:
    """How often the pair (at_document, at_item) stands among the pairs (document, item)."""
    width = 1 + max(int(item.max(initial=0)), int(at_item.max(initial=0)))
    pairs, numbers = np.unique(document * width + item, return_counts=True)
    if not len(pairs):
        return np.zeros(len(at_item))
    wanted = at_document * width + at_item
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.where(pairs[place] == wanted, numbers[place], 0).astype(np.float64)


def _places(candidates: CandidateTable, key: Ints, entity: Ints) -> Ints:
    """The candidate row of each (key, entity), -1 for none."""
    width = 1 + max(int(candidates.entity.max(initial=0)), int(entity.max(initial=0)))
    pairs = candidates.key * width + candidates.entity
    order = np.argsort(pairs)
    wanted = key * width + entity
    place = np.minimum(np.searchsorted(pairs[order], wanted), max(len(pairs) - 1, 0))
    if not len(pairs):
        return np.full(len(key), -1, dtype=np.int64)
    return np.where((pairs[order][place] == wanted) & (key >= 0), order[place], -1)
