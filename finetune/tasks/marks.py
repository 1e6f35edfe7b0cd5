"""How the spans of an example are marked in its text.

A marking gives each role of a span the words before and after it. `{TYPE}` and `{type}` stand for the span's own type
(`PERSON`, `person`; `ENTITY` where it has none). Words in square brackets become special pieces of the tokenizer;
others are ordinary words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Markers = Mapping[str, tuple[str, str]]

MARKINGS: dict[str, dict[str, tuple[str, str]]] = {
    "special": {
        "mention": ("[ENT]", "[/ENT]"),
        "head": ("[HD]", "[/HD]"),
        "tail": ("[TL]", "[/TL]"),
    },
    "ernie": {"mention": ("。", "。"), "head": ("#", "#"), "tail": ("$", "$")},
    "entity_marker": {"mention": ("[E]", "[/E]"), "head": ("[E1]", "[/E1]"), "tail": ("[E2]", "[/E2]")},
    "entity_marker_punct": {"mention": ("@", "@"), "head": ("@", "@"), "tail": ("#", "#")},
    "typed_entity_marker": {
        "mention": ("[ENT-{TYPE}]", "[/ENT-{TYPE}]"),
        "head": ("[SUBJ-{TYPE}]", "[/SUBJ-{TYPE}]"),
        "tail": ("[OBJ-{TYPE}]", "[/OBJ-{TYPE}]"),
    },
    "typed_entity_marker_punct": {
        "mention": ("@ * {type} *", "@"),
        "head": ("@ * {type} *", "@"),
        "tail": ("# ^ {type} ^", "#"),
    },
    "none": {},
}
"""special: ours. ernie: the first implementation's words, for its checkpoints. entity_marker and typed_entity_marker,
plain and punct: Zhou & Chen 2022, with the names of their code. none: text as it is."""

UNTYPED = "ENTITY"


def filled(template: str, span_type: str | None) -> str:
    """A mark with the type put in.

    >>> filled("[SUBJ-{TYPE}]", "person"), filled("@ * {type} *", "STATE_OR_PROVINCE"), filled("[HD]", None)
    ('[SUBJ-PERSON]', '@ * state or province *', '[HD]')
    """
    name = span_type or UNTYPED
    return template.replace("{TYPE}", name.upper()).replace("{type}", name.lower().replace("_", " "))


def special_pieces(markers: Markers, types: Iterable[str]) -> list[str]:
    """Every mark in square brackets, once, in a fixed order: of each role, and where it is typed of each type."""
    known = [*types, UNTYPED]
    found: dict[str, None] = {}
    for pair in markers.values():
        for template in pair:
            names = known if "{" in template else [UNTYPED]
            found.update({mark: None for name in names if (mark := filled(template, name)).startswith("[")})
    return list(found)
