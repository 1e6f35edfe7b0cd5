"""Substitution: which words change, by what, in which case, and what must never change."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, BertTokenizer

from ernie.training import Precision
from finetune.augment import stage
from finetune.augment.neighbours import Neighbours, read_glove
from finetune.augment.passages import AUGMENTERS, Passage, Rewriting, check_rewriting, make_augmenter
from finetune.augment.substitution import (
    MaskedLanguageModel,
    Slot,
    Substitution,
    cased_like,
    free_words,
    rewrite,
    stop_words_of,
)
from finetune.data import load_examples
from finetune.tasks.schema import EntityLink, Example, Span
from kg.artifact import open_artifact
from kg.errors import InputError

WORDS = ["the", "dog", "cat", "bird", "runs", "sleeps", "old", "young", "house", "river", "un", "##happy", "9", "##s"]
STOP = frozenset({"the"})


def _folder(path: Path, model_class=BertForMaskedLM) -> Path:
    path.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    model_class(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _folder(tmp_path_factory.mktemp("models") / "bert")


def _config(tmp_path: Path, model: Path, examples: Path, **changes) -> stage.AugmentConfig:
    given = {"copies": 6, "num_candidates": 4, "p": 0.7, "precision": "fp32"}
    return stage.AugmentConfig(output=tmp_path / "out", examples=examples, model=str(model), **{**given, **changes})


EXAMPLES = [
    Example(
        id="1",
        text="The OLD dog runs; an unhappy Cat sleeps",
        spans=(Span(start=8, end=11),),
        links=(EntityLink(start=29, end=32, entity="Q1"),),
        label="x",
    ),
    Example(id="2", text="old house", text_pair="the young bird", label="y"),
]


def test_only_whole_words_of_letters_outside_kept_places_are_exchanged():
    """Half of a contraction, a number or a linked name exchanged makes another text of another entity."""
    text = "the dog don't well-known x9 Ångström is here"
    found = [text[a:b] for a, b in free_words(Passage(key="k", text=text, kept=((4, 6),)), STOP)]
    assert found == ["Ångström", "is", "here"]


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from(["dog", "Cat", "BIRD", "a", "Łódź"]), min_size=1, max_size=8),
    seed=st.integers(0, 999),
)
def test_kept_places_keep_their_characters(words, seed):
    """Shifted by one, every entity sits on its neighbour's piece; no score shows it."""
    text, draw = " ".join(words), random.Random(seed)
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    places = [(int(s), int(s) + len(w)) for s, w in zip(starts, words)]
    kept = tuple(place for place in places if draw.random() < 0.5)
    passage = Passage(key="k", text=text, kept=kept)
    slots = [Slot(*place, ("x", "longer", "")) for place in places if place not in kept]
    found = rewrite(passage, slots, draw, p=0.8)
    assert [found.text[a:b] for a, b in found.kept] == [text[a:b] for a, b in kept]


def test_case_follows_the_word_it_replaces():
    assert [cased_like(a, "fox") for a in ("dog", "Dog", "DOG", "I")] == ["fox", "Fox", "FOX", "Fox"]


@pytest.mark.parity
def test_candidates_are_those_of_one_word_at_a_time(model):
    """Batched, padded and cut to the masked piece's logits; the slow way, from the released code's description."""
    masked, tokenizer = BertForMaskedLM.from_pretrained(model).eval(), BertTokenizer.from_pretrained(model)
    batched = MaskedLanguageModel(masked, tokenizer, num_candidates=3, batch_size=4)
    texts = ["old dog runs", "the cat sleeps the old house river", "bird"]
    places = [
        (t, (t.index(w), t.index(w) + len(w)))
        for t, w in zip(texts * 2, ["dog", "cat", "bird", "old", "house", "bird"])
    ]
    for (text, (start, end)), found in zip(places, batched(places)):
        pieces = tokenizer.tokenize(text)
        at = len(tokenizer.tokenize(text[:start]))
        shown = [*pieces[:at], "[MASK]", *pieces[at + 1 :]]
        ids = tokenizer.convert_tokens_to_ids(["[CLS]", *shown, "[SEP]", *pieces, "[SEP]"])
        types = torch.tensor([[0] * (len(shown) + 2) + [1] * (len(pieces) + 1)])
        with torch.no_grad():
            logits = masked(input_ids=torch.tensor([ids]), token_type_ids=types).logits[0, at + 1]
        names = [tokenizer.convert_ids_to_tokens(int(row)) for row in logits.argsort(descending=True)]
        assert list(found) == [name for name in names if name.isalpha()][:3]
        assert text[start:end].isalpha()


