"""SatVision-Pix4D's chips in and out: what comes out is what went in, to the bit."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
import zarr

from cube.build import main
from cube.geostationary.chips.forms import Member, told_members
from cube.geostationary.chips.store import ChipLayout
from loaders.cubes import cube_loader, open_cube
from stratacube.errors import SourceError

SIZE = 16


def values(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    made = rng.normal(size=shape).astype("f4")
    made[rng.random(shape) < 0.05] = np.nan
    return made


def convection(rng: np.random.Generator, steps: int = 7, **more: Any) -> dict[str, Any]:
    """Form b, with the labels of its later dialect."""
    shape = (steps, SIZE, SIZE)
    chip = {
        "chip": values(rng, steps, 16, SIZE, SIZE),
        "timestamps": np.array([f"2020-07-01T0{i}:00:10.500000" for i in range(steps)]),
        "requested_timestamps": np.array([f"2020-07-01T0{i}:00:00" for i in range(steps)]),
        "bands": np.arange(1, 17, dtype="i2"),
        "latitude": values(rng, SIZE, SIZE),
        "longitude": values(rng, SIZE, SIZE),
        "solar_zenith_angle": values(rng, *shape),
        "view_zenith_angle": values(rng, *shape),
        "source_files": np.array([[f"/a/OR_{i}_{b}.nc" for b in range(16)] for i in range(steps)]),
        "scale": np.float32(3.5),
        "dcs_id_mask": rng.integers(0, 2**31 - 1, shape).astype("i4"),
        "life_stage_class": rng.integers(0, 5, shape).astype("u1"),
        "parent_stage": values(rng, *shape),
        "metadata": np.array(json.dumps({"system_id": 12, "abi_center_y": 4001})),
    }
    return chip | more


def cloudsat(rng: np.random.Generator, profiles: int) -> dict[str, Any]:
    """Form c: bands last, and a transect of as many profiles as cross it."""
    return {
        "ABI/chip": values(rng, 5, SIZE, SIZE, 16),
        "ABI/offsets_minutes": np.arange(-40, 41, 20, dtype="i4"),
        "ABI/valid_mask": np.ones((5, SIZE, SIZE), "i1"),
        "ABI/scan_times": np.array([f"2019-01-02T18:{i}0:20Z" for i in range(5)]),
        "metadata_json": np.array('{"schema_version": 1, "abi_row": 4001, "abi_column": 3999}'),
        "CloudSat/latitude": values(rng, profiles),
        "CloudSat/cloud_class": rng.integers(-1, 9, (profiles, 40)).astype("i1"),
        "CloudSat/cloud_layer_type": rng.integers(-9, 9, (profiles, 10)).astype("i2"),
        "CloudSat/abi_row": rng.integers(0, 10848, profiles).astype("i8"),
    }


def save(folder: Path, name: str, chip: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, **chip)


def same(one: Path, other: Path) -> None:
    with np.load(one) as a, np.load(other) as b:
        assert a.files == b.files
        for name in a.files:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
            assert a[name].tobytes() == b[name].tobytes(), name


def test_chips_come_out_as_they_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cube.geostationary.chips.store._SHARD", 3 * 4 * 16 * 7 * SIZE * SIZE)  # three to a task
    rng = np.random.default_rng(1)
    chips = tmp_path / "in"
    for number in range(7):
        name = f"GOES16_abi_20200701T0{number}00_sys{number}.npz"
        save(chips, name, convection(rng, steps=7 - number % 3))  # short series too
    for number, profiles in enumerate((478, 91, 701)):
        save(chips, f"GOES16_east_abi_cloudsat_20190102T18000{number}Z_orbit1_r4001_c3999.npz", cloudsat(rng, profiles))
    assert (
        main(
            ["import-chips", "--chips", str(chips / "*.npz"), "--output-dir", str(tmp_path / "store"), "--workers", "1"]
        )
        == 0
    )
    assert main(["verify", str(tmp_path / "store")]) == 0
    flags = ["--store", str(tmp_path / "store"), "--output-dir", str(tmp_path / "out")]
    assert main(["export-chips", *flags]) == 0
    names = sorted(p.name for p in chips.iterdir())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    for name in names:
        same(chips / name, tmp_path / "out" / name)

    # Trainers that read any cube read them as they lie in the store.
    cube = xr.open_zarr(tmp_path / "store" / "chips.zarr", chunks=None)[["C01", "C13"]]
    batch = next(iter(cube_loader(cube, {"time": 7, "y": SIZE, "x": SIZE}, 2, shuffle=False)))
    with np.load(chips / names[0]) as first:
        expected = np.full((7, 2, SIZE, SIZE), np.nan, "f4")
        expected[: len(first["chip"])] = first["chip"][:, [0, 12]]
    np.testing.assert_array_equal(batch.valid[0].numpy(), np.isfinite(expected))
    np.testing.assert_array_equal(batch.pixels[0].numpy(), np.nan_to_num(expected, nan=0.0))


PACKINGS = {2: (-20.289911, 0.15859237, 4095), 7: (-0.0376, 0.001564351, 16383), 13: (-1.6443, 0.04572892, 4095)}
"""Of some bands of GOES-16: value of count 0, of one count, and the last."""


def radiances(rng: np.random.Generator, steps: int) -> npt.NDArray[np.float32]:
    """Of all bands, made of counts as their files' readers make them."""
    chip = np.full((steps, 16, SIZE, SIZE), np.nan, "f4")
    for band in range(1, 17):
        offset, scale, last = PACKINGS.get(band, PACKINGS[13])
        middle = rng.integers(40, last - 40)
        counts = np.clip(middle + rng.integers(-30, 30, (steps, SIZE, SIZE)), 0, last)
        chip[:, band - 1] = counts.astype("f4") * np.float32(scale) + np.float32(offset)
    chip[rng.random(chip.shape) < 0.05] = np.nan
    return chip


