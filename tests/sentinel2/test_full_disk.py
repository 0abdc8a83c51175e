"""A disk that is really full: a small file system of its own, filled but for some bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr

from cube.build import main
from cube.job.engine import Workers
from cube.job.run import Run
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import make_grid, write_grid
from tests.job.hurting import fill, small_disk
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

DISK = 64_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK) as place:
        yield place


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=number)).write(root / "safe")
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    return root


@pytest.fixture(scope="module")
def expected(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    whole = tmp_path_factory.mktemp("whole")
    assert _build(whole, sources) == 0
    return _digest(whole)


def _build(work: Path, sources: Path) -> int:
    flags = ["--safe-dir", str(sources / "safe"), "--grid-csv", str(sources / "grid.csv"), "--bands", "B02", "B03"]
    period = ["--start", "2021-06-01", "--end", "2021-06-30", "--workers", "1", "--retries", "0"]
    return main(["sentinel2", "--work-dir", str(work), *flags, *period, "--products", "cog", "zarr"])


def _digest(work: Path) -> dict[str, str]:
    made = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in work.glob("composites/*/*.tif")}
    group = zarr.open_group(work / "composites.zarr", mode="r")
    return made | {n: hashlib.sha256(np.asarray(a[...]).tobytes()).hexdigest() for n, a in group.arrays()}


@pytest.mark.parametrize("room", [6_000, 20_000, 40_000, 400_000, 1_000_000])
def test_full_disk_is_one_sentence_and_loses_nothing(
    disk: Path, sources: Path, expected: dict[str, str], room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ballast = fill(disk, room)
    capsys.readouterr()
    assert _build(disk / "w", sources) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "is full" in told[0] or "No space left" in told[0] or "no space is left" in told[0]
    assert "the same command again" in told[0]
    made = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (disk / "w").glob("composites/*/*.tif")}
    assert made.items() <= expected.items()  # what has its name is whole
    assert not (disk / "w" / "catalog.json").exists()
    ballast.unlink()
    assert _build(disk / "w", sources) == 0
    assert _digest(disk / "w") == expected
    assert main(["verify", str(disk / "w")]) == 0


def test_folder_knows_a_full_disk(disk: Path) -> None:
    run = Run(Sentinel2Folder(disk), Workers(), 0, lambda entry: ())
    assert not run.is_full()
    fill(disk, 100_000)
    assert run.is_full()
    assert [p.name for p in disk.iterdir()] == ["ballast"]
