"""Screening finds scans that are no scans, and raises no false alarm."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.screen_file import FileRecord, chunks_on_earth, lattice, record_of
from cube.geostationary.screen_rows import look_at
from cube.geostationary.screen_rules import Verdict, judge, neighbours, strangers
from cube.geostationary.screen_tiles import fault_in
from cube.geostationary.screening import Screening, ScreenTask
from cube.testing import write_abi_file
from tests.cube.bad_scans import FEW, KINDS, SHAPE, TURNED, few_spoilt, images_of, intact, source_of, spoiled

SEEDS = int(os.environ.get("SEEDS", "1"))
"""``SEEDS=100`` for the table of what is found."""


def record(path: Path) -> FileRecord:
    return record_of(index_file(source_of(path)), path.name)


def alone(path: Path) -> Verdict:
    return judge(record(path), [])


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The intact file of a seed."""
    return intact(tmp_path_factory.mktemp("whole"), request.param)


@pytest.mark.parametrize("whole", range(SEEDS), indirect=True)
def test_an_intact_file_is_fit(whole: Path) -> None:
    assert alone(whole) == ("fit", "")


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("whole", "seed"), [(s, s) for s in range(SEEDS)], indirect=["whole"])
def test_what_one_file_tells(whole: Path, tmp_path: Path, kind: str, seed: int) -> None:
    path = whole
    verdict = alone(spoiled(tmp_path / "bad", images_of(path), kind, seed))
    assert verdict.word == "unfit"
    assert verdict.reason


MOVED = 3
"""A seed whose moved rows lie in clouds, where an end of them alone tells of them."""
FAINT = 42
"""One whose moved rows are told by both of their ends alone, as in one of five seeds; in one of 100 (87) they differ by
6 counts of 4,095 from what was there, where rows differ by 5 from each other, and are not told."""


@pytest.mark.parametrize(
    ("whole", "seed", "kind"),
    [
        *((s, s, kind) for s in range(SEEDS) for kind in sorted({*KINDS} - {"all fill", "moved rows"})),
        *((s, s, "moved rows") for s in (MOVED, FAINT)),
    ],
    indirect=["whole"],
)
def test_small_faults_are_told_by_the_pixels_that_a_tile_is_cut_from(whole: Path, kind: str, seed: int) -> None:
    """Of 1.6 % of the rows, or of a chunk of fill in these, wherever they lie in the tile; as it was, it is fit."""
    index, images = index_file(source_of(whole)), images_of(whole)
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    side = int(rng.choice([64, 128, 256]))
    top, left = (int(rng.integers(0, SHAPE[0] - side)) for _ in range(2))
    first = int(rng.integers(top + 5, top + min(side, 128) - FEW - 5))
    chunk = slice(0, 250) if left + side // 2 < 250 else slice(250, 500)
    cols = chunk if kind == "a band of fill" else slice(None)
    counts, flags = few_spoilt(images, kind, seed, slice(first, first + FEW), cols)
    part = np.s_[top : top + min(side, 128), left : left + side]
    window = Window(top, left, min(side, 128), side)
    assert fault_in(index, window, *(image[part] for image in images)) is None
    assert fault_in(index, window, counts[part], flags[part]), (kind, window, first)


@pytest.mark.parametrize("whole", [MOVED], indirect=True)
def test_a_pixel_without_a_count_hides_no_fault_beside_it(whole: Path, tmp_path: Path) -> None:
    """Real images have some anywhere: stripes, and moved rows of a tile, are told of the rows around."""
    counts, flags = (image.copy() for image in images_of(whole))
    counts[100::250, 100::250], flags[100::250, 100::250] = 4095, 3
    assert alone(intact(tmp_path / "holes", 0, counts=counts, dqf=flags)).word == "fit"
    half, denied = counts.copy(), flags.copy()
    half[30, :125], denied[30, :125] = 4095, 3  # what is beside them is not uneven for that
    assert record(intact(tmp_path / "half", 0, counts=half, dqf=denied)).stripes == pytest.approx(
        record(whole).stripes, rel=0.03
    )
    striped = counts.copy()
    striped[::4] = np.where(counts[::4] == 4095, 4095, counts[::4] + int(0.5 * counts[counts < 4095].std()))
    told = alone(intact(tmp_path / "striped", 0, counts=striped, dqf=flags))
    assert "its rows differ from those beside them" in told.reason
    index, window = index_file(source_of(whole)), Window(50, 0, 128, 256)
    part, moved = (slice(50, 178), slice(0, 256)), counts.copy()
    moved[120:128] = np.roll(counts[120:128], 250, axis=1)
    assert fault_in(index, window, counts[part], flags[part]) is None
    assert "rows have nothing to do" in str(fault_in(index, window, moved[part], flags[part]))