def test_chips_of_counts_are_stored_as_counts_and_come_out_as_they_went_in(tmp_path: Path) -> None:
    """One packing must give every value back: a chip that is off by a bit keeps its band float32."""
    rng = np.random.default_rng(7)
    for number in range(6):
        chip = convection(rng, 3) | {"chip": radiances(rng, 3 - number % 2)}
        if number == 4:
            chip["chip"][0, 6, 3, 3] = np.nextafter(chip["chip"][0, 6, 2, 2], np.float32(9e9))
            chip["chip"].view("u4")[0, 8, 3, 3] = 0xFFC00001  # no NaN of NumPy's
        save(tmp_path / "in", f"c{number}.npz", chip)
    store = tmp_path / "store"
    flags = ["import-chips", "--chips", str(tmp_path / "in" / "*.npz"), "--output-dir", str(store)]
    assert main([*flags, "--workers", "1"]) == 0
    group = zarr.open_group(store / "chips.zarr", mode="r")
    kinds = {name: group[name].dtype.str for name in (f"C{band:02d}" for band in range(1, 17))}
    assert {name for name, kind in kinds.items() if kind == "<f4"} == {"C07", "C09"}
    assert {kinds[name] for name in kinds.keys() - {"C07", "C09"}} == {"<u2"}
    assert group["C13"].fill_value == 65_535  # of a chip that could not be read: none, not the value of count 0
    for band in (2, 13):
        told = dict(group[f"C{band:02d}"].attrs)
        assert told["scale_factor"] == pytest.approx(PACKINGS[band][1], rel=1e-5)
    assert main(["export-chips", "--store", str(store), "--output-dir", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "in").iterdir():
        same(path, tmp_path / "out" / path.name)
    # Opened for training, values are those of the chips, to the bit; xarray alone unpacks in double precision.
    opened, plain = open_cube(str(store / "chips.zarr")), xr.open_zarr(store / "chips.zarr", chunks=None)
    with np.load(tmp_path / "in" / "c0.npz") as held:
        for band in (2, 7, 13):
            values = opened[f"C{band:02d}"].values[0]
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, held["chip"][:, band - 1])
            np.testing.assert_allclose(plain[f"C{band:02d}"].values[0], held["chip"][:, band - 1], rtol=1e-6, atol=1e-6)


