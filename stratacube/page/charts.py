"""Charts: bars of what was asked and found, a calendar of what an archive has, lines over steps or seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np

from stratacube.page.picture import Picture, element, number

__all__ = ["Hours", "Series", "bars", "calendar", "columns", "lines", "ticks"]

_WIDTH = 960.0
_ROW = 24.0
_MOST_DAYS = 45
"""Days that are shown hour by hour; of more, each day is one cell."""
_MOST_POINTS = 600
"""Of a line: more than pixels can show."""

Hours = Mapping[tuple[date, int], tuple[int, int, int]]
"""By day and hour: scans found, of them with all that was asked for, and not fit to be used."""


def bars(rows: Sequence[tuple[str, int, int, str]], *, alt: str) -> Picture:
    """Draw a bar a row: how much of what was asked for was found.

    Parameters
    ----------
    rows
        Name, found, asked, and what else to say.
    alt
        What the chart shows, in words.
    """
    left = min(260.0, 24 + 7.2 * max((len(name) for name, *_ in rows), default=1))
    right = 250.0
    whole = _WIDTH - left - right
    most = max((max(found, asked) for _, found, asked, _ in rows), default=1) or 1
    parts = []
    for n, (name, found, asked, note) in enumerate(rows):
        y = n * _ROW + 6
        track, bar = whole * asked / most, whole * found / most
        told = f"{found} of {asked}"
        parts += [
            element("text", escape(name[:34]), class_="end", x=left - 12, y=y + 11),
            element("rect", class_="track", x=left, y=y, width=max(track, 1.0), height=14, rx=2),
            element("g", element("rect", class_="solid", x=left, y=y, width=bar, height=14, rx=2), class_="c0"),
            element("text", told, class_="strong", x=left + whole + 14, y=y + 11),
            element("text", escape(note[:28]), class_="soft", x=left + whole + 14 + 8.0 * len(told), y=y + 11),
        ]
    return Picture(alt, _WIDTH, len(rows) * _ROW + 8, drawing="".join(parts))


def columns(rows: Sequence[tuple[str, int, str]], *, alt: str) -> Picture:
    """Draw a column a row: how many there are.

    Parameters
    ----------
    rows
        Name, number, and where a click on it leads, empty for nowhere.
    alt
        What the chart shows, in words.
    """
    left, top, high = 64.0, 16.0, 120.0
    wide = _WIDTH - left - 16
    side = min(wide / max(1, len(rows)), 88.0)  # so wide that each of a few has its name below
    most = max((number_ for _, number_, _ in rows), default=1) or 1
    parts = []
    for value in ticks(0.0, most * 1.05, 3):
        y = top + high * (1 - value / (most * 1.05))
        parts.append(element("path", class_="grid", d=f"M{number(left)} {number(y)}h{number(wide)}"))
        parts.append(element("text", _short(value), class_="soft end", x=left - 8, y=y + 4))
    every = math.ceil(84 / side)
    for n, (name, count, link) in enumerate(rows):
        bar = high * count / (most * 1.05)
        x = left + n * side
        size = {"x": x + 1, "y": top + high - bar, "width": max(side - 3, 1.5), "height": bar, "rx": 1.5}
        mark = element("rect", element("title", escape(f"{name}: {count}")), class_="solid", **size)
        if link:
            mark = element("a", mark, href=link, tabindex=-1, aria_label=f"{name}: {count}")
        parts.append(element("g", mark, class_="c0"))
        if n % every == 0:
            parts.append(element("text", escape(name), class_="soft", x=x, y=top + high + 18))
    parts.append(element("path", class_="axis", d=f"M{number(left)} {number(top + high)}h{number(wide)}"))
    return Picture(alt, _WIDTH, top + high + 26, drawing="".join(parts))


def calendar(hours: Hours, *, alt: str) -> Picture:
    """Draw when an archive has what was asked for: by hour where days are few, else by day.

    A cell is the fuller, the more of its scans have all channels; one with a scan that is not fit to be used has a
    red rim; a dash is a time without a scan.

    Parameters
    ----------
    hours
        What there is.
    alt
        What the calendar shows, in words.
    """
    days = sorted({day for day, _ in hours})
    if not days:
        return Picture(alt, _WIDTH, 4.0, drawing=element("g"))
    by_hour = (days[-1] - days[0]).days < _MOST_DAYS
    cells: dict[tuple[str, int], list[int]] = {}
    for (day, hour), told in hours.items():
        key = (f"{day:%Y-%m-%d}", hour) if by_hour else (f"{day:%Y-%m}", day.day - 1)
        cells[key] = [a + b for a, b in zip(cells.get(key, [0, 0, 0]), told, strict=True)]
    names = [f"{date.fromordinal(n):%Y-%m-%d}" for n in range(days[0].toordinal(), days[-1].toordinal() + 1)]
    names = names if by_hour else list(dict.fromkeys(name[:7] for name in names))
    columns = 24 if by_hour else 31
    return _cells(names, columns, cells, "UTC hour" if by_hour else "Day", 0 if by_hour else 1, alt)


def _cells(
    names: Sequence[str], columns: int, cells: Mapping[tuple[str, int], list[int]], what: str, first: int, alt: str
) -> Picture:
    left, top, gap = 92.0, 24.0, 3.0
    side = (_WIDTH - left) / columns
    high = 18.0
    parts = [element("text", what, class_="soft end", x=left - 12, y=14)]
    for column in range(0, columns, 3 if columns == 24 else 5):
        x = left + column * side + (side - gap) / 2
        parts.append(element("text", str(column + first), class_="soft mid", x=x, y=14))
    for row, name in enumerate(names):
        y = top + row * (high + gap)
        parts.append(element("text", name, class_="end", x=left - 12, y=y + 13))
        for column in range(columns):
            x = left + column * side
            found, whole, unfit = cells.get((name, column), [0, 0, 0])
            if not found:
                dash = f"M{number(x + side / 2 - 4)} {number(y + high / 2)}h5"
                parts.append(element("path", class_="grid", d=dash))
                continue
            shade = "l1" if not whole else f"l{min(4, 1 + math.floor(3 * whole / found + 1e-9))}"
            told = f"{name}, {what.lower()} {column + first}: {whole} of {found} whole" + f", {unfit} unfit" * bool(
                unfit
            )
            bad = " bad" if unfit else ""
            title = element("title", told)
            size = {"x": x, "y": y, "width": side - gap, "height": high, "rx": 2}
            parts.append(element("rect", title, class_=f"{shade}{bad}", **size))
    bottom = top + len(names) * (high + gap) + 16
    x = left
    for shade, text in (("l1", "none whole"), ("l2", "a third"), ("l3", "two thirds"), ("l4", "all channels there")):
        parts.append(element("rect", class_=shade, x=x, y=bottom - 10, width=14, height=12, rx=2))
        parts.append(element("text", text, class_="soft", x=x + 20, y=bottom))
        x += 44 + 7 * len(text)
    parts.append(element("rect", class_="l3 bad", x=x, y=bottom - 10, width=14, height=12, rx=2))
    parts.append(element("text", "a scan not fit to be used", class_="soft", x=x + 20, y=bottom))
    return Picture(alt, _WIDTH, bottom + 8, drawing="".join(parts))


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    filled: bool = False
    """Whether the ground under it is tinted."""


def lines(series: Sequence[Series], *, alt: str, x: str, y: str, log: bool = False, zero: bool = False) -> Picture:
    """Draw lines over a common axis.

    Parameters
    ----------
    series
        The lines; what is not finite breaks none of them, it is left out.
    alt
        What the chart shows, in words.
    x, y
        What the axes show, with units.
    log
        Whether the upright axis is logarithmic; what is not positive is left out.
    zero
        Whether the upright axis begins at zero.
    """
    left, top, right, bottom = 64.0, 26.0, 16.0, 40.0
    wide, high = _WIDTH - left - right, 240.0
    kept = [(s, *_finite(s, log=log)) for s in series]
    xs = np.concatenate([a for _, a, _ in kept] or [np.zeros(0)])
    ys = np.concatenate([b for _, _, b in kept] or [np.zeros(0)])
    if not len(xs):
        return Picture(alt, _WIDTH, 4.0, drawing=element("g"))
    low_x, high_x = _span(xs)
    low_y, high_y = _span(np.append(ys, 0.0) if zero else ys)
    high_y += 0.04 * (high_y - low_y)

    def place(px: float, py: float) -> tuple[float, float]:
        return (
            left + (px - low_x) / (high_x - low_x) * wide,
            top + high - (py - low_y) / (high_y - low_y) * high,
        )

    parts = [element("text", escape(y), class_="soft", x=left, y=12)]
    for value in _log_ticks(low_y, high_y) if log else ticks(low_y, high_y, 5):
        _, spot = place(low_x, math.log10(value) if log else value)
        told = _short(value)
        parts.append(element("path", class_="grid", d=f"M{number(left)} {number(spot)}h{number(wide)}"))
        parts.append(element("text", told, class_="soft end", x=left - 8, y=spot + 4))
    for value in ticks(low_x, high_x, 8):
        spot, _ = place(value, low_y)
        parts.append(element("text", _short(value), class_="soft mid", x=spot, y=top + high + 18))
    base = f"M{number(left)} {number(top + high)}h{number(wide)}"
    parts.append(element("path", class_="axis", d=base))
    parts.append(element("text", escape(x), class_="soft end", x=left + wide, y=top + high + 34))
    for n, (one, px, py) in enumerate(kept):
        points = [place(float(a), float(b)) for a, b in zip(px, py, strict=True)]
        if not points:
            continue
        path = "M" + "L".join(f"{number(a)} {number(b)}" for a, b in points)
        shown = element("path", class_="run", d=path)
        if len(points) == 1:
            shown = element("circle", class_="solid", cx=points[0][0], cy=points[0][1], r=3.5)
        if one.filled:
            under = f"{path}V{number(top + high)}H{number(points[0][0])}Z"
            shown = element("path", class_="under", d=under) + shown
        parts.append(element("g", shown, class_=f"c{n % 8}"))
    parts += _names([one.name for one in series], left + wide)
    return Picture(alt, _WIDTH, top + high + bottom, drawing="".join(parts))


def _names(names: Sequence[str], right: float) -> list[str]:
    """Names of the lines with their colours, above the chart, ending at its right edge."""
    if len(names) < 2:
        return []
    parts, x = [], right
    for n, name in reversed([*enumerate(names)]):
        parts.append(element("text", escape(name), class_="end", x=x, y=12))
        x -= 7.2 * len(name) + 10
        parts.append(
            element("g", element("rect", class_="solid", x=x - 12, y=6, width=14, height=4), class_=f"c{n % 8}")
        )
        x -= 34
    return parts


def _finite(one: Series, *, log: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(one.x, "f8"), np.asarray(one.y, "f8")
    known = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log))
    x, y = x[known], y[known]
    if len(x) > _MOST_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    return x, np.log10(y) if log else y


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        widen = abs(low) * 0.1 or 1.0
        return low - widen, high + widen
    return low, high


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most)
    return [float(n * step) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: the powers, or where they are few, what lies between them."""
    if high - low < 1.5:
        return [tick for tick in ticks(10**low, 10**high, 5) if tick > 0]
    return [10.0**n for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
