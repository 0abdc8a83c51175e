"""What a plug says of itself: light records, imported by every command line, that name what does the work.

The work is named as ``module:object`` and imported when it is needed. Such names stand in the plug's own code only: a
configuration, a plan or a manifest holds the names of plugs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from stratacube.errors import UsageError

__all__ = ["Command", "SourcePlug", "imported", "imported_of_plug"]


def imported(place: str) -> Any:
    """Import what ``module:object`` names."""
    module, _, name = place.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def imported_of_plug(place: str) -> Any:
    """Import what a plug names, which may be anyone's.

    Raises
    ------
    UsageError
        If it cannot be imported.
    """
    try:
        return imported(place)
    except Exception as error:  # whatever the code of others does when it is imported
        if place.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise UsageError(
            f"{place} cannot be imported ({type(error).__name__}: {error}); mend or uninstall the package that names it"
        ) from error


@dataclass(frozen=True)
class Command:
    """A command that is described by a configuration."""

    help: str
    config: str
    """``module:object`` of its model."""
    function: str
    """``module:object`` of what is called with the configuration."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that hold where neither a file nor a flag gives another."""
    positional: str = ""
    """Setting that is given bare, without a flag."""
    explain: str = ""
    """``module:object`` of what says of a configuration which files and bytes a build reads: called with it, yields
    :class:`cube.reads.FileRead`. Nothing is explained if empty."""


@dataclass(frozen=True)
class SourcePlug:
    """Something to build from."""

    commands: Mapping[str, Command]
    """By name."""
    inspection: str
    """``module:object`` of its :class:`cube.job.source.Inspection`."""
    checks: str = ""
    """``module:object`` of its :class:`stratacube.checks.Checks`: what ``doctor`` tries; nothing if empty."""
