"""The fenced blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("api.md", "reference.md")
"""Written from docstrings and configs by `scripts/`; their blocks are signatures."""
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.name not in GENERATED)
LANGUAGES = {"sh", "python", "yaml", "json", "text"}
NOT_RUN = re.compile(r"^\s*<!-- not run: (.+?) -->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the page, the line it begins at, its language ("" for none), its text, and where the page says
    in a comment before it why it cannot run, that reason."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The lines of a shell block as words; comments are cut off, lines that end in \\ joined."""
        lines = self.text.replace("\\\n", " ").split("\n")
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order. Raises AssertionError for one that is never closed."""
    found: list[Block] = []
    opened: tuple[int, str, str, str] | None = None
    lines: list[str] = []
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        fence = re.match(r"^(\s*)```(\w*)\s*$", line)
        if fence and opened is None:
            reason = NOT_RUN.match(before)
            opened, lines = (number, fence[2], fence[1], reason[1] if reason else ""), []
        elif fence and opened is not None:
            found.append(Block(page, opened[0], opened[1], "\n".join(lines), opened[3]))
            opened = None
        elif opened is not None:
            lines.append(line.removeprefix(opened[2]))
        before = line or before
    assert opened is None, f"{page}: the block of line {opened and opened[0]} is never closed"
    return found


ALL = [block for page in PAGES for block in blocks(page)]
SHOWN = [page for page in PAGES if any(block.language not in ("", "text") for block in blocks(page))]
"""Pages with anything to run."""
