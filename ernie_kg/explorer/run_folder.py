"""What a run's folder holds, by its manifests: which vectors are of which graph, which student of which teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from entity_linking.link_config import LINKER_STAGES
from kg.artifact import MANIFEST, Manifest, open_artifact, read_manifest
from kg.errors import InputError


@dataclass(frozen=True, slots=True)
class Compared:
    """A teacher and what was made from it: students of `finetune distill`, exported files of any of them."""

    teacher: Manifest
    students: tuple[Manifest, ...]
    exports: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The artifacts of a run that the explorer shows; None or empty where the run has none."""

    folder: Path
    graph: Manifest
    vectors: Manifest | None
    linker: Manifest | None
    models: tuple[Compared, ...]


def find_run(folder: Path) -> RunFolder:
    """Reads the manifests directly under a folder (or the folder's own, where it is an artifact).

    Raises:
        InputError: no such folder, or no graph in it.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a run, as runs/quickstart")
    found = list(_artifacts(Path(folder)))
    graphs = [manifest for manifest in found if manifest.stage == "kg build"]
    if not graphs:
        raise InputError(f"{folder}: holds no graph; give the folder that `ernie-kg run` or `kg build` wrote into")
    vectors = [m for m in found if m.stage == "kg embed" and _input(m, "graph") in {g.digest for g in graphs}]
    graph = next((g for g in graphs if vectors and _input(vectors[0], "graph") == g.digest), graphs[0])
    linkers = [m for m in found if m.stage in LINKER_STAGES and _input(m, "graph") in (graph.digest, None)]
    models = tuple(
        Compared(
            teacher=model,
            students=(students := tuple(_made_from(found, "finetune distill", "teacher", [model]))),
            exports=tuple(_made_from(found, "export", "model", [model, *students])),
        )
        for model in found
        if model.stage == "finetune run"
    )
    return RunFolder(
        folder=Path(folder),
        graph=graph,
        vectors=vectors[0] if vectors else None,
        linker=linkers[0] if linkers else None,
        models=models,
    )


def marks_its_texts(model: Manifest, folder: Path) -> bool:
    """Whether the examples that a task model learnt from mark a span; where they are gone, it is taken for yes."""
    entry = model.data.get("inputs", {}).get("examples")
    places = [Path(entry["path"]), folder / Path(entry["path"]).name] if entry else []
    for place in places:
        if (place / "train.jsonl").is_file() and read_manifest(place).digest == entry["digest"]:
            import orjson

            with (place / "train.jsonl").open("rb") as file:
                return any(orjson.loads(line).get("spans") for _, line in zip(range(20), file, strict=False))
    return True


def _artifacts(folder: Path) -> Iterator[Manifest]:
    for place in [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())]:
        if (place / MANIFEST).is_file() and not place.name.endswith((".partial", ".retired")):
            manifest = read_manifest(place)
            yield open_artifact(place, stage=manifest.stage)


def _made_from(found: list[Manifest], stage: str, name: str, sources: list[Manifest]) -> Iterator[Manifest]:
    digests = {source.digest for source in sources}
    return (m for m in found if m.stage == stage and _input(m, name) in digests)


def _input(manifest: Manifest, name: str) -> str | None:
    entry = manifest.data.get("inputs", {}).get(name)
    return entry["digest"] if entry else None
