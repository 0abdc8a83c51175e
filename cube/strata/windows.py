"""Time windows: which consecutive steps around an event make the sample.

The score of a window is lexicographic; each part decides only where all parts before it are equal:

1. complete frames: a scan within tolerance, no requested band missing, and no scan used a second time;
2. fewest missing bands over all frames;
3. mean valid fraction of the frames, to a thousandth (frames of unknown fraction do not count);
4. share of the mask's own steps within the window at which the cloud system is present, to a thousandth;
5. whether the system grows: a positive least-squares slope of its pixel counts at those steps, 0 where it is absent;
6. daylight frames, if asked;
7. event nearest the window's centre;
8. earliest window.

Parts 4 and 5 hold for convection only, that is where system pixels are given. Masks have a step of their own, which
need not be that of the window: between two of their steps nothing is known of a system, so only they count. A window
that holds none of them has the share of all steps around the event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from catalog.geostationary.scans import Scan
from stratacube.errors import UsageError

__all__ = ["Frame", "WindowChoice", "choose_window"]


_SLACK = timedelta(minutes=1)
"""Starts of scans, which masks tell as their times, are some seconds off the full minute."""
_FLAT = 1e-6
"""Pixel-minutes above which a sum is no rounding error."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is known of one candidate time step before any pixel is read."""

    time: datetime
    """Requested, naive UTC."""
    scan: Scan | None
    """The nearest scan within tolerance, if any."""
    missing: int
    """Requested channels that the scan lacks; all of them where there is no scan."""
    valid_fraction: float | None = None
    """Share of usable pixels in [0, 1], where known."""
    solar_zenith: float | None = None
    """Degrees at the tile's centre when it was seen, where daylight is asked for."""


class WindowChoice(NamedTuple):
    """The best window, and the scores of all."""

    start: int
    """Index of its first frame among the candidates."""
    scores: list[float]
    """By window start, in [0, 1]: 1 would be best in every part. The chosen window has the highest."""


def choose_window(
    frames: Sequence[Frame],
    steps: int,
    *,
    bands: int,
    event_index: int | None = None,
    max_daylight_zenith: float | None = None,
    system_pixels: Mapping[datetime, int] | None = None,
) -> WindowChoice:
    """Choose the best run of consecutive frames by the score of this module.

    Parameters
    ----------
    frames : sequence of Frame
        All candidate steps, in time order.
    steps : int
        Length of a window.
    bands : int
        Most that a frame can lack: those of the instrument.
    event_index : int, optional
        Index of the event's frame; ``steps`` if not given, for twice as many lie about it (0 for one frame).
    max_daylight_zenith : float, optional
        A frame is daylight where the Sun's zenith is at most this many degrees; daylight does not count if
        None.
    system_pixels : mapping, optional
        Pixels of the cloud system at the mask's own steps, 0 where it is absent; where nothing is known, no step.

    Returns
    -------
    WindowChoice
        Start and scores. The parts are the digits of one number, so scores compare between tiles of a
        stratum.

    Raises
    ------
    UsageError
        Fewer frames than steps.
    """
    if not 1 <= steps <= len(frames):
        raise UsageError(f"A window of {steps} steps cannot be chosen among {len(frames)} frames.")
    if event_index is None:
        event_index = 0 if len(frames) == 1 else steps
    last = len(frames) - steps
    known = [f.valid_fraction for f in frames if f.valid_fraction is not None]
    usual = sum(known) / len(known) if known else 1.0
    most_missing = bands * steps
    numbers: list[int] = []
    top = 1
    for start in range(last + 1):
        window = frames[start : start + steps]
        off_centre = abs(2 * (event_index - start) - (steps - 1))
        digits = [
            (_complete_frames(window), steps),
            (most_missing - sum(f.missing for f in window), most_missing),
            (round(1000 * _mean_valid(window, usual)), 1000),
            *_system_digits(window, frames, system_pixels),
            *_daylight_digits(window, max_daylight_zenith),
            (2 * len(frames) - off_centre, 2 * len(frames)),
            (last - start, last),
        ]
        number, top = 0, 1
        for digit, largest in digits:
            number = number * (largest + 1) + digit
            top *= largest + 1
        numbers.append(number)
    best = max(range(last + 1), key=lambda start: numbers[start])
    return WindowChoice(best, [number / (top - 1) for number in numbers])


def _complete_frames(window: Sequence[Frame]) -> int:
    seen: set[str] = set()
    complete = 0
    for frame in window:
        if frame.scan is None or frame.scan.id in seen:
            continue
        seen.add(frame.scan.id)
        complete += frame.missing == 0
    return complete


def _mean_valid(window: Sequence[Frame], usual: float) -> float:
    """Mean valid fraction of the frames where it is known, ``usual`` where it is for none."""
    known = [f.valid_fraction for f in window if f.valid_fraction is not None]
    return sum(known) / len(known) if known else usual


def _system_digits(
    window: Sequence[Frame], frames: Sequence[Frame], system: Mapping[datetime, int] | None
) -> list[tuple[int, int]]:
    own = _within(window, system or {})
    around = _within(frames, system or {})
    if not around:
        return []
    present = sum(n > 0 for n in (own or around).values()) / len(own or around)
    first = window[0].time
    minutes = [(time - first) / timedelta(minutes=1) for time in own]
    middle = sum(minutes) / len(minutes) if minutes else 0.0
    slope = sum((minute - middle) * n for minute, n in zip(minutes, own.values(), strict=True))
    return [(round(1000 * present), 1000), (int(slope > _FLAT), 1)]


def _within(frames: Sequence[Frame], system: Mapping[datetime, int]) -> dict[datetime, int]:
    """Those of the mask's steps that lie between the first and the last of some frames."""
    low, high = frames[0].time - _SLACK, frames[-1].time + _SLACK
    return {time: n for time, n in system.items() if low <= time <= high}


def _daylight_digits(window: Sequence[Frame], limit: float | None) -> list[tuple[int, int]]:
    if limit is None:
        return []
    daylight = sum(f.solar_zenith is not None and f.solar_zenith <= limit for f in window)
    return [(daylight, len(window))]
