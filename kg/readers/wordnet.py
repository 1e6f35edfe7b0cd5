"""WordNet nouns as a graph, from the database files of WordNet 3.0 and 3.1 (wndb(5WN), senseidx(5WN)).

An entity is a synset. Byte offsets differ between builds of the same WordNet, so an entity is named by the sense
key of its first word, `lemma%1:lexicographer file:lexical id::`, which stays.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from kg.errors import InputError
from kg.readers.batches import entity_batches, triple_batches
from kg.readers.lines import malformed, numbered_lines
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation

DATA, INDEX, SENSES, COUNTS = "data.noun", "index.noun", "index.sense", "cntlist.rev"
ENVIRONMENT = "ERNIE_KG_WORDNET"
PLACES = ("/usr/share/wordnet", ".data/wordnet/usr/share/wordnet", ".data/wordnet/dict")
REMEDY = "the file is cut off or damaged, install WordNet again"
NOUN = "n"
PARTS_OF_SPEECH = {"v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}

Index = dict[str, tuple[int, tuple[str, ...]]]
Pointer = tuple[str, str, str]

LEXICOGRAPHER_FILES = {
    3: "noun.Tops",
    4: "noun.act",
    5: "noun.animal",
    6: "noun.artifact",
    7: "noun.attribute",
    8: "noun.body",
    9: "noun.cognition",
    10: "noun.communication",
    11: "noun.event",
    12: "noun.feeling",
    13: "noun.food",
    14: "noun.group",
    15: "noun.location",
    16: "noun.motive",
    17: "noun.object",
    18: "noun.person",
    19: "noun.phenomenon",
    20: "noun.plant",
    21: "noun.possession",
    22: "noun.process",
    23: "noun.quantity",
    24: "noun.relation",
    25: "noun.shape",
    26: "noun.state",
    27: "noun.substance",
    28: "noun.time",
}

POINTERS = {
    "@": Relation("hypernym", "is a kind of"),
    "@i": Relation("instance_hypernym", "is an instance of"),
    "#m": Relation("member_holonym", "is a member of"),
    "#p": Relation("part_holonym", "is a part of"),
    "#s": Relation("substance_holonym", "is a substance of"),
    ";c": Relation("domain_topic", "belongs to the topic"),
    ";r": Relation("domain_region", "belongs to the region"),
    ";u": Relation("domain_usage", "is used as"),
    "+": Relation("derivationally_related", "is derivationally related to"),
    "!": Relation("antonym", "is the opposite of"),
}
SYMMETRIC = frozenset({"+", "!"})
INVERSES = frozenset({"~", "~i", "%m", "%p", "%s", "-c", "-r", "-u"})
OTHERS = frozenset({"=", "\\", "&", "<", "*", ">", "^", "$"})


@dataclass(frozen=True, slots=True)
class Synset:
    """A line of data.noun. words: (word, lexical id); pointers: (symbol, offset, part of speech)."""

    line: int
    offset: str
    lexicographer_file: int
    words: tuple[tuple[str, int], ...]
    pointers: tuple[Pointer, ...]
    gloss: str

    @property
    def id(self) -> str:
        return self.sense_key(0)

    def sense_key(self, word: int) -> str:
        name, lexical_id = self.words[word]
        return f"{name.lower()}%1:{self.lexicographer_file:02d}:{lexical_id:02d}::"


def locate() -> Path:
    """The folder $ERNIE_KG_WORDNET names, else the first of the usual places (some under the current folder).

    Raises:
        InputError: the named folder is not there, or none of the places has a data.noun.
    """
    named = os.environ.get(ENVIRONMENT)
    if named and not (Path(named) / DATA).is_file():
        raise InputError(f"{ENVIRONMENT}={named}: expected a folder with {DATA}, found none; mend or unset it")
    for place in [named] if named else PLACES:
        if (Path(place) / DATA).is_file():
            return Path(place)
    raise InputError(
        f"no WordNet database in {', '.join(PLACES)}; install Debian's wordnet-base, or set `source` (or "
        f"{ENVIRONMENT}) to a folder with {DATA}, {INDEX} and {COUNTS} or {SENSES}"
    )


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens a WordNet database folder; it has one language, so `options` say nothing to it.

    A pointer between words (derivation, antonym) becomes a triple between their synsets. Of two inverse pointers
    one direction is kept: `#` of `#`/`%`, `@` of `@`/`~`, `;` of `;`/`-`, the first met of a symmetric pair.

    dropped: pointers as `pointer_inverse`, `pointer_symmetric_twin`, `pointer_to_verb` (adjective, adverb) and
        `pointer_not_of_nouns` (symbols nouns have no relation for), and `count_without_sense` for tag counts of
        noun senses that are not in the database (WordNet 3.0 has some).

    Raises:
        InputError: now, when a file is missing; while walked, at a malformed or cut line (file:line), a pointer or
            an index entry to a synset that is not there, a word or sense that its index lacks.
    """
    for name in (DATA, INDEX):
        if not (source / name).is_file():
            raise InputError(f"{source}: expected the WordNet file {name} in it, found none; {REMEDY}")
    if not any((source / name).is_file() for name in (SENSES, COUNTS)):
        raise InputError(f"{source}: expected {SENSES} or {COUNTS} in it for sense counts, found neither")
    nouns = _Nouns(source)
    return RawGraph(nouns.batches(), closed=True)


