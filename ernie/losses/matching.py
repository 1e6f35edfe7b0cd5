"""Which of a student's layers learn what from which of the teacher's: settings, presets, and the table of matches."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ernie.errors import InputError

Kind = Literal["bert", "two-stream"]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Factor λ of each term, 0 leaves it out, and the switches of how it is computed."""

    embedding: float = 0.0
    hidden: float = 0.0
    attention: float = 0.0
    relation: float = 0.0
    entity_hidden: float = 0.0
    entity_relation: float = 0.0
    change: float = 0.0
    masked_lm: float = 0.0
    denoising_entity: float = 0.0
    delta_weight: float = 0.0
    relation_layers: Literal["all", "last"] = "all"
    relation_heads: int = 0
    count_padding: bool = False
    shared_projection: bool = False
    always_project: bool = False
    class_mean: bool = False
    gold_regression: bool = False


PRESETS: dict[str, LossSettings] = {
    "tinybert": LossSettings(
        embedding=1.0,
        hidden=1.0,
        attention=1.0,
        count_padding=True,
        shared_projection=True,
        always_project=True,
        class_mean=True,
        gold_regression=True,
    ),
    "minilmv2": LossSettings(relation=1.0, relation_layers="last"),
    "ernie-two-stream": LossSettings(
        embedding=1.0, hidden=1.0, relation=1.0, entity_hidden=1.0, entity_relation=1.0, change=1.0
    ),
    "ernie-to-bert": LossSettings(embedding=1.0, hidden=1.0, relation=1.0, entity_hidden=1.0, delta_weight=1.0),
    "bert-to-bert": LossSettings(embedding=1.0, hidden=1.0, relation=1.0),
}
"""`tinybert`: the losses of the released code, value for value. `minilmv2`: relations of the last layers alone.
`ernie-two-stream`: both streams and what entities change. `ernie-to-bert`: entities told to one that sees only text.
`bert-to-bert`: of a teacher that knows no entities."""

TERMS = ("embedding", "hidden", "attention", "relation", "entity_hidden", "entity_relation", "change")
"""Terms that compare layers; `masked_lm` and `denoising_entity` compare the pre-training heads' answers."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is learnt of the teacher's inside: a preset, and what differs from it."""

    preset: str = ""
    """`tinybert`, `minilmv2`, `ernie-two-stream`, `ernie-to-bert` or `bert-to-bert`; "": the one of the three last that
    fits student and teacher."""
    embedding: float | None = None
    """Factor of the embedding outputs' squared error, TinyBERT eq. 9; none, here and below: the preset's."""
    hidden: float | None = None
    """Of the hidden states' squared error, TinyBERT eq. 8."""
    attention: float | None = None
    """Of the raw scores' squared error, TinyBERT eq. 7: needs equal head counts."""
    relation: float | None = None
    """Of the Q-Q, K-K and V-V relations, MiniLMv2: any head count and width."""
    entity_hidden: float | None = None
    """Of the entity states' squared error; a plain BERT learns them at the first piece of each mention."""
    entity_relation: float | None = None
    """Of the relations among a text's entities, where it has two or more."""
    change: float | None = None
    """Of what entities change in the token states; costs a second pass of both models."""
    masked_lm: float | None = None
    """Of the teacher's distribution over word pieces at masked positions (`pretrain distill` alone)."""
    denoising_entity: float | None = None
    """Of the teacher's distribution over candidate entities (`pretrain distill` alone)."""
    delta_weight: float | None = None
    """alpha: positions that entities change weigh up to 1 + 4 alpha; costs a second pass of the teacher."""
    relation_layers: Literal["all", "last"] | None = None
    """Relations of every pair of layers, or of the last alone as in MiniLMv2."""
    relation_heads: int | None = None
    """Heads of the relations, a divisor of both widths; 0: the largest such up to the teacher's heads."""
    count_padding: bool | None = None
    """As the released TinyBERT: padded positions in every mean."""
    shared_projection: bool | None = None
    """As the released TinyBERT: one projection for all layers."""
    always_project: bool | None = None
    """As the released TinyBERT: a projection between equal widths too."""
    class_mean: bool | None = None
    """As the released TinyBERT: the prediction loss divided by the number of classes."""
    gold_regression: bool | None = None
    """As the released TinyBERT: a regression learns the gold value, its teacher is not asked."""

    def resolved(self, student: Kind, *, teacher_knows: bool = True) -> LossSettings:
        """Every setting. teacher_knows: whether the teacher reads entities.

        Raises:
            InputError: an unknown preset, a negative factor, entity terms that this student cannot learn.
        """
        usual = {"bert": "ernie-to-bert" if teacher_knows else "bert-to-bert", "two-stream": "ernie-two-stream"}
        name = self.preset or usual[student]
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            raise InputError(
                f"losses.preset is one of {', '.join(PRESETS)}, got {name!r}"
                + (f"; nearest: {near[0]}" if near else "")
            )
        given = {k: v for k, v in dataclasses.asdict(self).items() if k != "preset" and v is not None}
        settings = dataclasses.replace(PRESETS[name], **given)
        factors = {term: getattr(settings, term) for term in (*TERMS, "masked_lm", "denoising_entity", "delta_weight")}
        wrong = {term: factor for term, factor in factors.items() if not (factor >= 0 and math.isfinite(factor))}
        if wrong:
            raise InputError(f"factors of losses are at least 0, got {wrong}")
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What matching must know of a model. entity_width: 0 for a model without an entity stream."""

    kinds: tuple[str, ...]
    width: int
    heads: int
    entity_width: int = 0
    entity_heads: int = 0

    @classmethod
    def of(cls, config: Any) -> Shape:
        """config: an ErnieConfig or a BertConfig."""
        kinds = tuple(getattr(config, "layer_types", None) or ["text"] * config.num_hidden_layers)
        knows = any(kind != "text" for kind in kinds)
        return cls(
            kinds=kinds,
            width=config.hidden_size,
            heads=config.num_attention_heads,
            entity_width=config.entity_size if knows else 0,
            entity_heads=config.num_entity_attention_heads if knows else 0,
        )

    @property
    def two_stream(self) -> bool:
        return self.entity_width > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One row of the table: a term, the layers it compares (0 the embeddings), and the widths on both sides.

    streams: what is read of the student and of the teacher, `token`, `entity`, or `mention` (the token states at the
    entities' first pieces). heads: of relations and scores. projection: name of the linear map to the teacher's width,
    "" where none is needed.
    """

    term: str
    layers: tuple[int, int]
    streams: tuple[str, str]
    widths: tuple[int, int]
    heads: int = 0
    projection: str = ""


