"""How an imager's files speak: their names, and how a header is read. Each imager brings one, in its own file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cube.registry import INSTRUMENTS
from stratacube.errors import UsageError

if TYPE_CHECKING:
    import h5py

    from catalog.geostationary.naming import Naming
    from catalog.geostationary.scans import SourceFile
    from cube.geostationary.file_index import FileIndex
    from cube.geostationary.pixel_time import Timeline
    from cube.instrument import Instrument

__all__ = ["Dialect", "dialect_of", "dialects", "imager_of", "together", "told_of_imagers"]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What is particular to the files of one imager; all else reads by what this says."""

    names: Naming
    files: str
    """What the files are called, such as ``ABI L1b``."""
    read: Callable[[h5py.File, SourceFile], FileIndex]
    """Read a header. Whatever is not as it should be is a ValueError, which is told with the file's name."""
    counts: str
    """Dataset of the counts."""
    quality: str
    """Dataset of the quality flags; that of the counts where they are bits of it."""
    flags: tuple[str, ...]
    """What a quality flag means, from 0."""
    hollow: tuple[int, ...] = ()
    """Flags of pixels that hold no value, besides those that hold the fill value."""
    grid_mapping: str
    """Of stores and virtual cubes."""
    source: str
    """What stores and reports say the pixels are."""
    attributes: Callable[[FileIndex], Mapping[str, Mapping[str, Any]]]
    """What references say of each dataset."""
    timelines: tuple[Timeline, ...] = ()
    """When the swaths of its scans are seen; scans without are taken to run evenly."""


def dialects() -> dict[str, Instrument]:
    """Imagers whose files are read, by name: instruments that have a dialect."""
    return {name: found for name, found in INSTRUMENTS.all().items() if found.dialect is not None}


@cache  # asked for every file and every place that is tried
def imager_of(satellite: str) -> Instrument:
    """Return the imager that a satellite carries.

    Parameters
    ----------
    satellite
        In any spelling that the imager's names know.

    Raises
    ------
    UsageError
        If no imager is known to fly on it.
    """
    known = dialects()
    for name, imager in known.items():
        with INSTRUMENTS.blamed(name):
            if imager.dialect.names.knows(satellite):
                return imager
    told = ", ".join(f"{i.title} flies on {i.dialect.names.satellites}" for i in known.values())
    raise UsageError(f"satellite {satellite!r} is unknown; {told}")


AUTO = ("east", "west")
"""Satellites that ``auto`` means."""


def together(given: Any) -> str:
    """One spelling for the satellites of a build: their names, apart by blanks.

    Parameters
    ----------
    given
        Words, or a list of them; ``auto`` for those of :data:`AUTO`.

    Raises
    ------
    UsageError
        If one is unknown, named twice, or carries another imager than the first.
    """
    if not isinstance(given, (str, list, tuple)) or not given:
        raise UsageError(f"`satellite` is {given!r}; give one, or several of one imager, such as goes16 or east west")
    words = re.split(r"[,\s]+", given.strip()) if isinstance(given, str) else [str(word) for word in given]
    words = list(AUTO) if words == ["auto"] else words
    names = imager_of(words[0]).dialect.names
    for word in words[1:]:
        if imager_of(word).dialect.names is not names:
            raise UsageError(
                f"`satellite` names {words[0]} and {word}, which carry different imagers; build each alone"
            )
    found = [names.normalise(word) for word in words]
    if len({*found}) < len(found):
        raise UsageError(f"`satellite` is {' '.join(words)}: name each satellite once")
    return " ".join(found)


def told_of_imagers(what: Callable[[Naming], str]) -> str:
    """Say in words what there is of each imager, such as its satellites or its areas."""
    return "; ".join(f"{i.title}: {what(i.dialect.names)}" for i in dialects().values())


def dialect_of(satellite: str) -> Dialect:
    """Return the dialect of the files of a satellite's imager; see :func:`imager_of`."""
    found: Dialect = imager_of(satellite).dialect
    return found
