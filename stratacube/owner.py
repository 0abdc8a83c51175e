"""Who is at work: a process, told apart from all others on this host and on others."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Owner", "myself"]


@dataclass(frozen=True)
class Owner:
    """Who holds, or held, a folder."""

    host: str
    boot: str
    """Identity of the host's running kernel: hosts of one name differ in it, and one host before and after a boot."""
    namespace: str
    """Of process ids and times: a container's process 7 is not the host's."""
    pid: int
    born: str
    """Start of the process in clock ticks: a process id is used again, with another start."""
    started: str
    """UTC, for people."""
    token: str
    """Tells two claims of one process apart."""

    def told(self) -> str:
        """Name the owner in a sentence."""
        return f"process {self.pid} on {self.host}, started {self.started} UTC"

    def is_near(self) -> bool:
        """Whether its process id means the same to this process."""
        here = myself()
        known = bool(self.boot and self.namespace and self.born)
        return known and (self.host, self.boot, self.namespace) == (here.host, here.boot, here.namespace)

    def has_ended(self) -> bool:
        """Whether its process is known to have ended; only its own host can tell."""
        if not self.is_near():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's, perhaps hidden from us in /proc (hidepid)
        born = _born(self.pid)
        return born is not None and born != self.born


def myself() -> Owner:
    """Owner that this process is, with a new token."""
    return Owner(
        host=socket.gethostname(),
        boot=_first_line("/proc/sys/kernel/random/boot_id"),
        namespace=" ".join(filter(None, (_link("/proc/self/ns/pid"), _link("/proc/self/ns/time")))),
        pid=os.getpid(),
        born=_born(os.getpid()) or "",
        started=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        token=secrets.token_hex(8),
    )


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """Start of a process of this host in clock ticks; empty if only its remains are there, None if it cannot be told.

    Source: proc(5): field 3 of ``stat`` is the state, field 22 the start; the name before them may hold blanks.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
