"""A stage's folder on disk: written to NAME.partial, renamed at the end, its manifest written last.

A folder without `manifest.json` is not an artifact. Every stage writes one through `write_artifact`, and opens
another's with `open_artifact`; nothing else passes between stages.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from kg.errors import InputError
from kg.exhaustion import exhausted
from kg.folder_lock import LOCK, lock_folder
from kg.model_card import write_card

MANIFEST = "manifest.json"
STATE = ".stage.json"
FORMAT = 1
"""Of every artifact; a change that an older version would misread raises it."""


class StageConfig(Protocol):
    """What every stage's config offers: the folder it writes, and the folders or files it reads."""

    @property
    def output(self) -> Path: ...

    def inputs(self) -> Mapping[str, Path]: ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished artifact says of itself; `data` is the whole JSON, `folder` where it lies."""

    folder: Path
    data: dict[str, Any]

    @property
    def stage(self) -> str:
        return self.data["stage"]

    @property
    def digest(self) -> str:
        return self.data["digest"]

    @property
    def counts(self) -> dict[str, int]:
        return self.data["counts"]

    @property
    def dropped(self) -> dict[str, int]:
        return self.data["dropped"]

    @property
    def figures(self) -> dict[str, Any]:
        return self.data["figures"]


@dataclass(slots=True)
class ArtifactWriter:
    """The open end of an artifact: files go into `path`, tallies and figures into the manifest.

    counts: what was kept. dropped: what was left out, by reason. figures: measured numbers (JSON values).
    headline: the one figure the run's table shows. resumed: the folder held work of an interrupted run.
    """

    path: Path
    resumed: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)
    headline: str = ""

    def copy(self, artifact: Manifest, *, without: Collection[str]) -> None:
        """Takes over the files of a finished artifact but those named."""
        for name in artifact.data["files"]:
            if name not in without:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.folder / name, self.path / name)


@contextmanager
def write_artifact(config: StageConfig, *, stage: str, resumable: bool = False) -> Iterator[ArtifactWriter]:
    """Opens `config.output`.partial for writing and turns it into the artifact when the block ends well.

    stage: the command that makes this artifact, without `ernie-kg` (`kg build`).
    resumable: an interrupted run of the same config and inputs leaves its partial folder, and the next goes on in
        it; otherwise an interruption removes the folder.

    Raises:
        InputError: another live process is writing the same folder; an input is missing or damaged; disk or memory
            ran out, or the folder cannot be written.
    """
    output = Path(config.output)
    partial = output.with_name(output.name + ".partial")
    print_of_run = fingerprint(stage, config)
    _check_inputs(config)
    lock: int | None = None
    try:
        lock = lock_folder(partial)
        writer = ArtifactWriter(path=partial, resumed=_open_partial(partial, print_of_run, resumable))
        clock = Clock()
        _reset_peak_memory()
        yield writer
        _write_manifest(writer, config, stage, print_of_run, clock)
        _replace(partial, output)
        (output / LOCK).unlink(missing_ok=True)
    except BaseException as error:
        if lock is not None:
            (partial / LOCK).unlink(missing_ok=True)
            if not resumable:
                shutil.rmtree(partial, ignore_errors=True)
        mendable = exhausted(error, where=str(partial))
        if mendable is not None:
            raise mendable from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def open_artifact(folder: Path, *, stage: str | Sequence[str]) -> Manifest:
    """The manifest of a finished artifact, its files' presence and sizes checked.

    stage: the command that makes it, named when the folder is not one; several where any of them will do.

    Flipped bits keep a file's size: `write_artifact` compares the digests of every artifact that a stage reads, and
    `damaged_files` those of one.

    Raises:
        InputError: no folder, no manifest, another stage's artifact, one of a newer version, a file missing, of
            another size, or outside the folder.
    """
    stages = (stage,) if isinstance(stage, str) else tuple(stage)
    makers = " or ".join(f"`ernie-kg {name}`" for name in stages)
    path = Path(folder) / MANIFEST
    if not path.exists():
        what = "holds no manifest.json, so it is no finished artifact" if Path(folder).exists() else "does not exist"
        raise InputError(f"{folder} {what}; make it with {makers}")
    data = read_manifest(folder).data
    if data["stage"] not in stages:
        raise InputError(f"{folder} was made by `ernie-kg {data['stage']}`, expected one made by {makers}")
    made_as = data.get("format", FORMAT)
    if not isinstance(made_as, int) or made_as > FORMAT:
        raise InputError(
            f"{folder} is of format {made_as}, written by version {data.get('version')}; this version reads up to "
            f"{FORMAT}: install the newer one, or make the folder again with {makers}"
        )
    for name, entry in data["files"].items():
        file = _file_of(folder, name)
        size = file.stat().st_size if file.exists() else None
        if size != entry["bytes"]:
            raise InputError(
                f"{file}: {'missing' if size is None else f'{size:,} bytes'}, the manifest says "
                f"{entry['bytes']:,} bytes; the artifact is damaged, delete {folder} and run "
                f"`ernie-kg {data['stage']}` again"
            )
    return Manifest(Path(folder), data)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of any artifact, unchecked but for being JSON with the expected keys."""
    path = Path(folder) / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete the folder and run its stage again") from None
    missing = {"stage", "digest", "fingerprint", "files"} - set(data)
    if missing:
        raise InputError(f"{path}: keys {sorted(missing)} are missing; delete the folder and run its stage again")
    return Manifest(Path(folder), data)


