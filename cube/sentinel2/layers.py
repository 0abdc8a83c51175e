"""What a build can say of each pixel besides its bands: how far observations lie apart, which day it is, how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.registry import REDUCERS
from cube.sentinel2.reduce import Layers, Reducer, count_of, nan_median, parse_reducer
from stratacube.choices import nearest, one_of
from stratacube.errors import UsageError

__all__ = ["BCMAD", "DATE", "EMAD", "MONTHS", "NO_DAY", "SMAD", "added", "layers_of", "refuse_reducers"]

_F = npt.NDArray[np.float32]
_Days = npt.NDArray[np.int64]

NO_DAY = -9999
"""In place of a day where nothing was seen."""

_CACHED = 262144
"""Distances that stay in the processor's cache: a number for each vote of a pixel."""

_YEAR = tuple(range(1, 13))

_ROUND = "Roberts, Dunn and Mueller 2018, median over observations of the {} from the geometric median"


def layers_of(names: Sequence[str], months: Sequence[int]) -> dict[str, Layers]:
    """Return the layers that some reducers of a build give, in order: the name of each, and what it is.

    Parameters
    ----------
    names
        Of reducers with layers.
    months
        Months of the year that the build takes observations of.
    """
    found: dict[str, Layers] = {}
    for name in names:
        layers: Layers = REDUCERS.load(name).layers
        found |= dict.fromkeys(layers.names(tuple(months)), layers)
    return found


def refuse_reducers(reducer: str, also: Sequence[str]) -> None:
    """Refuse layers in place of a composite, and composites beside one.

    Raises
    ------
    UsageError
        If there are some, a name is none of a reducer's, or one compares observations with what is a count.
    """
    known = [n for n in REDUCERS.names() if getattr(REDUCERS.load(n), "layers", None) is not None]
    if reducer in known:
        raise UsageError(
            f"`reducer` is {reducer}, which gives layers beside a composite and no bands; "
            f"give `also={reducer}`, and a reducer such as median"
        )
    wrong = [name for name in also if name not in known]
    if wrong:
        raise UsageError(f"`also` has {wrong[0]!r}: give some of {one_of(known)}{nearest(wrong[0], known)}")
    if parse_reducer(reducer).counts:
        of_bands = [name for name in also if REDUCERS.load(name).layers.compares]
        if of_bands:
            raise UsageError(
                f"`also` has {of_bands[0]}, which compares observations with the composite, and `reducer` {reducer} "
                "makes none of them; leave one out, or give a reducer such as median"
            )


def added(
    names: Sequence[str],
    months: Sequence[int],
    stack: _F,
    there: npt.NDArray[np.bool_],
    composite: _F,
    days: _Days,
    reducer: str,
) -> Mapping[str, npt.NDArray[Any]]:
    """Make the layers of some pixels.

    Parameters
    ----------
    names, months
        As of :func:`layers_of`.
    stack
        Harmonised numbers, shape (bands, votes, rows, cols); NaN where not seen.
    there
        Where they are numbers.
    composite
        What the build's reducer made of it, shape (bands, rows, cols).
    days
        Of each vote, since 1970.
    reducer
        Of the build.
    """
    around: dict[str, _F] = {reducer: composite, "": composite}
    found: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        plug: Reducer = REDUCERS.load(name)
        assert plug.layers is not None
        centre = plug.layers.around
        if centre not in around:
            around[centre] = REDUCERS.load(centre).reduce(stack)
        with REDUCERS.blamed(name):
            given = there if plug.layers.counts else stack
            made = dict(zip(plug.layers.names(_YEAR), plug.reduce(given, around[centre], days), strict=True))
        found |= {layer: made[layer] for layer in plug.layers.names(tuple(months))}
    return found


def _once(name: str) -> Callable[[tuple[int, ...]], tuple[str, ...]]:
    def names(_: tuple[int, ...]) -> tuple[str, ...]:
        return (name,)

    return names


