"""RDF: N-Triples, N-Quads, Turtle, TriG and RDF/XML by the file's ending, packed or not; named graphs are merged.

Resources become entities under their IRI (Wikidata's are shortened: `Q42`, `P31`). Labels, aliases and descriptions
come from the usual properties (`TEXTS`) in the asked languages, then without a language; `rdf:type` gives types and
is a triple too; other literals say nothing to a graph of entities.

Texts are kept until the end of the file, since a resource's may stand anywhere (`kg.readers.rdf_notes`); triples
stream. Of N-Triples and N-Quads the plain lines are read in columns by Arrow, the others, and every other format, by
pyoxigraph; both read alike. An interrupted read of N-Triples or N-Quads goes on, other formats are read again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyoxigraph as ox

from kg.errors import InputError
from kg.readers import rdf_notes
from kg.readers.batches import entity_batches
from kg.readers.lines import blocks, decoded, malformed, open_stream, size_of
from kg.readers.rdf_notes import ALIAS, DESCRIPTION, LABEL, Notes
from kg.records import Batch, RawGraph, ReadOptions

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
NEWLINE = 10
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
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
_NAME = rf"^<(?:{'|'.join(map(re.escape, SHORTENED))})?([^>]+)>.*\n?$"
"""Plain lines: IRIs of common ASCII characters, literals without escapes, one blank between the parts."""


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens an RDF file; of N-Triples and N-Quads it goes on at `options.position`, an offset into the unpacked text.

    dropped: `literal` (of a property that is no text of a resource), `other_language`, `blank_node` (as subject or
        object: it has no name to come back to).

    Raises:
        InputError: now, when there is no file or its ending says no format; while walked, at a syntax error
            (file:line), or where a packed file was cut off.
    """
    ending = _ending(source)
    facts = _Facts(options.languages, options.notes)
    batches = (
        _by_line(source, ending, facts, options.position)
        if ending in BY_LINE
        else _by_parser(source, FORMATS[ending], facts)
    )
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
    notes = facts.notes.sorted()
    yield Batch(relations=notes.relations())
    yield from entity_batches(notes.entities())


# --- statements -----------------------------------------------------------------------------------------------


def _shortened(iri: str) -> str:
    return next((iri.removeprefix(start) for start in SHORTENED if iri.startswith(start)), iri) or iri


class _Facts:
    """What the statements read so far say: triples since the last batch, notes since the beginning."""

    def __init__(self, languages: Sequence[str], earlier: Iterable[pa.Table] = ()) -> None:
        self.languages = tuple(languages)
        self._preferred = {code.lower(): rank for rank, code in enumerate(languages)}
        self._ranks: dict[str, int | None] = {"": len(self._preferred)}
        self.notes = Notes(earlier)
        self.columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        self.dropped: Counter[str] = Counter()

    def text(self, subject: str, kind: int, value: str, language: str, place: int) -> None:
        """A text of a resource, which is given by id; kind: a value of TEXTS; language: "" for none.

        place: of two texts in one language the lower place counts.
        """
        if (rank := self.rank(language)) is None:
            self.dropped["other_language"] += 1
        else:
            self.notes.add(subject, kind, value, rank=rank, place=place)

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
                self.notes.add(self.columns[0][-1], rdf_notes.TYPE, self.columns[2][-1], place=place)

    def batch(self, plain: Sequence[pa.Array] = (), *, bytes_read: int = 0, position: int = 0) -> Batch:
        """The triples, notes and tallies since the last batch; plain: columns of triples that came besides."""
        odd, self.columns = self.columns, ([], [], [])
        columns = [pa.array(column, pa.string()) for column in odd]
        if plain:
            columns = [pa.concat_arrays(pair) for pair in zip(plain, columns, strict=True)]
        self.notes.add_relations(pc.unique(columns[1]).to_pylist())
        dropped, self.dropped = +self.dropped, Counter()
        return Batch(
            heads=columns[0],
            relation_ids=columns[1],
            tails=columns[2],
            notes=self.notes.taken(),
            dropped=dropped,
            bytes_read=bytes_read,
            position=position,
        )

    def rank(self, language: str) -> int | None:
        """Place among the preferred languages; a region counts as its language (en-GB as en); None = not wanted."""
        if language not in self._ranks:
            code = language.lower()
            self._ranks[language] = self._preferred.get(code, self._preferred.get(code.partition("-")[0]))
        return self._ranks[language]


# --- formats --------------------------------------------------------------------------------------------------


def _by_line(source: Path, ending: str, facts: _Facts, position: int) -> Iterator[Batch]:
    for block, number in blocks(source, skip=position):
        text = block if block.endswith(b"\n") else block + b"\n"
        if not text.isascii():
            decoded(source, text, number)
        columns, odd = _plain_lines(text, number, ending == ".nq", facts)
        for place, line in odd:
            _odd_line(source, place, line, FORMATS[ending], facts)
        position += len(block)
        yield facts.batch(columns, bytes_read=len(block), position=position)


