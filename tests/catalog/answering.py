"""Servers that answer as S3 does, and as one in trouble does."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["answering", "serving", "xml_error"]


@contextmanager
def answering(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Endpoint of a server that answers every request in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def xml_error(status: int, code: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return respond


@contextmanager
def serving(content: bytes, good: int, then: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Endpoint that gives one object, whole or in ranges, so many times; after that it answers otherwise."""
    left = [None] * good

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        if not left:
            then(handler)
            return
        left.pop()
        asked = handler.headers.get("Range", "").removeprefix("bytes=").split("-")
        first, last = (int(asked[0]), int(asked[1])) if len(asked) == 2 else (0, len(content) - 1)
        part = content[first : last + 1]
        handler.send_response(206 if len(asked) == 2 else 200)
        handler.send_header("Content-Length", str(len(part)))
        if len(asked) == 2:
            handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(part)

    with answering(respond) as endpoint:
        yield endpoint
