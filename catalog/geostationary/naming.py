"""What a catalogue has to know of an imager: how its files are named, what flies it, which areas and bands it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from stratacube.choices import nearest
from stratacube.errors import UsageError

if TYPE_CHECKING:
    from catalog.geostationary.bands import Band
    from catalog.publish.model import Observatory

__all__ = ["REPROCESSED", "FileName", "Naming", "Span", "lineage_of"]

REPROCESSED = "-Reproc"
"""At the end of a product, and of the folder it is kept in: of the reprocessed record, another lineage than what the
operational system made. The two differ in calibration and are never mixed."""

_WAVELENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(?:um|µm|μm|microns?)")
_RANGE = re.compile(r"(.+?)\s*(?:-|\.\.)\s*(.+)")

Span = tuple[str, datetime | None, datetime | None]
"""A platform, and the part of a period that it holds, end exclusive; None is open."""


class FileName(NamedTuple):
    """What the name of a file tells. Times are naive UTC."""

    platform: str
    product: str
    """With its lineage: ``ABI-L1b-RadF``, or ``ABI-L1b-RadF-Reproc``."""
    sector: str
    mode: int
    """Scan mode; 0 where names do not tell."""
    channel: int
    start: datetime
    end: datetime
    created: datetime
    """The start, where names do not tell."""


def lineage_of(product: str) -> str:
    """Lineage that a product names: empty for the operational one, or :data:`REPROCESSED`."""
    return REPROCESSED if product.strip().lower().endswith(REPROCESSED.lower()) else ""


def _enters_all(platform: str | None, sector: str | None, folder: str) -> bool:
    return True


def _nothing_near(name: str) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Names of one imager, its files, satellites, areas and bands."""

    title: str
    """Of the imager."""
    platforms: tuple[str, ...]
    satellites: str
    """The platforms in words, with what else may be said for them."""
    product: str
    """Where no other is asked for."""
    sectors: tuple[str, ...]
    moving: frozenset[str]
    """Sectors that look elsewhere from scan to scan."""
    bands: Mapping[int, Band]
    """By channel number."""
    online: bool
    """Whether there is an S3 archive that is read."""
    parse: Callable[[str], FileName | None]
    """Read a file name; None where it is not that of a file that is read."""
    normalise: Callable[[str], str]
    """One spelling for a platform, or what may be said for it; UsageError where it is another's."""
    parse_sector: Callable[[str, str | None], str]
    """The sector that a product and a domain name together."""
    spans: Callable[[str, datetime | None, datetime | None], list[Span]]
    """Platforms that a name means in a period."""
    observatory: Callable[[], Observatory]
    """What STAC says; made when it is asked for."""
    numbers: Mapping[str, int]
    """Platforms as a store has them."""
    platform_attributes: Mapping[str, Any]
    """What a store says of those numbers."""
    enters: Callable[[str | None, str | None, str], bool] = _enters_all
    """Whether a folder may hold files of a platform and sector, by its name."""
    nearly: Callable[[str], str | None] = _nothing_near
    """Why a file name that looks like the imager's is not read; None for any other."""

    def parse_path(self, path: str) -> FileName | None:
        """Read the name of a file and, where only that tells it, its lineage from the folder of its product."""
        folder, _, name = path.rpartition("/")
        found = self.parse(name)
        if found is None or lineage_of(found.product) or f"{REPROCESSED}/" not in f"{folder}/":
            return found
        return found._replace(product=found.product + REPROCESSED)

    def knows(self, platform: str) -> bool:
        """Whether a platform, in any spelling, is the imager's."""
        try:
            self.normalise(platform)
        except UsageError:
            return False
        return True

    def number(self, key: str | int) -> int:
        """Channel number of a band in any sensible spelling.

        Parameters
        ----------
        key
            Number or name, whatever the case and the zeros that lead its digits, after ``band`` or ``channel`` or not;
            common name of the STAC EO extension, such as ``nir``; or a wavelength within the band, such as ``10.3um``.

        Raises
        ------
        UsageError
            If there is none.
        """
        wanted = _without_zeros(re.sub(r"^\s*(?:band|channel|ch)[\s_-]*(?=\d)", "", str(key), flags=re.IGNORECASE))
        for channel, band in self.bands.items():
            if wanted in (str(channel), _without_zeros(band.name), band.common_name):
                return channel
        length = _WAVELENGTH.fullmatch(wanted)
        within = [b for b in self.bands.values() if length and abs(b.wavelength - float(length[1])) <= b.fwhm / 2]
        if within and length:
            return min(within, key=lambda b: abs(b.wavelength - float(length[1]))).channel
        known = [*self.names.values(), *(b.common_name for b in self.bands.values() if b.common_name)]
        raise UsageError(f"channel {key!r} is unknown; {self.title} has {self.told_bands}{nearest(str(key), known)}")

    def numbers_of(self, key: str | int) -> list[int]:
        """Channel numbers that one word means: a band, ``all``, or all from one to another, such as ``C08-C10``.

        Raises
        ------
        UsageError
            If a band is unknown, or the last comes before the first.
        """
        if isinstance(key, int) or key.strip().isdecimal():
            return [int(key)]  # whether there is such a channel is asked of all of them together
        if key.strip().lower() == "all":
            return sorted(self.bands)
        ends = _RANGE.fullmatch(key.strip())
        if ends is None or self._is_band(key):
            return [self.number(key)]
        first, last = (self.number(end) for end in ends.groups())
        if first > last:
            raise UsageError(f"channels {key!r} end at {last} before they begin at {first}; give the lower one first")
        return [channel for channel in sorted(self.bands) if first <= channel <= last]

    def numbers_among(self, keys: Iterable[str | int]) -> list[int]:
        """Channel numbers that words mean (:meth:`numbers_of`), each once, of bands that there are.

        Raises
        ------
        UsageError
            As of :meth:`numbers_of`, or if there is no such channel.
        """
        meant = (number for key in keys for number in self.numbers_of(key if isinstance(key, int) else str(key)))
        return list(dict.fromkeys(self.number(number) for number in meant))

    def _is_band(self, key: str) -> bool:
        try:
            self.number(key)
        except UsageError:
            return False
        return True

    @property
    def told_bands(self) -> str:
        """The bands in words."""
        first, *_, last = sorted(self.bands.values(), key=lambda band: band.channel)
        if len(self.bands) <= last.channel - first.channel:
            return "channels " + ", ".join(f"{b.channel} ({b.name})" for _, b in sorted(self.bands.items()))
        return f"channels {first.channel} to {last.channel} ({first.name} to {last.name})"

    @property
    def names(self) -> dict[int, str]:
        """Names of the bands by channel number."""
        return {channel: band.name for channel, band in self.bands.items()}


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text.strip().lower())