@pytest.mark.parametrize("whole", [MOVED], indirect=True)
def test_rows_that_lie_high_and_low_by_turns_are_stripes(whole: Path) -> None:
    """Faint ones too, which one row alone may be; fainter than those of the worst real file are not told."""
    index, (counts, flags), window = index_file(source_of(whole)), images_of(whole), Window(0, 0, 128, 128)
    part = (slice(0, 128), slice(0, 128))
    for by, rows, word in ((70, range(60, 66, 2), True), (-70, range(60, 66, 2), True), (40, range(60, 66, 2), False),
                           (70, [60, 62], False), (70, range(60, 66), False)):  # fmt: skip
        striped = counts.copy()
        striped[rows] = np.where(counts[rows] < 4095, counts[rows].astype("i4") + by, 4095)
        told = fault_in(index, window, striped[part], flags[part])
        assert (told is not None and told.endswith("are stripes")) == word, (by, rows)


def judged(bad: FileRecord, near: Sequence[FileRecord], foreign: Sequence[Sequence[FileRecord]] = ()) -> Verdict:
    others = neighbours(bad, near)
    assert len(others) == len(near) == 2
    return judge(bad, others, foreign)


@pytest.mark.parametrize("channel", [1, 13])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_only_its_neighbours_in_time_tell(tmp_path: Path, seed: int, channel: int) -> None:
    """Of sunlight as of heat: turned images, other bands and other times; each scan by those beside it is fit."""
    fills = {1: 1023, 8: 4095, 13: 4095, 3: 1023}
    other = {1: 3, 13: 8}[channel]
    paths = {(c, m): intact(tmp_path / f"{c}-{m}", seed, m, channel=c) for c in (channel, other) for m in (0, 10, 20)}
    records = {key: record(path) for key, path in paths.items()}
    for minute in (0, 10, 20):
        near = [m for m in (0, 10, 20) if m != minute]
        foreign = [[records[other, m]] for m in near]
        assert judged(records[channel, minute], [records[channel, m] for m in near], foreign).word == "fit"
    images = images_of(paths[channel, 10])
    rng = np.random.default_rng(seed)
    spoilt = {kind: [np.ascontiguousarray(turn(rng, image)) for image in images] for kind, turn in TURNED.items()}
    counts, flags = images_of(paths[other, 10])
    fill = fills[channel]
    spoilt["another band"] = [np.where(counts == fills[other], fill, np.minimum(counts, fill - 1)), flags]
    spoilt["another time"] = [*images_of(intact(tmp_path / "late", seed, 10 - 24 * 60, channel=channel))]
    for kind, (pixels, quality) in spoilt.items():
        path = intact(tmp_path / kind, seed, 10, channel=channel, counts=pixels.astype("u2"), dqf=quality)
        near = [records[channel, m] for m in (0, 20)]
        verdict = judged(record(path), near, [[records[other, m]] for m in (0, 20)])
        assert verdict.word == "unfit", kind
        if kind == "another band":
            assert f"its pixels are those of C{other:02d}" in verdict.reason


@pytest.mark.parametrize("whole", [MOVED], indirect=True)
def test_what_the_sun_adds_to_is_not_said_to_scatter_as_before(whole: Path) -> None:
    """A glint at 3.9 um comes and goes in minutes; at 10.3 um there is none."""
    begun = record(whole)
    for channel, word in ((7, "fit"), (13, "unfit")):
        one = replace(begun, channel=channel)
        near = [replace(one, href=str(m), start=one.start + np.timedelta64(m, "m")) for m in (-10, 10)]
        assert judged(one, near).word == "fit"
        assert judged(one, [replace(other, spread=4 * one.spread) for other in near]).word == word
        assert judged(one, [replace(other, stored_bytes=3 * one.stored_bytes) for other in near]).word == word


