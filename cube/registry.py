"""All that has a name: sources, instruments, strata, engines, reducers, kinds of masks.

These are the only lists. Ours stand here, so that a checkout runs as it is; other people's come by entry points of
packages that are installed. Nothing is imported before it is asked for by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, cast

from cube.plug import imported
from stratacube.choices import nearest, one_of
from stratacube.errors import PlugError, StratacubeError, UsageError

__all__ = ["ENGINES", "INSTRUMENTS", "MASKS", "REDUCERS", "SOURCES", "STRATA", "Registry", "is_name"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""Names are words of commands, of files and of flags."""


@cache
def _installed() -> EntryPoints:
    """All entry points there are; reading them takes some milliseconds."""
    return cast(EntryPoints, entry_points())  # what Python 3.12 and later say it is


def is_name(word: str) -> bool:
    """Whether a word may be the name of a plug or of a command."""
    return _NAME.fullmatch(word) is not None


class Registry:
    """Plugs of one kind, by name.

    Parameters
    ----------
    kind
        What one of them is called.
    group
        Of the entry points of other people's.
    ours
        ``module:object`` by name.
    needs
        Attributes that one of them has; what lacks one is none.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, str], needs: Sequence[str]) -> None:
        self.kind, self.group, self.ours, self.needs = kind, group, dict(ours), tuple(needs)
        self._loaded: dict[str, Any] = {}
        self._outside: dict[str, EntryPoint] | None = None
        self.failed: dict[str, str] = {}
        """Why some of other people's cannot be used, by name: who asks for one is told that, not that it is unknown."""

    @property
    def outside(self) -> dict[str, EntryPoint]:
        """Other people's, by name; those that failed to import are left out."""
        if self._outside is None:
            found: dict[str, EntryPoint] = {}
            for point in sorted(_installed().select(group=self.group), key=lambda p: (p.name, _distribution(p))):
                if not is_name(point.name):
                    self._leave_out(point, "its name is not a word of small letters, digits, - and _")
                elif point.name in self.ours or point.name in found:
                    self._leave_out(point, "the name is taken")
                else:
                    found[point.name] = point
            self._outside = found
        return self._outside

    def names(self) -> list[str]:
        """All names: ours, then other people's in alphabetical order."""
        return [*self.ours, *self.outside]

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises
        ------
        UsageError
            If there is none of the name, or it fails to import.
        """
        if name not in self._loaded:
            if name in self.failed:
                raise UsageError(self.failed[name])
            if name not in self.ours and name not in self.outside:
                known = self.names()
                raise UsageError(f"{self.kind} {name!r} is unknown: give {one_of(known)}{nearest(name, known)}")
            place = self.ours.get(name) or self.outside[name].value
            try:
                found = imported(place)
                for attribute in self.needs:
                    if not hasattr(found, attribute):
                        raise TypeError(f"{place} is not a {self.kind}: it has no {attribute}")
                self._loaded[name] = found
            except Exception as error:  # whatever the code of others does when it is imported
                if name in self.ours:
                    raise
                raise UsageError(f"{self.maker(name)} cannot be used ({_told(error)}); mend or uninstall it") from error
        return self._loaded[name]

    def all(self) -> dict[str, Any]:
        """Import all; each of other people's that fails is left out from now on, with one warning."""
        loaded = {}
        for name in self.names():
            try:
                loaded[name] = self.load(name)
            except UsageError as error:
                self.drop(name, error)
        return loaded

    def maker(self, name: str) -> str:
        """Say whose one of other people's is: its kind, its name and its distribution."""
        return f"{self.kind} {name!r} of {_distribution(self.outside[name])}"

    @contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """Within, where code of a plug runs, whatever other people's raises is one sentence that names it.

        What ours raise passes as it is, and so does what is a sentence already or is of the machine.

        Raises
        ------
        PlugError
            In place of any other exception.
        """
        try:
            yield
        except (StratacubeError, OSError, BrokenExecutor):
            raise
        except Exception as error:  # whatever the code of others does when it runs
            if name not in self.outside:
                raise
            raise PlugError(
                f"{self.maker(name)} failed ({_told(error)}); mend or uninstall it; the build's log has the traceback"
            ) from error

    def drop(self, name: str, reason: Exception) -> None:
        """Leave one of other people's out from now on, with one warning."""
        self.failed[name] = (
            f"{self.maker(name)} cannot be used ({_told(reason.__cause__ or reason)}); mend or uninstall it"
        )
        point = self.outside.pop(name)
        self._leave_out(point, _told(reason.__cause__ or reason))

    def _leave_out(self, point: EntryPoint, reason: str) -> None:
        _log.warning("%s %r of %s is left out: %s", self.kind, point.name, _distribution(point), reason)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "a package"


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


