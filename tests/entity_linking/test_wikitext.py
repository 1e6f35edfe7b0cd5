"""Wikitext to plain text: what a reader of the page sees, and links whose offsets are exact."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_linking.corpora.wikitext import Site, plain_text


def shown(wikitext: str, **site: object) -> tuple[str, list[tuple[str, str]]]:
    text, links = plain_text(wikitext, Site(**site))
    return text, [(text[link.start : link.end], link.entity) for link in links]


@pytest.mark.parametrize(
    ("wikitext", "text", "links"),
    [
        ("'''Oslo''' is the [[capital city|capital]].", "Oslo is the capital.", [("capital", "Capital city")]),
        ("two [[bus]]es", "two buses", [("buses", "Bus")]),
        ("[[Mercury (planet)|]] and [[Paris, Texas|]]", "Mercury and Paris",
         [("Mercury", "Mercury (planet)"), ("Paris", "Paris, Texas")]),
        ("a [[b_c#d|e]] f", "a e f", [("e", "B c")]),
        ("[[AT&amp;T]] &lt;3", "AT&T <3", [("AT&T", "AT&T")]),
        ("[[Caf%C3%A9|x]]", "x", [("x", "Café")]),
        ("{{Infobox|a={{b|[[c]]}}}}See [[d|''e'']].", "See e.", [("e", "D")]),
        ("x{{lang|fr|[[Paris]]}}y", "xParisy", [("Paris", "Paris")]),
        ("[[File:a.jpg|thumb|a [[cat]] sits]]b", "b", []),
        ("[[Category:Cats]][[de:Katze]]c", "c", []),
        ("[[:Category:Cats]] [[wikt:cat|cat]] [[CSI: Miami]]", "Category:Cats cat CSI: Miami",
         [("CSI: Miami", "CSI: Miami")]),
        ("a<ref>[[b]]</ref> c<ref name=x/> d<!-- [[e]] -->", "a c d", []),
        ("<nowiki>[[a]]</nowiki> [[b]]", "[[a]] b", [("b", "B")]),
        ("== Head ==\n* [[a]]\n# b\n----\n", "Head\n\na\nb", [("a", "A")]),
        ("{|\n| [[a]]\n|}\nb", "b", []),
        ("[http://x.org a b] [//y.org]", "a b", []),
        ("Oslo ({{IPA|x}}; {{lang|no|y}}) is", "Oslo (y) is", []),
        ("[[a|b", "a|b", []),
        ("b]] {{c", "b c", []),
        ("[[ a |  b c ]]d", "b cd", [("b cd", "A")]),
        ("it''s '''''so'''''", "its so", []),
    ],
)  # fmt: skip
def test_a_reader_sees_the_text_and_the_links(wikitext: str, text: str, links: list[tuple[str, str]]) -> None:
    """Markup that stays becomes words of the corpus; an anchor cut wrong becomes a wrong gold link."""
    assert shown(wikitext) == (text, links)


def test_the_site_says_how_titles_begin_and_what_its_namespaces_are_called() -> None:
    """A German dump's [[Datei:…]] would be read as a link to an article of that name."""
    assert shown("[[bus]] [[Datei:x.png|y]]", first_letter=False, files=frozenset(("datei",))) == (
        "bus",
        [("bus", "bus")],
    )


MARKUP = st.sampled_from(
    [
        *("[[", "]]", "{{", "}}", "|", "'''", "''", "[http://a.b ", "]", "<ref>", "</ref>", "<br>", "<nowiki>"),
        *("</nowiki>", "<!--", "-->", "{|\n", "\n|}", "\n", "== ", " ==", "* ", "&amp;", "&#x5B;&#x5B;", "{{{", "}}}"),
        *("__TOC__", "_", "File:", "Category:", "de:", ":", "#", "%C3%A9", "lang|fr|", "\x00", "\x01", "\x03", "\x02"),
        *(" ", "\xa0", "(", ")", "word", "Ää", "東京", "😀", "e\u0301", "שלום", "\u202e", "\ud800"),
    ]
)


@given(st.lists(st.one_of(MARKUP, st.characters()), max_size=40).map("".join))
@settings(max_examples=400, deadline=None)
def test_links_lie_where_they_say_whatever_the_markup(wikitext: str) -> None:
    """Broken markup is common; a link outside its text, or on blanks, would shift every mention behind it."""
    text, links = plain_text(wikitext)
    assert not set(text) & set("\x00\x01\x02\x03\x04\x05\r")
    end = 0
    for link in links:
        assert end <= link.start < link.end <= len(text)
        surface = text[link.start : link.end]
        assert surface == surface.strip()
        assert link.entity
        assert link.entity == link.entity.strip()
        end = link.end


@given(st.lists(st.tuples(MARKUP, st.booleans()), max_size=15))
@settings(max_examples=200, deadline=None)
def test_every_anchor_is_found_again_between_any_balanced_markup(pieces: list[tuple[str, bool]]) -> None:
    """Anchors that no other text equals show a shifted offset, which a mere range check does not."""
    balanced = {"'''": "'''x'''", "''": "''x''", "{{": "{{x|y}}", "&amp;": "&amp;", "<br>": "<br>", "\xa0": "\xa0"}
    wikitext, wanted = "", []
    for number, (piece, is_link) in enumerate(pieces):
        wikitext += balanced.get(piece, "<!-- x --> ") + " "
        if is_link:
            wanted.append((f"anchor{number}", f"Page {number}"))
            wikitext += f"[[page {number}|''anchor{number}'']] "
    assert shown(wikitext)[1] == wanted


@pytest.mark.faults
def test_time_is_linear_in_hostile_text() -> None:
    """One page of open brackets must not stop a dump for hours: each of these took seconds to hours when quadratic."""
    texts = ["[//" + "a" * 200_000, "= " + " " * 200_000 + "x", "{{" * 100_000, "[[" * 100_000, "[[a|" * 50_000]
    texts += ["<ref>" * 50_000, "'" * 300_000, "(" * 200_000, "<!--" * 50_000, "{|\n" * 50_000, "[[a]]" * 40_000]
    started = time.process_time()
    for text in texts:
        plain_text(text)
    assert time.process_time() - started < 20
