"""The whole path on real files: mesoscale and CONUS sectors, day and night, old and new encodings."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.build import main

CASES = {
    "meso day": ("goes17", "M1", "2019-10-27", (), {2}),
    "meso night, rewritten by xarray": ("goes17", "M1", "2019-12-01", (), set()),
    "conus night": ("goes16", "C", "2020-01-04", ("1", "4", "6"), set()),
    "conus shuffled": ("goes16", "C", "2023-09-13", ("8", "16"), set()),
    "meso before its scan angles were centred": ("goes16", "M1", "2017-07-12", ("1", "3"), set()),
}


def scan_of(root: Path, platform: str, sector: str, day: str) -> Scan:
    scans = find_scans(LocalArchive(root), platform=platform, sector=sector)
    return next(s for s in scans if f"{s.start:%Y-%m-%d}" == day)


@pytest.mark.parametrize("case", CASES)
def test_real_scans_are_cut_right(
    abi_data: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    platform, sector, day, channels, missing = CASES[case]
    flags = ["--satellite", platform, "--domain", sector, "--start-dt", day, "--end-dt", day, "--steps", "1"]
    flags += ["--tile-size", "128", "--num-tiles", "3", "--grid", "native", "--workers", "1", "--max-view-zenith", "85"]
    flags += ["--channels", *channels] if channels else []
    code = main(["abi", "--local-data-dir", str(abi_data), "--output-dir", str(tmp_path / "out"), *flags])
    assert code == (1 if missing else 0), capsys.readouterr().err
    scan = scan_of(abi_data, platform, sector, day)
    plan = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    store = xr.open_zarr(tmp_path / "out" / "tiles.zarr", mask_and_scale=False, chunks=None)
    for channel, source in scan.files.items():
        with h5py.File(source.href) as h5:
            counts, flags_ = h5["Rad"][()].view("u2"), h5["DQF"][()].view("u1")
            x, y = (
                h5[n][()] * h5[n].attrs.get("scale_factor", [1.0])[0] + h5[n].attrs.get("add_offset", [0.0])[0]
                for n in "xy"
            )
            dx, fill = float(x[-1] - x[0]) / (len(x) - 1), h5["Rad"].attrs["_FillValue"][0]
        name = f"C{channel:02d}"
        size = store[name].shape[-1]
        for row in plan.itertuples():
            c = round((row.x_left - (x[0] - dx / 2)) / dx)
            r = round(((y[0] + dx / 2) - row.y_top) / dx)
            at = np.s_[r : r + size, c : c + size]
            np.testing.assert_array_equal(store[name][row.tile, 0], counts[at], err_msg=f"{case} {name}")
            mask = store[store[name].attrs["ancillary_variables"]][row.tile, 0].values
            np.testing.assert_array_equal(mask >> (channel - 1) & 1 == 1, (flags_[at] <= 1) & (counts[at] != fill))
    for channel in missing:
        assert not (store[f"valid{'_500m' if channel == 2 else ''}"].values & 1 << (channel - 1)).any()
    for look in ("status", "verify"):  # as the run said
        assert main([look, str(tmp_path / "out")]) == code


def test_tiles_equal_satpy(abi_data: Path, tmp_path: Path) -> None:
    import satpy

    flags = [
        "--satellite",
        "goes17",
        "--domain",
        "M1",
        "--start-dt",
        "2019-10-27",
        "--end-dt",
        "2019-10-27",
        "--steps",
        "1",
    ]
    flags += ["--tile-size", "200", "--num-tiles", "2", "--grid", "native", "--workers", "1", "--allow-missing"]
    assert main(["abi", "--local-data-dir", str(abi_data), "--output-dir", str(tmp_path / "out"), *flags]) == 0
    scan = scan_of(abi_data, "goes17", "M1", "2019-10-27")
    plan = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    for physical, channels in {"reflectance": (1, 6), "brightness_temperature": (7, 13), "radiance": (3, 16)}.items():
        tiles = cube.open_tiles(tmp_path / "out", physical)
        for channel in channels:
            name = f"C{channel:02d}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scene = satpy.Scene([scan.files[channel].href], reader="abi_l1b")
                scene.load([name], calibration=physical)
                truth = scene[name].values / (100 if physical == "reflectance" else 1)
            scale = {1: 1, 3: 1, 5: 1}.get(channel, 2)
            for row in plan.itertuples():
                at = np.s_[row.row // scale :, row.col // scale :]
                ours = tiles[name][row.tile, 0].values
                wanted = truth[at][: ours.shape[0], : ours.shape[1]]
                seen = np.isfinite(ours)
                assert seen.mean() > 0.99
                np.testing.assert_allclose(ours[seen], wanted[seen], rtol=5e-7, err_msg=f"{name} {physical}")


def test_demo_runs_on_real_files(abi_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = abi_data / "noaa-goes17" / "ABI-L1b-RadM" / "2019" / "335"
    assert main(["demo", "--output-dir", str(tmp_path / "demo"), "--archive", str(archive)]) == 0
    said = capsys.readouterr().out
    for word in ("picture", "catalog", "report"):
        line = next(line for line in said.splitlines() if line.startswith(word))
        assert Path(line.split(maxsplit=1)[1]).exists()
