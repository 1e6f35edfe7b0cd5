"""Students: cut from a teacher, measured, refused where they cannot be."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

import ernie
from ernie.errors import InputError
from ernie.slicing import AXES, Widths, sliced
from ernie.students import SHAPES, StudentConfig, build_student, latencies, layer_map_of, size_of

IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}
ENTITIES = {"entity_embeds": torch.ones(2, 1, 8), "entity_positions": torch.ones(2, 1, dtype=torch.long)}


def _teacher(kinds: list[str], model_class=ernie.ErnieForEntityTyping):
    torch.manual_seed(0)
    config = ernie.ErnieConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=len(kinds),
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=20,
        entity_size=8,
        num_entity_attention_heads=2,
        layer_types=kinds,
        num_labels=3,
        initializer_range=0.3,
        problem_type="single_label_classification",
    )
    model = model_class(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("kinds", [["text", "text"], ["text", "mix"]])
def test_a_plain_student_of_all_layers_is_the_teacher_on_plain_text(kinds):
    """`dense_ent.bias` reaches every token, also without entities; left out, every student starts off the mark."""
    teacher = _teacher(kinds)
    student = build_student(teacher, StudentConfig(num_layers=2), seed=0)
    assert isinstance(student, BertForSequenceClassification)
    torch.testing.assert_close(student(**TEXT).logits, teacher(**TEXT).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parity
@torch.no_grad()
def test_a_two_stream_student_of_all_layers_is_the_teacher():
    """With its entities: a tensor of the entity side left at random would only look like a hard task."""
    teacher = _teacher(["text", "mix", "fuse", "fuse"], ernie.ErnieForPreTraining)
    student = build_student(teacher, StudentConfig(kind="two-stream", num_layers=4), seed=0)
    for inputs in (TEXT, {**TEXT, **ENTITIES}):
        torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_slices_are_the_mapped_layers():
    """Layer m must start where the losses pull it."""
    teacher = _teacher(["text", "text", "mix", "fuse", "fuse", "fuse"])
    student = build_student(teacher, StudentConfig(kind="two-stream", num_layers=3), seed=0)
    assert student.config.layer_types == ["text", "mix", "fuse"]
    for m, g in enumerate((2, 3, 6)):
        name = "attention.self.query.weight"
        expected = teacher.state_dict()[f"bert.encoder.layer.{g - 1}.{name}"]
        assert torch.equal(student.state_dict()[f"bert.encoder.layer.{m}.{name}"], expected)


@torch.no_grad()
def test_slices_of_what_does_not_matter_change_nothing():
    """Dimensions, heads and neurons of weight zero are the ones that go; then the answers stay."""
    teacher = _teacher(["text", "text"])
    dead_hidden, dead_neurons = [1, 5, 6, 11], [0, 3, 4, 9, 20, 21, 22, 31]
    for name, tensor in teacher.bert.named_parameters():
        if "encoder.layer" in name or "pooler" in name:
            if name.endswith(("query.weight", "key.weight", "value.weight", "intermediate.dense.weight")):
                tensor[:, dead_hidden] = 0
            if "intermediate.dense" in name:
                tensor[dead_neurons] = 0
    small = StudentConfig(num_layers=2, hidden_size=12, intermediate_size=24, num_attention_heads=3)
    student = build_student(teacher, small, seed=0)
    kept = [row for row in range(16) if row not in dead_hidden]
    words = teacher.bert.embeddings.word_embeddings.weight
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words[:, kept])
    inner = student.bert.encoder.layer[0].intermediate.dense.weight
    live = [row for row in range(32) if row not in dead_neurons]
    assert torch.equal(inner, teacher.bert.encoder.layer[0].intermediate.dense.weight[live][:, kept])


@torch.no_grad()
def test_whole_heads_are_cut_and_scores_keep_their_size():
    """Half of each head's dimensions: the queries' gain makes up for the shorter sum."""
    torch.manual_seed(1)
    teacher = BertForPreTraining(
        BertConfig(vocab_size=30, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)
    )
    state = teacher.state_dict()
    old, new = Widths(hidden=64, heads=4, neurons=32), Widths(hidden=32, heads=4, neurons=32)
    cut = sliced(state, (1,), old=old, new=new)
    names = [f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key")]
    x = torch.randn(200, 64)
    kept = cut["bert.embeddings.word_embeddings.weight"]
    rows = [
        i
        for i in range(64)
        if any(torch.equal(state["bert.embeddings.word_embeddings.weight"][:, i], c) for c in kept.T)
    ]
    assert len(rows) == 32
    full = torch.einsum("nhd,mhd->hnm", *((x @ state[n].T).view(200, 4, 16) for n in names)) / 4
    part = torch.einsum("nhd,mhd->hnm", *((x[:, rows] @ cut[n].T).view(200, 4, 8) for n in names)) / 8**0.5
    assert 0.3 < float(part.std() / full.std()) < 1.2


@torch.no_grad()
def test_a_narrower_entity_stream_takes_vectors_as_wide_as_before():
    """The table is the graph's; only the student's stream is thin."""
    teacher = _teacher(["mix", "fuse"], ernie.ErnieForPreTraining)
    student = build_student(teacher, StudentConfig(kind="two-stream", num_layers=2, entity_size=4), seed=0)
    assert student.config.entity_size == 4
    assert student.entity_input.width == 8
    projection = student.bert.entities.projection.weight
    assert projection.shape == (4, 8)
    assert projection.sum() == 4
    student(**TEXT, **ENTITIES)


def test_presets_have_the_papers_sizes():
    """TinyBERT4's 14.5M parameters, in the counting of the paper, are those of BertModel with its pooler."""
    config = BertConfig(vocab_size=30522, num_hidden_layers=12)
    with torch.device("meta"):
        sizes = SHAPES["tinybert4"]
        small = BertForPreTraining(
            BertConfig(
                vocab_size=30522,
                hidden_size=sizes["hidden_size"],
                num_hidden_layers=sizes["num_layers"],
                num_attention_heads=sizes["num_attention_heads"],
                intermediate_size=sizes["intermediate_size"],
            )
        ).bert
    assert sum(p.numel() for p in small.parameters()) == 14_350_248
    assert layer_map_of(StudentConfig(preset="tinybert4"), config) == (3, 6, 9, 12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "tinybert5"}, "nearest: tinybert"),
        ({"hidden_size": 32, "num_attention_heads": 4}, "nowhere wider than it, asked for hidden 32 of 16"),
        ({"num_attention_heads": 3}, "must divide"),
        ({"num_layers": 9}, "9 layers cannot be mapped"),
        ({"layer_map": (2, 1)}, "rising layers"),
        ({"init": "sliced"}, "slices or fresh"),
    ],
)
def test_students_that_cannot_be_are_refused(config, message):
    """Each would otherwise fail inside torch, or be another model than was asked for."""
    with pytest.raises(InputError, match=message):
        build_student(_teacher(["text", "mix", "fuse"]), StudentConfig(**config), seed=0)


