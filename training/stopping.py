"""Stopping in time: a signal asks, the loop answers between two steps, Slurm gets the job back."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "requeue", "stop_on_signals"]


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take note of a signal."""
        self.signal = signal.Signals(number).name

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, SIGTERM and SIGUSR1 only set the request; afterwards they do what they did before."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1)}
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
