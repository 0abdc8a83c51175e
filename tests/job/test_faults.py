"""Faults of the world around a build, on each engine: it ends, says why, and the same command makes the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cube.test_abi_run import put_in_bucket
from tests.job.hurting import Trouble, fill, small_disk, starved
from tests.job.racing import Build, Command, Race, Starter, assert_as_undisturbed
from tests.job.small import of_bucket
from tests.job.test_engines import ENGINES, all_ended, at, finishes
from tests.job.test_ranks import needs_mpirun, outside
from tests.job.test_signals import SOON

pytestmark = [
    pytest.mark.slow,
    # rasterio multiplies affine transforms by an operator that affine wants to retire
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]
LONG = (pytest.param("dask", marks=pytest.mark.long), pytest.param("mpi", marks=[pytest.mark.long, needs_mpirun]))
each = pytest.mark.parametrize("name", ["local", *LONG])
DISK = 64_000_000


@pytest.fixture(autouse=True)
def _as_root(starter: Starter) -> None:
    """Mpirun wants to be told that root knows what it does."""
    starter.environment.update({name: value for name, value in outside().items() if name.startswith("OMPI_ALLOW")})


def ends(build: Build, code: int) -> str:
    """Wait for the end of a build; what it said."""
    until = time.monotonic() + SOON
    assert build.wait() == code, build.said.read_text()
    said = build.said.read_text()
    assert time.monotonic() < until, said
    assert "Traceback" not in said
    all_ended(build)
    return said


@each
@pytest.mark.parametrize("room", [0, pytest.param(20_000, marks=pytest.mark.long)])
def test_a_disk_that_becomes_full(racing: Race, undisturbed: Path, tmp_path: Path, name: str, room: int) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk:
        racing.folder = disk / "work"
        build, _, hold = at(racing, name)
        ballast = fill(disk, room)
        hold.unlink()
        said = ends(build, 1)
        told = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, said
        assert f"the disk under {racing.folder} is full; free some and run the same command again" in told[0]
        assert not (racing.folder / "catalog.json").exists()
        ballast.unlink()
        finishes(racing, name, undisturbed)


@pytest.mark.long
@each
def test_a_worker_that_the_kernel_kills_for_want_of_memory(racing: Race, undisturbed: Path, name: str) -> None:
    build, workers, hold = at(racing, name)
    with starved(workers[0], 200_000):
        hold.unlink()
        if name == "mpi":
            said = ends(build, 137)
            assert f"(process {workers[0]}) was killed on " in said
            assert "perhaps for want of memory" in said
        else:
            ends(build, 0)
    finishes(racing, name, undisturbed)


@pytest.fixture(scope="module")
def trouble(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trouble, Command]]:
    """A server of S3 that answers amiss when told to, and a build of what lies there."""
    root, made = tmp_path_factory.mktemp("bucket"), Trouble(s3_server)
    with made.serving() as endpoint:
        command = of_bucket(root, endpoint)
        put_in_bucket(s3_server, root)
        yield made, command


@pytest.fixture(scope="module")
def online(starter: Starter, trouble: tuple[Trouble, Command], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of that build, undisturbed."""
    one = Race(starter, trouble[1], tmp_path_factory.mktemp("undisturbed-online"))
    assert one.begin().wait() == 0, one.builds[0].said.read_text()
    return one.folder


@pytest.fixture
def remote(starter: Starter, trouble: tuple[Trouble, Command], tmp_path: Path) -> Iterator[tuple[Race, Trouble]]:
    """That build, and its server."""
    one = Race(starter, trouble[1], tmp_path)
    trouble[0].begin()
    yield one, trouble[0]
    one.end()
    trouble[0].begin()


@each
def test_every_first_answer_of_s3_is_amiss(remote: tuple[Race, Trouble], online: Path, name: str) -> None:
    """Listings, headers and pixels: what passes is asked for again, and the bits are the same."""
    race, server = remote
    server.begin(first=Trouble.KINDS)
    build = race.begin(*ENGINES[name].flags, workers=2, launcher=ENGINES[name].launcher)
    assert build.wait() == 0, build.said.read_text()
    assert set(server.met) == set(Trouble.KINDS)
    assert_as_undisturbed(race.folder, online)
    all_ended(build)


@pytest.mark.long
@each
@pytest.mark.parametrize("kind", ["503", "truncated"])
def test_a_server_of_s3_that_fails_for_good(remote: tuple[Race, Trouble], online: Path, name: str, kind: str) -> None:
    """From the building on: each file that it did not give is named, and made when it is well again."""
    race, server = remote
    build, _, hold = at(race, name)
    server.begin(always=kind)
    hold.unlink()
    said = ends(build, 1)
    assert set(server.met) == {kind}
    assert "with what follows missing from them" in said, said
    told = (race.folder / "errors.csv").read_text()
    assert {"503": "SlowDown it is", "truncated": "Not enough data"}[kind] in told
    server.begin()
    finishes(race, name, online)
