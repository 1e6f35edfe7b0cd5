"""A saved folder is a model by itself: it loads where the package is not installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from ernie import ErnieConfig, ErnieForEntityTyping, ErnieForPreTraining
from ernie.remote_code import AUTO_MAP, MODULES, remote_sources

ELSEWHERE = """
import json, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ernie", "kg", "entity_linking", "pretrain", "finetune", "ernie_kg"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import torch, transformers
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module

folder, inputs, again = sys.argv[1:]
trusted = {"trust_remote_code": True, "output_loading_info": True}
model, report = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **trusted)
assert not any(report.values()), report
assert type(model).__module__.startswith("transformers_modules."), type(model)
batch = load_file(inputs)
with torch.no_grad():
    out = model.eval()(**batch)
    plain = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**batch)
assert torch.equal(model.classifier(plain.pooler_output), out.logits)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
spans = get_class_from_dynamic_module("tokenization_ernie_kg.EntitySpan", folder)
ours = get_class_from_dynamic_module("tokenization_ernie_kg.ErnieTokenizer", folder)(tokenizer, {"Q1": 4})
placed = ours.encode(["a (b)"], [[spans(3, 4, "Q1")]], max_length=9)[0]
model.save_pretrained(again)
save_file({"logits": out.logits}, inputs + ".out")
print(json.dumps([type(model).__name__, placed.entity_ids.tolist(), placed.entity_positions.tolist()]))
"""


def tiny(**settings: Any) -> ErnieConfig:
    return ErnieConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=9,
        entity_size=4,
        **settings,
    )


def saved(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "(", ")"]
    BertTokenizer(vocab={word: row for row, word in enumerate(words)}).save_pretrained(folder)
    inputs = {
        "input_ids": torch.tensor([[2, 5, 7, 6, 8, 3]]),
        "entity_embeds": torch.randn(1, 1, 4),
        "entity_positions": torch.tensor([[3]]),
    }
    save_file(inputs, folder.parent / "inputs.safetensors")
    return inputs


def test_a_saved_folder_loads_without_the_package(tmp_path: Path) -> None:
    """One import that reaches back into the package, and the folder is worth nothing on another machine.

    The second save, made there, must load in turn: a model fine-tuned elsewhere is passed on as well.
    """
    torch.manual_seed(0)
    model = ErnieForEntityTyping(tiny(num_labels=3)).eval()
    inputs, folder = saved(model, tmp_path / "model"), tmp_path / "model"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    with torch.no_grad():
        wanted = model(**inputs).logits
    for source, again in ((folder, tmp_path / "again"), (tmp_path / "again", tmp_path / "third")):
        if source != folder:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (source / name).write_bytes((folder / name).read_bytes())
        command = [sys.executable, "-c", ELSEWHERE, str(source), str(tmp_path / "inputs.safetensors"), str(again)]
        shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout.splitlines()[-1]) == ["ErnieForEntityTyping", [4], [3]]
        logits = load_file(tmp_path / "inputs.safetensors.out")["logits"]
        torch.testing.assert_close(logits, wanted, rtol=0.0, atol=1e-6)


def test_the_files_name_each_other_and_nothing_else(tmp_path: Path) -> None:
    """A module added to the package and forgotten here would be missed by a user, not by us."""
    sources = remote_sources()
    assert len(sources) == len(MODULES)
    for name, source in sources.items():
        assert not re.search(r"^\s*(from|import) ernie\b", source, flags=re.MULTILINE), name
        for module in re.findall(r"^\s*from \.(\w+) import", source, flags=re.MULTILINE):
            assert f"{module}.py" in sources, f"{name} imports {module}"
        compile(source, name, "exec")
    for reference in AUTO_MAP.values():
        module, class_name = reference.split(".")
        assert f"class {class_name}(" in sources[f"{module}.py"]


def test_where_the_package_is_the_folders_code_is_not_run(tmp_path: Path) -> None:
    """Code in a folder that comes from elsewhere is run on request only; and no question is asked about ours."""
    ErnieForPreTraining(tiny()).save_pretrained(tmp_path)
    for file in tmp_path.glob("*_ernie_kg.py"):
        file.write_text("raise SystemExit('run without being asked')")
    from transformers import AutoModelForPreTraining

    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is ErnieForPreTraining
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
