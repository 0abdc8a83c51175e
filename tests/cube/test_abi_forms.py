"""The forms of a tile store: bands at their own pixels and the grid as a view, or all bands repeated on the grid."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import cube
from cube.build import main
from cube.config import AbiConfig
from cube.geostationary.layout import TileLayout
from loaders.tiles import tile_loader
from stratacube.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CHANNELS = ("1", "2", "3", "7", "13")
BASE = (
    *("--domain", "M1", "--tile-size", "128", "--steps", "2", "--step-minutes", "10"),
    *("--num-tiles", "4", "--shard-mb", "0.3", "--workers", "1", "--quiet"),
)


def build(archive: Path, output: Path, *flags: str, channels: tuple[str, ...] = CHANNELS) -> Path:
    given = ("--output-dir", str(output), "--local-data-dir", str(archive), "--channels", *channels, *BASE, *flags)
    assert main(["abi", *given]) == 0
    return output


@pytest.fixture(scope="module")
def common(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(small_archive, tmp_path_factory.mktemp("forms") / "common", "--store", "common")


@pytest.fixture(scope="module")
def native(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(small_archive, tmp_path_factory.mktemp("forms") / "native")


def raw(folder: Path) -> xr.Dataset:
    return xr.open_zarr(folder / "tiles.zarr", mask_and_scale=False, chunks=None)


def test_bands_of_2_km_are_stored_once(native: Path, common: Path) -> None:
    stored, whole = raw(native), raw(common)
    assert stored["C13"].dims == ("tile", "time", "y_2km", "x_2km")
    assert stored["C13"].shape[-1] == 64
    assert {n: stored[n].attrs["repeat"] for n in ("C02", "C13", "valid", "valid_2km")} == {
        **{"C02": 1, "C13": 2},
        **{"valid": 1, "valid_2km": 2},
    }
    assert stored.attrs["store"] == "native"
    for name in ("C01", "C02", "C03"):
        np.testing.assert_array_equal(stored[name], whole[name])
    for name in ("C07", "C13"):
        np.testing.assert_array_equal(stored[name], whole[name].values[..., ::2, ::2])
    assert "store" not in whole.attrs
    assert {variable.attrs.get("repeat", 1) for variable in whole.variables.values()} == {1}


@pytest.mark.parametrize("quantity", ["counts", "radiance", "reflectance", "brightness_temperature"])
@pytest.mark.parametrize("chunks", ["auto", None, {"tile": 1, "y_2km": 32}], ids=["dask", "eager", "cut"])
def test_the_grid_is_a_view(native: Path, common: Path, quantity: Any, chunks: Any) -> None:
    view = cube.open_tiles(native, quantity, chunks=chunks)
    truth = cube.open_tiles(common, quantity, chunks=None)
    assert set(map(str, view.variables)) == set(map(str, truth.variables))
    for name, wanted in truth.variables.items():
        assert view[name].dims == wanted.dims
        assert view[name].dtype == wanted.dtype
        np.testing.assert_array_equal(view[name].values, wanted.values, err_msg=str(name))
        assert view[name].attrs == wanted.attrs
    if chunks is not None and quantity != "reflectance":
        assert isinstance(view["C13"].data, dask.array.Array)


def test_bands_may_be_opened_as_they_are_stored(native: Path) -> None:
    stored = cube.open_tiles(native, "brightness_temperature", repeat=False)
    view = cube.open_tiles(native, "brightness_temperature")
    assert stored["C13"].dims[-1] == "x_2km"
    np.testing.assert_array_equal(stored["C13"], view["C13"].values[..., ::2, ::2])


def test_a_store_of_bands_of_2_km_alone_is_on_the_grid_too(small_archive: Path, common: Path, tmp_path: Path) -> None:
    folder = build(small_archive, tmp_path / "out", channels=("7", "13"))
    view, truth = (cube.open_tiles(f, "counts", chunks=None) for f in (folder, common))
    np.testing.assert_array_equal(view["C13"], truth["C13"])
    np.testing.assert_array_equal(view["valid"], truth["valid"] & np.uint16(0b1000001000000))
    assert view["C13"].attrs["ancillary_variables"] == "valid"


def test_half_km_pixels_may_be_taken_or_kept(
    small_archive: Path, native: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fine = raw(build(small_archive, tmp_path / "fine", "--grid", "native", channels=("2", "13")))
    one = raw(build(small_archive, tmp_path / "one", "--half-km", "decimate", channels=("2", "13")))
    kept = build(small_archive, tmp_path / "kept", "--half-km", "keep", channels=("2", "13"))
    np.testing.assert_array_equal(one["C02"], fine["C02"].values[..., ::2, ::2])
    np.testing.assert_array_equal(one["packing_scale"], fine["packing_scale"])
    assert one["C02"].attrs["_FillValue"] == fine["C02"].attrs["_FillValue"]
    np.testing.assert_array_equal(raw(kept)["C02"], fine["C02"])
    assert raw(kept)["C02"].dims[-1] == "x_500m"
    batch = next(iter(tile_loader(kept, 1, workers=0)))  # those that share the grid, and it is told which do not
    assert batch.bands == ("C13",)
    assert "is read without C02: their pixels are finer than the grid; give `bands=['C02']`" in caplog.text
    assert next(iter(tile_loader(kept, 1, bands=["C02"], workers=0))).pixels.shape[-1] == 256
    viewed = cube.open_tiles(kept, "radiance")
    assert dict(viewed["C02"].sizes)["x_500m"] == 2 * dict(viewed["C13"].sizes)["x"]
    mean = cube.open_tiles(native, "radiance")["C02"].values
    blocks = viewed["C02"].values.reshape(*viewed["C02"].shape[:2], 128, 2, 128, 2)
    np.testing.assert_allclose(mean, np.nanmean(blocks, (3, 5)), rtol=2e-6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"half_km": "keep", "store": "common"}, "`half_km=keep` goes with `store=native`"),
        ({"half_km": "decimate", "grid": "2km"}, "`half_km=decimate` goes with `grid=1km`"),
        ({"half_km": "keep", "grid": "native"}, "`half_km=keep` goes with `grid=1km`"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        AbiConfig.load(None, {"output_dir": "out", **values})


def test_a_band_whose_blocks_differ_is_stored_on_the_grid() -> None:
    """As a fact of the layout: no other band, and no shape of it, changes."""
    plain = TileLayout("1km", 128, 2, (2, 7, 13), store="native")
    layout = TileLayout("1km", 128, 2, (2, 7, 13), store="native", differing=frozenset({7}))
    assert (plain.band_size(7), plain.repeat(7), plain.suffix(7)) == (64, 2, "_2km")
    assert (layout.band_size(7), layout.repeat(7), layout.suffix(7)) == (128, 1, "")
    assert layout.mask_groups() == {"valid": (2, 7), "valid_2km": (13,)}
    assert layout.band_size(13) == 64


def test_tiles_start_on_whole_pixels_of_every_band(native: Path) -> None:
    plan = pd.read_parquet(native / "plan.parquet")
    assert len(plan) == 4
    assert not (plan[["row", "col"]] % 2).to_numpy().any()


def test_three_lines_of_plain_xarray_give_the_grid(native: Path, common: Path, tmp_path: Path) -> None:
    """Those of the guide, where nothing of ours is imported."""
    text = (ROOT / "docs" / "guide.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if 'attrs["repeat"]' in b)
    (tmp_path / "random").symlink_to(native)
    block += "np.save('fine.npy', fine)\nimport sys\nassert not {'cube', 'stratacube', 'loaders'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "fine.npy"), xr.open_zarr(common / "tiles.zarr")["C13"])


def test_the_form_before_holds_the_arrays_it_held(common: Path) -> None:
    names = {n for n, _ in zarr.open_group(common / "tiles.zarr", mode="r").arrays()}
    assert {n for n in names if n.startswith("valid")} == {"valid"}


def test_half_km_without_such_a_band_is_told(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["abi", "--output-dir", str(tmp_path), "--local-data-dir", str(small_archive), *BASE, "--dry-run"]
    told = "warning: --half-km {} changes nothing: none of --channels has pixels of 0.5 km"
    for flags, said in (
        (["decimate", "--channels", "1", "13"], True),
        (["keep", "--channels", "13"], True),
        (["mean", "--channels", "13"], False),
        (["decimate", "--channels", "2", "13"], False),
    ):
        assert main([*given, "--half-km", *flags]) == 0
        assert (told.format(flags[0]) in capsys.readouterr().err) == said, flags


def test_a_store_off_the_1_km_grid_is_told_to_change_nothing(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["abi", "--output-dir", str(tmp_path), "--local-data-dir", str(small_archive), *BASE, "--dry-run"]
    for flags, said in (
        (["--grid", "2km", "--store", "common"], True),
        (["--grid", "native", "--store", "native"], True),
        (["--grid", "2km"], False),
        (["--grid", "1km", "--store", "common"], False),
    ):
        assert main([*given, "--channels", "13", "--steps", "1", *flags]) == 0
        told = capsys.readouterr()
        assert ("warning: --store changes nothing: with --grid" in told.err) == said, flags
        assert " px, 1 step, 1 band" in told.out
    one, other = (AbiConfig(output_dir=tmp_path, grid="2km", **given) for given in ({}, {"store": "common"}))
    assert one.digest() == other.digest()
    assert one.store == "common"


def test_openers_and_loaders_know_the_same_words(native: Path) -> None:
    stored = raw(native)
    counts = tile_loader(native, 1, bands=["C13"], quantity="counts", workers=0)
    batch = next(iter(counts))
    tile = int(batch.meta["tile"][0])
    seen = np.where(batch.valid, batch.pixels, 0)[0, :, 0]
    expected = np.repeat(np.repeat(stored["C13"].values[tile], 2, -2), 2, -1)
    np.testing.assert_array_equal(seen, np.where(batch.valid[0, :, 0], expected, 0))
    mixed = cube.open_tiles(native, "mixed")
    xr.testing.assert_identical(mixed["C13"], cube.open_tiles(native, "brightness_temperature")["C13"])
    xr.testing.assert_identical(mixed["C02"], cube.open_tiles(native, "reflectance")["C02"])
    with pytest.raises(
        UsageError, match=r"'reflectence', which is not one of counts, .*mixed \(did you mean reflectance\?\)"
    ):
        cube.open_tiles(native, "reflectence")
