"""ErnieModel and its heads: what transformers expects, what a user may get wrong, what must not matter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
)

from ernie import (
    EntityTable,
    ErnieConfig,
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForRelationClassification,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
    ErnieModel,
    InputError,
    paper_layer_types,
)

HEADS = {
    ErnieForEntityTyping: "multi_label_classification",
    ErnieForRelationClassification: "single_label_classification",
    ErnieForSequenceClassification: "single_label_classification",
}


def tiny(**settings: Any) -> ErnieConfig:
    fields: dict[str, Any] = {
        "vocab_size": 31,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
        "entity_size": 8,
        "layer_types": ["text", "mix", "fuse"],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **settings,
    }
    return ErnieConfig(**fields)


def table(num_rows: int = 9, seed: int = 0) -> EntityTable:
    vectors = torch.randn(num_rows, 8, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return EntityTable(vectors)


def batch() -> dict[str, torch.Tensor]:
    """Two examples of 8 and 5 word pieces with 2 and 1 entities."""
    ids = torch.randint(1, 31, (2, 8), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3]),
        "entity_ids": torch.tensor([[3, 5], [2, 0]]),
        "entity_positions": torch.tensor([[1, 4], [2, 0]]),
        "entity_attention_mask": torch.tensor([[1, 1], [1, 0]]),
    }


def built(model_class: type = ErnieModel, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = model_class(tiny(**settings)).eval()
    model.attach_entity_table(table())
    return model


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (12, ["text"] * 5 + ["mix"] + ["fuse"] * 6),
        (6, ["text"] * 2 + ["mix"] + ["fuse"] * 3),
        (4, ["text", "mix", "fuse", "fuse"]),
        (1, ["mix"]),
    ],
)
def test_layers_keep_the_papers_proportions(depth: int, layers: list[str]) -> None:
    """5:1:6 of the paper at other depths; a factory without a mix layer would make a BERT, unnoticed."""
    assert paper_layer_types(depth) == layers
    bert = BertConfig(num_hidden_layers=depth, hidden_size=24, num_attention_heads=3, vocab_size=99)
    config = ErnieConfig.from_bert(bert, entity_size=50)
    assert config.layer_types == layers
    assert (config.hidden_size, config.vocab_size, config.num_entity_attention_heads) == (24, 99, 2)


BERTS: dict[str, dict[str, Any]] = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "BERT-base": {},
    "multilingual BERT": {"vocab_size": 119_547},
    "BERT-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


@pytest.mark.parametrize("name", BERTS)
def test_knowledge_layers_go_onto_any_bert(name: str) -> None:
    """Built without memory: every BERT weight has its place, and the entity part is as large as the widths say."""
    bert = BertConfig(**BERTS[name])
    config = ErnieConfig.from_bert(bert, entity_size=100)
    with torch.device("meta"):
        ours, theirs = ErnieModel(config).state_dict(), BertModel(bert).state_dict()
    assert {key: value.shape for key, value in theirs.items()}.items() <= {k: v.shape for k, v in ours.items()}.items()
    added = sum(value.numel() for key, value in ours.items() if key not in theirs)
    depth, z = bert.num_hidden_layers, bert.intermediate_size
    knowledge = depth - 5 * depth // 12
    fusion = 100 * z + z + z * 100 + 100 + 200  # dense_ent in and out, LayerNorm_ent
    attention = 4 * (100 * 100 + 100) + 200
    assert added == knowledge * fusion + (knowledge - 1) * attention


def test_the_base_model_has_the_papers_size() -> None:
    """The paper's "about 114M", to the parameter: 114,050,244 with 4,568,004 in the entity part."""
    with torch.device("meta"):
        model = ErnieForPreTraining(ErnieConfig())
    assert sum(p.numel() for p in model.bert.parameters()) == 114_050_244
    assert sum(p.numel() for name, p in model.bert.named_parameters() if "_ent." in name) == 4_568_004
    assert sum(p.numel() for p in model.parameters()) == 114_751_532


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_types": ["text", "sim", "fuse"]}, "text, mix, fuse, got sim"),
        ({"layer_types": ["text"]}, "num_hidden_layers is 3, got 1"),
        ({"entity_size": 10}, "4 does not divide 10"),
        ({"num_attention_heads": 3}, "3 does not divide 16"),
    ],
)
def test_an_impossible_layout_is_refused(settings: dict[str, Any], words: str) -> None:
    """Refused at the config, where the reader still knows what was written."""
    with pytest.raises(InputError, match=words):
        tiny(**settings)


