"""Several strata in one draw: turns by shares, quotas of classes, and chances that are what they are said to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from cube.config import AbiConfig
from cube.strata.base import Candidate
from cube.strata.select import Limits, Placed, Selection, select
from cube.strata.streams import Stream
from cube.strata.turns import counts_of
from stratacube.errors import UsageError

NOON = datetime(2020, 3, 20, 17, 0)


def placed(found: Candidate, *_: Any) -> Placed[int]:
    content = found.details["place"]
    return Placed(found, found.time, found.latitude, found.longitude, 10.0, 0, None, content)


class Population:
    """Places of some classes, drawn without repetition, each with the same chance."""

    def __init__(self, name: str, classes: Mapping[str, int], seed: int = 0, first: int = 0) -> None:
        self.name, self.seed = name, seed
        self.members = [kind for kind, number in classes.items() for _ in range(number)]
        self.first = first
        self.classes = classes

    def candidates(self, wanted: int) -> Iterator[Candidate]:
        order = np.random.default_rng([self.seed, len(self.members)]).permutation(len(self.members))
        for i in order.tolist():
            yield Candidate(
                NOON + timedelta(minutes=i),
                float(i % 80),
                float(i % 170),
                self.name,
                1.0,
                min(1.0, wanted / len(self.members)),
                details={"place": self.first + i, "class_name": self.members[i]},
            )

    def stream(self, share: float, wanted: int, quotas: Mapping[str, float] | None = None) -> Stream:
        return Stream(
            self.name,
            lambda: self.candidates(wanted),
            share,
            quotas=lambda: quotas or {},
            proposed=lambda: self.classes,
        )


def draw(seed: int, number: int) -> Selection[int]:
    """A draw of three strata, one of them with quotas."""
    counts = counts_of({0: 0.2, 1: 0.5, 2: 0.3}, number)
    streams = [
        Population("a", {"": 300}, seed).stream(0.2, counts[0]),
        Population("b", {"x": 300, "y": 80, "z": 20}, seed, 1000).stream(0.5, counts[1], {"x": 1, "y": 2}),
        Population("c", {"": 200}, seed, 2000).stream(0.3, counts[2]),
    ]
    return select(streams, placed, Limits(num_tiles=number))


@pytest.mark.parametrize("number", [1, 7, 40, 119])
def test_the_draw_of_few_is_the_first_of_the_draw_of_many(number: int) -> None:
    few, many = draw(3, number), draw(3, 120)
    assert [t.content for t in few.tiles] == [t.content for t in many.tiles][:number]


@pytest.mark.parametrize("number", [1, 5, 17, 100])
def test_strata_and_classes_have_their_shares_of_any_number(number: int) -> None:
    tiles = draw(1, number).tiles
    strata = Counter(t.candidate.stratum for t in tiles)
    for name, share in {"a": 0.2, "b": 0.5, "c": 0.3}.items():
        assert abs(strata[name] - share * number) < 1
    classes = Counter(t.candidate.details["class_name"] for t in tiles if t.candidate.stratum == "b")
    assert classes["z"] == 0
    assert abs(classes["y"] - 2 / 3 * strata["b"]) < 1


@cache
def hundred_draws() -> list[Candidate]:
    return [tile.candidate for seed in range(100) for tile in draw(seed, 120).tiles]


def drawn_against_declared(said: float = 1.0) -> tuple[float, float]:
    """Chi-square of how often groups of places are drawn over 100 seeds; one group's chance may be said wrong."""
    seen, expected = Counter[Any](), Counter[Any]()
    for drawn in hundred_draws():
        place, kind, chance = drawn.details["place"], drawn.details["class_name"], drawn.probability
        group = place // 1000, kind, place % 2
        seen[group] += 1
        members = {(0, ""): 150, (1, "x"): 150, (1, "y"): 40, (2, ""): 100}[group[:2]]
        expected[group] = chance * members * (said if kind == "y" else 1)
    statistic = sum((seen[g] - 100 * expected[g]) ** 2 / (100 * expected[g]) for g in seen)
    return float(statistic), float(chi2.sf(statistic, len(seen)))


def test_frequencies_are_the_chances_that_are_declared() -> None:
    statistic, p = drawn_against_declared()
    assert p > 0.001, statistic


def test_a_chance_that_is_a_tenth_off_is_noticed() -> None:
    _, p = drawn_against_declared(1.1)
    assert p < 0.001
    _, p = drawn_against_declared(0.9)
    assert p < 0.001


