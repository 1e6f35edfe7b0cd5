"""Heads that read marked spans instead of [CLS]."""

from __future__ import annotations

import pytest
import torch

import ernie
from ernie.errors import InputError

SETTINGS = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "entity_size": 8,
    "num_entity_attention_heads": 2,
    "num_labels": 3,
}
IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 9, 10, 3]])
SPANS = torch.tensor([[[1, 3], [3, 4]], [[2, 4], [1, 2]]])


@pytest.mark.parametrize("pooling", ["start", "mean"])
def test_a_span_is_read_as_its_pieces_one_by_one(pooling: str):
    """A gather off by one piece reads the neighbour's state, and training still goes down."""
    config = ernie.ErnieConfig(**SETTINGS, pooling=pooling, num_spans=2)
    model = ernie.ErnieForRelationClassification(config).eval()
    with torch.no_grad():
        hidden = model.bert(IDS).last_hidden_state
        found = model(IDS, spans=SPANS).logits
        for row in range(2):
            parts = []
            for first, behind in SPANS[row].tolist():
                pieces = [hidden[row, piece] for piece in range(first, behind)]
                parts.append(pieces[0] if pooling == "start" else torch.stack(pieces).mean(0))
            pooled = torch.tanh(model.span_pooler.dense(torch.cat(parts)))
            torch.testing.assert_close(found[row], model.classifier(pooled))


def test_a_saved_span_head_comes_back(tmp_path):
    """The pooling is part of the config: without it the head's own weights would be dropped without a word."""
    model = ernie.ErnieForEntityTyping(ernie.ErnieConfig(**SETTINGS, pooling="start", num_spans=1)).eval()
    model.save_pretrained(tmp_path)
    again = ernie.ErnieForEntityTyping.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, spans=SPANS[:, :1]).logits, again(IDS, spans=SPANS[:, :1]).logits)


@pytest.mark.faults
def test_spans_that_are_missing_or_outside_are_refused():
    """A span behind the text would be clamped on some devices and crash on others."""
    with pytest.raises(InputError, match="pooling is one of cls, start, mean, got 'max'"):
        ernie.ErnieConfig(**SETTINGS, pooling="max")
    with pytest.raises(InputError, match="reads num_spans spans, at least 1"):
        ernie.ErnieConfig(**SETTINGS, pooling="mean")
    model = ernie.ErnieForRelationClassification(ernie.ErnieConfig(**SETTINGS, pooling="mean", num_spans=2))
    with pytest.raises(InputError, match="this head reads 2 marked spans"):
        model(IDS)
    with pytest.raises(InputError, match=r"spans have shape .* = \(2, 2, 2\), got \(2, 1, 2\)"):
        model(IDS, spans=SPANS[:, :1])
    for wrong in ([3, 3], [4, 6], [-1, 2]):
        spans = SPANS.clone()
        spans[1, 0] = torch.tensor(wrong)
        with pytest.raises(InputError, match="at example 1, span 0"):
            model(IDS, spans=spans)
