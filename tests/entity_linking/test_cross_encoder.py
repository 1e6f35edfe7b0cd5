"""The dearest term: what it reads, of whom, how a folder brings it back, and the pairs it learns from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from entity_linking import pairs, train
from entity_linking.annotate import LinkConfig, run
from entity_linking.cross_encoder import AROUND, CrossEncoder, pair_scorer, surroundings
from entity_linking.dear import DearModels
from entity_linking.evaluate import evaluate
from entity_linking.gold import read_gold
from entity_linking.linker import EntityLinker
from entity_linking.train import LinkTrainConfig
from kg.artifact import open_artifact
from kg.errors import InputError

DESCRIPTIONS = ["", "river bank: water", "money bank: lends", *("" for _ in range(6))]


def test_it_reads_hard_mentions_in_their_surroundings_and_decides(bank_world: Path) -> None:
    """Pairs in another order than their candidates would still raise somebody's score."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", None, min_score=0.0)
    read: list[tuple[str, str]] = []

    def score_pairs(given):
        read.extend(given)
        return np.array([4.0 if ("[ bank ]" in a) == ("lends" in b) else 0.0 for a, b in given], dtype=np.float32)

    linker.reranker.cross_encoder = CrossEncoder(score_pairs, DESCRIPTIONS, margin=9.0, most=5)
    [found, river] = linker.explain("A bank by the river.")
    assert set(read) == {("A [ bank ] by the river.", d) for d in DESCRIPTIONS[1:3]}
    assert found.candidates[0].entity_id == "money_bank"
    assert {c.entity_id: c.terms["cross_encoder"] for c in found.candidates} == {"money_bank": 2.0, "river_bank": -2.0}
    assert river.candidates[0].terms["cross_encoder"] == 0.0, "one candidate alone is not hard"
    assert linker.reranker.costs() == {
        "cross_encoder_mentions_seen": 2,
        "cross_encoder_mentions": 1,
        "cross_encoder_texts": 2,
    }
    linker.reranker.cross_encoder.margin = 0.0
    read.clear()
    linker.link("A bank by the river.")
    assert read == []


def test_surroundings_are_cut_at_blanks(bank_world: Path) -> None:
    """Half a word at the edge is read as another word."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", None)
    mentions = linker.detector.detect(["abcdefghi " * 40 + "the bank of " + "jklmnopqr " * 40])
    text = surroundings(mentions, 0)
    assert set(text.replace("the [ bank ] of", "").split()) == {"abcdefghi", "jklmnopqr"}
    assert len(text) <= 2 * AROUND + len("[ bank ]")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A BERT of two layers for pairs, with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pairs")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "bank", "water", "money", "river", "jordan", "the"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {"num_labels": 2, "label2id": {"match": 0, "other": 1}, "id2label": {0: "match", 1: "other"}}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=160, **sizes, **labels)
    import torch

    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_scores_do_not_depend_on_the_batch_and_take_the_label_by_name(tiny_model: Path) -> None:
    """Sorted batches must come back in the order of the pairs, the label of id 0 being the match here."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    given = [("the bank", "money"), ("the bank " * 200, "river water"), ("river", "bank the money river water")]
    found = pair_scorer(tiny_model)(given)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for (text, other), value in zip(given, found.tolist(), strict=True):
        batch = tokenizer(text, other, return_tensors="pt", truncation="only_first", max_length=128)
        with torch.inference_mode():
            logits = model(**batch).logits[0]
        assert value == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)


