"""Which layers learn from which, and the module that adds the terms up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ernie
from ernie.errors import InputError
from ernie.losses.distillation import attention_scores, released_attention_loss, released_hidden_loss
from ernie.losses.features import Features, record_features
from ernie.losses.intermediate import IntermediateLosses, Views
from ernie.losses.layer_maps import kind_layer_map, uniform_layer_map
from ernie.losses.matching import (
    PRESETS,
    TERMS,
    LossConfig,
    LossSettings,
    Match,
    Shape,
    explain,
    match_table,
)

BASE = Shape(kinds=("text",) * 5 + ("mix",) + ("fuse",) * 6, width=24, heads=4, entity_width=8, entity_heads=2)
TINY = dataclasses.replace(BASE, kinds=("text", "mix", "fuse", "fuse"))
PLAIN = Shape(kinds=("text",) * 4, width=12, heads=4)


def _table(settings: LossSettings, student: Shape = TINY, teacher: Shape = BASE, layer_map=(3, 6, 9, 12)):
    return match_table(settings, student=student, teacher=teacher, layer_map=layer_map)


def _rows(matches: tuple[Match, ...], term: str) -> list[tuple[int, int]]:
    return [match.layers for match in matches if match.term == term]


def test_a_config_has_every_setting_of_the_presets():
    """A setting that no user can reach, or a key that reaches none."""
    settings = {field.name for field in dataclasses.fields(LossSettings)}
    assert {field.name for field in dataclasses.fields(LossConfig)} == settings | {"preset"}
    assert LossConfig().resolved("bert") == PRESETS["ernie-to-bert"]
    assert LossConfig().resolved("bert", teacher_knows=False) == PRESETS["bert-to-bert"]
    assert LossConfig().resolved("two-stream") == PRESETS["ernie-two-stream"]
    assert LossConfig(preset="tinybert", hidden=0.5).resolved("bert").hidden == 0.5


def test_the_two_stream_preset_matches_stream_with_stream():
    """The last layer's entity output is read by nothing; a loss on it teaches noise, but its attention is alive."""
    matches = _table(PRESETS["ernie-two-stream"])
    assert _rows(matches, "hidden") == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert _rows(matches, "entity_hidden") == [(2, 6), (3, 9)]
    assert _rows(matches, "entity_relation") == [(3, 9), (4, 12)]
    assert _rows(matches, "change") == [(2, 6), (3, 9), (4, 12)]
    assert not [match for match in matches if match.projection]


def test_a_plain_bert_learns_entities_at_their_mentions():
    """Its last layer takes the layer before the teacher's last, whose entity output is the last that anything read."""
    matches = _table(PRESETS["ernie-to-bert"], student=PLAIN)
    assert _rows(matches, "entity_hidden") == [(2, 6), (3, 9), (4, 11)]
    assert {match.streams for match in matches if match.term == "entity_hidden"} == {("mention", "entity")}
    assert {match.projection for match in matches if match.term == "entity_hidden"} == {
        "mention_2",
        "mention_3",
        "mention_4",
    }


def test_minilm_takes_one_layer_and_needs_no_projection():
    matches = _table(PRESETS["minilmv2"], student=PLAIN)
    assert [(match.term, match.layers, match.heads) for match in matches] == [("relation", (4, 12), 4)]
    assert len(IntermediateLosses(matches, settings=PRESETS["minilmv2"]).projections) == 0


def test_tinybert_shares_one_projection_at_equal_width_too():
    """Its `fit_dense`; the exported student never holds it."""
    matches = _table(PRESETS["tinybert"], student=dataclasses.replace(PLAIN, width=24))
    losses = IntermediateLosses(matches, settings=PRESETS["tinybert"])
    assert list(losses.projections) == ["token"]
    assert _rows(matches, "attention") == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert _rows(matches, "embedding") == [(0, 0)]


@pytest.mark.parametrize(
    ("settings", "student", "layer_map", "message"),
    [
        (LossSettings(hidden=1), TINY, (3, 6, 12), "4 rising layers"),
        (LossSettings(hidden=1), TINY, (3, 6, 6, 12), "4 rising layers"),
        (LossSettings(hidden=1), TINY, (3, 6, 9, 13), "4 rising layers"),
        (LossSettings(hidden=1), TINY, (3, 5, 9, 12), "'mix' layer 2 to the teacher's 'text' layer 5"),
        (LossSettings(entity_hidden=1), PLAIN, (1, 2, 3, 4), "leaves the term 'entity_hidden' without a pair"),
        (LossSettings(entity_relation=1), PLAIN, (3, 6, 9, 12), "leaves the term 'entity_relation' without"),
        (LossSettings(change=1), PLAIN, (3, 6, 9, 12), "leaves the term 'change' without"),
        (LossSettings(attention=1), dataclasses.replace(PLAIN, heads=3), (3, 6, 9, 12), "equal head counts"),
        (LossSettings(relation=1, relation_heads=5), PLAIN, (3, 6, 9, 12), "relation_heads 5 must divide"),
        (LossSettings(), PLAIN, (3, 6, 9, 12), "weight 0"),
    ],
)
def test_what_cannot_be_matched_is_refused(settings, student, layer_map, message):
    """A stream without partner would simply not be learnt, and nobody would notice."""
    with pytest.raises(InputError, match=message):
        _table(settings, student=student, layer_map=layer_map)


