"""Builds in the cases that once went wrong: lost, changed and replaced files, full disks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.build import main
from cube.geostationary.index import IndexTask
from cube.testing import write_abi_archive, write_abi_file
from stratacube.errors import SourceError, UsageError

START = datetime(2020, 7, 1, 16)
SMALL: dict[str, Any] = {"channels": (7, 13), "shape_2km": (130, 130), "workers": 1}
BASE = ("--domain", "M1", "--channels", "7", "13", "--grid", "2km", "--tile-size", "32", "--step-minutes", "10")
ROOT = Path(__file__).resolve().parents[2]


def build(archive: Path, output: Path, *flags: str) -> int:
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1"]
    return main(["abi", *given, *BASE, "--steps", "2", "--num-tiles", "3", *flags])


def tiles_of(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "plan.parquet")


def raw(output: Path) -> xr.Dataset:
    return xr.open_zarr(output / "tiles.zarr", mask_and_scale=False, chunks=None)


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def scans_of(archive: Path, platform: str = "goes16") -> list[Scan]:
    return find_scans(LocalArchive(archive), platform=platform, sector="M1")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of two bands, of a single chunk each."""
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, start=START, hours=1, **SMALL)
    return root


def used_file(output: Path, archive: Path, channel: int) -> tuple[str, str]:
    """Scan and path of a file that the first tile's first step needs."""
    name = next(iter(tiles_of(output)["scan_ids"]))[0]
    return name, {s.id: s for s in scans_of(archive)}[name].files[channel].href


