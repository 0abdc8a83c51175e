"""A virtual cube that lasts: made, appended to, described, opened by plain tools, exported; killed at any time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pystac
import pytest
import xarray as xr

import cube
from cube.build import main
from cube.geostationary import reference_leaf
from cube.geostationary.references import read_references
from cube.testing import write_abi_archive, write_abi_file
from tests.stac_validation import validate_stac

SMALL: dict[str, Any] = {"channels": (7, 13), "shape_2km": (130, 130), "workers": 1, "hours": 0.2}
START = datetime(2020, 7, 1, 16)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of two bands on each of three days in two months, the last of them encoded otherwise."""
    root = tmp_path_factory.mktemp("archive")
    for start, options in (
        (START.replace(month=6, day=30), {}),
        (START, {}),
        (START.replace(day=2), {"shuffle": True, "packing": {13: (0.05, -2.0)}}),
    ):
        write_abi_archive(root, start=start, **SMALL, **options)
    return root


def sources(root: Path, band: str = "C13") -> list[Path]:
    return sorted(root.rglob(f"*{band}_*.nc"), key=lambda p: p.name.split("_s")[1])


def counts(path: Path) -> np.ndarray:
    with h5py.File(path) as h5:
        return h5["Rad"][()].view("u2")


def plain(cube_folder: Path, key: str) -> list[xr.Dataset]:
    """What plain xarray opens of a band, era by era, by the words of the catalogue alone."""
    collection = pystac.Collection.from_file(str(cube_folder / "collection.json"))
    found = []
    for asset in collection.assets.values():
        if asset.extra_fields["bands"][0]["name"] == key:
            words = asset.extra_fields["xarray:open_kwargs"]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*fastparquet.*")
                found.append(xr.open_dataset(asset.get_absolute_href(), **words, mask_and_scale=False))
    return sorted(found, key=lambda data: data["time"].values[0])


def assert_whole(cube_folder: Path, archive: Path) -> None:
    """Every count of every file is where plain xarray finds it, and where open_abi does."""
    tree = cube.open_abi(cube_folder, chunks=None)["2km"]
    for band in ("C07", "C13"):
        paths = sources(archive, band)
        images = [image for data in plain(cube_folder, band) for image in data["Rad"]]
        assert len(images) == len(paths) == tree.sizes["time"]
        for i, (image, path) in enumerate(zip(images, paths, strict=True)):
            truth = counts(path)
            np.testing.assert_array_equal(image.values, truth)
            with h5py.File(path) as h5:
                scale, offset = h5["Rad"].attrs["scale_factor"][0], h5["Rad"].attrs["add_offset"][0]
                middle = np.datetime64("2000-01-01T12:00") + np.timedelta64(round(float(h5["t"][()]) * 1e6), "us")
            assert abs(image["time"].values - middle) < np.timedelta64(1, "ms")
            ours = tree["radiance"].sel(band=band).isel(time=i).values
            np.testing.assert_array_equal(ours[truth < 2**14 - 1], (truth * scale + offset)[truth < 2**14 - 1])