def test_wrong_presets_and_factors_are_refused():
    with pytest.raises(InputError, match="nearest: tinybert"):
        LossConfig(preset="tinybird").resolved("bert")
    with pytest.raises(InputError, match="at least 0"):
        LossConfig(hidden=-1.0).resolved("bert")


@pytest.mark.parametrize(
    ("student", "kinds", "want"),
    [
        (6, ["text"] * 5 + ["mix"] + ["fuse"] * 6, (2, 4, 6, 8, 10, 12)),
        (3, ["text", "text", "mix", "fuse", "fuse", "fuse"], (2, 3, 6)),
        (2, ["text", "text", "mix", "fuse", "fuse", "fuse"], (3, 6)),
        (1, ["mix", "fuse"], (2,)),
        (2, ["mix", "fuse"], (1, 2)),
    ],
)
def test_kind_maps_keep_every_kind_there_is_room_for(student, kinds, want):
    """Uniform, 3 of 6 layers would be text, fuse, fuse: entities would meet without ever having been mixed in."""
    assert kind_layer_map(student, kinds) == want


@pytest.mark.parametrize(("student", "teacher", "want"), [(3, 6, (2, 4, 6)), (4, 12, (3, 6, 9, 12)), (1, 5, (5,))])
def test_uniform_map_takes_the_last_layer_of_each_block(student, teacher, want):
    """The paper's g(m) = 3m for 4 of 12; taking block starts costs points and shows nowhere."""
    assert uniform_layer_map(student, teacher) == want
    with pytest.raises(InputError, match="layers cannot be mapped"):
        uniform_layer_map(teacher + 1, teacher)


IDS = torch.tensor([[2, 7, 9, 3, 5], [2, 8, 3, 0, 0], [2, 4, 4, 3, 0]])
MASK = (IDS != 0).long()
ENTITIES = {
    "entity_embeds": torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(5)),
    "entity_positions": torch.tensor([[1, 2], [1, 0], [0, 0]]),
    "entity_attention_mask": torch.tensor([[1, 1], [1, 0], [0, 0]]),
}


def _model(kinds: list[str], width: int = 24, seed: int = 0) -> ernie.ErnieModel:
    torch.manual_seed(seed)
    config = ernie.ErnieConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=len(kinds),
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=20,
        entity_size=8,
        num_entity_attention_heads=2,
        layer_types=kinds,
        initializer_range=0.3,
    )
    return ernie.ErnieModel(config).eval()


def _views(student: ernie.ErnieModel, teacher: ernie.ErnieModel, ids=IDS, mask=MASK, entities=ENTITIES) -> Views:
    text = {"input_ids": ids, "attention_mask": mask}
    passes = []
    for model in (student, teacher):
        layers = range(1, model.config.num_hidden_layers + 1)
        passes += [record_features(model, inputs, layers=layers) for inputs in ({**text, **entities}, text)]
    return Views(
        student=passes[0],
        student_plain=passes[1],
        teacher=passes[2],
        teacher_plain=passes[3],
        mask=mask,
        entity_positions=entities.get("entity_positions"),
        entity_mask=entities.get("entity_attention_mask"),
    )


EVERYTHING = dataclasses.replace(PRESETS["ernie-two-stream"], attention=1.0, delta_weight=1.0)


def _losses(student: ernie.ErnieModel, teacher: ernie.ErnieModel, settings: LossSettings, layer_map):
    shapes = [Shape.of(model.config) for model in (student, teacher)]
    return IntermediateLosses(
        match_table(settings, student=shapes[0], teacher=shapes[1], layer_map=layer_map), settings=settings
    )


@torch.no_grad()
def test_every_term_is_zero_at_the_teacher_itself():
    """The sum over pairs must compare layer g(m) with layer m, not its neighbour."""
    model = _model(["text", "mix", "fuse", "fuse"])
    found = _losses(model, model, EVERYTHING, (1, 2, 3, 4))(_views(model, model))
    assert set(found) == {"loss", *TERMS}
    assert all(abs(float(value)) < 1e-6 for value in found.values())


