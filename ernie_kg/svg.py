"""Small charts as inline SVG text: lines over steps, bars, histograms, points, intervals. No script, no outside font.

Colours and text sizes come from the page's CSS classes (`series-0` … `series-5`, `axis`, `grid`, `bar`); every chart
carries its title for screen readers. All text is escaped here, callers hand in plain strings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeVar

WIDTH, HEIGHT = 460, 220
MAP_HEIGHT = 380
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34
NUM_COLOURS = 6
MAX_POINTS = 400
OTHER = "other"
"""A kind that is none of those with a colour of their own; also its CSS class."""

Points = Sequence[tuple[float, float]]
Item = TypeVar("Item")


def line_chart(series: Mapping[str, Points], *, title: str, x_label: str) -> str:
    """Lines over a common x axis, with a legend where there is more than one.

    series: name -> (x, y) in order of x; points that are not finite are left out, long series thinned to
        `MAX_POINTS`. Returns an empty string when nothing is left to draw.
    """
    finite = {name: thinned([p for p in points if _finite(p)]) for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return ""
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), 5), nice_ticks(min(ys), max(ys), 5)
    x_at = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_at = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y_ticks, y_at), _x_axis([(x_at(x), number(x)) for x in x_ticks if min(xs) <= x <= max(xs)])]
    for place, (name, points) in enumerate(finite.items()):
        drawn = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
        shape = f'<polyline points="{drawn}"/>'
        if len(points) == 1:
            shape = f'<circle cx="{x_at(points[0][0]):.1f}" cy="{y_at(points[0][1]):.1f}" r="3"/>'
        parts.append(f'<g class="line series-{place % NUM_COLOURS}"><title>{escape(name)}</title>{shape}</g>')
    legend = _legend(list(finite)) if len(finite) > 1 else ""
    return legend + _svg(parts, title=title, x_label=x_label, height=HEIGHT)


def column_chart(columns: Sequence[tuple[str, float]], *, title: str, x_label: str) -> str:
    """Upright columns in the order given, for histograms; labels are thinned until they fit.

    columns: (label, value ≥ 0). Where the largest is over 1,000 times the smallest above 0, the axis is logarithmic.
    """
    values = [value for _, value in columns if math.isfinite(value)]
    if not values or max(values) <= 0:
        return ""
    positive = [value for value in values if value > 0]
    logarithmic = max(positive) / min(positive) > 1000
    height_of = (lambda v: math.log10(v + 1)) if logarithmic else float
    ticks = _log_ticks(max(values)) if logarithmic else nice_ticks(0, max(values), 5)
    y_at = _scale(0, height_of(ticks[-1]), HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(columns)
    every = max(1, math.ceil(len(columns) * max(len(label) for label, _ in columns) * 7 / (WIDTH - LEFT - RIGHT)))
    bars, labels = [], []
    for place, (label, value) in enumerate(columns):
        if math.isfinite(value) and value >= 0:
            top = y_at(height_of(value))
            bars.append(
                f'<rect class="bar" x="{LEFT + place * step + step * 0.08:.1f}" y="{top:.1f}" '
                f'width="{step * 0.84:.1f}" height="{HEIGHT - BOTTOM - top:.1f}">'
                f"<title>{escape(label)}: {number(value)}</title></rect>"
            )
        if place % every == 0:
            labels.append((LEFT + (place + 0.5) * step, label))
    parts = [_y_axis(ticks, lambda tick: y_at(height_of(tick))), *bars, _x_axis(labels)]
    return _svg(parts, title=title, x_label=x_label + (" (log scale)" if logarithmic else ""), height=HEIGHT)


def bar_chart(bars: Sequence[tuple[str, float]], *, title: str, limit: int = 20) -> str:
    """Lying bars with name and value written out, the first `limit` of them in the order given.

    bars: (name, value ≥ 0); negative and infinite values are left out of the picture.
    """
    shown = [(name, value) for name, value in bars if math.isfinite(value) and value >= 0][:limit]
    largest = max((value for _, value in shown), default=0)
    if largest <= 0:
        return ""
    row, left, right = 20, 170, 70
    parts = []
    for place, (name, value) in enumerate(shown):
        width = (WIDTH - left - right) * value / largest
        y = place * row
        short = name if len(name) <= 25 else name[:24] + "…"
        parts.append(
            f'<text class="axis" x="{left - 6}" y="{y + 14}" text-anchor="end">{escape(short)}</text>'
            f'<rect class="bar" x="{left}" y="{y + 3}" width="{max(width, 1):.1f}" height="{row - 6}">'
            f"<title>{escape(name)}: {number(value)}</title></rect>"
            f'<text class="axis" x="{left + max(width, 1) + 5:.1f}" y="{y + 14}">{number(value)}</text>'
        )
    return _svg(parts, title=title, x_label="", height=row * len(shown))


def scatter_chart(points: Sequence[tuple[float, float, str, str]], *, title: str) -> str:
    """Points of a flat map without axes, coloured by kind, the commonest kinds first in the legend, `OTHER` last.

    points: (x, y, kind, name); the name is shown by the mouse. At most `NUM_COLOURS` kinds.
    """
    counts = Counter(kind for _, _, kind, _ in points)
    kinds = sorted(counts, key=lambda kind: (kind == OTHER, -counts[kind]))[:NUM_COLOURS]
    if not points:
        return ""
    x_at = _scale(min(p[0] for p in points), max(p[0] for p in points), 6, WIDTH - 6)
    y_at = _scale(min(p[1] for p in points), max(p[1] for p in points), 6, MAP_HEIGHT - 6)
    groups = []
    for place, kind in reversed(list(enumerate(kinds))):
        dots = "".join(
            f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="2"><title>{escape(name)}</title></circle>'
            for x, y, of, name in points
            if of == kind
        )
        groups.append(f'<g class="dots {_colour(kind, place)}">{dots}</g>')
    return _legend(kinds) + _svg(groups, title=title, x_label="", height=MAP_HEIGHT)


def interval_chart(rows: Sequence[tuple[str, float, tuple[float, float]]], *, title: str) -> str:
    """A dot with its interval for each row, on one axis.

    rows: (name, value, (low, high)).
    """
    numbers = [number for _, value, interval in rows for number in (value, *interval)]
    if not numbers or not all(map(math.isfinite, numbers)):
        return ""
    ticks = nice_ticks(min(numbers), max(numbers), 5)
    row, left, height = 24, 170, 24 * len(rows) + 22
    x_at = _scale(ticks[0], ticks[-1], left, WIDTH - 60)
    parts = [
        f'<line class="grid" x1="{x_at(tick):.1f}" x2="{x_at(tick):.1f}" y1="0" y2="{height - 20}"/>'
        f'<text class="axis" x="{x_at(tick):.1f}" y="{height - 5}" text-anchor="middle">{number(tick)}</text>'
        for tick in ticks
    ]
    for place, (name, value, (low, high)) in enumerate(rows):
        y = place * row + row / 2
        short = name if len(name) <= 25 else name[:24] + "…"
        parts.append(
            f'<text class="axis" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(short)}</text>'
            f'<g class="line series-{place % NUM_COLOURS}"><title>{escape(name)}: {number(value)} '
            f"({number(low)} to {number(high)})</title>"
            f'<polyline points="{x_at(low):.1f},{y} {x_at(high):.1f},{y}"/>'
            f'<circle cx="{x_at(value):.1f}" cy="{y}" r="4"/></g>'
            f'<text class="axis" x="{WIDTH - 52}" y="{y + 4}">{number(value)}</text>'
        )
    return _svg(parts, title=title, x_label="", height=height)


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers in steps of 1, 2 or 5 × 10ⁿ that enclose [low, high].

    >>> nice_ticks(0, 9.3, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number for a reader: thousands apart, about four digits, no trailing zeros.

    >>> number(82115), number(0.34567), number(2.0), number(1234567.8)
    ('82,115', '0.3457', '2', '1,234,568')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _svg(parts: Sequence[str], *, title: str, x_label: str, height: int) -> str:
    label = (
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 3}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        if x_label
        else ""
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}{label}</svg>"
    )


def _y_axis(ticks: Sequence[float], y_at) -> str:
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(t):.1f}" y2="{y_at(t):.1f}"/>'
        f'<text class="axis" x="{LEFT - 6}" y="{y_at(t) + 4:.1f}" text-anchor="end">{number(t)}</text>'
        for t in ticks
    ]
    return "".join(lines)


def _x_axis(labels: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(text)}</text>'
        for x, text in labels
    )


def _legend(names: Sequence[str]) -> str:
    items = "".join(f'<li class="{_colour(name, place)}">{escape(name)}</li>' for place, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _colour(name: str, place: int) -> str:
    return OTHER if name == OTHER else f"series-{place % NUM_COLOURS}"


def _scale(low: float, high: float, start: float, end: float):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _log_ticks(highest: float) -> list[float]:
    return [0.0, *(10.0**power for power in range(math.ceil(math.log10(highest)) + 1))]


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def thinned(items: Sequence[Item], limit: int = MAX_POINTS) -> Sequence[Item]:
    """At most `limit` (two or more) of the items, evenly spaced, first and last among them."""
    if len(items) <= limit:
        return items
    step = (len(items) - 1) / (limit - 1)
    return [items[round(i * step)] for i in range(limit)]
