"""A manifest's figures as HTML, chosen by the shape of the JSON value and never by its name.

| shape | shown as |
|---|---|
| number, text, [low, high] | a row of a table |
| list of three or more objects with `step` or `epoch` | curves over it, losses in one chart |
| list of [x, count], object with number keys | columns of a histogram |
| list of objects {low, high, a count}, or {x, a count} by rising x | columns of a histogram |
| list of objects {x, y} of numbers by rising x | one curve |
| list of objects with one number ≥ 0 and a name | bars |
| object of at least six numbers ≥ 0 | bars |
| objects with the same keys, list of objects | a table, on its side where it is wide and low |
| list of numbers | one curve |
| list of texts | lines of a fixed width |
| other objects | a part of their own |

Everything is escaped here; callers hand in plain values.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ernie_kg import svg

MIN_BARS = 6
MAX_COLUMNS = 60
MAX_ROWS = 200
WIDE = 6
"""Columns beyond which a table with fewer rows than columns is turned: a page is narrow and has no end."""
MIN_POINTS = 3
"""Points from which a curve says more than a table."""
LONG = 10
"""Rows beyond which a table stands alone, in columns or over the edge of a sheet of paper."""
X_KEYS = ("step", "epoch")
LOW_KEYS, HIGH_KEYS = ("low", "from", "lower"), ("high", "to", "upper")


def render_figures(figures: Mapping[str, Any], *, source: str, depth: int = 3) -> str:
    """Every figure of a mapping; what stands together in one table comes first, charts follow.

    source: the artifact's name, written under every table and chart. depth: heading level of parts inside.
    """
    cells = {name: value for name, value in figures.items() if is_cell(value)}
    parts = [pair_table(cells, source=source)] if cells else []
    rest = {name: value for name, value in figures.items() if name not in cells}
    for names in _alike(rest):
        rows = [{"": readable(name), **rest[name]} for name in names]
        parts.append(figure(row_table(rows), caption="", source=source, kind=_rows_kind(rows)))
        rest = {name: value for name, value in rest.items() if name not in names}
    parts += [_block(name, value, source=source, depth=depth) for name, value in rest.items()]
    return "".join(parts)


def pair_table(values: Mapping[str, Any], *, source: str, caption: str = "") -> str:
    """Two columns: name, value."""
    rows = "".join(
        f'<tr><th scope="row">{escape(readable(name))}</th><td>{cell(value)}</td></tr>'
        for name, value in values.items()
    )
    kind = "pairs long" if len(values) > LONG else "pairs"
    return figure(f"<table>{rows}</table>", caption=caption, source=source, kind=kind)


def row_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line an object (evenly thinned beyond `MAX_ROWS`), one column a key in order of first sight; one line a key
    where that would be wide and low."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    kept = svg.thinned(rows, MAX_ROWS)
    note = f"<p>{len(kept)} of {len(rows):,} lines</p>" if len(kept) < len(rows) else ""
    turned = len(columns) > WIDE and len(columns) > len(kept)
    scope = "row" if turned else "col"
    names = [f'<th scope="{scope}">{escape(readable(name))}</th>' for name in columns]
    cells = [[f"<td>{cell(row[key]) if key in row else ''}</td>" for key in columns] for row in kept]
    if turned:
        names, *cells = ([names[place], *(row[place] for row in cells)] for place in range(len(columns)))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return (
        f'{note}<div class="scroll"><table><thead><tr>{"".join(names)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def cell(value: Any) -> str:
    """One value of a table: numbers for readers, a pair of numbers as a range, anything else as JSON."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return f'<span class="number">{svg.number(value)}</span>'
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return cell(value[0])
    if is_range(value):
        return f'<span class="number">{svg.number(value[0])} – {svg.number(value[1])}</span>'
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, (list, tuple, Mapping)) and not value:
        return "none"
    return escape(json.dumps(value, ensure_ascii=False))