@pytest.mark.parametrize("whole", [MOVED], indirect=True)
def test_a_scene_may_change_for_as_long_as_lies_between(whole: Path) -> None:
    """The last scan of an archive is as late after the one before it as that is after the one before that."""
    begun, rng = record(whole), np.random.default_rng(1)
    parts, change = rng.normal(4000, 400, (4, 16)), rng.normal(0, 200, (4, 16))

    def seen(minute: int, changed: float) -> FileRecord:
        start, scene = begun.start + np.timedelta64(minute, "m"), np.rint(parts + changed * change).astype("<u2")
        return replace(begun, href=f"{minute} {changed}", start=start, chunks=4, scene=scene.tobytes())

    near = [seen(0, 0.0), seen(10, 0.5)]
    for minute, word in ((20, "fit"), (-10, "fit"), (5, "unfit")):
        assert judged(seen(minute, 2.2), near).word == word


def test_two_bands_with_the_same_pixels_are_told(tmp_path: Path) -> None:
    first = intact(tmp_path / "a", 1, channel=13)
    counts, flags = images_of(first)
    second = intact(tmp_path / "b", 1, channel=14, counts=counts, dqf=flags)
    other = intact(tmp_path / "c", 1, channel=15)
    told = strangers([record(path) for path in (first, second, other)])
    assert told == {
        str(first): "its pixels are those of C14 in the same scan",
        str(second): "its pixels are those of C13 in the same scan",
    }
    assert strangers([replace(record(path), spread=1.0) for path in (first, second, other)]) == {}  # night is one count


def test_what_a_scan_is_compared_with_is_told_by_the_archive(tmp_path: Path) -> None:
    """One is asked for; those before and after it are looked at too, and are no part of the record."""
    for minute in (0, 10, 20, 30):
        path = intact(tmp_path, 1, minute)
        if minute == 20:
            counts, flags = images_of(path)
            path.unlink()
            intact(tmp_path, 1, minute, counts=counts[::-1], dqf=flags[::-1])
    scans = find_scans(LocalArchive(tmp_path), platform="goes16", sector="C")

    class Inline:
        """A run whose tasks are done here."""

        def do(self, tasks: Iterable[ScreenTask], look: Any, _: str) -> Iterator[Any]:
            for task in tasks:
                yield SimpleNamespace(task=task, result=look(task), error=None, fault=None)

    screening = Screening(Inline(), (0, 1), False, tmp_path / "index", None, scans)  # type: ignore[arg-type]
    assert screening([scans[1]]) == {}
    assert set(screening.records) == {scan.id for scan in scans[:3]}
    assert set(screening([scans[2]])) == {scans[2].id}
    assert set(screening.verdicts) == {scan.files[13].href for scan in scans[1:3]}
    edge = Screening(Inline(), (0, 1), False, tmp_path / "index", None, scans)  # type: ignore[arg-type]
    assert edge([scans[0]]) == {}
    assert set(edge.records) == {scan.id for scan in scans[:3]}


def test_a_file_of_another_place_or_time_is_no_neighbour(tmp_path: Path) -> None:
    first = record(intact(tmp_path / "a", 1))
    late = record(intact(tmp_path / "b", 1, 61))
    moved = record(intact(tmp_path / "c", 1, 10, corner=(-0.030016, 0.090048 - 56e-6)))
    other = record(intact(tmp_path / "d", 1, 10, channel=14))
    assert neighbours(first, [first, late, moved, other]) == []


def test_a_placeholder_is_told_by_its_name(tmp_path: Path) -> None:
    path = intact(tmp_path, 1)
    begun = record(path)
    assert begun.seconds > 0
    verdict = judge(replace(begun, seconds=0.0), [])
    assert verdict == ("unfit", "its name tells one time for its start and end, as a placeholder's does")
    start = path.name.split("_s")[1][:14]
    named = path.with_name(path.name.replace(path.name.split("_e")[1][:14], start))
    path.rename(named)
    with h5py.File(named, "r+") as h5:
        h5.attrs["time_coverage_end"] = h5.attrs["time_coverage_start"]
        h5["t"][()] = h5["time_bounds"][0]
        h5["time_bounds"][1] = h5["time_bounds"][0]
    assert alone(named).word == "unfit"


def test_chunks_that_were_never_written_are_told_without_reading(tmp_path: Path) -> None:
    index = index_file(source_of(intact(tmp_path, 1)))
    sizes = index.rad.sizes.copy()
    sizes[1, 1] = 0
    verdict = judge(record_of(replace(index, rad=replace(index.rad, sizes=sizes)), "s"), [])
    assert "1 of 4 chunks on the Earth were never written" in verdict.reason


def test_few_valid_pixels_by_the_files_own_count_are_too_few(tmp_path: Path) -> None:
    whole = record(intact(tmp_path, 1))
    assert judge(replace(whole, told_valid=0.4), []).word == "unfit"
    assert judge(replace(whole, told_valid=float("nan")), []).word == "fit"  # archives lack it


