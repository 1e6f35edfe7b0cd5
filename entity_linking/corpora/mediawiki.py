"""MediaWiki XML dumps (`pages-articles`), plain or packed, one page in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from entity_linking.corpora.columns import Columns
from entity_linking.corpora.records import Document, Record
from entity_linking.corpora.wikitext import CATEGORIES, ENGLISH, FILES, NAMESPACES, Site, plain_text
from kg.errors import InputError
from kg.readers.lines import open_stream

FILE_KEYS, CATEGORY_KEY = ("-2", "6"), "14"
ARTICLES = "0"


def read_mediawiki(file: Path, name: str, columns: Columns, dropped: Counter[str]) -> Iterator[Record]:
    """A dump: an article a document, its title the id, its links kept.

    Wikitext becomes plain text (`wikitext.plain_text`). Of a page with its history the last revision counts. The
    names of namespaces are read from the dump. dropped: `other_namespace` (talk, files, …), `redirects`,
    `not_wikitext` (JSON, CSS, …).

    Raises:
        InputError: XML that is malformed or breaks off (file:line), or is no MediaWiki dump.
    """
    try:
        with open_stream(file) as stream:
            for page, title in _pages(ElementTree.iterparse(stream, events=("start", "end")), file, dropped):
                yield page, f"{name}: page {title}"
    except ElementTree.ParseError as error:
        line, column = error.position
        what = f"not well-formed XML ({error.msg}, column {column})"
        raise InputError(f"{file}:{line}: {what}; fetch the dump again") from None


def _pages(
    events: Iterator[tuple[str, ElementTree.Element]], file: Path, dropped: Counter[str]
) -> Iterator[tuple[Document, str]]:
    _, root = next(events)
    if _local(root) != "mediawiki":
        raise InputError(f"{file}:1: expected a MediaWiki dump (<mediawiki>), got <{_local(root)}>; give such a file")
    site = ENGLISH
    revision: ElementTree.Element | None = None
    for event, element in events:
        if event == "start":
            continue
        name = _local(element)
        if name == "siteinfo":
            site = _site(element)
            root.clear()
        elif name == "revision":
            if revision is not None:
                revision.clear()
            revision = element
        elif name == "page":
            document = _document(element, revision, site, dropped)
            root.clear()
            revision = None
            if document is not None:
                yield document, repr(document.title)


def _document(
    page: ElementTree.Element, revision: ElementTree.Element | None, site: Site, dropped: Counter[str]
) -> Document | None:
    parts = {_local(child): child for child in page}
    content = {_local(child): child.text or "" for child in revision} if revision is not None else {}
    namespace = (parts["ns"].text or "").strip() if "ns" in parts else ARTICLES
    if namespace != ARTICLES:
        dropped["other_namespace"] += 1
    elif "redirect" in parts or content.get("text", "")[:9].casefold() == "#redirect":
        dropped["redirects"] += 1
    elif content.get("model", "wikitext") != "wikitext":
        dropped["not_wikitext"] += 1
    else:
        title = (parts["title"].text or "").strip() if "title" in parts else ""
        text, links = plain_text(content.get("text", ""), site)
        return Document(title, text, title=title, links=links)
    return None


def _site(element: ElementTree.Element) -> Site:
    files: set[str] = set(FILES)
    categories: set[str] = set(CATEGORIES)
    others: set[str] = set(NAMESPACES)
    first_letter = True
    for part in element.iter():
        text = (part.text or "").strip().casefold()
        if _local(part) == "case":
            first_letter = text != "case-sensitive"
        if _local(part) == "namespace" and text:
            key = part.get("key", "")
            named = files if key in FILE_KEYS else categories if key == CATEGORY_KEY else others
            named.add(text)
    return Site(frozenset(files), frozenset(categories), frozenset(others), first_letter)


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