def test_a_stratum_that_runs_out_leaves_its_turns_empty_and_says_so() -> None:
    streams = [Population("a", {"": 5}).stream(0.5, 20), Population("b", {"": 100}, 0, 1000).stream(0.5, 20)]
    selection = select(streams, placed, Limits(num_tiles=40))
    assert len(selection.tiles) == 25
    assert [(t.stratum, t.asked, t.found) for t in selection.tallies] == [("a", 20, 5), ("b", 20, 20)]


def test_a_class_that_is_not_there_leaves_its_turns_empty_and_says_so() -> None:
    stream = Population("b", {"x": 50, "y": 50}).stream(1.0, 20, {"x": 1, "snow": 1})
    selection = select([stream], placed, Limits(num_tiles=20))
    assert [(t.category, t.asked, t.found) for t in selection.tallies] == [("x", 10, 10), ("snow", 10, 0)]


def test_no_pixels_are_taken_twice_by_two_strata() -> None:
    streams = [Population("a", {"": 60}).stream(1, 50), Population("b", {"": 60}, 9).stream(1, 50)]
    selection = select(streams, placed, Limits(num_tiles=100))
    assert len({t.content for t in selection.tiles}) == len(selection.tiles) == 60
    assert selection.refused["taken already"] == 60


def test_whole_tiles_come_first_in_every_stratum() -> None:
    def place(found: Candidate, _: Stream, strict: bool) -> Placed[int] | str:
        return "channels missing" if strict and found.details["place"] % 1000 >= 10 else placed(found)

    streams = [
        Stream(name, partial(Population(name, {"": 30}, 0, first).candidates, 20), strict=True)
        for name, first in (("a", 0), ("b", 1000))
    ]
    selection = select(streams, place, Limits(num_tiles=40))
    contents = [t.content for t in selection.tiles]
    assert all(c % 1000 < 10 for c in contents[:20])
    assert len({*contents}) == 40
    assert not selection.refused
    assert contents[:13] == [t.content for t in select(streams, place, Limits(num_tiles=13)).tiles]


def test_limits_of_light_surface_and_band() -> None:
    def one(**limits: Any) -> Counter[str]:
        wanted = [Candidate(NOON, 5.0, -75.0, "a", 1, 1, details={"place": 1})]
        return select([Stream("a", lambda: iter(wanted))], placed, Limits(**limits)).refused

    assert one(min_solar_zenith=90) == {"solar zenith": 1}
    assert one(max_solar_zenith=90, latitudes=(0, 10)) == {}
    assert one(surface=lambda lon, lat: "not land" if (lon, lat) == (-75, 5) else None) == {"not land": 1}
    with pytest.raises(UsageError, match="lower than 90 and higher than 80 degrees"):
        one(min_solar_zenith=90, max_solar_zenith=80)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strata": "random=0.2,convection"}, "give names and values such as convection=0.2"),
        ({"strata": {"random": 1}, "stratification": "random"}, "`strata` (random) goes with `stratification=mixed`"),
        ({"stratification": "mixed"}, "`stratification=mixed` needs `strata`"),
        ({"strata": {"random": 1, "snow": 1}, "num_tiles": 3}, "stratum 'snow' is unknown"),
        ({"strata": {"random": 1, "landcover": 1}, "landcover": "x"}, "give `num_tiles`"),
        ({"strata": {"random": 1, "landcover": 0}, "num_tiles": 3}, "`strata` of landcover is 0: give more than 0"),
        ({"strata": "random=1 events=x", "num_tiles": 3}, "`strata` of events is 'x': give a number"),
        ({"quotas": {"convection.x": 1}}, "`quotas` names 'convection.x': give stratum.class of one of random"),
        ({"latitudes": [10, -10]}, "`latitudes` is 10 -10: give two, the southern one first"),
        ({"surface": "land"}, "`surface=land` needs `landcover`, a raster of classes that tells land from sea"),
        ({"landcover": "x"}, "`landcover` goes with `stratification=landcover`, not with random"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        AbiConfig.check({"output_dir": "out", **settings})
    assert told in str(refusal.value)


def test_digests_are_those_of_before_where_nothing_of_it_is_asked() -> None:
    plain = AbiConfig.check({"output_dir": "out", "splits": "off"}).described()
    new = {"strata", "quotas", "latitudes", "light", "margin", "surface", "plan", "min_solar_zenith"}
    new |= {"min_spacing_minutes"}
    assert not new & plain.keys()
    mixed = AbiConfig.check(
        {"output_dir": "out", "strata": ["random=1", "landcover=3"], "landcover": "x", "num_tiles": 4}
    )
    assert mixed.stratification == "mixed"
    assert mixed.described()["strata"] == {"random": 1.0, "landcover": 3.0}
    assert "landcover" in mixed.described()
