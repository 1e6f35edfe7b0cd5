"""Entities' way into the model: rows of a frozen table, rows that are trained, or either through a projection."""

from __future__ import annotations

import torch
from torch import nn

from ernie.entity_table import EntityTable
from ernie.errors import InputError

COPIED_ROWS = 65_536
"""Rows of a table that are copied into trained rows at a time."""


class EntityInput(nn.Module):
    """Vectors of entity rows, entity_size wide, as the layers take them.

    table: a frozen EntityTable, attached, no part of the weights. rows: trained vectors in its place, saved with the
    weights, row 0 zeros and without gradient; as large as the graph, so for thousands of entities rather than
    millions. projection: a linear map from vectors of another width; without bias, so that row 0 stays zeros.
    """

    def __init__(self, *, entity_size: int, input_size: int | None, num_trained_rows: int) -> None:
        """input_size: width of the vectors, None = entity_size without a projection. num_trained_rows: row 0
        included, 0 = none."""
        super().__init__()
        self.width = entity_size if input_size is None else input_size
        self.rows = nn.Embedding(num_trained_rows, self.width, padding_idx=0) if num_trained_rows else None
        self.projection = None if input_size is None else nn.Linear(input_size, entity_size, bias=False)
        self.table: EntityTable | None = None

    def attach(self, table: EntityTable | None) -> None:
        """Take another table; trained rows begin as its vectors. InputError where width or rows do not fit."""
        if table is not None and table.entity_size != self.width:
            raise InputError(
                f"this model takes entity vectors of width {self.width}, the table's are {table.entity_size} wide: "
                f"embed the graph with dim={self.width}, or build the model with entity_size={table.entity_size} or "
                f"entity_input_size={table.entity_size}"
            )
        if table is not None and self.rows is not None:
            self._copy(table, self.rows)
        self.table = table

    def lookup(self, entity_ids: torch.Tensor) -> torch.Tensor:
        """entity_ids: any shape. Returns entity_ids.shape + (width,), not yet projected."""
        if self.rows is not None:
            _check_rows(entity_ids, self.rows.num_embeddings)
            return self.rows(entity_ids)
        if self.table is None:
            raise InputError(
                "entity_ids need an entity table: call model.attach_entity_table(EntityTable.open(folder)), "
                "or give the vectors themselves as entity_embeds"
            )
        return self.table.rows(entity_ids)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., entity_size)."""
        if vectors.shape[-1] != self.width:
            raise InputError(
                f"entity vectors have shape (..., {self.width}), got {tuple(vectors.shape)}: the model's "
                f"{'entity_size' if self.projection is None else 'entity_input_size'} is {self.width}"
            )
        return vectors if self.projection is None else self.projection(vectors.to(self.projection.weight.dtype))

    @staticmethod
    @torch.no_grad()
    def _copy(table: EntityTable, rows: nn.Embedding) -> None:
        if table.num_rows != rows.num_embeddings:
            raise InputError(
                f"this model trains {rows.num_embeddings} entity rows, the table has {table.num_rows}: build the "
                f"model with num_trained_entity_rows={table.num_rows}"
            )
        for start in range(0, table.num_rows, COPIED_ROWS):
            some = torch.arange(start, min(start + COPIED_ROWS, table.num_rows))
            rows.weight[some] = table.rows(some).to(rows.weight)


def _check_rows(entity_ids: torch.Tensor, num_rows: int) -> None:
    if torch.compiler.is_compiling() or entity_ids.device.type != "cpu" or entity_ids.numel() == 0:
        return
    low, high = (int(bound) for bound in entity_ids.aminmax())
    if low < 0 or high >= num_rows:
        raise InputError(f"entity row {low if low < 0 else high} is not among the trained rows 0..{num_rows - 1}")
