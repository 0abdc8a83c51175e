"""Resampling and masks against exact projections, GDAL and plain numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
from affine import Affine
from rasterio.warp import Resampling, reproject

from cube.sentinel2 import resample
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.mask import MASK_CLASSES, class_mask, class_window, on_band_grid
from cube.sentinel2.resample import METHODS, Method, Resampler, Resamplers, SourceGrid, margin, source_map

STEP = 0.000179663056824
DEGREES = Lattice("EPSG:4326", STEP, STEP)


def _resample(
    lattice: Lattice,
    window: Window,
    grid: SourceGrid,
    method: Method,
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    source = Window(0, 0, grid.height, grid.width)
    valid = np.ones(values.shape, bool) if valid is None else valid
    return Resampler(source_map(lattice, window, grid), source, method).prepare(valid).apply(values)


def _grid(
    epsg: int = 32606, ulx: float = 400000, uly: float = 7600000, side: int = 300, pixel: float = 20
) -> SourceGrid:
    return SourceGrid(f"EPSG:{epsg}", (pixel, 0.0, ulx, 0.0, -pixel, uly), side, side)


def _under(grid: SourceGrid, half: float = 0.02, lattice: Lattice = DEGREES) -> Window:
    a, _, left, _, e, top = grid.transform
    middle = left + a * grid.width / 2, top + e * grid.height / 2
    lon, lat = pyproj.Transformer.from_crs(grid.crs, lattice.crs, always_xy=True).transform(*middle)
    return lattice.window(lon - half, lat - half, lon + half, lat + half)


@pytest.mark.parametrize(
    ("epsg", "uly"), [(32606, 6_660_000), (32606, 7_600_000), (32633, 9_200_000), (32733, 5_100_000)]
)
def test_positions_are_those_of_the_projection(epsg: int, uly: float) -> None:
    grid = _grid(epsg, uly=uly)
    window = _under(grid)
    u, v, *_ = source_map(DEGREES, window, grid).positions()
    x, y = np.meshgrid(
        DEGREES.x(np.arange(window.col, window.end_col)), DEGREES.y(np.arange(window.row, window.end_row))
    )
    east, north = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(x, y)
    np.testing.assert_allclose(u, (east - 400000) / 20, atol=1e-3)
    np.testing.assert_allclose(v, (uly - north) / 20, atol=1e-3)


def test_antimeridian_is_no_edge() -> None:
    grid = _grid(32660, ulx=660000, uly=7_700_000, side=400)  # zone 60, reaching beyond 180 degrees
    for lon in (179.999, -179.999, 180.001):
        window = DEGREES.window(lon - 0.0009, 69.33, lon + 0.0009, 69.335)
        u, v, *_ = source_map(DEGREES, window, grid).positions()
        x, y = DEGREES.x(window.col), DEGREES.y(window.row)
        east, north = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(x, y)
        assert u[0, 0] == pytest.approx((east - 660000) / 20, abs=1e-3)
        assert v[0, 0] == pytest.approx((7_700_000 - north) / 20, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_is_the_same_in_any_window(method: Method) -> None:
    grid = _grid()
    window = _under(grid)
    rng = np.random.default_rng(0)
    values, valid = rng.normal(1000, 300, (300, 300)).astype("f4"), rng.random((300, 300)) < 0.8
    whole = _resample(DEGREES, window, grid, method, values, valid)
    part = Window(window.row + 37, window.col + 51, 90, 61)
    alone = _resample(DEGREES, part, grid, method, values, valid)
    np.testing.assert_array_equal(whole[part.within(window)], alone)


@pytest.mark.parametrize("method", METHODS)
def test_the_edge_of_a_raster_is_the_same_beside_a_mask_and_without(method: Method) -> None:
    """What a kernel lacks beyond the raster does not depend on what else the window holds."""
    lattice = Lattice("EPSG:32606", 20, 20, 400000 - 93, 7600000 + 57)
    grid = _grid(side=240)
    values = np.random.default_rng(0).integers(0, 4000, (240, 240)).astype("f4")
    valid = np.ones(values.shape, bool)
    valid[200:, 200:] = False

    def resample(window: Window) -> npt.NDArray[np.float32]:
        mapped = source_map(lattice, window, grid)
        source = mapped.source_window(grid, max(margin(method, s) for s in mapped.stretch()))
        there = source.within(Window(0, 0, 240, 240))
        return Resampler(mapped, source, method).prepare(valid[there]).apply(values[there])

    whole = Window(0, 0, 250, 250)
    together = resample(whole)
    for row, col in np.ndindex(5, 5):
        part = Window(50 * row, 50 * col, 50, 50)
        np.testing.assert_array_equal(resample(part), together[part.within(whole)])


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize("step", [20.0, 60.0])
def test_against_gdal_on_a_shifted_lattice(method: Method, step: float) -> None:
    grid = _grid(side=120)
    lattice = Lattice("EPSG:32606", step, step, 400000 + 7.3, 7600000 - 3.1)
    window = lattice.window(400200, 7598200, 402100, 7599900)
    rng = np.random.default_rng(1)
    values = rng.normal(1000, 300, (120, 120)).astype("f4")
    ours = _resample(lattice, window, grid, method, values)
    gdal = np.full(ours.shape, np.nan, "f4")
    reproject(
        values, gdal, src_transform=Affine(*grid.transform), src_crs=grid.crs, dst_transform=lattice.transform(window),
        dst_crs=grid.crs, resampling=Resampling[method], src_nodata=np.nan, dst_nodata=np.nan,
    )  # fmt: skip
    assert not np.isnan(ours).any()
    np.testing.assert_allclose(ours, gdal, rtol=2e-3 if method != "nearest" else 0)


def test_masked_pixels_carry_no_weight() -> None:
    grid = _grid(side=60)
    lattice = Lattice("EPSG:32606", 20, 20, 400000 + 10, 7600000 - 5)
    window = Window(5, 5, 40, 40)
    rng = np.random.default_rng(2)
    values, valid = rng.normal(1000, 300, (60, 60)).astype("f4"), rng.random((60, 60)) < 0.7
    cloudy = np.where(valid, values, 60000).astype("f4")
    ours = _resample(lattice, window, grid, "bilinear", cloudy, valid)
    # source columns c - 1/2 and c + 1/2 weigh one half each, rows r - 1/4 and r + 3/4 three quarters and one
    row, col = np.mgrid[5:45, 5:45]
    weights = [(0, 0, 0.375), (0, 1, 0.375), (1, 0, 0.125), (1, 1, 0.125)]
    total, mass = np.zeros((40, 40)), np.zeros((40, 40))
    for down, across, weight in weights:
        here = valid[row + down, col + across]
        total += weight * np.where(here, values[row + down, col + across], 0)
        mass += weight * here
    u, v, *_ = source_map(lattice, window, grid).positions()
    own = valid[np.floor(v).astype(int), np.floor(u).astype(int)]
    assert (~own).any()
    np.testing.assert_array_equal(np.isnan(ours), ~own)
    np.testing.assert_allclose(ours[own], (total / np.where(mass > 0, mass, 1))[own], rtol=1e-5)
    for method in METHODS:
        clean = _resample(lattice, window, grid, method, values, valid)
        np.testing.assert_array_equal(clean, _resample(lattice, window, grid, method, cloudy, valid))
        assert np.nanmax(clean) < 3000


def test_average_needs_half_of_its_area() -> None:
    grid = _grid(side=60)
    lattice = Lattice("EPSG:32606", 60, 60, 400000, 7600000)
    values, valid = np.arange(3600, dtype="f4").reshape(60, 60), np.ones((60, 60), bool)
    valid[:3, :2], valid[3, 3] = False, False
    ours = _resample(lattice, Window(0, 0, 20, 20), grid, "average", values, valid)
    known = np.where(valid, values, np.nan)
    assert np.isnan(ours[0, 0])
    assert ours[1, 1] == pytest.approx(np.nanmean(known[3:6, 3:6]), rel=1e-6)
    assert ours[5, 7] == pytest.approx(values[15:18, 21:24].mean(), rel=1e-6)


def test_class_mask_masks_what_is_asked() -> None:
    scl = np.arange(16, dtype="u1").reshape(4, 4)
    assert np.flatnonzero(class_mask(scl, MASK_CLASSES)).tolist() == [4, 5, 6]
    assert np.flatnonzero(class_mask(scl, ())).tolist() == list(range(1, 12))


def test_dilation_grows_clouds_but_not_the_edge_of_the_data() -> None:
    scl = np.full((21, 21), 4, "u1")
    scl[10, 10], scl[:, 0] = 9, 0
    valid = class_mask(scl, MASK_CLASSES, 3)
    y, x = np.mgrid[:21, :21]
    assert (~valid == ((np.hypot(y - 10, x - 10) <= 3) | (x == 0))).all()


@pytest.mark.parametrize("pixel", [10, 20, 60])
def test_mask_meets_bands_of_any_resolution(pixel: int) -> None:
    rng = np.random.default_rng(3)
    valid20 = rng.random((120, 120)) < 0.9
    classes, band = _grid(side=120), _grid(side=120 * 20 // pixel, pixel=pixel)
    window = Window(3, 5, 21, 17)
    at = class_window(window, band, classes, 0)
    found = on_band_grid(valid20[at.row : at.end_row, at.col : at.end_col], at, window, band, classes)
    if pixel == 60:
        whole = valid20.reshape(40, 3, 40, 3).all(axis=(1, 3))
    else:
        whole = valid20.repeat(20 // pixel, 0).repeat(20 // pixel, 1)
    np.testing.assert_array_equal(found, whole[3:24, 5:22])


def test_outside_of_the_class_map_nothing_is_valid() -> None:
    classes, band = _grid(side=50), _grid(side=60)
    at = class_window(Window(40, 40, 20, 20), band, classes, 2)
    found = on_band_grid(np.ones((at.height, at.width), bool), at, Window(40, 40, 20, 20), band, classes)
    assert found[:10, :10].all()
    assert not found[10:].any()


def test_weights_are_made_once_for_all_scenes_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """And within bounds of memory: what does not fit is made anew, what is there stays."""
    kept, grid, other = Resamplers(), _grid(), _grid(ulx=500000)
    lattice, shifted = Lattice("EPSG:32606", 20, 20, 400000, 7600000), Lattice("EPSG:32606", 20, 20, 400003, 7600000)
    source, windows = Window(0, 0, 300, 300), [Window(16 * k, 0, 40, 40) for k in range(3)]

    def get(window: Window, lattice: Lattice = lattice, grid: SourceGrid = grid) -> Resampler:
        return kept.get(source_map(lattice, window, grid), grid, source, "bilinear")

    first = get(windows[0])
    matrix = first.weights
    assert matrix is not None
    assert first.nbytes == 40 * 40 * (8 + 1) + matrix.data.nbytes + matrix.indices.nbytes > 40 * 40 * 40
    assert get(windows[0]) is first
    odd = get(windows[0], shifted)  # the same pixels of another lattice
    assert odd is not first
    assert (odd.weights != matrix).nnz
    assert get(windows[0]) is first
    monkeypatch.setattr(resample, "_KEPT_BYTES", 2 * first.nbytes)
    second, third = get(windows[1]), get(windows[2])
    assert get(windows[1]) is second
    assert get(windows[2]) is not third
    assert get(windows[0]) is first
    get(windows[0], grid=other)  # another tile's
    assert get(windows[0]) is not first
    kept.clear()
    assert get(windows[2]) is get(windows[2])