def is_cell(value: Any) -> bool:
    """Whether a value fits one cell of a table."""
    if isinstance(value, (list, tuple)) and len(value) <= 1:
        return all(map(is_cell, value))
    return value is None or isinstance(value, (bool, int, float, str)) or is_range(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every cell inside, lists of objects and charts left out.

    >>> list(flatten({"a": {"b": 1}, "c": [1, 2, 3]}))
    [('a.b', 1)]
    """
    for name, value in figures.items():
        if is_cell(value):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")


def readable(name: str) -> str:
    """`macro_f1` -> `macro f1`."""
    return name.replace("_", " ")


def _block(name: str, value: Any, *, source: str, depth: int) -> str:
    shown = _chart(name, value)
    if shown:
        return figure(shown, caption=readable(name), source=source, kind="curves" if _is_curve(value) else "chart")
    if isinstance(value, Mapping):
        inside = render_figures(value, source=source, depth=min(depth + 1, 6))
        return f"<section><h{depth}>{escape(readable(name))}</h{depth}>{inside or '<p>empty</p>'}</section>"
    if _is_rows(value):
        return figure(row_table(value), caption=readable(name), source=source, kind=_rows_kind(value))
    if _is_lines(value):
        lines = escape("\n".join(value))
        return figure(f'<pre class="scroll">{lines}</pre>', caption=readable(name), source=source, kind="rows long")
    return pair_table({name: value}, source=source)


def _chart(name: str, value: Any) -> str:
    """The picture of a value that has one, with its numbers folded away beneath; else an empty string."""
    title = readable(name)
    if _is_curve(value):
        if len(value) < MIN_POINTS:
            return ""
        return '<div class="charts">' + "".join(_curves(value, title)) + "</div>" + _folded(row_table(value))
    columns = _columns(value)
    if columns:
        rows = [{title: label, "count": count} for label, count in columns]
        return svg.column_chart(columns, title=title, x_label=title) + _folded(row_table(rows))
    points = _rising_pairs(value)
    if points:
        x, y = map(readable, value[0])
        return svg.line_chart({y: points}, title=title, x_label=x) + _folded(row_table(value))
    bars = _bars(value)
    if bars:
        rows = value if isinstance(value, list) else [{"name": label, "value": count} for label, count in bars]
        return svg.bar_chart(bars, title=title) + _folded(row_table(rows))
    if isinstance(value, list) and len(value) > 2 and all(is_number(item) for item in value):
        return svg.line_chart({title: list(enumerate(value))}, title=title, x_label="index")
    return ""


def _curves(rows: Sequence[Mapping[str, Any]], title: str) -> Iterator[str]:
    """One chart for all losses, one for every other measure with its chance, each over the step (or the epoch)."""
    x = _x_key(rows)
    names = dict.fromkeys(key for row in rows for key in row if key not in X_KEYS and is_number(row[key]))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("loss" if "loss" in name else _measured_by(name, names), []).append(name)
    for group, members in groups.items():
        series = {readable(name): [(row[x], row[name]) for row in rows if is_number(row.get(name))] for name in members}
        drawn = svg.line_chart(series, title=f"{title}: {readable(group)}", x_label=x)
        if drawn:
            yield f'<div class="chart"><p>{escape(readable(group))}</p>{drawn}</div>'


def _measured_by(name: str, names: Iterable[str]) -> str:
    """The measure that a chance level belongs to: `dea_chance` and `dea_accuracy` make one chart, as `dea_mrr_chance`
    and `dea_mrr` do."""
    if not name.endswith("_chance"):
        return name
    base = name.removesuffix("_chance")
    return next((other for other in (f"{base}_accuracy", base) if other in names), name)


def _columns(value: Any) -> list[tuple[str, float]]:
    """(label, count) of a histogram in any of its four shapes, in order of the axis; empty for anything else."""
    if isinstance(value, Mapping) and len(value) > 2 and all(map(_is_numeric_text, value)):
        pairs = sorted(((float(x), n) for x, n in value.items()), key=lambda pair: pair[0])
        return _binned(pairs) if all(is_number(n) for _, n in pairs) else []
    if not isinstance(value, list) or len(value) < 3:
        return []
    if all(is_range(item) for item in value):
        return _binned([(x, n) for x, n in value])
    rising = _rising_pairs(value)
    if rising and all(isinstance(count, int) and count >= 0 for _, count in rising):
        return _binned(rising)
    found: list[tuple[str, float]] = []
    for item in value:
        low, high = _first(item, LOW_KEYS), _first(item, HIGH_KEYS)
        others = [item[n] for n in item if n not in LOW_KEYS + HIGH_KEYS] if low is not None else []
        if len(others) != 1 or not is_number(low) or not is_number(others[0]):
            return []
        count = others[0]
        found.append((svg.number(low) if high in (None, low) else f"{svg.number(low)}–{svg.number(high)}", count))
    return found


def _rising_pairs(value: Any) -> list[tuple[float, float]]:
    """(x, y) of objects that all have the same two numbers, where the first of them rises; empty for anything else."""
    if not _is_rows(value) or len(value) < MIN_POINTS or any(list(row) != list(value[0]) for row in value):
        return []
    if any(len(row) != 2 or not all(map(is_number, row.values())) for row in value):
        return []
    pairs = [(x, y) for x, y in (row.values() for row in value)]
    return pairs if all(a[0] < b[0] for a, b in itertools.pairwise(pairs)) else []


def _binned(pairs: Sequence[tuple[float, float]]) -> list[tuple[str, float]]:
    """Columns as they are, or in bins that double (1, 2–3, 4–7 …) where there are over `MAX_COLUMNS` whole numbers."""
    if len(pairs) <= MAX_COLUMNS or any(x < 0 or x != int(x) for x, _ in pairs):
        return [(svg.number(x), n) for x, n in pairs]
    bins: dict[int, float] = {}
    for x, count in pairs:
        power = int(x).bit_length()
        bins[power] = bins.get(power, 0) + count
    return [(_bin_name(power), count) for power, count in sorted(bins.items())]


def _bin_name(power: int) -> str:
    """Numbers of `power` binary digits."""
    if power <= 1:
        return str(power)
    return f"{svg.number(2 ** (power - 1))}–{svg.number(2**power - 1)}"


def _alike(values: Mapping[str, Any]) -> list[list[str]]:
    """Names of two and more flat objects with the same keys, which make one table."""
    by_keys: dict[tuple[str, ...], list[str]] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value and all(map(is_cell, value.values())):
            by_keys.setdefault(tuple(sorted(value)), []).append(name)
    return [names for names in by_keys.values() if len(names) > 1]


def figure(content: str, *, caption: str, source: str, kind: str = "") -> str:
    """A figure with its caption and the artifacts its numbers come from.

    kind: its CSS classes. Short tables ("pairs", "rows") and a "chart" stand side by side where there is room; "long"
    tables and "curves" stand alone, and only a long table goes on over the next sheet of paper.
    """
    of_kind = f' class="{kind}"' if kind else ""
    what = f"<b>{escape(caption)}</b> " if caption else ""
    caption = f'<figcaption>{what}<span class="source">from {escape(source)}</span></figcaption>'
    return f"<figure{of_kind}>{content}{caption}</figure>"


def _rows_kind(rows: Sequence[Any]) -> str:
    return "rows long" if len(rows) > LONG else "rows"


def _folded(content: str) -> str:
    return f"<details><summary>numbers</summary>{content}</details>"


def _is_curve(value: Any) -> bool:
    return _is_rows(value) and bool(_x_key(value))


def _x_key(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a curve runs over, empty for rows that are no curve."""
    return next((key for key in X_KEYS if all(is_number(row.get(key)) for row in rows)), "")


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(line, str) for line in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _bars(value: Any) -> list[tuple[str, float]]:
    """(name, value) of an object of numbers of one kind, or of a list of objects with one number and a name."""
    found: list[tuple[str, float]] = []
    if isinstance(value, Mapping) and len(value) >= MIN_BARS:
        found = list(value.items())
    elif _is_rows(value) and len(value) > 1:
        for row in value:
            numbers = [item for item in row.values() if is_number(item)]
            texts = [item for item in row.values() if isinstance(item, str)]
            if len(numbers) != 1 or not texts or len(row) != 1 + len(texts):
                return []
            found.append((texts[-1] or texts[0], numbers[0]))
    kinds = {isinstance(item, int) for _, item in found}
    return found if len(kinds) == 1 and all(is_number(item) and item >= 0 for _, item in found) else []


def is_range(value: Any) -> bool:
    """Whether a value is a pair of numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_number(item) for item in value)


def _is_numeric_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first(item: Any, names: Sequence[str]) -> Any:
    return next((item[n] for n in names if n in item), None) if isinstance(item, Mapping) else None