def test_a_long_text_is_cut_round_the_masked_word(model):
    """More pieces than positions crashed the released code; a cut that loses the word would predict another."""
    masked, tokenizer = BertForMaskedLM.from_pretrained(model).eval(), BertTokenizer.from_pretrained(model)
    batched = MaskedLanguageModel(masked, tokenizer, num_candidates=2, batch_size=4)
    text = " ".join(["old"] * 60 + ["dog"] + ["river"] * 60)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, at, second = batched._row(encoded, text.index("dog"))
    assert len(ids) <= 40
    assert ids[at] == tokenizer.mask_token_id
    assert tokenizer.convert_ids_to_tokens(ids[second + at - 1]) == "dog"
    assert all(batched([(text, (0, 3)), (text, (len(text) - 5, len(text)))]))


def test_near_words_are_those_of_brute_force_and_not_the_word_itself(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    words = [f"w{row}" for row in range(30)]
    lines = [f"{w} {' '.join(map(str, v))}" for w, v in zip(words, vectors)]
    (tmp_path / "glove.txt").write_text("\n".join(["30 5", *lines]) + "\n")
    read, table = read_glove(tmp_path / "glove.txt")
    assert read == words
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = [words[row] for row in np.argsort(-(unit @ unit[4]))]
    assert list(Neighbours(read, table, num_candidates=6)("W4")) == order[1:7]
    assert Neighbours(read, table, num_candidates=6)("unknown") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [("a 1 2\nb 1\n", ":2: 1 numbers"), ("a 1 x\n", ":1: expected a word and numbers"), ("", "no vectors")],
)
def test_bad_vector_files_are_named_by_line(tmp_path, text, message):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_glove(tmp_path / "v.txt")


def _stub(*, p: float = 1.0) -> Substitution:
    return Substitution(
        candidates_of=lambda places: [("fox", "hare")] * len(places),
        neighbours=Neighbours(
            ["sad"], np.ones((1, 2), dtype=np.float32), num_candidates=1, vector_of=lambda _: np.ones(2)
        ),
        is_piece=lambda word: word.lower() in WORDS,
        stop_words=STOP,
        p=p,
    )


def test_single_pieces_go_to_the_model_and_others_to_their_neighbours():
    (found,) = _stub()([Passage(key="k", text="The Unhappy dog")], copies=1, seed=0)
    assert found[0].text in ("The Sad fox", "The Sad hare")


def test_draws_depend_on_seed_and_example_alone():
    """Another chunk or order would else make another data set, and a resumed run a third."""
    passages = [Passage(key=str(n), text="old dog cat bird river") for n in range(3)]
    together = _stub(p=0.5)(passages, copies=4, seed=1)
    assert [_stub(p=0.5)([p], copies=4, seed=1)[0] for p in passages] == together
    assert _stub(p=0.5)(passages, copies=4, seed=2) != together
    assert together[0] != together[1]


def test_both_texts_of_a_pair_vary_apart_and_labels_stay():
    """The released code leaves the first text at its last variation while the second varies."""
    found = list(stage.augmented(EXAMPLES, _stub(p=0.5), copies=8, seed=0))
    copies = [example for example in found if example.id.startswith("2+")]
    assert len({example.text for example in copies}) > 1
    assert len({example.text_pair for example in copies}) > 1
    assert {example.label for example in copies} == {"y"}
    texts = [(example.text, example.text_pair) for example in found]
    assert len(set(texts)) == len(texts)
    for copy in (example for example in found if example.id.startswith("1")):
        assert copy.text[copy.spans[0].start : copy.spans[0].end] == "dog"
        assert copy.text[copy.links[0].start : copy.links[0].end] == "Cat"


def test_a_text_that_cannot_be_varied_stays_beside_the_other():
    """An augmenter may find nothing for one text of a pair; the other's variations are still worth having."""

    def only_first(passages, *, copies, seed):
        return [[Rewriting(text="young house")] if p.key.endswith(":text") else [] for p in passages]

    (_, copy) = stage.augmented(EXAMPLES[1:], only_first, copies=3, seed=0)
    assert (copy.text, copy.text_pair) == ("young house", "the young bird")


def test_the_stage_writes_examples_that_every_stage_reads(tmp_path, model, make_examples):
    """Beside train everything is as it was; the same seed gives the same bytes."""
    examples = make_examples(train=EXAMPLES, dev=EXAMPLES[:1], test=EXAMPLES[1:])
    config = _config(tmp_path, model, examples)
    manifest = open_artifact(stage.run(config), stage="finetune augment")
    train = load_examples(config.output, "train")
    assert [example for example in train if "+" not in example.id] == EXAMPLES
    assert manifest.counts["train"] == len(train) > 4
    assert manifest.counts["copies"] + manifest.dropped["copies_equal_to_another"] == 12
    assert load_examples(config.output, "dev") == EXAMPLES[:1]
    assert not (config.output / "parts").exists()
    again = stage.run(dataclasses.replace(config, output=tmp_path / "again"))
    assert (again / "train.jsonl").read_bytes() == (config.output / "train.jsonl").read_bytes()


