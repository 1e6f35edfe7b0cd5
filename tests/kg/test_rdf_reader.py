"""RDF: the quick path against pyoxigraph, what texts become, what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter, defaultdict

import pyoxigraph as ox
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg import parts
from kg.artifact import open_artifact
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.readers import lines, rdf
from kg.records import Alias, Entity, ReadOptions, Relation

RDFS, SKOS, SCHEMA = (
    "http://www.w3.org/2000/01/rdf-schema#",
    "http://www.w3.org/2004/02/skos/core#",
    "http://schema.org/",
)
TURTLE = f"""\
@prefix rdfs: <{RDFS}> .
@prefix skos: <{SKOS}> .
@prefix schema: <{SCHEMA}> .
@prefix ex: <http://example.org/> .
@prefix wd: <http://www.wikidata.org/entity/> .
@prefix wdt: <http://www.wikidata.org/prop/direct/> .
ex:Bob_Dylan rdfs:label "Bob Dylan (fr)"@fr, "Bob Dylan"@en-GB, "Dylan" ;
  skos:altLabel "Robert Zimmerman"@en, "Bobby"@de ;
  schema:description "singer"@en ;
  a ex:Human ;
  ex:born_in wd:Q485172 ;
  ex:born "1941-05-24" ;
  ex:knows [ ex:name "nobody" ] .
wd:Q485172 wdt:P131 ex:Saint_Louis .
wdt:P131 rdfs:label "located in"@en .
"""


def walk(source, **options):
    entities, relations, triples, dropped = [], [], [], Counter()
    for batch in rdf.read(source, ReadOptions(**options)).batches:
        entities += batch.entities
        relations += batch.relations
        columns = (getattr(c, "to_pylist", lambda c=c: c)() for c in (batch.heads, batch.relation_ids, batch.tails))
        triples += zip(*columns, strict=True)
        dropped += batch.dropped
    return entities, relations, triples, dropped


@pytest.mark.parametrize("ending", [".ttl", ".nt", ".nq", ".rdf", ".trig", ".ttl.gz", ".nt.bz2"])
def test_a_graph_is_the_same_in_every_format(tmp_path, ending):
    """A format that loses labels or turns triples around still gives a graph."""
    quads = list(ox.parse(TURTLE.encode(), format=ox.RdfFormat.TURTLE))
    plain = ending.removesuffix(".gz").removesuffix(".bz2")
    data = ox.serialize([quad.triple for quad in quads], format=rdf.FORMATS[plain])
    data = gzip.compress(data) if ending.endswith(".gz") else bz2.compress(data) if ending.endswith(".bz2") else data
    path = tmp_path / f"graph{ending}"
    path.write_bytes(data)
    entities, relations, triples, dropped = walk(path, languages=("en",))
    assert sorted(triples) == [
        ("Q485172", "P131", "http://example.org/Saint_Louis"),
        ("http://example.org/Bob_Dylan", "http://example.org/born_in", "Q485172"),
        ("http://example.org/Bob_Dylan", rdf.TYPE, "http://example.org/Human"),
    ]
    assert entities == [
        Entity(
            "http://example.org/Bob_Dylan",
            "Bob Dylan",
            (Alias("Bob Dylan", rank=0), Alias("Dylan", rank=1), Alias("Robert Zimmerman", rank=2)),
            "singer",
            ("http://example.org/Human",),
        )
    ]
    assert set(relations) == {
        Relation("P131", "located in"),
        Relation("http://example.org/born_in", "born in"),
        Relation(rdf.TYPE, "type"),
    }
    assert dropped == {"other_language": 2, "literal": 1, "blank_node": 2}


iris = st.sampled_from(
    [
        "http://a.org/x", "http://a.org/y#z", "urn:a:b", "http://a.org/ä", "http://a.org/%C3", "http://a.org/q?r=1&s=(2)",
        rdf.TYPE, RDFS + "label", SKOS + "altLabel", "http://www.wikidata.org/entity/Q42",
        "http://www.wikidata.org/prop/direct/P31", "http://www.wikidata.org/entity/",
    ]
).map(ox.NamedNode)  # fmt: skip
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["a b", 'q"', "\\"]
)
literals = st.one_of(
    st.builds(ox.Literal, texts),
    st.builds(lambda value, tag: ox.Literal(value, language=tag), texts, st.sampled_from(["en", "de", "en-GB", "EN"])),
    st.builds(lambda value, of: ox.Literal(value, datatype=of), texts, iris.filter(lambda iri: iri.value.isascii())),
)
blanks = st.sampled_from(["b0", "b1"]).map(ox.BlankNode)
quads = st.builds(
    ox.Quad, iris | blanks, iris, iris | literals | blanks, st.just(ox.DefaultGraph()) | iris.map(lambda g: g)
)


def slow(source, form):
    """Every statement through pyoxigraph and the same record keeping."""
    facts = rdf._Facts(("en",))
    for place, quad in enumerate(ox.parse(source, format=form), 1):
        facts.quad(quad, place)
    columns, dropped = facts.columns, facts.dropped
    facts.batch()
    notes = facts.notes.sorted()
    return list(notes.entities()), notes.relations(), sorted(zip(*columns, strict=True)), dropped


def unordered(entities):
    found = defaultdict(list)
    for entity in entities:
        found[entity.id].append((entity.label, entity.aliases, entity.description, sorted(entity.types)))
    return dict(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(quads, max_size=8), st.booleans(), st.data())
def test_plain_lines_are_read_as_pyoxigraph_reads_them(tmp_path, statements, with_graphs, data):
    """The quick path must take exactly the lines it understands, and understand them."""
    form = ox.RdfFormat.N_QUADS if with_graphs else ox.RdfFormat.N_TRIPLES
    rows = statements if with_graphs else [quad.triple for quad in statements]
    lines = ox.serialize(rows, format=form).decode().split("\n")[:-1]
    odd = st.sampled_from(
        ["", "# a comment\n", "\n", "  \n", "<http://a.org/x>\t<http://a.org/p>   <http://a.org/y>.\n"]
    )
    text = "".join(f"{data.draw(odd)}{line}\n" for line in lines)  # splitlines would cut at U+0085 as well
    path = tmp_path / ("x.nq" if with_graphs else "x.nt")
    path.write_text(text, encoding="utf-8", newline="\n")
    entities, relations, triples, dropped = walk(path)
    expected = slow(text.encode(), form)
    assert sorted(triples) == expected[2]
    assert unordered(entities) == unordered(expected[0])
    assert set(relations) == set(expected[1])
    assert dropped == +expected[3]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.nt", "<http://a/b> <http://c/d> <http://e/f> .\n<http://a/b> .\n", r"g.nt:2: expected a statement"),
        ("g.nt", "<http://a/b> <http://c/d> <http://e/f>\n", r"g.nt:1: expected a statement"),
        ("g.nt", b"<http://a/b> <http://c/d> \"M\xfcnchen\" .\n", r"g.nt:1: expected UTF-8, got byte 0xfc"),
        ("g.ttl", "@prefix a: <http://x/> .\na:b a:c a:d .\nfoo bar\n", r"g.ttl:3: expected RDF \(Turtle\)"),
        ("g.rdf", "<rdf", r"g.rdf.*: expected RDF"),
        ("g.csv", "a,b,c\n", r"expected an ending of \.nt, .* got \.csv"),
        ("g.ttl.gz", gzip.compress(TURTLE.encode())[:-20], "cut off"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, name, text, message):
    """A statement passed over in silence is a fact less."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        walk(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.binary(max_size=80), st.sampled_from(sorted(rdf.FORMATS)))