def test_a_warm_focal_plane_is_flagged_and_dropped_only_where_it_took_most(tmp_path: Path) -> None:
    """GOES-17, in the nights about the equinoxes of 2018 to 2023."""
    path = intact(tmp_path / "whole", 1, start=datetime(2019, 4, 15, 13), platform="goes17")
    counts, _ = images_of(path)
    for share, word in ((0.0, "fit"), (0.2, "flagged"), (0.7, "unfit")):
        flags = np.zeros(SHAPE, "i1")
        flags[:, : int(share * SHAPE[1])] = 4
        target = write_abi_file(
            tmp_path / word, platform="goes17", sector="C", channel=13, start=datetime(2019, 4, 15, 13),
            shape=SHAPE, corner=(-0.030016, 0.090048), counts=counts, dqf=flags,
        )  # fmt: skip
        (source,) = LocalArchive(tmp_path / word).files("goes17", "C", None, None)
        assert source.href == str(target)
        verdict = judge(record_of(index_file(source), "s"), [])
        assert verdict.word == word
        assert ("too warm for 20.0%" in verdict.reason) == (word == "flagged")


SCENES = {
    "night": {"start": datetime(2020, 7, 1, 5)},
    "terminator": {"start": datetime(2020, 7, 1, 11, 10)},
    "noon": {"start": datetime(2020, 7, 1, 16, 50)},
    "limb": {"start": datetime(2020, 7, 1, 13), "corner": (-0.151872, 0.030016)},
    "north": {"start": datetime(2020, 12, 21, 20), "corner": (-0.030016, 0.151872)},
}


@pytest.mark.parametrize("scene", sorted(SCENES))
@pytest.mark.parametrize("seed", range(SEEDS))
def test_intact_scenes_raise_no_alarm(tmp_path: Path, scene: str, seed: int) -> None:
    for channel in (6, 7, 13):
        path = intact(tmp_path, seed, channel=channel, **SCENES[scene])
        assert alone(path) == ("fit", ""), (scene, channel)


def test_no_real_file_raises_an_alarm(abi_data: Path) -> None:
    archive = LocalArchive(abi_data)
    listed = [
        archive.files(platform, sector, None, None) for platform in ("goes16", "goes17") for sector in ("M1", "C")
    ]
    indexes = [index_file(source) for files in listed for source in files]
    records = [record_of(index, "s") for index in indexes]
    verdicts = {r.href: judge(r, neighbours(r, records)) for r in records}
    assert [(href, v) for href, v in verdicts.items() if v.word != "fit"] == []
    assert len(verdicts) >= 42
    for index, found in zip(indexes, records, strict=True):
        if found.chunks == index.rad.sizes.size:  # all of a mesoscale sector is looked at
            assert found.valid == pytest.approx(index.valid_fraction, abs=1e-6)


def test_chunks_on_the_earth_are_those_all_pixels_of_which_see_it(tmp_path: Path) -> None:
    index = index_file(source_of(intact(tmp_path, 1, corner=(-0.14, -0.059976), chunks=(50, 50))))
    row, col = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    seen = np.isfinite(index.grid.lonlat(row, col)[0]).reshape(10, 50, 10, 50).all(axis=(1, 3))
    found = chunks_on_earth(index.grid, index.rad.chunks, index.rad.shape)
    assert 0 < seen.sum() < seen.size
    np.testing.assert_array_equal(found, seen)
    assert all(found[r, c] for r, c in lattice(found, np.zeros_like(found)))


def test_chunks_that_may_hold_one_value_are_looked_at_too_up_to_thirty_two() -> None:
    earth, constant = np.ones((24, 24), bool), np.zeros((24, 24), bool)
    usual = lattice(earth, constant)
    assert (len(usual), len({row for row, _ in usual})) == (24, 24)
    odd = next((r, c) for r in range(24) for c in range(24) if (r, c) not in usual)
    constant[odd] = constant[usual[3]] = True
    assert lattice(earth, constant) == [*usual, odd]
    assert len({*lattice(earth, earth)}) == 32
    assert lattice(~earth, ~earth) == []


