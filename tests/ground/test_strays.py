"""What killed runs left is removed, and what is written below a lost claim changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from affine import Affine

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.completeness import write_completeness
from catalog.geostationary.items import save_items as save_scans
from catalog.geostationary.scans import Scan, SourceFile, find_scans
from catalog.sentinel2.lists import write_query_manifest
from catalog.sentinel2.saved import save_items
from cube.geostationary.index import index_file
from cube.geostationary.index_cache import save_index
from cube.geostationary.references import read_references, write_references
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.products import write_cog
from cube.sentinel2.publish import preview
from cube.testing import write_abi_archive
from loaders.histogram import draw_histograms
from loaders.statistics import BandStatistics, Statistics
from stratacube import files
from stratacube.errors import ClaimLostError

PART = ".0123abcd.part"


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_strays_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("kept", "part", "a.part.txt", "day/kept"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    kept = names(tmp_path)
    (tmp_path / f".file{PART}").touch()
    (tmp_path / "plan.part").touch()  # as older versions named it
    (tmp_path / f".x.tif{PART}.ovr.tmp").touch()  # GDAL's own, beside a part
    (tmp_path / "day" / f".folder{PART}" / "inner").mkdir(parents=True)
    (tmp_path / "day" / f"link{PART}").symlink_to(tmp_path / "kept")
    files.remove_strays(tmp_path, deep=False)
    assert names(tmp_path) == sorted([*kept, f"day/.folder{PART}", f"day/.folder{PART}/inner", f"day/link{PART}"])
    files.remove_strays(tmp_path)
    assert names(tmp_path) == kept
    files.remove_strays(tmp_path / "nowhere")


def test_what_is_durable_is_flushed_and_so_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    with files.whole_folder(tmp_path / "folder", durable=True) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("x")
        assert not flushed
    made = (tmp_path / "folder" / "inner" / "file", tmp_path / "folder" / "inner", tmp_path)
    assert {path.stat().st_ino for path in made} <= set(flushed)
    flushed.clear()
    with files.whole_folder(tmp_path / "folder") as part:
        pass
    assert flushed == []


def test_young_strays_stay_where_others_may_be_at_work(tmp_path: Path) -> None:
    young, old = tmp_path / f".a{PART}", tmp_path / f".b{PART}"
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 100,) * 2)
    files.remove_strays(tmp_path, older=60)
    assert names(tmp_path) == [young.name]


def test_a_folder_that_was_not_replaced_gets_its_name_back(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f".{name}.0123abcd.old.part").mkdir()
        (tmp_path / f".{name}.0123abcd.old.part" / "old").touch()
    (tmp_path / "b").mkdir()
    files.remove_strays(tmp_path)
    assert names(tmp_path) == ["a", "a/old", "b"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, platform="goes16", sector="M1", start=datetime(2020, 7, 1, 16), hours=1, channels=[13])
    return root


def scans(archive: Path) -> list[Scan]:
    return find_scans(LocalArchive(archive), platform="goes16", sector="M1")


def source(archive: Path) -> SourceFile:
    return scans(archive)[0].files[13]


def test_references_outlive_a_kill(archive: Path, tmp_path: Path) -> None:
    index = index_file(source(archive))
    (view,) = write_references([index], tmp_path)
    whole = names(view)
    (leaf,) = view.glob("C13-*")
    abandoned = leaf / "Rad" / f".refs.0.parq.0123abcd{PART}"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    (view / "C07-0123456789ab").mkdir()  # killed before it was listed
    assert write_references([index], tmp_path) == []  # it is there already
    assert names(view) == whole
    assert [r.header.source for r in read_references(tmp_path)] == [index.source]


GRID = make_grid(2000, (500_000, 6_000_000, 502_000, 6_002_000), "EPSG:32613")
POINT = {"type": "Point", "coordinates": [0, 0]}
ITEM = {"type": "Feature", "stac_version": "1.1.0", "id": "a", "geometry": POINT, "links": [], "assets": {},
        "properties": {"datetime": "2021-06-01T00:00:00Z"}}  # fmt: skip
BAND = BandStatistics(1, 0.0, 1.0, 0.0, 1.0, edges=[0.0, 1.0], histogram=[1])
STATISTICS = Statistics("radiance", {"all": {"C13": BAND}})


def picture(folder: Path, archive: Path) -> None:
    with files.fenced(folder, lambda: None):
        write_cog(archive / "b.tif", np.ones((8, 8), "f4"), Affine(10, 0, 0, 0, -10, 0), "EPSG:32613",
                  nodata=-9999, name="B04", tags={})  # fmt: skip
    preview([archive / "b.tif"] * 3, folder / "made.png")


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "completeness": lambda folder, _: write_completeness(pd.DataFrame({"scan": ["x"]}), folder / "made.csv"),
    "scans": lambda folder, archive: save_scans(folder / "made.json", scans(archive)),
    "table of scans": lambda folder, archive: save_scans(folder / "made.parquet", scans(archive)),
    "items": lambda folder, _: save_items(folder / "made.json", [ITEM]),
    "geoparquet": lambda folder, _: save_items(folder / "made.parquet", [ITEM | {"bbox": [0, 0, 0, 0]}]),
    "manifest": lambda folder, _: write_query_manifest(folder / "made.csv", [], [], []),
    "scan": lambda folder, _: write_abi_archive(
        folder, platform="goes16", sector="M1", start=datetime(2020, 7, 1), hours=0.01, channels=[13]
    ),
    "index": lambda folder, archive: save_index(index_file(source(archive)), folder / "made.npz"),
    "references": lambda folder, archive: write_references([index_file(source(archive))], folder),
    "cog": lambda folder, _: write_cog(
        folder / "made.tif", np.ones((8, 8), "f4"), Affine(10, 0, 0, 0, -10, 0), "EPSG:32613",
        nodata=-9999, name="B04", tags={}
    ),
    "picture": picture,
    "grid": lambda folder, _: write_grid(GRID, folder / "made.csv"),
    "outlines": lambda folder, _: write_grid(GRID, folder / "made.geojson"),
    "statistics": lambda folder, _: STATISTICS.save(folder / "made.json"),
    "histograms": lambda folder, _: draw_histograms(STATISTICS, folder / "made.png"),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_a_lost_claim_changes_nothing(writer: str, archive: Path, tmp_path: Path) -> None:
    folder, write = tmp_path / "folder", WRITERS[writer]
    folder.mkdir()

    def lost() -> None:
        raise ClaimLostError("lost")

    with files.fenced(folder, lost), pytest.raises(ClaimLostError, match=r"^lost$"):
        write(folder, archive)
    assert [n for n in names(folder) if (folder / n).is_file()] == []
    with files.recorded(folder) as written:
        write(folder, archive)
    made = [n for n in names(folder) if (folder / n).is_file()]
    assert made
    assert sorted(w.path for w in written) == made
    assert all(files.digest_of(folder / w.path) == w.digest for w in written)