def match_table(
    settings: LossSettings, *, student: Shape, teacher: Shape, layer_map: Sequence[int]
) -> tuple[Match, ...]:
    """Every comparison the settings ask for, in the order of TERMS.

    layer_map: for each student layer m = 1 … M the teacher layer g(m), 1-based.

    Raises:
        InputError: no term at all, unequal heads for raw scores, heads that do not divide a width, an entity term
            whose stream finds no partner.
    """
    check_layer_map(layer_map, student=student, teacher=teacher)
    found: list[Match] = []
    for term in TERMS:
        if getattr(settings, term):
            rows = _MATCHERS[term](settings, student, teacher, list(enumerate(layer_map, start=1)))
            if not rows:
                raise InputError(
                    f"the layer map {tuple(layer_map)} of a student of {'-'.join(student.kinds)} leaves the term "
                    f"{term!r} without a pair of layers; set losses.{term}=0, or map onto other layers of the "
                    f"teacher ({'-'.join(teacher.kinds)})"
                )
            found += rows
    if not found and not (settings.masked_lm or settings.denoising_entity):
        raise InputError("every intermediate loss has weight 0; give at least one a positive weight")
    return tuple(found)


def check_layer_map(layer_map: Sequence[int], *, student: Shape, teacher: Shape) -> None:
    """
    Raises:
        InputError: a wrong number of entries, one that is no layer of the teacher or not above the one before, or, for
            a two-stream student, one that joins layers of different kinds.
    """
    rising = all(a < b for a, b in itertools.pairwise(layer_map))
    if len(layer_map) != len(student.kinds) or not rising or not all(1 <= g <= len(teacher.kinds) for g in layer_map):
        raise InputError(
            f"layer_map needs {len(student.kinds)} rising layers of the teacher's 1..{len(teacher.kinds)}, "
            f"one for each of the student's, got {tuple(layer_map)}"
        )
    if not student.two_stream:
        return
    for m, g in enumerate(layer_map, start=1):
        if student.kinds[m - 1] != teacher.kinds[g - 1]:
            raise InputError(
                f"layer_map joins the student's {student.kinds[m - 1]!r} layer {m} to the teacher's "
                f"{teacher.kinds[g - 1]!r} layer {g}: its streams would have no partner; join layers of one kind "
                f"(the teacher's are {'-'.join(teacher.kinds)})"
            )


Pairs = Sequence[tuple[int, int]]


