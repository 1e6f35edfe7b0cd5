"""RDF: N-Triples, N-Quads, Turtle, TriG and RDF/XML by the file's ending, packed or not; named graphs are merged.

Resources become entities under their IRI (Wikidata's are shortened: `Q42`, `P31`). Labels, aliases and descriptions
come from the usual properties (`TEXTS`) in the asked languages, then without a language; `rdf:type` gives types and
is a triple too; other literals say nothing to a graph of entities.

Texts are kept until the end of the file, since a resource's may stand anywhere: about 500 bytes a resource that has
some. Triples stream. Of N-Triples and N-Quads the plain lines are read in columns by Arrow, the others, and every
other format, by pyoxigraph; both read alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyoxigraph as ox

from kg.errors import InputError
from kg.readers.batches import entity_batches
from kg.readers.lines import blocks, decoded, malformed, open_stream, size_of
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
NEWLINE = 10
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
LABEL, ALIAS, DESCRIPTION = "label", "alias", "description"
TEXTS = {
    "http://www.w3.org/2000/01/rdf-schema#label": LABEL,
    "http://www.w3.org/2004/02/skos/core#prefLabel": LABEL,
    "http://schema.org/name": LABEL,
    "https://schema.org/name": LABEL,
    "http://xmlns.com/foaf/0.1/name": LABEL,
    "http://www.w3.org/2004/02/skos/core#altLabel": ALIAS,
    "http://schema.org/alternateName": ALIAS,
    "http://schema.org/description": DESCRIPTION,
    "https://schema.org/description": DESCRIPTION,
    "http://www.w3.org/2000/01/rdf-schema#comment": DESCRIPTION,
    "http://www.w3.org/2004/02/skos/core#definition": DESCRIPTION,
    "http://purl.org/dc/terms/description": DESCRIPTION,
}
SHORTENED = ("http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/")
FORMATS = {
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".nq": ox.RdfFormat.N_QUADS,
    ".ttl": ox.RdfFormat.TURTLE,
    ".trig": ox.RdfFormat.TRIG,
    ".rdf": ox.RdfFormat.RDF_XML,
    ".owl": ox.RdfFormat.RDF_XML,
    ".xml": ox.RdfFormat.RDF_XML,
}
PACKED = (".gz", ".bz2", ".zst")
BY_LINE = (".nt", ".nq")
TRIPLES_AT_ONCE = 50_000

_CHARACTERS = r"[A-Za-z0-9/:._~?=&+,;@!$()*'-]*"
_IRI = rf"<[a-z]+://[A-Za-z0-9._-]+(?:[/?]{_CHARACTERS})?(?:#{_CHARACTERS})?>"
_AFTER = rf"(?: {_IRI})? \.\n$", r" \.\n$"  # in quads a graph may stand before the end
_TAG = r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*"
_VALUE = r'^"[^"\\\n\r]*"'
_NAME = rf"^<(?:{'|'.join(map(re.escape, SHORTENED))})?([^>]+)>.*\n?$"
LITERAL = re.compile(r'^"([^"]*)"(?:@([A-Za-z0-9-]+))?')
"""Plain lines: IRIs of common ASCII characters, literals without escapes, one blank between the parts."""


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens an RDF file.

    dropped: `literal` (of a property that is no text of a resource), `other_language`, `blank_node` (as subject or
        object: it has no name to come back to).

    Raises:
        InputError: now, when there is no file or its ending says no format; while walked, at a syntax error
            (file:line), or where a packed file was cut off.
    """
    ending = _ending(source)
    facts = _Facts(options.languages)
    batches = _by_line(source, ending, facts) if ending in BY_LINE else _by_parser(source, FORMATS[ending], facts)
    return RawGraph(_with_texts(batches, facts), total_bytes=size_of(source))


def _ending(source: Path) -> str:
    name = source.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    ending = Path(name).suffix
    if ending not in FORMATS:
        raise InputError(f"{source}: expected an ending of {', '.join(FORMATS)} (or packed), got {ending or 'none'}")
    return ending


def _with_texts(batches: Iterator[Batch], facts: _Facts) -> Iterator[Batch]:
    """The triples, then the records of the resources that have texts or types."""
    yield from batches
    yield Batch(relations=facts.relations(), dropped=facts.dropped)
    yield from entity_batches(facts.entities())


# --- statements -----------------------------------------------------------------------------------------------


def _shortened(iri: str) -> str:
    return next((iri.removeprefix(start) for start in SHORTENED if iri.startswith(start)), iri) or iri


