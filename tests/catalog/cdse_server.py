"""A small server that stands for CDSE: tokens, files over HTTPS and S3, a STAC API and OData, failing on command."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

USER, PASSWORD, TOTP = "somebody@example.org", "correct horse", "654321"
S3_KEY, S3_SECRET = "AKIAEXAMPLE", "s3-secret"
Answer = tuple[int, dict[str, str], bytes]


class CdseServer:
    """What the server knows, what it was told to do wrong, and what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[str]] = defaultdict(list)
        """Faults by path, one used up by each request."""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.logins: list[dict[str, str]] = []
        self.tokens: set[str] = set()
        self.refresh_tokens: set[str] = set()
        self.life, self.refresh_life = 600, 3600
        self.second_factor = False
        self.token_delay = 0.0
        self.token_fault: Callable[[dict[str, str]], Answer | None] = lambda fields: None
        self.search: Callable[[str, dict[str, Any]], Answer] | None = None
        self.lock = threading.Lock()
        self.now = self.most_at_once = 0
        self.other: CdseServer | None = None
        self.url = ""
        self.stop_stalling = threading.Event()

    def asked(self, path: str) -> list[dict[str, str]]:
        """Headers of the requests for a path."""
        return [headers for asked, headers, _ in self.requests if asked == path]

    def zipper(self, *nodes: str) -> str:
        return f"{self.url}/odata/v1/Products(1)" + "".join(f"/Nodes({n})" for n in nodes) + "/$value"

    def put(self, url: str, content: bytes) -> str:
        self.files[unquote(urlsplit(url).path)] = content
        return url

    def fail(self, url: str, *faults: str) -> None:
        self.script[unquote(urlsplit(url).path)] += faults


def _handler(state: CdseServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            return

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _serve(self, body: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            with state.lock:
                state.requests.append((path, dict(self.headers), body))
                fault = state.script[path].pop(0) if state.script[path] else ""
            try:
                self._answer(path, body, fault)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self, path: str, body: bytes, fault: str) -> None:
            kind, _, value = fault.partition(":")
            if kind.isdigit():
                headers = {}
                if value:
                    date = value == "date"
                    headers = {"Retry-After": format_datetime(datetime.now(UTC), usegmt=True) if date else value}
                self._send(int(kind), headers, b"no")
            elif path == "/token":
                self._send(*_token(state, {k: v[0] for k, v in parse_qs(body.decode()).items()}))
            elif state.search is not None and not path.startswith(("/odata/v1/Products(", "/eodata")):
                asked = json.loads(body) if body else {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                self._send(*state.search(path, asked))
            elif kind == "zipper":
                text = b'{"code":"DAT-ZIP-100","message":"Max session number exceeded"}'
                self._send(200, {"Content-Type": "application/json"}, text)
            elif kind == "login-page":
                self._send(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")
            elif kind == "redirect":
                self._send(302, {"Location": value}, b"")
            elif not self._allowed(path):
                self._send(401 if path.startswith("/odata") else 403, {}, b"who are you")
            elif path not in state.files:
                self._send(404, {}, b"not here")
            else:
                self._file(state.files[path], kind, value)

        def _allowed(self, path: str) -> bool:
            told = self.headers.get("Authorization", "")
            if path.startswith("/odata"):
                return told.removeprefix("Bearer ") in state.tokens
            return _signed(self.command, self.path, dict(self.headers)) if path.startswith("/eodata/") else True

        def _file(self, content: bytes, kind: str, value: str) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(asked[1]) if asked and kind != "no-range" else 0
            if first >= len(content) and first:
                self._send(416, {}, b"")
                return
            rest = content[first:] if kind != "spoil" else bytes(len(content) - first)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("Content-Type", "application/octet-stream")
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if kind in ("truncate", "stall"):
                self.wfile.write(rest[: int(value)])
                self.wfile.flush()
                self.close_connection = True
                if kind == "stall":
                    state.stop_stalling.wait(20)
                return
            if kind == "slow":
                with state.lock:
                    state.now += 1
                    state.most_at_once = max(state.most_at_once, state.now)
                time.sleep(float(value))
                with state.lock:
                    state.now -= 1
            self.wfile.write(rest)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _token(state: CdseServer, fields: dict[str, str]) -> Answer:
    with state.lock:
        state.logins.append(fields)
    time.sleep(state.token_delay)
    told = state.token_fault(fields)
    if told is not None:
        return told
    good = fields.get("refresh_token") in state.refresh_tokens
    if fields["grant_type"] == "password":
        good = (fields["username"], fields["password"]) == (USER, PASSWORD)
        good = good and (not state.second_factor or fields.get("totp") == TOTP)
    if not good or fields["client_id"] != "cdse-public":
        # An unkind server, which repeats what it was told.
        text = f"Invalid user credentials {fields.get('password', '')} {fields.get('refresh_token', '')}"
        return 401, {}, json.dumps({"error": "invalid_grant", "error_description": text}).encode()
    with state.lock:
        number = len(state.logins)
        state.tokens.add(f"access-{number}")
        state.refresh_tokens.add(f"refresh-{number}")
    answer = {
        "access_token": f"access-{number}",
        "expires_in": state.life,
        "refresh_token": f"refresh-{number}",
        "refresh_expires_in": state.refresh_life,
    }
    return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _signed(method: str, path: str, headers: dict[str, str]) -> bool:
    """Whether a request is signed in its headers with our key (AWS Signature Version 4, worked out again here)."""
    told = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, *"
        r"SignedHeaders=([^,]+), *Signature=(\w+)",
        headers.get("Authorization", ""),
    )
    if told is None or told[1] != S3_KEY or "?" in path:
        return False
    lower = {k.lower(): v for k, v in headers.items()}
    names = told[4].split(";")
    canonical = "\n".join(
        [method, path, "", *(f"{n}:{lower[n].strip()}" for n in names), "", told[4], lower["x-amz-content-sha256"]]
    )
    scope = f"{told[2]}/{told[3]}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{lower['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{S3_SECRET}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex() == told[5]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[CdseServer]:
    """Run a server on a free port of this machine, over https as ``localhost`` where it has a certificate."""
    state = CdseServer()
    server = _Server(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        state.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stop_stalling.set()
        server.shutdown()
        server.server_close()
        thread.join()
