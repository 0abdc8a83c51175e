"""Answers a browser on this machine, and nobody else: reads alone, and files of the catalogs alone."""

from __future__ import annotations

import base64
import logging
import webbrowser
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from catalog.browse.pages import POLICY, index_page, item_page, picture_of
from catalog.browse.records import Asked, Record, Shelf
from stratacube.choices import many
from stratacube.errors import StratacubeError, UsageError

__all__ = ["make_server", "serve"]

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
"""By which the page may be asked for: a foreign site whose name was made to lead here is none of them."""
_LARGEST = 20_000_000
"""Bytes of a picture; a larger one is none for a page."""
_NOTHING = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
"""A picture of one transparent pixel, for items without."""
_FIELDS = ("catalog", "stratum", "split", "since", "until", "name")

Answered = tuple[HTTPStatus, str, bytes]
"""Status, media type and content."""


def serve(shelf: Shelf, port: int, *, show: bool = False) -> int:
    """Answer until Ctrl-C.

    Parameters
    ----------
    shelf
        What to show.
    port
        Where; 0 takes any that is free.
    show
        Open the page in the default browser.

    Raises
    ------
    UsageError
        If something else listens there.
    """
    with make_server(shelf, port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        items, catalogs = many(len(shelf.records), "item"), many(len(shelf.roots), "catalog")
        _log.info("%s of %s at %s (Ctrl-C ends this)", items, catalogs, address)
        if show:
            webbrowser.open(address)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return 0
    return 0


def make_server(shelf: Shelf, port: int) -> ThreadingHTTPServer:
    """Return a server that listens on the loopback address.

    Raises
    ------
    UsageError
        If something else listens there, or the port is none.
    """

    class Handler(_Handler):
        catalogs = shelf

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"`port` {port} of {HOST} cannot be listened at ({reason}); choose another `port`") from error


class _Handler(BaseHTTPRequestHandler):
    catalogs: Shelf
    server_version = "stratacube"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with a page or a picture."""
        self._send(*self._answer())

    def do_HEAD(self) -> None:
        """Answer with what a page's head would be."""
        self._send(*self._answer(), body=False)

    def _answer(self) -> Answered:
        name, _, port = self.headers.get("Host", "").rpartition(":")
        if name not in _NAMES or port != str(self.server.server_address[1]):  # type: ignore[index]
            return HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"This page is for this machine alone.\n"
        asked = urlsplit(self.path)
        try:
            return self._page(asked.path, parse_qs(asked.query))
        except StratacubeError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode()

    def _page(self, path: str, query: Mapping[str, list[str]]) -> Answered:
        given = {name: values[0] for name, values in query.items()}
        if path == "/":
            page = int(given["page"]) if given.get("page", "").isascii() and given.get("page", "").isdigit() else 0
            asked = Asked(**{name: given.get(name, "") for name in _FIELDS})
            return HTTPStatus.OK, "text/html; charset=utf-8", index_page(self.catalogs, asked, page).encode()
        kind, _, key = path.strip("/").partition("/")
        record = self._record(key)
        if record is not None and kind == "item":
            return HTTPStatus.OK, "text/html; charset=utf-8", item_page(self.catalogs, record).encode()
        if record is not None and kind == "preview":
            return self._preview(record)
        return HTTPStatus.NOT_FOUND, "text/plain", b"There is no such page; all items are at / .\n"

    def _record(self, key: str) -> Record | None:
        known = key.isascii() and key.isdigit() and int(key) < len(self.catalogs.records)
        return self.catalogs.records[int(key)] if known else None

    def _preview(self, record: Record) -> Answered:
        """Return the item's picture, if it is one and lies below the catalog."""
        href, kind = picture_of(self.catalogs.item(record)) or ("", "")
        path = self.catalogs.file(record, href) if href else None
        if path is None or not path.is_file() or path.stat().st_size > _LARGEST:
            return HTTPStatus.OK, "image/gif", _NOTHING
        return HTTPStatus.OK, kind, path.read_bytes()

    def _send(self, status: HTTPStatus, kind: str, content: bytes, *, body: bool = True) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet, but for whoever asked for more."""
        _log.debug(format, *args)
