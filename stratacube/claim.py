"""One run a folder: an exclusive claim that outlives no owner.

A claim is a ticket, a file in the folder's ``.claim`` whose name is a number that only grows; the highest ticket owns
the folder. Tickets are made with ``O_CREAT | O_EXCL``, which every shared file system honours; no lock of the kernel
is needed (Lustre is often mounted without ``flock``). The owner rewrites its ticket every few seconds, in place, so
that its age is told by the clock of the file server alone and no name that others may have cached changes its file.

Whoever finds an owner gone takes the next number. The owner may only have been stopped: before each final rename and
each line of the ledger it looks whether its number is still the highest (:meth:`Fence.check`), and writes nothing if
not. Between that look and the rename lies a moment that no file system closes; what could be renamed in it is a whole
file of the same build.

Tried on local file systems and through a FUSE that caches attributes and look-ups; NFS and Lustre are untried.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from stratacube import files
from stratacube.errors import ClaimedError, ClaimLostError

__all__ = ["CLAIM", "Fence", "claimed"]

CLAIM = ".claim"
"""Folder of the tickets, in the folder that is claimed."""

HEARTBEAT = 5.0
"""Seconds between two signs of life."""

LIMIT = 60.0
"""Seconds of silence after which an owner is taken for gone. Twelve heart beats: a busy file server may swallow some;
and as long as NFS may show old attributes (``acregmax``), so that no living owner looks silent."""

_SIZE = 1024
"""Bytes of a ticket. Always as many: a reader that has cached an old size still reads all of it."""


@dataclass(frozen=True)
class Owner:
    """Who holds, or held, a folder."""

    host: str
    boot: str
    """Identity of the host's running kernel: hosts of one name differ in it."""
    namespace: str
    """Of process ids: a container's process 7 is not the host's."""
    pid: int
    born: str
    """Start of the process in clock ticks: a process id is used again, with another start."""
    started: str
    """UTC, for people."""
    token: str
    """Tells two claims of one process apart."""
    beats: int = 0
    state: str = "held"
    """``held``, ``ended`` (released) or ``taken`` (by a higher number)."""

    def told(self) -> str:
        """Name the owner in a sentence."""
        return f"process {self.pid} on {self.host}, started {self.started} UTC"


