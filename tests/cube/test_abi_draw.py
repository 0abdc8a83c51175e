"""The draw does not depend on what is readable: damaged scans give way, and faults of the machine stop the plan."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.build import main
from cube.geostationary.grid import Window
from cube.geostationary.headers import Headers
from cube.geostationary.index import index_file
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.read import read_windows
from cube.testing import write_abi_archive, write_abi_file
from stratacube.errors import SourceError, UnavailableError
from stratacube.guard import guarded
from tests.catalog.answering import serving, xml_error

SMALL: dict[str, Any] = {"channels": (7, 13), "shape_2km": (130, 130), "workers": 1}
START = datetime(2020, 7, 1, 16)


@pytest.fixture(scope="module", params=["M1", "C"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of two channels, of a sector that moves and of one that does not."""
    root = tmp_path_factory.mktemp("whole")
    corner = (0.0196, 0.0504) if request.param == "M1" else (-0.030016, 0.090048)
    write_abi_archive(root, sector=request.param, start=START, hours=1, corner=corner, **SMALL)
    return root


def scans_of(archive: Path) -> list[Scan]:
    sector = "M1" if next(archive.rglob("*RadM1*"), None) else "C"
    return find_scans(LocalArchive(archive), platform="goes16", sector=sector)


def plan(archive: Path, output: Path, *flags: str) -> int:
    sector = "M1" if next(archive.rglob("*RadM1*"), None) else "C"
    base = ["--domain", sector, "--channels", "7", "13", "--grid", "2km", "--tile-size", "32", "--steps", "2"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--num-tiles", "24"]
    return main(["abi", *given, *base, "--step-minutes", "10", "--plan-only", "--quiet", "--retries", "0", *flags])


def tiles_of(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "plan.parquet")


def damaged(archive: Path, copy: Path, *numbers: int, channels: tuple[int, ...] = (7, 13)) -> list[str]:
    """Copy an archive and cut files of some scans short; return the scans' ids."""
    shutil.copytree(archive, copy)
    scans = [scans_of(copy)[number] for number in numbers]
    for scan in scans:
        for file in (scan.files[channel] for channel in channels):
            Path(file.href).write_bytes(Path(file.href).read_bytes()[:3000])
    return [scan.id for scan in scans]


def moved(archive: Path, copy: Path, number: int, channel: int = 7) -> str:
    """Copy an archive and let a file of a scan say that it lies three pixels further east; return the scan's id."""
    shutil.copytree(archive, copy)
    scan = scans_of(copy)[number]
    with h5py.File(scan.files[channel].href, "r+") as h5:
        h5["x"].attrs["add_offset"] = np.float32(h5["x"].attrs["add_offset"] + 168e-6)
    return scan.id


def contents(tiles: pd.DataFrame) -> set[tuple[Any, ...]]:
    """What tells a tile: where it is, to the last bit, and the scans of its steps."""
    return {(row.tile_id, row.x_left, row.y_top, tuple(row.scan_ids)) for row in tiles.itertuples()}


@pytest.mark.parametrize(("number", "channels"), [(0, (7, 13)), (3, (7, 13)), (3, (13,))])
def test_a_broken_scan_moves_no_tile_but_its_own(
    whole: Path, tmp_path: Path, number: int, channels: tuple[int, ...]
) -> None:
    (bad,) = damaged(whole, tmp_path / "archive", number, channels=channels)
    assert plan(whole, tmp_path / "before") == 0
    assert plan(tmp_path / "archive", tmp_path / "out") == 0
    before, after = contents(tiles_of(tmp_path / "before")), contents(tiles_of(tmp_path / "out"))
    lost = {tile for tile in before if bad in tile[3]}
    assert 0 < len(lost) < len(before)
    assert before - after == lost
    assert len(after) == len(before)  # each gave way to the next
    assert not any(bad in tile[3] for tile in after)


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("channels", [("7", "13"), ("7",)])
def test_a_file_that_looks_elsewhere_moves_no_tile_but_its_own(
    whole: Path, tmp_path: Path, number: int, channels: tuple[str, ...]
) -> None:
    """Where the sector lies is told by most of its files: of the scan, and of those beside it where it stays."""
    bad = moved(whole, tmp_path / "archive", number)
    if scans_of(whole)[0].sector == "M1" and len(channels) == 1:
        pytest.skip("a sector that moves may lie there, and nothing else tells")
    assert plan(whole, tmp_path / "before", "--channels", *channels) == 0
    assert plan(tmp_path / "archive", tmp_path / "out", "--channels", *channels) == 0
    before, after = contents(tiles_of(tmp_path / "before")), contents(tiles_of(tmp_path / "out"))
    lost = {tile for tile in before if bad in tile[3]}
    assert 0 < len(lost) < len(before)
    assert before - after == lost
    assert not any(bad in tile[3] for tile in after)
    (problem,) = PlanTable(tmp_path / "out" / "plan.parquet").problems
    assert (problem.kind, problem.input) == ("avoided", bad)
    assert "microradians from those of the" in problem.reason or "do not look at one place" in problem.reason


def test_the_place_of_a_scan_is_that_of_most_of_its_files(tmp_path: Path) -> None:
    place: dict[str, Any] = {"start": START, "shape": (100, 100)}
    for name, channel in (("a", 7), ("a", 8), ("a", 13), ("b", 7), ("b", 8)):
        east = 112e-6 * (channel == 7)
        write_abi_file(tmp_path / name, channel=channel, corner=(0.0196 + east, 0.0504), **place)
    (scan,), (two,) = (scans_of(tmp_path / name) for name in ("a", "b"))
    found = Headers(None, None).of(scan)
    assert found.source.channel == 8
    assert found.grid.left == pytest.approx(0.0196, abs=1e-8)
    with pytest.raises(
        SourceError, match=f"^the files of scan {two.id} do not look at one place; fetch again those that differ$"
    ):
        Headers(None, None).of(two)
    alone = replace(scan, files={7: scan.files[7]})
    assert Headers(None, None).of(alone).source.channel == 7


@pytest.mark.parametrize("side", ["western", "northern"])
def test_a_corner_between_pixels_is_refused(tmp_path: Path, side: str) -> None:
    """Real corners are a whole number of 14 microradians, also where they are half a pixel of 1 km off."""
    for aside, fits in ((14e-6, True), (7e-6, False), (1e-6, False)):
        corner = (0.0196 + aside * (side == "western"), 0.0504 + aside * (side == "northern"))
        path = write_abi_file(tmp_path / f"{aside}", channel=13, start=START, shape=(50, 50), corner=corner)
        (file,) = LocalArchive(path.parent).files("goes16", "M1", None, None)
        if fits:
            assert index_file(file).grid.left == pytest.approx(corner[0], abs=1e-8)
            continue
        with pytest.raises(SourceError, match=f"its {side} edge lies at .* not on the imager's fixed grid"):
            index_file(file)


def test_what_gave_way_is_named(whole: Path, tmp_path: Path) -> None:
    (bad,) = damaged(whole, tmp_path / "archive", 3)
    assert plan(tmp_path / "archive", tmp_path / "out") == 0
    (problem,) = PlanTable(tmp_path / "out" / "plan.parquet").problems
    assert (problem.kind, problem.input) == ("avoided", bad)
    assert "truncated file" in problem.reason


def test_a_plan_drawn_anew_after_mending_is_that_of_the_whole_archive(whole: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    damaged(whole, archive, 0, 3)
    assert plan(archive, tmp_path / "out") == 0
    written = (tmp_path / "out" / "plan.parquet").read_bytes()
    for path in whole.rglob("*.nc"):
        shutil.copy2(path, archive / path.relative_to(whole))
    assert plan(archive, tmp_path / "out") == 0
    assert (tmp_path / "out" / "plan.parquet").read_bytes() == written  # a plan stays as written
    assert plan(archive, tmp_path / "out", "--overwrite") == 0
    assert plan(whole, tmp_path / "before") == 0
    assert (tmp_path / "out" / "plan.parquet").read_bytes() == (tmp_path / "before" / "plan.parquet").read_bytes()


@pytest.mark.parametrize("number", [1, 4])
def test_a_fault_of_the_machine_is_no_reason(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(whole, archive)
    for file in scans_of(archive)[number].files.values():
        Path(file.href).unlink()
        Path(file.href).symlink_to("/proc/self/mem")  # whose first bytes cannot be read: EIO
    assert plan(archive, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "Input/output error" in said
    assert any(file.href in said for file in scans_of(archive)[number].files.values())
    assert "run the same command again" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "plan.parquet").exists()
    for path in whole.rglob("*.nc"):
        (archive / path.relative_to(whole)).unlink(missing_ok=True)
        shutil.copy2(path, archive / path.relative_to(whole))
    assert plan(archive, tmp_path / "out") == 0
    assert plan(whole, tmp_path / "before") == 0
    assert contents(tiles_of(tmp_path / "out")) == contents(tiles_of(tmp_path / "before"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((OSError(number, "x"), UnavailableError) for number in (errno.EIO, errno.EACCES, errno.ETIMEDOUT)),
        *((OSError(number, "x"), UnavailableError) for number in (errno.ESTALE, errno.ENOENT, errno.ECONNREFUSED)),
        *((error("no number"), UnavailableError) for error in (TimeoutError, PermissionError, ConnectionResetError)),
        (OSError("truncated file"), SourceError),
        (IsADirectoryError(errno.EISDIR, "x"), SourceError),
        (ValueError("x"), SourceError),
    ],
)
def test_what_the_machine_says_is_told_from_what_the_bytes_say(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(SourceError) as caught, guarded("f.nc is not read"):
        raise error
    assert type(caught.value) is kind


def test_pixels_that_cannot_be_read_now_are_told_so(tmp_path: Path, whole: Path) -> None:
    """The same of reading pixels: a system call that fails is no damaged chunk, and one sentence."""
    file = next(iter(scans_of(whole)[0].files.values()))
    index = index_file(file)
    gone = tmp_path / "gone.nc"
    gone.symlink_to("/proc/self/mem")
    moved = replace(index, source=replace(file, href=str(gone)))
    with pytest.raises(UnavailableError, match=rf"^{gone} cannot be read \(Input/output error\)"):
        read_windows(moved, "rad", [Window(0, 0, 8, 8)], [np.zeros((8, 8), "u2")])
    gone.unlink()
    with pytest.raises(UnavailableError, match="No such file"):
        read_windows(moved, "rad", [Window(0, 0, 8, 8)], [np.zeros((8, 8), "u2")])


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (403, "AccessDenied")])
def test_a_server_that_fails_is_no_damaged_file(small_archive: Path, status: int, code: str) -> None:
    """An error of S3 after the size of the object was told, while its header is read."""
    file = next(iter(scans_of(small_archive)[0].files.values()))
    content = Path(file.href).read_bytes()
    there = replace(file, href=f"s3://noaa-goes16/{file.href.split('noaa-goes16/')[1]}", tag="")
    with serving(content, 1, xml_error(status, code)) as endpoint, pytest.raises(UnavailableError) as caught:
        index_file(there, None, endpoint)
    assert there.href in str(caught.value)


def test_a_damaged_object_is_damaged(small_archive: Path) -> None:
    file = next(iter(scans_of(small_archive)[0].files.values()))
    there = replace(file, href="s3://noaa-goes16/x.nc", tag="")
    cut = Path(file.href).read_bytes()[:3000]
    with serving(cut, 9, xml_error(500, "x")) as endpoint, pytest.raises(SourceError, match="truncated") as caught:
        index_file(there, None, endpoint)
    assert type(caught.value) is SourceError


def test_the_header_alone_tells_as_much_without_screening(small_archive: Path, tmp_path: Path) -> None:
    """A scan of a moving sector of which nothing opens gives way; a file that cannot be read now stops the plan."""
    off = ("--screen", "off")
    (bad,) = damaged(small_archive, tmp_path / "archive", 3, channels=tuple(scans_of(small_archive)[3].files))
    assert plan(small_archive, tmp_path / "before", *off) == 0
    assert plan(tmp_path / "archive", tmp_path / "out", *off) == 0
    before, after = contents(tiles_of(tmp_path / "before")), contents(tiles_of(tmp_path / "out"))
    assert before - after == {tile for tile in before if bad in tile[3]} != set()
    file = Path(scans_of(tmp_path / "archive")[1].files[7].href)
    file.unlink()
    file.symlink_to("/proc/self/mem")
    assert plan(tmp_path / "archive", tmp_path / "stopped", *off) == 1
    assert not (tmp_path / "stopped" / "plan.parquet").exists()
