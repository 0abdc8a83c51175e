"""One run a folder: an exclusive claim that outlives no owner.

A claim is a ticket, a file in the folder's ``.claim`` whose name is a number that only grows; the highest ticket owns
the folder. Tickets are made with ``O_CREAT | O_EXCL``, which every shared file system honours; no lock of the kernel
is needed (Lustre is often mounted without ``flock``). The owner rewrites a counter in its ticket every few seconds, in
place, so that its age is told by the clock of the file server and no name that others may have cached changes its file.

Whoever finds an owner gone takes the next number and marks the tickets before it. The owner may only have been stopped:
before each final rename and each line of the ledger it looks whether its ticket is unmarked and its number still the
highest (:meth:`Fence.check`), and writes nothing if not. Between that look and the rename lies a moment that no file
system closes; what could be renamed in it is a whole file of the same build.

Listings and look-ups may be old (NFS may show them for a minute). So an old listing is never believed to be the end: a
number that is taken shows when its ticket is made, and tickets stay for long after any listing that lacked them.

Tried on local file systems and through a FUSE that caches attributes and look-ups; NFS and Lustre are untried.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from stratacube import files
from stratacube.errors import ClaimedError, ClaimLostError, UsageError
from stratacube.owner import Owner, myself

__all__ = ["CLAIM", "Fence", "claimed", "holder_of", "refuse_claimed"]

_log = logging.getLogger(__name__)

CLAIM = ".claim"
"""Folder of the tickets, in the folder that is claimed."""

HEARTBEAT = 5.0
"""Seconds between two signs of life."""

LIMIT = 60.0
"""Seconds of silence after which an owner is taken for gone. Twelve heart beats: a busy file server may swallow some;
and as long as NFS may show old attributes (``acregmax``), so that no living owner looks silent."""

_WATCH = 3
"""Heart beats for which a silent owner is watched before it is taken for gone: where clients set the times of files
(Lustre, NFS with delegations) a living one may look silent."""

_KEPT = 86_400.0
"""Seconds for which tickets of the past stay. Were a number free again while somewhere a listing is believed that lacks
it, it could be given twice; no cache is a day old."""

# A ticket: who, never rewritten, so that no reader finds half of it; then the counter and two flags, each of one writer
# and, but for the counter, of one byte. The flag of the taker is not the owner's to write: an owner that was stopped in
# the midst of a beat and wakes up does not write over it. The size is always the same: a reader that has cached it
# still reads all of a ticket.
_WHO = 960
_TAIL = b"beats 000000000000 ended - taken -"
_BEATS, _ENDED, _TAKEN = _WHO + 6, _WHO + _TAIL.index(b"-"), _WHO + _TAIL.rindex(b"-")


@dataclass(frozen=True)
class _Ticket:
    owner: Owner | None
    """None while it is being written, and for good if its owner died in that moment."""
    beats: bytes
    ended: bool
    """Released by its owner."""
    taken: bool
    """A higher number has taken the folder over."""


@dataclass(frozen=True)
class Fence:
    """Picklable proof of a claim, which workers carry."""

    folder: Path
    """That of the tickets."""
    number: int
    token: str
    root: Path
    """What is claimed."""
    told: Path
    """What errors call it."""

    def guard(self) -> AbstractContextManager[None]:
        """Fence the writes of a worker: a process that inherits no guards from the one that claimed."""
        return files.fenced(self.root, self.check)

    def check(self) -> None:
        """Make sure that the claim still holds.

        Raises
        ------
        ClaimLostError
            If another process has taken the folder over, or the claim has ended.
        OSError
            If the ticket cannot be read.
        """
        # The ticket's content is fresh wherever opening a file asks its server (NFS too); a listing may be old.
        there = _read(self.folder / _name(self.number))
        numbers = _numbers(self.folder)
        ours = there is not None and there.owner is not None and there.owner.token == self.token
        if there is None or not ours:
            why = f"its claim {self.folder / _name(self.number)} was removed"
        elif there.ended:
            why = "the run that claimed it has ended"
        elif there.taken or (numbers and numbers[-1] > self.number):
            newest = _read(self.folder / _name(max([self.number + 1, *numbers])))
            taker = f"{newest.owner.told()}," if newest and newest.owner else "another process"
            why = f"{taker} has taken it over, for this run had ended or given no sign of life for {LIMIT:.0f} s"
        else:
            return
        raise ClaimLostError(
            f"{self.told} is no longer this run's: {why}; nothing more was written to it,"
            " run the same command again when no other run is in it"
        )


@contextmanager
def claimed(
    folder: Path, tickets: Path | None = None, *, told: Path | None = None, limit: float | None = None
) -> Iterator[Fence]:
    """Own a folder within the block; all whole-or-absent writes below it are fenced.

    Parameters
    ----------
    folder
        What is claimed; it must exist.
    tickets
        Where its tickets lie, ``folder/.claim`` by default. A folder of another name is removed at the end.
    told
        What a refusal calls the thing that is claimed; the folder by default.
    limit
        Seconds of silence after which an owner is looked at more closely; :data:`LIMIT` by default.

    Yields
    ------
    Fence
        What workers check.

    Raises
    ------
    ClaimedError
        If a living process holds the folder.
    UsageError
        If it cannot be written.
    """
    root = Path(os.path.abspath(folder))  # the work may change its directory
    home = root / CLAIM if tickets is None else Path(os.path.abspath(tickets))
    told = told or folder
    try:
        number, owner = _take(home, told, LIMIT if limit is None else limit)
    except OSError as error:
        raise UsageError(
            f"{told} cannot be claimed for writing: {error.strerror} ({error.filename or home});"
            " give permission or room there, or choose another folder"
        ) from error
    fence, stop = Fence(home, number, owner.token, root, told), threading.Event()
    heart = threading.Thread(target=_beat, args=(home / _name(number), owner, stop), daemon=True, name="claim")
    try:
        heart.start()
        with fence.guard():
            yield fence
    finally:
        if os.getpid() == owner.pid:  # else a fork leaves the block: the claim is its parent's to end
            stop.set()
            if heart.ident is not None:
                heart.join()
            if home.name != CLAIM:
                _put_away(fence)
            _set(home / _name(number), owner.token, _ENDED)


def refuse_claimed(folder: Path) -> None:
    """Refuse a folder that a living process has claimed; nothing is taken.

    Raises
    ------
    ClaimedError
        If one has.
    """
    home = folder / CLAIM
    numbers = _numbers(home)
    if numbers:
        _refuse_living(home / _name(numbers[-1]), folder, LIMIT)


def holder_of(folder: Path) -> Owner | None:
    """Who holds a folder, as far as a look without writing tells, by clocks that may differ."""
    ticket = folder / CLAIM / _name(max(_numbers(folder / CLAIM), default=0))
    there = _read(ticket)
    if there is None or there.owner is None or there.ended or there.taken or there.owner.has_ended():
        return None
    return there.owner if time.time() - ticket.stat().st_mtime < 2 * LIMIT else None


def _take(home: Path, told: Path, limit: float) -> tuple[int, Owner]:
    """Take the next number, unless the owner of the last one lives."""
    me, last = myself(), 0
    while True:
        home.mkdir(exist_ok=True)
        last = max([last, *_numbers(home)])
        if last:
            _refuse_living(home / _name(last), told, limit)
        ticket = home / _name(last + 1)
        try:
            _create(ticket, me)
        except FileExistsError:  # another process was quicker, or the listing is old: look at that one
            last += 1
            continue
        except FileNotFoundError:  # the last owner has just put the tickets away
            time.sleep(0.05)
            continue
        try:
            numbers = _numbers(home)
            if max(numbers, default=0) <= last + 1:
                _mark([home / _name(number) for number in {last, *numbers} if 0 < number <= last])
                _prune(ticket)
                return last + 1, me
        except BaseException:
            ticket.unlink(missing_ok=True)
            raise
        ticket.unlink(missing_ok=True)  # this process was stopped between the look and the ticket, and others came


def _create(ticket: Path, owner: Owner) -> None:
    text = json.dumps(asdict(owner)).encode().ljust(_WHO - 1) + b"\n" + _TAIL + b"\n"
    handle = os.open(ticket, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a full disk may only say so here
    except BaseException:
        ticket.unlink(missing_ok=True)
        raise


def _mark(tickets: list[Path]) -> None:
    """Tell all owners before, should they wake up, in the file that they look into.

    All: the one that marked the last may have died before it marked the one before.
    """
    for ticket in tickets:
        there = _read(ticket)
        if there is not None and not there.ended and not there.taken:
            with suppress(FileNotFoundError), ticket.open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"x", _TAKEN)
                os.fsync(file.fileno())


def _prune(ticket: Path) -> None:
    """Remove what was of use long before a ticket was made."""
    now = ticket.stat().st_mtime  # the file server's, not ours
    for other in ticket.parent.iterdir():
        if other.name.startswith("now.") or _is_number(other.name):
            with suppress(OSError):
                if now - other.stat().st_mtime > _KEPT:
                    other.unlink()


def _refuse_living(ticket: Path, told: Path, limit: float) -> None:
    """Refuse if the owner of a ticket lives."""
    until = time.monotonic() + HEARTBEAT
    while (there := _read(ticket)) is not None and there.owner is None and time.monotonic() < until:
        time.sleep(0.05)  # made this moment: its owner's name follows
    if there is None or there.ended or there.taken or (there.owner is not None and there.owner.has_ended()):
        return
    silent = _silence(ticket)
    if silent is not None and silent > limit:
        silent = 0.0 if _stirs(ticket, there) else None
    if silent is None:
        return
    owner = there.owner
    if owner is None:
        raise ClaimedError(
            f"{told} was claimed {silent:.0f} s ago by a process that has not yet written its name;"
            f" run the same command again {limit - silent:.0f} s from now"
        )
    if owner.is_near() and owner.pid == os.getpid():
        raise ClaimedError(
            f"{told} is being written by this very process ({owner.told()});"
            " end that run first, or choose another folder"
        )
    if owner.is_near():
        remedy = f"wait until it ends, or end it (kill {owner.pid}), and run the same command again"
    else:
        remedy = f"wait until it ends; if it is gone, the folder is free {limit - silent:.0f} s from now"
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


def _stirs(ticket: Path, before: _Ticket) -> bool:
    """Whether the owner of a ticket that looks old gives a sign of life all the same."""
    seconds = _WATCH * HEARTBEAT
    _log.info("the claim %s looks old; watching for %.0f s whether its owner lives", ticket, seconds)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(HEARTBEAT / 2)
        there = _read(ticket)
        if there != before:
            return there is not None and not there.ended and not there.taken
    return False


def _beat(ticket: Path, owner: Owner, stop: threading.Event) -> None:
    """Give signs of life until told to stop, or until the claim is lost."""
    beats = 0
    while not stop.wait(HEARTBEAT):
        beats += 1
        if not _set(ticket, owner.token, _BEATS, b"%012d" % beats):
            return


def _set(ticket: Path, token: str, place: int, value: bytes = b"x") -> bool:
    """Write into a ticket, in place; False if it is no longer its owner's."""
    with suppress(OSError):  # the next beat may get through; others judge by our silence, or by our process
        try:
            with ticket.open("r+b", buffering=0) as file:
                there = _parsed(file.read(_TAKEN + 1))
                if there.owner is None or there.owner.token != token or there.taken:
                    return False
                os.pwrite(file.fileno(), value, place)
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
    return True


def _put_away(fence: Fence) -> None:
    """Remove the folder of the tickets: first its name, at once, so that nobody finds half of it."""
    aside = fence.folder.with_name(f".{fence.folder.name}.{fence.token}{files.PART}")
    with suppress(OSError, ClaimLostError):  # if the claim was lost, they are another's
        fence.check()
        os.rename(fence.folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _name(number: int) -> str:
    return f"{number:08d}"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _numbers(home: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(home) if _is_number(name))
    except FileNotFoundError:
        return []


def _read(ticket: Path) -> _Ticket | None:
    """What a ticket says; None if there is none."""
    try:
        return _parsed(ticket.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: removed by another host
            return None
        raise


def _parsed(text: bytes) -> _Ticket:
    owner = None
    with suppress(ValueError, TypeError):
        owner = Owner(**json.loads(text[:_WHO]))
    return _Ticket(owner, text[_BEATS:_ENDED], text[_ENDED : _ENDED + 1] == b"x", text[_TAKEN : _TAKEN + 1] == b"x")


if sys.platform == "win32":
    raise ImportError("stratacube runs where POSIX does: Linux and macOS")
