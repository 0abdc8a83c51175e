"""Trying again what may pass at the next attempt: one helper, on tenacity, for every request and every file.

Pauses double from the first, up to a longest one; where a server says how long it wants to be left alone
(``Retry-After``), that counts instead. What is worth another attempt is the caller's to say: it alone can tell a
server that is busy from one that refuses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity

from stratacube.errors import StratacubeError

__all__ = ["BusyError", "backoff", "call_again", "retry_after"]

T = TypeVar("T")
Worth = type[Exception] | tuple[type[Exception], ...] | Callable[[BaseException], bool]

_log = logging.getLogger(__name__)


class BusyError(Exception):
    """One attempt failed; another one may not. It never leaves the code that tries again.

    Parameters
    ----------
    reason
        In words; it must hold no secret.
    wait
        Seconds that the server asks for; None if it does not.
    everyone
        Whether the server means all requests, not this one alone.
    """

    def __init__(self, reason: str, wait: float | None = None, *, everyone: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.everyone = reason, wait, everyone
        self.attempts = 1
        """How many have failed in a row, this one with them."""


def call_again(
    function: Callable[[], T],
    *,
    tries: int,
    pause: float,
    longest: float = 60.0,
    again: Worth = BusyError,
    progress: Callable[[], bool] | None = None,
    rest: Callable[[BaseException, float], None] | None = None,
    name: str = "a request",
    tell: Callable[[str], None] = _log.info,
) -> T:
    """Call a function until it succeeds, or fails in a way, or so often, that another attempt is not worth it.

    Parameters
    ----------
    function
        What is tried. A :class:`BusyError` of it may say how long to wait.
    tries
        Attempts in all.
    pause
        Seconds before the second attempt; doubles with each.
    longest
        Seconds that a pause grows to; what a server asks for may be longer.
    again
        Faults that another attempt may mend: their classes, or what tells them from others.
    progress
        Asked after each fault: where something was won, attempts and pauses count anew from there.
    rest
        Waits; given the fault and the seconds. Sleeps by default.
    name
        What is tried, for the log; it must hold no secret.
    tell
        Given one line a wait.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    Exception
        The last fault, as it was.
    """
    worth = (lambda error: isinstance(error, again)) if isinstance(again, type | tuple) else again
    attempts = _Attempts(max(1, tries), pause, longest, worth, progress, rest, name, tell)
    retrying = tenacity.Retrying(
        retry=attempts.are_worth_another,
        wait=attempts.wait,
        stop=attempts.are_over,
        before_sleep=attempts.rest,  # the fault, which says how to wait, is forgotten where tenacity itself would sleep
        sleep=lambda _: None,
        reraise=True,
    )
    return retrying(function)


@dataclass
class _Attempts:
    """Attempts at one thing."""

    tries: int
    pause: float
    longest: float
    worth: Callable[[BaseException], bool]
    progress: Callable[[], bool] | None
    waiter: Callable[[BaseException, float], None] | None
    name: str
    tell: Callable[[str], None]
    before: int = 0
    """Attempts that no longer count: something was won since."""

    def are_worth_another(self, state: tenacity.RetryCallState) -> bool:
        fault = _fault(state)
        if fault is None:
            return False
        if self.progress is not None and self.progress():
            self.before = state.attempt_number
        if isinstance(fault, BusyError):
            fault.attempts = max(1, self._count(state))
        return self.worth(fault)

    def are_over(self, state: tenacity.RetryCallState) -> bool:
        return self._count(state) >= self.tries

    def wait(self, state: tenacity.RetryCallState) -> float:
        asked = getattr(_fault(state), "wait", None)
        return backoff(max(0, self._count(state) - 1), self.pause, self.longest) if asked is None else float(asked)

    def rest(self, state: tenacity.RetryCallState) -> None:
        fault, seconds = _fault(state), state.upcoming_sleep
        assert fault is not None
        # Only our own errors are shown in words: those of libraries carry addresses, and with them signatures.
        reason = str(fault) if isinstance(fault, BusyError | StratacubeError) else type(fault).__name__
        again = f"attempt {self._count(state) + 1} of {self.tries} in {seconds:.3g} s"
        self.tell(f"{self.name} failed ({reason}); {again}")
        if self.waiter is None:
            time.sleep(seconds)
        else:
            self.waiter(fault, seconds)

    def _count(self, state: tenacity.RetryCallState) -> int:
        return state.attempt_number - self.before


def _fault(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def backoff(attempt: int, pause: float, longest: float = 60.0) -> float:
    """Seconds to wait after an attempt, the first being number 0."""
    return float(min(pause * 2**attempt, longest))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, as a number or a date; None where there is none.

    Source: RFC 9110, section 10.2.3.
    """
    text = headers.get("Retry-After")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (then - datetime.now(UTC if then.tzinfo else None)).total_seconds())
