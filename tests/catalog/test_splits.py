"""Splits that cannot leak, and the checker that proves it, against distances by brute force."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pyproj import Geod

from catalog.finer import remedy
from catalog.leaks import Extents, find_leaks, leaks_between
from catalog.sphere import Footprints, apart_km
from catalog.splits import GAP, SplitRule
from stratacube.errors import UsageError

Floats = npt.NDArray[np.float64]

RADIUS = 6371.0088
SPHERE = Geod(a=RADIUS * 1e3, b=RADIUS * 1e3)
HALF = 60.0
"""Kilometres from the middle of a sample to its sides."""
START = np.datetime64("2020-03-01T00:00", "us")


def square(lon: float, lat: float, half_km: float, turn: float = 0.0, corners: int = 4) -> Floats:
    """A regular outline round a place, by PROJ's geodesics on the sphere."""
    bearings = turn + np.arange(corners) * 360.0 / corners
    found = SPHERE.fwd([lon] * corners, [lat] * corners, bearings, [half_km * 1e3 * np.sqrt(2)] * corners)
    return np.stack(found[:2], axis=1)


def vectors(lonlat: Any) -> Floats:
    lon, lat = np.radians(np.asarray(lonlat, "f8")).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def boundary(ring: Floats, points: int = 24) -> Floats:
    """Points along the arcs of a ring, by spherical interpolation."""
    found = []
    corners = vectors(ring)
    for u, v in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        angle = np.arccos(np.clip(u @ v, -1, 1))
        t = np.linspace(0, 1, points, endpoint=False)[:, None]
        found.append((np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle))
    return np.concatenate(found)


def inside(points: Floats, ring: Floats) -> npt.NDArray[np.bool_]:
    """Which points a convex ring holds: those on its side of every arc."""
    corners = vectors(ring)
    normals = np.cross(corners, np.roll(corners, -1, axis=0))
    side = np.sign(normals @ corners.mean(axis=0))
    found: npt.NDArray[np.bool_] = (np.sign(points @ normals.T) == side).all(axis=1)
    return found


def brute_km(one: Floats, other: Floats) -> float:
    """Distance of two convex outlines by all pairs of points along them, to some kilometres; far ones roughly."""
    far = np.linalg.norm(vectors(one).mean(axis=0) - vectors(other).mean(axis=0)) * RADIUS
    if far > 1500:
        return float(far)
    a, b = boundary(one), boundary(other)
    if inside(a, other).any() or inside(b, one).any():
        return 0.0
    return float(np.arccos(np.clip((a @ b.T).max(), -1, 1))) * RADIUS


PLACES = [(179.6, 10.0), (-75.0, 0.0), (-60.0, 60.0), (20.0, 84.5), (100.0, -89.0), (-179.9, -45.0)]


def crowd(seed: int, number: int = 48) -> tuple[list[Floats], Any, Any]:
    """Samples near one another in space and time, at places where longitudes are awkward."""
    rng = np.random.default_rng(seed)
    rings = []
    for i in range(number):
        lon, lat = PLACES[i % len(PLACES)]
        away = SPHERE.fwd(lon, lat, rng.uniform(0, 360), rng.uniform(0, 6e5))
        rings.append(square(away[0], away[1], rng.uniform(40, 250), rng.uniform(0, 90), int(rng.integers(3, 7))))
    start = START + (rng.uniform(0, 36, number) * 3.6e9).astype("m8[us]")
    return rings, start, start + (rng.uniform(0, 6, number) * 3.6e9).astype("m8[us]")


def brute_leaks(rings: list[Floats], start: Any, end: Any, km: float, hours: float) -> tuple[set[Any], set[Any]]:
    """Pairs nearer than the gap, and those too near the gap for points a few km apart to tell."""
    found, unsure = set(), set()
    for i, j in combinations(range(len(rings)), 2):
        apart = max((start[j] - end[i]), (start[i] - end[j])) / np.timedelta64(1, "h")
        if apart >= hours:
            continue
        distance = brute_km(rings[i], rings[j])
        if abs(distance - km) < 5.0 and distance > 0:
            unsure.add((i, j))
        elif distance < km:
            found.add((i, j))
    return found, unsure


@pytest.mark.parametrize("gap", [(0.5, 0.001), (100.0, 6.0), (400.0, 24.0), (100.0, 1e9)])
def test_the_checker_finds_what_brute_force_finds_and_only_that(gap: tuple[float, float]) -> None:
    rings, start, end = crowd(3)
    wanted, unsure = brute_leaks(rings, start, end, *gap)
    extents = Extents.of(rings, start, end)
    leaks = find_leaks(extents, extents, *gap)
    found = {(k.one, k.other) for k in leaks if k.one < k.other}
    assert wanted
    assert found - unsure == wanted - unsure
    for leak in leaks[:50]:
        if leak.one < leak.other and leak.km < 700:
            assert leak.km == pytest.approx(brute_km(rings[leak.one], rings[leak.other]), abs=6.0)


