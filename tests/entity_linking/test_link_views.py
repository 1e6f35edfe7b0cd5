"""What people read of the linker: explanations, pages, figures, and spaCy's documents."""

from __future__ import annotations

import json

import pytest
import spacy

from entity_linking.evaluate import evaluate
from entity_linking.gold import GoldDocument
from entity_linking.linker import EntityLinker
from entity_linking.page import linked_page
from entity_linking.records import Link, LinkedDocument
from entity_linking.spacy_component import NAME, SpacyLinker
from ernie_kg.cli import main
from kg.errors import InputError


@pytest.fixture(scope="module")
def linker(bank_world):
    return EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")


def test_a_text_is_explained_from_the_command_line(bank_world, capsys):
    """The reasons are what a user has to judge a link by."""
    arguments = ["--graph", str(bank_world / "graph"), "--vectors", str(bank_world / "vectors")]
    assert main(["link", "text", "A river bank.\x1b[31m The bank, the river.", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "river bank (2–12) -> river_bank" in shown
    assert shown.count("none of them: nil") == 3
    assert "coherence" in shown
    assert "\x1b" not in shown
    assert main(["link", "text", "nothing", *arguments]) == 0
    assert "no alias of the graph stands in this text" in capsys.readouterr().out
    assert main(["link", "text", "x"]) == 2
    assert "expected a linker" in capsys.readouterr().err


def test_figures_against_gold(bank_world, linker, capsys, tmp_path, write_gold):
    """Each figure by hand: a recall over the wrong total reads as well as a right one."""
    gold = [
        GoldDocument("a", "The river and the money.", (Link(4, 9, "river", 1.0), Link(18, 23, "river", 1.0))),
        GoldDocument("b", "A king in Nowhere.", (Link(2, 6, "king", 1.0), Link(10, 17, "", 1.0))),
        GoldDocument("c", "A bank.", (Link(2, 6, "money_bank", 1.0),)),
    ]
    found = evaluate(linker, gold)
    assert (found["gold_links"], found["links"]) == (4, 3 + len(linker.link("A bank.")))
    assert found["recall"] == 2 / 4
    assert found["candidate_recall@5"] == 3 / 4
    assert found["accuracy"] == 2 / 4
    assert found["nil_precision"] == pytest.approx(1 / (1 + (not linker.link("A bank."))))
    assert found["f1_interval"][0] <= found["f1"] <= found["f1_interval"][1]
    assert evaluate(linker, [])["f1"] == 0.0
    write_gold(tmp_path / "some.jsonl", gold)
    arguments = ["link", "evaluate", str(tmp_path / "some.jsonl"), "--graph", str(bank_world / "graph")]
    assert main(arguments) == 0
    assert "candidate recall@20" in capsys.readouterr().out
    assert main([*arguments, "--json", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 3


def test_a_page_shows_markup_and_obeys_none():
    """Text, titles and ids come from other people's files."""
    nasty = "<script>alert(1)</script>"
    page = linked_page([LinkedDocument("d", nasty, f"{nasty} here", (Link(0, 8, nasty, 0.95), Link(26, 30, "b", 0.3)))])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 2
    assert "#dbeafe" in page


@pytest.mark.parametrize("mentions", ["own", "ents"])
def test_inside_a_spacy_pipeline(linker, mentions):
    """kb_id_ set on a span alone is lost with it: it must be read from doc.ents."""
    nlp = spacy.blank("en")
    if mentions == "ents":
        ruler = nlp.add_pipe("entity_ruler")
        ruler.add_patterns([{"label": "NAME", "pattern": "Michael Jordan"}, {"label": "X", "pattern": "Joe"}])
    text = "Michael Jordan sat by the river with Joe."
    doc = SpacyLinker(linker, mentions=mentions)(nlp(text))
    linked = {span.text: span.kb_id_ for span in doc.ents if span.kb_id_}
    expected = {"Michael Jordan": "jordan_man", "river": "river"}
    assert linked == (expected if mentions == "own" else {"Michael Jordan": "jordan_man"})
    first = doc.ents[0]
    assert first._.candidates[0].entity_id == "jordan_man"
    assert 0.5 <= first._.link_score <= 1.0
    assert [d.ents[0].kb_id_ for d in SpacyLinker(linker).pipe([nlp.make_doc(text)] * 2)] == ["jordan_man"] * 2


def test_the_component_comes_by_its_name_and_respects_earlier_entities(bank_world, tmp_path):
    """A pipeline saved and loaded elsewhere finds the component by its name."""
    from entity_linking import train
    from entity_linking.train import LinkTrainConfig

    train.run(LinkTrainConfig(graph=bank_world / "graph", output=tmp_path / "linker"))
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PLACE", "pattern": "the river"}])
    nlp.add_pipe(NAME, config={"path": str(tmp_path / "linker")})
    nlp.to_disk(tmp_path / "pipeline")
    doc = spacy.load(tmp_path / "pipeline")("The money by the river.")
    assert [(span.text, span.label_, span.kb_id_) for span in doc.ents] == [
        ("money", "ENTITY", "money"),
        ("the river", "PLACE", ""),
    ]
    with pytest.raises(InputError, match='expected mentions "own" or "ents"'):
        SpacyLinker(EntityLinker.from_pretrained(tmp_path / "linker"), mentions="all")
