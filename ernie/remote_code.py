"""The model's own source beside its weights, so that a saved folder loads where this package is not installed.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` reads `auto_map` in config.json and imports the files it
names, which may import each other only from one flat folder: each module of MODULES becomes `NAME_ernie_kg.py`, its
imports made relative. Where `ernie` is imported, its own classes are used and these files are not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

if TYPE_CHECKING:  # never run; transformers copies the files that it finds named in import lines, these included
    from ernie.collation import pad_batch  # noqa: F401
    from ernie.entity_rows import EntityRows  # noqa: F401
    from ernie.tokenization import ErnieTokenizer  # noqa: F401

MODULES = (
    "checks",
    "configuration",
    "errors",
    "inputs",
    "embeddings",
    "entity_input",
    "entity_rows",
    "entity_table",
    "layers",
    "loading",
    "model_card",
    "losses.denoising_entity",
    "losses.masked_lm",
    "modeling",
    "heads",
    "remote_code",
    "tokenization",
    "collation",
)
"""What the model, its heads and the way from text to a batch are made of."""

SUFFIX = "_ernie_kg"
AUTO_MAP = {
    "AutoConfig": f"configuration{SUFFIX}.ErnieKgConfig",
    "AutoModel": f"modeling{SUFFIX}.ErnieModel",
    "AutoModelForPreTraining": f"heads{SUFFIX}.ErnieForPreTraining",
    "AutoModelForMaskedLM": f"heads{SUFFIX}.ErnieForPreTraining",
    "AutoModelForSequenceClassification": f"heads{SUFFIX}.ErnieForSequenceClassification",
    "AutoModelForTokenClassification": f"heads{SUFFIX}.ErnieForTokenClassification",
}
POOLED_CLASSES = ("ErnieForEntityTyping", "ErnieForRelationClassification", "ErnieForSequenceClassification")
"""Classes that AutoModelForSequenceClassification gives back as they were saved."""

_IMPORT = re.compile(r"^(\s*)from ernie\.([\w.]+) import", flags=re.MULTILINE)


def remote_sources() -> dict[str, str]:
    """File name -> source, of the package's modules or, where this file is such a copy itself, of its neighbours."""
    here = Path(__file__).resolve()
    if here.stem.endswith(SUFFIX):
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(here.parent.glob(f"*{SUFFIX}.py"))}
    paths = {name: here.parent / f"{name.replace('.', '/')}.py" for name in MODULES}
    return {f"{_flat(name)}.py": _relative(path.read_text(encoding="utf-8")) for name, path in paths.items()}


@contextmanager
def remote_code(config: PreTrainedConfig, class_name: str) -> Iterator[dict[str, str]]:
    """While it lasts, `config` names the sources it yields; saved in between, its config.json does.

    class_name: the class of the saved model.
    """
    auto_map = dict(AUTO_MAP)
    if class_name in POOLED_CLASSES:
        auto_map["AutoModelForSequenceClassification"] = f"heads{SUFFIX}.{class_name}"
    before = vars(config).get("auto_map")
    config.auto_map = auto_map  # pyrefly: ignore[missing-attribute]
    try:
        yield remote_sources()
    finally:
        if before is None:
            del config.auto_map  # pyrefly: ignore[missing-attribute]
        else:
            config.auto_map = before  # pyrefly: ignore[missing-attribute]


def write_sources(sources: dict[str, str], folder: Path) -> None:
    """File name -> source, into `folder`, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")


def _flat(module: str) -> str:
    return module.rsplit(".", 1)[-1] + SUFFIX


def _relative(source: str) -> str:
    """`from ernie.losses.masked_lm import x` -> `from .masked_lm_ernie_kg import x`."""
    return _IMPORT.sub(lambda found: f"{found[1]}from .{_flat(found[2])} import", source)