class _Nouns:
    """One walk over data.noun: entities as they come, their pointers kept for the triples."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.dropped: Counter[str] = Counter()
        self.ids: dict[str, str] = {}
        self.pointers: list[tuple[int, str, tuple[Pointer, ...]]] = []

    def batches(self) -> Iterator[Batch]:
        yield from entity_batches(self.entities())
        yield from triple_batches(self.triples())
        yield Batch(relations=tuple(POINTERS.values()), dropped=self.dropped)

    def entities(self) -> Iterator[Entity]:
        senses = _Senses(self.source)
        for synset in read_synsets(self.source / DATA):
            self.ids[synset.offset] = synset.id
            self.pointers.append((synset.line, synset.offset, synset.pointers))
            yield _entity(synset, senses)
        senses.check_offsets(self.ids)
        if senses.unused:
            self.dropped["count_without_sense"] += len(senses.unused)

    def triples(self) -> Iterator[tuple[str, str, str]]:
        met: set[tuple[str, str, str]] = set()
        for line, offset, pointers in self.pointers:
            for symbol, target, part_of_speech in pointers:
                if part_of_speech != NOUN:
                    self.dropped[f"pointer_to_{PARTS_OF_SPEECH[part_of_speech]}"] += 1
                elif target not in self.ids:
                    raise InputError(
                        f"{self.source / DATA}:{line}: expected noun synset {target} of pointer {symbol} in the file, "
                        f"it is not there; {REMEDY}"
                    )
                elif symbol not in POINTERS:
                    self.dropped["pointer_inverse" if symbol in INVERSES else "pointer_not_of_nouns"] += 1
                elif (symbol, target, offset) in met:
                    self.dropped["pointer_symmetric_twin"] += 1
                else:
                    if symbol in SYMMETRIC and target != offset:
                        met.add((symbol, offset, target))
                    yield self.ids[offset], POINTERS[symbol].id, self.ids[target]


class _Senses:
    """The order of every lemma's senses (index.noun) and how often each was tagged (index.sense or cntlist.rev)."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.index = _read_index(source / INDEX)
        self.complete = (source / SENSES).is_file()
        self.counts = _read_counts(source / SENSES, 3) if self.complete else _read_counts(source / COUNTS, 2)
        self.unused = set(self.counts)

    def order(self, synset: Synset, lemma: str) -> int:
        """The synset's place among the senses of a lemma, from 0."""
        _, offsets = self.index.get(lemma, (0, ()))
        if synset.offset not in offsets:
            raise self._lacking(synset, lemma, INDEX)
        return offsets.index(synset.offset)

    def count(self, synset: Synset, lemma: str) -> int:
        """How often the lemma was tagged with the synset. Words that differ in case alone share a count: WordNet
        tags lower-case lemmas, and its indexes list but one of their lexical ids."""
        keys = {synset.sense_key(number) for number, (word, _) in enumerate(synset.words) if word.lower() == lemma}
        if self.complete and not any(key in self.counts for key in keys):
            raise self._lacking(synset, lemma, SENSES)
        self.unused.difference_update(keys)
        return sum(self.counts.get(key, 0) for key in keys)

    def check_offsets(self, offsets: Container[str]) -> None:
        """Every synset the index names was read: data.noun does not end early."""
        for lemma, (line, senses) in self.index.items():
            if missing := [offset for offset in senses if offset not in offsets]:
                raise InputError(
                    f"{self.source / INDEX}:{line}: expected synset {missing[0]} of {lemma!r} in {DATA}, it is not "
                    f"there; {REMEDY}"
                )

    def _lacking(self, synset: Synset, lemma: str, file: str) -> InputError:
        return InputError(
            f"{self.source / DATA}:{synset.line}: expected {lemma!r} of synset {synset.offset} in {file}, it is not "
            f"there; {REMEDY}"
        )