class _Facts:
    """What the statements read so far say: triples since the last batch, texts and types since the beginning."""

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = tuple(languages)
        self._preferred = {code.lower(): rank for rank, code in enumerate(languages)}
        self._ranks: dict[str, int | None] = {"": len(self._preferred)}
        self._texts: dict[str, list[tuple[int, int, str, str]]] = {}
        self._types: dict[str, list[str]] = {}
        self._used_as_relation: dict[str, None] = {}
        self.columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        self.dropped: Counter[str] = Counter()

    def type(self, subject: str, target: str) -> None:
        """A resource's type, both by id."""
        self._types.setdefault(subject, []).append(target)

    def used_as_relation(self, names: pa.Array) -> None:
        self._used_as_relation.update(dict.fromkeys(pc.unique(names).to_pylist()))

    def text(self, subject: str, kind: str, value: str, language: str, place: int) -> None:
        """A text of a resource, which is given by id; kind: a value of TEXTS; language: "" for none.

        place: of two texts in one language the lower place counts.
        """
        rank = self._rank(language)
        if rank is None:
            self.dropped["other_language"] += 1
        else:
            self._texts.setdefault(subject, []).append((rank, place, kind, value))

    def quad(self, quad: Any, place: int) -> None:
        """A statement as pyoxigraph gives it; place: see `text`."""
        subject, predicate, target = quad.subject, quad.predicate, quad.object
        if not isinstance(subject, ox.NamedNode) or not isinstance(target, (ox.NamedNode, ox.Literal)):
            self.dropped["blank_node"] += 1
        elif isinstance(target, ox.Literal):
            if (kind := TEXTS.get(predicate.value)) is None:
                self.dropped["literal"] += 1
            else:
                self.text(_shortened(subject.value), kind, target.value, target.language or "", place)
        else:
            names = (_shortened(term.value) for term in (subject, predicate, target))
            for column, name in zip(self.columns, names, strict=True):
                column.append(name)
            if predicate.value == TYPE:
                self.type(self.columns[0][-1], self.columns[2][-1])

    def batch(self, *, bytes_read: int = 0) -> Batch:
        """The triples since the last batch."""
        heads, relations, tails = self.columns
        self.columns = ([], [], [])
        self._used_as_relation.update(dict.fromkeys(relations))
        return Batch(heads=heads, relation_ids=relations, tails=tails, bytes_read=bytes_read)

    def relations(self) -> list[Relation]:
        """The relations that have a label, or an IRI whose last part is one."""
        found = ((name, self._readings(name)[0]) for name in self._used_as_relation)
        return [Relation(name, label or _local(name)) for name, label in found if label or _local(name) != name]

    def entities(self) -> Iterator[Entity]:
        """The resources that have texts or types and are no relations, in the order they were met."""
        for name in dict.fromkeys((*self._texts, *self._types)):
            if name in self._used_as_relation:
                continue
            label, surfaces, description = self._readings(name)
            label = label or _local(name)
            aliases = tuple(Alias(surface, rank=rank) for rank, surface in enumerate(surfaces or (label,)))
            types = tuple(dict.fromkeys(self._types[name])) if name in self._types else ()
            yield Entity(name, label, aliases, description, types)

    def _readings(self, name: str) -> tuple[str, list[str], str]:
        """Label, surfaces and description: the first of the most preferred language; "" where there is none."""
        labels, aliases, descriptions = [], [], []
        kinds = {LABEL: labels, ALIAS: aliases, DESCRIPTION: descriptions}
        for _, _, kind, value in sorted(self._texts.get(name, ())):
            kinds[kind].append(value)
        surfaces = [*dict.fromkeys(labels + aliases)]
        return labels[0] if labels else "", surfaces, descriptions[0] if descriptions else ""

    def _rank(self, language: str) -> int | None:
        """Place among the preferred languages; a region counts as its language (en-GB as en); None = not wanted."""
        if language not in self._ranks:
            code = language.lower()
            self._ranks[language] = self._preferred.get(code, self._preferred.get(code.partition("-")[0]))
        return self._ranks[language]


def _local(iri: str) -> str:
    """What follows the last `#` or `/`, underscores as blanks: what people read where nobody gave a label."""
    return re.split(r"[#/]", iri.rstrip("#/"))[-1].replace("_", " ") or iri


# --- formats --------------------------------------------------------------------------------------------------


def _by_line(source: Path, ending: str, facts: _Facts) -> Iterator[Batch]:
    for block, number in blocks(source):
        text = block if block.endswith(b"\n") else block + b"\n"
        decoded(source, text, number)
        columns, odd = _plain_lines(text, number, ending == ".nq", facts)
        yield Batch(heads=columns[0], relation_ids=columns[1], tails=columns[2], bytes_read=len(block))
        for place, line in odd:
            _odd_line(source, place, line, FORMATS[ending], facts)
        yield facts.batch()


