"""Grids in metres for the Arctic: their cells, what EPSG:4326 costs instead, and that no pixel is lost at seams."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Geod, Transformer

from cube.build import main
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import footprint, grid_cells, read_cells, write_grid
from cube.sentinel2.grid_presets import crowding, grid_of_preset, preset_command
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_safe
from loaders.cubes import open_cube
from stratacube.errors import UsageError
from tests.sentinel2.squares import square_at

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

NORTH_SLOPE = (-150.0, 69.0, -148.0, 70.0)


@pytest.mark.parametrize(
    ("preset", "crs"), [("arctic", "EPSG:3413"), ("arctic-laea", "EPSG:3572"), ("utm", "EPSG:32606")]
)
def test_cells_of_a_preset_cover_the_area_and_nothing_far_from_it(preset: str, crs: str) -> None:
    cells = grid_cells(grid_of_preset(preset, bbox=NORTH_SLOPE))
    assert {c.crs for c in cells} == {crs}
    areas = footprint(cells)
    wanted = shapely.box(*NORTH_SLOPE)
    assert shapely.union_all(areas).buffer(0.002).contains(wanted)
    assert shapely.intersects(areas, wanted).all()
    assert {(c.xmax - c.xmin, c.ymax - c.ymin) for c in cells} == {(20_000.0, 20_000.0)}
    beside = grid_cells(grid_of_preset(preset, bbox=(-149.0, 69.0, -147.0, 70.0)))
    there = {c.id: c.bounds for c in cells}
    shared = [c for c in beside if c.id in there]
    assert len(shared) > 5
    assert all(there[c.id] == c.bounds for c in shared), "grids of two areas have the same cells"


def test_the_whole_arctic_and_areas_across_180_degrees() -> None:
    frame = grid_of_preset("arctic-laea", cell_size=100_000)
    middles = Transformer.from_crs("EPSG:3575", "EPSG:4326", always_xy=True).transform(
        *((frame[a] + frame[b]) / 2 for a, b in (("xmin", "xmax"), ("ymin", "ymax")))
    )
    assert set(frame["crs"]) == {"EPSG:3575"}
    assert middles[1].min() > 59
    assert middles[1].max() > 89
    cap = 2 * np.pi * 6371.0072**2 * (1 - np.sin(np.radians(60)))  # of the sphere that has the Earth's area, in km2
    assert cap < len(frame) * 1e4 < 1.08 * cap  # equal-area
    across = grid_cells(grid_of_preset("arctic", bbox=(179.5, 71.0, -179.5, 71.5)))
    assert 2 <= len(across) <= 16


def test_a_ring_ends_where_it_is_asked_to() -> None:
    """Cells of which some ground lies between both parallels, and no others: 936 came, most of them north of it."""
    frame = grid_of_preset("arctic", 200_000, (-180, 60, 180, 62))
    inside = np.linspace(0, 1, 41)
    u, v = (a.ravel() for a in np.meshgrid(inside, inside))
    x = frame["xmin"].to_numpy()[:, None] + 200_000 * u
    y = frame["ymin"].to_numpy()[:, None] + 200_000 * v
    _, lat = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(x, y)
    assert ((lat >= 60) & (lat <= 62)).any(axis=1).all()
    lon, lat = np.meshgrid(np.linspace(-180, 180, 2001), np.linspace(60, 62, 41))
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(lon, lat)
    corners = np.stack([np.floor(x / 200_000), np.floor(y / 200_000)], axis=-1).reshape(-1, 2)
    there = set(map(tuple, np.rint(frame[["xmin", "ymin"]] / 200_000).to_numpy().tolist()))
    assert set(map(tuple, corners.tolist())) <= there


@pytest.mark.parametrize(
    ("bbox", "said"),
    [
        ((-180, 60, 180, 95), "`bbox` -180.0 60.0 180.0 95.0 leaves the globe"),
        ((-180, 60, np.nan, 70), "leaves the globe"),
        ((-180, 60, 180, np.inf), "leaves the globe"),
        ((10, 70, 20, 60), "south 70.0 and north 60.0"),
    ],
)
@pytest.mark.parametrize("preset", ["arctic", "arctic-laea", "utm"])
def test_an_area_that_is_none_is_one_sentence(preset: str, bbox: tuple[float, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grid_of_preset(preset, bbox=bbox)


@pytest.mark.parametrize("size", [0.0, -20.0, np.nan, np.inf])
def test_a_size_that_is_none_is_one_sentence(size: float) -> None:
    with pytest.raises(UsageError, match=f"`cell_size` is {size}; give a positive number"):
        grid_of_preset("arctic", size, NORTH_SLOPE)


def test_areas_that_a_preset_is_not_for() -> None:
    with pytest.raises(UsageError, match="which tells the zone; give `bbox`"):
        grid_of_preset("utm")
    with pytest.raises(UsageError, match="begins at 50 N; give `preset` utm"):
        grid_of_preset("arctic", bbox=(0, 50, 1, 51))
    for wide in ((-10, 50, 30, 55), (-180, 60, 180, 62), (170, 50, -160, 55)):
        with pytest.raises(UsageError, match=r"of one zone, 6 degrees wide, and `bbox` is (40|360|30) degrees wide"):
            grid_of_preset("utm", bbox=wide)
    assert set(grid_of_preset("utm", bbox=(10, 77, 35, 78))["crs"]) == {"EPSG:32634"}  # Svalbard, 630 km of it


def test_the_command_that_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = str(tmp_path / "grid.csv")
    assert main(["make-grid", "--preset", "arctic", "--bbox", *map(str, NORTH_SLOPE), "--output", grid]) == 0
    assert read_cells(Path(grid))[0].crs == "EPSG:3413"
    assert main(["make-grid", "--preset", "arctic", "--crs", "EPSG:3413", "--output", grid]) == 2
    assert "tells --crs itself" in capsys.readouterr().err
    assert main(["make-grid", "--bbox", *map(str, NORTH_SLOPE), "--output", grid]) == 2
    assert "give --preset too" in capsys.readouterr().err


def test_what_degrees_cost_is_told_with_the_command_that_avoids_it(tmp_path: Path) -> None:
    assert crowding(70) == pytest.approx(2.92, abs=0.01)
    told = preset_command([shapely.box(-150, 69.9, -149.5, 70.1)])
    assert told is not None
    assert "takes 2.9 times the pixels of a grid in metres at 70 N" in told
    assert "make-grid --preset arctic --bbox -150 69.9 -149.5 70.1 --output grid.csv" in told
    assert preset_command([shapely.box(0, 40, 1, 41)]) is None
    assert "utm" in (preset_command([shapely.box(0, 50, 1, 51)]) or "")
    # across 180 degrees, as footprints go on beyond it or begin again
    for east in ((180, 180.4), (-180, -179.6)):
        across = preset_command([shapely.box(179.6, 68, 180, 68.5), shapely.box(east[0], 68, east[1], 68.5)]) or ""
        assert "--preset arctic --bbox 179.6 68 -179.6 68.5 --output" in across
    assert "--bbox -180 68 180 68.5" in (preset_command(shapely.box(np.r_[-180:180], 68, np.r_[-179:181], 68.5)) or "")
    # of areas much wider than a zone UTM is no grid
    wide = [shapely.box(west, 50, west + 1, 51) for west in range(-10, 30)]
    assert preset_command(wide) is None
    assert "--preset utm --bbox -10 50 2 51" in (preset_command(wide[:12]) or "")
    # as many pixels as it says, by the plans of both
    degrees = 0.25 * 0.25 / 0.000179663056824**2
    area = Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(0, 69.875, 0.25, 70.125))[0]
    assert degrees / (area / 400) == pytest.approx(crowding(70), rel=0.01)


def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Numbers that change slowly, by polar coordinates."""
    return 2000 + 300 * np.sin(x / 2000) + 300 * np.cos(y / 2500)


