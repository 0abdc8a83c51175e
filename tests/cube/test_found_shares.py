"""What shares of bad scans are found, and how many intact ones are taken for bad.

``SEEDS=10`` for less, ``SEEDS=1000:1100`` for others.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.cube.found_shares import LARGE, SMALL, trials
from tests.cube.intact_scans import SCANS, SCENES, alarms

SEEDS = range(*map(int, os.environ.get("SEEDS", "100").split(":")))
LEAST = 0.99
"""Share of the seeds whose bad scan is to be found."""


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_an_intact_series_of_a_real_image_raises_no_alarm(abi_data: Path, tmp_path: Path, scene: str) -> None:
    assert list(alarms(tmp_path, scene, 0, abi_data)) == []


@pytest.mark.long
def test_bad_scans_are_found(tmp_path: Path) -> None:
    """Few rows that were moved where there is next to nothing to see are not: 1 in 100 seeds."""
    large, small = Counter[str](), Counter[str]()
    for trial in trials(tmp_path, SEEDS):
        large.update(kind for kind in LARGE if trial.finds(kind))
        small.update(kind for kind in SMALL if trial.finds_few(kind))
        shutil.rmtree(trial.folder)
    for kind in LARGE:
        print(f"{kind:24} {large[kind]:4} {small[kind] if kind in SMALL else '':>4} of {len(SEEDS)}")  # noqa: T201
    assert {kind: n for kind, n in large.items() if n < LEAST * len(SEEDS)} == {}
    assert {kind: n for kind, n in small.items() if n < LEAST * len(SEEDS)} == {}


@pytest.mark.long
def test_intact_scans_are_fit(abi_data: Path, tmp_path: Path) -> None:
    found, series = [], SEEDS[: len(SEEDS) * 4 // 5]
    for scene in SCENES:
        for seed in series:
            found += alarms(tmp_path / "series", scene, seed, abi_data)
            shutil.rmtree(tmp_path / "series")
    assert len(found) <= 1e-3 * len(series) * SCANS * len(SCENES), "\n".join(told for _, told in found)
