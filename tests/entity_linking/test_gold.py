"""Gold sets in their own layouts: the span is the mention, the entity the right one, a bad record has its line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from entity_linking.gold import GOLD, read_gold
from kg.errors import InputError

SEMCOR = Path(__file__).parents[3] / "shared" / "data" / "semcor" / "brown1.jsonl"
AIDA = """-DOCSTART- (1 EU)
EU\tB\tEU\t--NME--
rejects
German\tB\tGerman\tGermany\thttp://en.wikipedia.org/wiki/Germany\t11867\t/m/0345h
call
.

Peter\tB\tPeter Blackburn\tPeter_Blackburn
Blackburn\tI\tPeter Blackburn\tPeter_Blackburn

-DOCSTART- (2 Rare)
Rare
"""
NIF = """
@prefix nif: <http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#> .
@prefix itsrdf: <http://www.w3.org/2005/11/its/rdf#> .
<http://x/1#char=0,22> a nif:Context ; nif:isString "Übung in Köln, nowhere" .
<http://x/1#char=9,13> nif:referenceContext <http://x/1#char=0,22> ; nif:beginIndex "9" ; nif:endIndex "13" ;
  itsrdf:taIdentRef <http://www.wikidata.org/entity/Q365> .
<http://x/1#char=15,22> nif:referenceContext <http://x/1#char=0,22> ; nif:beginIndex "15" ; nif:endIndex "22" ;
  itsrdf:taIdentRef <http://aksw.org/notInWiki/nowhere> .
"""


def surfaces(format, path):
    return [
        [(document.text[link.start : link.end], link.entity) for link in document.links]
        for document in read_gold(format, path, Counter())
    ]


def test_every_layout_gives_the_mention_and_its_entity(tmp_path):
    """An offset off by one gives a figure of 0 that looks like a bad linker."""
    (tmp_path / "a.tsv").write_text(AIDA)
    assert surfaces("aida", tmp_path / "a.tsv") == [
        [("EU", ""), ("German", "Germany"), ("Peter Blackburn", "Peter_Blackburn")],
        [],
    ]
    assert next(iter(GOLD["aida"](tmp_path / "a.tsv"))).text == "EU rejects German call .\nPeter Blackburn"
    (tmp_path / "n.ttl").write_text(NIF)
    assert surfaces("nif", tmp_path / "n.ttl") == [[("Köln", "Q365"), ("nowhere", "")]]
    mentions = [{"start": 5, "end": 9, "entity": None}, {"start": 0, "end": 4, "entity": "Q90"}]
    (tmp_path / "g.jsonl").write_text(json.dumps({"text": "🗼ris lies", "mentions": mentions}) + "\n\n")
    assert surfaces("jsonl", tmp_path / "g.jsonl") == [[("🗼ris", "Q90"), ("lies", "")]]


def test_overlapping_gold_is_counted(tmp_path):
    """Two links on one word cannot both be found."""
    mentions = [{"start": a, "end": b, "entity": "e"} for a, b in [(0, 3), (0, 8), (4, 8), (9, 12)]]
    (tmp_path / "g.jsonl").write_text(json.dumps({"text": "New York was", "mentions": mentions}))
    dropped = Counter()
    [document] = read_gold("jsonl", tmp_path / "g.jsonl", dropped)
    assert [(link.start, link.end) for link in document.links] == [(0, 8), (9, 12)]
    assert dropped == {"overlapping_gold": 2}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("jsonl", '{"text": "a", "mentions": [{"start": 0, "end": 2, "entity": "x"}]}', "link from 0 to 2, expected"),
        (
            "jsonl",
            '{"text": "a"}\n{"text": "b", "mentions": [{"start": "0"}]}',
            r"g:2: expected \"mentions\" as a list",
        ),
        ("jsonl", '{"text": "a", "mentions": {}}', r"g:1: expected \"mentions\" as a list"),
        ("jsonl", '{"text": 1}', r"g:1: expected an object with a \"text\""),
        ("jsonl", "{", r"g:1: expected a JSON object"),
        ("jsonl", "", "expected documents of format jsonl, found none"),
        ("aida", "-DOCSTART- (1)\nEU\tX\n", r"g:2: expected token<TAB>B or I"),
        ("nif", "<http://a", "expected NIF in Turtle"),
        ("nif", NIF.replace('"9"', '"nine"'), "beginIndex 'nine', expected a whole number"),
        ("nif", NIF.replace("isString", "isNothing"), "has no nif:isString"),
        ("tsv", "", "gold format 'tsv' is unknown; expected one of aida, jsonl, linked, nif, semcor"),
    ],
)
def test_a_bad_record_is_named(tmp_path, format, text, message):
    """A record passed over in silence is a gold link less, and a better figure."""
    (tmp_path / "g").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_gold(format, tmp_path / "g", Counter()))


@pytest.mark.skipif(not SEMCOR.is_file(), reason="SemCor is not in this workspace")
def test_semcor_joins_on_sense_keys():
    """48,776 nouns as published; joined on byte offsets, most would be lost."""
    documents = list(read_gold("semcor", SEMCOR, Counter()))
    links = [link for document in documents for link in document.links]
    assert len(documents) == 103
    assert len(links) == 48_776
    assert sum(link.entity == "" for link in links) < 6_000
    first = documents[0]
    named = {first.text[link.start : link.end]: link.entity for link in first.links}
    assert named["investigation"] == "probe%1:09:00::"
