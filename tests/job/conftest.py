"""Fixtures of the tests of the job: tiny archives, and what builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cube.sentinel2.grid import make_grid, write_grid
from cube.testing import write_abi_archive
from tests.job.racing import Command, Race, Starter
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

CELL = 2000


@pytest.fixture(scope="session")
def abi_command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Six tiles in two shards, of three scans of two bands."""
    root = tmp_path_factory.mktemp("abi")
    write_abi_archive(
        root, start=datetime(2020, 7, 1, 16), hours=1 / 3, channels=(7, 13), shape_2km=(150, 150), workers=1
    )
    source = ("--local-data-dir", str(root), "--domain", "M1", "--channels", "7", "13")
    tiles = ("--tile-size", "64", "--num-tiles", "6", "--steps", "2", "--step-minutes", "10", "--shard-mb", "0.02")
    return Command("abi", (*source, *tiles), "--output-dir")


@pytest.fixture(scope="session")
def sentinel2_command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Four cells of three scenes of one band, as GeoTIFF and Zarr."""
    root = tmp_path_factory.mktemp("sentinel2")
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=5 * number), bands=("B02",)).write(root / "safe")
    bounds = (ULX, ULY - 2 * CELL, ULX + 2 * CELL, ULY)
    write_grid(make_grid(CELL, bounds, f"EPSG:{EPSG}"), root / "grid.csv")
    source = ("--safe-dir", str(root / "safe"), "--grid-csv", str(root / "grid.csv"))
    period = ("--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02")
    return Command(
        "sentinel2", (*source, *period, "--tr", "20", "20", "--tap", "--products", "cog", "zarr"), "--work-dir"
    )


@pytest.fixture(scope="session")
def commands(abi_command: Command, sentinel2_command: Command) -> dict[str, Command]:
    """By source."""
    return {command.name: command for command in (abi_command, sentinel2_command)}


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """Who starts builds."""
    one = Starter()
    yield one
    one.end()


@pytest.fixture(scope="session")
def undisturbed_of(
    starter: Starter, commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folders of builds that nobody disturbed, each made when it is first asked for."""
    made: dict[str, Path] = {}

    def of(source: str) -> Path:
        if source not in made:
            one = Race(starter, commands[source], tmp_path_factory.mktemp(f"undisturbed-{source}"))
            assert one.begin().wait() == 0, one.builds[0].said.read_text()
            made[source] = one.folder
        return made[source]

    return of


@pytest.fixture
def source() -> str:
    """What is built, where a test does not say otherwise."""
    return "abi"


@pytest.fixture
def undisturbed(undisturbed_of: Callable[[str], Path], source: str) -> Path:
    """Folder of a build that nobody disturbed."""
    return undisturbed_of(source)


@pytest.fixture
def racing(starter: Starter, commands: dict[str, Command], source: str, tmp_path: Path) -> Iterator[Race]:
    """Processes on one folder, which end with the test."""
    one = Race(starter, commands[source], tmp_path)
    yield one
    one.end()
