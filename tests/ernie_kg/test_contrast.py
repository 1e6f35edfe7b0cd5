"""Text of the explorer and of the report can be read by weak eyes: WCAG 2.2, 1.4.3 asks for 4.5 to 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ernie_kg.style import STYLE

PAGE = Path(__file__).resolve().parents[2] / "ernie_kg/explorer/static/page.css"


def colours(css: str) -> dict[str, str]:
    """The named colours of a style sheet's `:root`."""
    return dict(re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})", css[css.index(":root") : css.index("}")]))


def luminance(colour: str) -> float:
    """Relative luminance, 0 for black to 1 for white."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_black_on_white_is_the_scale_s_end() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("css", [PAGE.read_text(encoding="utf-8"), STYLE], ids=["explorer", "report"])
def test_ink_can_be_read_on_every_ground(css: str) -> None:
    named = colours(css)
    for ground in ("paper", "tint", "mark"):
        for ink in ("ink", "soft"):
            assert contrast(named[ink], named[ground]) >= 4.5, f"{ink} on {ground}"
    drawn = [name for name in named if name not in ("paper", "tint", "mark", "line")]
    for name in drawn:
        assert contrast(named[name], named["paper"]) >= 4.5, name


def test_the_explorers_links_and_marks_can_be_read() -> None:
    named = colours(PAGE.read_text(encoding="utf-8"))
    assert contrast(named["blue"], named["mark"]) >= 4.5, "a link's note"
    assert contrast("#fff", named["blue"]) >= 4.5, "a button's words"
    assert contrast("#dce9fa", named["blue"]) >= 4.5, "the note of the chosen link"
