"""Pictures against satpy's, and the formulas by numpy alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import cube
from stratacube.errors import UsageError
from tests.explore.conftest import Published

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pyproj"),
    pytest.mark.filterwarnings("ignore::UserWarning:satpy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:satpy"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:dask"),
]
SATPY = {
    "true_color": ("C02", "green_nocorr", "C01"),
    "natural_color": ("C05", "C03", "C02"),
    "sun": ("C02", "green_raw", "C01"),
    "water_vapor": ("C13", "C08", "C10"),
    "infrared": ("C13",),
}
"""What satpy mixes, without the sharpening of pixels that it adds to pictures of visible bands."""


@pytest.fixture(scope="module")
def tree(built: Path) -> xr.DataTree:
    return cube.open_abi(built / "archive", end="2020-07-01T16:05")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SATPY)
def test_pictures_are_satpys(built: Path, tree: xr.DataTree, recipe: str) -> None:
    import satpy
    from satpy.composites.core import GenericCompositor
    from satpy.enhancements.contrast import btemp_threshold
    from satpy.enhancements.enhancer import get_enhanced_image
    from satpy.tests.utils import make_dsq
    from trollimage.xrimage import XRImage

    files = sorted(map(str, (built / "archive").rglob("*_s20201831600*.nc")))
    scene = satpy.Scene(reader="abi_l1b", filenames=files)
    corrected = ("sunz_corrected",) if recipe == "sun" else ()
    parts = [n if "green" in n else make_dsq(name=n, modifiers=corrected) for n in SATPY[recipe]]
    scene.load(parts, generate=False)
    on_one = scene.resample(scene.coarsest_area(), resampler="native")
    if recipe == "infrared":  # as satpy shows what it calls highlighted
        image = XRImage(on_one["C13"])
        btemp_threshold(image, min_in=163.0, max_in=330.0, threshold=242.0)
    else:
        name = {"sun": "true_color", "water_vapor": "simple_water_vapor"}.get(recipe, recipe)
        image = get_enhanced_image(GenericCompositor(name, standard_name=name)([on_one[p] for p in parts]))
    theirs = image.data.transpose("y", "x", "bands").clip(0, 1).values
    ours = cube.rgb(tree, "true_color", sun=True) if recipe == "sun" else cube.rgb(tree, recipe)
    assert ours.chunks is not None
    picture = ours.isel(time=0).values.reshape(theirs.shape)
    both = np.isfinite(picture) & np.isfinite(theirs)
    assert both.mean() > 0.9
    # Satpy's Sun stands where it does at the middle of the scan; a steep gamma magnifies what float32 leaves out.
    atol = {"sun": 2e-3, "water_vapor": 5e-4}.get(recipe, 2e-5)
    np.testing.assert_allclose(picture[both], theirs[both], atol=atol)
    assert picture[both].std() > 0.02


def test_true_colour_is_its_formula(tree: xr.DataTree) -> None:
    picture = cube.rgb(tree["2km"].to_dataset(), "water_vapor").isel(time=0)
    warmth = tree["2km"]["brightness_temperature"].isel(time=0)
    red = ((warmth.sel(band="C13") - 279.0) / (202.3 - 279.0)).clip(0, 1) ** 0.1
    known = np.isfinite(warmth.sel(band=["C13", "C08", "C10"])).all("band")
    np.testing.assert_allclose(picture.sel(rgb="r"), red.where(known), rtol=1e-5)
    colours = cube.rgb(tree, "true_color").isel(time=0)
    fine = {n: tree[g]["reflectance"].isel(time=0).sel(band=n).values for n, g in (("C01", "1km"), ("C03", "1km"))}
    half = tree["500m"]["reflectance"].isel(time=0).sel(band="C02").values
    red = half.reshape(half.shape[0] // 2, 2, half.shape[1] // 2, 2).mean(axis=(1, 3))
    green = 0.465 * fine["C01"] + 0.465 * red + 0.07 * fine["C03"]
    expected = (np.log10(green) - math.log10(0.0223)) / ((1 - math.log10(0.0223)) * 0.75)
    known = np.isfinite(expected)
    assert known.mean() > 0.9
    np.testing.assert_allclose(colours.sel(rgb="g").values[known], expected.clip(0, 1)[known], rtol=1e-4, atol=1e-5)
    assert colours.dims == ("y", "x", "rgb")
    assert colours.rio.crs is not None


def test_day_microphysics_by_numpy(tree: xr.DataTree) -> None:
    from pyorbital.astronomy import cos_zen

    lazy = cube.rgb(tree, "day_microphysics")
    assert lazy.chunks is not None
    picture = lazy.isel(time=0).compute()
    group = tree["2km"].to_dataset().isel(time=0)
    law = {n: float(group[f"planck_{n}"].sel(band="C07")) for n in ("fk1", "fk2", "bc1", "bc2")}

    def radiance(warmth: Any) -> Any:
        return law["fk1"] / (np.exp(law["fk2"] / (law["bc1"] + law["bc2"] * warmth)) - 1)

    at = {"x": 100, "y": 90}
    warmth = group["brightness_temperature"].isel(at)
    located = cube.open_abi(tree.encoding["source"], bands="C13", end="2020-07-01T16:05", lonlat=True)[
        "2km"
    ].to_dataset()
    place = located.isel(at)
    height = cos_zen(group["time"].values, float(place.longitude), float(place.latitude))
    own = radiance(float(warmth.sel(band="C13")))
    sun = radiance(5772.0) * 6.794e-5 / math.pi * height
    reflected = (float(radiance(warmth.sel(band="C07"))) - own) / (sun - own)
    expected = np.clip(reflected / 0.6, 0, 1) ** (1 / 2.5)
    assert float(picture.isel(at).sel(rgb="g")) == pytest.approx(expected, abs=2e-3)
    veggie = tree["1km"]["reflectance"].isel(time=0, y=slice(180, 182), x=slice(200, 202)).sel(band="C03").mean()
    assert float(picture.isel(at).sel(rgb="r")) == pytest.approx(float(veggie) / height, abs=2e-3)
    assert float(picture.isel(at).sel(rgb="b")) == pytest.approx((float(warmth.sel(band="C13")) - 203) / 120, abs=1e-5)
    later = {group: tree[group].to_dataset() for group in ("1km", "2km")}
    night = {g: d.assign_coords(time=d["time"] + np.timedelta64(12, "h")) for g, d in later.items()}
    there = {"x": slice(90, 110), "y": slice(80, 100)}
    assert np.isnan(cube.rgb(xr.DataTree.from_dict(night), "day_microphysics").isel(there)).all()


def test_tiles_are_mixed_as_their_archive(on_disk: Published, tree: xr.DataTree) -> None:
    tiles = cube.open_tiles(on_disk.tiles, "mixed")
    tile = cube.one_tile(tiles, 0)
    picture = cube.rgb(tile, "natural_color")
    assert picture.dims == ("time", "y", "x", "rgb")
    assert picture.chunks is not None
    np.testing.assert_array_equal(cube.rgb(tiles, "natural_color").isel(tile=0), picture)
    step = int(np.argmin(np.abs(tile["scan_start"].values - tree["1km"]["time"].values[0])))
    whole = cube.rgb(tree, "infrared").isel(time=0)
    same = cube.rgb(cube.one_tile(cube.open_tiles(on_disk.tiles, "mixed", repeat=False), 0), "infrared").isel(time=step)
    if abs(tile["scan_start"].values[step] - tree["1km"]["time"].values[0]) < np.timedelta64(5, "s"):
        part = whole.sel(x=same["x_2km"].values, y=same["y_2km"].values, method="nearest")
        np.testing.assert_allclose(same, part, atol=1e-6)
    assert np.isfinite(cube.rgb(tile, "day_microphysics")).mean() > 0.9
    with pytest.raises(UsageError, match=r"the picture needs C01 as reflectance, and it is in .*physical='mixed'"):
        cube.rgb(cube.open_tiles(on_disk.tiles, "radiance"))
    with pytest.raises(UsageError, match="give a group of open_abi, or one_tile"):
        cube.rgb(tiles, "day_microphysics")


def test_sentinel2_by_numpy(on_disk: Published) -> None:
    composites = cube.open_composites(on_disk.composites)
    picture = cube.rgb(composites)
    assert picture.dims == ("y", "x", "rgb")
    assert picture.rio.crs == composites.rio.crs
    red = composites["B04"].values
    known = np.isfinite(picture.sel(rgb="r").values)
    np.testing.assert_allclose(picture.sel(rgb="r").values[known], np.sqrt(np.clip(red / 0.3, 0, 1))[known], rtol=1e-5)
    hole = composites.assign(B02=composites["B02"].where(composites["x"] != composites["x"][7]))
    assert np.isnan(cube.rgb(hole).isel(x=7)).all()  # what one band lacks is no colour of two
    assert np.isfinite(cube.rgb(hole).isel(x=8)).any()
    false = cube.rgb(composites, "false_color")
    for colour, name in zip("rgb", ("B8A", "B04", "B03"), strict=True):
        expected = np.sqrt(np.clip(composites[name] / 0.3, 0, 1)).values[known]
        np.testing.assert_allclose(false.sel(rgb=colour).values[known], expected, rtol=1e-5)
    near, red = (composites[n].values.astype("f8") for n in ("B8A", "B04"))
    index = cube.rgb(composites, "ndvi")
    known = near + red > 0
    np.testing.assert_allclose(index.values[known], ((near - red) / (near + red))[known], rtol=1e-4, atol=1e-6)
    assert np.isnan(index.values[~known]).all()
    with pytest.raises(UsageError, match=r"the picture needs B11, and there are B02, B03, B04, B8A, count"):
        cube.rgb(composites, "natural_color")
    with pytest.raises(UsageError, match=r"`recipe` is 'ndwi', .* [(]did you mean ndvi"):
        cube.rgb(composites, "ndwi")
    with pytest.raises(UsageError, match="no bands that a recipe is known for"):
        cube.rgb(xr.Dataset({"t2m": ("x", [1.0])}))


def test_what_is_opened_shows_what_it_is(on_disk: Published, tree: xr.DataTree) -> None:
    tiles, composites = cube.open_tiles(on_disk.tiles), cube.open_composites(on_disk.composites)
    for data, place in ((tiles, on_disk.tiles), (composites, on_disk.composites), (tree, on_disk.root)):
        assert next(iter(data.attrs)) == "title"
        shown = data._repr_html_()
        assert data.attrs["title"] in shown
        assert place in data.encoding["source"]
    for name in ("C01", "C13"):
        assert tiles[name].attrs["units"]
        assert tiles[name].attrs["long_name"]