@pytest.mark.parametrize(
    ("auto", "model_class"),
    [
        (AutoModel, ErnieModel),
        (AutoModelForPreTraining, ErnieForPreTraining),
        (AutoModelForSequenceClassification, ErnieForSequenceClassification),
        (AutoModelForTokenClassification, ErnieForTokenClassification),
    ],
)
def test_saved_models_come_back_through_auto_classes(auto: Any, model_class: type, tmp_path: Path) -> None:
    """Some transformers 5 releases re-initialised loaded weights of foreign classes with a clean report (#46620):
    constants in every weight show it, and so does a lost key."""
    model = built(model_class)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(0.01 * (number + 1))
    model.save_pretrained(tmp_path)
    loaded, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is model_class
    assert not any(report.values()), report
    assert loaded.config.layer_types == ["text", "mix", "fuse"]
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs), name
    assert type(AutoConfig.from_pretrained(tmp_path)) is ErnieConfig


def test_transformers_own_ernie_is_still_reachable() -> None:
    """Baidu's model has classes of the same names; registering ours must not take theirs away."""
    theirs = AutoConfig.for_model("ernie", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    assert type(theirs).__module__.startswith("transformers.")
    assert type(AutoModel.from_config(theirs)).__module__.startswith("transformers.")
    assert type(AutoModel.from_config(tiny())) is ErnieModel


def test_an_encoder_moves_between_heads(tmp_path: Path) -> None:
    """Pre-trained weights must arrive in a task model; a wrong prefix starts it from noise."""
    pretrained = built(ErnieForPreTraining)
    pretrained.save_pretrained(tmp_path)
    task = ErnieForEntityTyping.from_pretrained(tmp_path, num_labels=5)
    for name, weight in pretrained.bert.state_dict().items():
        assert torch.equal(task.bert.state_dict()[name], weight), name


@pytest.mark.parametrize("cls_entity", [True, False])
def test_padding_and_company_never_change_an_example(cls_entity: bool) -> None:
    """A leak between rows or from padding moves scores with the batch size, and nothing else tells."""
    model = built(cls_entity=cls_entity)
    together = model(**batch())
    alone = {name: value[1:, : 5 if value.shape[1] == 8 else 1] for name, value in batch().items()}
    single = model(**alone)
    torch.testing.assert_close(together.last_hidden_state[1:, :5], single.last_hidden_state, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(together.pooler_output[1:], single.pooler_output, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(
        together.entity_last_hidden_state[1:, :1], single.entity_last_hidden_state, rtol=0.0, atol=1e-6
    )


@pytest.mark.parametrize("cls_entity", [True, False])
def test_text_without_entities_is_first_class(cls_entity: bool) -> None:
    """No entities, an empty slot axis and masked slots are one and the same text."""
    model = built(cls_entity=cls_entity)
    text = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    plain = model(**text)
    assert plain.entity_last_hidden_state is None
    empty = torch.zeros(2, 0, dtype=torch.long)
    none = model(**text, entity_ids=empty, entity_positions=empty)
    assert none.entity_last_hidden_state.shape == (2, 0, 8)
    masked = model(**{**batch(), "entity_attention_mask": torch.zeros(2, 2, dtype=torch.long)})
    for other in (none, masked):
        torch.testing.assert_close(other.last_hidden_state, plain.last_hidden_state, rtol=0.0, atol=1e-6)
        assert torch.isfinite(other.entity_last_hidden_state).all()


def test_rows_of_the_table_are_their_vectors() -> None:
    """entity_ids and entity_embeds are two spellings of one input; row 0 is masked out by itself."""
    model, inputs = built(), batch()
    by_id = model(**{name: value for name, value in inputs.items() if name != "entity_attention_mask"})
    vectors = table().rows(inputs.pop("entity_ids"))
    torch.testing.assert_close(by_id.last_hidden_state, model(**inputs, entity_embeds=vectors).last_hidden_state)


def test_the_table_is_no_part_of_the_weights() -> None:
    """A table in the state dict would be saved, trained and synchronised with 5,000,000 rows."""
    model = built(ErnieForPreTraining)
    assert model.entity_table is model.bert.entity_table
    assert not [name for name in model.state_dict() if "table" in name]
    assert copy.deepcopy(model).entity_table is model.entity_table
    model.attach_entity_table(None)
    with pytest.raises(InputError, match="attach_entity_table"):
        model(**batch())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entity_ids": torch.tensor([[3, 9], [2, 0]])}, "entity row 9 .* rows 0..8"),
        ({"entity_positions": torch.tensor([[1, 8], [2, 0]])}, "0..7 for 8 word pieces, got 8 at example 0, entity 1"),
        ({"entity_positions": None}, "need entity_positions"),
        ({"entity_positions": torch.tensor([[1], [2]])}, r"\(2, 2\), got \(2, 1\)"),
        ({"entity_attention_mask": torch.ones(2, 8)}, r"entity_attention_mask .* got \(2, 8\)"),
        ({"entity_embeds": torch.zeros(2, 2, 8)}, "not both"),
        ({"entity_ids": None, "entity_embeds": torch.zeros(2, 2, 7)}, r"\(2, num_entities, 8\), got \(2, 2, 7\)"),
        ({"input_ids": torch.ones(2, 13, dtype=torch.long), "attention_mask": None}, "at most 12 word pieces, got 13"),
        ({"output_attentions": True}, "attn_implementation='eager'"),
        ({"entity_position": None}, "unknown model input: entity_position"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], words: str) -> None:
    """An index error deep in a layer, or worse a broadcast, in place of what was expected and what came."""
    with pytest.raises(InputError, match=words):
        built()(**{**batch(), **change})


def test_a_table_of_another_width_is_refused() -> None:
    """Found when the table is attached, not hours later."""
    with pytest.raises(InputError, match="width 8, the table's are 5 wide"):
        built().attach_entity_table(EntityTable(torch.zeros(3, 5)))


def test_attentions_and_states_on_request() -> None:
    """Distillation reads them: every layer's, in order, the embeddings first."""
    model = built()
    model.set_attn_implementation("eager")
    out = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == len(out.entity_hidden_states) == 4
    assert [tuple(a.shape) for a in out.attentions] == [(2, 2, 8, 8)] * 3
    torch.testing.assert_close(out.attentions[0].sum(-1), torch.ones(2, 2, 8))
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.entity_hidden_states[-1], out.entity_last_hidden_state)
    assert out.entity_attentions[:2] == (None, None), "text and mix layers have none"
    among = out.entity_attentions[2]
    assert among.shape == (2, 4, 3, 3), "[CLS]'s own slot and two given ones"
    torch.testing.assert_close(among.sum(-1), torch.ones(2, 4, 3))
    assert not among[1, :, :, 2].any(), "a masked entity is not looked at"
    assert isinstance(model(**batch(), return_dict=False), tuple)


def pretraining_inputs() -> dict[str, Any]:
    labels = torch.full((2, 8), -100)
    labels[0, 3], labels[1, 1] = 7, 9
    return {
        **batch(),
        "labels": labels,
        "next_sentence_label": torch.tensor([0, 1]),
        "entity_labels": torch.tensor([[0, 1], [2, -100]]),
        "entity_candidate_ids": torch.tensor([3, 5, 2]),
    }


def test_pretraining_gives_three_losses_and_sparse_logits() -> None:
    """Logits at masked positions only are the same logits: half the step's time, none of its meaning."""
    model, inputs = built(ErnieForPreTraining), pretraining_inputs()
    out = model(**inputs)
    torch.testing.assert_close(out.loss, out.mlm_loss + out.nsp_loss + out.dea_loss)
    labels = inputs.pop("labels")
    torch.testing.assert_close(out.logits, model(**inputs).logits[labels != -100], rtol=0.0, atol=1e-6)
    assert out.entity_logits.shape == (2, 2, 4)
    assert not out.entity_logits[..., -1].any(), "the zero vector 'no entity' has logit 0"
    vectors = table().rows(inputs.pop("entity_candidate_ids"))
    torch.testing.assert_close(out.entity_logits, model(**inputs, entity_candidates=vectors).entity_logits)


def test_a_removed_entity_is_still_asked_for() -> None:
    """dEA removes 15 % of the entities and asks for them by name: the label outlives the mask."""
    model, inputs = built(ErnieForPreTraining), pretraining_inputs()
    kept = model(**inputs).entity_logits
    inputs["entity_ids"][0, 1], inputs["entity_attention_mask"][0, 1] = 0, 0
    removed = model(**inputs)
    assert removed.dea_loss > 0
    assert not torch.allclose(removed.entity_logits[0, 1], kept[0, 1])


@pytest.mark.parametrize("empty", ["all ignored", "no slots", "no candidates"])
def test_a_batch_without_entities_trains_on(empty: str) -> None:
    """The mean over nothing is NaN, and one NaN step destroys a run."""
    model, inputs = built(ErnieForPreTraining), pretraining_inputs()
    inputs["entity_labels"] = torch.full((2, 2), -100)
    if empty == "no slots":
        for name in ("entity_ids", "entity_positions", "entity_attention_mask", "entity_labels"):
            inputs[name] = inputs[name][:, :0]
    if empty == "no candidates":
        inputs["entity_candidate_ids"] = torch.zeros(0, dtype=torch.long)
    inputs["labels"] = torch.full((2, 8), -100)
    out = model(**inputs)
    assert out.dea_loss == 0
    assert out.num_entity_targets == 0
    assert out.mlm_loss == 0
    out.loss.backward()
    head = model.cls.predictions_ent.transform.dense.weight.grad
    assert head is None or not head.any()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_one_candidate_works() -> None:
    """The first implementation squeezed a dimension away here."""
    model, inputs = built(ErnieForPreTraining, no_entity_candidate=False), pretraining_inputs()
    inputs["entity_candidate_ids"] = torch.tensor([3])
    inputs["entity_labels"] = torch.tensor([[0, -100], [-100, -100]])
    out = model(**inputs)
    assert out.entity_logits.shape == (2, 2, 1)
    assert out.dea_loss == 0, "one candidate is certain"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entity_candidate_ids": torch.tensor([0, 3, 5])}, "leave 0 out"),
        ({"entity_candidate_ids": None}, "entity_labels need entity_candidate_ids"),
        ({"entity_labels": torch.tensor([[0, 4], [2, -100]])}, "entity_labels lie in 0..3 .* got 4"),
        ({"next_sentence_label": torch.tensor([0, 2])}, "next_sentence_label lie in 0..1"),
        ({"labels": torch.zeros(2, 7, dtype=torch.long)}, r"\(2, 8\), got \(2, 7\)"),
    ],
)
def test_wrong_pretraining_targets_are_named(change: dict[str, Any], words: str) -> None:
    """Targets that broadcast or point past the candidates would train something else."""
    with pytest.raises(InputError, match=words):
        built(ErnieForPreTraining)(**{**pretraining_inputs(), **change})


