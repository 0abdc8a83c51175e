"""Time windows: the score's order, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest

from catalog.geostationary.scans import Scan
from cube.strata.windows import Frame, choose_window
from cube.windowing import WindowSettings
from stratacube.errors import UsageError

choose = partial(choose_window, bands=16)

EVENT = datetime(2020, 6, 1, 12, 0)


def candidate_times(event: datetime, steps: int = 7, **settings: Any) -> list[datetime]:
    """Times of the steps that a build with these settings looks at."""
    about = WindowSettings.check({"steps": steps, **settings}).minutes_about
    return [event + timedelta(minutes=minutes) for minutes in about]


TIMES = candidate_times(EVENT)


def scan_at(time: datetime) -> Scan:
    return Scan("goes16", "ABI-L1b-RadF", "F", 6, time, time + timedelta(minutes=9), {})


def frames(
    *,
    without: Sequence[int] = (),
    repeated: Sequence[int] = (),
    missing: dict[int, int] | None = None,
    valid: dict[int, float] | None = None,
    zenith: Sequence[float] | None = None,
) -> list[Frame]:
    made = []
    for i, time in enumerate(TIMES):
        scan = None if i in without else scan_at(TIMES[i - 1] if i in repeated else time)
        gone = 16 if scan is None else (missing or {}).get(i, 0)
        fraction = None if valid is None else valid.get(i)
        made.append(Frame(time, scan, gone, fraction, None if zenith is None else zenith[i]))
    return made


def of(pixels: Sequence[int]) -> dict[datetime, int]:
    """Pixels of a system at all candidate times."""
    return dict(zip(TIMES, pixels, strict=True))


def test_candidate_times_are_those_of_the_predecessor() -> None:
    assert [EVENT + timedelta(minutes=20 * i) for i in range(-7, 7)] == TIMES
    assert TIMES[7] == EVENT
    assert candidate_times(EVENT, 1) == [EVENT]
    assert candidate_times(EVENT, 2, step_minutes=5) == [EVENT + timedelta(minutes=5 * i) for i in (-2, -1, 0, 1)]


@pytest.mark.parametrize(
    ("settings", "minutes"),
    [
        ({"candidates": 7}, [-60, -40, -20, 0, 20, 40, 60]),
        ({"candidates": 9}, [-80, -60, -40, -20, 0, 20, 40, 60, 80]),
        ({"event_index": 0}, [0, 20, 40, 60, 80, 100, 120]),
        ({"event_index": 6, "step_minutes": 10}, [-60, -50, -40, -30, -20, -10, 0]),
        ({"offsets": [-40, -20, 0, 20, 40], "steps": 5}, [-40, -20, 0, 20, 40]),
        ({"offsets": [-180, 0, 5], "steps": 3}, [-180, 0, 5]),
    ],
)
def test_steps_are_searched_for_or_fixed(settings: dict[str, Any], minutes: list[int]) -> None:
    assert list(WindowSettings.check(settings).minutes_about) == minutes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"candidates": 5}, "`candidates` is 5, fewer than the 7 of `steps`"),
        ({"offsets": [0, 20]}, "`offsets` are 2 and `steps` 7; leave `steps` out"),
        ({"offsets": [20, 0], "steps": 2}, "`offsets` 20 0 are not ascending minutes"),
        ({"event_index": 7}, "`event_index` is 7, and steps are 0 to 6"),
        ({"event_index": 3, "candidates": 9}, "`candidates` and `event_index` both say where the steps lie"),
    ],
)
def test_steps_that_do_not_go_together_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        WindowSettings.check(settings)


def test_the_window_is_that_of_an_exhaustive_search() -> None:
    """The parts of the score compared one after the other, window by window, over made-up archives."""
    rng = np.random.default_rng(5)
    for case in range(300):
        steps, number = 4, 11
        times = [EVENT + timedelta(minutes=20 * i) for i in range(-5, 6)]
        # Each part of the score is to decide in some cases: in two of three all before it are equal.
        lost = (rng.random(number) < 0.2) & (case % 3 == 0)
        lacks = rng.integers(0, 2, number) * 3 * (case % 3 == 0)
        valid = np.round(rng.random(number), 2) if case % 6 == 0 else np.ones(number)
        made = [
            Frame(t, None if lost[i] else scan_at(t), 16 if lost[i] else int(lacks[i]), float(valid[i]))
            for i, t in enumerate(times)
        ]
        own = {EVENT + timedelta(minutes=30 * i): int(rng.integers(0, 3)) for i in range(-4, 5)}

        def parts(start: int) -> tuple[float, ...]:
            chosen = range(start, start + steps)  # noqa: B023
            inside = [(t, n) for t, n in own.items() if times[start] <= t <= times[start + steps - 1]]  # noqa: B023
            minutes = np.array([(t - EVENT) / timedelta(minutes=1) for t, _ in inside])
            pixels = np.array([n for _, n in inside], "f8")
            return (
                sum(not lost[i] and not lacks[i] for i in chosen),  # noqa: B023
                -sum(16 if lost[i] else lacks[i] for i in chosen),  # noqa: B023
                round(1000 * sum(float(valid[i]) for i in chosen) / steps),  # noqa: B023
                round(1000 * (pixels > 0).sum() / len(pixels)),
                float(((minutes - minutes.mean()) * pixels).sum() > 1e-6),
                -abs(5 - start - 1.5),
                -start,
            )

        best = max(range(number - steps + 1), key=parts)
        assert choose_window(made, steps, bands=16, event_index=5, system_pixels=own).start == best


def test_the_event_comes_to_the_centre_where_all_else_is_equal() -> None:
    choice = choose(frames(), 7)
    assert choice.start == 4
    assert len(choice.scores) == 8
    assert max(choice.scores) == choice.scores[4]


def test_of_two_equally_centred_windows_the_earlier_is_taken() -> None:
    six = [Frame(t, scan_at(t), 0) for t in candidate_times(EVENT, 6)]
    assert choose(six, 6).start == 3  # event at 2.5 steps +- 0.5 with starts 3 and 4


@pytest.mark.parametrize(("gap", "start"), [(9, 2), (10, 3), (5, 6), (4, 5), (13, 4)])
def test_complete_windows_come_first(gap: int, start: int) -> None:
    assert choose(frames(without=[gap]), 7).start == start
    assert choose(frames(missing={gap: 1}), 7).start == start


def test_a_scan_used_twice_is_no_complete_frame() -> None:
    # A window suffers only if it holds both frames of the scan.
    assert choose(frames(repeated=[9]), 7).start == 2
    assert choose(frames(repeated=[5]), 7).start == 5


def test_fewer_missing_bands_decide_between_incomplete_windows() -> None:
    every = dict.fromkeys(range(14), 2) | {0: 1}
    assert choose(frames(missing=every), 7).start == 0


def test_valid_pixels_come_before_the_system_and_are_neutral_when_unknown() -> None:
    valid = dict.fromkeys(range(14), 0.9) | {7: 0.5}
    pixels = [0] * 7 + [5] * 7
    assert choose(frames(valid=valid), 7, system_pixels=of(pixels)).start == 0
    assert choose(frames(valid=dict.fromkeys(range(3), 0.9)), 7, system_pixels=of(pixels)).start == 7
    almost = dict.fromkeys(range(14), 0.9) | {7: 0.899}
    assert choose(frames(valid=almost), 7).start == 4


def test_presence_comes_before_growth_and_growth_before_the_centre() -> None:
    present = [0, 0, 0, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 0]
    assert choose(frames(), 7, system_pixels=of(present)).start == 6
    rising_then_falling = [1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1]
    assert choose(frames(), 7, system_pixels=of(rising_then_falling)).start == 3


def test_daylight_counts_only_if_asked() -> None:
    dusk = [70.0] * 8 + [95.0] * 6
    assert choose(frames(zenith=dusk), 7).start == 4
    assert choose(frames(zenith=dusk), 7, max_daylight_zenith=85).start == 1


def test_scores_order_windows_and_are_shares_of_the_best() -> None:
    best = choose(frames(), 7, system_pixels=of(range(1, 15)))
    assert all(0 <= s <= 1 for s in best.scores)
    assert len(set(best.scores)) == 8
    worse = choose(frames(without=[7]), 7, system_pixels=of(range(1, 15)))
    assert max(worse.scores[1:]) < min(best.scores)


def test_single_frame_and_too_few_frames() -> None:
    one = [Frame(EVENT, scan_at(EVENT), 0)]
    assert choose(one, 1).start == 0
    with pytest.raises(UsageError, match="7 steps cannot be chosen among 1"):
        choose(one, 7)
