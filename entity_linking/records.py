"""What the linker hands out: plain frozen values. Offsets are Unicode code points into the text as it was given."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mention:
    """A span `text[start:end]` that reads like an alias of the graph.

    alias: the alias in its folded form (`normalise.fold`), tokens joined by one space: `Çelik's` -> `celik 's`.
    """

    start: int
    end: int
    alias: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entity a mention may mean.

    prior: p(entity | alias) in (0, 1], summing to 1 over all entities of the alias (before the cut to the best k).
    score: p(entity | mention, text) in [0, 1], summing to 1 together with NIL.
    terms: the raw features by name; contributions: each feature times its weight, whose sum is the logit.
    """

    entity_id: str
    label: str
    prior: float
    score: float
    terms: dict[str, float] = field(default_factory=dict)
    contributions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """A mention decided: `text[start:end]` means the entity of id `entity` with probability `score` in [0, 1]."""

    start: int
    end: int
    entity: str
    score: float

    @property
    def entity_id(self) -> str:
        return self.entity


@dataclass(frozen=True, slots=True)
class ExplainedMention:
    """A mention with every candidate and every term, best first. `link` is None where the mention stays unlinked.

    nil_score: probability that none of the candidates is meant; the candidates' scores and it sum to 1.
    nil_contributions: the terms of NIL times their weights, whose sum is its logit.
    """

    mention: Mention
    surface: str
    candidates: tuple[Candidate, ...]
    nil_score: float
    nil_contributions: dict[str, float]
    link: Link | None


@dataclass(frozen=True, slots=True)
class LinkedDocument:
    """A text with its linked mentions, in order of their start and never overlapping: one row of a linked shard.

    id: the corpus's name of the document (a Wikipedia paragraph: its title).
    """

    id: str
    title: str
    text: str
    mentions: tuple[Link, ...]
