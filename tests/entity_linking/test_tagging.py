"""Mentions that are verbs and adjectives by a tagger's word: left out, counted, no offset moved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from entity_linking.annotate import LinkConfig, read_linked, run
from entity_linking.linker import EntityLinker
from entity_linking.tagging import reason_against
from kg.artifact import open_artifact
from kg.errors import InputError

spacy = pytest.importorskip("spacy")
Doc = spacy.tokens.Doc
TEXT = "Oslo Norway\0 they bergen 😀 a fjord, the grieg. We fjord fjords Oslo-Bergen"


@pytest.fixture
def tagger(tmp_path: Path) -> str:
    """A pipeline by which what follows a pronoun is a verb, and `grieg` an adjective."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"LOWER": {"IN": ["they", "we"]}}, {}]], {"POS": "VERB"}, index=1)
    ruler.add([[{"LOWER": "grieg"}]], {"POS": "ADJ"})
    nlp.to_disk(tmp_path / "nlp")
    return str(tmp_path / "nlp")


def test_what_is_tagged_as_no_noun_is_left_out_and_counted(world: LinkConfig, tmp_path: Path, tagger: str) -> None:
    """A tag read from the wrong word would leave out the noun beside the verb."""
    text = TEXT.replace("bergen", "Bergen").replace("grieg", "Grieg")
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    config = replace(world, source=str(tmp_path / "one.jsonl"))
    [plain] = read_linked(run(replace(config, output=tmp_path / "plain")))
    [tagged] = read_linked(run(replace(config, tagger=tagger, output=tmp_path / "tagged")))
    surfaces = [plain.text[m.start : m.end] for m in plain.mentions]
    assert surfaces == ["Oslo", "Norway", "Bergen", "fjord", "Grieg", "fjord", "fjords", "Oslo", "Bergen"]
    kept = {m.start for m in tagged.mentions}  # scores move: what is left out is nobody's neighbour any more
    gone = [m for m in plain.mentions if m.start not in kept]
    assert [plain.text[m.start - 5 : m.end] for m in gone] == ["they Bergen", " the Grieg", ". We fjord"]
    one, other = (open_artifact(tmp_path / name, stage="link") for name in ("plain", "tagged"))
    assert other.dropped["tagged_verb"] == 2
    assert other.dropped["tagged_adjective"] == 1
    assert other.counts["mentions"] == one.counts["mentions"] - 3
    assert "tagged_verb" not in one.dropped


@pytest.mark.parametrize(
    ("words", "first", "last", "reason"),
    [
        ("the Arab/PROPN League/PROPN met", 2, 2, "part_of_name"),
        ("in New/PROPN York/PROPN City/PROPN", 1, 2, "part_of_name"),
        ("in New/PROPN York/PROPN subways", 1, 2, ""),
        ("in New/PROPN York/PROPN , Paris/PROPN", 1, 2, ""),
        ("the Arab/PROPN league", 2, 2, ""),
        ("Oslo/PROPN", 0, 0, ""),
    ],
)
def test_a_part_of_a_longer_name_is_left_out(words: str, first: int, last: int, reason: str) -> None:
    """Not every league is the League; a common noun, or a name that ends where the mention does, stays."""
    tagged = [word.partition("/")[::2] for word in words.split()]
    doc = Doc(spacy.blank("en").vocab, words=[word for word, _ in tagged], pos=[tag or "NOUN" for _, tag in tagged])
    assert reason_against(doc, first, last) == reason


def test_texts_without_mentions_and_none_at_all(world: LinkConfig, tagger: str) -> None:
    """Only texts with mentions are tagged: their numbers must not slip."""
    from entity_linking.tagging import with_tagger

    linker = EntityLinker.from_artifacts(world.graph, world.vectors)
    linker.detector = with_tagger(linker.detector, tagger)
    texts = ["", "nothing", "We Oslo", "", "the Oslo", "none"]
    assert [[link.entity for link in links] for links in linker.link_batch(texts)] == [[], [], [], [], ["oslo"], []]
    assert linker.link_batch([]) == []
    assert linker.link("") == []


def test_a_pipeline_that_tags_nothing_is_refused(world: LinkConfig, tmp_path: Path) -> None:
    """It would leave everything in, and nobody would know."""
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="tags no words"):
        run(replace(world, tagger=str(tmp_path / "blank")))
    with pytest.raises(InputError, match="spaCy has no pipeline 'nowhere'"):
        run(replace(world, tagger="nowhere"))
