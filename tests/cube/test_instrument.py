"""Instruments as records: what they say, how they travel in a store, how wide their masks are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
import xarray as xr

import cube
from cube.build import main
from cube.decode import LAWS, MEANINGS, apply_law
from cube.geostationary.layout import TileLayout
from cube.instrument import Instrument, instrument, instrument_of
from cube.masks import mask_bit
from stratacube.errors import SourceError, UsageError

ABI = instrument("abi")


def with_bands(number: int) -> Instrument:
    """An instrument of so many bands, each called for its place."""
    bands = tuple(replace(ABI.bands[0], name=f"B{i}", number=i) for i in range(number))
    return replace(ABI, name="made-up", bands=bands, quantities=(), bounds=())


def test_abi_is_what_its_guide_says() -> None:
    assert [b.name for b in ABI.bands] == [f"C{c:02d}" for c in range(1, 17)]
    assert {b.name: b.pixel_urad for b in ABI.bands if b.pixel_urad != 56} == {
        "C01": 28,
        "C02": 14,
        "C03": 28,
        "C05": 28,
    }
    sizes = {r.name: (r.pixel_urad, r.metres, r.full_disk) for r in ABI.scan.resolutions}
    assert sizes == {"500m": (14, 500, 21696), "1km": (28, 1000, 10848), "2km": (56, 2000, 5424)}
    units = {b.name: ABI.quantity("radiance", b.name).units for b in ABI.bands}  # type: ignore[union-attr]
    assert units["C06"] == "W m-2 sr-1 um-1"
    assert units["C07"] == "mW m-2 sr-1 (cm-1)-1"
    assert ABI.quantity("reflectance", "C07") is ABI.quantity("brightness_temperature", "C06") is None
    mixed = [ABI.quantity("mixed", b.name).name for b in ABI.bands]  # type: ignore[union-attr]
    assert mixed == ["reflectance"] * 6 + ["brightness_temperature"] * 10
    assert ABI.coefficients == ("kappa0", "planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")


def test_masks_of_abi_are_as_they_were() -> None:
    assert ABI.mask_dtype == "<u2"
    assert [ABI.mask_place(b.name) for b in ABI.bands] == [(0, b.number - 1) for b in ABI.bands]
    layout = TileLayout("1km", 32, 1, tuple(range(1, 17)))
    assert [int(layout.mask_bit(c)) for c in layout.channels] == [1 << (c - 1) for c in range(1, 17)]
    assert layout.mask_groups() == {"valid": layout.channels}


@pytest.mark.parametrize(
    ("bands", "dtype", "last"),
    [(1, "<u1", (0, 0)), (8, "<u1", (0, 7)), (9, "<u2", (0, 8)), (17, "<u4", (0, 16)), (33, "<u8", (0, 32)),
     (64, "<u8", (0, 63)), (65, "<u8", (1, 0)), (130, "<u8", (2, 1))],
)  # fmt: skip
def test_a_mask_is_as_wide_as_its_bands_need(
    bands: int, dtype: str, last: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_bands(bands)
    assert made.mask_dtype == dtype
    assert made.mask_place(f"B{bands - 1}") == last
    monkeypatch.setattr("cube.geostationary.layout.instrument", lambda _: made)
    layout = TileLayout("1km", 32, 1, tuple(range(bands)), instrument_name="made-up")
    assert int(layout.mask_bit(bands - 1)) == 1 << last[1]
    assert list(layout.mask_groups()) == ["valid", "valid_1", "valid_2"][: last[0] + 1]


def test_a_record_comes_back_as_it_was_written() -> None:
    assert Instrument.read(json.loads(json.dumps(ABI.described(), allow_nan=False))) == ABI
    assert instrument_of({"instrument": with_bands(70).described()}) == with_bands(70)


def test_a_store_that_does_not_say_is_of_abi() -> None:
    assert instrument_of({"grid": "1km"}) == ABI
    with pytest.raises(UsageError, match="not the record of an instrument"):
        instrument_of({"instrument": {"name": "abi"}})
    with pytest.raises(UsageError, match="'avhrr' is unknown"):
        instrument("avhrr")
    with pytest.raises(UsageError, match=r"band 'C17' is unknown; ABI has C01, C02"):
        ABI.band("C17")


def test_a_store_carries_its_instrument(small_archive: Path, tmp_path: Path) -> None:
    given = ["--local-data-dir", str(small_archive), "--output-dir", str(tmp_path), "--domain", "M1", "--workers", "1"]
    shape = ["--tile-size", "64", "--num-tiles", "1", "--steps", "1", "--grid", "native", "--channels", "1", "2", "13"]
    assert main(["abi", *given, *shape]) == 0
    store = xr.open_zarr(tmp_path / "tiles.zarr", mask_and_scale=False, chunks=None)
    assert Instrument.read(store.attrs["instrument"]) == ABI
    told = store["C13"].attrs
    assert told["quantities"]["brightness_temperature"] == {
        "long_name": "brightness temperature",
        "units": "K",
        "law": "planck",
        "formula": "(planck_fk2 / ln(planck_fk1 / radiance + 1) - planck_bc1) / planck_bc2",
        "coefficients": ["planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2"],
    }
    assert told["quantities"]["radiance"]["units"] == told["units"] == "mW m-2 sr-1 (cm-1)-1"
    assert "reflectance" not in told["quantities"]
    assert (told["wavelength_um"], told["native_pixel_urad"], told["pixel_urad"], told["repeat"]) == (10.35, 56, 56, 2)
    assert [store[n].attrs["repeat"] for n in ("C01", "C02")] == [1, 1]
    assert [store[n].attrs["pixel_urad"] for n in ("C01", "C02")] == [28, 14]
    for name, bit in (("C01", 1), ("C02", 2), ("C13", 4096)):
        mask = store[store[name].attrs["ancillary_variables"]]
        assert mask.dtype == np.uint16
        assert mask_bit(mask, name) == bit
    with pytest.raises(SourceError, match="mask valid_2km has flags for C13 but not for C01"):
        mask_bit(store["valid_2km"], "C01")


def test_what_a_store_says_decodes_it(small_archive: Path, tmp_path: Path) -> None:
    """Who knows nothing but Zarr, CF and arithmetic gets what open_tiles gives."""
    given = ["--local-data-dir", str(small_archive), "--output-dir", str(tmp_path), "--domain", "M1", "--workers", "1"]
    assert main(["abi", *given, "--tile-size", "64", "--num-tiles", "1", "--steps", "1", "--channels", "2", "13"]) == 0
    store = xr.open_zarr(tmp_path / "tiles.zarr", mask_and_scale=False, chunks=None, decode_coords="all")
    for place, (name, best) in enumerate({"C02": "reflectance", "C13": "brightness_temperature"}.items()):
        array = store[name]
        assert pyproj.CRS.from_wkt(store[array.encoding["grid_mapping"]].attrs["crs_wkt"]).to_cf()["sweep_angle_axis"]
        assert store[array.attrs["ancillary_variables"]].encoding["grid_mapping"] == "goes_imager_projection"
        told = array.attrs["quantities"]
        words = {n: v.isel(band=place) for n, v in store.variables.items() if v.dims == ("tile", "time", "band")}
        assert all({"long_name", "comment"} <= store[n].attrs.keys() for n in words)
        words |= {"counts": array.variable, "ln": np.log}
        for quantity in ("radiance", best):
            values = words[quantity] = eval(told[quantity]["formula"], {}, words)
            opened = cube.open_tiles(tmp_path, quantity, chunks=None, repeat=False)[name]
            seen = np.isfinite(opened.values)
            assert seen.any()
            np.testing.assert_allclose(values.transpose(*opened.dims).values[seen], opened.values[seen], rtol=1e-5)
            assert opened.attrs["grid_mapping"] == "goes_imager_projection"
            assert opened.attrs["units"] == told[quantity]["units"]
    assert "`repeat` is 2: a stored pixel is 2 x 2 pixels of the 1km grid" in store["C13"].attrs["comment"]
    assert "comment" not in store["C02"].attrs
    assert "comment" not in cube.open_tiles(tmp_path, "counts")["C13"].attrs  # where it is on the grid


@pytest.mark.parametrize("law", LAWS)
def test_formulas_are_the_laws(law: str) -> None:
    numbers = {name: 1.0 + place for place, name in enumerate(LAWS[law].coefficients)}
    formula, _, where = LAWS[law].formula.partition(" where T = ")
    words: dict[str, Any] = {"ln": np.log, "radiance": 7.0, "counts": 7.0, "packing_scale": 1.0, "packing_offset": 0.0}
    words |= numbers
    words["T"] = eval(where or "0", {}, words)
    assert eval(formula, {}, words) == pytest.approx(float(apply_law(law, np.float32(7.0), numbers)), rel=1e-6)
    assert numbers.keys() <= MEANINGS.keys()


def test_real_files_are_within_the_bounds(abi_data: Path) -> None:
    seen: dict[str, int] = {}
    for path in sorted(abi_data.rglob("OR_ABI-L1b-Rad*.nc"))[::3]:
        with h5py.File(path) as h5:
            name = f"C{int(np.ravel(h5['band_id'][()])[0]):02d}"
            numbers: dict[str, Any] = {n: h5["Rad"].attrs[n] for n in ("scale_factor", "add_offset")}
            numbers |= {n: h5[n][()] for n in ABI.coefficients}
        for bound in ABI.bounds:
            if name in bound.bands and bound.name in numbers:
                value = float(np.ravel(numbers[bound.name])[0])
                assert bound.low <= value <= bound.high, (path.name, bound)
                seen[bound.name] = seen.get(bound.name, 0) + 1
    assert seen.keys() == {"scale_factor", "add_offset", *ABI.coefficients}