def test_whatever_the_bytes_the_reader_yields_or_says_why(tmp_path, data, ending):
    """Any other exception is a traceback in somebody's terminal."""
    (tmp_path / f"x{ending}").write_bytes(data)
    try:
        walk(tmp_path / f"x{ending}")
    except InputError:
        return


@pytest.mark.faults
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_an_interrupted_build_ends_as_an_undisturbed_one(tmp_path, monkeypatch, packed, stop_after):
    """Texts of one half belong to triples of the other: a restart that forgot them would give a graph all the same."""
    monkeypatch.setattr(lines.blocks, "__defaults__", (2_000,))
    statements = [
        f"<http://a.org/{n}> <http://a.org/next> <http://a.org/{n + 1}> .\n"
        f'<http://a.org/{n % 7}> <{RDFS}label> "label {n % 7}"@en .\n'
        f'<http://a.org/{100 - n}> <{SKOS}altLabel> "other \\"{n}\\""@en .\n'
        f"<http://a.org/{n}> <{rdf.TYPE}> <http://a.org/Kind{n % 3}> .\n"
        for n in range(60)
    ]
    text = "".join(statements) + f'<http://a.org/next> <{RDFS}label> "follows"@en .\n'
    source = tmp_path / ("g.nt.gz" if packed else "g.nt")
    source.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    def config(name):
        return BuildConfig(reader="rdf", source=str(source), output=tmp_path / name)

    run(config("whole"))
    written, original = [], parts.Parts.write

    def cut(self, *given, **named):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(original(self, *given, **named))

    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            run(config("cut"))
    begun = []
    monkeypatch.setattr(parts.Parts, "write", lambda *a, **b: (begun.append(1), original(*a, **b)))
    run(config("cut"))
    whole, again = (open_artifact(tmp_path / name, stage="kg build") for name in ("whole", "cut"))
    assert again.data["resumed"]
    assert {n: f["sha256"] for n, f in again.data["files"].items()} == {
        n: f["sha256"] for n, f in whole.data["files"].items()
    }
    assert (again.dropped, again.counts) == (whole.dropped, whole.counts)


@pytest.mark.faults
def test_an_interrupted_read_of_another_format_begins_again(tmp_path, monkeypatch):
    """Turtle has prefixes and blank nodes that reach over the file: nothing can go on in its middle."""
    source = tmp_path / "g.ttl"
    source.write_text(TURTLE, encoding="utf-8")
    config = BuildConfig(reader="rdf", source=str(source), output=tmp_path / "graph")
    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "triples", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    marker = tmp_path / "graph.partial" / "parts" / "part-000000.json"
    state = json.loads(marker.read_text())
    for path in sorted(marker.parent.glob("*.json"))[1:]:
        path.unlink()
    marker.write_text(json.dumps(state | {"last": False}))
    manifest = open_artifact(run(config), stage="kg build")
    assert manifest.counts["triples"] == 3
    assert "duplicate_triple" not in manifest.dropped
