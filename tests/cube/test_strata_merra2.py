"""MERRA-2 about tiles: patches of its own grid, and the cell of each pixel, against xarray's own selection."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

from cube.geostationary.grid import GeosProjection
from cube.strata.labelling import PlannedTiles
from cube.strata.merra2.files import VARIABLES, Merra2
from cube.strata.merra2.patches import Merra2Patches
from stratacube.errors import SourceError, UsageError

LEVELS = np.array([1000.0, 850.0, 0.1])
SURFACE, UPPER, CONSTANT = "tavg1_2d_slv_Nx", "inst3_3d_asm_Np", "const_2d_asm_Nx"
FILL = np.float32(1e15)


def field(times: Any, levels: Any, latitude: Any, longitude: Any) -> np.ndarray:
    """A number that tells cell, level and minute of the day apart, in single precision."""
    minute = (times - times.astype("M8[D]")) / np.timedelta64(1, "m")
    image = (2 * latitude[:, None] + 180) * 576 + (longitude + 180) / 0.625
    return (image + levels[:, None, None] * 1e-3 + minute[:, None, None, None] / 4096).astype("f4")


def write_merra2(
    folder: Path, day: str, collection: str, hours: list[float], variables: tuple[str, ...], *, box: bool = False
) -> Path:
    """A file as NASA writes them: netCDF-4, deflated, fill of 1e15, steps in minutes since the first."""
    folder.mkdir(parents=True, exist_ok=True)
    latitude, longitude = np.arange(-90, 90.25, 0.5), np.arange(-180, 180, 0.625)
    if box:
        latitude, longitude = latitude[170:230], longitude[150:220]
    first = np.datetime64("2020-07-01" if day == "00000000" else f"{day[:4]}-{day[4:6]}-{day[6:]}", "m")
    times = first + (np.array(hours) * 60).astype("m8[m]")
    levels = collection == UPPER
    values = field(times.astype("M8[us]"), LEVELS if levels else np.zeros(1), latitude, longitude)
    values[:, :, latitude == 7.5, longitude == -60] = FILL
    dims = ("time", *(("lev",) if levels else ()), "lat", "lon")
    about = {"long_name": "a_field", "units": "K", "_FillValue": FILL, "missing_value": FILL, "fmissing_value": FILL}
    minutes = (times - times[0]) / np.timedelta64(1, "m")
    began = {"units": f"minutes since {str(times[0]).replace('T', ' ')}:00"}
    written = xr.Dataset(
        {name: (dims, values + i if levels else values[:, 0] + i, about) for i, name in enumerate(variables)},
        {"time": ("time", minutes.astype("i4"), began), "lat": latitude, "lon": longitude, "lev": LEVELS},
    )
    path = folder / f"MERRA2_400.{collection}.{day}.nc4"
    packing = {name: {"zlib": True, "complevel": 1, "shuffle": True} for name in variables}
    (written if levels else written.drop_vars("lev")).to_netcdf(
        path, engine="h5netcdf", encoding=packing, unlimited_dims=["time"]
    )
    return path


def tile_about(longitude: float, latitude: float, size: int, times: list[str], origin: float) -> PlannedTiles:
    """One tile of a build, by its centre."""
    view = GeosProjection(35786023.0, 6378137.0, 6356752.31414, origin)
    x, y = view.to_angles(longitude, latitude)
    left, top = (28e-6 * round(float(v) / 28e-6) for v in (x - 14e-6 * size, y + 14e-6 * size))
    row = {"tile": 0, "x_left": left, "y_top": top, "projection": 0, "requested_times": np.array(times, "M8[us]")}
    return PlannedTiles(1, lambda: iter([pd.DataFrame([row])]), [view], size, 28e-6, 10848)


def arrays_of(patches: Merra2Patches) -> xr.Dataset:
    """What a store would hold."""
    specs, arrays = patches.arrays(), {}
    for name, spec in specs.items():
        arrays[name] = np.full(spec.shape, spec.fill_value, spec.dtype)
    for name, start, values in patches.values():
        arrays[name][start : start + len(values)] = values
    return xr.Dataset({name: (specs[name].dims, values) for name, values in arrays.items()})


def pixels_of(tiles: PlannedTiles) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of a tile's pixels by PROJ."""
    row, view = next(next(tiles.blocks()).itertuples()), tiles.projections[0]
    at = 28e-6 * (np.arange(tiles.size) + 0.5) * view.perspective_point_height
    x, y = row.x_left * view.perspective_point_height + at, row.y_top * view.perspective_point_height - at
    geos = pyproj.Proj(
        proj="geos", h=view.perspective_point_height, lon_0=view.longitude_of_projection_origin, sweep="x",
        a=view.semi_major_axis, b=view.semi_minor_axis,
    )  # fmt: skip
    lon, lat = geos(*np.meshgrid(x, y), inverse=True)
    seen = np.abs(lat) <= 90
    return np.where(seen, lon, np.nan), np.where(seen, lat, np.nan)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of the surface and of the levels, and the constants."""
    root = tmp_path_factory.mktemp("merra2")
    write_merra2(root / "2020" / "07", "20200701", SURFACE, [22.5, 23.5], ("T2M", "V10M"))
    write_merra2(root / "2020" / "07", "20200702", SURFACE, [0.5, 23.5], ("T2M", "V10M"))
    write_merra2(root, "20200701", UPPER, [21], ("T", "PHIS"))  # PHIS is taken from the constants all the same
    write_merra2(root, "20200702", UPPER, [0, 3], ("T",))
    write_merra2(root, "00000000", CONSTANT, [0], ("PHIS",))
    return root


@pytest.fixture(scope="module")
def by_xarray(files: Path) -> dict[str, xr.Dataset]:
    """All steps of each collection."""
    found = {}
    for collection in (SURFACE, UPPER, CONSTANT):
        paths = sorted(files.rglob(f"*{collection}*"))
        found[collection] = xr.concat([xr.load_dataset(p, engine="h5netcdf") for p in paths], "time")
    return found


TIMES = ["2020-07-01T22:40:00", "2020-07-01T23:58:00", "2020-07-02T00:25:00"]


@pytest.mark.parametrize(("longitude", "latitude", "origin"), [(-60, 7, -75.2), (179.9, 20, -137.2), (-60, 71, -75.2)])
def test_the_cell_of_each_pixel_is_the_one_that_xarray_selects(
    files: Path, by_xarray: dict[str, xr.Dataset], longitude: float, latitude: float, origin: float
) -> None:
    """Near the middle of the disk, over the antimeridian, and at the limb; over midnight, of three collections."""
    tiles = tile_about(longitude, latitude, 160, TIMES, origin)
    lon, lat = pixels_of(tiles)
    patches = Merra2Patches(tiles, Merra2(str(files), ["T2M", "V10M", "T", "PHIS"]))
    patches.place(0, tiles.grid(next(next(tiles.blocks()).itertuples())), np.array([longitude]), np.array([latitude]))
    made = arrays_of(patches).isel(tile=0)
    seen = np.isfinite(lon)
    assert seen.all() == (latitude < 70)
    rows, columns = made["merra2_row"].values, made["merra2_column"].values
    assert ((rows >= 0) == seen).all()
    assert ((columns >= 0) == seen).all()
    # A cell is kept on every side, to go between cells by.
    height, width = (int(np.isfinite(made[f"merra2_{n}"]).sum()) for n in ("latitude", "longitude"))
    assert (rows[seen].min(), columns[seen].min()) == (1, 1)
    assert (height - 2, width - 2) == (rows.max(), columns.max())
    assert width < 80
    around = np.where(lon[seen] >= 179.6875, lon[seen] - 360, lon[seen])  # the grid goes round, which xarray's does not
    pixel = {"lat": xr.DataArray(lat[seen]), "lon": xr.DataArray(around)}
    cells = by_xarray[SURFACE].sel(pixel, method="nearest")
    np.testing.assert_array_equal(made["merra2_latitude"].values[rows[seen]], cells["lat"])
    np.testing.assert_array_equal(made["merra2_longitude"].values[columns[seen]], cells["lon"])
    for name, collection in (("T2M", SURFACE), ("V10M", SURFACE), ("T", UPPER), ("PHIS", CONSTANT)):
        expected = by_xarray[collection][name].sel(pixel, method="nearest")
        expected = expected.sel(time=np.array(TIMES, "M8[ns]"), method="nearest").transpose("time", ..., "dim_0")
        found = made[f"merra2_{name}"].values[..., rows[seen], columns[seen]]
        np.testing.assert_array_equal(found, expected.values[0 if collection == CONSTANT else slice(None)])
        assert np.isnan(found).any() == (latitude == 7)  # where the file has fill
        if collection != CONSTANT:
            times = made[f"merra2_{name}_time"].values.astype("M8[us]")
            assert (times == expected["time"].values).all()
    assert made["merra2_level"].values.tolist() == LEVELS.tolist()


@pytest.mark.parametrize(
    ("longitude", "latitude", "kept"), [(-43.2, 24.4, (58, 60, 66, 70)), (-86.2, -4.9, (0, 2, 0, 4))]
)
def test_patches_end_where_the_files_do(
    tmp_path: Path, longitude: float, latitude: float, kept: tuple[int, ...]
) -> None:
    """In the corners of a box, of a tile in its last cell and a place two cells beside."""
    path = write_merra2(tmp_path, "20200701", SURFACE, [22.5], ("T2M",), box=True)
    tiles, files = tile_about(longitude, latitude, 20, TIMES[:1], -75.2), Merra2(str(path.parent), ["T2M"])
    patches = Merra2Patches(tiles, files)
    beside = np.array([longitude + (-1.25 if longitude > -60 else 1.25)]), np.array([latitude])
    patches.place(0, tiles.grid(next(next(tiles.blocks()).itertuples())), *beside)
    made, (top, end, left, right) = arrays_of(patches).isel(tile=0), kept
    assert made["merra2_latitude"].values.tolist() == files.grid.latitude[top:end].tolist()
    assert made["merra2_longitude"].values.tolist() == files.grid.longitude[left:right].tolist()
    row, column = (int(each[0]) for each in patches.index(0, *beside))
    assert abs(made["merra2_latitude"].values[row] - beside[1][0]) <= 0.25
    assert abs(made["merra2_longitude"].values[column] - beside[0][0]) <= 0.3125


def test_what_is_not_there_is_one_sentence(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no file such as MERRA2_400\.tavg1_2d_slv_Nx\.20190102\.nc4"):
        Merra2(str(tmp_path))
    surface, levels = tuple(name for name in VARIABLES if "10" in name or "2" in name), ("T", "QV", "H", "PHIS")
    for collection, names in ((SURFACE, surface), (UPPER, levels)):
        write_merra2(tmp_path / "all", "20200701", collection, [0], names, box=True)
    assert tuple(Merra2(str(tmp_path / "all")).told) == VARIABLES
    with pytest.raises(
        UsageError, match=r"none of its files has T3M; .* give `merra2_variables` of PHIS, T, T2M, V10M"
    ):
        Merra2(str(files), ["T3M"])
    some = Merra2(str(files), ["T2M"])
    with pytest.raises(
        SourceError, match=r"tavg1_2d_slv_Nx tells nothing of 2020-07-02T01.* nearest step is 2020-07-02T00:30"
    ):
        some.nearest("T2M", np.array(["2020-07-02T01:00:01"], "M8[us]"))
    halves = np.array(
        ["2020-07-01T23:00", "2020-07-02T01:00", "2020-07-03T00:00"], "M8[us]"
    )  # the last of no file's day
    steps = ["2020-07-01T23:30", "2020-07-02T00:30", "2020-07-02T23:30"]
    assert some.nearest("T2M", halves).tolist() == np.array(steps, "M8[us]").tolist()
    with pytest.raises(SourceError, match=r"\(no step of that day or those beside it\)"):
        some.nearest("T2M", np.array(["2021-07-02T04:00"], "M8[us]"))
    box = write_merra2(tmp_path / "box", "20200701", SURFACE, [21.5, 22.5], ("T2M",), box=True)
    tiles = tile_about(-86.0, 7.0, 160, TIMES[:1], -75.2)
    patches = Merra2Patches(tiles, Merra2(str(box)[:-4] + "*", ["T2M"]))
    with pytest.raises(SourceError, match=r"its grid 60 x 70, .* does not hold tile 0, which reaches .* N .* E; bring"):
        patches.place(0, tiles.grid(next(next(tiles.blocks()).itertuples())), np.empty(0), np.empty(0))
    shutil.copy(files / "2020" / "07" / "MERRA2_400.tavg1_2d_slv_Nx.20200702.nc4", tmp_path / "box")
    both = Merra2(str(tmp_path / "box"), ["T2M"])
    with pytest.raises(UsageError, match=r"20200702\.nc4 has the grid 361 x 576, .* others 60 x 70"):
        both.nearest("T2M", np.array(["2020-07-02T00:25"], "M8[us]"))
    shutil.copytree(files, tmp_path / "other", ignore=shutil.ignore_patterns("*2d*"))
    with h5py.File(next((tmp_path / "other").rglob("*20200702*")), "r+") as file:
        file["lev"][1] = 700.0
    with pytest.raises(UsageError, match=r"20200702.nc4 has levels of 1000 700 0\.1 hPa, others of 1000 850 0\.1 hPa"):
        Merra2(str(tmp_path / "other"), ["T"]).nearest("T", np.array(["2020-07-02T00:25"], "M8[us]"))
    cut = tmp_path / "cut" / box.name
    cut.parent.mkdir()
    cut.write_bytes(box.read_bytes()[: box.stat().st_size // 2])
    with pytest.raises(SourceError, match=rf"^{cut} is not a readable file of MERRA-2 \("):
        Merra2(str(cut.parent), ["T2M"])
    shutil.copy(box, cut)
    with h5py.File(cut, "r+") as file:
        del file["T2M"]
        file["T2M"] = np.zeros((2, 60, 69), "f4")
    with pytest.raises(SourceError, match=r"T2M is float32 of \(2, 60, 69\), its axes are of \(2, 60, 70\)"):
        Merra2(str(cut.parent), ["T2M"])
    (tmp_path / "cut" / "again").mkdir()
    shutil.copy(box, tmp_path / "cut" / "again")
    with pytest.raises(UsageError, match=r"tavg1_2d_slv_Nx of 20200701 is there twice"):
        Merra2(str(tmp_path / "cut"), ["T2M"])
    write_merra2(tmp_path / "two", "20200701", SURFACE, [0.5], ("T2M",), box=True)
    write_merra2(tmp_path / "two", "20200701", "inst1_2d_asm_Nx", [0], ("T2M",), box=True)
    with pytest.raises(UsageError, match=r"several of its collections have T2M \(inst1_2d_asm_Nx, tavg1_2d_slv_Nx\)"):
        Merra2(str(tmp_path / "two"), ["T2M"])