def test_our_own_encoder_is_opened_by_the_package_that_the_config_names(bank_world, tiny_model, tmp_path) -> None:
    """The linker knows nothing of the model; a folder of `finetune run` must open all the same."""
    import ernie

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"entity_size": 8, "num_entity_attention_heads": 2, "vocab_size": 13, "max_position_embeddings": 160}
    config = ernie.ErnieConfig(
        **sizes, num_labels=2, label2id={"other": 0, "match": 1}, id2label={0: "other", 1: "match"}
    )
    ernie.ErnieForSequenceClassification(config).save_pretrained(tmp_path / "model")
    for file in tiny_model.glob("*tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    linker = EntityLinker.from_artifacts(bank_world / "graph", None, min_score=0.0)
    models = DearModels(cross_encoder=str(tmp_path / "model"), cross_encoder_package="ernie", cross_encoder_margin=9.0)
    models.give(linker, DESCRIPTIONS)
    [found] = linker.explain("the bank")
    first, second = (candidate.terms["cross_encoder"] for candidate in found.candidates)
    assert first == pytest.approx(-second, abs=1e-6)
    assert first != 0.0


def test_a_linker_keeps_its_cross_encoder_and_shows_the_cost(bank_world, tiny_model, tmp_path, bank_documents) -> None:
    """A folder that forgot its model would link with the weights of the other terms alone."""
    config = LinkTrainConfig(
        graph=bank_world / "graph",
        vectors=bank_world / "vectors",
        gold=bank_world / "gold.jsonl",
        cross_encoder=str(tiny_model),
        cross_encoder_package="",
        cross_encoder_margin=float("inf"),
        folds=2,
        output=tmp_path / "linker",
    )
    train.run(config)
    figures = open_artifact(tmp_path / "linker", stage="link train").figures
    assert figures["cross_encoder"]["texts"] > 0
    linker = EntityLinker.from_pretrained(tmp_path / "linker")
    assert linker.reranker.cross_encoder is not None
    linker.reranker.weights = replace(linker.reranker.weights, cross_encoder=1.0)
    assert "cross_encoder" in linker.explain("the bank")[0].candidates[0].terms
    shown = evaluate(linker, list(read_gold("jsonl", bank_world / "gold.jsonl", Counter())))
    assert shown["dear_terms"]["cross_encoder_texts"] == 2 * 60
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in bank_documents(5, seed=3)))
    linked = LinkConfig(linker=tmp_path / "linker", corpus="jsonl", source=str(text), output=tmp_path / "linked")
    run(linked)
    assert open_artifact(linked.output, stage="link").figures["dear_terms"]["cross_encoder_texts"] == 10
    with pytest.raises(InputError, match="cross_encoder_package 'no_such_package' cannot be imported"):
        train.run(replace(config, cross_encoder_package="no_such_package", output=tmp_path / "x"))
    with pytest.raises(InputError, match="expected a folder with a model that classifies pairs"):
        train.run(replace(config, cross_encoder=str(tmp_path / "linked"), output=tmp_path / "x"))


def test_pairs_hold_the_right_description_and_the_likeliest_wrong_ones(bank_world: Path, tmp_path: Path) -> None:
    """A wrong pair labelled as a match teaches the opposite."""
    config = pairs.PairsConfig(graph=bank_world / "graph", gold=bank_world / "gold.jsonl", output=tmp_path / "pairs")
    pairs.run(config)
    found = [json.loads(line) for line in (tmp_path / "pairs" / "pairs.jsonl").read_text().splitlines()]
    assert len(found) == 2 * 60
    assert len({pair["id"] for pair in found}) == len(found)
    partner = {"water": "river", "lends": "money", "king": "king", "basketball": "basketball"}
    for pair in found:
        word = next(of for part, of in partner.items() if part in pair["text_pair"].partition(":")[2])
        assert (pair["label"] == "match") == (f"the {word} here" in pair["text"])
    again = replace(config, max_links=7, output=tmp_path / "few")
    pairs.run(again)
    assert (tmp_path / "few" / "pairs.jsonl").read_text().splitlines() == [
        json.dumps(pair, ensure_ascii=False) for pair in found[:14]
    ]
    lonely = {"text": "king", "mentions": [{"start": 0, "end": 4, "entity": "king"}]}
    (tmp_path / "one.jsonl").write_text(json.dumps(lonely) + "\n")
    with pytest.raises(InputError, match="expected links with several candidates"):
        pairs.run(replace(config, gold=tmp_path / "one.jsonl", output=tmp_path / "none"))