def test_a_cube_is_made_appended_to_and_opened_by_plain_tools(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growing, folder = tmp_path / "archive", tmp_path / "cube"
    shutil.copytree(archive, growing)
    later = [p for p in growing.rglob("*.nc") if "_s2020184" in p.name]
    for path in later:
        path.rename(tmp_path / path.name)
    run = ["--cache", str(tmp_path / "index")]
    assert main(["cube", "make", str(growing), str(folder), *run]) == 0
    assert "8 files added" in capsys.readouterr().out
    assert main(["cube", "make", str(growing), str(folder), *run]) == 0
    assert "0 files added" in capsys.readouterr().out
    for path in later:
        (tmp_path / path.name).rename(path)
    broken = later[0].with_name(re.sub(r"_s2020184\d{4}", "_s20201841559", later[0].name))
    broken.write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    assert main(["cube", "append", str(folder), *run]) == 1
    told = capsys.readouterr().out
    assert "4 files added" in told
    assert f"left out: {broken} is not a readable ABI L1b file" in told
    broken.unlink()
    assert main(["cube", "append", str(folder), *run]) == 0
    assert "0 files added" in capsys.readouterr().out
    assert_whole(folder, archive)
    collection = json.loads((folder / "collection.json").read_text())
    validate_stac(collection)
    assert len(collection["assets"]) == 4  # two bands, two eras
    assert main(["cube", "describe", str(folder), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["source"] == str(growing)
    arrays = described["views"]["goes16-M1"]["arrays"]
    assert [(a["band"], a["shape"]) for a in arrays] == [
        ("C07", [4, 130, 130]), ("C07", [2, 130, 130]), ("C13", [4, 130, 130]), ("C13", [2, 130, 130]),
    ]  # fmt: skip
    assert main(["cube", "describe", str(folder)]) == 0
    assert "C13          4 scans of 130 x 130 (2km) from 2020-06-30T16:00" in capsys.readouterr().out
    assert main(["cube", "open", str(folder), "--bands", "C13"]) == 0
    assert "brightness_temperature" in capsys.readouterr().out
    for wrong, sentence in (
        (["make", str(growing), str(folder), "--bands", "C13"], "is a cube with --bands None, which is not ['C13']"),
        (["make", str(growing), str(tmp_path)], "holds something other than a cube"),
        (["make", str(folder), str(tmp_path / "new")], "holds references, and is not an archive"),
        (["append", str(growing)], "is not a cube that make_cube made"),
        (["describe", str(growing)], "is not a virtual cube"),
        (["make", str(growing), str(folder), "--workers", "0"], "--workers is 0; give 1 or more"),
    ):
        assert main(["cube", *wrong]) == 2, wrong
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_files_come_in_any_order_and_are_replaced(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of two scans, so that some are kept and some are begun when a leaf is written anew."""
    monkeypatch.setattr(reference_leaf, "_RECORD", 2)
    indexes = [i.load() for i in read_references(made(archive, tmp_path / "all"))]
    store = tmp_path / "cube"
    for i in (4, 0, 8, 2, 11, 1, 3, 5, 6, 7, 9, 10):
        assert cube.write_references([indexes[i]], store) == [store / "goes16-M1"]
        assert cube.write_references([indexes[i]], store) == []
    assert_whole(store, archive)
    names = {p.name for p in (store / "goes16-M1").iterdir()} - {"view.json", "files"}
    assert len(names) == 4, "what was replaced is gone"
    again = tmp_path / "again"
    start = read_references(store, channels=[13])[2].header.source.start
    path = write_abi_file(
        again, channel=13, start=start, shape=(130, 130), shuffle=True, packing=(0.05, -2.0), reissue=1
    )
    shutil.copytree(archive, tmp_path / "mended")
    shutil.copy(path, sources(tmp_path / "mended")[2])
    cube.write_references([i.load() for i in read_references(made(again, tmp_path / "one"))], store)
    tree = cube.open_abi(store, bands=["C13"], chunks=None)["2km"]
    truth = counts(path)
    with h5py.File(path) as h5:
        truth = truth * h5["Rad"].attrs["scale_factor"][0] + h5["Rad"].attrs["add_offset"][0]
    np.testing.assert_array_equal(tree["radiance"][2, 0], truth)
    assert [d.sizes["time"] for d in plain(store, "C13")] == [3, 3]


def made(archive: Path, folder: Path) -> Path:
    cube.make_cube(archive, folder, cache=folder.with_name("index"))
    return folder


KILLED = """
import os, re, signal, sys
from pathlib import Path
import cube
from stratacube import files

replace = os.replace

def killing(part, path):
    if re.search(sys.argv[3], str(path)):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)

os.replace = killing
cube.append_cube(sys.argv[1], cache=sys.argv[2])
"""
"""Append, and be killed before the rename by which some file gets its name."""


@pytest.mark.parametrize(
    "point",
    [
        *("Rad/refs.0", "view.json", "collection.json"),
        *(pytest.param(p, marks=[pytest.mark.slow, pytest.mark.long]) for p in ("C13.*zmetadata", "/files/2020-07")),
    ],
)
def test_a_kill_while_appending_loses_nothing(archive: Path, tmp_path: Path, point: str) -> None:
    growing, folder = tmp_path / "archive", tmp_path / "cube"
    shutil.copytree(archive, growing)
    later = [p for p in growing.rglob("*.nc") if "_s2020184" in p.name or "_s20201831610" in p.name]
    for path in later:
        path.rename(tmp_path / path.name)
    made(growing, folder)
    before = {band: [d.load() for d in plain(folder, band)] for band in ("C07", "C13")}
    for path in later:
        (tmp_path / path.name).rename(path)
    run = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "index"), point]
    assert subprocess.run(run, check=False).returncode == -signal.SIGKILL
    for band, known in before.items():
        for old, now in zip(known, plain(folder, band), strict=False):
            np.testing.assert_array_equal(now["Rad"][: old.sizes["time"]], old["Rad"])
    listed = point == "collection.json"  # the list is written before what is only told of it
    assert cube.open_abi(folder)["2km"].sizes["time"] == (6 if listed else 3)
    change = cube.append_cube(folder, cache=tmp_path / "index")
    assert (change.added, change.left_out) == (0 if listed else 6, {})
    assert_whole(folder, archive)
    fresh = made(archive, tmp_path / "fresh")
    assert shapes(folder) == shapes(fresh)


def shapes(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "files" not in p.parts}


def test_two_writers_are_one(archive: Path, tmp_path: Path) -> None:
    from stratacube.claim import claimed
    from stratacube.errors import ClaimedError

    folder = made(archive, tmp_path / "cube")
    (index, *_) = read_references(folder)
    with claimed(folder, folder / ".writing"), pytest.raises(ClaimedError):
        cube.write_references([index.load()], folder)


def test_a_store_of_version_1_is_read_and_brought_up(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).resolve().parents[1] / "old" / "abi.tar.xz") as tar:
        inside = [m for m in tar.getmembers() if m.name.startswith("abi/random/references/")]
        tar.extractall(tmp_path, inside, filter="data")
    store = tmp_path / "abi" / "random" / "references"
    before = {r.header.source: r.load() for r in read_references(store)}
    wanted = {"bands": ["C13"], "end": "2021-01-01"}
    old = cube.open_abi(store, **wanted)["2km"].ds[["scan_mid", "era", "scale_factor", "planck_fk1"]].load()
    assert old.sizes["time"] > 1
    assert main(["cube", "describe", str(store)]) == 2
    new = tmp_path / "new"
    write_abi_file(new, channel=13, start=datetime(2021, 7, 3, 16), shape=(64, 64))
    cube.write_references([r.load() for r in read_references(made(new, tmp_path / "cube"))], store)
    after = {r.header.source: r.load() for r in read_references(store)}
    assert len(after) == len(before) + 1
    for source, index in before.items():
        np.testing.assert_array_equal(after[source].rad.offsets, index.rad.offsets)
        np.testing.assert_array_equal(after[source].dqf.sizes, index.dqf.sizes)
    xr.testing.assert_equal(cube.open_abi(store, **wanted)["2km"].ds[list(old.data_vars)].load(), old)
    assert not [p for p in (store / "goes16-M1").iterdir() if p.name.startswith("20")]
    assert main(["cube", "describe", str(store)]) == 0


def test_an_icechunk_repository_holds_the_same_pixels(archive: Path, tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    folder, target = made(archive, tmp_path / "cube"), tmp_path / "ice"
    assert main(["cube", "export", str(folder), str(target), "--bands", "C13"]) == 0
    repository = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(target)),
        authorize_virtual_chunk_access={prefix: None for prefix in containers(icechunk, target)},
    )
    store = repository.readonly_session("main").store
    groups = [
        Path(a["folder"]) for a in cube.describe_cube(folder)["views"]["goes16-M1"]["arrays"] if a["band"] == "C13"
    ]
    images, times = [], []
    for group in groups:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = xr.open_zarr(store, group=str(group), zarr_format=3, consolidated=False, mask_and_scale=False)
            images += [*data["Rad"].values]
            times += [*data["time"].values]
    for image, path in zip(images, sources(archive), strict=True):
        np.testing.assert_array_equal(image, counts(path))
    assert times == sorted(times)
    assert main(["cube", "export", str(folder), str(target)]) == 2
    assert main(["cube", "export", str(folder), str(tmp_path / "none"), "--start", "2031-01-01"]) == 2
    assert not (tmp_path / "none").exists()


def containers(icechunk: Any, target: Path) -> list[str]:
    config = icechunk.Repository.fetch_config(icechunk.local_filesystem_storage(str(target)))
    return list(config.virtual_chunk_containers)