def test_distances_of_crosses_of_boxes_within_boxes_and_of_far_ones() -> None:
    long, tall = [(-20, -1), (20, -1), (20, 1), (-20, 1)], [(-1, -20), (1, -20), (1, 20), (-1, 20)]
    rings = Footprints.of([long, tall, square(0, 0, 5), square(180, 5, 100), square(0, 30, 100)])
    assert apart_km(rings.ring(0), rings.ring(1)) == 0  # no corner of one lies in the other
    assert apart_km(rings.ring(0), rings.ring(2)) == apart_km(rings.ring(2), rings.ring(0)) == 0
    degree = RADIUS * np.pi / 180
    assert apart_km(rings.ring(2), rings.ring(3)) == pytest.approx(175 * degree, rel=0.01)
    south = SPHERE.inv(0, 20, *square(0, 30, 100)[2])[2] / 1e3  # a corner due south of it
    assert apart_km(rings.ring(1), rings.ring(4)) == pytest.approx(south, rel=1e-3)


def assigned(rule: SplitRule, number: int, seed: int) -> tuple[Extents, Any, list[Floats]]:
    """Samples close to one another, over a part of a disk and some days, split by a rule."""
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(-110, -40, number), np.degrees(np.arcsin(rng.uniform(-0.6, 0.6, number)))
    rings = [square(a, b, HALF) for a, b in zip(lon, lat, strict=True)]
    start = START + (rng.uniform(0, 12 * 24, number) * 3.6e9).astype("m8[us]")
    extents = Extents.of(rings, start, start + np.timedelta64(140, "m"))
    return extents, rule.assign(extents), rings


RULES = [
    SplitRule(),
    SplitRule(block_km=1500, block_hours=None, gap_km=64),
    SplitRule(block_km=None, block_hours=30, gap_hours=6, shares={"train": 0.5, "val": 0.5}),
    SplitRule(block_km=2000, block_hours=72, gap_km=300, gap_hours=12, shares={"train": 0.5, "val": 0.5}, seed=4),
]


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_splits_does_not_leak(rule: SplitRule) -> None:
    extents, splits, _ = assigned(rule, 700, 1)
    assert {*splits.tolist()} >= {"train", "val"}
    assert leaks_between(extents, splits, rule.gap_km, rule.gap_hours) == {}
    # Nor do two stores that know nothing of one another.
    others, theirs, _ = assigned(rule, 700, 2)
    train, val = extents.take(splits == "train"), others.take(theirs == "val")
    assert find_leaks(train, val, rule.gap_km, rule.gap_hours) == []


def test_blocks_go_on_over_the_antimeridian() -> None:
    rule = SplitRule(block_km=1000, block_hours=None, gap_km=50, gap_hours=1, shares={"train": 0.5, "val": 0.5})
    rng = np.random.default_rng(6)
    rings = [square(a, b, 60) for a, b in zip(rng.uniform(172, 188, 250), rng.uniform(-60, 60, 250), strict=True)]
    extents = Extents.of(rings, [START] * 250, [START] * 250)
    splits = rule.assign(extents)
    assert {*splits.tolist()} == {"train", "val", GAP}
    assert leaks_between(extents, splits, 50, 1) == {}


@pytest.mark.parametrize("rule", RULES)
def test_blocks_are_as_large_as_they_can_be(rule: SplitRule) -> None:
    """A sample is left out only where its blocks' neighbours are: most are kept, in about the shares."""
    _, splits, _ = assigned(rule, 700, 1)
    assert (splits == GAP).mean() < 0.5
    kept = splits[splits != GAP]
    for name, share in rule.shares.items():
        assert (kept == name).mean() == pytest.approx(share, abs=0.35)


