"""Trying again: which faults, how often, how long between, and what is said of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from stratacube.errors import SourceError
from stratacube.retry import BusyError, backoff, call_again, retry_after


def failing(*faults: BaseException) -> Callable[[], str]:
    """Raise one fault a call, then succeed."""
    left = list(faults)

    def function() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return function


class Rests(list[float]):
    """Pauses that would have been made."""

    def __call__(self, fault: BaseException, seconds: float) -> None:
        self.append(seconds)


def test_pauses_double_up_to_the_longest() -> None:
    rests = Rests()
    faults = [BusyError("no")] * 6
    assert call_again(failing(*faults), tries=7, pause=0.5, longest=5.0, rest=rests) == "done"
    assert rests == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [backoff(i, 0.5, 5.0) for i in range(6)] == rests


def test_the_last_fault_comes_out_as_it_was() -> None:
    last = SourceError("b")
    rests = Rests()
    with pytest.raises(SourceError, match=r"^b$") as caught:
        call_again(failing(SourceError("a"), last), tries=2, pause=1, again=SourceError, rest=rests)
    assert caught.value is last
    assert rests == [1.0]


def test_only_what_may_pass_is_tried_again() -> None:
    rests = Rests()
    with pytest.raises(KeyError):
        call_again(failing(OSError(), KeyError()), tries=5, pause=1, again=(OSError, ValueError), rest=rests)
    with pytest.raises(OSError, match="lasting"):
        call_again(
            failing(OSError("passing"), OSError("lasting")),
            tries=5,
            pause=1,
            again=lambda fault: str(fault) == "passing",
            rest=rests,
        )
    with pytest.raises(KeyboardInterrupt):
        call_again(failing(KeyboardInterrupt()), tries=5, pause=1, again=Exception, rest=rests)
    assert rests == [1.0, 1.0]


def test_what_a_server_asks_for_goes_before_the_pause_and_may_be_longer() -> None:
    rests = Rests()
    faults = BusyError("a", 90.0), BusyError("b"), BusyError("c", 0.0)
    assert call_again(failing(*faults), tries=4, pause=1, longest=10, rest=rests) == "done"
    assert rests == [90.0, 2.0, 0.0]


def test_progress_makes_attempts_and_pauses_count_anew() -> None:
    rests, won = Rests(), iter([False, False, True, False, False, False])
    fault = BusyError("no")
    with pytest.raises(BusyError):
        call_again(failing(*[BusyError("no")] * 5, fault), tries=3, pause=1, progress=lambda: next(won), rest=rests)
    assert rests == [1.0, 2.0, 1.0, 1.0, 2.0]
    assert fault.attempts == 3


def test_each_wait_is_told_in_one_line_without_a_library_s_words(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    faults = BusyError("was busy (503)"), OSError("https://host/x?secret=1")
    call_again(
        failing(*faults), tries=4, pause=0.25, again=Exception, rest=Rests(), name="https://host/x", tell=lines.append
    )
    assert lines == [
        "https://host/x failed (was busy (503)); attempt 2 of 4 in 0.25 s",
        "https://host/x failed (OSError); attempt 3 of 4 in 0.5 s",
    ]
    with caplog.at_level(logging.INFO, logger="stratacube.retry"):
        call_again(failing(faults[0]), tries=2, pause=0.25, rest=Rests())
    assert [r.getMessage() for r in caplog.records] == ["a request failed (was busy (503)); attempt 2 of 2 in 0.25 s"]


def test_it_sleeps_by_default_and_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert call_again(failing(BusyError("no")), tries=2, pause=0.05) == "done"
    assert time.monotonic() - start >= 0.05
    assert capfd.readouterr() == ("", "")


def test_one_attempt_is_made_whatever_is_asked() -> None:
    assert call_again(failing(), tries=0, pause=1) == "done"


def test_retry_after_is_a_number_or_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"Retry-After": "-7"}) == 0.0
    assert 25 < (retry_after({"Retry-After": format_datetime(soon, usegmt=True)}) or 0) <= 30
    assert retry_after({"Retry-After": format_datetime(soon - timedelta(hours=1))}) == 0.0
    assert retry_after({"Retry-After": "soon"}) is None