def _spread(stack: _F, centre: _F, distance: Callable[[_F, _F], _F]) -> _F:
    """Median of the distances of the votes that are seen in all bands."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.stack([distance(stack[:, vote], centre) for vote in range(stack.shape[1])] or [centre[0] * np.nan])
    return nan_median(apart)[None]


def _euclidean(vote: _F, centre: _F) -> _F:
    apart = (vote - centre) * np.float32(1e-4)
    return np.asarray(np.sqrt((apart * apart).sum(axis=0)))


def _cosine(vote: _F, centre: _F) -> _F:
    a, b = vote.astype("f8"), centre.astype("f8")  # 1 - cos is the little that is left of two near numbers
    return np.asarray(1 - (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)), "f4")


def _bray_curtis(vote: _F, centre: _F) -> _F:
    return np.asarray(np.abs(vote - centre).sum(axis=0) / np.abs(vote + centre).sum(axis=0))


def _emad(stack: _F, centre: _F, _: _Days) -> _F:
    return _spread(stack, centre, _euclidean)


def _smad(stack: _F, centre: _F, _: _Days) -> _F:
    return _spread(stack, centre, _cosine)


def _bcmad(stack: _F, centre: _F, _: _Days) -> _F:
    return _spread(stack, centre, _bray_curtis)


def _date(stack: _F, centre: _F, days: _Days) -> npt.NDArray[np.int32]:
    """Day of the vote that lies nearest to the composite in all bands together; the earliest of those equally near."""
    bands, votes = stack.shape[:2]
    found = np.full(stack.shape[2:], NO_DAY, "i4")
    # The earliest of votes that are equally near has the largest number, and 0 is that of none.
    earliest = np.argsort(days, kind="stable")[::-1]
    number = np.empty(votes, "u1" if votes < 256 else "u2")
    number[earliest] = np.arange(1, votes + 1)
    told = np.array([NO_DAY, *days[earliest]], "i4")
    height = max(1, _CACHED // max(1, votes * stack.shape[3]))
    for top in range(0, stack.shape[2] if votes else 0, height):
        rows = slice(top, top + height)
        apart = _squared(stack[0, :, rows] - centre[0, rows])
        for band in range(1, bands):
            apart += _squared(stack[band, :, rows] - centre[band, rows])
        nearest = apart == np.fmin.reduce(apart, axis=0)  # never where a band was not seen
        found[rows] = told[np.multiply(nearest.view("u1"), number[:, None, None]).max(axis=0)]
    return found[None]


def _squared(values: _F) -> _F:
    return np.multiply(values, values, out=values)


def _months(there: npt.NDArray[np.bool_], _: _F, days: _Days) -> npt.NDArray[np.uint16]:
    """Observations of each month of the year, the fewest of all bands, as the count of all is."""
    month = days.astype("M8[D]").astype("M8[M]").astype("i8") % 12
    found = np.zeros((12, *there.shape[2:]), "u2")
    for number in set(month.tolist()):
        votes = _slice_of(np.flatnonzero(month == number))
        fewest = count_of(there[0, votes])
        for band in there[1:]:
            np.minimum(fewest, count_of(band[votes]), out=fewest)
        found[number] = fewest
    return found


def _slice_of(places: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    """Places that follow one another as a slice, of which numpy makes no copy."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def _of_months(months: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"count_{month:02d}" for month in months)


def _apart(name: str, reduce: Callable[..., _F], distance: str) -> Reducer:
    layers = Layers(_once(name), "float32", np.nan, "1", _ROUND.format(distance), "geomedian")
    return Reducer(name, True, reduce, layers=layers)


EMAD = _apart("emad", _emad, "distance, as reflectance,")
SMAD = _apart("smad", _smad, "cosine distance")
BCMAD = _apart("bcmad", _bcmad, "Bray-Curtis distance")
DATE = Reducer(
    "date",
    True,
    _date,
    layers=Layers(
        _once("date"),
        "int32",
        NO_DAY,
        "days since 1970-01-01",
        "day of the observation nearest to the composite",
        compares=True,
    ),
)
MONTHS = Reducer(
    "months",
    True,
    _months,
    layers=Layers(
        _of_months, "uint16", 0, "1", "observations of a month of the year, fewest of all bands", counts=True
    ),
)
