"""The random stratum, against brute force over every place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

import numpy as np
import pyproj
import pytest

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.strata import Candidate, Sampler, SampleRequest, place_tile
from cube.strata.random import RandomSampler, allowed_places, ground_area
from stratacube.errors import SourceError, UsageError

EAST = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)


def disk(size: int = 339, projection: GeosProjection = EAST) -> FixedGrid:
    """A full disk of large pixels: the real extent of 10848 pixels of 28 urad."""
    step = 28e-6 * 10848 / size
    edge = step * (size - 1) / 2
    return FixedGrid(projection, -edge, edge, step, -step, size, size)


def sector(row: int, col: int, size: int = 500) -> FixedGrid:
    edge = 28e-6 * 10847 / 2
    return FixedGrid(EAST, -edge + 28e-6 * col, edge - 28e-6 * row, 28e-6, -28e-6, size, size)


def scans(number: int = 6, name: str = "F") -> list[Scan]:
    first = datetime(2020, 1, 1)
    starts = [first + timedelta(minutes=10 * i) for i in range(number)]
    return [Scan("goes16", f"ABI-L1b-Rad{name}", name, 6, t, t + timedelta(minutes=9), {}) for t in starts]


def sampler(request: SampleRequest, area: Literal["solid_angle", "km2"] = "solid_angle") -> Sampler:
    return RandomSampler(request, area=area)


def request(grid: FixedGrid | Callable[[Scan], FixedGrid], size: int, **more: object) -> SampleRequest:
    grid_of = grid if callable(grid) else lambda _: grid
    fields = {"scans": scans(), "grid_of": grid_of, "tile_size": size, "num_tiles": 10, **more}
    return SampleRequest(**fields)  # type: ignore[arg-type]


def brute_force(
    grid: FixedGrid, size: int, align: int, margin: int, limit: float | None
) -> dict[tuple[int, int], float]:
    """Every allowed origin with the view zenith of its tile's centre, by trying them all."""
    allowed = {}
    for row in range(0, grid.height, align):
        for col in range(0, grid.width, align):
            inside = margin <= row <= grid.height - margin - size and margin <= col <= grid.width - margin - size
            if not inside:
                continue
            lon, lat = grid.lonlat(row + (size - 1) / 2, col + (size - 1) / 2)
            zenith = float(grid.projection.view_angles(lon, lat)[0])
            if zenith <= (90 if limit is None else limit):
                allowed[row, col] = zenith
    return allowed


@pytest.mark.parametrize("sweep", ["x", "y"])
@pytest.mark.parametrize(
    ("size", "align", "margin", "limit"), [(8, 2, 0, None), (9, 4, 5, 60.0), (30, 3, 10, 35.5), (2, 1, 0, 80.0)]
)
def test_places_are_those_that_brute_force_finds(
    sweep: str, size: int, align: int, margin: int, limit: float | None
) -> None:
    grid = disk(67, GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0, sweep))
    places = allowed_places(grid, size, align=align, margin=margin, max_view_zenith=limit)
    assert [places.origin(i) for i in range(places.count)] == list(brute_force(grid, size, align, margin, limit))


def test_places_of_a_sector_beside_the_meridian() -> None:
    for col in (200, 8000):
        grid = sector(1500, col, 60)
        places = allowed_places(grid, 10, align=2, max_view_zenith=66.0)
        expected = brute_force(grid, 10, 2, 0, 66.0)
        assert [places.origin(i) for i in range(places.count)] == list(expected)


def test_full_size_disk_is_counted_whole() -> None:
    places = allowed_places(disk(10848), 512, align=2, max_view_zenith=70.0)
    # Pixels within a zenith of 70 degrees fill a circle of scan angle asin(sin(70) * R / (R + h)).
    radius = np.arcsin(np.sin(np.radians(70)) * 6378.137 / (6378.137 + 35786.023)) / 28e-6
    assert places.count == pytest.approx(np.pi * radius**2 / 4, rel=0.005)


