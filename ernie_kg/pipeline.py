"""`ernie-kg run FILE.yaml`: the stages of a road in order, finished ones skipped, one table at the end.

The file names an output folder and the stages:

    output: runs/mine
    stages:
      graph: {stage: kg build, reader: tsv, source: data}
      vectors: {stage: kg embed, graph: "@graph"}

`@graph` stands for the folder that the stage named `graph` writes, `@*` for all folders written before.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ernie_kg.config import config_from_mapping
from ernie_kg.stages import Stage, find_stage
from ernie_kg.yaml_file import read_yaml
from kg.artifact import MANIFEST, Manifest, StageConfig, fingerprint, open_artifact, plain, read_manifest
from kg.errors import InputError

EVERYTHING = "@*"
STEP_NAME = re.compile(r"\w[\w-]*")


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a road with its config resolved. name: the key in the file. command: as in `STAGES`."""

    name: str
    command: str
    stage: Stage
    config: StageConfig


def load_road(path: Path, overrides: Mapping[str, Any] | None = None) -> list[Step]:
    """The steps of a road file, every config checked before anything runs.

    overrides: dotted key to value, `graph.reader` or `output`.

    Raises:
        InputError: unknown stage, key or reference, a value of another type; the message names file and step.
    """
    data = read_yaml(path)
    _override(data, overrides or {}, path)
    unknown = sorted(str(key) for key in set(data) - {"output", "stages"})
    if unknown:
        raise InputError(f"{path}: unknown key {unknown[0]}; known: output, stages")
    if not isinstance(data.get("stages"), dict) or not data["stages"]:
        raise InputError(f"{path}: expected `stages`, a mapping of name to stage, got {data.get('stages')!r}")
    if not isinstance(data.get("output"), str):
        raise InputError(f"{path}: expected `output`, the folder to write, got {data.get('output')!r}")
    steps: list[Step] = []
    for name, settings in data["stages"].items():
        if not isinstance(name, str) or not STEP_NAME.fullmatch(name):
            raise InputError(
                f"{path}: expected a step's name of letters, digits, - and _, which becomes its folder's, got {name!r}"
            )
        steps.append(_step(name, settings, Path(data["output"]), [s.name for s in steps], path))
    return steps


