"""However many processes run one command in one folder, killed and stopped by chance: what one process makes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.job.racing import Command, Race, Starter, assert_as_undisturbed, race

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROUNDS = int(os.environ.get("ROUNDS", "3"))
"""Each with a seed of its own; ``make soak`` runs many."""


@pytest.fixture(scope="module")
def undisturbed(
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
def racing(starter: Starter, commands: dict[str, Command], tmp_path: Path) -> Iterator[Callable[[str], Race]]:
    """Start races, whose processes end with the test."""
    races: list[Race] = []

    def start(source: str) -> Race:
        races.append(Race(starter, commands[source], tmp_path))
        return races[-1]

    yield start
    for one in races:
        one.end()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("source", ["abi", "sentinel2"])
def test_any_number_of_processes_make_what_one_makes(
    racing: Callable[[str], Race], undisturbed: Callable[[str], Path], source: str, seed: int
) -> None:
    expected = undisturbed(source)
    one = racing(source)
    race(one, seed)
    one.judge()
    assert_as_undisturbed(one.folder, expected)


def test_three_processes_and_one_that_wakes_up_make_what_one_makes(
    racing: Callable[[str], Race], undisturbed: Callable[[str], Path]
) -> None:
    one = racing("sentinel2")
    expected = undisturbed("sentinel2")
    for _ in range(3):
        one.begin()
    while (owner := one.inside()) is None:
        time.sleep(0.01)
    time.sleep(0.3)
    other = one.stop_until_lost(owner)
    assert other is not None
    assert one.begin("--overwrite").wait() in (0, 2)
    other.wait()
    one.wake(owner, alone=True)
    assert one.begin().wait() == 0
    one.judge()
    assert sorted(b.code() or 0 for b in one.builds).count(1) == 1
    assert_as_undisturbed(one.folder, expected)


def test_a_killed_owner_makes_room_at_once(racing: Callable[[str], Race]) -> None:
    one = racing("sentinel2")
    first = one.begin()
    while one.inside() is None:
        time.sleep(0.01)
    one.kill(first)
    assert first.code() == -signal.SIGKILL
    assert one.begin("--plan-only").wait() == 0
    one.judge()
