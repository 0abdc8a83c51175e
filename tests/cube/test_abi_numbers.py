"""What headers tell of tiles: written by the tasks, gathered last; the template needs no file of the archive."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.build import main
from cube.geostationary import store as storing
from cube.geostationary.folder import AbiFolder
from cube.geostationary.index import index_file
from cube.geostationary.layout import Frame, TileLayout, TileSpec
from cube.geostationary.numbers import gather, gathered_names, numbers_of, read_numbers
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.projections import Views
from cube.geostationary.template import create_tile_store, fills_of
from cube.testing import write_abi_archive
from stratacube.errors import SourceError

CHANNELS = (2, 7)


def build(archive: Path, output: Path, *flags: str) -> int:
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--domain", "M1"]
    shape = ["--channels", "2", "7", "--tile-size", "32", "--step-minutes", "10", "--steps", "2", "--num-tiles", "7"]
    return main(["abi", *given, *shape, "--min-spacing-km", "10", "--shard-mb", "0.009", *flags])


def values(output: Path) -> xr.Dataset:
    return xr.open_zarr(output / "tiles.zarr", decode_cf=False, chunks=None, consolidated=True).load()


def pixels(output: Path) -> dict[str, tuple[int, int]]:
    """Which file each image is in, and when it was written."""
    found = [p for name in ("C02", "C07", "valid*") for p in output.glob(f"tiles.zarr/{name}/c/**/*") if p.is_file()]
    assert found
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, start=datetime(2020, 7, 1, 16), hours=1, channels=CHANNELS, shape_2km=(130, 130), workers=1)
    return root


@pytest.fixture(scope="module")
def built(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "out"
    assert build(archive, output) == 0
    assert len(PlanTable(output / "plan.parquet").shard_numbers) > 2
    return output


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "out"))


def layout_of(output: Path) -> TileLayout:
    return TileLayout.of(AbiFolder(output).described())


def test_numbers_are_those_of_the_files(built: Path, archive: Path) -> None:
    """Packing, coefficients and times of every frame, as h5py reads them from the file of its scan."""
    found = values(built)
    scans = {s.id: s for s in find_scans(LocalArchive(archive), platform="goes16", sector="M1")}
    for row in PlanTable(built / "plan.parquet").frame().itertuples():
        for step, scan in enumerate(row.scan_ids):
            here = found.isel(tile=row.tile, time=step)
            middles = []
            for b, channel in enumerate(CHANNELS):
                with h5py.File(scans[scan].files[channel].href) as h5:
                    scale, offset = (h5["Rad"].attrs[n][0] for n in ("scale_factor", "add_offset"))
                    t = float(h5["t"][()])
                    name = "planck_fk1" if channel == 7 else "kappa0"
                    coefficient = h5[name][()]
                parts = 12 if channel == 2 else 1  # means of four pixels are kept in twelfths of a count
                assert float(here["packing_scale"][b]) == pytest.approx(scale / parts, rel=1e-12)
                assert float(here["packing_offset"][b]) == pytest.approx(offset, rel=1e-12)
                assert here[name].values[b] == pytest.approx(coefficient, rel=1e-4)
                middles.append(np.datetime64("2000-01-01T12:00:00", "us") + np.timedelta64(round(t * 1e6), "us"))
            assert abs(here["scan_mid"].values.view("M8[us]") - max(middles)) < np.timedelta64(1, "ms")


def test_a_template_needs_no_file_of_the_archive(built: Path, tmp_path: Path) -> None:
    """Configuration, instrument and plan suffice; what the headers tell is empty, never a number that looks real."""
    layout, plan = layout_of(built), PlanTable(built / "plan.parquet")
    views = Views(plan.projections, "goes_imager_projection")
    create_tile_store(tmp_path / "tiles.zarr", layout, plan, views, {}, "lz4hc")
    empty, made = values(tmp_path), values(built)
    assert set(empty.variables) == set(made.variables)
    for name in made.variables:
        assert empty[name].dtype == made[name].dtype
        assert empty[name].dims == made[name].dims
        if name in gathered_names(layout):
            assert (np.isnan(empty[name]) if empty[name].dtype.kind == "f" else empty[name] < 0).all()
        elif name not in ("C02", "C07") and not name.startswith("valid"):
            np.testing.assert_array_equal(empty[name], made[name])
    assert "scale_factor" not in empty["C07"].attrs
    assert made["C07"].attrs["scale_factor"] == np.unique(made["packing_scale"][..., 1])


def test_a_run_stopped_before_the_gathering_shows_nothing_and_is_finished(
    archive: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"

    def stopped(*_: object) -> None:
        raise SourceError("stopped here")

    with monkeypatch.context() as patched:
        patched.setattr(storing, "gather", stopped)
        assert build(archive, output) == 1
    assert np.isnan(cube.open_tiles(output)["C07"]).all()
    assert main(["verify", str(output)]) == 1
    assert "packings are gathered last" in capsys.readouterr().out
    before = pixels(output)
    shutil.move(archive, archive.with_name("away"))  # all that is needed was written down
    try:
        build(archive, output)
    finally:
        shutil.move(archive.with_name("away"), archive)
    assert build(archive, output) == 0
    assert pixels(output) == before
    assert main(["verify", str(output)]) == 0
    xr.testing.assert_identical(values(output).drop_attrs(deep=False), values(built).drop_attrs(deep=False))


def test_lost_arrays_are_gathered_again_and_no_pixel_is_cut(archive: Path, copied: Path, built: Path) -> None:
    before = pixels(copied)
    for several in (("packing_scale", "solar_zenith/c", "C07/zarr.json"), ("C07/zarr.json",)):
        for lost in several:
            path = copied / "tiles.zarr" / lost
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert build(archive, copied) == 0
        assert pixels(copied) == before
        xr.testing.assert_identical(values(copied).drop_attrs(deep=False), values(built).drop_attrs(deep=False))
    chunk = next(p for p in (copied / "tiles.zarr" / "packing_scale" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert build(archive, copied) == 0
    xr.testing.assert_identical(values(copied).drop_attrs(deep=False), values(built).drop_attrs(deep=False))


def test_a_shard_whose_numbers_are_gone_is_made_again(archive: Path, copied: Path, built: Path) -> None:
    before = pixels(copied)
    (copied / "numbers" / "shard-000001.npz").unlink()
    assert build(archive, copied) == 0
    assert {Path(p).parts[-4] for p, now in pixels(copied).items() if now != before[p]} == {"1"}
    xr.testing.assert_identical(values(copied).drop_attrs(deep=False), values(built).drop_attrs(deep=False))


def test_rows_of_shards_without_numbers_stand(copied: Path) -> None:
    """Earlier versions wrote them into the arrays alone."""
    layout, plan, store = layout_of(copied), PlanTable(copied / "plan.parquet"), copied / "tiles.zarr"
    scales = zarr.open_array(store / "packing_scale", mode="r+")
    before = scales[...]
    scales[...] = before * 2
    first, numbers = read_numbers(copied / "numbers" / "shard-000001.npz")
    (copied / "numbers" / "shard-000000.npz").unlink()
    found = gather(store, plan, layout, lambda shard: copied / "numbers" / f"shard-{shard:06d}.npz")
    after = zarr.open_array(store / "packing_scale", mode="r")[...]
    assert first > 0
    assert len(numbers["packing_scale"]) > 0
    np.testing.assert_array_equal(after[:first], before[:first] * 2)
    np.testing.assert_array_equal(after[first:], before[first:])
    assert found == {}, "no band has one packing"


def test_damaged_numbers_are_one_sentence(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00"):
        (tmp_path / "shard-000000.npz").write_bytes(content)
        with pytest.raises(SourceError, match=r"does not hold the numbers of a shard .*run the same command again"):
            read_numbers(tmp_path / "shard-000000.npz")


def test_a_shard_that_lies_in_two_blocks_is_gathered_whole(copied: Path, built: Path) -> None:
    layout, plan = layout_of(copied), PlanTable(copied / "plan.parquet")
    for name in gathered_names(layout):
        array = zarr.open_array(copied / "tiles.zarr" / name, mode="r+")
        array[...] = np.zeros(array.shape, array.dtype)
    blocks = plan.blocks
    plan.blocks = lambda columns, rows=3: blocks(columns, rows)  # type: ignore[method-assign,misc]
    assert {len(set(block["shard"])) for block in plan.blocks(["shard"])} == {1, 2}
    gather(copied / "tiles.zarr", plan, layout, AbiFolder(copied).numbers_of)
    xr.testing.assert_identical(values(copied).drop_attrs(deep=False), values(built).drop_attrs(deep=False))


def test_a_scan_begins_with_the_first_of_its_files(built: Path, archive: Path) -> None:
    """Where they tell it better than their names."""
    layout = layout_of(built)
    scan = find_scans(LocalArchive(archive), platform="goes16", sector="M1")[0]
    begun = {2: "2020-07-01T16:00:03", 7: "2020-07-01T16:00:01.5"}
    headers = {
        file.href: replace(index_file(file), begin_time=np.datetime64(begun[channel], "ns"))
        for channel, file in scan.files.items()
    }
    tile = TileSpec("one", 0.0, 0.0, next(iter(headers.values())).grid.projection)
    frames = [Frame(0, step, scan.id, scan.start, scan.files) for step in range(2)]
    asked = [[np.datetime64(scan.start)] * 2]
    found = numbers_of(layout, [tile], asked, frames, headers)["scan_start"].view("M8[us]")
    assert (found == np.datetime64("2020-07-01T16:00:01.5")).all()


def test_a_build_of_before_whose_arrays_are_lost_is_cut_anew(archive: Path, copied: Path, built: Path) -> None:
    """What its tasks found in headers was in the arrays alone."""
    shutil.rmtree(copied / "numbers")
    ledger = copied / "ledger.jsonl"
    kept = []
    for line in map(json.loads, ledger.read_text().splitlines()):
        if line.get("key") != "numbers":
            line["files"] = [f for f in line.get("files") or [] if not f[0].startswith("numbers/")]
            kept.append(json.dumps(line) + "\n")
    ledger.write_text("".join(kept))
    shutil.rmtree(copied / "tiles.zarr" / "packing_scale")
    assert build(archive, copied) == 0
    xr.testing.assert_identical(values(copied).drop_attrs(deep=False), values(built).drop_attrs(deep=False))


def test_a_fill_value_that_is_there_stands(copied: Path, tmp_path: Path) -> None:
    """Earlier versions took it from the files."""
    layout = layout_of(copied)
    store = tmp_path / "other.zarr"
    assert fills_of(layout, store)[7] == layout.band(7).fill == 2**14 - 1
    zarr.create_array(store / "C07", shape=(1,), dtype="u2", fill_value=1023)
    assert fills_of(layout, store)[7] == 1023
    (store / "C07" / "zarr.json").write_text("{}")
    assert fills_of(layout, store)[7] == layout.band(7).fill
