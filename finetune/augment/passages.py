"""What an augmenter is given and what it gives back, and the table of augmenters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kg.errors import InputError

if TYPE_CHECKING:
    from finetune.augment.stage import AugmentConfig

Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One field of an example.

    key: names it among all others; what is drawn for it is keyed by that and the seed. kept: places [start, end) whose
    characters must come through as they are, rising; they may overlap.
    """

    key: str
    text: str
    kept: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """Another text for a passage, and where its kept places now are, in their order."""

    text: str
    kept: tuple[Place, ...] = ()


class Augmenter(Protocol):
    """A way of saying the same otherwise."""

    def __call__(self, passages: Sequence[Passage], *, copies: int, seed: int) -> list[list[Rewriting]]:
        """At most `copies` rewritings of each passage, in the order of the passages.

        What is drawn for one does not depend on the others (but for the rounding of what is computed in a batch)."""
        ...


AUGMENTERS: dict[str, str] = {
    "substitution": "finetune.augment.substitution:from_config",
    "paraphrase": "finetune.augment.paraphrase:from_config",
}
"""Name -> `module:function`; the function makes an Augmenter of an AugmentConfig. Loaded when asked for."""


def make_augmenter(name: str, config: AugmentConfig) -> Augmenter:
    """
    Raises:
        InputError: an unknown name, or what its function refuses.
    """
    if name not in AUGMENTERS:
        raise InputError(f"method {name!r} is unknown; there are {', '.join(sorted(AUGMENTERS))}")
    module, _, function = AUGMENTERS[name].partition(":")
    make: Callable[[AugmentConfig], Augmenter] = getattr(importlib.import_module(module), function)
    return make(config)


def check_rewriting(passage: Passage, rewriting: Rewriting) -> None:
    """Refuses a rewriting that no model could learn from.

    Raises:
        InputError: it has no words left, or a kept place no longer holds its characters.
    """
    if passage.text.strip() and not rewriting.text.strip():
        raise InputError(
            f"augmentation left nothing of {passage.key} ({passage.text[:60]!r}); use another method or model for it"
        )
    places = zip(passage.kept, rewriting.kept, strict=False)
    same = all(passage.text[a:b] == rewriting.text[c:d] for (a, b), (c, d) in places)
    if len(passage.kept) != len(rewriting.kept) or not same:
        raise InputError(
            f"augmentation changed a linked or marked place of {passage.key}: {passage.text[:60]!r} became "
            f"{rewriting.text[:60]!r}; use another method or model for it"
        )
