"""Progress of a long step: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
QUIET_SECONDS = 2.0
LOG_SECONDS = 15.0


class Progress:
    """Counts `advance` calls towards `total`; shows nothing for work that ends within two seconds.

    total: number of units, or None when the end is not known.
    """

    def __init__(self, description: str, total: int | None = None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.figures: dict[str, float | str] = {}
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = None

    def advance(self, units: int = 1, **figures: float | str) -> None:
        """Adds finished units; `figures` (loss, rate …) stand beside the bar."""
        self.done += units
        self.figures.update(figures)
        now = time.monotonic()
        if now - self._started < QUIET_SECONDS:
            return
        if sys.stderr.isatty():
            self._show_bar()
        elif now - self._last_line >= LOG_SECONDS:
            self._last_line = now
            print(self._line(now), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_bar(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self.description, total=self.total, figures="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done, figures=_render(self.figures))

    def _line(self, now: float) -> str:
        of = f"/{self.total:,}" if self.total is not None else ""
        seconds = now - self._started
        return f"  {self.description}: {self.done:,}{of} in {seconds:.0f} s {_render(self.figures)}".rstrip()


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Progress]:
    """A `Progress` that is taken off the screen when the block ends, also by an exception."""
    shown = Progress(description, total)
    try:
        yield shown
    finally:
        shown.close()


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yields `items`, one unit of progress each."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # pyrefly: ignore[bad-argument-type]
    with progress(description, total) as shown:
        for item in items:
            yield item
            shown.advance()


def _render(figures: dict[str, float | str]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
