"""Have a step of a build wait while a file is there: in the driver, or in its workers, which import this."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from cube.job.run import Run

DRIVEN = {"find": "find", "plan": "make_plan", "publish": "publish"}
"""Steps that the driver takes, and the function of the source that is theirs; others are labels of tasks."""
ROOMS = {"abi": "cube.geostationary", "sentinel2": "cube.sentinel2"}
"""Packages of the sources, by the command that builds from them."""


def at(source: str, step: str, hold: Path) -> None:
    """Have a step wait."""
    if step in DRIVEN:
        module, name = import_module(f"{ROOMS[source]}.run"), DRIVEN[step]
        setattr(module, name, partial(wait, getattr(module, name), hold))
        return
    do = Run.do

    def slowly(self: Run, tasks: Any, function: Callable[[Any], Any], label: str, *rest: Any, **more: Any) -> Any:
        return do(self, tasks, partial(wait, function, hold) if label == step else function, label, *rest, **more)

    Run.do = slowly  # type: ignore[method-assign]


def wait(function: Callable[..., Any], hold: Path, *arguments: Any) -> Any:
    """Tell which process is at it, wait, and do it."""
    hold.with_name(f"{hold.name}.{os.getpid()}").touch()
    while hold.exists():
        time.sleep(0.02)
    return function(*arguments)