def _myself() -> Owner:
    return Owner(
        host=socket.gethostname(),
        boot=_first_line("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
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


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """Start of a process of this host in clock ticks; None where there is none, or only its remains.

    Source: proc(5): field 3 of ``stat`` is the state, field 22 the start; the name before them may hold blanks.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Fence:
    """Picklable proof of a claim, which workers carry."""

    folder: Path
    """That of the tickets."""
    number: int
    token: str

    def check(self) -> None:
        """Make sure that the claim still holds.

        Raises
        ------
        ClaimLostError
            If another process has taken the folder over, or the claim has ended.
        """
        ticket = self.folder / _name(self.number)
        owner = _read(ticket)
        numbers = _numbers(self.folder)
        # The ticket's content is fresh wherever opening a file asks its server (NFS too); a listing may be old.
        lost = owner is None or owner.token != self.token or owner.state != "held"
        if lost or not numbers or numbers[-1] > self.number:
            newest = _read(self.folder / _name(numbers[-1])) if numbers and numbers[-1] > self.number else None
            raise ClaimLostError(
                f"{self.folder.parent} is no longer this run's"
                + (f": {newest.told()}, has taken it over, for this one had given no sign of life" if newest else "")
                + "; nothing more was written to it"
            )


@contextmanager
def claimed(folder: Path, tickets: Path | None = None, *, told: Path | None = None) -> Iterator[Fence]:
    """Own a folder within the block; all whole-or-absent writes below it are fenced.

    Parameters
    ----------
    folder
        What is claimed; it must exist.
    tickets
        Where its tickets lie, ``folder/.claim`` by default. Another folder is removed at the end.
    told
        What a refusal calls the thing that is claimed; the folder by default.

    Yields
    ------
    Fence
        What workers check.

    Raises
    ------
    ClaimedError
        If a living process holds the folder.
    OSError
        If it cannot be written.
    """
    home = folder / CLAIM if tickets is None else tickets
    home.mkdir(exist_ok=True)
    number, owner = _take(home, told or folder)
    fence, stop = Fence(home, number, owner.token), threading.Event()
    heart = threading.Thread(target=_beat, args=(home / _name(number), owner, stop), daemon=True, name="claim")
    heart.start()
    try:
        with files.guarded(folder, fence.check):
            yield fence
    finally:
        stop.set()
        heart.join()
        _release(home / _name(number), owner)
        if tickets is not None:
            shutil.rmtree(home, ignore_errors=True)


def _take(home: Path, told: Path) -> tuple[int, Owner]:
    me = _myself()
    while True:
        numbers = _numbers(home)
        last = numbers[-1] if numbers else 0
        if last:
            _refuse_living(home / _name(last), told)
        try:
            handle = os.open(home / _name(last + 1), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue  # another process was quicker: look who
        with os.fdopen(handle, "wb") as file:
            file.write(_page(me))
        if last:
            _mark_taken(home / _name(last))
        for number in numbers:
            if number < last:  # the one before stays for its owner to read, should it wake up
                (home / _name(number)).unlink(missing_ok=True)
        return last + 1, me


def _refuse_living(ticket: Path, told: Path) -> None:
    """Refuse if the owner of a ticket lives."""
    owner, silent = _read(ticket), _silence(ticket)
    if (owner is not None and owner.state == "ended") or silent is None or silent > LIMIT:
        return
    if owner is None:  # made this moment, or its owner died before it wrote its name
        raise ClaimedError(f"{told} has just been claimed by another process; wait {LIMIT:.0f} s and run again")
    here = _myself()
    if (owner.host, owner.boot, owner.namespace) == (here.host, here.boot, here.namespace) and owner.born:
        if _born(owner.pid) != owner.born:
            return
        remedy = f"wait until it ends, or end it (kill {owner.pid}), and run the same command again"
    else:
        remedy = f"wait until it ends; if it is gone, the folder is free {LIMIT - silent:.0f} s from now"
    raise ClaimedError(f"{told} is being written by {owner.told()} (last heard of {silent:.0f} s ago); {remedy}")


def _silence(ticket: Path) -> float | None:
    """Seconds since the last sign of life, by the clock of the file server; None if the ticket is gone."""
    probe = ticket.with_name(f"now.{secrets.token_hex(8)}")
    try:
        with ticket.open("rb") as file:
            then = os.fstat(file.fileno()).st_mtime
        with probe.open("wb") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            now = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)
    return max(0.0, now - then)


def _beat(ticket: Path, owner: Owner, stop: threading.Event) -> None:
    """Give signs of life until told to stop, or until the claim is lost."""
    beats = 0
    while not stop.wait(HEARTBEAT):
        with suppress(OSError):  # the next beat may get through; silence is what the others judge by
            there = _read(ticket)
            if there is None or there.token != owner.token or there.state != "held":
                return
            beats += 1
            _rewrite(ticket, replace(owner, beats=beats))


def _release(ticket: Path, owner: Owner) -> None:
    with suppress(OSError):  # then the others judge by our process, or by our silence
        there = _read(ticket)
        if there is not None and there.token == owner.token and there.state == "held":
            _rewrite(ticket, replace(owner, state="ended"))


def _mark_taken(ticket: Path) -> None:
    """Tell the owner before, should it wake up, in the file that it looks into."""
    with suppress(OSError):
        there = _read(ticket)
        if there is not None and there.state == "held":
            _rewrite(ticket, replace(there, state="taken"))


def _name(number: int) -> str:
    return f"{number:08d}"


def _numbers(home: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(home) if name.isdigit())
    except FileNotFoundError:
        return []


def _page(owner: Owner) -> bytes:
    text = json.dumps(asdict(owner)).encode()
    return text.ljust(_SIZE - 1) + b"\n"


def _read(ticket: Path) -> Owner | None:
    """Owner of a ticket; None where there is none, or it is being written."""
    try:
        return Owner(**json.loads(ticket.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _rewrite(ticket: Path, owner: Owner) -> None:
    """Write over a ticket in place: it keeps its file, its name and its size."""
    with ticket.open("r+b", buffering=0) as file:
        file.write(_page(owner))
        os.fsync(file.fileno())


if sys.platform == "win32":
    raise ImportError("stratacube runs where POSIX does: Linux and macOS")
