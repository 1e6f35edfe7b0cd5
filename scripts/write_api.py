"""Writes docs/api.md: every public name of the packages with its signature and docstring. Part of `make site`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "ernie",
    "kg.graph",
    "kg.artifact",
    "kg.index",
    "kg.neighbours",
    "kg.ranking",
    "kg.partitioned",
    "entity_linking.linker",
    "entity_linking.records",
    "entity_linking.evaluation",
    "pretrain.masking",
    "finetune.tasks",
    "finetune.task_model",
    "finetune.metrics",
    "ernie.training",
    "ernie.export",
)
TARGET = Path(__file__).resolve().parents[1] / "docs" / "api.md"


def main() -> None:
    parts = [
        "# Python API\n\nMade from the docstrings by `make site`. Stages and options: [reference](reference.md).\n"
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## `{name}`\n\n{_prose(inspect.getdoc(module))}\n")
        parts += [_entry(public, value) for public, value in _public(module)]
    TARGET.write_text("\n".join(parts), encoding="utf-8")
    print(f"{TARGET.name}: {sum(part.startswith('### ') for part in parts)} names of {len(MODULES)} modules")


def _public(module) -> Iterator[tuple[str, object]]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        value = getattr(module, name)
        ours = getattr(value, "__module__", "").startswith(module.__name__.partition(".")[0])
        own = ours and (hasattr(module, "__all__") or value.__module__ == module.__name__)
        if own and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def _entry(name: str, value) -> str:
    parts = [f"### {name}\n", f"```text\n{name}{_signature(value)}\n```\n", _prose(inspect.getdoc(value))]
    if inspect.isclass(value):
        for method, of in vars(value).items():
            function = of.__func__ if isinstance(of, (classmethod, staticmethod)) else of
            if inspect.isfunction(function) and not method.startswith("_") and inspect.getdoc(function):
                parts.append(f"\n**`{method}{_signature(function)}`**\n\n{_prose(inspect.getdoc(function))}")
    return "\n".join(parts) + "\n"


def _signature(value) -> str:
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(…)"


def _prose(text: str | None) -> str:
    """A docstring as it stands, in a block of its own: its shapes and tables are laid out by hand."""
    if not text:
        return ""
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


if __name__ == "__main__":
    main()
