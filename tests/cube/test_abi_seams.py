"""An edge of a cloud that runs along a row is no seam; rows that were moved are."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.screen_file import record_of
from cube.geostationary.screen_rows import repeated
from cube.geostationary.screen_rules import judge
from cube.geostationary.screen_seams import bands, seams
from cube.geostationary.screen_tiles import fault_in
from cube.testing import write_abi_file
from tests.cube.bad_scans import TOP, images_of, source_of

START = datetime(2020, 7, 1, 16)


def demo_file(folder: Path, channel: int, minutes: int, seed: int = 0) -> Path:
    """A file as the demo's archive has it, with little noise."""
    return write_abi_file(folder, channel=channel, seed=seed, start=START + timedelta(minutes=minutes, seconds=0.4))


@pytest.mark.parametrize(
    ("seed", "minutes", "channels"),
    [(0, 20, (4,)), (0, 40, (4, 13)), (0, 50, (4, 13))],
)
def test_intact_files_of_the_demos_sky_are_fit(
    tmp_path: Path, seed: int, minutes: int, channels: tuple[int, ...]
) -> None:
    """At 16:40 and 16:50 an anvil ends along row 494, at 16:20 one along row 459: looked at as a whole and by tiles."""
    for channel in channels:
        path = demo_file(tmp_path, channel, minutes, seed)
        index = index_file(source_of(path))
        for full in (False, True):
            assert judge(record_of(index, "s", full=full), []) == ("fit", ""), (channel, full)
        images = images_of(path)
        side = 64 if minutes > 20 else 256
        for top in range(0, images[0].shape[0] - side + 1, 62):
            for left in range(0, images[0].shape[1] - side + 1, 62):
                part = np.s_[top : top + min(side, 128), left : left + side]
                window = Window(top, left, min(side, 128), side)
                assert fault_in(index, window, *(image[part] for image in images)) is None, (channel, window)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> npt.NDArray[np.uint16]:
    """Counts of a scene with clouds."""
    return images_of(demo_file(tmp_path_factory.mktemp("scene"), 13, 100, seed=3))[0]


@pytest.mark.parametrize("row", [30, 125, 244])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("texture", [5.0, 150.0])
def test_a_cloud_that_ends_along_a_row_is_no_seam(row: int, share: float, texture: float) -> None:
    """Clear sky of 1,000 counts above, an anvil of 2,355 below, of its own pattern, in some or all of the columns."""
    rng = np.random.default_rng(row)
    waves = [np.sin(rng.uniform(0.02, 0.2) * np.arange(250) + rng.uniform(0, 6)) for _ in range(4)]
    clear = 1000 + 60 * waves[0] + 30 * waves[1] + rng.normal(0, 2, (250, 250))
    cloud = 2355 + texture * (waves[2] + waves[3]) + rng.normal(0, 2, (250, 250))
    wide = int(250 * share)
    first = int(rng.integers(0, 250 - wide + 1))
    counts = clear.copy()
    counts[row:, first : first + wide] = cloud[row:, first : first + wide]
    assert seams(np.rint(counts[:, ::4]).astype("f4"), TOP) == 0


def test_a_veil_that_ends_along_a_row_is_no_seam() -> None:
    """Thin cloud, that takes away more here and less there: what is below is seen through it."""
    x = np.arange(250)
    rng = np.random.default_rng(1)
    counts = 1800 + 500 * np.sin(0.05 * x) + 200 * np.sin(0.13 * x) + rng.normal(0, 2, (250, 250))
    veiled = counts.copy()
    veiled[180:] += 40 + 150 * np.sin(0.21 * x) * np.sin(0.04 * x)
    assert seams(np.rint(veiled[:, ::4]).astype("f4"), TOP) == 0
    moved = counts.copy()
    moved[180:] = np.roll(moved[180:], 60, axis=1)
    assert seams(np.rint(moved[:, ::4]).astype("f4"), TOP) == 1


@pytest.mark.parametrize("by", [60, 170, 333])
@pytest.mark.parametrize("rows", [slice(100, 108), slice(40, 160), slice(180, 250)])
def test_rows_that_were_moved_are_seams(scene: npt.NDArray[np.uint16], by: int, rows: slice) -> None:
    """Wherever they lie: both ends of a band, or one where the other is not looked at."""
    counts = scene.copy()
    counts[rows] = np.roll(counts[rows], by, axis=1)
    parts = [image[:250, left : left + 250 : 4].astype("f4") for image in (scene, counts) for left in (0, 250)]
    found = [seams(part, TOP) for part in parts]
    assert found[:2] == [0, 0]
    assert 1 <= max(found[2:]) <= 2


@pytest.mark.parametrize("side", [64, 128, 250])
def test_few_rows_that_were_moved_are_told_by_both_ends(scene: npt.NDArray[np.uint16], side: int) -> None:
    """One end is no band, nor are two that lie far apart."""
    whole = scene.astype("f4")
    here, there = whole[:128, 250 - side : 250], whole[:128, 500 - side :]
    assert bands(here, TOP) == 0
    for rows, number in ((slice(60, 68), 1), (slice(60, 92), 1), (slice(60, 93), 0), (slice(60, 128), 0)):
        moved = here.copy()
        moved[rows] = there[rows]
        assert bands(moved, TOP) == number, rows


@pytest.mark.parametrize(("by", "share", "number"), [(20, 1.0, 1), (8, 1.0, 0), (400, 0.5, 1), (400, 0.3, 0)])
def test_a_faint_or_narrow_band_is_none(by: int, share: float, number: int) -> None:
    """Stripes of real files are as faint, and clouds as narrow."""
    counts = np.random.default_rng(1).normal(2000, 1, (128, 80)).astype("f4")
    assert bands(counts, TOP) == 0
    counts[60:68, : int(80 * share)] += by
    assert bands(counts, TOP) == number


def test_rows_without_noise_that_are_the_same_are_no_repeats() -> None:
    """A quiet slope of 15 counts is the same in the next row; a row with an instrument's noise never is."""
    quiet = np.tile(np.repeat(np.arange(100, 115), 17)[:250], (20, 1)).astype("u2")
    none = np.zeros(20, "i8")
    assert repeated(quiet, none) == 0
    noisy = quiet + np.random.default_rng(0).integers(0, 3, quiet.shape).astype("u2")
    assert repeated(noisy, none) == 0
    noisy[8:11] = noisy[7]
    assert repeated(noisy, none) == 3
