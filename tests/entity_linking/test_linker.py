"""Candidates, terms and decisions on a graph of ten entities, against sums written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import CandidateTable
from entity_linking.coherence import Coherence, unit_vectors
from entity_linking.context import ContextWords, word_bins
from entity_linking.encoder import EncoderSimilarity, entity_texts
from entity_linking.evaluation import candidate_recall, in_kb_scores
from entity_linking.linker import EntityLinker, batches, degrees, named_rows
from entity_linking.matcher import AliasMatcher, alias_strings
from entity_linking.mentions import GivenSpans
from entity_linking.records import Link
from entity_linking.rerank import Reranker, over_text, softmax_with_nil
from entity_linking.tokens import IS_WORD, tokenise
from entity_linking.weights import LinkWeights
from kg.graph import KnowledgeGraph

ENTITIES = [
    ("paris_city", "Paris", "capital city of France on the Seine", 90),
    ("paris_hilton", "Paris Hilton", "American hotel heiress and singer", 5),
    ("paris_troy", "Paris", "prince of Troy who took Helen", 5),
    ("france", "France", "country in western Europe", 50),
    ("helen", "Helen", "queen of Sparta", 9),
    ("troy", "Troy", "ancient city at war", 9),
    ("may_month", "May", "fifth month", 9),
    ("may_bush", "may", "thorny shrub with white flowers", 1),
    ("bank_river", "bank", "sloping land beside a body of water", 3),
    ("bank_money", "bank", "institution that lends money", 7),
]
ALIASES = [
    *[("Paris", 1, 0.9), ("Paris", 2, 0.05), ("Paris", 3, 0.05), ("Paris Hilton", 2, 1.0), ("France", 4, 1.0)],
    *[("Helen", 5, 1.0), ("Troy", 6, 1.0), ("May", 7, 1.0), ("may", 8, 1.0), ("bank", 9, 0.3), ("bank", 10, 0.7)],
]
TRIPLES = [(1, 0, 4), (3, 1, 6), (5, 1, 6), (3, 1, 5)]
VECTORS = np.zeros((11, 4), dtype=np.float32)
VECTORS[[1, 4]] = [1, 0, 0, 0.1]
VECTORS[[3, 5, 6]] = [0, 1, 0, 0.1]
VECTORS[[2, 7, 8]] = [0, 0, 1, 0.1]
TEXTS = st.lists(
    st.sampled_from(
        ["Paris", "France", "Helen", "Troy", "May", "may", "bank", "banks", "water", "the", ".", ",", "\n", "é"]
    ),
    max_size=120,
).map(" ".join)


def graph() -> KnowledgeGraph:
    entities = pa.table(
        {
            "row": range(1, 11),
            "id": [e[0] for e in ENTITIES],
            "label": [e[1] for e in ENTITIES],
            "aliases": [[] for _ in ENTITIES],
            "description": [e[2] for e in ENTITIES],
            "types": [[] for _ in ENTITIES],
            "count": [e[3] for e in ENTITIES],
        },
        schema=None,
    )
    entities = entities.set_column(3, "aliases", pa.array([[e[1]] for e in ENTITIES], pa.list_(pa.string())))
    entities = entities.set_column(5, "types", pa.array([["thing"] for _ in ENTITIES], pa.list_(pa.string())))
    names, rows, priors = zip(*ALIASES)
    return KnowledgeGraph(
        entities=entities,
        relations=pa.table({"row": [0, 1], "id": ["in", "of"], "label": ["in", "of"]}),
        aliases=pa.table({"alias": list(names), "entity": list(rows), "prior": list(priors)}),
        triples=np.array(TRIPLES, dtype=np.int32),
    )


def linker(*, vectors: bool = True, min_score: float = 0.3, **weights: float) -> EntityLinker:
    kg = graph()
    table = AliasTable.from_aliases(alias_strings(kg)[0])
    return EntityLinker(
        detector=AliasMatcher(table),
        candidates=CandidateTable.from_graph(kg, table),
        reranker=Reranker(
            weights=LinkWeights(**weights),
            degree=degrees(kg),
            coherence=Coherence.of_vectors(VECTORS) if vectors else None,
            context=ContextWords.from_graph(kg) if vectors else None,
            related=ContextWords.of_neighbours(kg) if vectors else None,
        ),
        entities=named_rows(kg.entities["id"]),
        labels=named_rows(kg.entities["label"]),
        min_score=min_score,
    )


def entities_in(linker: EntityLinker, text: str) -> dict[str, str]:
    return {text[link.start : link.end]: link.entity for link in linker.link(text)}


def test_prior_decides_alone_and_neighbours_overrule_it() -> None:
    """A coherence of the wrong sign would lower accuracy by points and still look plausible."""
    text = "Then Paris came with Helen to Troy."
    assert entities_in(linker(vectors=False), text)["Paris"] == "paris_city"
    assert entities_in(linker(coherence=4.0), text)["Paris"] == "paris_troy"
    assert entities_in(linker(coherence=4.0), "Rome and Paris in France")["Paris"] == "paris_city"


def test_context_words_overrule_the_prior() -> None:
    """The description's words around the mention, hashed: a broken hash would leave every overlap at 0."""
    text = "they sat on the bank beside the body of water"
    assert entities_in(linker(context=0.0), text)["bank"] == "bank_money"
    assert entities_in(linker(context=1.0), text)["bank"] == "bank_river"


