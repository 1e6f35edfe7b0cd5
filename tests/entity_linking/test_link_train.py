"""From gold links to a linker on disk: it learns what the gold says, opens as it was written, and measures honestly."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from entity_linking import fit_priors, self_labels, train
from entity_linking.annotate import LinkConfig, read_linked
from entity_linking.annotate import run as run_link
from entity_linking.context import ContextWords
from entity_linking.folder import save_held_out, score_for_precision
from entity_linking.gold import GoldDocument
from entity_linking.linker import EntityLinker
from entity_linking.linking import linker_of
from entity_linking.priors import ANY, LinkCounts, fitted_mass, write_counts
from entity_linking.records import Link
from entity_linking.shortening import Spellings
from entity_linking.train import LinkTrainConfig
from entity_linking.training import gold_batches, gold_examples, link_counts
from kg.artifact import open_artifact, write_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def config_of(world: Path, **chosen) -> LinkTrainConfig:
    values = {"graph": world / "graph", "vectors": world / "vectors", "gold": world / "gold.jsonl"} | chosen
    return LinkTrainConfig(**({"output": world / "linker"} | values))


def test_a_linker_learns_what_no_prior_tells_and_opens_as_it_was_written(bank_world, tmp_path, bank_documents):
    """Held-out figures above the prior's; and a saved linker that differs from the trained one would be another."""
    config = config_of(bank_world, output=tmp_path / "linker")
    manifest = open_artifact(train.run(config), stage="link train")
    figures = manifest.figures
    assert figures["accuracy_ambiguous"] > 0.95 > 0.7 > figures["accuracy_ambiguous_prior"]
    assert figures["links"] == manifest.counts["gold_links"] == 120
    assert figures["ambiguous_links"] == 60
    opened = EntityLinker.from_pretrained(tmp_path / "linker")
    assert opened.reranker.weights.coherence > 0.5
    fresh = bank_documents(40, seed=2)
    for document, links in zip(fresh, opened.link_batch([d.text for d in fresh]), strict=True):
        assert {(m.start, m.end, m.entity) for m in links} == {(m.start, m.end, m.entity) for m in document.links}
    again = EntityLinker.from_pretrained(train.run(replace(config, output=tmp_path / "again")))
    texts = [d.text for d in fresh]
    assert again.link_batch(texts) == opened.link_batch(texts)
    explained = opened.explain(fresh[0].text)
    assert "nil_link_probability" in explained[0].nil_contributions


def test_without_gold_the_folder_links_as_the_artifacts_do(bank_world, tmp_path, bank_documents):
    """The folder is also how an untrained linker opens at once."""
    opened = EntityLinker.from_pretrained(train.run(config_of(bank_world, gold=None, output=tmp_path / "linker")))
    plain = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")
    texts = [d.text for d in bank_documents(20, seed=3)]
    assert opened.link_batch(texts) == plain.link_batch(texts)
    assert [e.candidates for e in opened.explain(texts[0])] == [e.candidates for e in plain.explain(texts[0])]


def test_no_document_teaches_about_itself(bank_world, bank_documents):
    """Priors that hold a document's own answer make any figure as good as one likes."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")
    gold = bank_documents(30, seed=4)
    batches = list(gold_batches(linker, gold, unlabelled_is_nil=True, dropped=Counter()))
    counts = link_counts(batches)
    examples = gold_examples(linker, batches, counts, smoothing=0.5, log_odds=True)
    for left in range(0, 30, 7):
        alone = np.arange(30) == left
        others = gold_examples(linker, batches, counts.without(alone), smoothing=0.5, log_odds=True)
        mentions = np.flatnonzero(examples.document == left)
        rows = [c for m in mentions for c in range(examples.bounds[m], examples.bounds[m + 1])]
        np.testing.assert_allclose(examples.terms[rows], others.terms[rows], atol=1e-12)
        np.testing.assert_allclose(examples.nil_terms[mentions], others.nil_terms[mentions], atol=1e-12)


def test_log_odds_and_mass_by_hand():
    """Smoothing at the wrong place lets a single link decide for ever."""
    counts = LinkCounts(
        document=np.array([0, 0, 1]),
        row=np.array([2, 2, 0]),
        key_document=np.array([0, 0, 0, 1, 1]),
        key=np.array([1, 1, 1, 1, 0]),
        linked=np.array([True, True, False, False, True]),
    )
    np.testing.assert_allclose(counts.log_odds(3), [np.log(1.5 / 0.5), np.log(2.5 / 2.5), 0.0])
    assert counts.of_rows(4).tolist() == [1, 0, 2, 0]
    assert counts.without(np.array([True, False])).of_rows(4).tolist() == [1, 0, 0, 0]


def test_unlabelled_spans_are_nil_or_unknown(bank_world):
    """A gold set with some links only must not teach that the others are none."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", None)
    text = "The king has money, Joe."
    gold = [GoldDocument("a", text, (Link(4, 8, "king", 1.0), Link(20, 23, "joe", 1.0), Link(13, 15, "money", 1.0)))]
    dropped = Counter()
    [batch] = gold_batches(linker, gold, unlabelled_is_nil=True, dropped=dropped)
    assert [text[s:e] for s, e in zip(batch.mentions.start, batch.mentions.end, strict=True)] == [
        "king",
        "money",
        "Joe",
    ]
    assert batch.target.tolist() == [7, -1, -1]
    assert +dropped == {"gold_unknown_entity": 1, "span_inside_token": 1}
    [batch] = gold_batches(linker, gold, unlabelled_is_nil=False, dropped=dropped)
    assert batch.target.tolist() == [7, -1]