def test_an_import_of_before_goes_on_without_packings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cube.geostationary.chips.store._SHARD", 1)
    rng = np.random.default_rng(8)
    for number in range(3):
        save(tmp_path / "in", f"c{number}.npz", {"chip": radiances(rng, 2)})
    store = tmp_path / "store"
    flags = ["import-chips", "--chips", str(tmp_path / "in" / "*.npz"), "--output-dir", str(store), "--workers", "1"]
    monkeypatch.setattr("cube.geostationary.chips.run.packing_of", lambda values: None)
    assert main(flags) == 0  # what was stored before there were packings
    monkeypatch.undo()
    ledger = store / "ledger.jsonl"
    kept = [line for line in ledger.read_text().splitlines() if '"packing"' not in line and "chips-000002" not in line]
    ledger.write_text("".join(f"{line}\n" for line in kept))
    (store / "packing.json").unlink()
    assert main(flags) == 0
    assert not (store / "packing.json").exists()
    assert zarr.open_group(store / "chips.zarr", mode="r")["C13"].dtype == np.float32


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification", "ignore:Consolidated metadata")
@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr_tiles_of_both_versions(tmp_path: Path, *, consolidated: bool) -> None:
    """Trainers read what comes out by xarray as they read what went in."""
    rng = np.random.default_rng(2)
    for version, variable in ((2, "Rad"), (3, "__xarray_dataarray_variable__")):
        steps = 7 - version
        data = xr.Dataset(
            {
                variable: (("time", "band", "y", "x"), values(rng, steps, 16, SIZE, SIZE), {"units": "W m-2"}),
                "quality": (("y", "x"), np.arange(SIZE * SIZE, dtype="i2").reshape(SIZE, SIZE), {"long_name": "any"}),
            },
            {
                "time": np.datetime64("2019-01-05T16:00", "ns") + np.arange(steps) * np.timedelta64(20, "m"),
                "band": [f"C{number:02d}" for number in range(1, 17)],
                "y": np.arange(SIZE) + 200,
                "x": np.arange(SIZE) + 301,  # an odd corner
                "latitude": (("y", "x"), values(rng, SIZE, SIZE)),
            },
            {"title": "a tile"},
        )
        data["quality"].encoding |= {"_FillValue": -99, "chunks": (SIZE // 2, SIZE)}
        data["region"] = ("band", np.array(["east", "w"] * 8, object))  # of any length
        path = tmp_path / "in" / f"goes16_abi_20190105T160000_rand000000{version}.zarr"
        data.to_zarr(path, zarr_format=version, consolidated=consolidated)
    store = tmp_path / "store"
    assert main(["import-chips", "--chips", str(tmp_path / "in" / "*.zarr"), "--output-dir", str(store)]) == 0
    assert main(["export-chips", "--store", str(store), "--output-dir", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "in").iterdir():
        again = tmp_path / "out" / path.name
        groups = [zarr.open_group(p, mode="r") for p in (path, again)]
        assert len({group.metadata.zarr_format for group in groups}) == 1
        assert len({group.metadata.consolidated_metadata is None for group in groups}) == 1
        assert len({group["quality"].chunks for group in groups}) == 1
        for raw in (True, False):  # as it lies in the store, too
            one, other = (
                xr.open_zarr(p, consolidated=consolidated, chunks=None, mask_and_scale=not raw, decode_times=not raw)
                for p in (path, again)
            )
            xr.testing.assert_identical(one.load(), other.load())
            for name in one.variables:
                assert one[name].dtype == other[name].dtype
                np.testing.assert_equal(one[name].encoding.get("_FillValue"), other[name].encoding.get("_FillValue"))


def test_pixels_of_double_precision_stay_so(tmp_path: Path) -> None:
    pixels = np.random.default_rng(6).random((2, 16, SIZE, SIZE))
    save(tmp_path / "in", "a.npz", {"chip": pixels})
    save(tmp_path / "in", "b.npz", {"chip": pixels.astype("f4")})
    store = tmp_path / "store"
    assert main(["import-chips", "--chips", str(tmp_path / "in" / "*.npz"), "--output-dir", str(store)]) == 0
    assert main(["export-chips", "--store", str(store), "--output-dir", str(tmp_path / "out")]) == 0
    for name in ("a.npz", "b.npz"):
        same(tmp_path / "in" / name, tmp_path / "out" / name)


def test_stores_of_chips_that_tell_nothing_of_zarr_are_given_back(tmp_path: Path) -> None:
    """Those that were made before the table told it."""
    pixels = values(np.random.default_rng(5), 2, 16, SIZE, SIZE)
    data = xr.Dataset({"Rad": (("time", "band", "y", "x"), pixels)})
    data.to_zarr(tmp_path / "in" / "a.zarr", zarr_format=2, consolidated=False)
    store = tmp_path / "store"
    assert main(["import-chips", "--chips", str(tmp_path / "in" / "*.zarr"), "--output-dir", str(store)]) == 0
    pd.read_parquet(store / "chips.parquet").drop(columns="zarr").to_parquet(store / "chips.parquet")
    assert main(["export-chips", "--store", str(store), "--output-dir", str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out" / "a.zarr", mode="r")["Rad"][...], pixels)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cube.geostationary.chips.store._SHARD", 1)
    rng = np.random.default_rng(3)
    for number in range(4):
        save(tmp_path / "in", f"c{number}.npz", convection(rng, steps=2))
    flags = ["import-chips", "--chips", str(tmp_path / "in" / "*.npz"), "--workers", "1"]
    assert main([*flags, "--output-dir", str(tmp_path / "whole")]) == 0
    (tmp_path / "in" / "c2.npz").rename(tmp_path / "c2.npz")
    (tmp_path / "in" / "c2.npz").write_bytes((tmp_path / "c2.npz").read_bytes())
    assert main([*flags, "--output-dir", str(tmp_path / "part")]) == 0
    for lost in (tmp_path / "part" / "chips.zarr" / "C05").rglob("2"):
        if lost.is_dir():
            for file in lost.rglob("*"):
                if file.is_file():
                    file.unlink()
    assert main(["verify", str(tmp_path / "part")]) == 1
    assert main([*flags, "--output-dir", str(tmp_path / "part")]) == 0
    assert main(["verify", str(tmp_path / "part")]) == 0
    one, other = (xr.open_zarr(tmp_path / n / "chips.zarr", chunks=None) for n in ("whole", "part"))
    xr.testing.assert_identical(one, other)


def frame(rng: np.random.Generator) -> dict[str, Any]:
    """Form d: a dict of arrays, numbers and text."""
    data = {
        "Pressure": values(rng, 91, 40),
        "Cloud_class": rng.integers(0, 9, (91, 10)),
        "Cloud_mask_binary": rng.random((91, 40)) < 0.5,
        "Surface": np.asfortranarray(rng.normal(size=(3, 4))),
        "UTC_Time": np.float64(18.25),
        "Orbit": 4711,
        "Name": "2019-003",
        "Names": np.array(["a", "bc"]),
    }
    return {"chip": values(rng, SIZE, SIZE, 16), "data": data}


def old_pickle(protocol: int, chip: dict[str, Any] | None = None) -> bytes:
    """Of the dict, as numpy of version 1 wrote it in the protocols of that time."""
    held = np.array((chip or frame(np.random.default_rng(5)))["data"], object)
    pickled = pickle.dumps(held, protocol)
    return pickled if protocol > 3 else pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_old_chips_of_one_frame(tmp_path: Path, protocol: int) -> None:
    """Their dict is pickled, by any Python and numpy."""
    chip = frame(np.random.default_rng(5))
    folder = tmp_path / "in"
    folder.mkdir()
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": (), "fortran_order": False, "descr": "|O"})
    with zipfile.ZipFile(folder / "2019-003-4711_1-2-3.npz", "w") as archive:
        with archive.open("chip.npy", "w") as out:
            np.lib.format.write_array(out, chip["chip"])
        archive.writestr("data.npy", head.getvalue() + old_pickle(protocol, chip))
    flags = ["--chips", str(folder / "*.npz"), "--output-dir", str(tmp_path / "store"), "--workers", "1"]
    assert main(["import-chips", *flags]) == 0
    assert main(["export-chips", "--store", str(tmp_path / "store"), "--output-dir", str(tmp_path / "out")]) == 0
    band = xr.open_zarr(tmp_path / "store" / "chips.zarr", chunks=None)["C13"]
    np.testing.assert_array_equal(band[0, 0], chip["chip"][..., 12])
    with np.load(tmp_path / "out" / "2019-003-4711_1-2-3.npz") as held:
        np.testing.assert_array_equal(held["chip"], chip["chip"])
        assert {*held.files} == {"chip", *(f"data/{name}" for name in chip["data"])}
        for name, value in chip["data"].items():
            np.testing.assert_array_equal(held[f"data/{name}"], value)
            assert held[f"data/{name}"].dtype == np.asarray(value).dtype


class Runs:
    """Names a function where it is unpickled."""

    def __init__(self, *named: Any) -> None:
        self.named = named

    def __reduce__(self) -> tuple[Any, ...]:
        return self.named[0], self.named[1:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"a": Runs(os.system, "touch ran")}, "names posix.system, which is not an array"),
        ({"a": Runs(eval, "open('ran', 'w')")}, "names builtins.eval"),
        ({"a": Runs(getattr, 1, "real")}, "names builtins.getattr"),
        ({"a": Runs(np.ndarray, (2**40,))}, "not callable|_Array"),
        ({"a": np.array([{}], object)}, "a is an array of objects"),
        ({"a": [1, 2]}, "a is a list"),
        ({1: 2}, "the pickled data is dict, not a dict by name"),
    ],
)
def test_old_chips_that_hold_more_than_numbers_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "a.npz").open("wb") as out:
        np.savez(out, chip=np.zeros((SIZE, SIZE, 16)), data=np.array(data, object))
    with pytest.raises(SourceError, match=said) as caught:
        told_members(tmp_path / "a.npz")
    assert "a.npz is not a chip that can be read" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_chips_are_told_and_the_others_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(4)
    folder = tmp_path / "in"
    save(folder, "good.npz", convection(rng))
    save(folder, "flat.npz", {"chip": np.zeros((4, 4))})
    np.savez(folder / "objects.npz", chip=np.zeros((1, 16, SIZE, SIZE)), more=np.array({"a": 1}, dtype=object))
    (folder / "text.npz").write_text("no zip")
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flags = ["--chips", str(folder / "*.npz"), "--output-dir", str(tmp_path / "store"), "--workers", "1"]
    assert main(["import-chips", *flags]) == 1
    told = capsys.readouterr().err
    for part in (
        "flat.npz has no chip of four dimensions",
        "objects.npz holds objects in more, which are not read",
        "text.npz is not a chip that can be read",
        "cut.npz is not a chip that can be read",
    ):
        assert part in told
    assert xr.open_zarr(tmp_path / "store" / "chips.zarr", chunks=None).sizes["tile"] == 1


