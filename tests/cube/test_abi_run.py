"""The whole path by the command line: same bits however it is run, and one bad input drops only itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore
import h5py
import numpy as np
import pandas as pd
import pystac
import pytest
import xarray as xr
import yaml
import zarr

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.build import main
from cube.geostationary import cutting
from cube.geostationary.tiles import ShardResult, ShardTask, build_shard
from cube.testing import write_abi_archive, write_abi_file, write_cloud_systems
from tests.published import assert_names_no_folder
from tests.stac_validation import validate_stac

CHANNELS = ("1", "2", "3", "7", "13")
BASE = (
    *("--domain", "M1", "--channels", *CHANNELS, "--tile-size", "128", "--steps", "3", "--step-minutes", "10"),
    *("--num-tiles", "10", "--shard-mb", "0.3"),
)


def build(archive: Path | None, output: Path, *flags: str, base: Sequence[str] = BASE) -> int:
    local = ("--local-data-dir", str(archive)) if archive else ()
    return main(["abi", "--output-dir", str(output), *local, *base, *flags])


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def assert_same_stores(a: Path, b: Path) -> None:
    there, here = contents(a), contents(b)
    assert there.keys() == here.keys()
    assert [k for k in there if there[k] != here[k]] == []


@pytest.fixture(scope="module")
def built(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build, made by one worker."""
    output = tmp_path_factory.mktemp("built") / "out"
    assert build(small_archive, output, "--workers", "1") == 0
    return output


def raw(store: Path) -> xr.Dataset:
    return xr.open_zarr(store / "tiles.zarr", mask_and_scale=False, chunks=None)


