"""MediaWiki dumps: articles with their hyperlinks, whatever the dump's language, packing or history."""

from __future__ import annotations

import bz2
from collections import Counter
from pathlib import Path

import pytest

from entity_linking.corpora.records import Rejected
from entity_linking.corpus import Document, read_corpus
from kg.errors import InputError

SITE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">
<siteinfo><case>first-letter</case><namespaces><namespace key="0"/><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>
"""


def page(title: str, text: str, *, ns: int = 0, extra: str = "", model: str = "wikitext") -> str:
    revision = f"<revision><model>{model}</model><text>{text}</text></revision>"
    return f"<page><title>{title}</title><ns>{ns}</ns>{extra}{revision}</page>\n"


def read(path: Path, **options: object) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(read_corpus("mediawiki", str(path), dropped, **options)), dropped


def test_articles_keep_their_links_and_all_else_is_counted(tmp_path: Path) -> None:
    """A redirect or a talk page read as an article puts text into the corpus that nobody wrote as one."""
    history = "<revision><text>old [[words]]</text></revision>"
    dump = tmp_path / "dump.xml"
    dump.write_text(
        SITE
        + page("Oslo", "'''Oslo''' in [[norway|Norwegen]].[[Datei:x.jpg|y]][[Kategorie:Z]]")
        + page("Alt", "neu [[Text]]", extra=history)
        + page("Talk:Oslo", "x", ns=1)
        + page("Kristiania", "#REDIRECT [[Oslo]]", extra='<redirect title="Oslo"/>')
        + page("Data", "{}", model="json")
        + page("Leer", "{{x}}")
        + page("Oslo", "twice")
        + "</mediawiki>",
        encoding="utf-8",
    )
    rejected: list[Rejected] = []
    documents, dropped = read(dump, on_bad_record="reject", rejected=rejected.append)
    assert [(d.id, d.title, d.text) for d in documents] == [
        ("Oslo", "Oslo", "Oslo in Norwegen."),
        ("Alt", "Alt", "neu Text"),
    ]
    assert [(d.text[link.start : link.end], link.entity) for d in documents for link in d.links] == [
        ("Norwegen", "Norway"),
        ("Text", "Text"),
    ]
    assert dropped == {
        "other_namespace": 1,
        "redirects": 1,
        "not_wikitext": 1,
        "empty_text": 1,
        "rejected_duplicate_id": 1,
    }
    assert [(r.reason, r.place) for r in rejected] == [("duplicate_id", "dump.xml: page 'Oslo'")]


def test_a_packed_dump_in_a_folder_is_read_alike(tmp_path: Path) -> None:
    """Dumps come as .xml.bz2 in parts."""
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress((SITE + page("A", "one") + "</mediawiki>").encode()))
    (tmp_path / "b.xml").write_text(SITE + page("B", "two") + "</mediawiki>")
    assert [d.text for d in read(tmp_path)[0]] == ["one", "two"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SITE + page("A", "one"), r"dump.xml:\d+: not well-formed XML"),
        (SITE + "<page><title>x</page>", r"dump.xml:\d+: not well-formed XML"),
        ("<html></html>", "dump.xml:1: expected a MediaWiki dump"),
        ("", r"dump.xml:1: not well-formed XML \(no element found"),
    ],
)
def test_a_dump_that_breaks_off_is_an_error_even_where_records_are_rejected(
    tmp_path: Path, content: str, message: str
) -> None:
    """Half a dump taken for a whole one is a corpus without its second half."""
    (tmp_path / "dump.xml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "dump.xml", on_bad_record="reject")
