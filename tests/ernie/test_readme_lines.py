"""The README's lines from text to types are run, on folders of a few kilobytes."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertTokenizer

from ernie import EntityRows, ErnieConfig, ErnieForEntityTyping, InputError

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readmes_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first lines a user copies; a renamed argument must not be found by them."""
    found = re.search(r"```python\n(from ernie import.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    torch.manual_seed(0)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *("##" + c for c in string.ascii_lowercase),
    ]
    tokenizer = BertTokenizer(vocab={piece: row for row, piece in enumerate(pieces)})
    tokenizer.add_tokens(["[ENT]", "[/ENT]"], special_tokens=True)
    config = ErnieConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        entity_size=4,
        id2label={0: "person", 1: "place"},
    )
    model = ErnieForEntityTyping(config)
    torch.nn.init.constant_(model.classifier.bias, 5.0)
    model.save_pretrained(tmp_path / "typing-model")
    tokenizer.save_pretrained(tmp_path / "typing-model")
    (tmp_path / "vectors").mkdir()
    vectors = torch.cat([torch.zeros(1, 4), torch.randn(2, 4)])
    save_file({"entity_embeddings": vectors}, tmp_path / "vectors" / "entity_embeddings.safetensors")
    (tmp_path / "vectors" / "vocabulary.txt").write_text("Q90\nQ47899\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "README.md", "exec"), {})
    assert capsys.readouterr().out == "['person', 'place']\n"
    with pytest.raises(InputError, match="entity 'Q1' is not among the 2"):
        EntityRows.open("vectors")["Q1"]
    with pytest.raises(InputError, match="no vocabulary"):
        EntityRows.open(tmp_path)
