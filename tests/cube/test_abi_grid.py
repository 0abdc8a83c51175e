"""Navigation against pyproj, pyorbital and satpy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyproj
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.geostationary.grid import FixedGrid, GeosProjection, Window
from cube.geostationary.index import index_file

VIEWS = [GeosProjection(35786023.0, 6378137.0, 6356752.31414, lon) for lon in (-75.0, -137.0, -89.5)]
FULL_DISKS = {"500m": (14e-6, 21696), "1km": (28e-6, 10848), "2km": (56e-6, 5424)}


def full_disk(view: GeosProjection, resolution: str) -> FixedGrid:
    step, size = FULL_DISKS[resolution]
    return FixedGrid(view, -0.151872 + step / 2, 0.151872 - step / 2, step, -step, size, size)


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: str(v.longitude_of_projection_origin))
@pytest.mark.parametrize("resolution", FULL_DISKS)
def test_navigation_equals_pyproj_both_ways(view: GeosProjection, resolution: str) -> None:
    grid = full_disk(view, resolution)
    assert grid.resolution == resolution
    rows, cols = np.meshgrid(np.linspace(0, grid.height - 1, 160), np.linspace(0, grid.width - 1, 160), indexing="ij")
    lon, lat = grid.lonlat(rows, cols)
    to_ground = pyproj.Transformer.from_crs(view.crs, view.crs.geodetic_crs, always_xy=True)
    height = view.perspective_point_height
    true_lon, true_lat = to_ground.transform((grid.x0 + grid.dx * cols) * height, (grid.y0 + grid.dy * rows) * height)
    on_earth = np.isfinite(true_lon)
    np.testing.assert_array_equal(np.isfinite(lon), on_earth)
    assert 0.7 < on_earth.mean() < 0.8
    x, y = to_ground.transform(lon[on_earth], lat[on_earth], direction="INVERSE")
    assert np.abs((x / height - grid.x0) / grid.dx - cols[on_earth]).max() < 0.01
    assert np.abs((y / height - grid.y0) / grid.dy - rows[on_earth]).max() < 0.01
    np.testing.assert_allclose((lon - true_lon + 180)[on_earth] % 360, 180, atol=1e-7)
    np.testing.assert_allclose(lat[on_earth], true_lat[on_earth], atol=1e-7)
    back_row, back_col = grid.rowcol(true_lon[on_earth], true_lat[on_earth])
    assert np.abs(back_row - rows[on_earth]).max() < 0.01
    assert np.abs(back_col - cols[on_earth]).max() < 0.01


def test_points_behind_the_earth_have_no_pixel() -> None:
    row, col = full_disk(VIEWS[0], "2km").rowcol([105.0, -75.0], [0.0, 89.0])
    assert np.isnan(row).all()
    assert np.isnan(col).all()


def test_view_angles_equal_pyorbital() -> None:
    from pyorbital.orbital import get_observer_look

    view = VIEWS[0]
    lon, lat = np.meshgrid(np.linspace(-130, -20, 23), np.linspace(-60, 60, 25))
    zenith, azimuth = view.view_angles(lon, lat)
    now = np.datetime64("2020-01-01")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        true_azimuth, elevation = get_observer_look(
            view.longitude_of_projection_origin, 0.0, view.perspective_point_height / 1000, now, lon, lat, 0
        )
    seen = np.isfinite(zenith)
    np.testing.assert_allclose(zenith[seen], 90 - elevation[seen], atol=0.02)
    off_centre = seen & (zenith > 1)
    np.testing.assert_allclose((azimuth - true_azimuth + 180)[off_centre] % 360, 180, atol=0.05)
    assert np.isnan(view.view_angles(105.0, 0.0)[0])


def test_windows_and_rescaling_keep_the_corner() -> None:
    grid = full_disk(VIEWS[0], "1km")
    part = grid.window(Window(100, 200, 50, 60))
    np.testing.assert_allclose(part.lonlat(7, 9), grid.lonlat(107, 209))
    coarse = grid.rescaled(2)
    assert coarse.shape == (5424, 5424)
    assert coarse.left == pytest.approx(grid.left, abs=1e-15)
    assert coarse.same_pixels(full_disk(VIEWS[0], "2km"))
    assert not coarse.same_pixels(grid)


def test_real_sectors_lie_where_satpy_puts_them(abi_data: Path) -> None:
    import satpy

    for platform, sector in (("goes17", "M1"), ("goes16", "C"), ("goes17", "C")):
        for scan in find_scans(LocalArchive(abi_data), platform=platform, sector=sector):
            channel, source = next(iter(scan.files.items()))
            grid = index_file(source).grid
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scene = satpy.Scene([source.href], reader="abi_l1b")
                scene.load([f"C{channel:02d}"])
                area = scene[f"C{channel:02d}"].attrs["area"]
                lon, lat = area.get_lonlats()
            rows, cols = np.mgrid[0 : grid.height : 37, 0 : grid.width : 41]
            lon, lat = lon[rows, cols], lat[rows, cols]
            seen = np.isfinite(lon)
            row, col = grid.rowcol(lon[seen], lat[seen])
            assert np.nanmax(np.abs(row - rows[seen])) < 0.01, scan.id
            assert np.nanmax(np.abs(col - cols[seen])) < 0.01, scan.id


def test_mesoscale_pixels_lie_in_the_conus_sector(abi_data: Path) -> None:
    """Pixel [0, 0] of the mesoscale sector is pixel [230, 1690] of CONUS at 2 km: the images correlate there."""
    archive = LocalArchive(abi_data)
    meso = next(
        s for s in find_scans(archive, platform="goes17", sector="M1") if s.start.year == 2019 and s.start.month == 10
    )
    conus = next(s for s in find_scans(archive, platform="goes17", sector="C"))
    small, large = index_file(meso.files[8]).grid, index_file(conus.files[8]).grid
    row, col = large.rowcol(*small.lonlat(0, 0))
    assert (float(row), float(col)) == pytest.approx((230, 1690), abs=0.01)