def _plain_lines(
    text: bytes, number: int, quads: bool, facts: _Facts
) -> tuple[tuple[pa.Array, pa.Array, pa.Array], list[tuple[int, str]]]:
    """Takes over every plain line, as columns of Arrow; returns triples, and the other lines with their numbers."""
    lines = _lines(text)
    parts = pc.split_pattern(lines, " ", max_splits=2)
    three = np.flatnonzero(pc.list_value_length(parts).to_numpy() == 3)
    parts = parts.take(pa.array(three))
    subjects, predicates, rest = (pc.list_element(parts, place) for place in range(3))
    subject, good_subject = _names(subjects, rf"^{_IRI}$")
    predicate, good_predicate = _names(predicates, rf"^{_IRI}$")
    after = _AFTER[0] if quads else _AFTER[1]
    target, good_target = _names(rest, rf"^{_IRI}{after}")
    good = good_subject & good_predicate
    facts_at = np.flatnonzero(good & good_target)
    columns = tuple(column.take(pa.array(facts_at)) for column in (subject, predicate, target))
    facts.used_as_relation(columns[1])
    _take_types(columns, facts)
    literal_at = np.flatnonzero(good & _matches(rest, rf"{_VALUE}(?:@{_TAG}|\^\^{_IRI})?{after}"))
    _take_texts(subject, predicates, rest, literal_at, number + three, facts)
    handled = np.zeros(len(lines), bool)
    handled[three[facts_at]] = handled[three[literal_at]] = True
    odd = [(number + int(place), lines[int(place)].as_py()) for place in np.flatnonzero(~handled)]
    return columns, [(place, line) for place, line in odd if line.strip()]  # pyrefly: ignore[bad-return]


def _lines(text: bytes) -> pa.Array:
    """Every line with its end, as an Arrow array over the same bytes."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE).astype(np.int32) + 1
    offsets = np.append(np.int32(0), ends).astype(np.int32)
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))


def _names(tokens: pa.Array, pattern: str) -> tuple[pa.Array, np.ndarray]:
    """Ids of `<IRI>` tokens, and where the token is as plain as `pattern` says; the ids elsewhere mean nothing."""
    encoded = tokens.dictionary_encode()
    plain = _matches(encoded.dictionary, pattern)
    names = pc.replace_substring_regex(encoded.dictionary, _NAME, r"\1")
    return names.take(encoded.indices), plain[encoded.indices.to_numpy()]


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)


def _take_types(columns: tuple[pa.Array, ...], facts: _Facts) -> None:
    at = pc.equal(columns[1], _shortened(TYPE))
    for subject, target in zip(columns[0].filter(at).to_pylist(), columns[2].filter(at).to_pylist(), strict=True):
        facts.type(subject, target)


def _take_texts(
    subjects: pa.Array, predicates: pa.Array, rest: pa.Array, at: np.ndarray, numbers: np.ndarray, facts: _Facts
) -> None:
    """Literals of text properties in a wanted language go to `facts`, the others are counted."""
    tokens = pa.array([f"<{iri}>" for iri in TEXTS])
    of_text = at[pc.is_in(predicates.take(pa.array(at)), tokens).to_numpy(zero_copy_only=False)]
    facts.dropped["literal"] += len(at) - len(of_text)
    tags = "|".join(re.escape(code) for code in facts.languages)
    tag = rf"(?:@(?i:{tags})(?:-[A-Za-z0-9]{{1,8}})*)?" if tags else ""
    wanted = of_text[_matches(rest.take(pa.array(of_text)), rf"{_VALUE}(?:{tag}|\^\^{_IRI})(?: |$)")]
    facts.dropped["other_language"] += len(of_text) - len(wanted)
    chosen = [column.take(pa.array(wanted)).to_pylist() for column in (subjects, predicates, rest)]
    for subject, predicate, literal, number in zip(*chosen, numbers[wanted].tolist(), strict=True):
        value, language = LITERAL.match(literal).groups()  # pyrefly: ignore[missing-attribute]
        facts.text(subject, TEXTS[predicate[1:-1]], value, language or "", number)


def _odd_line(source: Path, number: int, line: str, form: Any, facts: _Facts) -> None:
    try:
        for quad in ox.parse(line.encode(), format=form):
            facts.quad(quad, number)
    except SyntaxError as error:
        raise malformed(source, number, f"a statement ({error.msg})", line, "mend or delete the line") from None


def _by_parser(source: Path, form: Any, facts: _Facts) -> Iterator[Batch]:
    with open_stream(source) as stream:
        try:
            for number, quad in enumerate(ox.parse(stream, format=form), 1):
                facts.quad(quad, number)
                if number % TRIPLES_AT_ONCE == 0:
                    yield facts.batch()
        except SyntaxError as error:
            place = f"{source}:{error.lineno}" if error.lineno else f"{source}"
            raise InputError(f"{place}: expected RDF ({form.name}), {error.msg}; mend the file") from None
    yield facts.batch()