def test_what_is_said_of_neighbours_overrules_the_prior() -> None:
    """Words of the neighbours' descriptions alone: in their labels, or in one's own description, they do not stand."""
    text = "Paris went to the queen of Sparta"
    assert entities_in(linker(), text)["Paris"] == "paris_city"
    assert entities_in(linker(related=5.0), text)["Paris"] == "paris_troy"
    assert "related" not in linker().explain(text)[0].candidates[0].terms


def test_related_words_are_those_of_a_few_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the descriptions themselves; an entity of a million neighbours must not take its words from all."""
    kg = graph()
    paris, alone = 3, 7

    def words(of: ContextWords, row: int) -> set[int]:
        return set(of.bins[of.bounds[row] : of.bounds[row + 1]].tolist())

    def hashed(*descriptions: str) -> set[int]:
        tokens = tokenise(descriptions)
        return set(word_bins(tokens.hash[tokens.has(IS_WORD)]).tolist())

    every = ContextWords.of_neighbours(kg)
    assert words(every, paris) == hashed(ENTITIES[5][2], ENTITIES[4][2])
    assert words(every, alone) == words(every, 0) == set()
    monkeypatch.setattr("entity_linking.context.MAX_RELATED", 1)
    monkeypatch.setattr("entity_linking.context.ENTITIES_AT_ONCE", 2)
    assert words(ContextWords.of_neighbours(kg), paris) == hashed(ENTITIES[5][2])


def test_case_chooses_between_a_name_and_a_word() -> None:
    """ "May" and "may" fold alike; without case evidence the commoner one takes both."""
    assert entities_in(linker(), "We met in May and France") == {"May": "may_month", "France": "france"}
    assert entities_in(linker(), "Red banks") == {"banks": "bank_money"}


def test_merged_aliases_share_their_candidates_by_count() -> None:
    """A rare spelling must not take half the mass of a common word; the priors of a key sum to 1."""
    kg = graph()
    table = AliasTable.from_aliases(alias_strings(kg)[0])
    candidates = CandidateTable.from_graph(kg, table, max_candidates=2)
    # "may" alone is a function word and left out, so that only the month stays under that key.
    assert table.dropped == {"alias_function_word": 1}
    paris = GivenSpans(table, [[(0, 5)]]).detect(["Paris"])
    found = candidates.of(paris)
    assert found.entity.tolist() == [1, 2]
    np.testing.assert_allclose(found.prior, [0.9 / 0.95, 0.05 / 0.95], rtol=1e-6)
    assert candidates.num_cut == 1


def test_explain_accounts_for_every_logit_and_probability() -> None:
    """An explanation that does not add up to the decision is decoration."""
    text = "Paris lies in France. Then Paris came with Helen to Troy by the bank."
    made = linker(nil_words=0.3, nil_capital=-0.2, nil_prior=0.1)
    explained = made.explain(text)
    assert [e.link for e in explained if e.link] == made.link(text)
    for mention in explained:
        assert text[mention.mention.start : mention.mention.end] == mention.surface
        logits = np.array([sum(c.contributions.values()) for c in mention.candidates])
        masses = np.exp([*logits, sum(mention.nil_contributions.values())])
        np.testing.assert_allclose([c.score for c in mention.candidates], masses[:-1] / masses.sum(), rtol=1e-9)
        assert mention.nil_score == pytest.approx(masses[-1] / masses.sum())
        assert set(mention.candidates[0].terms) == {
            *("prior", "case", "inside_name", "coherence", "context", "popularity"),
        }
        assert set(mention.nil_contributions) == {"nil", "nil_words", "nil_capital", "nil_prior"}


def test_coherence_is_the_cosine_with_the_neighbours_expected_vectors() -> None:
    """Against a loop: window, own mention left out, a repeated alias counted once."""
    kg = graph()
    table = AliasTable.from_aliases(alias_strings(kg)[0])
    candidates = CandidateTable.from_graph(kg, table)
    mentions = AliasMatcher(table).detect(["Paris France Helen France Troy bank", "x", "Helen met Paris"])
    found = candidates.of(mentions)
    window, unit = 2, unit_vectors(VECTORS)
    got = Coherence.of_vectors(VECTORS, window=window).score(mentions, found)
    for c in range(len(found)):
        i = found.mention[c]
        total, seen = np.zeros(4), set()
        for j in range(len(mentions)):
            first = (mentions.document[j], mentions.key[j]) not in seen
            seen.add((mentions.document[j], mentions.key[j]))
            same_text = mentions.document[j] == mentions.document[i] and abs(i - j) <= window
            if first and same_text and mentions.key[j] != mentions.key[i]:
                for k in range(found.bounds[j], found.bounds[j + 1]):
                    total += found.prior[k] * unit[found.entity[k]]
        norm = np.linalg.norm(total)
        expected = unit[found.entity[c]] @ total / norm if norm > 1e-5 else 0.0
        assert got[c] == pytest.approx(expected, abs=1e-4)


def test_a_term_is_the_mean_over_the_texts_mentions_of_an_alias() -> None:
    """Pooled over another text, another alias or another entity it would still look like a term."""
    kg = graph()
    table = AliasTable.from_aliases(alias_strings(kg)[0])
    mentions = AliasMatcher(table).detect(["Paris bank Paris banks May", "Paris MAY bank"])
    found = CandidateTable.from_graph(kg, table).of(mentions)
    values = np.random.default_rng(0).normal(size=len(found))
    got = over_text(mentions, found, values)
    for c in range(len(found)):
        i = found.mention[c]
        alike = [
            values[k]
            for k in range(len(found))
            if found.entity[k] == found.entity[c]
            and mentions.key[found.mention[k]] == mentions.key[i]
            and mentions.document[found.mention[k]] == mentions.document[i]
        ]
        assert got[c] == pytest.approx(np.mean(alike))
    assert mentions.key.tolist().count(mentions.key[0]) == 3


def test_agreement_keeps_what_every_signal_says() -> None:
    """Weak labels for training: one signal against the others is enough to abstain."""
    text = "Then Paris came with Helen to Troy."
    made = linker(coherence=4.0)
    assert entities_in(made, text) == {"Paris": "paris_troy", "Helen": "helen", "Troy": "troy"}
    made.agreement = True
    assert entities_in(made, text) == {"Helen": "helen", "Troy": "troy"}
    assert made.link("") == []


def test_the_encoder_looks_at_hard_mentions_and_sees_their_sentence() -> None:
    """A sentence taken from the wrong place would still give a cosine."""
    kg, seen = graph(), []

    def encode(texts):
        seen.extend(texts)
        return np.array([[1.0, 0.0] if "water" in t else [0.0, 1.0] for t in texts], dtype=np.float32)

    made = linker(vectors=False, popularity=0.0)
    made.reranker.encoder = EncoderSimilarity(encode, entity_texts(kg), margin=5.0)
    text = "He paid Helen.  A bank by the water! France has banks.\nParis"
    assert entities_in(made, text)["bank"] == "bank_river"
    assert seen[:3] == ["A bank by the water! ", "France has banks.\n", "Paris"]
    assert "bank: institution that lends money" in seen
    assert not any("Troy: ancient" in t for t in seen)
    encoded = len(seen)
    made.link(text)
    assert len(seen) == encoded + 3, "descriptions are encoded once"
    made.reranker.encoder.margin = 0.0
    made.link(text)
    assert len(seen) == encoded + 3


def test_softmax_leaves_room_for_nil_and_survives_no_candidates() -> None:
    """Empty rows shift every later one in a reduceat done naively."""
    bounds = np.array([0, 0, 2, 2, 3, 3])
    score, nil, best = softmax_with_nil(np.array([1.0, 1.0, -800.0]), bounds, nil=np.zeros(5))
    np.testing.assert_allclose(score, [np.e / (2 * np.e + 1)] * 2 + [0.0])
    np.testing.assert_allclose(nil, [1, 1 / (2 * np.e + 1), 1, 1, 1])
    assert best.tolist() == [-1, 0, -1, 2, -1]


@given(st.lists(TEXTS, min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_links_are_bit_for_bit_the_same_alone_and_in_a_batch(texts: list[str]) -> None:
    """Scores that depend on the neighbours of a batch make every shard size another artifact."""
    made = linker(min_score=0.0)
    assert made.link_batch(texts) == [made.link(text) for text in texts]


def test_long_texts_are_cut_at_blanks_and_lose_no_offset() -> None:
    """One document of a whole book must neither fill memory nor shift what follows a cut."""
    text = "Helen went to Troy. " * 30
    texts = [text, "", "x" * 95]
    pieces = [piece for batch in batches(texts, limit=50) for piece in zip(*batch, strict=True)]
    for document, whole in enumerate(texts):
        assert "".join(part for of, _, part in pieces if of == document) == whole
    assert all(texts[of][offset : offset + len(part)] == part for of, offset, part in pieces)
    assert not any(part[-1:].isalpha() for of, _, part in pieces if of == 0)
    long = "Helen went to Troy. " * 30_000
    links = linker().link(long)
    assert len(links) == 60_000
    assert {long[link.start : link.end] for link in links} == {"Helen", "Troy"}


def test_prior_only_and_hostile_texts_link_without_failing() -> None:
    """No text, no mention, controls and lone surrogates: nothing found, nothing raised."""
    made = linker(vectors=False)
    assert made.link_batch([]) == []
    assert made.link_batch(["", "\x00\ud800", "nothing here"]) == [[], [], []]
    assert linker().link_batch(["", "\x00\ud800 Paris"])[1][0].start == 3
    with pytest.raises(ValueError, match="does not exist"):
        EntityLinker.from_artifacts(Path("no such graph"), None)


def test_scores_count_links_inside_the_graph_only() -> None:
    """Punishing links on spans whose gold the graph lacks would measure the graph, not the linker."""
    gold = [[Link(0, 5, "paris_city", 1.0), Link(9, 12, "unknown", 1.0)], [Link(3, 4, "troy", 1.0)]]
    given = [[Link(0, 5, "paris_city", 0.9), Link(9, 12, "troy", 0.8), Link(20, 21, "troy", 0.8)], []]
    scores = in_kb_scores(gold, given, entities={"paris_city", "troy"})
    assert (scores.num_gold, scores.num_links, scores.num_correct) == (2, 2, 1)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)
    text = "Paris and Troy"
    explained = linker(vectors=False).explain(text)
    assert candidate_recall([Link(0, 5, "paris_troy", 1.0)], explained, k=1) == (0, 1)
    assert candidate_recall([Link(0, 5, "paris_troy", 1.0)], explained, k=3) == (1, 1)