def test_priors_of_linked_text_reach_the_linker(bank_world, tmp_path, write_gold):
    """Counted under the folded alias: a plural or a capital counts for the same entity."""
    gold = [
        GoldDocument(
            f"d{i}", "Banks lend. A bank, too.", (Link(0, 5, "money_bank", 1.0), Link(14, 18, "money_bank", 1.0))
        )
        for i in range(3)
    ]
    write_gold(tmp_path / "gold.jsonl", gold)
    chosen = {"graph": bank_world / "graph", "gold": tmp_path / "gold.jsonl", "gold_format": "jsonl"}
    manifest = open_artifact(
        fit_priors.run(fit_priors.FitPriorsConfig(**chosen, output=tmp_path / "priors")), stage="link fit-priors"
    )
    assert manifest.counts["links"] == 6
    config = config_of(bank_world, gold=None, priors=tmp_path / "priors", output=tmp_path / "linker")
    opened = EntityLinker.from_pretrained(train.run(config))
    [mention] = opened.explain("a bank")
    assert {c.entity_id: c.prior for c in mention.candidates}["money_bank"] == pytest.approx((3 + 0.25) / 3.5)
    assert fitted_mass(opened.candidates.of(opened.detector.detect(["a bank"])), np.zeros(99)).sum() == pytest.approx(
        0.5
    )
    with pytest.raises(InputError, match="expected one made by"):
        train.run(replace(config, priors=bank_world / "graph", output=tmp_path / "other"))


def test_a_long_name_gives_a_gold_link_for_the_short_one(bank_world, tmp_path):
    """The answer must be the long name's entity, at the short name's place."""
    corpus = tmp_path / "corpus.jsonl"
    lines = ["No name here.", "Once Michael Jordan met the Kingdom of Jordan; Michael Jordan sat on a river bank."]
    corpus.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(lines)))
    config = self_labels.SelfLabelConfig(
        graph=bank_world / "graph", corpus="jsonl", source=str(corpus), output=tmp_path / "self"
    )
    self_labels.run(config)
    [record] = map(json.loads, (tmp_path / "self" / "gold.jsonl").read_text().splitlines())
    assert record["text"] == "Once Jordan met the Jordan; Jordan sat on a bank."
    found = [(record["text"][m["start"] : m["end"]], m["entity"]) for m in record["mentions"]]
    assert found == [
        ("Jordan", "jordan_man"),
        ("Jordan", "jordan_country"),
        ("Jordan", "jordan_man"),
        ("bank", "river_bank"),
    ]
    corpus.write_text('{"text": "nothing"}\n')
    with pytest.raises(InputError, match="no name in it could be shortened"):
        self_labels.run(replace(config, output=tmp_path / "other"))


def test_a_corpus_is_linked_by_a_trained_linker_and_several_processes(bank_world, tmp_path, bank_documents):
    """The same bytes for any number of processes; another order of shards would shift every later stage."""
    train.run(config_of(bank_world, output=tmp_path / "linker"))
    corpus = tmp_path / "corpus.jsonl"
    made = bank_documents(50, seed=5)
    corpus.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in made))
    config = LinkConfig(
        linker=tmp_path / "linker", corpus="jsonl", source=str(corpus), shard_documents=9, output=tmp_path / "one"
    )
    run_link(config)
    run_link(replace(config, processes=2, output=tmp_path / "two"))
    one, two = (open_artifact(tmp_path / name, stage="link") for name in ("one", "two"))
    assert one.data["files"] == two.data["files"]
    assert one.counts == two.counts
    assert len(list(read_linked(tmp_path / "one"))) == 50
    assert linker_of(replace(config, target_precision=0.9)).min_score != linker_of(config).min_score
    save_held_out(tmp_path, np.linspace(0, 1, 99), np.zeros(99, bool), np.ones(99, bool))
    with pytest.raises(InputError, match="no score reaches a precision"):
        score_for_precision(tmp_path, 0.5)