def test_a_two_stream_student_needs_a_two_stream_teacher():
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    )
    with pytest.raises(InputError, match="plain BERT"):
        build_student(bert, StudentConfig(kind="two-stream"), seed=0)


@torch.no_grad()
def test_a_plain_bert_is_a_teacher_too_and_fresh_students_are_drawn_by_the_seed():
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    ).eval()
    same = build_student(bert, StudentConfig(num_layers=2), seed=0)
    torch.testing.assert_close(same(**TEXT).logits, bert(**TEXT).logits)
    drawn = [build_student(bert, StudentConfig(init="fresh"), seed=seed).state_dict() for seed in (1, 1, 2)]
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])


def test_no_parameter_lacks_a_rule():
    """A new part of the model that slicing silently left whole would not fit its neighbours."""
    import re

    for model_class in (ernie.ErnieForPreTraining, ernie.ErnieForEntityTyping):
        for name in _teacher(["mix", "fuse"], model_class).state_dict():
            assert any(re.search(pattern, name) for pattern, _ in AXES), name


def test_flops_are_those_of_the_formula():
    """Printed before training, so that nobody trains a student that is no smaller."""
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    size = size_of(BertForSequenceClassification(config), num_pieces=8)
    layer = 2 * 8 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 8 * 8 * 16
    assert size.flops == 2 * layer + 2 * 16 * 16 + 2 * 16 * 2


def test_latencies_are_medians_of_every_models_own_calls():
    """The first call warms up and must not count."""
    calls = []
    times = latencies(
        {"a": (lambda batch: calls.append("a"), [{}] * 3), "b": (lambda batch: calls.append("b"), [{}] * 3)}
    )
    assert calls == ["a", "b"] * 4
    assert set(times) == {"a", "b"}