def _entity(synset: Synset, senses: _Senses) -> Entity:
    lemmas = dict.fromkeys(word.lower() for word, _ in synset.words)
    counts = {lemma: senses.count(synset, lemma) for lemma in lemmas}
    aliases = tuple(
        Alias(_surface(word), counts[word.lower()], senses.order(synset, word.lower())) for word, _ in synset.words
    )
    return Entity(
        id=synset.id,
        label=aliases[0].surface,
        aliases=aliases,
        description=synset.gloss,
        types=(LEXICOGRAPHER_FILES[synset.lexicographer_file],),
        count=sum(counts.values()),
    )


def read_synsets(path: Path) -> Iterator[Synset]:
    """The synsets of a data.noun; its licence, lines that begin with two spaces, is passed over.

    Raises:
        InputError: a line that is no synset, or a file that ends in the middle of one.
    """
    for number, line in numbered_lines(path, whole=True):
        if line.startswith("  "):
            continue
        try:
            yield _synset(number, line)
        except IndexError:
            raise malformed(path, number, "a synset as in wndb(5WN), not a part of one", line, REMEDY) from None
        except ValueError as error:
            raise malformed(path, number, f"a synset as in wndb(5WN) ({error})", line, REMEDY) from None


def _synset(number: int, line: str) -> Synset:
    """`offset lex_filenum ss_type w_cnt (word lex_id)… p_cnt (symbol offset pos source/target)… | gloss`;
    w_cnt and lex_id are hexadecimal."""
    head, bar, gloss = line.partition(" | ")
    fields = head.split()
    num_words = int(fields[3], 16)
    after = 4 + 2 * num_words
    words, pointers = fields[4:after], fields[after + 1 :]
    if not bar or num_words < 1 or len(pointers) != 4 * int(fields[after]):
        raise ValueError("its counts and fields disagree")
    if int(fields[1]) not in LEXICOGRAPHER_FILES or fields[2] != NOUN:
        raise ValueError(f"lexicographer file {fields[1]}, type {fields[2]} is no noun")
    if strange := set(pointers[::4]) - POINTERS.keys() - INVERSES - OTHERS:
        raise ValueError(f"unknown pointer {min(strange)}")
    if strange := set(pointers[2::4]) - PARTS_OF_SPEECH.keys() - {NOUN}:
        raise ValueError(f"unknown part of speech {min(strange)!r}")
    return Synset(
        line=number,
        offset=fields[0],
        lexicographer_file=int(fields[1]),
        words=tuple((word, int(lexical_id, 16)) for word, lexical_id in zip(words[::2], words[1::2], strict=True)),
        pointers=tuple(zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True)),
        gloss=gloss.strip(),
    )


def _read_index(path: Path) -> Index:
    """`lemma pos synset_cnt p_cnt symbol… sense_cnt tagsense_cnt offset…`: line and senses in order, by lemma."""
    index: Index = {}
    for number, line in numbered_lines(path, whole=True):
        if line.startswith("  "):
            continue
        fields = line.split()
        numbers = fields[2:4]
        if len(numbers) < 2 or not all(map(str.isdecimal, numbers)) or len(fields) != 6 + sum(map(int, numbers)):
            raise malformed(path, number, "a lemma and its synsets as in wndb(5WN)", line, REMEDY)
        index[fields[0]] = number, tuple(fields[6 + int(fields[3]) :])
    return index


def _read_counts(path: Path, column: int) -> dict[str, int]:
    """Tag counts of noun senses by sense key, of the column that holds them (from 0)."""
    counts = {}
    for number, line in numbered_lines(path, whole=True):
        fields = line.split()
        if len(fields) != column + 1 or "%" not in fields[0] or not fields[column].isdecimal():
            raise malformed(path, number, f"a sense key and {column} numbers", line, REMEDY)
        if "%1:" in fields[0]:
            counts[fields[0]] = int(fields[column])
    return counts


def _surface(word: str) -> str:
    return word.replace("_", " ")