def test_a_file_lost_while_indexing_is_told_and_mended(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, whole = tmp_path / "out", tmp_path / "whole"
    assert build(scans, whole) == 0
    assert build(scans, output, "--plan-only") == 0
    name, href = used_file(output, scans, 7)
    warm = IndexTask.warm

    def lost(task: IndexTask) -> bool:
        if task.source.href == href:
            raise SourceError(f"{href} is gone for a moment")
        return warm(task)

    with monkeypatch.context() as patched:
        patched.setattr(IndexTask, "warm", lost)
        assert build(scans, output) == 1
    assert "gone for a moment" in capsys.readouterr().err
    errors = pd.read_csv(output / "errors.csv")
    assert set(errors["href"]) == {href}
    assert set(errors["channel"]) == {7}
    assert set(errors["kind"]) == {"source"}
    store, hit = raw(output), 0
    for row in tiles_of(output).itertuples():
        for step, scan in enumerate(row.scan_ids):
            bits = store["valid"][row.tile, step].values
            assert ((bits & 1 << 6) > 0).any() == (scan != name)
            assert (bits & 1 << 12).any()
            assert np.isnan(store["packing_scale"][row.tile, step, 0]) == (scan == name)
            hit += scan == name
    assert len(errors) == hit > 0
    assert main(["verify", str(output)]) == 1
    assert "no packing" not in capsys.readouterr().out
    assert build(scans, output) == 0
    assert not (output / "errors.csv").exists()
    assert main(["verify", str(output)]) == 0
    for variable in raw(whole).data_vars:
        np.testing.assert_array_equal(raw(output)[variable], raw(whole)[variable], err_msg=str(variable))


def test_a_finished_store_outlives_its_sources(scans: Path, tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    shutil.copytree(scans, archive)
    assert build(archive, output) == 0
    before = contents(output / "tiles.zarr")
    _, href = used_file(output, archive, 7)
    Path(href).unlink()
    shutil.rmtree(output / "index")
    assert build(archive, output) == 0
    assert contents(output / "tiles.zarr") == before
    (output / "catalog.json").unlink()  # stopped before it was published: the store is opened for writing again
    shutil.rmtree(output / "index", ignore_errors=True)
    for path in archive.rglob("*C07*.nc"):
        path.unlink()
    build(archive, output)
    assert contents(output / "tiles.zarr") == before


def test_files_of_another_fill_come_and_go(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    paths = [
        write_abi_file(archive, channel=13, start=START.replace(minute=10 * i), shape=(130, 130), fill=fill)
        for i, fill in enumerate((4095, 16383))
    ]
    flags = ("--channels", "13", "--num-tiles", "1")
    assert build(archive, output, *flags, "--plan-only") == 0
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:5000])
    assert build(archive, output, *flags) == 1
    paths[1].write_bytes(whole)
    assert build(archive, output, *flags) == 0
    assert (raw(output)["valid"] > 0).any(("y", "x")).all()
    before = contents(output / "tiles.zarr")
    (output / "catalog.json").unlink()
    paths[0].unlink()
    assert build(archive, output, *flags) == 0
    assert contents(output / "tiles.zarr") == before


def test_a_scan_that_is_not_there_may_be_allowed(scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert build(scans, output, "--allow-missing", "--steps", "9", "--num-tiles", "1") == 0
    (row,) = tiles_of(output).itertuples()
    absent = np.array([not name for name in row.scan_ids])
    assert 0 < absent.sum() < 9
    np.testing.assert_array_equal(np.isnat(np.asarray(row.scan_starts, "M8[us]")), absent)
    store = raw(output)
    np.testing.assert_array_equal((store["valid"][0] > 0).any(("y", "x")), ~absent)
    assert np.isfinite(store["solar_zenith"]).all()


def test_an_unknown_quantity_of_tiles_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "tiles.zarr", mode="w", zarr_format=3)
    zarr.consolidate_metadata(tmp_path / "tiles.zarr")
    with pytest.raises(
        UsageError,
        match="`physical` is 'bt', which is not one of counts, radiance, reflectance, brightness_temperature, mixed",
    ):
        cube.open_tiles(tmp_path, physical="bt")


def test_a_file_replaced_after_the_plan_is_decoded_by_its_own_packing(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    common: dict[str, Any] = {"channel": 13, "shape": (130, 130)}
    for minute in (0, 10):
        write_abi_file(archive, start=START.replace(minute=minute), **common)
    flags = ("--channels", "13")
    assert build(archive, output, *flags, "--plan-only") == 0
    for minute, count in ((0, 300), (10, 500)):
        counts = np.full((130, 130), count, "u2")
        write_abi_file(archive, start=START.replace(minute=minute), counts=counts, packing=(0.05, -2.0), **common)
    assert build(archive, output, *flags) == 0
    np.testing.assert_allclose(raw(output)["packing_scale"], 0.05, rtol=1e-6)
    decoded = cube.open_tiles(output)["C13"]
    np.testing.assert_allclose(decoded.isel(time=0), 300 * 0.05 - 2, rtol=1e-5)
    np.testing.assert_allclose(decoded.isel(time=1), 500 * 0.05 - 2, rtol=1e-5)


def test_a_corrupt_last_chunk_leaves_nothing_valid(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    for minute in (0, 10):
        write_abi_file(archive, channel=13, start=START.replace(minute=minute), shape=(208, 208), chunks=(26, 26))
    flags = ("--channels", "13", "--tile-size", "208", "--num-tiles", "1")
    last = scans_of(archive)[1].files[13]
    with h5py.File(last.href) as h5:
        info = h5["Rad"].id.get_chunk_info_by_coord((182, 182))
    data = bytearray(Path(last.href).read_bytes())
    data[info.byte_offset + 4 : info.byte_offset + 24] = b"\xff" * 20
    Path(last.href).write_bytes(data)
    assert build(archive, output, *flags) == 1
    bits = raw(output)["valid"].values
    assert bits[0, 0].any()
    assert not bits[0, 1].any()
    assert "does not decode" in (output / "errors.csv").read_text()


FULL_DISK = """
import resource, sys
from cube.build import main
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in (100, 2000, 6000, 20000):
    flags = ["abi", "--output-dir", f"{sys.argv[1]}/{limit}", *sys.argv[2:]]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    sys.stderr.write(f"limit {limit}\\n")
    first = main(flags)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sys.stderr.write("room\\n")
    print(limit, first, main(flags), main(["verify", f"{sys.argv[1]}/{limit}"]), flush=True)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_is_made_good(scans: Path, tmp_path: Path) -> None:
    flags = ["--local-data-dir", str(scans), "--workers", "1", *BASE, "--steps", "2", "--num-tiles", "3"]
    assert main(["abi", "--output-dir", str(tmp_path / "whole"), *flags]) == 0
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    codes = [line.split() for line in done.stdout.splitlines() if line[0].isdigit()]
    assert [code[0] for code in codes] == ["100", "2000", "6000", "20000"]
    for limit, first, again, verified in codes:
        assert first in ("1", "2"), done.stderr
        assert (again, verified) == ("0", "0"), done.stderr + done.stdout
        for variable, values in raw(tmp_path / "whole").data_vars.items():
            np.testing.assert_array_equal(raw(tmp_path / limit)[variable], values, err_msg=f"{limit} {variable}")
    for told in done.stderr.split("limit ")[1:]:
        before, _, _ = told.partition("room\n")
        assert sum(line.startswith("error: ") for line in before.splitlines()) == 1 or "missing from them" in before