def oracle(plan: Any, archive: Path, channel: int, grid: str, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Slow and obvious: the whole file by h5py, then the tile cut out and averaged or repeated pixel by pixel."""
    scans = {s.id: s for s in find_scans(LocalArchive(archive), platform=plan.platform, sector=plan.sector)}
    with h5py.File(scans[plan.scan_ids[step]].files[channel].href) as h5:
        counts, flags = h5["Rad"][()].view("u2"), h5["DQF"][()].view("u1")
        fill = int(h5["Rad"].attrs["_FillValue"][0])
        x, y = h5["x"], h5["y"]
        dx = float(x.attrs.get("scale_factor", [x[1] - x[0]])[0]) if "scale_factor" in x.attrs else float(x[1] - x[0])
        left = (
            float(x[0] * x.attrs["scale_factor"][0] + x.attrs["add_offset"][0])
            if "scale_factor" in x.attrs
            else float(x[0])
        )
        top = (
            float(y[0] * y.attrs["scale_factor"][0] + y.attrs["add_offset"][0])
            if "scale_factor" in y.attrs
            else float(y[0])
        )
    pixel = {"1km": 28e-6, "2km": 56e-6, "native": dx}[grid]
    size = {"native": round(plan.side / dx)}.get(grid, round(plan.side / pixel))
    col, row = round((plan.x_left - (left - dx / 2)) / dx), round(((top + dx / 2) - plan.y_top) / dx)
    n = round(plan.side / dx)
    counts, flags = counts[row : row + n, col : col + n], flags[row : row + n, col : col + n]
    good = (flags <= 1) & (counts != fill)
    ratio = pixel / dx
    if ratio < 0.75:
        k = round(1 / ratio)
        return np.kron(counts, np.ones((k, k), "u2")), np.kron(good, np.ones((k, k), bool))
    if ratio < 1.5:
        return counts, good
    k = round(ratio)
    parts = {2: 12, 4: 16}[k]
    stored, valid = np.full((size, size), 65535, "u2"), np.zeros((size, size), bool)
    for i in range(size):
        for j in range(size):
            block = np.s_[k * i : k * i + k, k * j : k * j + k]
            if good[block].any():
                stored[i, j] = np.rint(counts[block][good[block]].astype("f8").sum() * parts / good[block].sum())
                valid[i, j] = True
    return stored, valid


@pytest.mark.parametrize(
    ("grid", "form"), [("1km", "native"), ("1km", "common"), ("2km", "native"), ("native", "native")]
)
def test_stored_counts_equal_the_oracle(small_archive: Path, tmp_path: Path, grid: str, form: str) -> None:
    flags = ("--grid", grid, "--store", form, "--tile-size", "64" if grid == "2km" else "128", "--num-tiles", "2")
    assert build(small_archive, tmp_path / "out", *flags, "--workers", "1") == 0
    plan = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    plan["side"] = 128 * 28e-6
    store = raw(tmp_path / "out")
    for row in plan.itertuples():
        for channel in map(int, CHANNELS):
            for step in range(3):
                once = (grid, form) == ("1km", "native") and channel >= 7
                counts, valid = oracle(row, small_archive, channel, "native" if once else grid, step)
                name = f"C{channel:02d}"
                np.testing.assert_array_equal(store[name][row.tile, step], counts, err_msg=f"{name} {grid}")
                mask = store[store[name].attrs["ancillary_variables"]][row.tile, step].values
                np.testing.assert_array_equal((mask >> (channel - 1) & 1).astype(bool), valid)
    assert (~valid).any() or (mask != 0).all()


def test_same_bits_for_any_number_of_workers(small_archive: Path, built: Path, tmp_path: Path) -> None:
    assert build(small_archive, tmp_path / "out", "--workers", "4") == 0
    assert_same_stores(built / "tiles.zarr", tmp_path / "out" / "tiles.zarr")
    one, four = (pd.read_parquet(p / "plan.parquet") for p in (built, tmp_path / "out"))
    pd.testing.assert_frame_equal(one, four)


def put_in_bucket(endpoint: str, archive: Path) -> None:
    config = botocore.config.Config(s3={"addressing_style": "path"})
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="us-east-1",
        config=config,
    )
    client.create_bucket(Bucket="noaa-goes16", ACL="public-read")
    root = archive / "noaa-goes16"
    for path in root.rglob("*.nc"):
        client.upload_file(str(path), "noaa-goes16", str(path.relative_to(root)), ExtraArgs={"ACL": "public-read"})


def test_same_bits_from_s3_and_downloaded(
    small_archive: Path, built: Path, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_bucket(s3_server, small_archive)
    period = ("--start-dt", "2020-07-01T16:00", "--end-dt", "2020-07-01T18:00", "--s3-endpoint", s3_server)
    assert build(None, tmp_path / "s3", *period, "--workers", "2") == 0
    fetched = tmp_path / "local"
    fetched.mkdir()
    cut_from = set()

    def noting(task: ShardTask) -> ShardResult:
        cut_from.update(file.href for frame in task.frames for file in frame.files.values())
        return build_shard(task)

    monkeypatch.setattr(cutting, "build_shard", noting)
    assert build(fetched, tmp_path / "fetched", *period, "--download", "--workers", "1") == 0
    assert cut_from
    assert all(href.startswith(str(fetched)) for href in cut_from)
    assert len(list(fetched.rglob("*.nc"))) > 0
    for output in ("s3", "fetched"):
        for name in (*(f"C{int(c):02d}" for c in CHANNELS), "valid", "packing_scale", "scan_start"):
            a, b = (zarr.open_array(p / "tiles.zarr" / name, mode="r")[...] for p in (built, tmp_path / output))
            np.testing.assert_array_equal(a, b)


def test_a_killed_run_is_finished_by_the_same_command(small_archive: Path, built: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "cube.build", "abi", "--output-dir", str(output), "--workers", "2"]
    command += ["--local-data-dir", str(small_archive), *BASE]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=root, start_new_session=True, stderr=subprocess.DEVNULL)
    ledger = output / "ledger.jsonl"
    for _ in range(1200):
        if ledger.exists() and ledger.read_bytes().count(b'"shard-') >= 2:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = ledger.read_bytes()
    assert before.count(b'"shard-') < 4, "the run ended before it could be killed"
    ledger.write_bytes(before + b'{"key": "shard-0000')  # a line that the crash cut short
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    keys = [line.split(b'"')[3] for line in ledger.read_bytes().splitlines() if line.endswith(b"}")]
    shards = [key for key in keys if key.startswith(b"shard-")]  # each made once
    assert len(shards) == len(set(shards)) == pd.read_parquet(output / "plan.parquet")["shard"].nunique() == 4
    assert_same_stores(built / "tiles.zarr", output / "tiles.zarr")


def test_a_finished_build_is_not_built_again(built: Path, small_archive: Path) -> None:
    before = (built / "ledger.jsonl").read_bytes()
    stamp = (built / "tiles.zarr" / "C13" / "c" / "0" / "0" / "0" / "0").stat().st_mtime_ns
    assert build(small_archive, built, "--workers", "1") == 0
    assert (built / "ledger.jsonl").read_bytes() == before
    assert (built / "tiles.zarr" / "C13" / "c" / "0" / "0" / "0" / "0").stat().st_mtime_ns == stamp


def test_everything_promised_is_there_and_opens(built: Path) -> None:
    assert main(["status", str(built)]) == 0
    assert main(["verify", str(built)]) == 0
    tiles = cube.open_tiles(built)
    assert tiles["C13"].dtype == np.float32
    catalog = pystac.Catalog.from_file(str(built / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert len(items) == 10
    asset = items[3].assets["tiles"]
    opened = xr.open_zarr(asset.get_absolute_href()).isel(tile=asset.extra_fields["stratacube:tile_index"])
    stored = cube.open_tiles(items[3], repeat=False)["C13"].isel(tile=3)
    np.testing.assert_allclose(opened["C13"].values, stored.values, rtol=1e-5, equal_nan=True)
    collection = next(iter(catalog.get_children())).to_dict(transform_hrefs=False)
    bands = {band["name"]: band for band in collection["item_assets"]["tiles"]["bands"]}
    assert {name: bands[name]["raster:spatial_resolution"] for name in ("C02", "C03", "C13")} == {
        **{"C02": 1000, "C03": 1000},
        **{"C13": 2000},
    }
    lineage = collection["providers"][1]["processing:lineage"]
    assert "500 m bands averaged to 1 km; the 1 km grid repeats 2 km pixels" in lineage
    assert "1km grid, 2 km bands stored once" in (built / "report.md").read_text()
    bt = cube.open_tiles(items[3], "brightness_temperature")
    assert 180 < float(bt["C13"].mean()) < 320
    assert "C01" not in bt
    collection = next(iter(catalog.get_children()))
    tree = cube.open_abi(collection)
    assert set(tree.children) == {"500m", "1km", "2km"}
    assert (built / "previews" / "contact_sheet.png").exists()
    assert not (built / "errors.csv").exists()


def test_pictures_are_of_a_sample_and_more_are_drawn_on_demand(
    built: Path, small_archive: Path, tmp_path: Path
) -> None:
    output = tmp_path / "build"
    shutil.copytree(built, output)
    shutil.rmtree(output / "previews")
    planned = list(pd.read_parquet(output / "plan.parquet")["tile_id"])

    def drawn(previews: int) -> list[str]:
        assert build(small_archive, output, "--workers", "1", "--previews", str(previews)) == 0
        shown = [p.stem for p in (output / "tiles" / "items").iterdir() if "thumbnail" in p.read_text()]
        there = {p.stem for p in (output / "previews").glob("*.png")} - {"contact_sheet"}
        assert there == {*shown}
        return sorted(shown, key=planned.index)

    assert drawn(3) == [planned[0], planned[4], planned[9]]
    assert drawn(5) == [planned[i] for i in (0, 2, 4, 7, 9)]
    assert drawn(2) == [planned[i] for i in (0, 2, 4, 7, 9)]  # that is not fewer on demand
    report = (output / "report.md").read_text()
    assert re.search(r"\| previews \| \d+\.\d \|\n\| catalog \| \d+\.\d \|", report)


def test_store_tells_where_and_when(built: Path, small_archive: Path) -> None:
    plan = pd.read_parquet(built / "plan.parquet")
    tiles = xr.open_zarr(built / "tiles.zarr")
    np.testing.assert_allclose(tiles["latitude"], plan["latitude"])
    starts = np.array([np.asarray(t, "M8[us]") for t in plan["scan_starts"]])
    np.testing.assert_array_equal(tiles["scan_start"].values.astype("M8[us]"), starts)
    requested = np.array([np.asarray(t, "M8[us]") for t in plan["requested_times"]])
    assert (np.abs(starts - requested) <= np.timedelta64(10, "m")).all()
    middle = tiles.isel(y_coarse=slice(7, 9), x_coarse=slice(7, 9)).mean(("y_coarse", "x_coarse"))
    np.testing.assert_allclose(middle["latitude_coarse"], plan["latitude"], atol=0.01)
    np.testing.assert_allclose(middle["view_zenith"], plan["view_zenith"], atol=0.05)
    from pyorbital.astronomy import sun_zenith_angle

    i, step = 4, 2
    truth = sun_zenith_angle(
        starts[i, step].astype("M8[ns]"), tiles["longitude_coarse"][i].values, tiles["latitude_coarse"][i].values
    )
    np.testing.assert_allclose(tiles["solar_zenith"][i, step], truth, atol=0.05)


def spoil(archive: Path, output: Path, *, truncate: int | None = None, remove: int | None = None) -> Path:
    """Copy an archive and spoil one channel of its fourth scan, which every window of five needs."""
    shutil.copytree(archive, output)
    scan = find_scans(LocalArchive(output), platform="goes16", sector="M1")[3]
    if truncate:
        path = Path(scan.files[truncate].href)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if remove:
        Path(scan.files[remove].href).unlink()
    return output


FIVE = (*BASE, "--steps", "5")


def test_a_truncated_file_drops_only_itself_and_can_be_mended(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, output = spoil(small_archive, tmp_path / "archive", truncate=7), tmp_path / "out"
    assert build(archive, output, "--workers", "1", base=FIVE) == 1
    said = capsys.readouterr().err
    assert "truncated file" in said
    assert "errors.csv" in said
    errors = pd.read_csv(output / "errors.csv")
    assert set(errors["channel"]) == {7}
    store = raw(output)
    at = [list(ids).index("goes16_ABI-L1b-RadM1_s" + name) for ids, name in zip(*lacking(output, errors), strict=True)]
    bits = store["valid_2km"].values
    for tile, step in enumerate(at):
        assert not (bits[tile, step] & 1 << 6).any()
        assert (bits[tile, step] & 1 << 12).any()
        others = [s for s in range(5) if s != step]
        assert (bits[tile, others] & 1 << 6).any()
    item = next(iter(pystac.Catalog.from_file(str(output / "catalog.json")).get_items(recursive=True)))
    assert "truncated" in str(item.properties)
    assert_names_no_folder(output / "catalog.json", tmp_path, small_archive)
    assert main(["status", str(output)]) == 1
    assert main(["verify", str(output)]) == 1
    for path in archive.rglob("*C07*.nc"):
        shutil.copy2(small_archive / path.relative_to(archive), path)
    assert build(archive, output, "--workers", "1", base=FIVE) == 0
    assert not (output / "errors.csv").exists()
    assert build(small_archive, tmp_path / "whole", "--workers", "1", base=FIVE) == 0
    for name in ("C07", "C13", "valid_2km"):
        np.testing.assert_array_equal(raw(output)[name], raw(tmp_path / "whole")[name])


def lacking(output: Path, errors: pd.DataFrame) -> tuple[list[Any], list[str]]:
    plan = pd.read_parquet(output / "plan.parquet").set_index("tile_id").loc[errors["tile_id"]]
    order = plan["tile"].argsort()
    return list(plan["scan_ids"].iloc[order]), [s.rsplit("_s", 1)[1] for s in errors["scan_id"].iloc[order]]


def test_a_missing_channel_is_told_and_the_rest_made(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = spoil(small_archive, tmp_path / "archive", remove=13)
    assert build(archive, tmp_path / "out", "--workers", "1", base=FIVE) == 1
    assert "C13 is not in the archive" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out" / "completeness.csv")
    assert (~table[[f"C{int(c):02d}" for c in CHANNELS]].to_numpy(bool)).sum() == 1
    assert build(archive, tmp_path / "allowed", "--workers", "1", "--allow-missing", base=FIVE) == 0
    assert "C13@" in str(pd.read_parquet(tmp_path / "allowed" / "plan.parquet")["missing"].iloc[0])


def test_two_eras_in_one_build_give_the_right_pixels(tmp_path: Path) -> None:
    """Scans of another filter and packing follow: every tile is decoded by its own files' rules."""
    archive = tmp_path / "archive"
    small = {"channels": (13,), "shape_2km": (260, 260), "workers": 1, "hours": 0.2}
    write_abi_archive(archive, start=datetime(2020, 7, 1, 16), **small)
    write_abi_archive(
        archive, start=datetime(2020, 7, 1, 16, 20), shuffle=True, packing={13: (0.05, -2.0)}, seed=0, **small
    )
    flags = ("--domain", "M1", "--channels", "13", "--tile-size", "64", "--grid", "native", "--steps", "4")
    flags += ("--step-minutes", "10", "--num-tiles", "2", "--workers", "1")
    assert build(archive, tmp_path / "out", base=flags) == 0
    store, decoded = raw(tmp_path / "out"), cube.open_tiles(tmp_path / "out")
    assert "scale_factor" not in store["C13"].attrs
    assert len(np.unique(store["packing_scale"])) == 2
    plan = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    plan["side"] = 64 * 28e-6
    for row in plan.itertuples():
        for step in range(4):
            counts, valid = oracle(row, archive, 13, "native", step)
            np.testing.assert_array_equal(store["C13"][row.tile, step], counts)
            scale, offset = (0.05, -2.0) if step >= 2 else (0.04572891816496849, -1.6442999839782715)
            truth = np.where(valid, counts * np.float32(scale) + np.float32(offset), np.nan)
            np.testing.assert_allclose(decoded["C13"][row.tile, step], truth, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--channels", "17"), 2, "channel 17 is unknown; ABI has channels 1 to 16"),
        (("--tile-size", "2048"), 2, "2048"),
        (("--tile-size", "33"), 2, "tile size 33 does not fit the 1km grid"),
        (("--start-dt", "2021-01-01", "--end-dt", "2021-01-02"), 2, "no goes16 M1 scan"),
        (
            ("--start-dt", "2020-07-02", "--end-dt", "2020-07-01"),
            2,
            "--end-dt (the end of 2020-07-01) is not after --start-dt (2020-07-02 00:00:00)",
        ),
        (("--start-dt", "yesterday"), 2, "--start-dt is 'yesterday'"),
        (("--satellite", "goes12"), 2, "goes12"),
        (("--product", "ABI-L1b-RadF"), 2, "ABI-L1b-RadF"),
        (("--steps", "9", "--step-minutes", "10"), 2, "no run of 9 scans"),
        (("--stratification", "convection"), 2, "--convection-regex"),
        (("--stratification", "convection", "--convection-regex", "/nowhere/*.nc"), 2, "/nowhere/*.nc"),
        (("--num-tiles", "0"), 2, "--num-tiles"),
    ],
)
def test_bad_flags_get_one_sentence(
    small_archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    assert build(small_archive, tmp_path / "out", *flags, "--workers", "1") == code
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1]
    assert said[-1].startswith("error: ")


