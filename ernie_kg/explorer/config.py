"""What `ernie-kg explore` is told. Importing this loads no server, so that its help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """Which run, and at which port."""

    folder: Path
    """Folder of a run (`runs/quickstart`): its graph, vectors, linker, task models, students and exported files."""
    port: int = 8000
    """Port on 127.0.0.1; 0 takes any free one."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")


def explore(config: ExploreConfig) -> str:
    """Serves the page until Ctrl-C; returns the last line to print.

    Raises:
        InputError: no graph in the folder, the extra `explorer` is not installed, or the port is taken.
    """
    from ernie_kg.explorer.serve import serve

    serve(config.folder, port=config.port)
    return "explorer closed"
