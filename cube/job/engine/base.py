"""What an engine's executor may do beyond ``concurrent.futures.Executor``; any other does without."""

from __future__ import annotations

import math
from concurrent.futures import Executor

from stratacube.errors import StratacubeError

__all__ = ["EngineExecutor", "EngineLostError", "stalled_for"]


class EngineLostError(StratacubeError, RuntimeError):
    """What ran the tasks is gone: the run ends, and the same command goes on."""


def stalled_for(seconds: float) -> str:
    """Sentence on a task that is given up."""
    return (
        f"it did not end within {seconds / 60:g} minutes, as when a file system or a server does not answer; "
        "try again, or give it more `task_minutes`"
    )


class EngineExecutor(Executor):
    """An executor that knows how its workers are."""

    limit = math.inf
    """Seconds that a task may take, set by whoever submits."""
    grace = 0.0
    """Seconds beyond that in which it interrupts tasks by itself."""
    irreplaceable = ""
    """Why no others can be started in place of its workers, where that is so."""

    @property
    def number(self) -> int | None:
        """How many workers there are, where it is not as many as were asked for."""
        return None

    def end(self) -> None:
        """End all that workers are at, now."""

    def watch(self) -> bool:
        """Whether workers are at work: while none is, time does not count against a task.

        Raises
        ------
        StratacubeError
            If none will be again.
        """
        return True