@pytest.mark.parametrize("sweep", ["x", "y"])
def test_ground_area_is_that_of_the_pixel_polygon(sweep: str) -> None:
    grid = disk(10848, GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0, sweep))
    geod = pyproj.Geod(a=6378137.0, b=6356752.31414)
    for row, col in [(5424, 5424), (5424, 1200), (1500, 5000), (8200, 8500), (2300, 2300)]:
        lon, lat = grid.lonlat(row + np.array([-0.5, -0.5, 0.5, 0.5]), col + np.array([-0.5, 0.5, 0.5, -0.5]))
        area = abs(geod.polygon_area_perimeter(lon, lat)[0]) * 1e-6
        assert float(ground_area(grid, row, col)) == pytest.approx(area, rel=1e-4)


def check_candidate(candidate: Candidate, grid: FixedGrid, size: int, align: int) -> None:
    window = place_tile(grid, candidate.longitude, candidate.latitude, size, align=align)
    assert window is not None
    assert (window.row, window.col) == (candidate.details["row"], candidate.details["col"])
    assert window.row % align == window.col % align == 0


def test_candidates_are_the_tiles_that_place_tile_finds_again() -> None:
    grid = disk(10848)
    wanted = request(grid, 512, align=2, max_view_zenith=75.0, seed=3)
    for candidate in islice(sampler(wanted).candidates(), 300):
        check_candidate(candidate, grid, 512, 2)
        zenith = grid.projection.view_angles(candidate.longitude, candidate.latitude)[0]
        assert zenith <= 75.0
        assert candidate.platform == "goes16"
        assert candidate.time in [s.start for s in wanted.scans]


def test_same_seed_same_candidates_and_another_seed_others() -> None:
    grid = disk()
    one, again, other = (list(islice(sampler(request(grid, 16, seed=seed)).candidates(), 50)) for seed in (7, 7, 8))
    assert one == again
    assert not set(map(str, one)) & set(map(str, other))


def test_all_places_come_once_and_then_it_ends() -> None:
    grid = disk(33)
    wanted = request(grid, 20, align=2, num_tiles=20)
    drawn = [(c.details["scan_id"], c.details["row"], c.details["col"]) for c in sampler(wanted).candidates()]
    expected = {(s.id, *origin) for s in wanted.scans for origin in brute_force(grid, 20, 2, 0, None)}
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == expected


@pytest.mark.parametrize("area", ["solid_angle", "km2"])
def test_draws_follow_the_probabilities_stated(area: str) -> None:
    grid = disk(40)
    number = 3
    counts: Counter[tuple[str, int]] = Counter()
    chance: dict[tuple[str, int], float] = {}
    runs = 2000
    for seed in range(runs):
        wanted = request(grid, 28, align=2, seed=seed, num_tiles=number, scans=scans(2))
        for c in islice(sampler(wanted, area).candidates(), number):
            key = (c.details["scan_id"], c.details["row"] * 100 + c.details["col"])
            counts[key] += 1
            chance[key] = c.probability
    places = brute_force(grid, 28, 2, 0, None)
    assert len(counts) == 2 * len(places)
    assert sum(chance.values()) == pytest.approx(number, rel=1e-9)
    expected = np.array([chance[k] * runs for k in counts])
    found = np.array([counts[k] for k in counts])
    chi2 = ((found - expected) ** 2 / expected).sum()
    assert chi2 < len(places) * 2 + 5 * np.sqrt(4 * len(places))
    if area == "km2":
        assert max(chance.values()) > 1.1 * min(chance.values())


def test_km2_draws_by_ground_area_on_a_wide_range() -> None:
    grid = disk(200)
    wanted = request(grid, 4, max_view_zenith=85.0, num_tiles=4000, scans=scans(40))
    drawn = list(islice(sampler(wanted, "km2").candidates(), 4000))
    geocentric = [np.hypot(c.latitude, c.longitude + 75) < 30 for c in drawn]
    inner = sum(
        float(ground_area(grid, r + 1.5, c + 1.5))
        for (r, c) in brute_force(grid, 4, 1, 0, 85.0)
        if np.hypot(*(v + o for v, o in zip(grid.lonlat(r + 1.5, c + 1.5), (75, 0), strict=True))) < 30
    )
    whole = allowed_places(grid, 4, max_view_zenith=85.0, by_area=True).total_weight
    assert np.mean(geocentric) == pytest.approx(inner / whole, abs=0.025)


