"""Access tokens of the Copernicus Data Space: one login, then refreshes, one at a time for all threads.

An access token lives 10 minutes, its refresh token 60, and an account may have 100 sessions: so a run logs in once a
process and refreshes from then on. Nothing here shows a secret: what a server answers is repeated without them, and
faults of the connection, which carry the request along, are not passed on.

Source: https://documentation.dataspace.copernicus.eu/APIs/Token.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import requests

from catalog.sentinel2.destination import may_have_secrets, prepare, send
from catalog.sentinel2.settings import Account, read_account
from catalog.sentinel2.web import BUSY, UNTRUSTED, http_session, is_untrusted
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.retry import BusyError, call_again, retry_after

__all__ = ["CDSE_TOKEN", "TokenSource", "one_time_code"]

CDSE_TOKEN = "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token"
_CLIENT = "cdse-public"
_MARGIN = 60.0
"""Seconds before its end at which a token is renewed; half of its life if that is shorter."""

_LONGEST_WAIT = 60.0


class TokenSource:
    """Gives a valid access token to any thread.

    Parameters
    ----------
    account
        Called when the first login is due, not before.
    url
        The token endpoint.
    timeout
        Seconds to wait for an answer.
    tries, pause
        Attempts, and seconds before the second; doubles with each.
    """

    def __init__(
        self,
        account: Callable[[], Account] = read_account,
        url: str = CDSE_TOKEN,
        *,
        timeout: float = 30.0,
        tries: int = 4,
        pause: float = 1.0,
    ) -> None:
        self._read_account, self._url = account, url
        self._timeout, self._tries, self._pause = timeout, tries, pause
        self._session = http_session()
        self._lock = threading.Lock()
        self._account: Account | None = None
        self._access, self._access_end = "", 0.0
        self._refresh, self._refresh_end = "", 0.0
        self._failed: StratacubeError | None = None
        self._code_used = False
        self.lives: tuple[float, float] | None = None
        """Seconds that the last access token and its refresh token were given for."""

    def token(self, refused: str | None = None) -> str:
        """Return a valid token.

        Parameters
        ----------
        refused
            A token that a server did not take: another one is wanted. Of many threads that bring the same one, the
            first renews it and the others get what it got.

        Raises
        ------
        UsageError
            If there are no credentials, or they are wrong; said again, without asking again, from then on.
        SourceError
            If the identity server is out of reach.
        """
        with self._lock:
            if self._failed is not None:
                raise type(self._failed)(str(self._failed))
            if not self._access or self._access == refused or time.monotonic() >= self._access_end:
                try:
                    self._renew()
                except UsageError as error:  # asking again with the same wrong password would lock the account
                    self._failed = error
                    raise
            return self._access

    def _renew(self) -> None:
        if self._refresh and time.monotonic() < self._refresh_end:
            status, answer = self._ask({"grant_type": "refresh_token", "refresh_token": self._refresh})
            if status == requests.codes.ok:
                self._keep(answer)
                return
        self._log_in()

    def _log_in(self) -> None:
        account = self._account = self._account or self._read_account()
        fields = {"grant_type": "password", "username": account.username, "password": account.password}
        if account.totp:
            fields["totp"] = self._code(account.totp)
        status, answer = self._ask(fields)
        if status == requests.codes.ok:
            self._keep(answer)
            return
        what = self._clean(str(answer.get("error_description") or answer.get("error") or status))
        if status in (400, 401, 403):
            raise UsageError(
                f"the Copernicus Data Space refuses the login ({what}); check CDSE_USERNAME and CDSE_PASSWORD, and "
                "CDSE_TOTP if the account has a second factor"
            )
        raise SourceError(f"{plain_url(self._url)} answered {status} ({what}); run again later")

    def _code(self, totp: str) -> str:
        if not re.fullmatch(r"\d{6,8}", totp):
            return one_time_code(totp)
        if self._code_used:
            raise UsageError(
                "the session has ended and the one-time code in CDSE_TOTP works only once; run again with a new code, "
                "or set CDSE_TOTP to the secret that codes are made from"
            )
        self._code_used = True
        return totp

    def _ask(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Post to the endpoint; answers that mean later, and faults, are waited out."""
        try:
            return call_again(
                lambda: self._ask_once(fields),
                tries=self._tries,
                pause=self._pause,
                longest=_LONGEST_WAIT,
                name=plain_url(self._url),
            )
        except BusyError as busy:
            reason = busy.reason
        raise SourceError(f"{plain_url(self._url)} gives no token ({reason}); check the network and run again later")

    def _ask_once(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        request = prepare(self._session, self._url, data={"client_id": _CLIENT, **fields})
        if not may_have_secrets(request, lambda there: True):  # the address is the caller's own
            raise UsageError(f"{plain_url(self._url)} would get the password without TLS; give an https address")
        try:
            response = send(self._session, request, timeout=self._timeout)
        except requests.RequestException as error:
            fault = UNTRUSTED if is_untrusted(error) else type(error).__name__
        else:
            if response.status_code not in BUSY:
                return response.status_code, _json(response)
            wait = retry_after(response.headers)
            raise BusyError(str(response.status_code), None if wait is None else min(wait, _LONGEST_WAIT))
        if fault == UNTRUSTED:
            raise UsageError(f"{plain_url(self._url)} {UNTRUSTED}")
        raise BusyError(fault)  # outside of the handler: the library's error carries the request and its password along

    def _keep(self, answer: dict[str, Any]) -> None:
        now = time.monotonic()
        try:
            life = float(answer["expires_in"])
            self._access, self._access_end = str(answer["access_token"]), now + life - min(_MARGIN, life / 2)
            rest = float(answer.get("refresh_expires_in", 0))
            self._refresh, self._refresh_end = str(answer.get("refresh_token", "")), now + rest - min(_MARGIN, rest / 2)
            self.lives = life, rest
        except (KeyError, TypeError, ValueError):
            raise SourceError(f"{plain_url(self._url)} answered without a token; run again later") from None

    def _clean(self, text: str) -> str:
        """Server's words without secrets."""
        account = self._account
        secrets = (account.password, account.totp, self._access, self._refresh) if account else ()
        for secret in secrets:
            if secret:
                text = text.replace(secret, "***")
        return " ".join(text.split())[:120]


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def one_time_code(secret: str, now: float | None = None) -> str:
    """Six digits of the moment.

    Parameters
    ----------
    secret
        Base32.
    now
        Unix time in seconds instead of the clock's.

    Raises
    ------
    UsageError
        If the secret is not base32.

    References
    ----------
    RFC 6238, with SHA-1 and steps of 30 s.
    """
    text = re.sub(r"[\s-]", "", secret).upper().rstrip("=")
    try:
        key = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        key = b""
    if not key:
        raise UsageError("CDSE_TOTP is neither a code of six digits nor a secret in base32; check it")
    counter = int((time.time() if now is None else now) // 30)
    digest = hmac.new(key, struct.pack(">Q", counter), hashlib.sha1).digest()
    at = digest[-1] & 0x0F
    return f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"
