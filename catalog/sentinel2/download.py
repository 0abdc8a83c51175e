"""Bringing one file: redirects by hand, resumed where it broke off, checked, and only then given its name."""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters

from catalog.sentinel2.checksums import file_digest
from catalog.sentinel2.destination import Destination, destination, is_cdse, may_have_secrets, prepare, send
from catalog.sentinel2.items import Asset
from catalog.sentinel2.rate import Connections, Pace
from catalog.sentinel2.signing import S3Signer
from catalog.sentinel2.tokens import TokenSource
from catalog.sentinel2.web import BUSY, LONGEST_WAIT, UNTRUSTED, http_session, is_untrusted
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.files import check_guards
from stratacube.locks import lock
from stratacube.retry import BusyError, call_again, retry_after

__all__ = ["AbsentError", "DiskError", "Downloader", "PermanentError", "ServerError", "local_faults"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 16
"""Bytes received at once: what is lost of a part when the line breaks."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_NOWHERE = "leads to an address that is not of the web; take `access=s3`"
_FROM_THE_START = (200, 416)
"""Answers after which nothing that was received before is of use: all of the file, or less than was asked for."""

_FAIR_PROGRESS = 1 << 20
"""Bytes after which a transfer that breaks off again has earned its attempts anew."""

_OVER_QUOTA = b"DAT-ZIP-100"
"""What the zipper writes into an answer that should have been 429."""

_NO_FILE = ("application/json", "text/html")
"""Kinds of answers that are not a file of a product: errors, and pages to log in at."""

_ELSEWHERE_A_SECOND = 100.0
"""Requests for chunks of images that other hosts than CDSE are sent."""

_JSON = (".json", ".zmetadata")
"""Ends of addresses of files that are JSON themselves."""


class DiskError(SourceError):
    """Nothing more can be written."""


class ServerError(SourceError):
    """The server failed; other files will fare no better while it does."""


class PermanentError(SourceError):
    """The file cannot be had, whatever is tried."""


class AbsentError(PermanentError):
    """There is no such file."""


@dataclass(frozen=True)
class Downloader:
    """Downloads with one set of options; may be shared by threads.

    Parameters
    ----------
    tokens
        For addresses that are trusted.
    signer
        For ``s3://`` addresses.
    connections, pace
        Limits to keep.
    timeout
        Seconds to wait for a connection, and for the next bytes.
    tries, pause
        Attempts without progress, and seconds before the second (doubling with each).
    trusted
        Whether a token may be sent to a host.
    """

    tokens: TokenSource
    signer: S3Signer
    connections: Connections
    pace: Pace
    timeout: tuple[float, float] = (15.0, 60.0)
    tries: int = 6
    pause: float = 1.0
    trusted: Callable[[Destination], bool] = is_cdse
    session: requests.Session = field(
        default_factory=lambda: http_session(requests.adapters.HTTPAdapter(pool_maxsize=16))
    )

    def fetch(self, asset: Asset, place: Path, received: Callable[[int], None]) -> None:
        """Bring a file to its place.

        Parameters
        ----------
        asset
            Where it is, and its size and digest where they are known.
        place
            Where it goes; written aside as ``.part`` first. What lies there is replaced.
        received
            Told the bytes as they come.

        Raises
        ------
        ServerError
            If the server failed to the end.
        PermanentError
            If it does not have the file, or has another one than was listed.
        DiskError
            If the disk is full.
        UsageError
            If there are no credentials or they are refused.
        """
        with local_faults(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(place.name + ".part")
            with _exclusive(part, place) as file:
                if file is None:  # another process has just brought it
                    return
                if asset.checksum is None:  # nothing would tell whether what lies there is of the same file
                    file.truncate(0)
                try:
                    self._bring(asset, file, part, received)
                finally:
                    if file.seek(0, os.SEEK_END) == 0:
                        part.unlink(missing_ok=True)
                os.fsync(file.fileno())
                check_guards(place)
                os.replace(part, place)

    def unpaced_elsewhere(self, href: str) -> Downloader:
        """Return one for many small files: the pace that CDSE asks for is kept with CDSE alone."""
        url = self.signer.url(href) if href.startswith("s3://") else href
        cdse = is_cdse(destination(prepare(self.session, url)))
        return self if cdse else replace(self, pace=Pace(_ELSEWHERE_A_SECOND))

    def content(self, href: str) -> bytes:
        """Return a small file.

        Raises
        ------
        StratacubeError
            As of :meth:`fetch`.
        """
        file = io.BytesIO()
        self._receive_all(Asset(href=href), file, lambda number: None)
        return file.getvalue()

    def _bring(self, asset: Asset, file: BinaryIO, part: Path, received: Callable[[int], None]) -> None:
        """Receive a file to its end; one that is not what was listed is asked for once more."""
        reason: str | None = ""
        for _ in range(2):
            self._receive_all(asset, file, received)
            reason = _mismatch(asset, part)
            if reason is None:
                return
            file.truncate(0)
        raise PermanentError(f"{plain_url(asset.href)} {reason}, twice; search again, it may have changed")

    def _receive_all(self, asset: Asset, file: BinaryIO, received: Callable[[int], None]) -> None:
        before = 0

        def attempt() -> None:
            nonlocal before
            before = file.seek(0, os.SEEK_END)
            if asset.size is None or before != asset.size:
                self._attempt(asset, file, received)

        try:
            call_again(
                attempt,
                tries=self.tries,
                pause=self.pause,
                again=lambda fault: isinstance(fault, BusyError) and (fault.wait or 0) <= LONGEST_WAIT,
                progress=lambda: file.seek(0, os.SEEK_END) - before >= _FAIR_PROGRESS,
                rest=self._wait,
                name=plain_url(asset.href),
            )
        except BusyError as busy:
            reason = f"{busy.reason} in {busy.attempts} attempts"
        else:
            return
        raise ServerError(f"{plain_url(asset.href)} {reason}; run again to go on from there")

    def _wait(self, fault: BaseException, seconds: float) -> None:
        """Wait, with all requests where the server means them all."""
        if isinstance(fault, BusyError) and fault.everyone:
            self.pace.hold(seconds)
        else:
            time.sleep(seconds)

    def _attempt(self, asset: Asset, file: BinaryIO, received: Callable[[int], None]) -> None:
        """Ask for what is missing; a token that is refused is renewed once, without a pause."""
        with self.connections.one():
            if asset.size is not None and file.seek(0, os.SEEK_END) > asset.size:
                file.truncate(0)
            have, refused = file.seek(0, os.SEEK_END), None
            while True:
                response, token = self._open(asset.href, have, refused)
                with response:
                    if response.status_code == requests.codes.unauthorized and token is not None and refused is None:
                        refused = token
                        continue
                    _refuse_what_is_no_file(response, plain_url(asset.href))
                    if response.status_code in _FROM_THE_START:
                        file.truncate(0)
                    self._check(asset, response, have)
                    self._receive(asset, response, file, received)
                    return

    def _open(self, href: str, have: int, refused: str | None) -> tuple[requests.Response, str | None]:
        """Follow an address to the answer; a token goes with it only where it may."""
        signed = href.startswith("s3://")
        url = self.signer.url(href) if signed else href
        token: str | None = None
        for _ in range(_MOST_REDIRECTS + 1):
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            request = _prepared(self.session, url, headers)
            if signed:
                self.signer.sign(request)
            elif may_have_secrets(request, self.trusted):
                token = self.tokens.token(refused)
                request.headers["Authorization"] = f"Bearer {token}"
            response = self._send(request)
            if response.status_code not in _REDIRECTS or signed:
                return response, token
            target = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if urlsplit(target).scheme not in ("http", "https"):
                raise PermanentError(f"{plain_url(url)} {_NOWHERE}")
            url = target
        raise PermanentError(f"{plain_url(href)} leads from one address to another without an end; take `access=s3`")

    def _send(self, request: requests.PreparedRequest) -> requests.Response:
        self.pace.wait()
        try:
            return send(self.session, request, stream=True, timeout=self.timeout)
        except requests.exceptions.InvalidURL:
            reason = _NOWHERE
        except requests.Timeout:
            reason = "did not answer in time"
        except requests.ConnectionError as error:
            reason = UNTRUSTED if is_untrusted(error) else "could not be reached"
        except requests.RequestException as error:
            reason = f"gave no answer ({type(error).__name__})"
        # Outside of the handlers: the fault carries the request and its token along.
        if reason == UNTRUSTED:
            raise UsageError(f"{plain_url(request.url or '')} {UNTRUSTED}")
        raise PermanentError(f"{plain_url(request.url or '')} {reason}") if reason == _NOWHERE else BusyError(reason)

    def _check(self, asset: Asset, response: requests.Response, have: int) -> None:
        """Raise unless the answer is the file, or what is missing of it."""
        status = response.status_code
        where = plain_url(asset.href)
        if status in BUSY:
            wait = retry_after(response.headers)
            everyone = wait is not None or status == requests.codes.too_many_requests
            raise BusyError(f"was busy ({status})", wait, everyone=everyone)
        if status == requests.codes.requested_range_not_satisfiable:
            raise BusyError("has less than was received before") if have else PermanentError(f"{where} is empty")
        if status in (401, 403):
            raise PermanentError(f"{where} refuses access ({status}); check the credentials and what they allow")
        if status in (404, 410):
            raise AbsentError(f"{where} does not exist ({status}); search again, it may have been replaced")
        if status not in (200, 206):
            raise PermanentError(f"{where} answered {status} where a file was asked for; search again")
        if status == requests.codes.partial_content and not _continues(response, have):
            raise BusyError("sent another part than was asked for")

    def _receive(
        self, asset: Asset, response: requests.Response, file: BinaryIO, received: Callable[[int], None]
    ) -> None:
        """Append what comes."""
        reason = ""
        try:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                received(len(chunk))
        except requests.RequestException as error:
            reason = "stalled" if isinstance(error, requests.Timeout) or "timed out" in str(error) else "broke off"
        finally:
            file.flush()
        have = file.seek(0, os.SEEK_END)
        if not reason and asset.size is not None and have < asset.size:
            reason = f"broke off after {have} of {asset.size} bytes"
        if reason:
            raise BusyError(reason)


def _prepared(session: requests.Session, url: str, headers: dict[str, str]) -> requests.PreparedRequest:
    try:
        return prepare(session, url, headers)
    except SourceError as error:  # this address will not get better; other files have others
        raise PermanentError(str(error)) from error


def _refuse_what_is_no_file(response: requests.Response, where: str) -> None:
    """Raise where an answer that claims to be the file is an error of the zipper, or a page to log in at."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if response.status_code not in (200, 206) or kind not in _NO_FILE:
        return
    if kind == "application/json" and where.endswith(_JSON):
        return
    try:
        text = next(response.iter_content(4096), b"")
    except requests.RequestException:
        text = b""
    if _OVER_QUOTA in text:
        raise BusyError("had too many connections open (DAT-ZIP-100)", everyone=True)
    raise PermanentError(f"{where} answered {kind} where a file was asked for; search again")


def _continues(response: requests.Response, have: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have


def _mismatch(asset: Asset, part: Path) -> str | None:
    """What is wrong with a file that came to its end."""
    size = part.stat().st_size
    if asset.size is not None and size != asset.size:
        return f"came with {size} bytes where {asset.size} are listed"
    if asset.checksum is not None and file_digest(part, asset.checksum) != asset.checksum:
        return f"came with a digest other than the {asset.checksum} listed"
    return None


@contextmanager
def _exclusive(part: Path, place: Path) -> Iterator[BinaryIO | None]:
    """Open a file aside for this process alone; None where another one finished it meanwhile.

    The lock is on what the name led to when it was opened: that may have got its final name since.
    """
    before = _stamp(place)
    while True:
        with part.open("ab") as file:
            lock(file.fileno())
            if _stamp(part) == (os.fstat(file.fileno()).st_ino,):
                yield file
                return
        if _stamp(place) != before and place.exists():
            yield None
            return


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return (path.stat().st_ino,)
    except FileNotFoundError:
        return ()


@contextmanager
def local_faults(place: Path) -> Iterator[None]:
    """Turn faults of the disk in the block into a :class:`DiskError`."""
    try:
        yield
    except StratacubeError:
        raise
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        remedy = "make room for it" if error.errno in _NO_ROOM else "give a writable folder"
        raise DiskError(f"{place} cannot be written ({error.strerror}); {remedy} and run again") from error