SOURCES = Registry(
    "source",
    "stratacube.sources",
    {
        "geostationary": "cube.geostationary.plug:SOURCE",
        "sentinel2": "cube.sentinel2.plug:SOURCE",
        "chips": "cube.geostationary.chips.plug:SOURCE",
    },
    ("commands", "inspection"),
)
"""What is built from: :class:`cube.plug.SourcePlug`."""

STRATA = Registry(
    "stratum",
    "stratacube.strata",
    {
        "random": "cube.strata.plugs:RANDOM",
        "convection": "cube.strata.plugs:CONVECTION",
        "landcover": "cube.strata.landcover.plug:LANDCOVER",
        "events": "cube.strata.events.plug:EVENTS",
        "cloudsat": "cube.strata.cloudsat.plug:CLOUDSAT",
        "clouds": "cube.strata.clouds.plug:CLOUDS",
    },
    ("sampler", "options", "tiles", "refusals", "parallel", "tables", "time_means"),
)
"""How places and times of tiles are chosen: :class:`cube.strata.plug.Stratum`."""

MASKS = Registry(
    "kind of masks",
    "stratacube.masks",
    {
        "toocan": "cube.strata.readers.toocan:TOOCAN",
        "flextrkr": "cube.strata.readers.flextrkr:FLEXTRKR",
        "tobac": "cube.strata.readers.tobac:TOBAC",
        "tracks": "cube.strata.readers.tracks:TRACKS",
        "daily": "cube.strata.readers.daily:DAILY",
        "monthly": "cube.strata.readers.daily:MONTHLY",
    },
    ("example", "start", "survey"),
)
"""Files of tracked cloud systems: :class:`cube.strata.masks.MaskKind`."""

ENGINES = Registry(
    "engine",
    "stratacube.engines",
    {
        "local": "cube.job.engine.local:local_executor",
        "dask": "cube.job.engine.plugs:DASK",
        "mpi": "cube.job.engine.plugs:MPI",
    },
    ("__call__",),
)
"""Where tasks run: called with a number of workers and the modules they need, gives an executor; one that has options
is a :class:`cube.job.engine.plug.EnginePlug`."""

REDUCERS = Registry(
    "reducer",
    "stratacube.reducers",
    {
        "median": "cube.sentinel2.reduce:MEDIAN",
        "geomedian": "cube.sentinel2.geomedian:GEOMEDIAN",
        **{name: f"cube.sentinel2.reduce:{name.upper()}" for name in ("mean", "count", "medoid", "best")},
        **{name: f"cube.sentinel2.layers:{name.upper()}" for name in ("emad", "smad", "bcmad", "date", "months")},
    },
    ("name", "joint", "reduce", "counts", "clearest_first"),
)
"""From observations to one value a pixel: :class:`cube.sentinel2.reduce.Reducer`; percentiles besides."""

INSTRUMENTS = Registry(
    "instrument",
    "stratacube.instruments",
    {"abi": "cube.geostationary.abi:ABI", "ami": "cube.geostationary.ami:AMI"},
    ("bands", "quantities", "scan", "dialect"),
)
"""What sees: :class:`cube.instrument.Instrument`."""