@torch.no_grad()
def test_every_term_is_the_same_under_padding_order_and_batches():
    """Of tokens and of entities: gradient accumulation and another batch size must not change what is learnt."""
    student, teacher = _model(["mix", "fuse", "fuse"], seed=1), _model(["mix", "fuse", "fuse", "fuse"], seed=2)
    losses = _losses(student, teacher, EVERYTHING, (1, 2, 4))
    whole = losses(_views(student, teacher))
    assert all(float(value) > 1e-4 for value in whole.values())
    pad = torch.nn.functional.pad
    entities = {name: pad(tensor, (0, 0, 0, 3) if tensor.ndim == 3 else (0, 3)) for name, tensor in ENTITIES.items()}
    padded = losses(_views(student, teacher, pad(IDS, (0, 4)), pad(MASK, (0, 4)), entities))
    order = torch.tensor([2, 0, 1])
    turned = losses(_views(student, teacher, IDS[order], MASK[order], {name: t[order] for name, t in ENTITIES.items()}))
    parts = [
        losses(
            _views(student, teacher, IDS[i : i + 1], MASK[i : i + 1], {n: t[i : i + 1] for n, t in ENTITIES.items()})
        )
        for i in range(3)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(padded[name], value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(turned[name], value, atol=1e-5, rtol=1e-5)
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_batch_without_entities_has_the_token_terms_alone():
    """Common in practice; the entity terms are 0 there, not an error and not NaN."""
    student, teacher = _model(["mix", "fuse"], seed=1), _model(["mix", "fuse"], seed=2)
    found = _losses(student, teacher, EVERYTHING, (1, 2))(_views(student, teacher, entities={}))
    assert found["entity_hidden"] == found["entity_relation"] == found["change"] == 0
    assert found["hidden"] > 0


@pytest.mark.parity
@torch.no_grad()
def test_the_tinybert_preset_is_the_released_sum():
    """Embedding and M layers of states through one projection, and M layers of scores, each a mean over everything."""
    student, teacher = _model(["text"] * 2, width=12, seed=1), _model(["text"] * 4, seed=2)
    settings = PRESETS["tinybert"]
    losses = _losses(student, teacher, settings, (2, 4))
    views = _views(student, teacher, entities={})
    found = losses(views)
    project = losses.projections["token"]
    states = sum(
        released_hidden_loss(project(views.student.hidden[m]), views.teacher.hidden[g])
        for m, g in ((0, 0), (1, 2), (2, 4))
    )
    scores = sum(
        released_attention_loss(
            *(
                attention_scores(side.queries[row - 1], side.keys[row - 1], num_heads=4)
                for side, row in ((views.student, m), (views.teacher, g))
            ),
            MASK,
        )
        for m, g in ((1, 2), (2, 4))
    )
    torch.testing.assert_close(found["loss"], states + scores, atol=0, rtol=1e-6)


def test_fitted_projections_start_lower_than_random_ones_and_still_train():
    """Outside the optimiser, or fitted to padding, they would leave the student to follow a wrong map."""
    student, teacher = _model(["mix", "fuse", "fuse"], width=12, seed=1), _model(["mix", "fuse", "fuse"], seed=2)
    losses = _losses(student, teacher, PRESETS["ernie-two-stream"], (1, 2, 3))
    with torch.no_grad():
        views = _views(student, teacher)
        before = losses(views)
        losses.fit_projections([views])
        after = losses(views)
    assert after["hidden"] < 0.8 * before["hidden"]
    assert after["embedding"] < 0.8 * before["embedding"]
    losses(views)["hidden"].backward()
    assert all(p.grad is not None for name, p in losses.named_parameters() if "token_1" in name)


def test_recorded_entity_states_leave_the_zero_entity_of_cls_out():
    """It is in every batch, is no entity of the text, and would be matched with the first."""
    model = _model(["mix", "fuse"])
    with torch.no_grad():
        found = record_features(model, {"input_ids": IDS, "attention_mask": MASK, **ENTITIES}, layers=(1, 2))
        direct = model.encoder.layer[1].attention.self_ent.query(found.entity_hidden[1])
    assert found.entity_queries[1].shape == (3, 2, 8)
    torch.testing.assert_close(found.entity_queries[1], direct)
    assert found.entity_queries[0].numel() == 0
    assert not model.encoder.layer[1].attention.self_ent.query._forward_hooks


def test_the_table_says_what_a_projection_costs_and_what_a_term_weighs():
    """A projection is counted once, however many rows share it, and the shares add up to all of the loss."""
    settings = dataclasses.replace(PRESETS["tinybert"])
    matches = _table(settings, student=PLAIN)
    values = {"embedding": 1.0, "hidden": 4.0, "attention": 5.0}
    rows = [line.split("  ") for line in explain(matches, settings=settings, values=values).splitlines()]
    assert len(rows) == 1 + len(matches)
    text = explain(matches, settings=settings, values=values)
    assert text.count(f"token ({13 * 24:,})") == 1
    shares = [float(line.split()[-1].rstrip("%")) for line in text.splitlines()[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_features_of_a_text_pass_have_no_entities():
    shown = Features(hidden=[torch.zeros(1, 2, 3)], queries=[], keys=[], values=[])
    assert not shown.has_entities