@pytest.mark.parametrize(("model_class", "problem_type"), HEADS.items())
def test_task_heads_learn(model_class: type, problem_type: str) -> None:
    """One shared case for every head: the default problem type, a finite loss, and ten steps that lower it."""
    model = built(model_class, num_labels=3).train()
    assert model.config.problem_type == problem_type
    multi = problem_type == "multi_label_classification"
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]]) if multi else torch.tensor([2, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = model(**batch(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model(**batch()).logits.shape == (2, 3)


def test_other_problem_types_and_wrong_labels() -> None:
    """A (batch, 1) prediction against (batch,) labels would broadcast to (batch, batch)."""
    regression = built(ErnieForSequenceClassification, num_labels=1, problem_type="regression")
    out = regression(**batch(), labels=torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - torch.tensor([0.5, 2.0])).square().mean())
    column = torch.tensor([[0.5], [2.0]])
    torch.testing.assert_close(regression(**batch(), labels=column).loss, out.loss)
    with pytest.raises(InputError, match=r"shape \(2, 1\), got \(2, 2\)"):
        regression(**batch(), labels=torch.zeros(2, 2))
    assert built(ErnieForSequenceClassification, num_labels=1).config.problem_type == "regression"
    typing = built(ErnieForEntityTyping, num_labels=3)
    with pytest.raises(InputError, match=r"shape \(2, 3\), got \(2,\)"):
        typing(**batch(), labels=torch.tensor([0, 1]))
    relation = built(ErnieForRelationClassification, num_labels=3)
    with pytest.raises(InputError, match="got 3"):
        relation(**batch(), labels=torch.tensor([0, 3]))
    tokens = built(ErnieForTokenClassification, num_labels=3)
    assert torch.isfinite(tokens(**batch(), labels=torch.full((2, 8), 2)).loss)


def test_gradient_checkpointing_changes_nothing() -> None:
    """Recomputed layers must see the same entities."""
    inputs, grads = pretraining_inputs(), []
    for checkpointing in (False, True):
        model = built(ErnieForPreTraining).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**inputs).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)
