"""A process that claims a folder and writes into it at a test's command: orders in, answers out, a JSON line each."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stratacube import claim, files, owner

_held = ExitStack()


def claim_folder(folder: str, **options: str) -> dict[str, Any]:
    fence = _held.enter_context(claim.claimed(Path(folder), **{k: Path(v) for k, v in options.items()}))
    return {"number": fence.number, "fence": base64.b64encode(pickle.dumps(fence)).decode()}


def carry(fence: str) -> None:
    """Do as a worker does that a claim's owner has started."""
    _held.enter_context(pickle.loads(base64.b64decode(fence)).guard())


def release() -> None:
    _held.close()


def write(path: str, text: str, how: str = "bytes") -> None:
    target = Path(path)
    if how == "bytes":
        files.write_bytes(target, text.encode())
    elif how == "file":
        with files.whole_file(target) as part:
            part.write_text(text)
    else:
        with files.whole_folder(target) as folder:
            (folder / "inner").write_text(text)


def settings(**values: float) -> None:
    for name, value in values.items():
        setattr(claim, name, value)


def become(user: int) -> None:
    os.setgid(user)
    os.setuid(user)


def chdir(folder: str) -> None:
    os.chdir(folder)


def shift_clock(seconds: float) -> None:
    now = time.time
    time.time = lambda: now() + seconds


def _stop() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread goes no further; the others stop with it


def stop_in_next_beat() -> None:
    """Stop this process when it has read its ticket and is about to write its sign of life."""
    pwrite = os.pwrite

    def slow(handle: int, value: bytes, place: int) -> int:
        os.pwrite = pwrite
        _stop()
        return pwrite(handle, value, place)

    os.pwrite = slow


def look_old() -> None:
    """Have the file server's clock far behind for what this process writes."""
    fsync = os.fsync

    def behind(handle: int) -> None:
        fsync(handle)
        os.utime(handle, (1e9, 1e9))

    os.fsync = behind


def old_listing(numbers: list[int], times: int = 1_000_000) -> None:
    """Have the next listings as they were when there were only these tickets."""
    fresh, left = claim._numbers, iter(range(times))
    claim._numbers = lambda home: numbers if next(left, None) is not None else fresh(home)


def stop_before(name: str) -> None:
    """Stop this process when it next calls a function of the claim."""
    call = getattr(claim, name)

    def slow(*arguments: Any) -> Any:
        setattr(claim, name, call)
        _stop()
        return call(*arguments)

    setattr(claim, name, slow)


def know_no_processes() -> None:
    """Be on a system that has no /proc."""
    owner._first_line = owner._link = lambda path: ""
    owner._born = lambda pid: None


def fork_that_leaves() -> int:
    """Have a fork of this process leave the block of the claim."""
    pid = os.fork()
    if not pid:
        _held.close()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def vanish() -> None:
    os._exit(9)


ORDERS: dict[str, Callable[..., Any]] = {
    order.__name__: order
    for order in (
        *(claim_folder, carry, release, write, settings, become, chdir, shift_clock, stop_in_next_beat),
        *(know_no_processes, look_old, old_listing, stop_before, fork_that_leaves, vanish),
    )
}


def main() -> None:
    options = json.loads(sys.argv[1])
    if "host" in options:
        socket.gethostname = lambda: options["host"]
    settings(**options.get("settings", {}))
    for line in sys.stdin:
        name, values = json.loads(line)
        try:
            answer = {"value": ORDERS[name](**values)}
        except Exception as error:  # noqa: BLE001 - the test judges it
            answer = {"error": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
