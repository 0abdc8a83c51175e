"""A picture of a plan: where tiles were asked for, found and refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cube.strata.streams import Tally
from stratacube.files import whole_file

__all__ = ["draw_plan"]

_WIDTH, _EDGE = 1080, 40
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178))
"""Okabe and Ito's, which colour-blind readers tell apart."""
_REFUSED = (110, 110, 110)
_LEAST_SPAN = 4.0
"""Degrees that the picture shows at least."""


def draw_plan(path: Path, tiles: pd.DataFrame, tallies: Sequence[Tally]) -> None:
    """Draw the centres of a plan's tiles by stratum, and in grey the places that were refused.

    Parameters
    ----------
    path
        Of the PNG.
    tiles
        Rows of the plan.
    tallies
        What was asked, found and refused.
    """
    refused = np.array([place[:2] for tally in tallies for place in tally.refused_at]).reshape(-1, 2)
    taken = tiles[["longitude", "latitude"]].to_numpy("f8")
    frame = _Frame(np.concatenate([taken, refused]))
    font = ImageFont.load_default(size=12)
    names = sorted(set(tiles["stratum"]))
    legend = [f"{name}: {int((tiles['stratum'] == name).sum())} tiles" for name in names]
    legend += [f"refused: {sum(sum(t.refused.values()) for t in tallies)} candidates, of which {len(refused)} drawn"]
    image = Image.new("RGB", (_WIDTH, frame.height + 18 * len(legend) + 2 * _EDGE), (16, 16, 16))
    draw = ImageDraw.Draw(image)
    for text, line, place in frame.lines():
        draw.line(line, fill=(60, 60, 60))
        draw.text(place, text, fill=(150, 150, 150), font=font)
    for x, y in frame.pixels(refused):
        draw.rectangle((x - 1, y - 1, x, y), fill=_REFUSED)
    for number, name in enumerate(names):
        for x, y in frame.pixels(taken[(tiles["stratum"] == name).to_numpy()]):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_COLOURS[number % len(_COLOURS)])
    for number, text in enumerate(legend):
        colour = _COLOURS[number % len(_COLOURS)] if number < len(names) else _REFUSED
        top = frame.height + 2 * _EDGE - 8 + 18 * number
        draw.rectangle((_EDGE, top, _EDGE + 10, top + 10), fill=colour)
        draw.text((_EDGE + 18, top - 3), text, fill=(220, 220, 220), font=font)
    with whole_file(path) as part:
        image.save(part, format="PNG", optimize=True)


class _Frame:
    """Degrees to pixels, over the antimeridian where places lie on both sides of it."""

    def __init__(self, places: npt.NDArray[np.float64]) -> None:
        lon, lat = places.T
        self._middle = float(np.degrees(np.angle(np.exp(1j * np.radians(lon)).mean())))
        offset = (lon - self._middle + 180.0) % 360.0 - 180.0
        self._west, east = self._span(offset, 180.0)
        south, self._north = self._span(lat, 90.0)
        self._scale = (_WIDTH - 2 * _EDGE) / (east - self._west)
        self._east, self._south = east, south
        self.height = max(1, round((self._north - south) * self._scale))

    @staticmethod
    def _span(values: npt.NDArray[np.float64], most: float) -> tuple[float, float]:
        middle = (values.min() + values.max()) / 2
        half = max(values.max() - middle, _LEAST_SPAN / 2) * 1.05
        return max(middle - half, -most), min(middle + half, most)

    def pixels(self, places: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
        """Pixels of longitudes and latitudes."""
        lon, lat = places.T
        x = _EDGE + ((lon - self._middle + 180.0) % 360.0 - 180.0 - self._west) * self._scale
        y = _EDGE + (self._north - lat) * self._scale
        return [(round(a), round(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]

    def lines(self) -> list[tuple[str, tuple[float, ...], tuple[float, float]]]:
        """Meridians and parallels: text, line and where the text stands."""
        span = max(self._east - self._west, 1e-9)
        step = next((s for s in (0.5, 1, 2, 5, 10, 20) if span / s <= 12), 30)
        bottom, right = _EDGE + self.height, _WIDTH - _EDGE
        found: list[tuple[str, tuple[float, ...], tuple[float, float]]] = []
        for lon in np.arange(np.ceil((self._west + self._middle) / step), (self._east + self._middle) / step) * step:
            x = _EDGE + (lon - self._middle - self._west) * self._scale
            told = (lon + 180.0) % 360.0 - 180.0
            found.append((f"{told:g}", (x, _EDGE, x, bottom), (x + 2, float(_EDGE))))
        for lat in np.arange(np.ceil(self._south / step), self._north / step) * step:
            y = _EDGE + (self._north - lat) * self._scale
            found.append((f"{lat:g}", (_EDGE, y, right, y), (2.0, y - 7)))
        return found
