"""The models behind a linker's dear terms and proposals: where they come from, how a folder remembers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entity_linking.cross_encoder import CrossEncoder, pair_scorer
from entity_linking.encoder import EncoderSimilarity
from entity_linking.linker import EntityLinker
from kg.errors import InputError
from kg.inductive import text_encoder
from kg.sources import resolve_source

if TYPE_CHECKING:
    from entity_linking.dense import DescribedCandidates


@dataclass(frozen=True, kw_only=True)
class DearModels:
    """Fields of `LinkTrainConfig` of these names; "" = none."""

    encoder: str = ""
    encoder_margin: float = 3.0
    cross_encoder: str = ""
    cross_encoder_margin: float = 1.0
    cross_encoder_package: str = ""
    dense: str = ""
    dense_below: int = 1
    dense_candidates: int = 10

    @classmethod
    def of(cls, config: Any) -> DearModels:
        """What a config says of them."""
        return cls(**{of.name: getattr(config, of.name) for of in fields(cls)})

    def given(self) -> bool:
        """Whether there is any."""
        return bool(self.encoder or self.cross_encoder or self.dense)

    def give(self, linker: EntityLinker, descriptions: Sequence[str], *, folder: Path | None = None) -> None:
        """Opens the models for a linker. descriptions: by entity row, row 0 "" (`encoder.entity_texts`).

        folder: of the linker, where its index of descriptions lies; None = they are encoded now.

        Raises:
            InputError: a folder holds no such model, or its package is not installed.
        """
        if self.encoder:
            linker.reranker.encoder = EncoderSimilarity.of_source(
                self.encoder, descriptions, margin=self.encoder_margin
            )
        if self.cross_encoder:
            if self.cross_encoder_package:
                _import(self.cross_encoder_package)
            scorer = pair_scorer(resolve_source(self.cross_encoder))
            linker.reranker.cross_encoder = CrossEncoder(scorer, descriptions, margin=self.cross_encoder_margin)
        if self.dense:
            linker.described = self._described(descriptions, folder)

    def _described(self, descriptions: Sequence[str], folder: Path | None) -> DescribedCandidates:
        from entity_linking.dense import DescribedCandidates

        encode = text_encoder(resolve_source(self.dense), what="")
        limits = {"below": self.dense_below, "most": self.dense_candidates}
        if folder is not None:
            return DescribedCandidates.open(encode, folder, **limits)
        return DescribedCandidates.of_descriptions(encode, descriptions, **limits)


def _import(package: str) -> None:
    """So that transformers knows the package's models; this package itself knows none of them."""
    try:
        import_module(package)
    except ImportError as error:
        raise InputError(
            f"cross_encoder_package {package!r} cannot be imported ({error}); install it, or leave it empty for a "
            f"model that transformers knows itself"
        ) from None
