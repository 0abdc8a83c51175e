"""HTTP as CDSE wants it: paced, patient where a server asks for it, and silent about secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from catalog.sentinel2.rate import Pace
from stratacube.addresses import plain_url
from stratacube.errors import SourceError
from stratacube.retry import BusyError, call_again, retry_after

__all__ = ["BUSY", "UNTRUSTED", "PacedAdapter", "explain", "http_session", "is_untrusted"]

UNTRUSTED = "has a certificate that is not trusted; set REQUESTS_CA_BUNDLE to those of who vouches for it"

BUSY = (429, 500, 502, 503, 504)
"""Answers that mean: later."""

LONGEST_WAIT = 600.0
"""Seconds that a run waits when a server asks it to; for more it stops."""


class _NoAuth(AuthBase):
    """Leaves requests as they are.

    Without an authentication of its own requests looks into ``~/.netrc``, whose entry would replace the header.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _BusyAnswer(BusyError):
    """An answer that means: later."""

    def __init__(self, response: requests.Response, wait: float | None) -> None:
        super().__init__(f"{response.status_code}", wait)
        self.response = response


class PacedAdapter(HTTPAdapter):
    """Sends requests at a pace, and again when the server was busy or the line broke.

    Parameters
    ----------
    pace
        When a request may start.
    tries
        Attempts at one request.
    pause
        Seconds before the second attempt; doubles with each.
    sleep
        Waits for some seconds.
    """

    def __init__(
        self, pace: Pace, *, tries: int = 5, pause: float = 1.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__()
        self.pace, self.tries, self.pause, self.sleep = pace, tries, pause, sleep

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, wait and repeat; the last answer or fault stands."""
        answer = super().send

        def attempt() -> requests.Response:
            self.pace.wait()
            response = answer(request, *args, **kwargs)
            wait = retry_after(response.headers)
            if response.status_code in BUSY and (wait or 0) <= LONGEST_WAIT:
                raise _BusyAnswer(response, wait)
            return response

        try:
            return call_again(
                attempt,
                tries=self.tries,
                pause=self.pause,
                again=(_BusyAnswer, requests.ConnectionError, requests.Timeout),
                rest=self._wait,
                name=plain_url(request.url or ""),
            )
        except _BusyAnswer as busy:
            return busy.response

    def _wait(self, fault: BaseException, seconds: float) -> None:
        """Wait alone, or with all requests where the server has said for how long."""
        if isinstance(fault, _BusyAnswer):
            fault.response.close()
        if getattr(fault, "wait", None) is None:
            self.sleep(seconds)
        else:
            self.pace.hold(seconds)


class _Session(requests.Session):
    """A session that brings no secret of its own: none from ``~/.netrc``, none to where a redirect leads."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _NoAuth()

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Take out what the first host was told; requests would look into ``~/.netrc`` for the next one."""
        prepared_request.headers.pop("Authorization", None)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Say where a redirect leads; requests looks there even if it is not to follow, and would fail as it parses."""
        target: str | None = super().get_redirect_target(resp)
        try:
            urlsplit(target or "")
        except ValueError as error:
            raise requests.exceptions.InvalidURL("a redirect leads to no address") from error
        return target


def http_session(adapter: HTTPAdapter | None = None) -> requests.Session:
    """Return a session that takes proxies from the environment but no credentials from ``~/.netrc``."""
    session = _Session()
    if adapter is not None:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session


def is_untrusted(error: BaseException) -> bool:
    """Whether a server was left because nobody vouches for its certificate: asking again does not help."""
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def explain(url: str, error: BaseException | None, status: int | None, detail: str, remedy: str) -> SourceError:
    """Say in one sentence why an address gave nothing.

    Parameters
    ----------
    url
        What was asked for.
    error
        The fault, where no answer came.
    status, detail
        The answer, where one came.
    remedy
        What to do.
    """
    where = plain_url(url)
    if isinstance(error, requests.Timeout):
        return SourceError(f"{where} did not answer in time; {remedy}")
    if error is not None:
        return SourceError(f"{where} cannot be reached ({type(error).__name__}); check the network, or {remedy}")
    if status in (401, 403):
        return SourceError(f"{where} refuses access ({status}); {remedy}")
    if status == 429:
        return SourceError(f"{where} still asks to slow down (429) after repeated waits; run again later")
    if status is not None and status >= 500:
        return SourceError(f"{where} is out of order ({status}); run again later, or {remedy}")
    shown = " ".join(detail.split())[:160]
    return SourceError(f"{where} answered {status}{f' ({shown})' if shown else ''}; {remedy}")
