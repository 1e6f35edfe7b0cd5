"""`ernie-kg verify FOLDER`: reads every byte of a run's artifacts and compares it with what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.artifact import MANIFEST, damaged_files, read_manifest
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Which artifacts."""

    folder: Path
    """Folder of a run, or of one artifact."""


def verify(config: VerifyConfig) -> str:
    """One line an artifact.

    Raises:
        InputError: no artifact there, or a damaged file, named with the stage that makes it again.
    """
    folders = [path.parent for path in sorted(Path(config.folder).rglob(MANIFEST)) if ".partial" not in str(path)]
    if not folders:
        raise InputError(f"{config.folder}: no finished artifact lies in it")
    lines = []
    for folder in folders:
        manifest, damaged = read_manifest(folder), damaged_files(folder)
        if damaged:
            raise InputError(
                f"{folder}: {', '.join(damaged)} has other bytes than were written; delete the folder and run "
                f"`ernie-kg {manifest.stage}` again"
            )
        size = sum(entry["bytes"] for entry in manifest.data["files"].values())
        lines.append(f"whole  {folder}  {len(manifest.data['files'])} files, {size:,} bytes")
    return "\n".join(lines)
