"""How good links are: micro precision, recall and F1 against gold links, and how often the candidates hold the gold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from entity_linking.records import ExplainedMention, Link


@dataclass(frozen=True, slots=True)
class LinkScores:
    """Micro-averaged over all documents; a figure without anything to divide by is 0.

    num_gold, num_links, num_correct: gold links inside the graph, links given, links with the gold's span and entity.
    """

    num_gold: int
    num_links: int
    num_correct: int

    @property
    def precision(self) -> float:
        return self.num_correct / self.num_links if self.num_links else 0.0

    @property
    def recall(self) -> float:
        return self.num_correct / self.num_gold if self.num_gold else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.num_correct / (self.num_gold + self.num_links) if self.num_correct else 0.0


def in_kb_scores(
    gold: Iterable[Sequence[Link]], links: Iterable[Sequence[Link]], *, entities: frozenset[str] | set[str]
) -> LinkScores:
    """Micro scores "InKB": gold links to entities the graph lacks are left out, and so are links on their spans.

    gold, links: one sequence a document, in the same order. entities: ids the graph has. A link is correct when
    start, end and entity are the gold's.

    Raises:
        ValueError: not as many documents with links as with gold.
    """
    num_gold = num_links = num_correct = 0
    for wanted, given in zip(gold, links, strict=True):
        known = {(link.start, link.end, link.entity) for link in wanted if link.entity in entities}
        outside = {(link.start, link.end) for link in wanted if link.entity not in entities}
        found = {(link.start, link.end, link.entity) for link in given if (link.start, link.end) not in outside}
        num_gold += len(known)
        num_links += len(found)
        num_correct += len(known & found)
    return LinkScores(num_gold, num_links, num_correct)


def candidate_recall(gold: Sequence[Link], explained: Sequence[ExplainedMention], *, k: int) -> tuple[int, int]:
    """Gold links of one document whose entity is among the best `k` candidates of the mention with the same span.

    Returns the number of those, and of all gold links; summed over documents, their quotient is recall@k.
    """
    best = {
        (mention.mention.start, mention.mention.end): {c.entity_id for c in mention.candidates[:k]}
        for mention in explained
    }
    hits = sum(link.entity in best.get((link.start, link.end), ()) for link in gold)
    return hits, len(gold)
