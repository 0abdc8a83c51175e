"""However many processes run one command in one folder, killed and stopped by chance: what one process makes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.ground.processes import wait_for
from tests.job.racing import Race, assert_as_undisturbed, run_round

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROUNDS = int(os.environ.get("ROUNDS", "3"))
"""Each with a seed of its own; ``make races`` runs many."""
OTHERS = (("abi", 2), ("sentinel2", 0), ("sentinel2", 1))
"""Of as many processes at once as another round is, of the other source."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "seed"),
    [
        pytest.param(source, seed, marks=[pytest.mark.long] if (source, seed) in OTHERS else [])
        for source in ("abi", "sentinel2")
        for seed in range(ROUNDS)
    ],
)
def test_any_number_of_processes_make_what_one_makes(racing: Race, undisturbed: Path, seed: int) -> None:
    run_round(racing, seed)
    racing.judge()
    assert_as_undisturbed(racing.folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sentinel2"])
def test_three_processes_and_one_that_wakes_up_make_what_one_makes(racing: Race, undisturbed: Path) -> None:
    racing.settings = {"HEARTBEAT": 0.15, "LIMIT": 1.2}  # who comes beside does so at once, or waits for all others
    builds = [racing.begin() for _ in range(3)]
    wait_for(racing.inside)
    owner = racing.inside()
    assert owner is not None
    time.sleep(0.2)
    other = racing.stop_until_lost(owner)
    assert other is not None
    racing.begin("--overwrite")
    for build in racing.builds:
        if build is not owner:
            build.wait()
    racing.wake(owner, alone=True)
    assert racing.begin().wait() == 0
    racing.judge()
    assert sorted(build.wait() for build in builds) == [1, 2, 2]
    assert_as_undisturbed(racing.folder, undisturbed)
