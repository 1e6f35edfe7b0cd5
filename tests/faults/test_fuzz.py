"""Random bytes and random damage to good files: readers, matcher and configs answer, or refuse in one line."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ernie_kg.config import config_from_mapping
from ernie_kg.stages import STAGES
from ernie_kg.yaml_file import read_yaml
from kg.errors import InputError
from kg.readers.table import READERS
from kg.records import ReadOptions

pytestmark = pytest.mark.faults
LONG = os.environ.get("ERNIE_KG_FAULTS") == "long"
fuzzed = settings(
    max_examples=2000 if LONG else 60,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ITEM = (
    b'{"type":"item","id":"Q1","labels":{"en":{"language":"en","value":"one"}},"claims":{"P1":[{"mainsnak":{"snaktype":'
    b'"value","property":"P1","datavalue":{"type":"wikibase-entityid","value":{"entity-type":"item","id":"Q2"}}},"type":"statement",'
    b'"rank":"normal"}]}}'
)
OBO = b"format-version: 1.2\n\n[Term]\nid: A:1\nname: one\nis_a: A:2 ! two\n\n[Term]\nid: A:2\nname: two\n"
NODES = b'"nodes":[{"id":"a"},{"id":"b"}],"edges":[{"source":"a","target":"b","key":"r"}]'
GOOD: dict[str, tuple[str, bytes]] = {
    "tsv": ("triples.tsv", b"head\trelation\ttail\na\tr\tb\nb\tr\tc d\n\xc3\xa9\ts\ta\n"),
    "wikidata_json": ("dump.json", b"[\n" + ITEM + b',\n{"type":"item","id":"Q2","labels":{},"claims":{}}\n]\n'),
    "rdf": ("graph.nt", b'<http://a> <http://r> <http://b> .\n<http://a> <http://l> "x\\u00e9"@en .\n'),
    "obo": ("o.obo", OBO),
    "networkx": ("g.json", b'{"directed":true,"multigraph":true,' + NODES + b"}"),
}


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a stretch cut out, replaced or repeated; or bytes that never were such a file."""
    places = st.integers(0, len(content))
    changed = st.builds(
        lambda a, b, filling: content[: min(a, b)] + filling + content[max(a, b) :],
        places,
        places,
        st.one_of(st.binary(max_size=12), st.sampled_from([b"\0", b"\n", b"\t", b'"', b"\xff\xfe", b"[" * 500, b"{"])),
    )
    return st.one_of(
        changed, st.binary(max_size=200), changed.map(gzip.compress), changed.map(lambda b: gzip.compress(b)[:-4])
    )


def answers(read: Callable[[], object]) -> None:
    """An answer, or one line for the user; anything else is a fault of ours."""
    said = "an answer"
    try:
        read()
    except InputError as error:
        said = str(error)
    assert 0 < len(said) < 2_000


@pytest.mark.parametrize("name", sorted(GOOD))
@fuzzed
@given(data=st.data())
def test_no_reader_falls_over_damaged_files(name: str, tmp_path: Path, data: st.DataObject) -> None:
    """A dump is downloaded, cut off, packed twice, edited by hand; a traceback helps nobody to find the line."""
    file, content = GOOD[name]
    path = tmp_path / file
    path.write_bytes(data.draw(damaged(content)))

    def read() -> None:
        for _ in READERS[name].read(path, ReadOptions()).batches:
            pass

    answers(read)


@settings(fuzzed, max_examples=fuzzed.max_examples // 4)
@given(content=damaged((Path(__file__).resolve().parents[2] / "configs/own-data.yaml").read_bytes()))
def test_no_config_file_falls_over(tmp_path: Path, content: bytes) -> None:
    from ernie_kg.pipeline import load_road

    path = tmp_path / "road.yaml"
    path.write_bytes(content)
    answers(lambda: read_yaml(path))
    answers(lambda: load_road(path))


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.parametrize("stage", ["kg build", "report", "finetune examples"])
@fuzzed
@given(data=st.data())
def test_no_value_of_a_config_falls_over(stage: str, data: st.DataObject) -> None:
    """A list where a number belongs must name the key, not show the type checker's own traceback."""
    config_class = STAGES[stage].config_class()
    keys = st.sampled_from(sorted(config_class.__dataclass_fields__))
    values = data.draw(st.dictionaries(keys, PLAIN, max_size=4))
    answers(lambda: config_from_mapping(config_class, {"output": "out", **values}, source="fuzz"))


@fuzzed
@given(
    aliases=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20),
    text=st.text(max_size=300),
    places=st.lists(st.integers(0, 300), max_size=5),
)
def test_the_matcher_finds_places_that_are_in_the_text(aliases: list[str], text: str, places: list[int]) -> None:
    """Offsets are code points of the text as it came, whatever the matcher folds or normalises inside."""
    from entity_linking.alias_table import AliasTable
    from entity_linking.matcher import AliasMatcher

    for place in places:
        text = text[:place] + f" {aliases[place % len(aliases)]} " + text[place:]
    found = AliasMatcher(AliasTable.from_aliases(aliases)).detect([text])
    assert (found.start >= 0).all()
    assert (found.start < found.end).all()
    assert (found.end <= len(text)).all()
    order = found.start.tolist()
    assert order == sorted(order)
    assert all(end <= start for end, start in zip(found.end.tolist(), order[1:]))
