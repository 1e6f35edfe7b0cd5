"""A wiki's own links: what they mean, and what gives way to them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entity_linking.annotate import LinkConfig, read_linked, run
from entity_linking.gold import read_gold
from entity_linking.hyperlinks import Titles, overlapped
from entity_linking.linker import EntityLinker, LinkTable
from kg.artifact import open_artifact
from kg.errors import InputError

DUMP = """<mediawiki><page><title>T</title><ns>0</ns><revision><text>
The [[bank]] of [[Oslo]], a [[savings bank|money bank]] near [[Norway|the kingdom of Norway]] and Oslo again.
</text></revision></page></mediawiki>"""


@pytest.fixture
def wiki(world: LinkConfig, tmp_path: Path) -> LinkConfig:
    (tmp_path / "dump.xml").write_text(DUMP, encoding="utf-8")
    return replace(world, corpus="mediawiki", source=str(tmp_path / "dump.xml"))


def shown(config: LinkConfig) -> list[tuple[str, str, bool]]:
    [document] = read_linked(run(config))
    return [(document.text[m.start : m.end], m.entity, m.score == 1.0) for m in document.mentions]


def test_hyperlinks_stand_before_other_links_and_unknown_ones_are_counted(wiki: LinkConfig) -> None:
    """The author's own links are the best there are; a page that is no entity must not become one."""
    assert shown(wiki) == [
        ("Oslo", "oslo", True),
        ("the kingdom of Norway", "norway", True),
        ("Oslo", "oslo", False),
    ]
    manifest = open_artifact(wiki.output, stage="link")
    assert manifest.counts["hyperlinks"] == 2
    assert manifest.dropped["hyperlink_unknown_title"] == 2
    assert manifest.dropped["under_hyperlink"] == 2


def test_a_table_of_titles_says_what_pages_mean(wiki: LinkConfig, tmp_path: Path) -> None:
    """Titles differ from names: "Mercury (planet)", redirects."""
    (tmp_path / "titles.tsv").write_text("Savings_bank\tbergen\nBank\tQ99\n", encoding="utf-8")
    only = replace(wiki, hyperlinks="only", titles=tmp_path / "titles.tsv")
    assert shown(only) == [
        ("Oslo", "oslo", True),
        ("money bank", "bergen", True),
        ("the kingdom of Norway", "norway", True),
    ]
    gold = list(read_gold("linked", only.output, Counter()))
    assert [link.entity for link in gold[0].links] == ["oslo", "bergen", "norway"]
    (tmp_path / "titles.tsv").write_text("Bank\tQ99\n")
    with pytest.raises(InputError, match="none of its 1 entities is in the graph"):
        run(replace(only, output=tmp_path / "other"))
    (tmp_path / "titles.tsv").write_text("Bank Q99\n")
    with pytest.raises(InputError, match=r"titles.tsv:1: expected title<TAB>entity id"):
        run(replace(only, output=tmp_path / "other"))
    with pytest.raises(InputError, match="a corpus of format jsonl has no hyperlinks"):
        replace(wiki, corpus="jsonl", hyperlinks="only")


def test_a_title_of_several_entities_means_the_one_that_bears_it_as_label(bank_world: Path) -> None:
    """ "Jordan" is a country's label and a man's other name: the page of that title is the country's."""
    titles = Titles(EntityLinker.from_artifacts(bank_world / "graph", None))
    assert titles.rows(["Jordan", "bank", "king", "nothing", "money_bank"]).tolist() == [3, -1, 7, 0, 2]


SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(1, 4)), max_size=12)


def apart(drawn: list[tuple[int, int, int]]) -> np.ndarray:
    kept: list[tuple[int, int, int]] = []
    for document, start, length in sorted(drawn):
        if not kept or kept[-1][0] != document or kept[-1][2] <= start:
            kept.append((document, start, start + length))
    return np.array(kept, dtype=np.int64).reshape(-1, 3)


@given(SPANS, SPANS)
def test_overlaps_are_those_that_a_double_loop_finds(first: list, second: list) -> None:
    """Off by one, links that touch a hyperlink vanish, or two links lie on one word."""
    links, spans = apart(first), apart(second)
    none = np.zeros(len(links), np.int32)
    table = LinkTable(*links.T, none, none.astype(np.float32), Counter(), Counter())
    wanted = [any(d == e and s < f and b < t for e, b, f in spans) for d, s, t in links]
    assert overlapped(table, *spans.T).tolist() == wanted


def test_a_recogniser_finds_mentions_with_or_without_the_graphs_names(world: LinkConfig, tmp_path: Path) -> None:
    """What the recogniser names but no alias reads like has no candidates, and must not hide what has."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "GPE", "pattern": "the Norway"}, {"label": "ORG", "pattern": "Bergen Line"}])
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "From the Norway by Bergen Line to Oslo."}) + "\n")
    config = replace(world, source=str(tmp_path / "one.jsonl"), ner=str(tmp_path / "nlp"))

    def found(detector: str) -> list[str]:
        [document] = read_linked(run(replace(config, detector=detector, output=tmp_path / detector)))
        return [document.text[m.start : m.end] for m in document.mentions]

    assert found("ner") == ["Norway"]
    assert found("both") == found("aliases") == ["Norway", "Bergen", "Oslo"]
    assert open_artifact(tmp_path / "ner", stage="link").dropped["ner_without_alias"] == 1
    with pytest.raises(InputError, match="spaCy has no pipeline 'nowhere'"):
        run(replace(config, detector="ner", ner="nowhere", output=tmp_path / "x"))
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="names no entities"):
        run(replace(config, detector="ner", ner=str(tmp_path / "blank"), output=tmp_path / "x"))