@pytest.mark.slow
def test_no_pixel_is_lost_at_seams_from_70_to_84_north(tmp_path: Path) -> None:
    """Cells of one polar lattice over the border of two zones: each tile sees its own side and a little more."""
    grids = []
    for lat in (70.2, 77.0, 83.8):
        for epsg, west in ((32605, True), (32606, False)):
            to_utm = Transformer.from_crs(4326, epsg, always_xy=True)
            x, y = to_utm.transform(-150.0, lat)
            ulx, uly = round((x - 2400) / 20) * 20, round((y + 2400) / 20) * 20
            east, north = np.meshgrid(ulx + 20 * np.arange(240) + 10.0, uly - 20 * np.arange(240) - 10.0)
            counts = np.rint(ground(*Transformer.from_crs(epsg, 3413, always_xy=True).transform(east, north)) + 1000)
            lon, _ = to_utm.transform(east, north, direction="INVERSE")
            beyond = (lon + 150) * np.cos(np.radians(lat)) * 111_195 * (1 if west else -1) > 100
            spec = SafeSpec(
                tile=square_at(x, y, epsg), epsg=epsg, ulx=ulx, uly=uly,
                datatake_start=datetime(2021, 7, 1, 21, 30, int(lat) % 60), processing_time=datetime(2023, 1, 1),
                baseline="05.10",
                images={
                    "B04_20m": np.where(beyond, 0, counts).astype("u2"),
                    "SCL_20m": np.where(beyond, 0, 4).astype("u1"),
                },
            )  # fmt: skip
            write_safe(spec, tmp_path / "safe", block=64)
        side = 700 / 111_195 / np.cos(np.radians(lat))
        grids.append(grid_of_preset("arctic", 1000, (-150 - side, lat - 0.006, -150 + side, lat + 0.006)))
    frame = pd.concat(grids)
    assert frame["tile_id_rc"].is_unique
    write_grid(frame, tmp_path / "grid.csv")
    config = Sentinel2Config.load(
        None,
        {
            "work_dir": tmp_path / "w", "safe_dir": tmp_path / "safe", "grid_csv": tmp_path / "grid.csv",
            "start": "2021-07-01", "end": "2021-07-02", "bands": ["B04"], "workers": 1, "also": ["months"],
        },
    )  # fmt: skip
    assert run_sentinel2(config).code == 0
    cube = open_cube(tmp_path / "w")
    x, y = cube["x"].values, cube["y"].values
    seen = 0
    for left, bottom, right, top in cube["cell_bounds"].values:
        rows, cols = np.flatnonzero((y < top) & (y > bottom)), np.flatnonzero((x > left) & (x < right))
        assert (len(rows), len(cols)) == (50, 50)
        box = cube.isel(y=slice(rows[0], rows[-1] + 1), x=slice(cols[0], cols[-1] + 1)).load()
        expected = ground(*np.meshgrid(box["x"], box["y"])) * 1e-4
        np.testing.assert_allclose(box["B04"], expected, rtol=0, atol=5e-4)  # no hole, and no other value
        np.testing.assert_array_equal(box["count_07"], 1)
        seen += 1
    assert seen == len(frame) >= 12