@pytest.mark.faults
def test_what_cannot_be_is_said_in_one_line(bank_world, tmp_path, bank_documents, write_gold):
    """Each of these would otherwise train on nothing, or link with half a linker."""
    write_gold(tmp_path / "few.jsonl", bank_documents(4, seed=0))
    with pytest.raises(InputError, match="expected at least 10 documents for cross-validation, got 4"):
        train.run(config_of(bank_world, gold=tmp_path / "few.jsonl", output=tmp_path / "a"))
    with pytest.raises(InputError, match="target_precision needs gold links"):
        config_of(bank_world, gold=None, target_precision=0.9)
    with pytest.raises(InputError, match=r"expected a linker .* or a graph"):
        LinkConfig(output=tmp_path / "x")
    train.run(config_of(bank_world, gold=None, output=tmp_path / "untrained"))
    with pytest.raises(InputError, match="was trained without gold links"):
        linker_of(LinkConfig(linker=tmp_path / "untrained", target_precision=0.9, output=tmp_path / "x"))
    settings = tmp_path / "untrained" / "linker.json"
    settings.write_text(settings.read_text().replace('"prior"', '"former"'))
    with pytest.raises(InputError):
        EntityLinker.from_pretrained(tmp_path / "untrained")


def test_how_a_name_is_written_tells_how_likely_it_is_one(world, tmp_path):
    """ "Bergen" small in mid-sentence is a common word there; at a sentence's start only the share of these tells."""
    texts = ["We saw bergen, bergen and bergen, and Bergen. Bergen was there.", "To Norway, as Norway is. norway"]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    linker = EntityLinker.from_artifacts(world.graph, None)
    spellings = Spellings(linker.alias_table)
    spellings.count(texts)
    assert spellings.tally == {("bergen", ""): 3, ("bergen", ANY): 1, ("norway", ANY): 2}
    with write_artifact(Made(tmp_path / "priors"), stage="link self-label") as writer:
        write_counts(writer.path, spellings.tally)
    train.run(LinkTrainConfig(graph=world.graph, priors=tmp_path / "priors", output=tmp_path / "linker"))
    opened = EntityLinker.from_pretrained(tmp_path / "linker")
    bergen, norway = (opened.explain(f"{name} is")[0].nil_contributions for name in ("Bergen", "Norway"))
    assert bergen["nil_link_probability"] == pytest.approx(-0.5 * np.log(1.5 / 3.5), abs=1e-6)
    assert norway["nil_link_probability"] == pytest.approx(-0.5 * np.log(2.5 / 0.5), abs=1e-6)


def test_terms_left_out_get_no_weight_and_cost_nothing(bank_world, tmp_path):
    """A term switched off for its cost must not come back by training, nor be worked out at all."""
    train.run(config_of(bank_world, output=tmp_path / "linker", without=("context", "edges", "related")))
    opened = EntityLinker.from_pretrained(tmp_path / "linker")
    assert opened.reranker.related is None
    assert opened.reranker.weights.context == opened.reranker.weights.edges == 0.0
    assert opened.reranker.weights.coherence != 0.0
    terms = opened.explain("See the bank and the money here.")[0].candidates[0].terms
    assert {"coherence", "prior"} <= terms.keys()
    assert not {"context", "edges", "related"} & terms.keys()
    with pytest.raises(InputError, match=r"without names \['colour', 'prior'\]; expected terms out of popularity"):
        config_of(bank_world, without=("colour", "prior", "edges"))


def test_related_words_are_read_for_training_alone(bank_world, tmp_path):
    """By default the term has no weight, so that its words need neither time nor memory; training tries every term."""
    plain = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")
    assert plain.reranker.related is None
    train.run(config_of(bank_world, output=tmp_path / "linker"))
    opened = EntityLinker.from_pretrained(tmp_path / "linker")
    kept = opened.reranker.related
    built = ContextWords.of_neighbours(KnowledgeGraph.load(bank_world / "graph"))
    assert kept is not None
    for name, values in built.arrays().items():
        np.testing.assert_array_equal(kept.arrays()[name], values)


def test_only_none_of_them_is_learnt_where_ranking_stays(bank_world, tmp_path):
    """Gold of another kind of text must not move priors and weights that rank, not even a little."""
    config = config_of(bank_world, output=tmp_path / "linker", fit="none_of_them")
    train.run(config)
    trained = EntityLinker.from_pretrained(tmp_path / "linker")
    graph = EntityLinker.from_artifacts(config.graph, config.vectors)
    ranking = {name: value for name, value in asdict(config.weights).items() if not name.startswith("nil")}
    learnt = asdict(trained.reranker.weights)
    assert {name: learnt[name] for name in ranking} == ranking
    assert any(learnt[name] != value for name, value in asdict(config.weights).items() if name not in ranking)
    assert trained.candidates.prior.tolist() == graph.candidates.prior.tolist()
    assert trained.candidates.entity.tolist() == graph.candidates.entity.tolist()
    assert np.any(trained.reranker.link_log_odds != 0)
    with pytest.raises(InputError, match="fit none_of_them needs gold"):
        config_of(bank_world, fit="none_of_them", unlabelled="unknown")
    with pytest.raises(InputError, match="fit is 'some'"):
        config_of(bank_world, fit="some")
