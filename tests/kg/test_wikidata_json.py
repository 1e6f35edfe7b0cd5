"""Wikidata's JSON dump: what is taken, what is counted, what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.artifact import open_artifact
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.readers import lines, wikidata_json
from kg.records import Alias, Entity, ReadOptions, Relation


def item_value(target, **value):
    return {"type": "wikibase-entityid", "value": {"entity-type": "item", "id": target, **value}}


def statement(datavalue, rank="normal", snaktype="value"):
    snak = {"snaktype": snaktype, "property": "P1"} | ({"datavalue": datavalue} if snaktype == "value" else {})
    return {"mainsnak": snak, "type": "statement", "rank": rank}


def texts(**by_language):
    return {code: {"language": code, "value": value} for code, value in by_language.items()}


def item(name, *, labels=None, aliases=None, descriptions=None, claims=None, sitelinks=0):
    return {
        "type": "item",
        "id": name,
        "labels": texts(**(labels or {})) or [],
        "aliases": {c: [{"language": c, "value": v} for v in of] for c, of in (aliases or {}).items()} or [],
        "descriptions": texts(**(descriptions or {})) or [],
        "claims": claims or [],
        "sitelinks": {f"{n}wiki": {"title": "x"} for n in range(sitelinks)} or [],
    }


def dump(path, records, ending="]\n"):
    path.write_text("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n" + ending, encoding="utf-8")
    return path


def walk(source, **options):
    entities, relations, triples, dropped = [], [], [], Counter()
    for batch in wikidata_json.read(source, ReadOptions(**options)).batches:
        entities += batch.entities
        relations += batch.relations
        triples += zip(batch.heads, batch.relation_ids, batch.tails, strict=True)
        dropped += batch.dropped
    return entities, relations, triples, dropped


def test_an_item_and_a_property_are_read_as_wikidata_means_them(tmp_path):
    """Each rule misread is a million wrong facts: ranks, empty maps as arrays, values that are no items."""
    time = {"type": "time", "value": {"time": "+1941-05-24T00:00:00Z"}}
    old_form = {"type": "wikibase-entityid", "value": {"entity-type": "item", "numeric-id": 5}}
    is_property = {"type": "wikibase-entityid", "value": {"entity-type": "property", "id": "P9"}}
    claims = {
        "P31": [statement(old_form), statement(item_value("Q6"), "deprecated")],
        "P19": [statement(item_value("Q7"), "preferred"), statement(item_value("Q8"))],
        "P569": [statement(time), statement(is_property)],
        "P20": [statement(None, snaktype="somevalue")],
        "P21": [statement(item_value("Q9")), statement(item_value("Q9")), statement(item_value("Q10"))],
        "P22": [statement(item_value("Q11"), "deprecated")],
    }
    records = [
        item(
            "Q392",
            labels={"de": "Bob Dylan (de)", "en": "Bob Dylan"},
            aliases={"en": ["Robert Zimmerman", "Bob Dylan"], "fr": ["Bobby"]},
            descriptions={"fr": "chanteur"},
            claims=claims,
            sitelinks=3,
        ),
        item("Q1"),
        {"type": "property", "id": "P19", "labels": texts(en="place of birth")},
        {"type": "lexeme", "id": "L1"},
    ]
    entities, relations, triples, dropped = walk(dump(tmp_path / "d.json", records), languages=("en", "fr"))
    assert entities == [
        Entity(
            "Q392",
            "Bob Dylan",
            (Alias("Bob Dylan", 3, 0), Alias("Robert Zimmerman", 3, 1), Alias("Bobby", 3, 2)),
            "chanteur",
            ("Q5",),
            3,
        ),
        Entity("Q1", "Q1"),
    ]
    assert relations == [Relation("P19", "place of birth")]
    assert triples == [
        ("Q392", "P31", "Q5"),
        ("Q392", "P19", "Q7"),
        ("Q392", "P21", "Q9"),
        ("Q392", "P21", "Q10"),
    ]
    assert dropped == {
        "statement_deprecated": 2,
        "statement_not_best_rank": 1,
        "statement_not_item": 2,
        "statement_no_value": 1,
        "no_label": 1,
        "lexeme": 1,
    }


ids = st.integers(1, 6).map(lambda n: f"Q{n}")
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=6)
values = st.one_of(ids.map(item_value), st.just({"type": "string", "value": "x"}))
claims = st.dictionaries(
    st.sampled_from(["P1", "P31"]),
    st.lists(
        st.builds(
            statement,
            values,
            st.sampled_from(["normal", "preferred", "deprecated"]),
            st.sampled_from(["value", "somevalue", "novalue"]),
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=2,
)
items = st.builds(
    item,
    ids,
    labels=st.dictionaries(st.sampled_from(["en", "de", "mul"]), names, max_size=3),
    aliases=st.dictionaries(st.sampled_from(["en", "de"]), st.lists(names, max_size=2), max_size=2),
    claims=claims,
    sitelinks=st.integers(0, 2),
)


def slow_triples(record):
    """The rule of truthy statements once more, said plainly."""
    found = []
    for relation, statements in dict(record["claims"]).items():
        ranks = {s["rank"] for s in statements} - {"deprecated"}
        best = "preferred" if "preferred" in ranks else "normal"
        for s in statements:
            snak = s["mainsnak"]
            if s["rank"] == best and snak["snaktype"] == "value" and snak["datavalue"]["type"] == "wikibase-entityid":
                triple = (record["id"], relation, snak["datavalue"]["value"]["id"])
                if triple not in found:
                    found.append(triple)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(items, max_size=5), st.sampled_from(["plain", "gzip", "bzip2"]))
def test_any_dump_says_what_a_plain_reading_says(tmp_path, records, packing):
    """The quick path and the counted reasons must add up to the statements there are."""
    path = dump(tmp_path / "d.json", records)
    if packing != "plain":
        path.write_bytes((gzip if packing == "gzip" else bz2).compress(path.read_bytes()))
    entities, _, triples, dropped = walk(path, languages=("de",))
    assert triples == [triple for record in records for triple in slow_triples(record)]
    for record, entity in zip(records, entities, strict=True):
        labels = dict(record["labels"])
        texts = [labels[code]["value"] for code in ("de", "mul") if code in labels]
        assert entity.label == ((texts[0] if texts else "") or record["id"])
        assert entity.count == len(record["sitelinks"])
        assert entity.types == tuple(t for h, r, t in slow_triples(record) if r == "P31")
    assert dropped["no_label"] == sum(
        entity.label == record["id"] for record, entity in zip(records, entities, strict=True)
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"type": "item", "id": "Q1"\n]\n', r"d.json:2: expected an entity as in a Wikidata JSON dump"),
        ('[\n{"type": "item"},\n', r"d.json:2: expected an entity .*KeyError"),
        ('[\n["Q1"]\n]\n', r"d.json:2: expected an entity"),
        ('[\n{"type": "item", "id": "Q1", "claims": {"P1": [{"rank": "normal"}]}}\n]\n', r"d.json:2: .*mainsnak"),
        ('[\n{"type": "item", "id": "Q1"},\n', r"expected `\]` at its end, the dump was cut off"),
        ("", r"expected `\]` at its end"),
    ],
)
def test_a_damaged_dump_is_named(tmp_path, text, message):
    """A dump of a day's download that ends early looks like a smaller Wikidata."""
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(InputError, match=message):
        walk(tmp_path / "d.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.binary(max_size=60))
def test_whatever_the_bytes_the_reader_yields_or_says_why(tmp_path, data):
    """Any other exception is a traceback in somebody's terminal."""
    (tmp_path / "d.json").write_bytes(b"[\n" + data + b"\n]")
    try:
        walk(tmp_path / "d.json")
    except InputError:
        return


@pytest.mark.faults
@pytest.mark.parametrize("packed", [False, True])
def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(tmp_path, monkeypatch, packed):
    """Reading goes on at an offset: one byte off is half an entity, or an entity twice."""
    records = [
        item(f"Q{n}", labels={"en": f"Label {n}"}, claims={"P1": [statement(item_value(f"Q{n % 37 + 1}"))]})
        for n in range(1, 200)
    ]
    path = dump(tmp_path / "d.json", records)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    original = lines.blocks
    monkeypatch.setattr(wikidata_json, "blocks", lambda source, skip: original(source, 4_000, skip=skip))
    whole = run(BuildConfig(reader="wikidata_json", source=str(path), output=tmp_path / "whole"))
    config, passed = BuildConfig(reader="wikidata_json", source=str(path), output=tmp_path / "cut"), []

    def cut(source, skip):
        for block in original(source, 4_000, skip=skip):
            if len(passed) == 5:
                raise KeyboardInterrupt
            passed.append(block)
            yield block

    with monkeypatch.context() as patched:
        patched.setattr(wikidata_json, "blocks", cut)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    seen = []
    monkeypatch.setattr(
        wikidata_json, "blocks", lambda source, skip: (seen.append(skip), original(source, 4_000, skip=skip))[1]
    )
    run(config)
    assert seen == [sum(len(block) for block, _ in passed[:-1])]
    first, second = (open_artifact(folder, stage="kg build").data["files"] for folder in (whole, config.output))
    assert first == second
    assert KnowledgeGraph.load(whole).num_entities == 199
    assert Path(whole, "parts").exists() is False