def test_empty_folder_foreign_folder_and_unwritable_output(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert build(tmp_path / "empty", tmp_path / "a") == 2
    assert "no goes16 M1 scan" in capsys.readouterr().err
    assert build(tmp_path / "nowhere", tmp_path / "b") == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert build(small_archive, tmp_path / "mine", "--overwrite") == 2
    assert "holds no build" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "file").write_text("")
    assert build(small_archive, tmp_path / "file" / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_output_of_another_config_is_refused_until_overwritten(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert build(small_archive, output, "--plan-only") == 0
    assert build(small_archive, output, "--plan-only", "--seed", "1") == 2
    assert "seed is 42 there and 1 here" in capsys.readouterr().err
    assert build(small_archive, output, "--plan-only", "--seed", "1", "--overwrite") == 0
    assert (output / "tiles.zarr" / "zarr.json").exists()
    assert not list((output / "tiles.zarr").glob("C*/c"))
    assert yaml.safe_load((output / "config.yaml").read_text())["build"]["seed"] == 1


def test_config_file_underscores_and_unknown_keys(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "build.yaml"
    config.write_text("domain: M1\nchannels: [13]\nnum-tiles: 3\ntile_size: 128\nsteps: 1\n")
    output = tmp_path / "out"
    flags = ["abi", "--config", str(config), "--output_dir", str(output), "--local_data_dir", str(small_archive)]
    assert main([*flags, "--num_tiles=2", "--plan-only"]) == 0
    assert len(pd.read_parquet(output / "plan.parquet")) == 2
    config.write_text("num_tile: 3\n")
    assert main(flags) == 2
    assert "unknown key" in (said := capsys.readouterr().err)
    assert "did you mean --num-tiles?" in said


def test_dry_run_writes_nothing(small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert build(small_archive, output, "--dry-run") == 0
    assert not output.exists()
    said = capsys.readouterr().out
    for word in ("tiles", "read", "download", "write", "memory", "duration"):
        assert word in said


def test_s3_refused_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--start-dt", "2020-07-01T16:00", "--end-dt", "2020-07-01T17:00", "--s3-endpoint", "http://127.0.0.1:9")
    assert build(None, tmp_path / "out", *flags) == 1
    assert "check --s3-endpoint" in capsys.readouterr().err
    assert build(None, tmp_path / "open", "--start-dt", "2020-07-01T16:00") == 2
    assert "give --start-dt and --end-dt" in capsys.readouterr().err


def test_a_corrupt_chunk_and_a_lost_shard_are_found(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert build(small_archive, output, "--workers", "1") == 0
    shard = output / "tiles.zarr" / "C13" / "c" / "1" / "0" / "0" / "0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-50])
    assert main(["verify", str(output)]) == 1
    assert "does not decode" in capsys.readouterr().out
    shard.unlink()
    assert main(["verify", str(output)]) == 1
    assert "is missing" in capsys.readouterr().out


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of cloud systems over the small archive's sector, at 0.12 degrees."""
    folder = tmp_path_factory.mktemp("masks")
    path = folder / "20200701_cloudsystems.nc"
    write_cloud_systems(
        path, date=date(2020, 7, 1), latitudes=np.arange(-5, 20, 0.12), longitudes=np.arange(285, 310, 0.12)
    )
    return path


def test_convection_tiles_lie_on_their_systems(small_archive: Path, masks: Path, tmp_path: Path) -> None:
    flags = ("--domain", "M1", "--channels", "13", "--tile-size", "128", "--steps", "2", "--step-minutes", "20")
    flags += ("--stratification", "convection", "--convection-regex", str(masks.parent / "*.nc"), "--systems", "all")
    output = tmp_path / "out"
    assert build(small_archive, output, "--plan-only", "--workers", "1", base=flags) == 0
    metadata, lifetimes = (pd.read_csv(output / f"convection_{n}.csv") for n in ("metadata", "lifetimes"))
    wanted = "datetime,system_id,center_y,center_x,latitude,longitude,longitude_norm,satellite,inside_inner_disk"
    assert ",".join(metadata.columns) == wanted
    assert ",".join(lifetimes.columns) == "system_id,start_time,end_time,num_time_steps,duration_min"
    assert (lifetimes["duration_min"] == 20 * lifetimes["num_time_steps"]).all()
    assert not list((output / "tiles.zarr").glob("C*/c"))
    assert build(small_archive, output, "--workers", "2", base=flags) == 0
    plan = pd.read_parquet(output / "plan.parquet")
    assert len(plan) > 1
    with h5py.File(masks) as h5:
        labels, lat, lon = h5["DCS_number"][()], h5["lat"][()], h5["lon"][()]
    tiles = cube.open_tiles(output, "brightness_temperature")
    held = [row for row in plan.itertuples() if row.event_scan in row.scan_ids]
    assert held
    for row in held:
        step = round((row.event_time - pd.Timestamp("2020-07-01")).total_seconds() / 1200)
        i, j = np.abs(lat - row.latitude).argmin(), np.abs(lon - row.longitude % 360).argmin()
        around = labels[step, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        assert row.system_id in around
        middle = tiles["C13"][row.tile, list(row.scan_ids).index(row.event_scan), 48:80, 48:80]
        assert float(middle.min()) < 250, "a system is cold at its anchor"


def test_masks_of_other_dims_are_refused_by_name(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xr.Dataset({"DCS_number": (("y", "x"), np.zeros((4, 5)))}).to_netcdf(
        tmp_path / "20200701_cloudsystems.nc", engine="h5netcdf"
    )
    flags = ("--stratification", "convection", "--convection-regex", str(tmp_path / "*.nc"))
    assert build(small_archive, tmp_path / "out", *flags, "--workers", "1") == 2
    said = capsys.readouterr().err
    assert "20200701_cloudsystems.nc" in said
    assert "nt" in said


def test_the_catalog_is_valid_stac(built: Path) -> None:
    paths = [built / "catalog.json", *(built / "tiles").rglob("*.json"), *(built / "sources").rglob("*.json")]
    assert len(paths) > 15
    for path in paths:
        validate_stac(json.loads(path.read_text()))
    for feature in json.loads((built / "sources.json").read_text())["features"]:
        validate_stac(feature)


def test_fill_is_never_valid_whatever_its_flag(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 4000, (260, 260)).astype("u2")
    counts[::7, ::5] = 4095
    write_abi_file(tmp_path / "a", channel=13, start=datetime(2020, 7, 1, 16), counts=counts)
    flags = (
        "--domain",
        "M1",
        "--channels",
        "13",
        "--tile-size",
        "256",
        "--grid",
        "2km",
        "--steps",
        "1",
        "--num-tiles",
        "1",
        "--screen",
        "off",  # what is written is noise, as screening finds
    )
    assert build(tmp_path / "a", tmp_path / "out", "--workers", "1", base=flags) == 0
    store = raw(tmp_path / "out")
    np.testing.assert_array_equal(store["valid"].values > 0, store["C13"].values != 4095)
    assert 0.9 < (store["valid"].values > 0).mean() < 0.99
