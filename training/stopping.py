"""Stopping in time: a signal asks, the loop answers between two steps, Slurm gets the job back."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "requeue", "stop_on_signals"]


class StopRequest:
    """Whether a signal asked the run to stop, and which."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take note of a signal; Ctrl-C pressed again ends at once."""
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        self.number = number

    def __bool__(self) -> bool:
        return self.number != 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, SIGTERM, SIGUSR1 and Ctrl-C only set the request; afterwards they do what they did before."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only there signals can be answered
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requeue(job: str) -> str:
    """Ask Slurm to queue a job again, and say what came of it in one sentence."""
    command = shutil.which("scontrol")
    if command is None:
        return f"job {job} cannot be queued again: scontrol is not on the PATH; submit the same script again"
    done = subprocess.run([command, "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"job {job} was not queued again ({done.stderr.strip()}); submit the same script again"
    return f"job {job} is queued again"
