"""The whole path on real files of GK-2A's imager, compared with h5py, satpy and pyproj."""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import pytest
import xarray as xr

import cube
from cube.build import main
from cube.instrument import instrument
from loaders.tiles import tile_loader
from stratacube.errors import SourceError
from tests.stac_validation import validate_stac

BANDS = ("vi004", "vi008", "nr013", "sw038", "wv063", "wv073", "ir105", "ir123")
SATPY = {
    "vi004": "VI004", "vi008": "VI008", "nr013": "NR013", "sw038": "SW038", "wv063": "WV063", "wv073": "WV073",
    "ir105": "IR105", "ir123": "IR123",
}  # fmt: skip
J2000 = np.datetime64("2000-01-01T12:00:00", "ns")


def path_of(folder: Path, band: str) -> Path:
    return next(folder.glob(f"gk2a_ami_le1b_{band}_*.nc"))


def flags(data: Path, output: Path) -> list[str]:
    return ["--local-data-dir", str(data), "--output-dir", str(output), "--workers", "1", "--satellite", "gk2a"]


@pytest.fixture(scope="module")
def build(ami_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of the scan, each band at its own pixels."""
    output = tmp_path_factory.mktemp("ami") / "out"
    shape = ["--steps", "1", "--tile-size", "200", "--num-tiles", "4", "--grid", "native", "--domain", "LA"]
    assert main(["abi", *flags(ami_data, output), *shape, "--channels", *BANDS]) == 0
    return output


@pytest.fixture(scope="module")
def satpy_reader(ami_data: Path) -> Iterator[Any]:
    """Reads the bands as satpy does, by the files' own coefficients."""
    pytest.importorskip("satpy")

    @cache
    def scene(calibration: str) -> Any:
        import satpy

        read = satpy.Scene(
            [str(path_of(ami_data, band)) for band in BANDS], reader="ami_l1b", reader_kwargs={"calib_mode": "file"}
        )
        kinds = {"radiance": BANDS, "reflectance": BANDS[:3], "brightness_temperature": BANDS[3:]}
        read.load([SATPY[band] for band in kinds[calibration]], calibration=calibration)
        return read

    def read(band: str, calibration: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return scene(calibration)[SATPY[band]].compute()

    with pytest.MonkeyPatch.context() as patch:
        # It imports pyspectral for a way to calibrate that is not asked of it here.
        blackbody: Any = types.ModuleType("pyspectral.blackbody")
        blackbody.blackbody_wn_rad2temp = None
        patch.setitem(sys.modules, "pyspectral", types.ModuleType("pyspectral"))
        patch.setitem(sys.modules, "pyspectral.blackbody", blackbody)
        yield read


def test_counts_and_masks_equal_the_bits_of_the_files(build: Path, ami_data: Path) -> None:
    plan = pd.read_parquet(build / "plan.parquet")
    store = xr.open_zarr(build / "tiles.zarr", mask_and_scale=False, chunks=None)
    for band in BANDS:
        with h5py.File(path_of(ami_data, band)) as h5:
            image = h5["image_pixel_values"]
            raw, bits = image[()], int(image.attrs["number_of_valid_bits_per_pixel"][0])
            dx = float(image.attrs["ground_sample_distance_ew"][0])
            left, top = (h5.attrs[f"image_upperleft_{a}"][0] + s * dx / 2 for a, s in (("x", -1), ("y", 1)))
        size = store[band].shape[-1]
        assert size == {28e-6: 200, 56e-6: 100}[dx]
        for row in plan.itertuples():
            c, r = (row.x_left - left) / dx, (top - row.y_top) / dx
            assert abs(c - round(c)) < 1e-4 > abs(r - round(r))
            at = np.s_[round(r) : round(r) + size, round(c) : round(c) + size]
            np.testing.assert_array_equal(store[band][row.tile, 0], raw[at] & (2**bits - 1), err_msg=band)
            mask = store[store[band].attrs["ancillary_variables"]][row.tile, 0].values
            bit = instrument("ami").mask_place(band)[1]
            np.testing.assert_array_equal(mask >> bit & 1 == 1, raw[at] >> 14 <= 1)
    assert main(["verify", str(build)]) == 0


@pytest.mark.parametrize("band", BANDS)
def test_quantities_equal_satpy(band: str, ami_data: Path, satpy_reader: Any) -> None:
    path = path_of(ami_data, band)
    tree = cube.open_abi(ami_data, [band], platform="gk2a")
    ours = next(iter(tree.children.values())).dataset.isel(time=0).sel(band=band)
    with h5py.File(path) as h5:
        offset = abs(float(h5.attrs["DN_to_Radiance_Offset"][0]))
    truth = satpy_reader(band, "radiance").values
    rounding = 1.5 * float(np.spacing(np.float32(max(offset, float(np.abs(truth).max())))))
    np.testing.assert_allclose(ours["radiance"], truth, rtol=0, atol=rounding)
    if band[:2] in ("vi", "nr"):
        factor = float(ours["kappa0"])
        truth = satpy_reader(band, "reflectance").values / 100
        np.testing.assert_allclose(ours["reflectance"], truth, rtol=2e-7, atol=rounding * factor)
        assert 0.5 < truth.max() < 1.2
    else:
        truth = satpy_reader(band, "brightness_temperature").values
        # What a rounded radiance leaves: most where there is little of it, in the shortwave.
        np.testing.assert_allclose(
            ours["brightness_temperature"], truth, rtol=0, atol=4e-4 if band == "sw038" else 1e-4
        )
        assert 180 < truth.min() < truth.max() < 320


def test_corners_of_resolutions_coincide_and_lie_where_the_file_says(ami_data: Path, satpy_reader: Any) -> None:
    tree = cube.open_abi(ami_data, lonlat=True)
    edges = {}
    for name, band in (("1km", "vi004"), ("2km", "ir105")):
        node = tree[name].dataset
        x, y, dx = node["x_rad"].values, node["y_rad"].values, {"1km": 28e-6, "2km": 56e-6}[name]
        np.testing.assert_allclose(np.diff(x), dx, atol=1e-12)
        np.testing.assert_allclose(np.diff(y), -dx, atol=1e-12)
        edges[name] = [x[0] - dx / 2, x[-1] + dx / 2, y[-1] - dx / 2, y[0] + dx / 2]
        with h5py.File(path_of(ami_data, band)) as h5:
            told = {k: float(v[0]) for k, v in h5.attrs.items() if k.startswith("image_")}
        np.testing.assert_allclose([x[0], y[0]], [told["image_upperleft_x"], told["image_upperleft_y"]], atol=1e-9)
        np.testing.assert_allclose([x[-1], y[-1]], [told["image_lowerright_x"], told["image_lowerright_y"]], atol=1e-9)
        if name == "2km":  # 1 km files give those of the pixel's outer corner
            for corner, at in (("upperleft", 0), ("lowerright", -1)):
                place = [float(node[n][at, at]) for n in ("longitude", "latitude")]
                wanted = np.degrees([told[f"image_{corner}_longitude"], told[f"image_{corner}_latitude"]])
                np.testing.assert_allclose(place, wanted, atol=2e-6)
        area = satpy_reader(band, "radiance").attrs["area"]
        height = 42164000.0 - 6378137.0
        # Its rows come out south of the equator (it turns the sign of lfac round), else it sees the same.
        west, south, east, north = area.area_extent
        np.testing.assert_allclose(np.array([west, east, -north, -south]) / height, edges[name], atol=1e-9)
    np.testing.assert_allclose(edges["1km"], edges["2km"], atol=1e-12)


def test_navigation_equals_pyproj(ami_data: Path) -> None:
    node = cube.open_abi(ami_data, ["ir105"], lonlat=True)["2km"].dataset
    with h5py.File(path_of(ami_data, "ir105")) as h5:
        a, b, r = (
            float(h5.attrs[f][0]) for f in ("earth_equatorial_radius", "earth_polar_radius", "nominal_satellite_height")
        )
        lon = float(np.degrees(h5.attrs["sub_longitude"][0]))
    projection = pyproj.Proj(proj="geos", h=r - a, lon_0=lon, a=a, b=b, sweep="y")
    x, y = np.meshgrid(node["x_rad"], node["y_rad"])
    wanted = projection(x * (r - a), y * (r - a), inverse=True)
    for name, truth in zip(("longitude", "latitude"), wanted, strict=True):
        np.testing.assert_allclose(node[name], truth, atol=1e-7)


def test_times_are_those_of_the_observation(build: Path, ami_data: Path) -> None:
    with h5py.File(path_of(ami_data, "ir105")) as h5:
        begin, end = (
            J2000 + np.timedelta64(int(h5.attrs[f"observation_{w}_time"][0] * 1e6), "us") for w in ("start", "end")
        )
    assert begin > np.datetime64("2023-08-09T00:34:30")  # which the name does not tell
    tiles = cube.open_tiles(build)
    second = np.timedelta64(1, "ms")
    assert (abs(tiles["scan_start"].values - begin) < second).all()
    assert (abs(tiles["scan_mid"].values - (begin + (end - begin) / 2)) < second).all()
    assert abs(cube.open_abi(ami_data)["2km"]["time"].values[0] - begin) < second


def test_loaders_stream_what_open_tiles_shows(build: Path) -> None:
    for quantity, bands in (("brightness_temperature", ["ir105", "sw038"]), ("reflectance", ["vi008", "vi004"])):
        batch = next(
            iter(tile_loader(build / "tiles.zarr", 4, shuffle=False, bands=bands, quantity=quantity, fill=np.nan))
        )
        tiles = cube.open_tiles(build, quantity)
        shown: npt.NDArray[Any] = np.stack([tiles[band].values for band in bands], axis=2)
        np.testing.assert_array_equal(batch.pixels.numpy(), shown)
        assert np.isfinite(shown).all()


def test_the_catalogue_tells_of_the_imager(build: Path) -> None:
    record = xr.open_zarr(build / "tiles.zarr", chunks=None).attrs
    assert record["instrument"] == instrument("ami").described()
    items = [json.loads(path.read_text()) for path in (build / "tiles" / "items").glob("*.json")]
    collection = json.loads((build / "tiles" / "collection.json").read_text())
    for described in (*items, collection, json.loads((build / "sources.json").read_text())):
        validate_stac(described)
    told = items[0]["properties"]
    assert told["platform"] == "GK-2A"
    assert (collection["summaries"]["instruments"], collection["summaries"]["mission"]) == (["AMI"], ["GEO-KOMPSAT-2"])
    assert not any("goes" in key for key in told)
    bands = {b["name"]: b for b in collection["assets"]["store"]["bands"]}
    assert list(bands) == list(BANDS)
    assert (bands["ir105"]["eo:center_wavelength"], bands["ir105"]["eo:common_name"]) == (10.35, "lwir")
    assert bands["sw038"]["raster:scale"] == pytest.approx(-0.00108296517)
    assert "AMI" in (build / "report.md").read_text().splitlines()[0]
    assert list((build / "previews").glob("gk2a_LA_*.png"))


def test_a_real_file_cut_short_is_one_sentence(ami_data: Path, tmp_path: Path) -> None:
    whole = path_of(ami_data, "ir105")
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:300_000])
    with pytest.warns(UserWarning, match=r"ir105_la020ge_202308090034\.nc is not a readable AMI L1b file \(truncated"):  # noqa: SIM117
        with pytest.raises(SourceError, match="none of 1 files is readable"):
            cube.open_abi(tmp_path)
