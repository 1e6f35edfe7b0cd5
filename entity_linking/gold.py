"""Gold links in: every format reads as a stream of documents with the links somebody made.

    >>> sorted(GOLD)
    ['aida', 'jsonl', 'linked', 'nif', 'semcor']

A link whose entity is "" says that its span means no entity of the graph.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from entity_linking.records import Link
from kg.errors import InputError
from kg.readers import wordnet
from kg.readers.lines import malformed, numbered_lines, open_stream

NIF = "http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#"
IDENTITY = "http://www.w3.org/2005/11/its/rdf#taIdentRef"
AIDA_NIL = "--NME--"


@dataclass(frozen=True, slots=True)
class GoldDocument:
    """A text with its gold links, in order of their start, never overlapping, each of score 1."""

    id: str
    text: str
    links: tuple[Link, ...]


def read_gold(format: str, path: Path, dropped: Counter[str]) -> Iterator[GoldDocument]:
    """Documents of a gold set in its order.

    format: a key of `GOLD`. dropped: receives `overlapping_gold`: spans that begin inside an earlier one (the longer
    of two with one start stays).

    Raises:
        InputError: unknown format, nothing at the path, a malformed record (file:line), a span outside its text.
    """
    if format not in GOLD:
        raise InputError(f"gold format {format!r} is unknown; expected one of {', '.join(sorted(GOLD))}")
    if not path.exists():
        raise InputError(f"{path}: expected gold links there, found nothing")
    found = 0
    for document in GOLD[format](path):
        yield _checked(document, path, dropped)
        found += 1
    if not found:
        raise InputError(f"{path}: expected documents of format {format}, found none")


def _checked(document: GoldDocument, path: Path, dropped: Counter[str]) -> GoldDocument:
    kept: list[Link] = []
    for link in sorted(document.links, key=lambda link: (link.start, -link.end)):
        if not 0 <= link.start < link.end <= len(document.text):
            raise InputError(
                f"{path}: document {document.id!r} has a link from {link.start} to {link.end}, expected offsets within "
                f"its {len(document.text)} code points; mend the record"
            )
        if kept and link.start < kept[-1].end:
            dropped["overlapping_gold"] += 1
        else:
            kept.append(link)
    return GoldDocument(document.id, document.text, tuple(kept))


def read_jsonl(path: Path) -> Iterator[GoldDocument]:
    """Ours: a line `{"id"?, "text", "mentions": [{"start", "end", "entity"}]}` a document; "entity": null = none."""
    for number, entry in _objects(path):
        links = [Link(m["start"], m["end"], m["entity"] or "", 1.0) for m in _mentions(entry, path, number, "entity")]
        yield GoldDocument(str(entry.get("id", f"{path.name}:{number}")), entry["text"], tuple(links))


def read_semcor(path: Path) -> Iterator[GoldDocument]:
    """A line `{"id", "text", "mentions": [{"start", "end", "sense_key", "proper"?}]}` a document.

    A sense key becomes the id that `kg build` gives its synset (the key of the first word), which takes the WordNet
    database; byte offsets differ between its builds, keys do not. A name that WordNet lacks (`proper`, tagged with
    "person" and the like), and a key it lacks, means no entity.
    """
    ids = {
        synset.sense_key(word): synset.id
        for synset in wordnet.read_synsets(wordnet.locate() / wordnet.DATA)
        for word in range(len(synset.words))
    }
    for number, entry in _objects(path):
        links = [
            Link(m["start"], m["end"], "" if m.get("proper") else ids.get(m["sense_key"], ""), 1.0)
            for m in _mentions(entry, path, number, "sense_key")
        ]
        yield GoldDocument(str(entry.get("id", f"{path.name}:{number}")), entry["text"], tuple(links))


def read_aida(path: Path) -> Iterator[GoldDocument]:
    """AIDA-CoNLL columns: `-DOCSTART- (id)`, then a token a line: token, B or I, mention, YAGO id, Wikipedia URL, …

    Tokens are joined by blanks, sentences (blank lines) by line feeds. The entity is the last part of the URL where
    there is one, else the YAGO id; `--NME--` means no entity.
    """
    name, text, links = "", "", []
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if line.startswith("-DOCSTART-"):
            if text.strip():
                yield GoldDocument(name, text.rstrip("\n"), tuple(links))
            name, text, links = line.removeprefix("-DOCSTART-").strip().strip("()") or str(number), "", []
        elif not line.strip():
            text += "\n" if text and not text.endswith("\n") else ""
        elif len(fields) > 1 and (fields[1] not in ("B", "I") or len(fields) < 4):
            raise malformed(path, number, "token<TAB>B or I<TAB>mention<TAB>entity…", line, "mend the line")
        else:
            start = len(text) + (1 if text and not text.endswith("\n") else 0)
            text = f"{text}{' ' if start > len(text) else ''}{fields[0]}"
            if len(fields) > 1 and fields[1] == "I" and links:
                links[-1] = Link(links[-1].start, len(text), links[-1].entity, 1.0)
            elif len(fields) > 1:
                links.append(Link(start, len(text), _aida_entity(fields), 1.0))
    if text.strip():
        yield GoldDocument(name, text.rstrip("\n"), tuple(links))


def _aida_entity(fields: Sequence[str]) -> str:
    if fields[3] == AIDA_NIL:
        return ""
    return fields[4].rstrip("/").rpartition("/")[2] if len(fields) > 4 and fields[4] else fields[3]


def read_nif(path: Path) -> Iterator[GoldDocument]:
    """NIF 2.0 in Turtle, as GERBIL and ELEVANT write it; the entity is the last part of its IRI.

    An IRI whose path holds `notInWiki` or that has no path means no entity.
    """
    import pyoxigraph as ox

    facts: dict[str, dict[str, str]] = defaultdict(dict)
    with open_stream(path) as stream:
        try:
            for quad in ox.parse(stream, format=ox.RdfFormat.TURTLE):
                facts[str(quad.subject)][quad.predicate.value] = getattr(quad.object, "value", "")
        except SyntaxError as error:
            raise InputError(f"{path}: expected NIF in Turtle ({error}); mend the file") from None
    texts = {node: of[NIF + "isString"] for node, of in facts.items() if NIF + "isString" in of}
    links: dict[str, list[Link]] = {node: [] for node in texts}
    for node, of in facts.items():
        if IDENTITY in of:
            context = f"<{of.get(NIF + 'referenceContext', '')}>"
            if context not in texts:
                raise InputError(
                    f"{path}: {node} refers to the text {context}, which has no nif:isString; mend the file"
                )
            start, end = (_offset(of, key, node, path) for key in ("beginIndex", "endIndex"))
            links[context].append(Link(start, end, _last_part(of[IDENTITY]), 1.0))
    for node, text in texts.items():
        yield GoldDocument(node.strip("<>"), text, tuple(links[node]))


def _offset(of: dict[str, str], key: str, node: str, path: Path) -> int:
    value = of.get(NIF + key, "")
    if not value.isdecimal():
        raise InputError(f"{path}: {node} has nif:{key} {value!r}, expected a whole number; mend the file")
    return int(value)


def _last_part(iri: str) -> str:
    scheme, _, rest = iri.partition("://")
    host, _, local = rest.partition("/")
    return "" if not scheme or not host or not local or "notInWiki" in iri else local.rstrip("/").rpartition("/")[2]


def read_linked(path: Path) -> Iterator[GoldDocument]:
    """An artifact of `link`: its links are taken for gold."""
    from entity_linking.annotate import read_linked as read

    for document in read(path):
        yield GoldDocument(document.id, document.text, document.mentions)


GOLD: dict[str, Callable[[Path], Iterator[GoldDocument]]] = {
    "jsonl": read_jsonl,
    "semcor": read_semcor,
    "aida": read_aida,
    "nif": read_nif,
    "linked": read_linked,
}
"""Readers by name."""


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise malformed(path, number, f"a JSON object ({error})", line, "mend the line") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise malformed(path, number, 'an object with a "text" string', line, "mend the line")
        yield number, entry


def _mentions(entry: dict[str, Any], path: Path, number: int, name: str) -> list[dict[str, Any]]:
    mentions = entry.get("mentions", [])
    for mention in mentions if isinstance(mentions, list) else [None]:
        offsets = isinstance(mention, dict) and all(type(mention.get(key)) is int for key in ("start", "end"))
        if not offsets or not isinstance(mention.get(name, 0), str | None):
            wanted = f'"mentions" as a list of {{"start": int, "end": int, "{name}": text}}'
            raise malformed(path, number, wanted, orjson.dumps(mention).decode(), "mend the line")
    return mentions
