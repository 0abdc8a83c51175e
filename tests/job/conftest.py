"""Fixtures of the tests of the job: tiny archives, and what builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.job.racing import Command, Race, Starter
from tests.job.small import of_abi, of_sentinel2


@pytest.fixture(scope="session")
def abi_command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Six tiles in two shards, of three scans of two bands."""
    return of_abi(tmp_path_factory.mktemp("abi"))


@pytest.fixture(scope="session")
def sentinel2_command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Four cells of three scenes of one band, as GeoTIFF and Zarr."""
    return of_sentinel2(tmp_path_factory.mktemp("sentinel2"))


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
