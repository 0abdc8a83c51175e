"""The convection stratum: which systems it proposes, in which order, for which satellite."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.strata import Candidate, SampleRequest
from cube.strata.convection import ConvectionSampler
from cube.strata.windows import Frame, choose_window
from stratacube.errors import SourceError, UsageError
from tests.cube.test_strata_windows import candidate_times

LAT = np.arange(-39.96, 40.0, 0.48)
LON = 150.0 + 0.48 * np.arange(438)
DAY = datetime(2020, 6, 30)
SUBPOINT = {"goes16": -75.0, "goes17": -137.0, "goes19": -75.2}


def grid_of(scan: Scan) -> FixedGrid:
    projection = GeosProjection(35786023.0, 6378137.0, 6356752.31414, SUBPOINT[scan.platform])
    edge = 56e-6 * 5423 / 2
    return FixedGrid(projection, -edge, edge, 56e-6, -56e-6, 5424, 5424)


def scan(platform: str, start: datetime) -> Scan:
    return Scan(platform, "ABI-L1b-RadF", "F", 6, start, start + timedelta(minutes=9), {})


def scans(*platforms: str) -> list[Scan]:
    starts = [DAY + timedelta(minutes=10 * i, seconds=20) for i in range(144)]
    return [scan(p, t) for t in starts for p in platforms]


def request(*platforms: str, **more: Any) -> SampleRequest:
    return SampleRequest(**{"scans": scans(*platforms), "grid_of": grid_of, "tile_size": 256, **more})


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty square systems on a lattice: system s lives s % 7 + 1 steps from step s and grows by a ring a step."""
    labels = np.zeros((72, len(LAT), len(LON)))
    for system in range(1, 61):
        row, col = 15 + 27 * (system % 6), 12 + 41 * (system // 6)
        for age in range(system % 7 + 1):
            labels[system + age, row - age : row + age + 1, col - age : col + age + 1] = system
    path = tmp_path_factory.mktemp("masks") / "20200630_cloudsystems.nc"
    with h5py.File(path, "w") as out:
        out["lat"], out["lon"], out["time"] = LAT, LON, np.arange(72) / 3
        out["DCS_number"] = labels
    return str(path)


def place(system: int) -> tuple[float, float]:
    return LON[12 + 41 * (system // 6)], LAT[15 + 27 * (system % 6)]


def drawn(masks: str, wanted: SampleRequest, **options: Any) -> list[Candidate]:
    return list(ConvectionSampler(wanted, masks=masks, **options).candidates())


def test_each_system_comes_once_at_the_middle_of_its_life(masks: str) -> None:
    found = drawn(masks, request("goes16", "goes17"))
    assert sorted(c.system_id or 0 for c in found) == list(range(1, 61))
    for c in found:
        lon, lat = place(c.system_id or 0)
        life = (c.system_id or 0) % 7 + 1
        assert c.time == DAY + timedelta(minutes=20 * ((c.system_id or 0) + life // 2))
        assert (c.longitude % 360, c.latitude) == (pytest.approx(lon), lat)
        assert -180 <= c.longitude < 180
        pixels = c.details["system_pixels"]
        there = {time: n for time, n in pixels.items() if n}
        assert list(there.values()) == [(2 * age + 1) ** 2 for age in range(life)]
        assert list(there)[life // 2] == c.time
        assert list(pixels) == [DAY + timedelta(minutes=20 * i) for i in range(72)]  # where it is not there too
        assert (c.probability, c.weight, c.stratum) == (1.0, 1.0, "convection")


def test_all_records_and_probability(masks: str) -> None:
    every = drawn(masks, request("goes16", "goes17", num_tiles=10), records="all")
    assert len(every) == sum(s % 7 + 1 for s in range(1, 61))
    assert len({(c.system_id, c.time) for c in every}) == len(every)
    assert {c.probability for c in every} == {10 / len(every)}
    assert {c.probability for c in drawn(masks, request("goes16", "goes17", num_tiles=15))} == {15 / 60}


def test_order_depends_on_the_seed_alone(masks: str) -> None:
    first = drawn(masks, request("goes16", seed=1))
    assert first == drawn(masks, request("goes16", seed=1))
    other = drawn(masks, request("goes16", seed=2))
    assert [c.system_id for c in other] != [c.system_id for c in first]
    assert sorted(map(str, other)) == sorted(map(str, first))


def test_satellites_without_scans_are_not_looked_from(masks: str) -> None:
    both = {c.system_id: c.platform for c in drawn(masks, request("goes16", "goes17"))}
    east = {c.system_id: c.platform for c in drawn(masks, request("goes16"))}
    assert set(both.values()) == {"goes16", "goes17"}
    assert set(east.values()) == {"goes16"}
    assert {s for s, p in both.items() if p == "goes16"} < set(east)
    for system, platform in both.items():
        lon = place(system or 0)[0]
        assert platform == ("goes16" if lon > 254 else "goes17")


def test_platform_follows_the_change_of_satellite(masks: str) -> None:
    noon = DAY + timedelta(hours=12)
    changed = [s for s in scans("goes16") if s.start < noon] + [s for s in scans("goes19") if s.start > noon]
    found = drawn(masks, request(scans=changed))
    assert {(c.time < noon, c.platform) for c in found} == {(True, "goes16"), (False, "goes19")}
    around = [scan("goes16", noon - timedelta(minutes=1)), scan("goes19", noon + timedelta(minutes=5))]
    assert {c.platform for c in drawn(masks, request(scans=around)) if c.time == noon} == {"goes16"}


def test_limits_of_period_box_and_view_zenith(masks: str) -> None:
    start, end = DAY + timedelta(hours=4), DAY + timedelta(hours=8)
    everything = drawn(masks, request("goes16", "goes17"))
    found = drawn(masks, request("goes16", "goes17", start=start, end=end))
    assert {c.system_id for c in found} == {c.system_id for c in everything if start <= c.time <= end}
    boxed = drawn(masks, request("goes16", "goes17"), box=(170, -20, -150, 10))
    assert {c.system_id for c in boxed} == {
        c.system_id for c in everything if 170 <= c.longitude % 360 <= 210 and -20 <= c.latitude <= 10
    }
    assert boxed
    assert drawn(masks, request("goes16", "goes17"), box=(-180, -90, 180, 90)) == everything
    near = drawn(masks, request("goes16", "goes17", max_view_zenith=30))
    assert 0 < len(near) < len(everything)
    for c in everything:
        projection = grid_of(scan(c.platform or "", DAY)).projection
        inside = projection.view_angles(c.longitude, c.latitude)[0] <= 30
        assert inside == (c.system_id in {n.system_id for n in near})


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"start": datetime(2021, 1, 1)}, {}, "60 cloud systems, present from 2020-06-30T00:20:00 .* in the period"),
        ({}, {"box": (0, 0, 10, 10)}, r"in the box \(0, 0, 10, 10\)"),
        ({"max_view_zenith": 0.1}, {}, "within the view zenith limit of 0.1 degrees of goes16"),
        ({}, {"box": (151, -40, 170, 40)}, "in sight of goes16"),
    ],
)
def test_a_limit_that_leaves_no_system_is_named(
    masks: str, more: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        drawn(masks, request("goes16", **more), **options)


def test_wrong_options_are_refused(masks: str) -> None:
    with pytest.raises(UsageError, match='not "some"'):
        ConvectionSampler(request("goes16"), masks=masks, records="some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="south must be below north"):
        ConvectionSampler(request("goes16"), masks=masks, box=(0, 10, 10, 0))


def test_unreadable_scans_are_passed_over(masks: str) -> None:
    first = scans("goes16")[0]

    def only_later(wanted: Scan) -> FixedGrid:
        if wanted == first:
            raise SourceError("truncated")
        return grid_of(wanted)

    maker = ConvectionSampler(request("goes16", grid_of=only_later), masks=masks)
    assert list(maker.candidates()) == drawn(masks, request("goes16"))
    assert maker.problems == [(first.id, "truncated", True)]

    def none(_: Scan) -> FixedGrid:
        raise SourceError("truncated")

    with pytest.raises(UsageError, match="No scan can be read"):
        drawn(masks, request(scans=[first], grid_of=none))


def test_tables_go_with_the_records_chosen(masks: str, tmp_path: Path) -> None:
    maker = ConvectionSampler(request("goes16"), masks=masks, records="all")
    paths = maker.write_tables(tmp_path)
    assert [p.name for p in paths] == ["convection_metadata.csv", "convection_lifetimes.csv"]
    lines = [len(p.read_text().splitlines()) - 1 for p in paths]
    assert lines == [sum(s % 7 + 1 for s in range(1, 61)), 60]


def test_window_of_a_growing_system_is_the_one_that_holds_its_life(masks: str) -> None:
    event = next(c for c in drawn(masks, request("goes16", "goes17")) if c.system_id == 34)  # 7 steps, grows throughout
    pixels = event.details["system_pixels"]
    frames = [Frame(t, scan("goes16", t), 0) for t in candidate_times(event.time)]
    start = choose_window(frames, 7, bands=16, system_pixels=pixels).start
    assert [f.time for f in frames[start : start + 7]] == [time for time, n in pixels.items() if n]


def test_balanced_records_come_alike_from_all_stages_that_a_system_has(masks: str) -> None:
    """Each system once; how often a step of it comes is told by its chance, over the seeds."""
    counts: dict[tuple[int, datetime], int] = {}
    chances: dict[tuple[int, datetime], float] = {}
    seeds = 100
    maker = ConvectionSampler(request("goes16", "goes17"), masks=masks, records="balanced")
    for seed in range(seeds):
        maker.request = replace(maker.request, seed=seed)
        found = list(maker.candidates())
        assert sorted(c.system_id or 0 for c in found) == list(range(1, 61))
        for c in found:
            key = (c.system_id or 0, c.time)
            counts[key] = counts.get(key, 0) + 1
            chances[key] = c.probability
    for system in (6, 34):  # of 7 steps: stages of 2, 1, 2, 2 of them
        steps = sorted(time for one, time in chances if one == system)
        assert [chances[system, time] for time in steps] == [1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
        expected = np.array([chances[system, time] * seeds for time in steps])
        observed = np.array([counts[system, time] for time in steps])
        assert ((observed - expected) ** 2 / expected).sum() < 22.5  # chi-square of 6 degrees, p = 0.001


def test_limits_of_systems_are_kept_and_named(masks: str) -> None:
    found = drawn(masks, request("goes16"), limits={"min_lifetime_hours": 2, "life_stages": ["initiating"]})
    everything = drawn(masks, request("goes16"))
    assert {c.system_id for c in found} == {c.system_id for c in everything if (c.system_id or 0) % 7 + 1 >= 6}
    for c in found:
        life = (c.system_id or 0) % 7 + 1
        age = (c.time - DAY - timedelta(minutes=20 * (c.system_id or 0))) / timedelta(minutes=20)
        assert (age + 0.5) / life < 0.25
    with pytest.raises(UsageError, match=r"of min_area_km2 1000000000.0: widen that limit"):
        drawn(masks, request("goes16"), limits={"min_area_km2": 1e9})