class StageEnded(Exception):
    """A stage's process ended with this exit code, and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"a stage ended with exit code {exit_code}")
        self.exit_code = exit_code


def run_step(step: Step) -> None:
    """One stage, in this process."""
    step.stage.run(step.config)


def run_road(steps: Sequence[Step], run: Callable[[Step], None] = run_step) -> None:
    """Runs each step whose artifact is missing or was made from other inputs or settings."""
    for number, step in enumerate(steps, start=1):
        place = f"[{number}/{len(steps)}] {step.name} ({step.command})"
        if is_finished(step):
            print(f"{place}: finished before, inputs and config unchanged, skipped", file=sys.stderr, flush=True)
            continue
        print(f"{place} …", file=sys.stderr, flush=True)
        run(step)
        manifest = read_manifest(step.config.output)
        print(f"    {manifest.data['seconds']:.1f} s  {manifest.data['headline']}", file=sys.stderr, flush=True)


def is_finished(step: Step) -> bool:
    """Whether the step's folder holds a whole artifact made from the same inputs and the same config.

    Files are looked at, not read: one cut short is noticed here, a flipped bit by the next stage that reads it.
    """
    if not (Path(step.config.output) / MANIFEST).exists():
        return False
    try:
        manifest = open_artifact(step.config.output, stage=step.command)
    except InputError as error:
        print(f"    {error}: it is made again", file=sys.stderr, flush=True)
        return False
    return manifest.data["fingerprint"] == fingerprint(step.command, step.config)


def describe_road(steps: Sequence[Step]) -> str:
    """What a dry run prints: for each step its resolved config, the inputs found or awaited, and what it would do."""
    lines: list[str] = []
    outputs = {str(step.config.output) for step in steps}
    for step in steps:
        lines.append(f"# {step.name}: ernie-kg {step.command}")
        lines.append(yaml.safe_dump(plain(step.config), sort_keys=False, allow_unicode=True).rstrip())
        lines.extend(describe_inputs(step.config, outputs))
        exists = (Path(step.config.output) / MANIFEST).exists()
        state = "is there already" if exists else "would be written"
        lines.append(f"# {step.config.output} {state}\n")
    return "\n".join(lines)


def describe_inputs(config: StageConfig, written: set[str]) -> list[str]:
    """One comment line an input: found, made by an earlier step, or missing."""
    lines = []
    for name, path in config.inputs().items():
        found = "found" if Path(path).exists() else "from an earlier step" if str(path) in written else "MISSING"
        lines.append(f"# input {name}: {path} ({found})")
    return lines


def summary(steps: Sequence[Step]) -> str:
    """The table that ends a run: stage, time, memory, headline figure, all read from the manifests."""
    from rich.console import Console
    from rich.table import Table

    manifests = [(step, read_manifest(step.config.output)) for step in steps]
    table = Table("stage", "artifact", "time", "memory", "headline", title=f"{steps[0].config.output.parent}")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for step, manifest in manifests:
        table.add_row(step.command, step.name, *_measures(manifest), manifest.data["headline"])
    seconds = sum(manifest.data["seconds"] for _, manifest in manifests)
    peak = max(manifest.data["peak_memory_bytes"] for _, manifest in manifests)
    table.add_section()
    table.add_row("all", "", f"{seconds:.0f} s", f"{peak / 2**30:.1f} GiB", "")
    width = None if sys.stdout.isatty() else 140
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    pages = [step.config.output / "report.html" for step in steps if step.command == "report"]
    return captured.get() + "".join(f"report: {page}\n" for page in pages)


def _measures(manifest: Manifest) -> tuple[str, str]:
    return f"{manifest.data['seconds']:.1f} s", f"{manifest.data['peak_memory_bytes'] / 2**30:.2f} GiB"


def _step(name: str, settings: Any, root: Path, earlier: Sequence[str], path: Path) -> Step:
    source = f"{path}: {name}"
    if not isinstance(settings, dict) or "stage" not in settings:
        raise InputError(f"{source}: expected a mapping with the key `stage`, got {settings!r}")
    values = {key: value for key, value in settings.items() if key != "stage"}
    if "output" in values:
        raise InputError(f"{source}: `output` is decided by the step's name ({root / name}); leave it out")
    command = str(settings["stage"])
    try:
        stage = find_stage(command)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    resolved = {key: _resolve(value, root, earlier, source) for key, value in values.items()}
    config = config_from_mapping(stage.config_class(), {**resolved, "output": str(root / name)}, source=source)
    return Step(name, command, stage, config)


def _resolve(value: Any, root: Path, earlier: Sequence[str], source: str) -> Any:
    if value == EVERYTHING:
        return [str(root / name) for name in earlier]
    if isinstance(value, str) and value.startswith("@"):
        name = value.removeprefix("@")
        if name not in earlier:
            near = difflib.get_close_matches(name, earlier, n=1)
            hint = f"nearest: @{near[0]}" if near else f"steps before it: {', '.join(earlier) or 'none'}"
            raise InputError(f"{source}: {value} names no step before it; {hint}")
        return str(root / name)
    if isinstance(value, dict):
        return {key: _resolve(inner, root, earlier, source) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, root, earlier, source) for inner in value]
    return value


def _override(data: dict[str, Any], overrides: Mapping[str, Any], path: Path) -> None:
    for dotted, value in overrides.items():
        if dotted == "output":
            data["output"] = value
            continue
        first, *rest = dotted.split(".")
        stages = data.get("stages") or {}
        if first not in stages or not rest:
            near = difflib.get_close_matches(first, [*stages, "output"], n=1)
            raise InputError(
                f"{path}: --{dotted} names no step; "
                + (f"nearest: {near[0]}" if near else f"steps: {', '.join(stages)}")
            )
        target = stages[first]
        for key in rest[:-1]:
            target = target.setdefault(key, {})
        target[rest[-1]] = value
