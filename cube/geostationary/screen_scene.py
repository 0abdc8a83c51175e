"""Whether a file shows what others show: its neighbours in time, and the other bands of its scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cube.geostationary.dialect import imager_of
from cube.geostationary.screen_file import FileRecord

__all__ = ["of_another_band", "twins", "unlike"]

_FEWEST = 8
"""Parts of chunks that two files must both show before anything is said."""
_LOW = 0.2
"""Cosine of the Sun's zenith angle below which sunlight is not compared: it changes too fast."""
_CONTRAST = 5.0
"""Counts that a scene scatters by before anything is said of it: night is a count or two."""
_CLOSER = 4.0
"""How much less unlike another band's neighbours are than its own before its content is taken for that band's."""
_OWN = 0.02
"""How unlike its own it is then at least: from less, nothing follows."""

Parts = npt.NDArray[np.float64]


def unlike(record: FileRecord, other: FileRecord) -> float:
    """How unlike the scenes of two files are: 0 for the same, about 1 for two that have nothing in common.

    The mean square of their differences by the sum of their variances, over parts of the chunks that were decoded of
    both. Sunlight is compared as if the Sun stood where it stood for the other.

    Returns
    -------
    float
        NaN where too little of both is seen.
    """
    one, two = _as_seen(record, record, other), _as_seen(other, record, other)
    there = np.isfinite(one) & np.isfinite(two)
    if there.sum() < _FEWEST:
        return float("nan")
    one, two = one[there], two[there]
    return float(np.square(one - two).mean() / (one.var() + two.var() + _CONTRAST**2))


def _as_seen(record: FileRecord, one: FileRecord, two: FileRecord) -> Parts:
    """Counts of those chunks that two files have in common; of sunlight, by its height."""
    number = min(one.chunks, two.chunks)
    parts = record.parts()[:number]
    suns = [r.sun for r in (one, two) if r.sun]
    if not suns:
        return parts
    lowest = np.min([s[:number] for s in suns], axis=0)
    sun = np.asarray((record.sun or suns[0])[:number])
    dark = next(r.dark for r in (two, one) if r.sun)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled: Parts = np.where((lowest > _LOW)[:, None], (parts - dark) / sun[:, None], np.nan)
    return scaled


def twins(records: Sequence[FileRecord]) -> dict[str, int]:
    """Of the files of one scan, by address, those that show the very scene of another band's file, and that band."""
    found = {}
    seen = [r for r in records if r.level == 2 and r.spread > _CONTRAST]
    for record in seen:
        alike = [r.channel for r in seen if r.href != record.href and r.scene == record.scene]
        if alike:
            found[record.href] = alike[0]
    return found


def of_another_band(
    record: FileRecord, near: Sequence[FileRecord], others: Sequence[Sequence[FileRecord]]
) -> str | None:
    """Name of the band whose neighbours in time a file is much more like than its own; None where there is none.

    Parameters
    ----------
    record
        Of the file.
    near
        Its neighbours.
    others
        For each of them, the files of other bands of that scan.
    """
    found: list[set[int]] = []
    for own, of_scan in zip(near, others, strict=True):
        apart = unlike(record, own)
        if not apart > _OWN:
            return None
        found.append({o.channel for o in of_scan if o.pixels == record.pixels and _CLOSER * unlike(record, o) < apart})
    both = set.intersection(*found) if found else set()
    return imager_of(record.platform).band(min(both)).name if both else None
