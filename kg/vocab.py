"""Identifier <-> row. Outside the graph things have names, inside they have row numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import numpy as np

from kg.errors import InputError

NEAREST = 3


class FewRows:
    """The rows of a few names among very many, for look-ups that do not need the others."""

    unknown = 0

    def __init__(self, rows: dict[str, int]) -> None:
        self._rows = rows

    def rows(self, identifiers: Sequence[str]) -> np.ndarray:
        """As `Vocabulary.rows` of entities."""
        return np.fromiter((self._rows.get(name, 0) for name in identifiers), np.int32, len(identifiers))


class Vocabulary:
    """The rows of a list of identifiers, in its order.

    first_row: row of the first identifier: 1 for entities (row 0 is padding, "no entity"), 0 for relations.
    what: the kind of thing, for messages (`entity`, `relation`).

    >>> entities = Vocabulary(["dog", "cat"], first_row=1, what="entity")
    >>> entities.row("cat"), entities.get("cow"), entities.identifier(1), len(entities)
    (2, 0, 'dog', 3)

    Raises:
        InputError: an identifier is empty or stands twice.
    """

    def __init__(self, identifiers: Sequence[str], *, first_row: int, what: str) -> None:
        self.identifiers = list(identifiers)
        self.first_row = first_row
        self.what = what
        self._rows = {identifier: row for row, identifier in enumerate(self.identifiers, first_row)}
        if "" in self._rows:
            raise InputError(f"expected a name for every {what}, row {self._rows['']} has an empty id; name it")
        if len(self._rows) != len(self.identifiers):
            twice = next(name for row, name in enumerate(self.identifiers, first_row) if self._rows[name] != row)
            raise InputError(f"expected every {what} id once, {twice!r} stands twice; keep one of them")

    @property
    def unknown(self) -> int:
        """The row of an unknown identifier: 0 (padding) for entities, -1 for relations."""
        return self.first_row - 1

    def row(self, identifier: str) -> int:
        """The identifier's row.

        Raises:
            InputError: unknown identifier; the nearest known ones are named.
        """
        row = self._rows.get(identifier)
        if row is None:
            raise InputError(f"{self.what} {identifier!r} is not in the graph{self._nearest(identifier)}")
        return row

    def get(self, identifier: str, default: int | None = None) -> int:
        """The identifier's row, or `default` (`unknown` when not given)."""
        return self._rows.get(identifier, self.unknown if default is None else default)

    def identifier(self, row: int) -> str:
        """The name of a row.

        Raises:
            InputError: the row names nothing here (the padding row, or a row of a larger graph).
        """
        if not self.first_row <= row < len(self):
            raise InputError(
                f"{self.what} row {row} is not among rows {self.first_row} to {len(self) - 1}; "
                f"was it written with another graph?"
            )
        return self.identifiers[row - self.first_row]

    def rows(self, identifiers: Sequence[str]) -> np.ndarray:
        """Rows of many identifiers: int32, shape (len(identifiers),), `unknown` where there is none."""
        unknown, get = self.unknown, self._rows.get
        return np.fromiter((get(name, unknown) for name in identifiers), np.int32, len(identifiers))

    def __len__(self) -> int:
        """Number of rows, the padding row included."""
        return self.first_row + len(self.identifiers)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.identifiers)

    def _nearest(self, identifier: str) -> str:
        near = difflib.get_close_matches(identifier, self._candidates(identifier), NEAREST, cutoff=0.5)
        return f"; nearest: {', '.join(near)}" if near else ""

    def _candidates(self, identifier: str) -> list[str]:
        """Names worth an edit distance: all of a small vocabulary, those of the same start in a large one."""
        if len(self.identifiers) <= 20_000:
            return self.identifiers
        start = identifier[:2].lower()
        return [name for name in self.identifiers if name[:2].lower() == start]
