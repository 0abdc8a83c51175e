"""When tiles are seen: by NOAA's tables of pixel times, pyorbital's Sun, and scans that begin long before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from pyorbital import astronomy

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile, find_scans
from cube.build import main
from cube.config import AbiConfig
from cube.geostationary import plan as planning
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.headers import Headers
from cube.geostationary.index import index_file
from cube.geostationary.pixel_time import seconds_after_start
from cube.geostationary.plan import make_plan
from cube.geostationary.plan_table import PlanTable
from cube.job.engine import Workers
from cube.registry import STRATA
from cube.strata import Candidate
from cube.strata.plug import Stratum
from cube.strata.plugs import RANDOM
from cube.strata.random import RandomSampler
from cube.strata.windows import WindowChoice, choose_window
from cube.testing import write_abi_archive
from loaders.store import TileStore
from stratacube.errors import UsageError

VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
BOUNDS = {"F": 20.0, "C": 10.0, "M1": 5.0}
"""Seconds that the time of a pixel may be wrong by; what is measured is told, and is half a second."""
TABLES = {
    "goes-16_F_M6_2000": ("F", 56, (-151872, 151872)),
    "goes-16_F_M6_1000": ("F", 28, (-151872, 151872)),
    "goes-16_C_M6_2000": ("C", 56, (-101360, 128240)),
    "goes-16_M_M6_2000": ("M1", 56, (-37016, 84056)),
}
"""Sector, pixel, and north-west corner in microradians; a mesoscale sector lies anywhere."""
FAR_SOUTH = (-0.0084, -0.100128)
"""North-west corner of what the archive below holds of a full disk, in radians: south of 36 degrees."""
FIRST = datetime(2020, 7, 1, 11, 50, 20)
SHAPE = ("--tile-size", "256", "--channels", "13", "--domain", "F", "--workers", "1", "--min-spacing-km", "0")


def header_of(
    sector: str, mode: int, shape: tuple[int, int], pixel: int, corner: tuple[float, float], platform: str = "goes16"
) -> FileIndex:
    """A header that says where a sector lies and how long its scan took; nothing else of it is asked for."""
    dx = pixel * 1e-6
    grid = FixedGrid(VIEW, corner[0] * 1e-6 + dx / 2, corner[1] * 1e-6 - dx / 2, dx, -dx, *shape)
    start = datetime(2020, 1, 1)
    source = SourceFile("f", 0, "", platform, "p", sector, mode, 1, start, start, start)
    table: Any = None
    middle = np.datetime64("2020-01-01T00:02:30", "ns")
    return FileIndex(source, grid, table, table, 1.0, 0.0, "1", {}, middle, 1.0, 1.0)


@contextmanager
def noaa(data_folder: Path, name: str) -> Iterator[h5py.Dataset]:
    """NOAA's table: seconds after the file's start and 50 more, by row and column."""
    path = data_folder / "abi_pixel_time" / f"{name}.nc"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with h5py.File(path) as h5:
        (values,) = (v for k, v in h5.items() if k not in ("x", "y"))
        assert values.attrs["add_offset"] == -50
        yield values


@pytest.mark.parametrize("name", TABLES)
def test_pixels_are_seen_when_noaa_says(data_folder: Path, name: str) -> None:
    """Every row of the first, middle and last column, and every column of some rows: a swath's edge is a row."""
    sector, pixel, corner = TABLES[name]
    worst = 0.0
    with noaa(data_folder, name) as table:
        header = header_of(sector, 6, table.shape, pixel, corner)
        height, width = table.shape
        columns = [(np.s_[:], np.s_[col : col + 1]) for col in (0, width // 2, width - 1)]
        lines = [(np.s_[row : row + 1], np.s_[:]) for row in range(5, height, height // 6)]
        for rows, cols in columns + lines:
            seconds = seconds_after_start(header, header.grid.x[None, cols], header.grid.y[rows, None])
            worst = max(worst, float(np.abs(seconds - (table[rows, cols] - 50.0)).max()))
    print(f"{name}: at most {worst:.2f} s from NOAA's table; {BOUNDS[sector]:g} s are allowed")  # noqa: T201
    assert worst < 0.6  # the tables are in whole seconds


@pytest.mark.parametrize(
    ("sector", "mode", "row", "col", "seconds"),
    [
        ("F", 6, 0, 0, -4), ("F", 6, 161, 2712, 2), ("F", 6, 162, 2712, 17), ("F", 6, 2699, 2712, 258),
        ("F", 6, 2700, 2712, 288), ("F", 6, 5237, 2712, 558), ("F", 6, 5423, 5423, 572),
        ("C", 6, 0, 0, 0), ("C", 6, 229, 1250, 3), ("C", 6, 230, 1250, 33), ("C", 6, 1499, 2499, 156),
        ("M1", 6, 237, 250, 1), ("M2", 6, 238, 250, 4),
        ("F", 3, 161, 2712, 2), ("F", 3, 162, 2712, 32), ("F", 3, 5237, 2712, 602), ("F", 3, 5423, 5423, 638),
        ("C", 3, 230, 1250, 33), ("M1", 3, 238, 250, 4),
        ("F", 4, 162, 2712, 10), ("F", 4, 2700, 2712, 146), ("F", 4, 5238, 0, 269), ("F", 4, 5423, 5423, 282),
        ("goes17 F", 6, 162, 2712, 10), ("goes17 F", 6, 2700, 2712, 276), ("goes17 F", 6, 5423, 5423, 548),
        ("goes17 F", 3, 5423, 5423, 638), ("goes17 C", 6, 1499, 2499, 156), ("goes18 F", 6, 5423, 5423, 572),
    ],
)  # fmt: skip
def test_some_pixels_by_sector_and_mode(sector: str, mode: int, row: int, col: int, seconds: float) -> None:
    """As NOAA's tables have them: of GOES-16, of GOES-17 where that is another, and of modes that are not here."""
    *platform, sector = sector.split()
    name = next(n for n, (s, pixel, _) in TABLES.items() if s[0] == sector[0] and pixel == 56)
    shape = {"F": (5424, 5424), "C": (1500, 2500), "M": (500, 500)}[sector[0]]
    header = header_of(sector, mode, shape, 56, TABLES[name][2], *platform)
    assert float(seconds_after_start(header, header.grid.x[col], header.grid.y[row])) == pytest.approx(seconds, abs=0.6)


def test_mode_3_runs_from_north_to_south_in_the_same_swaths() -> None:
    """Each swath after the one above, none before that of mode 6, the last at 638 s."""
    header = header_of("F", 3, (5424, 5424), 56, (-151872, 151872))
    column = seconds_after_start(header, 0.0, header.grid.y)
    steps = np.diff(column)
    assert (steps >= 0).all()
    assert np.flatnonzero(steps).size == 21
    other = seconds_after_start(header, 0.0, header.grid.y, mode=6)
    np.testing.assert_array_equal(np.flatnonzero(steps), np.flatnonzero(np.diff(other)))
    assert (column >= other).all()
    assert column[-1] - other[-1] == pytest.approx(66, abs=0.5)
    assert 637.5 < float(seconds_after_start(header, header.grid.x, header.grid.y).max()) < 639


@pytest.mark.parametrize(("platform", "sector", "mode"), [("goes16", "F", 1), ("gk2a", "FD", 0)])
def test_a_scan_without_a_table_runs_evenly_from_its_start_to_its_end(platform: str, sector: str, mode: int) -> None:
    header = header_of(sector, mode, (1000, 800), 56, (-20000, 30000), platform)  # 5 minutes: the middle is at 150 s
    grid = header.grid
    seconds = seconds_after_start(header, grid.x[None, [0, 799]], grid.y[[0, 499, 999], None])
    np.testing.assert_allclose(seconds, np.repeat([[0.15], [149.85], [299.85]], 2, axis=1), atol=1e-6)
    assert float(seconds_after_start(header, 0.0, grid.top + 1e-3)) == 0


def test_what_is_hidden_is_never_seen() -> None:
    for mode in (1, 6):
        header = header_of("F", mode, (5424, 5424), 56, (-151872, 151872))
        for x, y in ((np.nan, np.nan), (0.0, np.nan), (np.nan, 0.0)):
            assert np.isnan(seconds_after_start(header, x, y)) or (mode == 1 and y == 0)
        assert np.isfinite(seconds_after_start(header, 0.0, -0.1))


# An archive of the far south: three scans, each seen some nine minutes after its start.


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("south")
    shape = {"shape_2km": (300, 300), "sector": "F", "corner": FAR_SOUTH}
    write_abi_archive(root, start=FIRST, hours=1 / 3, channels=(13,), workers=1, **shape)  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def built(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "out"
    asked = ("--num-tiles", "6", "--steps", "2", "--step-minutes", "10", *SHAPE)
    assert main(["abi", "--output-dir", str(output), "--local-data-dir", str(archive), *asked]) == 0
    return output


def true_times(data_folder: Path, tiles: xr.Dataset, tile: int) -> npt.NDArray[np.datetime64]:
    """When each pixel of a tile was seen, (time, y, x), by NOAA's table."""
    left, top = (float(tiles[name][tile]) for name in ("x_left", "y_top"))
    row, col = round((0.151872 - top) / 28e-6), round((left + 0.151872) / 28e-6)
    with noaa(data_folder, "goes-16_F_M6_1000") as table:
        seconds = table[row : row + 256, col : col + 256] - 50.0
    starts = tiles["scan_start"].values[tile].astype("M8[ms]")
    return starts[:, None, None] + (seconds * 1000).astype("m8[ms]")


def test_tiles_are_seen_when_noaa_says(data_folder: Path, built: Path) -> None:
    """Within 20 s of the mean over its pixels."""
    tiles = cube.open_tiles(built, "counts").load()
    worst = np.timedelta64(0, "ms")
    for tile in range(tiles.sizes["tile"]):
        truth = true_times(data_folder, tiles, tile)
        mean = truth[:, :1, :1] + (truth - truth[:, :1, :1]).mean(axis=(1, 2), keepdims=True)
        seen = tiles["observation_time"].values[tile].astype("M8[ms]")
        worst = max(worst, np.abs(seen - mean.ravel()).max())
        assert (seen - tiles["scan_mid"].values[tile].astype("M8[ms]") > np.timedelta64(180, "s")).all()
    print(f"tiles: at most {worst} from the mean of NOAA's table; 20 s are allowed")  # noqa: T201
    assert worst < np.timedelta64(600, "ms")


def test_the_sun_stands_where_it_stood_when_a_block_was_seen(data_folder: Path, built: Path) -> None:
    """Within 0.1 degree of pyorbital at the time of NOAA's table; at the scan's start it is farther than that."""
    tiles = cube.open_tiles(built, "counts").load()
    worst, before = 0.0, 0.0
    for tile in range(tiles.sizes["tile"]):
        here = tiles.isel(tile=tile)
        times = true_times(data_folder, tiles, tile)[:, 7::16, 7::16].astype("M8[ns]")  # beside the blocks' middles
        places = here["longitude_coarse"].values[None], here["latitude_coarse"].values[None]
        zenith = np.asarray(astronomy.sun_zenith_angle(times, *places))
        worst = max(worst, float(np.abs(here["solar_zenith"].values - zenith).max()))
        started = here["scan_start"].values.astype("M8[ns]")[:, None, None]
        before = max(before, float(np.abs(zenith - astronomy.sun_zenith_angle(started, *places)).max()))
    print(f"Sun: at most {worst:.3f} degrees from pyorbital; {before:.2f} at the start of the scan")  # noqa: T201
    assert worst < 0.1
    assert before > 1


def test_the_sun_is_known_without_any_table(built: Path) -> None:
    """As above, with the times that the store itself tells: a tile is seen within 31 s, 0.13 degrees of the Sun."""
    tiles = cube.open_tiles(built, "counts").load()
    times = tiles["observation_time"].values.astype("M8[ns]")[..., None, None]
    places = (tiles[name].values[:, None] for name in ("longitude_coarse", "latitude_coarse"))
    zenith = np.asarray(astronomy.sun_zenith_angle(times, *places))
    assert np.abs(tiles["solar_zenith"].values - zenith).max() < 0.14
    apart = np.abs(tiles["solar_zenith"].values - zenith)[..., 8, 8]
    assert apart.max() < 0.1


def test_loaders_tell_when_a_frame_was_seen(built: Path) -> None:
    store = TileStore.open(built)
    seen, begun = (store.small[n].values.astype("M8[us]") for n in ("observation_time", "scan_start"))
    np.testing.assert_array_equal(store.times(), seen)
    assert (seen - begun > np.timedelta64(400, "s")).all()
    store.small["observation_time"][0, 1] = np.datetime64("NaT", "ns")
    assert store.times()[0, 1] == begun[0, 1]
    store.small["scan_start"][0, 1] = np.datetime64("NaT", "ns")
    assert store.times()[0, 1] == store.small["requested_time"].values[0, 1]
    store.small = store.small.drop_vars("observation_time")
    np.testing.assert_array_equal(store.times()[1:], begun[1:])


def test_the_store_the_catalogue_and_the_report_say_it(built: Path) -> None:
    raw = xr.open_zarr(built / "tiles.zarr", decode_cf=False)
    assert raw.attrs["time_means"] == "scan_start"
    assert "F in mode 6 by NOAA" in raw["observation_time"].attrs["comment"]
    assert "goes17 F in mode 6 by NOAA STAR's table of GOES-17 (within 1 s)" in raw["observation_time"].attrs["comment"]
    assert "any other scan evenly" in raw["observation_time"].attrs["comment"]
    assert "when they are seen" in raw["solar_zenith"].attrs["comment"]
    assert PlanTable(built / "plan.parquet").time_means == "scan_start"
    assert "| Nearest scan | by its start |" in (built / "report.md").read_text()
    collection = json.loads((built / "tiles" / "collection.json").read_text())
    assert collection["stratacube:time_means"] == "scan_start"
    tiles = cube.open_tiles(built, "counts")
    assert "observation_time" in tiles.coords
    items = [json.loads(p.read_text()) for p in (built / "tiles" / "items").rglob("*.json")]
    told = [item["properties"] for item in items if item["type"] == "Feature"]
    assert len(told) == 6
    for properties in told:
        seen = tiles["observation_time"].values[properties["stratacube:tile_index"]]
        texts = [t.rstrip("Z") for t in properties["stratacube:observation_times"]]
        assert (np.abs(seen - np.array(texts, "M8[ns]")) <= np.timedelta64(100, "ms")).all()


@pytest.mark.parametrize("chunks", ["auto", None])
def test_a_lazy_cube_tells_when_each_pixel_was_seen(archive: Path, built: Path, chunks: Any) -> None:
    """As the tiles that are cut from it; by NOAA's table the swath of row 4731 of the full disk is seen at 528 s."""
    cubes = cube.open_abi(archive, observed=True, chunks=chunks)["2km"].to_dataset()
    seen = cubes["observation_time"]
    assert seen.dims == ("time", "y", "x")
    assert "observation_time" not in cube.open_abi(archive, chunks=chunks)["2km"].to_dataset().coords
    row, col = 4731 - 4500, 150  # the archive's sector begins at row 4500, and lies about the middle column
    late = (seen[:, row - 1 : row + 1, col].values - cubes["time"].values[:, None]) / np.timedelta64(1, "s")
    np.testing.assert_allclose(late, [[498, 528]] * 3, atol=0.6)
    tiles = cube.open_tiles(built, "counts").load()
    for tile in range(tiles.sizes["tile"]):
        here = tiles.isel(tile=tile)
        half = 256 * 28e-6
        top, left = float(here["y_top"]), float(here["x_left"])
        inside = seen.isel(
            y=np.flatnonzero((seen["y_rad"] < top) & (seen["y_rad"] > top - half)),
            x=np.flatnonzero((seen["x_rad"] > left) & (seen["x_rad"] < left + half)),
        ).sel(time=here["scan_start"].values)
        assert inside.shape == (2, 128, 128)
        first = inside.values[:, :1, :1]
        mean = first.ravel() + (inside.values - first).mean(axis=(1, 2))
        assert (np.abs(mean - here["observation_time"].values) < np.timedelta64(300, "ms")).all()


# Which scan is nearest to an event.


def in_the_middle(south: float = 0.0) -> tuple[float, float]:
    """Longitude and latitude of the middle of the archive's sector, or of what lies so many radians south of it."""
    lon, lat = VIEW.to_lonlat(FAR_SOUTH[0] + 0.0084, FAR_SOUTH[1] - 0.0084 - south)
    return float(lon), float(lat)


@pytest.fixture
def plan_of(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Plan a tile at a given time in the middle of the sector, by a stratum whose times mean one thing or the other."""

    def plan(
        time: datetime, means: Any, south: tuple[float, ...] = (0.0,), mode: int = 6, **options: Any
    ) -> pd.DataFrame:
        places = [in_the_middle(angle) for angle in south]
        planted = [Candidate(time, lat, lon, "random", 1.0, 1.0) for lon, lat in places]
        monkeypatch.setattr(RandomSampler, "candidates", lambda _: iter(planted))
        monkeypatch.setitem(STRATA._loaded, "random", replace(RANDOM, time_means=means))
        asked = {
            "tile_size": 256,
            "channels": [13],
            "steps": 1,
            "num_tiles": len(south),
            "tolerance_minutes": 5,
            **options,
        }
        config = AbiConfig.load(None, {"output_dir": tmp_path, "domain": "F", "local_data_dir": archive, **asked})
        scans = find_scans(LocalArchive(archive), platform="goes16", sector="F", channels=[13])
        scans = [replace(scan, mode=mode) for scan in scans]
        made = make_plan(config, scans, Headers(None, None), None, Workers())
        assert made.time_means == means
        return made.tiles

    return plan


def starts(tiles: pd.DataFrame) -> list[datetime]:
    """When the scans of the first tile began, to the second."""
    return [pd.Timestamp(t).to_pydatetime().replace(microsecond=0) for t in tiles["scan_starts"][0]]


NOON = datetime(2020, 7, 1, 12)


def test_an_event_is_matched_by_what_its_time_means(plan_of: Callable[..., pd.DataFrame]) -> None:
    """The scan of 11:50 sees the place at 11:59, the one of 12:00 at 12:09."""
    assert starts(plan_of(NOON, "scan_start")) == [datetime(2020, 7, 1, 12, 0, 20)]
    assert starts(plan_of(NOON, "observation")) == [FIRST]
    window = plan_of(NOON + timedelta(minutes=10), "observation", steps=2, step_minutes=10)
    assert starts(window) == [FIRST, datetime(2020, 7, 1, 12, 0, 20)]
    times = window["requested_times"][0].astype("M8[s]").tolist()
    assert times == [NOON, NOON + timedelta(minutes=10)]


def test_two_places_at_one_time_may_have_their_own_scans(plan_of: Callable[..., pd.DataFrame]) -> None:
    """Of two swaths, seen 30 s one after the other, at a time in the middle between two scans of either."""
    middle = FIRST + timedelta(seconds=498 + 15 + 300)
    tiles = plan_of(middle, "observation", south=(-0.004, 0.006), min_spacing_km=0, tile_size=128)
    assert len(tiles) == 2
    found = {row.row: row.scan_starts[0].astype("M8[s]").item() for row in tiles.itertuples()}
    assert [found[row] for row in sorted(found)] == [FIRST + timedelta(minutes=10), FIRST]


@pytest.mark.parametrize(("mode", "first"), [(3, FIRST), (6, FIRST + timedelta(minutes=10))])
def test_each_scan_is_of_its_own_mode(plan_of: Callable[..., pd.DataFrame], mode: int, first: datetime) -> None:
    """One file a day tells where a full disk lies, whatever the mode of the others; mode 3 sees it 44 s later."""
    assert starts(plan_of(FIRST + timedelta(seconds=498 + 22 + 300), "observation", mode=mode)) == [first]


def test_a_scan_goes_to_the_step_that_it_saw_the_place_nearest_to(plan_of: Callable[..., pd.DataFrame]) -> None:
    """One scan for steps of four minutes: it is that of the step a minute before, though it began before all."""
    event = FIRST + timedelta(seconds=498 + 60)
    (row,) = plan_of(event, "observation", steps=2, step_minutes=4, allow_missing=True).itertuples()
    times = [time for time, scan in zip(row.requested_times, row.scan_starts, strict=True) if not np.isnat(scan)]
    assert times == [np.datetime64(event)]


def test_the_tolerance_is_of_the_same_time(plan_of: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(UsageError, match="no scan within the tolerance"):
        plan_of(datetime(2020, 7, 1, 11, 48), "observation")  # six minutes before any scan sees it
    assert starts(plan_of(datetime(2020, 7, 1, 11, 48), "scan_start")) == [FIRST]
    late = datetime(2020, 7, 1, 12, 22)  # twelve minutes after the last start, and three after it saw the place
    with pytest.raises(UsageError, match="no scan within the tolerance"):
        plan_of(late, "scan_start")
    assert starts(plan_of(late, "observation")) == [datetime(2020, 7, 1, 12, 10, 20)]


def test_the_suns_limits_are_those_of_when_a_place_is_seen(
    plan_of: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    lon, lat = in_the_middle()
    seen = np.datetime64("2020-07-01T12:09", "ns")  # to some seconds; the Sun rises a degree in the nine minutes before
    zenith = float(astronomy.sun_zenith_angle(seen, lon, lat))
    assert float(astronomy.sun_zenith_angle(np.datetime64("2020-07-01T12:00", "ns"), lon, lat)) > zenith + 0.7
    frames: list[Any] = []

    def kept(candidates: Any, *arguments: Any, **options: Any) -> WindowChoice:
        frames.extend(candidates)
        return choose_window(candidates, *arguments, **options)

    monkeypatch.setattr(planning, "choose_window", kept)
    assert len(plan_of(NOON, "scan_start", max_solar_zenith=zenith + 0.2)) == 1
    assert [f.solar_zenith for f in frames] == [pytest.approx(zenith, abs=0.1)]
    with pytest.raises(UsageError, match="solar zenith"):
        plan_of(NOON, "scan_start", max_solar_zenith=zenith - 0.2)


@pytest.fixture
def mask(tmp_path: Path) -> str:
    """One system in the middle of the sector, at 12:00 alone."""
    lon, lat = in_the_middle()
    path = tmp_path / "20200701_cloudsystems.nc"
    labels = np.zeros((72, 9, 9))
    labels[36, 3:6, 3:6] = 7
    with h5py.File(path, "w") as out:
        out["lat"], out["lon"] = lat + 0.12 * np.arange(-4, 5), lon % 360 + 0.12 * np.arange(-4, 5)
        out["time"], out["DCS_number"] = np.arange(72) / 3, labels
    return str(path)


def test_masks_match_the_scan_that_starts_with_them_in_the_far_south_too(
    archive: Path, mask: str, tmp_path: Path
) -> None:
    """A mask of 12:00 is of the scan that began then, though its tile is seen nine minutes later."""
    asked = ("--stratification", "convection", "--convection-regex", mask, "--steps", "1", *SHAPE)
    assert main(["abi", "--output-dir", str(tmp_path / "out"), "--local-data-dir", str(archive), *asked]) == 0
    tiles = cube.open_tiles(tmp_path / "out", "counts").load()
    assert tiles.sizes["tile"] == 1
    assert tiles["requested_time"].values[0, 0] == np.datetime64(NOON)
    assert abs(tiles["scan_start"].values[0, 0] - np.datetime64("2020-07-01T12:00:20")) < np.timedelta64(1, "s")
    late = tiles["observation_time"].values[0, 0] - np.datetime64(NOON)
    assert np.timedelta64(500, "s") < late < np.timedelta64(600, "s")
    assert "| Nearest scan | by its start |" in (tmp_path / "out" / "report.md").read_text()


def test_a_scan_that_sees_an_event_may_begin_long_before_the_period(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of a quarter of an hour from 11:58 on: the scan that saw the first began at 11:50."""
    from cube.geostationary.find import find

    asked = {"domain": "F", "channels": [13], "steps": 1, "local_data_dir": archive, "output_dir": tmp_path}
    period = {"start_dt": "2020-07-01T11:58", "end_dt": "2020-07-01T12:05", "tolerance_minutes": 1}
    for means, first in (("scan_start", datetime(2020, 7, 1, 12, 0, 20)), ("observation", FIRST)):
        monkeypatch.setitem(STRATA._loaded, "random", replace(RANDOM, time_means=means))  # type: ignore[arg-type]
        scans = find(AbiConfig.load(None, {**asked, **period}))
        assert scans[0].start.replace(microsecond=0) == first


def test_a_stratum_says_one_or_the_other() -> None:
    assert Stratum("a:b").time_means == "scan_start"
    with pytest.raises(UsageError, match=r"is one of scan_start, observation, not 'observed'"):
        Stratum("a:b", time_means="observed")  # type: ignore[arg-type]


def test_a_frame_whose_files_cannot_be_read_has_no_time(built: Path, archive: Path) -> None:
    """It has no pixels either; the Sun is where it stood at the start that the names tell."""
    from cube.geostationary.folder import AbiFolder
    from cube.geostationary.layout import Frame, TileLayout, TileSpec
    from cube.geostationary.numbers import NO_TIME, numbers_of

    layout = replace(TileLayout.of(AbiFolder(built).described()), steps=1)
    scan = find_scans(LocalArchive(archive), platform="goes16", sector="F")[0]
    tile = TileSpec("t", -0.004, -0.103, VIEW)
    headers = {f.href: index_file(f, None, None).without_chunks() for f in scan.files.values()}
    frame = Frame(0, 0, scan.id, scan.start, scan.files)
    asked = [[np.datetime64(scan.start, "us")]]
    lost = numbers_of(layout, [tile], asked, [frame], {})
    assert lost["observation_time"][0, 0] == NO_TIME
    before = numbers_of(replace(layout, observed=False), [tile], asked, [frame], headers)
    assert "observation_time" not in before
    np.testing.assert_array_equal(lost["solar_zenith"], before["solar_zenith"])
    seen = numbers_of(layout, [tile], asked, [frame], headers)
    assert np.abs(seen["solar_zenith"] - before["solar_zenith"]).min() > 0.5
