"""What was fetched: a ledger beside the files, and from it how much of the account's quota is gone."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratacube.locks import lock

__all__ = ["QUOTA_BYTES", "QUOTA_DAYS", "Meter", "Transfers"]

QUOTA_BYTES = 12e12
QUOTA_DAYS = 30
"""CDSE's general quota."""


@dataclass(frozen=True)
class _Known:
    size: int
    mtime_ns: int
    checksum: str | None


class Transfers:
    """Files fetched below a folder, one JSON line each, in a file that only grows and that processes share.

    A file is known to be good while its size and time of change are those of its line, so its digest is made once.
    Bytes of transfers that failed count towards the quota too.

    Parameters
    ----------
    root
        Folder of the files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "fetched.jsonl"
        self._lock = threading.Lock()
        self._offset = 0
        self._known: dict[str, _Known] = {}
        self._received: list[tuple[float, int]] = []

    def is_good(self, path: Path, checksum: str | None) -> bool:
        """Whether a file is as it was when it was last found good."""
        status = path.stat()
        with self._lock:
            self._read()
            known = self._known.get(self._name(path))
        return known == _Known(status.st_size, status.st_mtime_ns, checksum)

    def record(self, path: Path, received: int, checksum: str | None) -> None:
        """Note a file that is whole, and how many bytes were received for it now."""
        status = path.stat()
        self._append(
            {
                "path": self._name(path),
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "checksum": checksum,
                "received": received,
                "time": time.time(),
            }
        )

    def record_failure(self, path: Path, received: int, reason: str) -> None:
        """Note a transfer that gave no file."""
        self._append({"path": self._name(path), "received": received, "time": time.time(), "failed": reason})

    def count(self, received: int) -> None:
        """Note bytes alone, of a file that is noted elsewhere."""
        self._append({"received": received, "time": time.time(), "failed": ""})

    def used(self, now: float | None = None) -> int:
        """Bytes received into this folder, by any process, in the last 30 days."""
        since = (time.time() if now is None else now) - QUOTA_DAYS * 86400
        with self._lock:
            self._read()
            return sum(n for then, n in self._received if then >= since)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def _append(self, fields: dict[str, Any]) -> None:
        """Append a line whole; a line that a crash cut short is closed first, and skipped when read."""
        with self._lock, self.path.open("a+b") as file:
            lock(file.fileno())
            end = file.seek(0, os.SEEK_END)
            torn = False
            if end:
                file.seek(end - 1)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(fields).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        """Read the lines that were added since the last time, also by others."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._take(line)
        except FileNotFoundError:
            return

    def _take(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
            self._received.append((float(fields["time"]), int(fields["received"])))
            if "failed" not in fields:
                self._known[fields["path"]] = _Known(fields["size"], fields["mtime_ns"], fields["checksum"])
        except (ValueError, KeyError, TypeError):
            return


@dataclass
class Meter:
    """How far a run is; guarded by the fetcher."""

    transfers: Transfers
    account: Transfers | None = None
    """What the account received, into whatever folders; None where nothing tells which account it is."""
    files: int = 0
    files_done: int = 0
    bytes_expected: int = 0
    bytes_received: int = 0
    begun: float = field(default_factory=time.monotonic)
    _used: int = 0
    _used_at: float = float("-inf")

    def shared_at(self, folder: Path | None) -> None:
        """Count for the account too, whose limits lie in a folder, if there is one."""
        self.account = Transfers(folder) if folder is not None and folder.is_dir() else None

    def count(self, received: int) -> None:
        """Count bytes for the account."""
        if received and self.account is not None:
            with suppress(OSError):  # a count that is too low stops nobody
                self.account.count(received)

    def line(self) -> str:
        """Progress in words, with the part of the quota that the account is known to have used."""
        now = time.monotonic()
        if now - self._used_at > 5.0:
            # The folder may have a longer memory than the account's own count, which began later.
            used = [ledger.used() for ledger in (self.transfers, self.account) if ledger is not None]
            self._used, self._used_at = max(used), now
        rate = self.bytes_received / max(now - self.begun, 1e-3)
        return (
            f"fetched {self.files_done} of {self.files} files, {self.bytes_received / 1e9:.2f} of "
            f"{self.bytes_expected / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s; "
            f"{self._used / 1e12:.3f} of {QUOTA_BYTES / 1e12:g} TB in {QUOTA_DAYS} days"
        )
