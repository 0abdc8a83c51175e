"""What a stratum says of itself: light to import, for the options of all strata are flags of one command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from stratacube.errors import UsageError
from stratacube.settings import Settings

__all__ = ["Options", "Stratum", "TimeMeans"]

TimeMeans = Literal["scan_start", "observation"]


class Options(Settings):
    """Base of the options of a plug: its fields are flags of the command, beside the command's own."""

    def arguments(self) -> dict[str, Any]:
        """Return what the plug is called with, by keyword."""
        return self.model_dump()

    def rows(self) -> list[tuple[str, Any]]:
        """Return what the report tells of them, as names and values."""
        return [
            (name.replace("_", " ").capitalize(), value)
            for name, value in self.model_dump().items()
            if value not in (None, [])
        ]


@dataclass(frozen=True)
class Stratum:
    """A way to choose places and times of tiles."""

    sampler: str
    """``module:object`` of a :class:`cube.strata.base.Sampler`: called with a request and the options' arguments."""
    options: type[Options] = Options
    tiles: int | None = None
    """Tiles of a build that asks for no number; None for all that it proposes."""
    refusals: int | None = None
    """Candidates refused in a row before it is given up; None for one that proposes a bounded number."""
    parallel: bool = False
    """Whether it reads its inputs on the workers."""
    time_means: TimeMeans = "scan_start"
    """What the times it proposes mean, and so which scan is nearest to one: ``scan_start``, that of the start of a
    scan, as of what was itself made from scans; or ``observation``, when the place was seen, as of what others saw or
    measured there."""
    period: str | None = None
    """``module:object`` that tells, from the options, the period its inputs are of, as its start and its end
    (exclusive): what is taken where none is given. None where the inputs have none."""
    alone: str | None = None
    """``module:object`` that writes tables of its inputs without any scan: called with the options, of which those that
    were given are set, a request without scans, the southern and northern bound of latitudes or None, and a folder, it
    returns the paths and the problems. None where there is nothing to tell."""
    tables: tuple[str, ...] = ()
    """Names of the files that it may write beside the plan."""
    labels: str = ""
    """``module:object`` of a :class:`cube.strata.labelling.Labeller`, if its tiles have labels: called with the planned
    tiles and the options' arguments."""

    def __post_init__(self) -> None:
        if self.time_means not in get_args(TimeMeans):
            raise UsageError(
                f"`time_means` of a stratum is one of {', '.join(get_args(TimeMeans))}, not {self.time_means!r}"
            )