def test_injected_leaks_are_found_and_no_others() -> None:
    rule = SplitRule(gap_km=100, gap_hours=12)
    extents, splits, rings = assigned(rule, 300, 5)
    train, val = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "val")
    held_out = extents.take(val)
    middles = [ring.mean(axis=0).tolist() for ring in rings]
    hour = np.timedelta64(1, "h")

    def beside(sample: int, km: float, after: float) -> tuple[Floats, Any]:
        """A small sample so far east of another's middle and more, so long after its end."""
        lon, lat = middles[sample]
        east = SPHERE.fwd(lon, lat, 90, (HALF + km) * 1e3 * np.sqrt(2))
        return square(east[0], east[1], 1.0), extents.end[sample] + np.timedelta64(round(after * 3600), "s")

    planted: list[tuple[Floats, Any]] = []
    wanted = set()
    for i, sample in enumerate(val[:6].tolist()):
        for km, after in ((-60, 0.0), (-60, 11.9), (-60, 12.1), (400, 0.0)):
            ring, when = beside(sample, km, after)
            if brute_km(ring, rings[sample]) < 99 and after < 12:
                wanted.add((len(train) + len(planted), i))
            planted.append((ring, when))
    assert len(wanted) == 12
    mine = Extents.of([rings[i] for i in train], extents.start[train], extents.end[train])
    theirs = Extents.of([ring for ring, _ in planted], [w for _, w in planted], [w + 0 * hour for _, w in planted])
    found = {(k.one, k.other) for k in find_leaks(Extents.join([mine, theirs]), held_out, 100, 12)}
    others = {
        (len(train) + p, i)
        for p, (ring, when) in enumerate(planted)
        for i, sample in enumerate(val.tolist())
        if (len(train) + p, i) not in wanted
        and max(when - extents.end[sample], extents.start[sample] - when) < 12 * hour
        and brute_km(ring, rings[sample]) < 100
    }
    assert found == wanted | others


def test_no_system_is_on_both_sides_and_what_was_drawn_first_decides() -> None:
    rule = SplitRule(block_km=1000, block_hours=None, gap_km=10, gap_hours=1)
    lon = np.arange(-120, -30, 3.0)
    rings = [square(x, 5, 20) for x in lon]
    start = START + np.arange(len(lon)) * np.timedelta64(4, "h")
    alone = rule.assign(Extents.of(rings, start, start))
    drifting = Extents.of(rings, start, start, [7] * len(lon))
    assert leaks_between(drifting, alone, 10, 1)  # far apart in space and time, and one system
    together = rule.assign(drifting)
    first = next(name for name in alone if name != GAP)
    assert {*together.tolist()} == {first, GAP}
    assert leaks_between(drifting, together, 10, 1) == {}
    # What is added later changes nothing, even where a part has its split already.
    some = rule.assign(drifting.take(np.arange(10)))
    assert (together[:10] == some).all()
    kept = rule.assign(drifting, dict(enumerate(some.tolist())))
    assert (kept == together).all()
    # A number that returns after weeks is another system.
    weeks = start + np.arange(len(lon)) * np.timedelta64(30, "D")
    later = Extents.of(rings, weeks, weeks, [7] * len(lon))
    assert (rule.assign(later) == alone).all()


def test_systems_are_named_alike_whatever_their_type() -> None:
    rings, when = [square(0, 0, 10)] * 4, [START] * 4
    extents = Extents.of(rings, when, when, [12, 12.0, None, float("nan")])
    assert extents.systems.tolist() == ["12", "12", "", ""]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"block_km": 50.0, "gap_km": 64.0}, "`block_km` is 50, and the gap 64; give blocks larger than the gap"),
        ({"gap_hours": -1.0}, "`gap_hours` is -1.0; give 0 or more"),
        ({"shares": {"train": 0.8, "val": 0.1}}, "the shares of the splits are train 0.8, val 0.1; give some that"),
        ({"shares": {"gap": 1.0}}, "the shares of the splits are gap 1; give some that make 1, of other than gap"),
        ({"block_km": None, "block_hours": None}, "a split needs blocks of the Earth or of time"),
    ],
)
def test_rules_that_are_none_are_refused_in_a_sentence(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        SplitRule(**change)
    assert told in str(refusal.value)


def test_samples_that_are_none_are_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"footprint of sample 1 is .*; give three or more corners"):
        Footprints.of([square(0, 0, 10), [(0, 0), (1, np.nan), (1, 1)]])
    with pytest.raises(UsageError, match="reaches 50 degrees from its middle, more than 40; cut it into parts"):
        Footprints.of([square(0, 0, 5560 / np.sqrt(2))])
    with pytest.raises(UsageError, match="sample 0 lasts from NaT to NaT; give its first and last moment"):
        Extents.of([square(0, 0, 10)], ["NaT"], ["NaT"])
    with pytest.raises(UsageError, match="1 footprints, 2 starts, 2 ends and 2 systems do not go together"):
        Extents.of([square(0, 0, 10)], [START] * 2, [START] * 2)


def test_advice_that_changes_one_setting_names_it_alone() -> None:
    rule = SplitRule(block_km=None, block_hours=4000.0, gap_km=0.0, gap_hours=0.0, shares={"train": 0.5, "val": 0.5})
    start = START + np.arange(8) * np.timedelta64(24, "h")
    extents = Extents.of([square(0.0, 0.0, HALF)] * 8, start, start)
    assert set(rule.assign(extents)) in ({"train"}, {"val"})
    said = remedy(rule, lambda: extents, "split_")
    assert re.match(r"with `split_hours` [\d.]+ they would be train [1-9], val [1-9], gap 0$", said), said
