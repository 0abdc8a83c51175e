"""Faults that are real: a disk that is full, a process that may have no more memory, a server of S3 in trouble."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.catalog.answering import answering, xml_error

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Mount a small file system of its own at a folder that is made for it; skip the test where that may not be."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here ({mounted.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # also where a test failed in the midst


def fill(disk: Path, room: int) -> Path:
    """Fill a disk but for some bytes; the file that does."""
    state = os.statvfs(disk)
    ballast = disk / "ballast"
    with suppress(OSError):  # others write too, and it is full before
        ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - room))
    return ballast


@contextmanager
def starved(process: int, size: int) -> Iterator[None]:
    """Let a process have so many bytes more, or the kernel kills it; skip the test where no such bound can be set."""
    v1 = (_V1 / "memory.limit_in_bytes").exists()
    group = (_V1 if v1 else _V2) / f"stratacube-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(size))
        (group / "cgroup.procs").write_text(str(process))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"memory cannot be bounded here ({error})")
    try:
        yield
    finally:
        until = time.monotonic() + 60
        while (group / "cgroup.procs").read_text().strip() and time.monotonic() < until:
            time.sleep(0.05)
        group.rmdir()


class Trouble:
    """Stands between a client and a server of S3, and answers amiss when told to.

    Parameters
    ----------
    upstream
        Endpoint of the server.
    """

    KINDS = ("500", "503", "slow", "truncated")

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.first: tuple[str, ...] = ()
        """Kinds of trouble, in turn, of what is asked for the first time; asked for again, it is given."""
        self.always = ""
        """Kind of trouble of every object."""
        self.met: list[str] = []
        self._seen: set[tuple[str, str]] = set()
        self._guard = threading.Lock()

    def begin(self, first: tuple[str, ...] = (), always: str = "") -> None:
        """From now on answer in these ways."""
        self.first, self.always = first, always
        self.met.clear()
        self._seen.clear()

    def _kind(self, handler: http.server.BaseHTTPRequestHandler) -> str:
        asked = handler.path, handler.headers.get("Range", "")
        with self._guard:
            kind = self.always if ".nc" in handler.path.partition("?")[0] else ""
            if not kind and self.first and asked not in self._seen:
                kind = self.first[len(self._seen) % len(self.first)]
            self._seen.add(asked)
            if kind:
                self.met.append(kind)
        return kind

    def _respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        kind = self._kind(handler)
        if kind.isdigit():
            xml_error(int(kind), {"500": "InternalError", "503": "SlowDown"}[kind])(handler)
            return
        asked = {name: value for name, value in handler.headers.items() if name.lower() not in ("host", "connection")}
        answer = requests.request(handler.command, self.upstream + handler.path, headers=asked, timeout=30)
        handler.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "GET":
            return
        half = len(answer.content) // 2
        handler.wfile.write(answer.content[:half])
        if kind == "truncated":
            handler.close_connection = True
            return
        if kind == "slow":
            time.sleep(0.3)
        handler.wfile.write(answer.content[half:])

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Endpoint, within the block."""
        with answering(self._respond) as endpoint:
            yield endpoint
