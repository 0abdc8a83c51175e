"""Maps: footprints on land and sea, by what they are and which split they are of, or by a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from zlib import crc32

import numpy as np
import numpy.typing as npt

from stratacube.page.earth import Floats, Frame
from stratacube.page.picture import Picture, element, number
from stratacube.page.raster import Scale, coloured

__all__ = ["MOST_RINGS", "Crowd", "Place", "at_even_steps", "footprint_map"]

_WIDTH = 960.0
_TOP, _LEFT = 22.0, 54.0
_LINE = 22.0
MOST_RINGS = 400
"""Footprints that are drawn as outlines; of more, their middles are."""
_MOST_DOTS = 4000
"""Of a drawing that still opens at once; of more places, this many at even steps are drawn, and the map says so."""
_COLOURS = 8
_NEAR = 40.0
"""Degrees of longitude below which a small map says where on the Earth the large one is."""
_SMALL = 150.0
_SPLITS = ("train", "val", "test", "gap")


@dataclass(frozen=True)
class Place:
    """One footprint."""

    ring: npt.NDArray[np.float64]
    """Longitude and latitude, shape (points, 2); of one point, a dot."""
    label: str = ""
    """What is told of it where the pointer rests on it."""
    group: str = ""
    """What its colour says: a stratum."""
    split: str = ""
    """What its outline says."""
    value: float | None = None
    """What its colour says instead, from 0 to 1."""
    link: str = ""
    """Where a click leads."""


@dataclass(frozen=True)
class Crowd:
    """What a map tells of all places where it draws some: of a million, each as an object would fill a gigabyte."""

    points: Floats
    """Longitude and latitude of all, shape (n, 2)."""
    number: int
    groups: Mapping[str, int]
    """How many are of each group."""
    splits: Mapping[str, int]
    """How many are of each split."""

    @classmethod
    def of(cls, places: Sequence[Place]) -> Crowd:
        """All of the places that are given."""
        points = np.concatenate([place.ring for place in places]) if places else np.empty((0, 2))
        return cls(points, len(places), Counter(p.group for p in places), Counter(p.split for p in places))


def at_even_steps(number: int) -> npt.NDArray[np.int64]:
    """Which of so many places a map draws."""
    return np.unique(np.linspace(0, number - 1, min(number, _MOST_DOTS)).round().astype(int))


def footprint_map(
    places: Sequence[Place],
    *,
    alt: str,
    refused: Floats | None = None,
    what: str = "",
    width: float = _WIDTH,
    crowd: Crowd | None = None,
) -> Picture:
    """Draw footprints on the land they lie on, coloured by group, or by a value where they have one.

    Parameters
    ----------
    places
        The footprints. Of more than 400, the middles are drawn.
    alt
        What the map shows, in words.
    refused
        Longitude and latitude of places that were looked at and not taken, shape (n, 2): small grey dots.
    what
        What a value means: the title of its scale.
    width
        Pixels.
    crowd
        All places, where those that are given are the ones of :func:`at_even_steps`.

    Returns
    -------
    Picture
        An SVG drawing.
    """
    if crowd is None:
        crowd, places = Crowd.of(places), [places[i] for i in at_even_steps(len(places))]
    grey = np.empty((0, 2)) if refused is None else np.asarray(refused, "f8").reshape(-1, 2)
    points = np.concatenate([crowd.points, grey])
    frame = Frame.around(points, width - _LEFT)
    groups = _by_number(crowd.groups)
    mark = f"m{crc32(alt.encode()):08x}"  # of several drawings on a page, each needs names of its own
    parts = [*_ground(frame, mark)]
    inner = [*_dots(frame, grey)]
    inner += [_drawn(frame, place, groups, dots=crowd.number > MOST_RINGS) for place in places]
    parts.append(_clipped(frame, inner, mark))
    if len(points) and frame.east - frame.west < _NEAR:
        parts.append(_locator(frame, mark))
    legend, height = _legend(crowd, groups, len(grey), len(places), (what, mark), frame.height + _TOP + 18)
    return Picture(alt, width, height, drawing="".join([*parts, *legend]))


def _by_number(names: Iterable[str]) -> dict[str, int]:
    return {name: n for n, name in enumerate(sorted({*names}))}


def _ground(frame: Frame, mark: str) -> list[str]:
    """Sea, land, and the net of meridians and parallels."""
    land = "".join(_path(ring) for ring in frame.land())
    sea = element("rect", class_="sea", width=frame.width, height=frame.height)
    net = "".join(f"M{number(x)} 0V{number(frame.height)}" for *_, x in frame.meridians())
    net += "".join(f"M0 {number(y)}H{number(frame.width)}" for *_, y in frame.parallels())
    clip = element("clipPath", element("rect", width=frame.width, height=frame.height), id=mark)
    lines = element("path", class_="grid", d=net)
    inner = element("g", sea, element("path", class_="land", d=land), lines, clip_path=f"url(#{mark})")
    words = [
        *(
            element("text", text, class_="soft mid", x=x + _LEFT, y=_TOP - 8)
            for _, text, x in frame.meridians()
            if 14 < x < frame.width - 14
        ),
        *(
            element("text", text, class_="soft end", x=_LEFT - 6, y=y + _TOP + 4)
            for _, text, y in frame.parallels()
            if 6 < y < frame.height - 4
        ),
    ]
    return [clip, *words, element("g", inner, transform=f"translate({number(_LEFT)} {number(_TOP)})")]


def _clipped(frame: Frame, inner: Sequence[str], mark: str) -> str:
    rim = element("rect", class_="rim", width=frame.width, height=frame.height)
    drawn = element("g", *inner, clip_path=f"url(#{mark})")
    return element("g", drawn, rim, transform=f"translate({number(_LEFT)} {number(_TOP)})")


def _locator(frame: Frame, mark: str) -> str:
    """Draw a small map of the Earth with the place of the large one, in its lower right corner."""
    whole = Frame(0.0, -180.0, 180.0, -60.0, 80.0, _SMALL)
    land = element("path", class_="land", d="".join(_path(ring) for ring in whole.land()))
    low, high = (whole.pixels(frame.corners, whole=True)[n] for n in (3, 1))
    middle, size = (low + high) / 2, np.maximum(high - low, 7.0)
    x, y = (float(v) for v in middle - size / 2)
    box = element("rect", class_="shape c6", x=x, y=y, width=float(size[0]), height=float(size[1]))
    ground = element("rect", class_="sea", width=_SMALL, height=whole.height)
    rim = element("rect", class_="rim", width=_SMALL, height=whole.height)
    clip = element("clipPath", element("rect", width=_SMALL, height=whole.height), id=f"{mark}w")
    inner = element("g", ground, land, box, rim, clip_path=f"url(#{mark}w)")
    left, top = _LEFT + frame.width - _SMALL - 10, _TOP + frame.height - whole.height - 10
    return element("g", clip, inner, transform=f"translate({number(left)} {number(top)})")


def _path(pixels: Floats) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in pixels) + "Z"


def _dots(frame: Frame, places: Floats) -> list[str]:
    if not len(places):
        return []
    spots = sorted({(round(x), round(y)) for x, y in frame.pixels(places)})
    path = "".join(f"M{x - 1} {y - 1}h2v2h-2z" for x, y in spots)
    return [element("path", class_="solid c7", fill_opacity=0.55, d=path)]


def _drawn(frame: Frame, place: Place, groups: dict[str, int], *, dots: bool) -> str:
    colour, paint = f"c{groups[place.group] % _COLOURS}", None
    if place.value is not None:
        colour, paint = "", f"color:{_ramp(place.value)}"
    split = f"s{_SPLITS.index(place.split)}" if place.split in _SPLITS else "s0"
    title = [element("title", escape(place.label))] if place.label else []
    pixels = frame.pixels(place.ring, whole=True)
    kind = "shape" if place.value is None else "solid"
    if dots or len(place.ring) == 1:
        x, y = (float(v) for v in pixels.mean(axis=0))
        mark = element("circle", *title, class_=f"solid {colour}", style=paint, cx=x, cy=y, r=2.2 if dots else 4.0)
    elif np.ptp(pixels, axis=0).max() < 7:  # an outline of so few pixels would be a speck
        x, y = (float(v) for v in pixels.mean(axis=0))
        mark = element("rect", *title, class_=f"solid {colour}", style=paint, x=x - 3.5, y=y - 3.5, width=7, height=7)
    else:
        mark = element("path", *title, class_=f"{kind} {colour} {split}", style=paint, d=_path(pixels))
    if not place.link:
        return mark
    # whoever goes by keyboard has the same links in the list below, and need not step through hundreds here
    return element("a", mark, href=place.link, tabindex=-1, aria_label=place.label or place.link)


def _ramp(share: float) -> str:
    return "#" + bytes(coloured(np.array([[share]]), Scale(0.0, 1.0))[0, 0, :3]).hex()


def _legend(
    crowd: Crowd, groups: dict[str, int], refused: int, shown: int, what: tuple[str, str], top: float
) -> tuple[list[str], float]:
    """Draw what colours and outlines mean, in lines as long as the map is wide; and the height with it."""
    entries: list[tuple[str, str]] = []
    if what[0]:
        return _scale(*what, top), top + 2 * _LINE
    for name, n in groups.items():
        colour = f"c{n % _COLOURS}"
        entries.append(
            (element("rect", class_=f"shape {colour}", width=14, height=10), f"{name or 'items'}  {crowd.groups[name]}")
        )
    for n, split in enumerate(_SPLITS):
        if count := crowd.splits.get(split, 0):
            entries.append((element("rect", class_=f"shape c7 s{n}", width=14, height=10), f"{split}  {count}"))
    if refused:
        square = element("rect", class_="solid c7", fill_opacity=0.55, x=5, y=3, width=4, height=4)
        entries.append((square, f"refused  {refused}"))
    if shown < crowd.number:
        entries.append(("", f"{shown} of {crowd.number} are drawn"))
    drawn, x, y = [], _LEFT, top
    for mark, text in entries:
        wide = 40 + 7.0 * len(text)
        if x > _LEFT and x + wide > _WIDTH:
            x, y = _LEFT, y + _LINE
        drawn.append(element("g", mark, transform=f"translate({number(x)} {number(y - 9)})"))
        drawn.append(element("text", escape(text), x=x + 20, y=y))
        x += wide
    return drawn, y + 10


def _scale(what: str, mark: str, top: float) -> list[str]:
    stops = [element("stop", offset=f"{n * 12.5}%", stop_color=_ramp(n / 8)) for n in range(9)]
    bar = element("rect", x=_LEFT, y=top - 8, width=240, height=10, fill=f"url(#{mark}r)")
    ticks = [element("text", f"{n * 25} %", class_="soft mid", x=_LEFT + 60.0 * n, y=top + 18) for n in range(5)]
    title = element("text", escape(what), x=_LEFT + 262, y=top + 1)
    return [element("linearGradient", *stops, id=f"{mark}r"), bar, *ticks, title]