def test_chunks_without_a_hole_are_looked_at_for_flags_and_seams() -> None:
    """Together as each alone; the seam is of 80 counts of 4,095."""
    rng = np.random.default_rng(1)
    wave = np.rint(2000 + 80 * np.sin(np.arange(120) / 9) + rng.normal(0, 1, (96, 120))).astype("u2")
    good, usable = np.zeros((96, 120), "u1"), np.arange(256) < 2
    denied, moved = good.copy(), wave.copy()
    denied[40:45] = 3
    moved[50:58] = np.roll(wave[50:58], 28, axis=1)
    images = [(wave, good), (wave[::-1], denied), (moved, good)]
    looks = look_at(images, 4095, 4094, usable, 3)
    assert [(look.faults, look.seams) for look in looks] == [
        ((0, 0, 0, 0, 0), 0), ((0, 0, 0, 0, 5), 0), ((0, 0, 0, 0, 0), 2),
    ]  # fmt: skip
    assert [look.valid for look in looks] == [96 * 120, 91 * 120, 96 * 120]
    for look, image in zip(looks, images, strict=True):
        (alone,) = look_at([image], 4095, 4094, usable, 3)
        assert (alone.faults, alone.uneven, alone.variance) == (look.faults, look.uneven, look.variance)
    holed = wave.copy()
    holed[3, :2] = 4095  # which the flags call good
    (look,) = look_at([(holed, good)], 4095, 4094, usable, 3)
    assert (look.valid, look.empty) == (96 * 120 - 2, 2)


def test_all_chunks_of_a_file_are_counted_once_whatever_their_widths(tmp_path: Path) -> None:
    path = write_abi_file(
        tmp_path, channel=13, start=datetime(2020, 7, 1, 16), shape=(130, 130), chunks=(20, 20), sector="C",
        corner=(-0.019992, 0.059976),
    )  # fmt: skip
    counts, flags = images_of(path)
    seen = record_of(index_file(source_of(path)), "s", full=True)
    assert (seen.chunks, seen.rows) == (49, 7 * 130)
    assert seen.valid == pytest.approx(np.mean((flags >= 0) & (flags < 2) & (counts < 4095)))
    assert seen.flags[0] == pytest.approx(np.mean(flags == 0))


@pytest.mark.parametrize("aside", [(0, 168e-6), (-168e-6, 0), (0, 14e-6)])
@pytest.mark.parametrize("channels", [(7, 13), (7, 8, 13)])
def test_a_file_that_looks_elsewhere_than_the_others_of_its_scan_is_told(
    tmp_path: Path, channels: tuple[int, ...], aside: tuple[float, float]
) -> None:
    """Of two nobody knows which is wrong, of three the one; images half a pixel off are as files to 2019 were."""
    corner = (-0.019992, 0.059976)
    for name, shift in (("right", (0.0, 0.0)), ("half", (14e-6, -14e-6)), ("wrong", aside)):
        records = []
        for channel in channels:
            start = datetime(2019 if name == "half" else 2020, 1, 1, 16)
            at = (corner[0] + shift[0], corner[1] + shift[1]) if channel == 13 else corner
            path = write_abi_file(tmp_path / name, channel=channel, start=start, shape=(100, 100), corner=at)
            records.append(record(path))
        told = strangers(records)
        wanted = {"right": (), "half": (), "wrong": channels if len(channels) == 2 else (13,)}[name]
        assert {r.channel for r in records if r.href in told} == {*wanted}
        assert all("microradians from those of the scan's other files" in reason for reason in told.values())


def test_a_view_that_is_not_the_other_files_is_told(tmp_path: Path) -> None:
    start = datetime(2020, 7, 1, 16)
    records = [
        record(
            write_abi_file(
                tmp_path, channel=c, start=start, shape=(100, 100), corner=(-0.019992, 0.059976), lon_0=lon_0
            )
        )
        for c, lon_0 in ((7, -75.0), (8, -75.0), (13, -89.5))
    ]
    assert strangers(records) == {records[2].href: "its projection is not that of the scan's other files"}


def test_a_sector_at_the_limb_without_a_valid_pixel_is_told(tmp_path: Path) -> None:
    """None of its chunks sees the Earth with all of its pixels; a fifth of its pixels do."""
    counts = np.full((250, 250), 4095, "u2")
    path = write_abi_file(
        tmp_path, channel=13, start=datetime(2020, 7, 1, 16), counts=counts, dqf=np.full((250, 250), 3, "u1"),
        corner=(-0.115024, 0.115024),
    )  # fmt: skip
    seen = record(path)
    assert seen.earth_chunks == 0
    assert 0.02 < seen.earth_share < 0.98
    assert judge(seen, []).word == "unfit"
