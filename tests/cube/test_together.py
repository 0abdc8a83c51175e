"""Two satellites in one plan: each event by that which sees it best, by geometry that is not ours."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest

import cube
from cube.build import main
from cube.config import AbiConfig
from cube.testing import write_abi_archive
from stratacube.errors import UsageError

START = datetime(2020, 7, 1, 16)
SATELLITES = {"goes16": -75.0, "goes17": -137.0}
SIZE = 130
"""Pixels of 2 km along a side of the sectors."""
PLACE = (-106.0, 20.0)
"""As far from one satellite as from the other."""
TO_ECEF = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)


def corner(longitude: float) -> tuple[float, float]:
    """Where a sector round the place begins, as a satellite sees it, by PROJ."""
    geos = pyproj.Proj(proj="geos", h=35786023.0, lon_0=longitude, a=6378137.0, b=6356752.31414, sweep="x")
    x, y = np.array(geos(*PLACE)) / 35786023.0
    left, top = (round(float(n)) * 56 for n in (x / 56e-6 - SIZE / 2, y / 56e-6 + SIZE / 2))  # of the fixed grid
    return left / 1e6, top / 1e6


def view_zenith(satellite: str, lon: float, lat: float) -> float:
    """Angle between the zenith and the satellite, from Earth-centred vectors."""
    ground = np.array(TO_ECEF.transform(lon, lat, 0.0))
    above = np.array(TO_ECEF.transform(lon, lat, 1000.0))
    there = np.array(TO_ECEF.transform(SATELLITES[satellite], 0.0, 35786023.0))
    up, towards = above - ground, there - ground
    return float(np.degrees(np.arccos(up @ towards / np.linalg.norm(up) / np.linalg.norm(towards))))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both satellites for an hour; the western one has no scan in the second half of it."""
    root = tmp_path_factory.mktemp("archive")
    for name, longitude in SATELLITES.items():
        write_abi_archive(
            root, platform=name, sector="C", start=START, hours=1, corner=corner(longitude), channels=(7, 13),
            shape_2km=(SIZE, SIZE), workers=1,
        )  # fmt: skip
    for path in root.rglob("*_G17_s202018316[345]*"):
        path.unlink()
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    base = [
        "--domain",
        "C",
        "--channels",
        "7",
        "13",
        "--grid",
        "2km",
        "--tile-size",
        "16",
        "--steps",
        "1",
        "--screen",
        "off",
    ]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--quiet"]
    return main(["abi", *given, *base, *flags])


def test_each_event_is_of_the_satellite_that_sees_it_best_and_has_it(archive: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [
        {"time": f"2020-07-01T16:{m:02d}", "lat": PLACE[1] + y, "lon": PLACE[0] + x}
        for m in (5, 15, 45)
        for x, y in rng.uniform(-0.5, 0.5, (8, 2)).tolist()
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "events.csv", index=False)
    out = tmp_path / "out"
    flags = ["--stratification", "events", "--events", str(tmp_path / "events.csv"), "--tolerance-minutes", "6"]
    assert build(archive, out, "--satellite", "west", "east", *flags) == 0
    plan = pd.read_parquet(out / "plan.parquet")
    assert len(plan) == len(rows)
    assert {*plan["platform"]} == {*SATELLITES}
    late = plan["event_time"].dt.minute >= 30
    assert (plan["platform"][late] == "goes16").all()  # the other has no scan
    for tile in plan[~late].itertuples():
        best = min(SATELLITES, key=lambda s: view_zenith(s, tile.longitude, tile.latitude))
        assert tile.platform == best
        assert tile.view_zenith == pytest.approx(view_zenith(best, tile.longitude, tile.latitude), abs=0.01)
    tiles = cube.open_tiles(out, "brightness_temperature")
    seen_from = tiles["projection_longitude"].values
    assert seen_from.tolist() == pytest.approx([SATELLITES[p] for p in plan["platform"]], abs=0.3)
    assert np.isfinite(tiles["C13"].values).mean() > 0.9


def test_random_places_are_drawn_once_where_both_see_them(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(archive, out, "--satellite", "east", "west", "--num-tiles", "40", "--plan-only") == 0
    plan = pd.read_parquet(out / "plan.parquet")
    early = plan[plan["event_time"].dt.minute < 20]
    assert len(early) > 5
    for tile in early.itertuples():
        better = min(SATELLITES, key=lambda s: view_zenith(s, tile.longitude, tile.latitude))
        # Of the sectors a part is seen by one alone.
        assert tile.platform == better or abs(tile.longitude - PLACE[0]) > 0.3
    assert {*plan["platform"]} == {*SATELLITES}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("auto", "east west"),
        (["G16", "west"], "goes16 west"),
        ("goes17,goes16", "goes17 goes16"),
        ("GOES-16", "goes16"),
    ],
)
def test_satellites_in_any_spelling(given: object, kept: str) -> None:
    assert AbiConfig.check({"output_dir": "out", "satellite": given}).satellite == kept


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["goes16", "gk2a"], "`satellite` names goes16 and gk2a, which carry different imagers; build each alone"),
        (["goes16", "G16"], "`satellite` is goes16 G16: name each satellite once"),
        (["goes16", "meteosat"], "satellite 'meteosat' is unknown"),
    ],
)
def test_satellites_that_do_not_go_together_are_refused(given: object, told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        AbiConfig.check({"output_dir": "out", "satellite": given})
    assert told in str(refusal.value)
