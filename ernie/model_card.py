"""README.md beside a saved model: its shape, how it is loaded, and what nobody has said of it yet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ernie.configuration import ErnieConfig

CARD = "README.md"
BARE = "<!-- written by save_pretrained -->"
"""Marks a card that knows the model alone; a stage that knows data, graph and scores writes a fuller one over it."""
EMPTY = "[More Information Needed]"
"""Stands in every part of transformers' template that nobody filled in."""


def write_bare_card(folder: Path, config: ErnieConfig, class_name: str) -> None:
    """Writes the card unless the folder has one already, whoever wrote it."""
    path = Path(folder) / CARD
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(bare_card(config, class_name), encoding="utf-8")


def replace_empty_card(folder: Path, config: ErnieConfig, class_name: str) -> None:
    """Writes our card over one that transformers' `push_to_hub` made of its template; any other stays as it is."""
    path = Path(folder) / CARD
    if path.exists() and EMPTY in path.read_text(encoding="utf-8"):
        path.unlink()
        write_bare_card(folder, config, class_name)


def bare_card(config: ErnieConfig, class_name: str) -> str:
    """The card as Markdown, its head as the hubs read it."""
    kinds = Counter(config.layer_types or ())
    layers = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return f"""---
library_name: "ernie-kg"
tags: ["ernie-kg"]
---

{BARE}

# {class_name}

A two-stream encoder of text and entities (ERNIE, Zhang et al., ACL 2019): layers {layers}; {config.hidden_size} wide,
entity vectors of {config.entity_size}, {config.vocab_size:,} word pieces.

```python
>>> import ernie
>>> model = ernie.{class_name}.from_pretrained("this folder")
>>> model.attach_entity_table("vectors")  # of `ernie-kg kg embed`; text without entities needs none
```

## Still to be written

Which text and which graph it was trained on, under which licences; how it was judged, beside which null controls; what
it is for and what it is not for. The stages of `ernie-kg` write this by themselves.
"""
