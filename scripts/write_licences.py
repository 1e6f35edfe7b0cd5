"""Writes docs/licences.md: the licence of every package that `constraints.txt` pins and that is installed here."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "licences.md"
HEAD = """# Licences

ernie-kg itself is Apache-2.0. Every package that `constraints.txt` pins, as its own metadata says
(`scripts/write_licences.py`). What `dev` alone needs is here too: tests and documentation use it, a user does not. The
data packages and their licences stand on the [first page](index.md).

| package | version | licence |
|---|---|---|
"""


def pinned() -> list[str]:
    """Names in constraints.txt, in its order."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0].strip() for line in lines if "==" in line and not line.startswith("#")]


def licence_of(name: str) -> tuple[str, str] | None:
    """Version and licence of an installed package; None where it is not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [
        text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or () if text.startswith("License")
    ]
    stated = about.get("License-Expression") or (about.get("License") or "").strip().split("\n")[0][:60]
    chosen = about.get("License-Expression") or ", ".join(classifiers) or stated or "not stated: see its repository"
    return about["Version"], re.sub(r"\s*\|\s*", "/", chosen)


def main() -> None:
    rows = [(name, found) for name in pinned() if (found := licence_of(name))]
    lines = [
        f"| {name} | {version} | {licence} |" for name, (version, licence) in sorted(rows, key=lambda r: r[0].lower())
    ]
    TARGET.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(lines)} of {len(pinned())} pinned packages are installed here")


if __name__ == "__main__":
    main()
