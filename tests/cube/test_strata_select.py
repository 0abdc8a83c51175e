"""The selector: limits, spacing, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

import numpy as np
import pyproj
import pytest

from cube.strata.base import Candidate
from cube.strata.select import Limits, Placed, Selection, select
from cube.strata.streams import Stream
from stratacube.errors import UsageError

NOON = datetime(2020, 3, 20, 17, 0)  # near noon at 75 W on an equinox


def candidate(lat: float, lon: float, minutes: float = 0) -> Candidate:
    return Candidate(NOON + timedelta(minutes=minutes), lat, lon, "random", 1.0, 0.5)


def placed(found: Candidate) -> Placed[int]:
    zenith = float(np.hypot(found.latitude, found.longitude + 75))
    return Placed(found, found.time, found.latitude, found.longitude, zenith, 42)


def take(
    proposals: Iterable[Candidate],
    place: Callable[[Candidate], Placed[int] | str],
    limits: Limits,
    refusals: int = 100_000,
) -> Selection[int]:
    """Select from one stream."""
    return select([Stream("random", lambda: iter(proposals), 1.0, refusals)], lambda c, *_: place(c), limits)


def test_takes_in_order_and_stops_when_there_are_enough() -> None:
    seen = []

    def endless() -> Iterator[Candidate]:
        for i in range(1000):
            seen.append(i)
            yield candidate(i / 100, -75)

    selection = take(endless(), placed, Limits(num_tiles=5))
    assert [t.latitude for t in selection.tiles] == [0, 0.01, 0.02, 0.03, 0.04]
    assert seen == list(range(5))
    assert selection.drawn == 5
    assert not selection.refused
    assert take(endless(), placed, Limits(num_tiles=0)).drawn == 0


def test_counts_each_refusal_by_its_reason() -> None:
    def place(found: Candidate) -> Placed[int] | str:
        return "outside" if found.longitude == 0 else placed(found)

    proposals = [
        candidate(0, 0),
        candidate(50, -75),
        candidate(0, -10),
        candidate(0, -75, 12 * 60),
        candidate(5, -75),
        candidate(5.1, -75, 30),
    ]
    limits = Limits(max_view_zenith=60, max_solar_zenith=80, latitudes=(-45, 45), spacing_km=50, spacing_minutes=140)
    selection = take(proposals, place, limits)
    assert [t.latitude for t in selection.tiles] == [5]
    assert selection.refused == {"outside": 1, "latitude": 1, "view zenith": 1, "solar zenith": 1, "spacing": 1}
    assert selection.drawn == 6
    assert not selection.gave_up


def test_unknown_view_zenith_is_no_small_one() -> None:
    beyond = Placed(candidate(0, 0), NOON, 0.0, 0.0, float("nan"), 0)
    assert take([candidate(0, 0)], lambda _: beyond, Limits(max_view_zenith=80)).refused == {"view zenith": 1}


def test_spacing_is_great_circle_distance_among_tiles_near_in_time() -> None:
    rng = np.random.default_rng(1)
    proposals = [
        candidate(float(lat), float(lon), float(t))
        for lat, lon, t in zip(
            rng.uniform(-60, 60, 400), rng.uniform(-180, 180, 400), rng.uniform(-3000, 3000, 400), strict=True
        )
    ]
    limits = Limits(spacing_km=2500, spacing_minutes=700)
    taken = [t.candidate for t in take(proposals, placed, limits).tiles]
    sphere = pyproj.Geod(a=6371008.8, b=6371008.8)
    expected: list[Candidate] = []
    for new in proposals:
        near = (
            abs((new.time - old.time).total_seconds()) < 700 * 60
            and sphere.inv(new.longitude, new.latitude, old.longitude, old.latitude)[2] < 2.5e6
            for old in expected
        )
        if not any(near):
            expected.append(new)
    assert taken == expected
    assert 20 < len(taken) < 380


def test_gives_up_after_many_refusals_in_a_row() -> None:
    proposals = (candidate(0, -75) for _ in range(10_000))
    selection = take(proposals, lambda _: "no", Limits(num_tiles=1), 100)
    assert selection.gave_up
    assert selection.refused == {"no": 100}


def test_limits_that_no_tile_satisfies_are_refused() -> None:
    with pytest.raises(UsageError, match="reversed"):
        take([], placed, Limits(latitudes=(10, -10)))
    with pytest.raises(UsageError, match="cannot be -1"):
        take([], placed, Limits(num_tiles=-1))
