"""What the linker's terms weigh. Importing this loads no array library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LinkWeights:
    """What each term adds to a candidate's logit, or (`nil…`) to that of none; 0 switches a term off.

    The defaults are for a graph without gold links; `link train` fits all of them on a text that has some.
    """

    prior: float = 1.0
    """Of log p(entity | alias), at most 0."""
    popularity: float = 0.3
    """Of the log share of the entity's degree in the graph, plus one, among the mention's candidates, at most 0."""
    coherence: float = 1.0
    """Of the cosine with the neighbours' expected vectors, in [-1, 1], mean over the text's mentions of the alias."""
    translation: float = 0.6
    """Of the prior mass of neighbours' entities near by one relation, 0 upwards, mean over the text's mentions."""
    context: float = 0.7
    """Of the root of the overlap of description and surroundings, 0 upwards, mean over the text's mentions."""
    related: float = 0.0
    """Of the root of the overlap of the neighbours' descriptions and the surroundings, 0 upwards, mean as above."""
    topic: float = 0.5
    """Of the log ratio of the entity's type in the whole text to its type among the graph's names."""
    edges: float = 0.4
    """Of the root of the prior mass, in the whole text, of entities an edge of the graph away, 0 upwards."""
    encoder: float = 9.0
    """Of the cosine of sentence and description by a text encoder, less the mention's mean; where one was given."""
    cross_encoder: float = 1.0
    """Of a cross-encoder's log odds for mention and description, less the mention's mean; where one was given."""
    case: float = 1.0
    """Of the case term: 1 a name written as one, -1 a capital where the entity has none, else 0."""
    inside_name: float = -2.0
    """Of 1 where another capitalised word stands right beside the mention: part of a longer, unknown name."""
    nil: float = -2.5
    """Logit of NIL; a mention with one candidate, certain by prior, has logit 0."""
    nil_capital: float = 0.0
    """Of 1 where the mention is capitalised and its sentence does not ask for it."""
    nil_words: float = 0.0
    """Of the log of the mention's number of tokens."""
    nil_link_probability: float = -0.5
    """Of the log odds that the alias is a mention at all, where somebody counted (`link fit-priors`, `link
    self-label`), else 0."""
    nil_prior: float = 0.0
    """Of the log of the likeliest candidate's prior, at most 0: an alias of many equals."""
