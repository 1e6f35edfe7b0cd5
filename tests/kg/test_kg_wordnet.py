"""The WordNet reader, on a database of six nouns and on the real one where it is installed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.errors import InputError
from kg.readers import wordnet
from kg.readers.table import locate_source
from kg.records import Alias, ReadOptions, Triple

REAL = Path("/usr/share/wordnet")
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
ANIMAL, DOG, PERSON_DOG, BITCH, TURKEY, BIRD = (f"{number:08d}" for number in (100, 200, 300, 400, 500, 600))
SYNSETS = [
    f"{ANIMAL} 03 n 02 animal 0 beast 0 002 ~ {DOG} n 0000 ~ {BIRD} n 0000 | a living organism",
    f'{DOG} 05 n 02 dog 0 Canis_familiaris 0 003 @ {ANIMAL} n 0000 ! {BITCH} n 0101 + 00099999 v 0101 | "woof"',
    f"{PERSON_DOG} 18 n 02 dog a cad 0 003 @ {ANIMAL} n 0000 = 00088888 a 0000 @ {ANIMAL} n 0000 | a man | of a kind",
    f"{BITCH} 05 n 01 bitch 0 003 @ {DOG} n 0000 ! {DOG} n 0101 + {BITCH} n 0101 | female dog",
    f"{TURKEY} 15 n 02 Turkey 1 T 0 001 @i {ANIMAL} n 0000 | a country, for once an animal",
    f"{BIRD} 05 n 01 turkey 0 001 #p {ANIMAL} n 0000 | a bird",
]
INDEX = [
    f"animal n 1 1 ~ 1 1 {ANIMAL}",
    f"beast n 1 0 1 0 {ANIMAL}",
    f"bitch n 1 1 @ 1 0 {BITCH}",
    f"cad n 1 0 1 0 {PERSON_DOG}",
    f"canis_familiaris n 1 0 1 0 {DOG}",
    f"dog n 2 1 @ 2 1 {DOG} {PERSON_DOG}",
    f"t n 1 0 1 0 {TURKEY}",
    f"turkey n 2 1 @ 2 0 {TURKEY} {BIRD}",
]
COUNTS = ["animal%1:03:00:: 1 9", "dog%1:05:00:: 1 42", "dog%2:38:00:: 1 2", "gone%1:05:00:: 1 1"]


@pytest.fixture
def database(tmp_path):
    return write_database(tmp_path / "wordnet")


def write_database(folder, *, counts=True):
    folder.mkdir()
    (folder / "data.noun").write_text(LICENCE + "".join(f"{line}  \n" for line in SYNSETS))
    (folder / "index.noun").write_text(LICENCE + "".join(f"{line}  \n" for line in INDEX))
    if counts:
        (folder / "cntlist.rev").write_text("".join(f"{line}\n" for line in COUNTS))
    return folder


def walk(folder):
    entities, triples, dropped = {}, [], Counter()
    for batch in wordnet.read(folder, ReadOptions()).batches:
        entities |= {entity.id: entity for entity in batch.entities}
        triples += [Triple(*names) for names in zip(batch.heads, batch.relation_ids, batch.tails, strict=True)]
        dropped += batch.dropped
    return entities, triples, dropped


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_synsets_become_entities_named_by_sense_keys(database):
    """Offsets as ids would silently name other synsets in another build of the same WordNet."""
    entities, _, _ = walk(database)
    dog = entities["dog%1:05:00::"]
    assert (dog.label, dog.description, dog.types, dog.count) == ("dog", '"woof"', ("noun.animal",), 42)
    assert dog.aliases == (Alias("dog", 42, 0), Alias("Canis familiaris", 0, 0))
    cad = entities["dog%1:18:10::"]
    assert cad.aliases == (Alias("dog", 0, 1), Alias("cad", 0, 0))
    assert cad.description == "a man | of a kind"
    assert entities["turkey%1:15:01::"].label == "Turkey"
    assert len(entities) == len(SYNSETS)


def test_pointers_become_triples_in_one_direction(database):
    """An inverse kept beside its pointer is a leak into every test split."""
    _, triples, dropped = walk(database)
    dog, animal, bitch, cad = "dog%1:05:00::", "animal%1:03:00::", "bitch%1:05:00::", "dog%1:18:10::"
    assert Counter(triples) == {
        Triple(dog, "hypernym", animal): 1,
        Triple(dog, "antonym", bitch): 1,
        Triple(cad, "hypernym", animal): 2,
        Triple(bitch, "hypernym", dog): 1,
        Triple(bitch, "derivationally_related", bitch): 1,
        Triple("turkey%1:15:01::", "instance_hypernym", animal): 1,
        Triple("turkey%1:05:00::", "part_holonym", animal): 1,
    }
    assert dropped == {
        "pointer_inverse": 2,
        "pointer_symmetric_twin": 1,
        "pointer_to_verb": 1,
        "pointer_to_adjective": 1,
        "count_without_sense": 1,
    }


def test_index_sense_serves_where_there_is_no_cntlist(tmp_path):
    """WordNet 3.1 from npm has no cntlist.rev; reading the wrong column gives sense numbers for counts. Words that
    differ in case alone share one line there."""
    folder = write_database(tmp_path / "wordnet", counts=False)
    keys = ["animal%1:03:00::", "beast%1:03:00::", "canis_familiaris%1:05:00::", "dog%1:18:10::", "cad%1:18:00::"]
    keys += ["bitch%1:05:00::", "turkey%1:15:01::", "t%1:15:00::", "turkey%1:05:00::"]
    lines = [f"{key} 00000100 7 0" for key in keys] + [f"dog%1:05:00:: {DOG} 1 42"]
    (folder / "index.sense").write_text("".join(f"{line}\n" for line in lines))
    replace(folder / "data.noun", "02 dog 0 Canis_familiaris 0", "03 dog 0 Canis_familiaris 0 DOG 1")
    dog = walk(folder)[0]["dog%1:05:00::"]
    assert dog.aliases == (Alias("dog", 42, 0), Alias("Canis familiaris", 0, 0), Alias("DOG", 42, 0))
    assert dog.count == 42
    replace(folder / "index.sense", "cad%1:18:00:: 00000100 7 0\n", "")
    with pytest.raises(InputError, match=r"data.noun:4: expected 'cad' of synset 00000300 in index.sense"):
        walk(folder)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("data.noun", "| a bird  \n", "| a bi", r"data.noun:7: expected a line with an end"),
        (
            "data.noun",
            f" @ {ANIMAL} n 0000 ! {BITCH} n 0101 + 00099999 v 0101 | ",
            "",
            r"data.noun:3: .*synset",
        ),
        ("data.noun", "02 dog 0", "0x dog 0", r"data.noun:3: expected a synset"),
        ("data.noun", f"{DOG} 05 n", f"{DOG} 29 v", r"data.noun:3: .*lexicographer file 29, type v is no noun"),
        ("data.noun", f"! {BITCH}", f"? {BITCH}", r"data.noun:3: .*unknown pointer \?"),
        ("data.noun", f"! {BITCH}", "! 00000401", r"data.noun:3: expected noun synset 00000401 of pointer !"),
        ("data.noun", f"{SYNSETS[-1]}  \n", "", r"index.noun:9: expected synset 00000600 of 'turkey' in data.noun"),
        ("data.noun", "a living", "a \udcff living", r"data.noun:2: expected UTF-8, got byte 0xff"),
        ("index.noun", f"{INDEX[3]}  \n", "", r"data.noun:4: expected 'cad' of synset 00000300 in index.noun"),
        (
            "index.noun",
            f"dog n 2 1 @ 2 1 {DOG} {PERSON_DOG}  ",
            f"dog n 2 1 @ 2 1 {DOG}  ",
            r"index.noun:7: expected a lemma",
        ),
        ("cntlist.rev", "1 42\n", "1 4x\n", r"cntlist.rev:2: expected a sense key and 2 numbers"),
        ("cntlist.rev", "1 1\n", "1 1", r"cntlist.rev:4: expected a line with an end"),
    ],
)
def test_damage_is_named_by_file_and_line(database, file, old, new, message):
    """A database cut in the middle would otherwise give a smaller graph that looks whole."""
    path = database / file
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        walk(database)


@pytest.mark.faults
@pytest.mark.parametrize("file", ["data.noun", "index.noun", "cntlist.rev"])
def test_a_missing_file_is_named(database, file):
    """Without counts every sense would be equally likely, and linking a little worse."""
    (database / file).unlink()
    with pytest.raises(InputError, match=re.escape(file)):
        walk(database)


def test_auto_goes_by_the_variable_then_by_the_usual_places(database, tmp_path, monkeypatch):
    """A variable that points nowhere must not fall back to another WordNet."""
    monkeypatch.setattr(wordnet, "PLACES", (str(tmp_path / "none"), str(database)))
    monkeypatch.delenv("ERNIE_KG_WORDNET", raising=False)
    assert locate_source("wordnet", "auto") == database
    monkeypatch.setenv("ERNIE_KG_WORDNET", str(database))
    assert locate_source("wordnet", "auto") == database
    monkeypatch.setenv("ERNIE_KG_WORDNET", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="ERNIE_KG_WORDNET"):
        locate_source("wordnet", "auto")
    monkeypatch.delenv("ERNIE_KG_WORDNET")
    monkeypatch.setattr(wordnet, "PLACES", (str(tmp_path / "none"),))
    with pytest.raises(InputError, match="set `source`"):
        locate_source("wordnet", "auto")


def test_there_are_26_noun_files():
    """lexnames(5WN) numbers nouns 03 to 28."""
    assert sorted(wordnet.LEXICOGRAPHER_FILES) == list(range(3, 29))
    assert all(name.startswith("noun.") for name in wordnet.LEXICOGRAPHER_FILES.values())


@pytest.mark.skipif(not (REAL / "data.noun").exists(), reason="Debian's wordnet-base is not installed")
def test_the_real_database_is_read_whole():
    """Figures counted by a plain pattern over the file, and by Princeton's wnstats(7WN): 82,115 noun synsets and
    146,312 word-sense pairs."""
    text = "\n".join(line for line in (REAL / "data.noun").read_text().splitlines() if not line.startswith("  "))
    pointers = Counter(re.findall(r" (\S{1,2}) \d{8} ([nvar]) [0-9a-f]{4}(?= )", text))
    entities, triples, dropped = walk(REAL)
    assert len(entities) == 82_115
    assert sum(len({alias.surface.lower() for alias in entity.aliases}) for entity in entities.values()) == 146_312
    relations = Counter(triple.relation for triple in triples)
    assert relations["hypernym"] == pointers["@", "n"] == 75_850
    assert relations["instance_hypernym"] == pointers["@i", "n"]
    assert relations["member_holonym"] == pointers["#m", "n"]
    assert len(triples) + sum(n for reason, n in dropped.items() if reason.startswith("pointer_")) == pointers.total()
    assert [alias.rank for alias in entities["dog%1:05:00::"].aliases] == [0, 0, 0]
    assert entities["dog%1:05:00::"].aliases[0].count == 42


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.sampled_from(["data.noun", "index.noun", "cntlist.rev"]), st.data())
def test_whatever_the_bytes_the_reader_yields_or_says_why(tmp_path_factory, file, data):
    """Any other exception is a traceback in somebody's terminal."""
    folder = write_database(tmp_path_factory.mktemp("fuzz") / "wordnet")
    content = (folder / file).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 12, len(content))))
    strange = data.draw(st.binary(max_size=6) | st.sampled_from([b"\n", b" ", b"|", b" 99 n ", b"-1", "٣".encode()]))
    (folder / file).write_bytes(content[:start] + strange + content[stop:])
    try:
        walk(folder)
    except InputError:
        return