def _plain_lines(text: bytes, number: int, quads: bool, facts: _Facts) -> tuple[list[pa.Array], list[tuple[int, str]]]:
    """Takes over every plain line, as columns of Arrow; returns triples, and the other lines with their numbers."""
    lines = _lines(text)
    parts = pc.split_pattern(lines, " ", max_splits=2)
    three = np.flatnonzero(pc.list_value_length(parts).to_numpy() == 3)
    parts = parts.take(pa.array(three))
    subjects, predicates, rest = (pc.list_element(parts, place) for place in range(3))
    subject, good_subject = _names(subjects, rf"^{_IRI}$")
    predicate, good_predicate = _names(predicates, rf"^{_IRI}$")
    good = good_subject & good_predicate
    after = _AFTER[0] if quads else _AFTER[1]
    resource_at = np.flatnonzero(good & pc.starts_with(rest, "<").to_numpy(zero_copy_only=False))
    target, good_target = _names(rest.take(pa.array(resource_at)), rf"^{_IRI}{after}")
    facts_at = resource_at[good_target]
    columns = [column.take(pa.array(facts_at)) for column in (subject, predicate)]
    columns.append(target.filter(pa.array(good_target)))
    _take_types(columns, number + three[facts_at], facts)
    literal_at = np.flatnonzero(good & pc.starts_with(rest, '"').to_numpy(zero_copy_only=False))
    literal_at = _take_literals(subject, predicates, rest, literal_at, number + three, after, facts)
    handled = np.zeros(len(lines), bool)
    handled[three[facts_at]] = handled[three[literal_at]] = True
    odd = [(number + int(place), lines[int(place)].as_py()) for place in np.flatnonzero(~handled)]
    return columns, [(place, line) for place, line in odd if line.strip()]


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


def _take_types(columns: Sequence[pa.Array], places: np.ndarray, facts: _Facts) -> None:
    at = np.flatnonzero(pc.equal(columns[1], _shortened(TYPE)).to_numpy(zero_copy_only=False))
    kinds, ranks = np.full(len(at), rdf_notes.TYPE, np.int8), np.zeros(len(at), np.int16)
    subjects, targets = columns[0].take(pa.array(at)), columns[2].take(pa.array(at))
    facts.notes.add_columns(subjects, kinds, targets, ranks=ranks, places=places[at])


def _take_literals(
    subjects: pa.Array,
    predicates: pa.Array,
    rest: pa.Array,
    at: np.ndarray,
    numbers: np.ndarray,
    after: str,
    facts: _Facts,
) -> np.ndarray:
    """Plain literals: texts in a wanted language are noted, the others are counted; returns where they stand.

    at: where the rest of a line begins with a quote. A plain one has no escape and a second quote only before its tag,
    datatype or end; as few tags and datatypes are met, those are looked at once each.
    """
    literals = rest.take(pa.array(at))
    thirds = pc.split_pattern(literals, '"', max_splits=2)  # what stands before, in and behind the quotes
    three = np.flatnonzero(pc.list_value_length(thirds).to_numpy() == 3)
    thirds = thirds.take(pa.array(three))
    values, endings = (pc.list_element(thirds, place) for place in (1, 2))
    encoded = endings.dictionary_encode()
    codes = encoded.indices.to_numpy()
    plain = _matches(encoded.dictionary, rf"^(?:@{_TAG}|\^\^{_IRI})?{after}")[codes]
    plain &= ~_matches(values, r"[\\\r]")
    at, codes, values = at[three[plain]], codes[plain], values.filter(pa.array(plain))
    ranks = [facts.rank(_language(ending)) for ending in encoded.dictionary.to_pylist()]
    kinds = _text_kinds(predicates.take(pa.array(at)))
    rank = np.array([-1 if of is None else of for of in ranks], np.int16)[codes]
    noted = (kinds >= 0) & (rank >= 0)
    facts.dropped["literal"] += int((kinds < 0).sum())
    facts.dropped["other_language"] += int(((kinds >= 0) & (rank < 0)).sum())
    facts.notes.add_columns(
        subjects.take(pa.array(at[noted])),
        kinds[noted],
        values.filter(pa.array(noted)),
        ranks=rank[noted],
        places=numbers[at[noted]],
    )
    return at


def _language(ending: str) -> str:
    """Of what follows a literal's second quote; "" for none."""
    return ending[1:].split(" ", 1)[0] if ending.startswith("@") else ""


def _text_kinds(predicates: pa.Array) -> np.ndarray:
    """Kind of text that `<IRI>` predicates give, int8; -1 = none."""
    encoded = predicates.dictionary_encode()
    kinds = [TEXTS.get(token[1:-1], -1) for token in encoded.dictionary.to_pylist()]
    return np.array(kinds, np.int8)[encoded.indices.to_numpy()]


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
