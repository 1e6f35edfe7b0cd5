"""Candidates that no name leads to: which are proposed, for whom, with what prior, and that a folder keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from entity_linking import train
from entity_linking.annotate import LinkConfig, run
from entity_linking.dense import MASS, DescribedCandidates
from entity_linking.encoder import entity_texts
from entity_linking.linker import EntityLinker
from entity_linking.mentions import GivenSpans
from entity_linking.normalise import fold
from entity_linking.train import LinkTrainConfig
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph

WIDTH = 512
TEXT = "His Airness played basketball well. The bank lends money."
SPANS = [(4, 11), (40, 44)]
"""A name that the graph has not, and one that two entities bear."""


def encode(texts: Sequence[str]) -> np.ndarray:
    """Bags of words, every word of three letters or more a place of its own."""
    states = np.full((len(texts), WIDTH), 1e-3, dtype=np.float32)
    for row, text in enumerate(texts):
        for word in fold(text).replace(":", " ").replace(",", " ").replace(".", " ").split():
            if len(word) > 2:
                states[row, sum(ord(c) * 31**i for i, c in enumerate(word)) % WIDTH] += 1
    return states


@pytest.fixture
def linker(bank_world: Path) -> EntityLinker:
    """Links two given spans; proposes three entities for mentions without a candidate."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", None, min_score=0.0)
    linker.detector = GivenSpans(linker.alias_table, [SPANS])
    linker.described = DescribedCandidates.of_descriptions(encode, descriptions(bank_world), most=3)
    return linker


def descriptions(bank_world: Path) -> list[str]:
    return entity_texts(KnowledgeGraph.load(bank_world / "graph"))


def test_a_mention_without_a_name_gets_what_is_described_like_its_sentence(linker: EntityLinker, bank_world) -> None:
    """Rows of the index are no rows of the graph: off by one, and every proposal is somebody else."""
    mentions = linker.detector.detect([TEXT])
    by_name, found = linker.candidates.of(mentions), linker.candidates_of(mentions)
    assert np.diff(by_name.bounds).tolist() == [0, 2]
    assert np.diff(found.bounds).tolist() == [3, 2]
    states = encode([*descriptions(bank_world), "Airness: His Airness played basketball well. "])
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    near = states[:-1] @ states[-1]
    near[0] = -1
    assert found.entity[:3].tolist() == np.argsort(-near)[:3].tolist()
    assert linker.names(found.entity[:2]) in (["jordan_man", "basketball"], ["basketball", "jordan_man"])
    assert found.prior[:3].sum() == pytest.approx(MASS)
    assert (np.diff(found.prior[:3]) <= 0).all()
    assert found.row[:3].tolist() == [-1, -1, -1]
    assert not found.named[:3].any()
    for name in ("entity", "row", "prior", "named"):
        assert getattr(found, name)[3:].tolist() == getattr(by_name, name).tolist()
    cost = {"mentions_seen": 2, "mentions": 1, "candidates": 3}
    assert linker.costs() == {f"described_{what}": number for what, number in cost.items()}


def test_few_candidates_by_name_are_joined_by_others(linker: EntityLinker) -> None:
    """A candidate proposed twice would hold two shares of one probability."""
    assert linker.described is not None
    linker.described.below, linker.described.most = 3, 8
    mentions = linker.detector.detect([TEXT])
    found = linker.candidates_of(mentions)
    assert np.diff(found.bounds).tolist() == [8, 8]
    for mention, whole in ((0, MASS), (1, 1.0)):
        part = slice(*found.bounds[mention : mention + 2].tolist())
        assert sorted(found.entity[part].tolist()) == list(range(1, 9))
        assert found.prior[part].sum() == pytest.approx(whole)
    assert found.prior[8:10].sum() == pytest.approx(1 - MASS)
    linker.described.most = 1
    again = linker.candidates_of(mentions)
    assert len(again) in (3, 4)
    assert again.prior[again.mention == 1].sum() == pytest.approx(1.0)


def test_nothing_is_encoded_where_names_are_enough(linker: EntityLinker) -> None:
    """Switched on, it must cost nothing for mentions that have candidates."""
    assert linker.described is not None

    def refuse(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(f"encoded {texts}")

    linker.described.encode = refuse
    linker.detector = GivenSpans(linker.alias_table, [SPANS[1:]])
    assert [TEXT[link.start : link.end] for link in linker.link(TEXT)] == ["bank"]
    linker.detector = GivenSpans(linker.alias_table, [[]])
    assert linker.link(TEXT) == []


def test_a_folder_keeps_the_index_and_a_recogniser_s_nameless_spans_are_linked(
    bank_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an alias a span is left out by the detector, and nobody would ever be asked about it."""
    spacy = pytest.importorskip("spacy")
    monkeypatch.setattr("entity_linking.dear.text_encoder", lambda source, *, what: encode)
    (tmp_path / "encoder").mkdir()
    config = LinkTrainConfig(
        graph=bank_world / "graph", dense=str(tmp_path / "encoder"), dense_candidates=2, output=tmp_path / "linker"
    )
    train.run(config)
    opened = EntityLinker.from_pretrained(tmp_path / "linker")
    assert opened.described is not None
    assert (opened.described.below, opened.described.most) == (1, 2)
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Airness"}])
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "text.jsonl").write_text(json.dumps({"id": "a", "text": TEXT}) + "\n")
    linked = LinkConfig(
        linker=config.output,
        corpus="jsonl",
        source=str(tmp_path / "text.jsonl"),
        detector="both",
        ner=str(tmp_path / "nlp"),
        output=tmp_path / "linked",
    )
    manifest = open_artifact(run(linked), stage="link")
    assert manifest.counts["mentions"] == 4  # Airness, basketball, bank, money
    assert manifest.figures["dear_terms"]["described_mentions"] == 1
    assert manifest.figures["dear_terms"]["described_candidates"] == 2
    with pytest.raises(InputError, match="dense_candidates must be at least 1"):
        LinkTrainConfig(graph=bank_world / "graph", dense_candidates=0, output=tmp_path / "x")