def damaged_files(folder: Path) -> list[str]:
    """Names of an artifact's files whose content no longer has the manifest's digest (reads every byte); the manifest
    itself where its list of files was changed after it was written."""
    data = read_manifest(folder).data
    changed = data["digest"] != _digest(data["fingerprint"], data["files"])
    return [MANIFEST] * changed + [
        name
        for name, entry in data["files"].items()
        if not (file := _file_of(folder, name)).exists() or _sha256(file) != entry["sha256"]
    ]


def fingerprint(stage: str, config: StageConfig) -> str:
    """What decides an artifact's content: stage, package version, config without its output, digests of the inputs.

    Fields that a config names in `WITHOUT_EFFECT` (how many processes work) decide nothing: another value goes on with
    an interrupted run, and a finished artifact stands.
    """
    settings = plain(config)
    for name in ("output", *getattr(config, "WITHOUT_EFFECT", ())):
        settings.pop(name)
    named = config.inputs()
    content = {
        "stage": stage,
        "version": package_version(),
        "config": _without_paths(settings, named),
        "inputs": {name: source_digest(path) for name, path in sorted(named.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def source_digest(path: Path) -> str:
    """Digest of an input's content: the manifest's for an artifact, SHA-256 for a file or a plain folder.

    Raises:
        InputError: nothing lies at the path.
    """
    path = Path(path)
    if (path / MANIFEST).exists():
        return read_manifest(path).digest
    if path.is_file():
        return _sha256(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    listing = [[p.relative_to(path).as_posix(), _sha256(p)] for p in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A config as JSON values: dataclasses to dictionaries, paths to text, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def package_version() -> str:
    try:
        return version("ernie-kg")
    except PackageNotFoundError:
        return "0+unknown"


def peak_memory_bytes() -> int:
    """Highest resident memory since the stage began (since the process began where the kernel cannot reset it)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True, slots=True)
class Clock:
    """When a stage began: the time of day for the reader, a clock that nobody sets for the seconds."""

    began: float = field(default_factory=time.time)
    ticks: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return round(time.monotonic() - self.ticks, 6)


def _check_inputs(config: StageConfig) -> None:
    """Refuses an input artifact whose bytes are no longer those its manifest was written for."""
    for name, path in config.inputs().items():
        if not (Path(path) / MANIFEST).exists():
            continue
        if damaged := damaged_files(path):
            raise InputError(
                f"{name} {path}: {damaged[0]} has other bytes than were written; the artifact is damaged, delete the "
                f"folder and run `ernie-kg {read_manifest(path).stage}` again"
            )


def _file_of(folder: Path, name: str) -> Path:
    """A file that a manifest names, refused where the name or a link leads out of the folder."""
    file = Path(folder) / name
    if not file.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f"{folder}: {name!r} lies outside the folder; copy an artifact of links with `cp -rL`, and trust none that "
            f"reaches for other files"
        )
    return file


def _open_partial(partial: Path, print_of_run: str, resumable: bool) -> bool:
    """Empties the folder unless it holds the work of an interrupted run of the same; whether it does."""
    state = partial / STATE
    resumed = resumable and state.exists() and state.read_text(encoding="utf-8") == print_of_run
    if not resumed:
        for path in partial.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    state.write_text(print_of_run, encoding="utf-8")
    return resumed


def _write_manifest(writer: ArtifactWriter, config: StageConfig, stage: str, print_of_run: str, clock: Clock) -> None:
    folder = writer.path
    (folder / STATE).unlink(missing_ok=True)
    write_card(folder, stage=stage, config=plain(config), inputs=config.inputs(), figures=writer.figures)
    files = {
        p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _sha256(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST and p != folder / LOCK
    }
    data = {
        "stage": stage,
        "format": FORMAT,
        "version": package_version(),
        "config": plain(config),
        "inputs": {name: {"path": str(path), "digest": source_digest(path)} for name, path in config.inputs().items()},
        "fingerprint": print_of_run,
        "digest": _digest(print_of_run, files),
        "seed": getattr(config, "seed", None),
        "counts": dict(writer.counts),
        "dropped": dict(writer.dropped),
        "figures": writer.figures,
        "headline": writer.headline,
        "files": files,
        "resumed": writer.resumed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.began)),
        "seconds": clock.seconds(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    unfinished = folder / (MANIFEST + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / MANIFEST)


def _digest(print_of_run: str, files: Mapping[str, Any]) -> str:
    """Of an artifact's content: what it was made from, and every file's bytes."""
    content = {"fingerprint": print_of_run, "files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _replace(partial: Path, output: Path) -> None:
    """Renames the finished folder into place; an older artifact of that name goes only once the new one stands."""
    retired = output.with_name(output.name + ".retired")
    shutil.rmtree(retired, ignore_errors=True)
    if output.exists():
        output.rename(retired)
    partial.rename(output)
    shutil.rmtree(retired, ignore_errors=True)


def _without_paths(settings: Any, named: Mapping[str, Path]) -> Any:
    """Settings in which an input's path is replaced by its name: moving a folder does not change what it holds."""
    names = {str(path): name for name, path in named.items()}
    if isinstance(settings, dict):
        return {key: _without_paths(value, named) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_without_paths(value, named) for value in settings]
    return f"<{names[settings]}>" if isinstance(settings, str) and settings in names else settings


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def release_memory() -> None:
    """Gives freed memory back to the system: between steps, and so that a stage's peak is not that of another."""
    gc.collect()
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak_memory() -> None:
    """Asks Linux to forget the peak so far; without permission the peak is the process's, which is only larger."""
    release_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