def test_moving_sectors_are_placed_by_their_own_grid() -> None:
    list_ = scans(8, "M1")
    grids = {s.id: sector(2000 + 100 * i, 3000 + 200 * i) for i, s in enumerate(list_)}
    wanted = request(lambda s: grids[s.id], 128, align=2, scans=list_)
    seen = set()
    for candidate in islice(sampler(wanted).candidates(), 100):
        check_candidate(candidate, grids[candidate.details["scan_id"]], 128, 2)
        seen.add(candidate.details["scan_id"])
    assert len(seen) == 8


def test_only_scans_of_the_period_are_drawn() -> None:
    wanted = request(disk(), 16, start=datetime(2020, 1, 1, 0, 10), end=datetime(2020, 1, 1, 0, 30))
    times = {c.time.minute for c in islice(sampler(wanted).candidates(), 200)}
    assert times == {10, 20, 30}
    late = request(disk(), 16, start=datetime(2021, 1, 1))
    with pytest.raises(UsageError, match="No scan starts in the period 2021"):
        next(sampler(late).candidates())


def test_unreadable_scan_drops_only_itself() -> None:
    bad = scans()[2].id

    def grid_of(scan: Scan) -> FixedGrid:
        if scan.id == bad:
            raise SourceError("truncated")
        return disk(33)

    maker = sampler(request(grid_of, 28, align=2))
    drawn = {c.details["scan_id"] for c in maker.candidates()}
    assert len(drawn) == 5
    assert bad not in drawn
    assert maker.problems == [(bad, "truncated", True)]


def test_no_readable_scan_is_said() -> None:
    def grid_of(scan: Scan) -> FixedGrid:
        raise SourceError("truncated")

    with pytest.raises(UsageError, match=r"None of 6 scans can be read.*truncated"):
        next(sampler(request(grid_of, 28)).candidates())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tile_size": 400}, "400 x 400 pixels does not fit in sector F of 339 x 339"),
        ({"tile_size": 100, "margin": 120}, "margins of 120 pixels does not fit"),
        ({"grid_of": lambda _: sector(5000, 200, 60), "max_view_zenith": 40.0}, "view zenith limit of 40 degrees"),
        ({"grid_of": lambda _: sector(100, 100, 60)}, "centre on the Earth"),
    ],
)
def test_impossible_wishes_are_named(more: dict[str, object], message: str) -> None:
    wanted = request(disk(), 16)
    fields = {**wanted.__dict__, **more}
    with pytest.raises(UsageError, match=message):
        next(sampler(SampleRequest(**fields)).candidates())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match='not "miles"'):
        sampler(request(disk(), 16), "miles")
    with pytest.raises(UsageError, match="give `num_tiles`"):
        sampler(request(disk(), 16, num_tiles=None))


def test_place_tile_refuses_what_is_hidden_or_outside() -> None:
    assert place_tile(disk(), 105.0, 0.0, 16) is None
    assert place_tile(sector(5000, 5000), -75.0, 60.0, 16) is None
    assert place_tile(disk(), -75.0, 0.0, 16, margin=170) is None
    window = place_tile(disk(), -75.0, 0.0, 17, margin=160)
    assert window is not None
    assert (window.row, window.col) == (161, 161)


def test_place_tile_takes_the_nearest_aligned_origin() -> None:
    grid = disk(10848)
    rng = np.random.default_rng(0)
    for lon, lat in zip(rng.uniform(-120, -30, 200), rng.uniform(-45, 45, 200), strict=True):
        window = place_tile(grid, lon, lat, 65, align=4)
        assert window is not None
        row, col = grid.rowcol(lon, lat)
        assert abs(window.row + 32 - row) <= 2
        assert abs(window.col + 32 - col) <= 2


def test_a_draw_that_always_comes_to_the_same_place_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one place has all of the weight: the others come in their order, each once."""
    places = allowed_places(sector(5000, 5000, 40), 30, align=2)
    monkeypatch.setattr("cube.strata.random.Places.draw", lambda self, rng: self.count - 2)
    drawn = sampler(request(sector(5000, 5000, 40), 30, scans=scans(1), align=2)).candidates()
    found = [(c.details["row"], c.details["col"]) for c in drawn]
    assert found[0] == places.origin(places.count - 2)
    assert found[2] == places.origin(0)
    assert sorted(found) == [places.origin(i) for i in range(places.count)]
