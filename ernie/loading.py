"""What `from_pretrained` left fresh or left behind: expected of a head, a fault in an encoder.

transformers prints a table of keys and goes on: half of a checkpoint under other names trains as well as noise does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from ernie.errors import InputError

KNOWLEDGE = "_ent."
"""In the names of the knowledge layers' own parts, which a plain BERT lacks one and all."""

MAY_BE_FRESH = ("pooler.", "entities.")
"""Of the encoder: some BERTs come without a pooler; trained rows and a projection may be begun at any time."""

ENCODER_PARTS = ("bert.", "embeddings.", "encoder.", "pooler.", "entities.")


def check_loaded(
    report: Mapping[str, Any], parameters: Collection[str], *, source: str, class_name: str, encoder: str
) -> None:
    """An InputError where the weights are not all there, or not the model's.

    report: transformers' `missing_keys`, `unexpected_keys`, `mismatched_keys`. parameters: the model's own. encoder:
    the prefix of the encoder's keys, "" where the model is the encoder. A head may be fresh as a whole, and another
    task's is left behind. Of the encoder all must be there, but for MAY_BE_FRESH and, of a plain BERT, KNOWLEDGE.
    """
    if report["mismatched_keys"]:
        name, came, expected = sorted(report["mismatched_keys"])[0]
        raise InputError(
            f"the weights of {source} do not fit {class_name}: {name} is {tuple(came)} there and {tuple(expected)} by "
            f"the config ({len(report['mismatched_keys'])} such in all); give the config they came with, or "
            f"ignore_mismatched_sizes=True to start these afresh"
        )
    missing = _missing(set(report["missing_keys"]), parameters, encoder)
    surplus = {key for key in report["unexpected_keys"] if key.startswith(encoder or ENCODER_PARTS)}
    found = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("surplus", surplus))
        if keys
    ]
    if found:
        raise InputError(
            f"the weights of {source} do not fit {class_name}: {' and '.join(found)}; fetch or write them again, give "
            f"the config they came with, or take what fits with strict=False"
        )


def _missing(missing: set[str], parameters: Collection[str], encoder: str) -> set[str]:
    """Those that may not be fresh: of parts that are there by half, and of the encoder."""
    parts: dict[str, set[str]] = defaultdict(set)
    for name in parameters:
        parts[_part(name, encoder)].add(name)
    for part, names in parts.items():
        if part and names <= missing:
            missing = missing - names
    return missing & set(parameters)


def _part(name: str, encoder: str) -> str:
    """What is fresh as a whole or not at all; "" of the text encoder, which is never fresh."""
    inside = name.removeprefix(encoder)
    if name.startswith(encoder) and inside.startswith(ENCODER_PARTS):
        return (
            KNOWLEDGE if KNOWLEDGE in inside else next((part for part in MAY_BE_FRESH if inside.startswith(part)), "")
        )
    return ".".join(name.split(".")[: 2 if name.startswith("cls.") else 1])