def _embedding(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    return [_token_match("embedding", (0, 0), settings, student, teacher)]


def _hidden(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    return [_token_match("hidden", pair, settings, student, teacher) for pair in pairs]


def _token_match(term: str, pair: tuple[int, int], settings: LossSettings, student: Shape, teacher: Shape) -> Match:
    projected = settings.always_project or student.width != teacher.width
    name = "token" if settings.shared_projection else f"token_{pair[0]}"
    widths = (student.width, teacher.width)
    return Match(
        term=term, layers=pair, streams=("token", "token"), widths=widths, projection=name if projected else ""
    )


def _attention(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    if student.heads != teacher.heads:
        raise InputError(
            f"attention loss expects equal head counts, but the student has {student.heads} and the teacher "
            f"{teacher.heads}; set losses.attention=0 and use losses.relation, which takes any"
        )
    widths, streams = (student.width, teacher.width), ("token", "token")
    return [Match(term="attention", layers=pair, streams=streams, widths=widths, heads=student.heads) for pair in pairs]


def _relation(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    widths = (student.width, teacher.width)
    heads = _relation_heads(settings.relation_heads, teacher.heads, widths)
    chosen = pairs if settings.relation_layers == "all" else pairs[-1:]
    return [
        Match(term="relation", layers=pair, streams=("token", "token"), widths=widths, heads=heads) for pair in chosen
    ]


def _entity_hidden(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    """Entity states of mix and fuse layers. The last layer's are read by nothing, on either side: no loss ever reached
    them, so the teacher's layer before stands in, and a two-stream student's last layer has no row."""
    last = len(teacher.kinds)
    rows = []
    for m, g in pairs:
        source = min(g, last - 1)
        if source < 1 or teacher.kinds[source - 1] == "text" or not teacher.two_stream:
            continue
        if student.two_stream and (m == len(student.kinds) or student.kinds[m - 1] == "text"):
            continue
        stream = "entity" if student.two_stream else "mention"
        width = student.entity_width if student.two_stream else student.width
        rows.append(
            Match(
                term="entity_hidden",
                layers=(m, source),
                streams=(stream, "entity"),
                widths=(width, teacher.entity_width),
                projection="" if stream == "entity" and width == teacher.entity_width else f"{stream}_{m}",
            )
        )
    return rows


def _entity_relation(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    """Where both have entity attention, the last layer among them: what attends there still moves the tokens."""
    if not (student.two_stream and teacher.two_stream):
        return []
    widths = (student.entity_width, teacher.entity_width)
    heads = _relation_heads(0, teacher.entity_heads, widths)
    return [
        Match(term="entity_relation", layers=(m, g), streams=("entity", "entity"), widths=widths, heads=heads)
        for m, g in pairs
        if student.kinds[m - 1] == teacher.kinds[g - 1] == "fuse"
    ]


def _change(settings: LossSettings, student: Shape, teacher: Shape, pairs: Pairs) -> list[Match]:
    if not (student.two_stream and teacher.two_stream):
        return []
    chosen = [(m, g) for m, g in pairs if student.kinds[m - 1] != "text"]
    return [_token_match("change", pair, settings, student, teacher) for pair in chosen]


_MATCHERS = {
    "embedding": _embedding,
    "hidden": _hidden,
    "attention": _attention,
    "relation": _relation,
    "entity_hidden": _entity_hidden,
    "entity_relation": _entity_relation,
    "change": _change,
}


def _relation_heads(asked: int, most: int, widths: tuple[int, int]) -> int:
    """The heads asked for, or the largest number up to `most` that divides both widths."""
    common = math.gcd(*widths)
    if asked and common % asked:
        raise InputError(
            f"relation_heads {asked} must divide the student's width {widths[0]} and the teacher's {widths[1]}; "
            f"{common} and its divisors do"
        )
    return asked or next(heads for heads in range(most, 0, -1) if common % heads == 0)


def explain(matches: Sequence[Match], *, settings: LossSettings, values: Mapping[str, float] | None = None) -> str:
    """The match table as text: layers, streams, widths, heads, parameters of the projection, factor, and the share of
    the weighted loss where `values` (unweighted terms of one batch) are given."""
    weighted = {term: getattr(settings, term) * value for term, value in (values or {}).items() if term in TERMS}
    total = sum(weighted.values())
    counts = {term: sum(match.term == term for match in matches) for term in TERMS}
    header = ("term", "student", "teacher", "widths", "heads", "projection", "factor", "share")
    rows = [header]
    seen: set[str] = set()
    for match in matches:
        new = match.projection and match.projection not in seen
        seen.add(match.projection)
        parameters = (match.widths[0] + 1) * match.widths[1] if new else 0
        share = weighted.get(match.term, 0.0) / total / counts[match.term] if total else None
        rows.append(
            (
                match.term,
                f"{match.streams[0]} {match.layers[0]}",
                f"{match.streams[1]} {match.layers[1]}",
                f"{match.widths[0]} → {match.widths[1]}",
                str(match.heads or "-"),
                f"{match.projection} ({parameters:,})" if match.projection else "-",
                f"{getattr(settings, match.term):g}",
                "-" if share is None else f"{share:.1%}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