@pytest.mark.parametrize(
    ("sizes", "told"),
    [((16, 32), "chips of one store have one size, not 16 x 16 pixels of 16 bands and 32 x 32 of 16"), ((), "no chip")],
)
def test_what_does_not_go_together_is_refused(
    sizes: tuple[int, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in sizes:
        save(tmp_path / "in", f"c{size}.npz", {"chip": np.zeros((1, 16, size, size), "f4")})
    flags = ["--chips", str(tmp_path / "in" / "*.npz"), "--output-dir", str(tmp_path / "store")]
    assert main(["import-chips", *flags]) == 2
    assert told in capsys.readouterr().err


def test_headers_of_chips_are_let_go_one_after_another() -> None:
    """A store of any number of chips is laid out in the memory of a few."""
    alive, most = 0, 0

    class Headers(dict[str, Member]):
        def __init__(self, steps: int) -> None:
            nonlocal alive, most
            super().__init__(
                chip=Member((steps, 2, 8, 6), "<f4"), scale=Member((steps,), "<f8" if steps == 3 else "<i2")
            )
            alive, most = alive + 1, max(most, alive + 1)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    layout = ChipLayout.of(("convection", Headers(1 + n % 7)) for n in range(50))
    assert most <= 2
    assert (layout.chips, layout.steps, layout.bands, layout.rows, layout.cols) == (50, 7, ("C01", "C02"), 8, 6)
    assert layout.others == {"scale": ((7,), "<f8")}