def test_an_interrupted_run_goes_on_behind_its_last_chunk(tmp_path, model, make_examples, monkeypatch):
    examples = make_examples(train=EXAMPLES, dev=EXAMPLES, test=EXAMPLES)
    monkeypatch.setattr(stage, "CHUNK", 1)
    whole = stage.run(_config(tmp_path / "a", model, examples))
    real, calls = stage._write_part, []

    def counted(path, *rest):
        calls.append(path.exists())
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *rest)

    monkeypatch.setattr(stage, "_write_part", counted)
    config = _config(tmp_path / "b", model, examples)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config)
    resumed = stage.run(config)
    assert calls == [False, False, True, False]
    assert (resumed / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()


def test_a_run_that_goes_on_keeps_the_precision_it_began_with(tmp_path, model, make_examples, monkeypatch):
    """Measured again, it may be another one; then the first chunks would be rounded otherwise than the last."""
    examples = make_examples(train=EXAMPLES, dev=EXAMPLES, test=EXAMPLES)
    monkeypatch.setattr(stage, "CHUNK", 1)
    measured = iter([Precision(name="bf16", reason="first"), Precision(name="fp32", reason="later")])
    monkeypatch.setattr("ernie.training.choose_precision", lambda *_: next(measured))
    asked: list[str] = []

    def dying(method, config):
        asked.append(config.precision)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return make_augmenter(method, config)

    monkeypatch.setattr(stage, "make_augmenter", dying)
    config = _config(tmp_path, model, examples, precision="auto")
    with pytest.raises(KeyboardInterrupt):
        stage.run(config)
    manifest = open_artifact(stage.run(config), stage="finetune augment")
    assert asked == ["bf16", "bf16"]
    assert manifest.figures["precision"] == "bf16"
    with pytest.raises(InputError, match="precision must be auto, fp32 or bf16"):
        stage.run(_config(tmp_path / "b", model, examples, precision="fp64"))


@pytest.mark.parity
def test_in_bf16_nearly_the_same_words_come(model):
    """The head stays in fp32: in bf16 its logits would tie, and the rows of the vocabulary decide."""
    masked, tokenizer = BertForMaskedLM.from_pretrained(model).eval(), BertTokenizer.from_pretrained(model)
    sizes = {"num_candidates": 4, "batch_size": 4}
    places = [("old dog runs", (4, 7)), ("the cat sleeps the old house river", (4, 7)), ("bird", (0, 4))] * 3
    wide = MaskedLanguageModel(masked, tokenizer, **sizes)(places)
    narrow = MaskedLanguageModel(masked, tokenizer, **sizes, dtype=torch.bfloat16)(places)
    shared = [len(set(a) & set(b)) for a, b in zip(wide, narrow)]
    assert min(shared) >= 3
    assert masked.cls.predictions.decoder.weight.dtype == torch.float32


def test_a_model_without_a_trained_head_is_refused(tmp_path, make_examples):
    """Its candidates would be random words, and the student would learn that nothing matters."""
    examples = make_examples(train=EXAMPLES, dev=EXAMPLES, test=EXAMPLES)
    bare = _folder(tmp_path / "bare", BertModel)
    with pytest.raises(InputError, match="no masked-LM head"):
        stage.run(_config(tmp_path, bare, examples))
    whole = _folder(tmp_path / "whole", BertForPreTraining)
    assert stage.run(_config(tmp_path, whole, examples)).exists()
    by_vectors = stage.run(_config(tmp_path, bare, examples, candidates="vectors"))
    assert len(load_examples(by_vectors, "train")) > len(EXAMPLES)


def test_emptied_sentences_and_lost_links_are_refused():
    """A copy with nothing in it, or without its entity, under the old label teaches noise."""
    passage = Passage(key="1:text", text="old dog", kept=((4, 7),))
    with pytest.raises(InputError, match="left nothing of 1:text"):
        check_rewriting(passage, Rewriting(text="  ", kept=((0, 1),)))
    for lost in (Rewriting(text="old cat", kept=((4, 7),)), Rewriting(text="old dog")):
        with pytest.raises(InputError, match="changed a linked or marked place"):
            check_rewriting(passage, lost)
    check_rewriting(passage, Rewriting(text="young dog", kept=((6, 9),)))

    def empties(passages, *, copies, seed):
        return [[Rewriting(text="")] for _ in passages]

    with pytest.raises(InputError, match="left nothing of 2:text"):
        list(stage.augmented(EXAMPLES[1:], empties, copies=1, seed=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "translation"}, "method 'translation' is unknown"),
        ({"recipe": "SST"}, "recipe 'SST' is unknown"),
        ({"p": 0.0}, "p must lie"),
        ({"copies": 0}, "copies must be"),
        ({"language": "xx9"}, "no stop words"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, model, make_examples, changes, message):
    examples = make_examples(train=EXAMPLES, dev=EXAMPLES, test=EXAMPLES)
    with pytest.raises(InputError, match=message):
        stage.run(_config(tmp_path, model, examples, **changes))


def test_every_augmenter_in_the_table_loads():
    """A name whose module moved fails at a user's first call."""
    import importlib

    for target in AUGMENTERS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert "the" in stop_words_of("en")
