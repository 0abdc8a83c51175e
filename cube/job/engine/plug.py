"""What an engine with options says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from cube.plug import imported_of_plug
from stratacube.settings import Settings

__all__ = ["EnginePlug"]


@dataclass(frozen=True)
class EnginePlug:
    """An engine that has options."""

    start: str
    """``module:function`` of what gives an executor, called with a number of workers, the modules of the functions that
    will run, and the options."""
    options: type[Settings]
    """Model of them."""

    def __call__(self, workers: int, modules: Sequence[str] = (), options: Settings | None = None) -> Executor:
        """Start workers."""
        started: Executor = imported_of_plug(self.start)(workers, modules, options or self.options.check({}))
        return started
