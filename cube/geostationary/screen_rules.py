"""Which files are not fit to be used, by what was found of them; every threshold with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.same_place import aside_allowed
from cube.geostationary.screen_file import FileRecord
from cube.geostationary.screen_scene import of_another_band, twins, unlike
from cube.instrument import BRIGHTNESS
from stratacube.choices import many

__all__ = ["NEAR", "Verdict", "judge", "neighbours", "strangers", "told_unfit"]

ROWS = 0.02
"""Share of rows that may be bad: 5 % of an image's rows are found in the sample, and the worst real file has 0.6 %."""
VALID = 0.5
"""Share of pixels on the Earth below which a file is of no use."""
STRIPES = 0.08
"""Real files have 0.02 to 0.054. One row in eight that is off by half of the scatter gives 0.12."""
_CONTRAST = 5.0
"""Counts that an image scatters by before its stripes count: night is a count or two, of which rows are the pattern."""
_WARM = 0.001
"""Share of pixels whose focal plane was too warm above which that is told: GOES-17's, in nights about the equinoxes."""
NEAR = timedelta(minutes=60)
"""Within which scans are compared."""
_FEWEST = 2
"""Others that a file is compared with at least: of two that differ nobody knows which is wrong."""
_SUNLIT = 5.0
"""Wavelength in micrometres up to which the Sun adds to what the Earth emits: at 3.9 a glint is as bright as 350 K."""
_SIZES = (0.4, 2.5)
"""Bytes of thermal counts, by those of its neighbours in time: within an hour they change by a fifth at most."""
_SPREADS = (1 / 3, 3.0)
"""Scatter of thermal counts by that of the neighbours, which is that of the scene."""
_UNLIKE, _TIMES = 0.1, 8.0
"""How unlike a file may always be to the neighbour that is most like it, of the variance (a storm that grows in ten
minutes makes 0.06, turned images and those of other times 0.3 and more), and by how much more than those are unlike
each other, for as long as lies between them: a scene changes the more the longer it takes."""
_TOLD = {
    "fill": "hold no pixel",
    "repeated": "repeat the row before",
    "saturated": "are saturated",
    "noise": "are noise",
    "contradictory": "have counts that their quality flags deny, or none where those say good",
}


class Verdict(NamedTuple):
    """What is made of a file."""

    word: Literal["fit", "flagged", "unfit"]
    reason: str = ""


def told_unfit(href: str, reason: str) -> str:
    """Say of a file that it is not fit to be used, and why."""
    return f"{href} is not fit to be used: {reason}"


def judge(record: FileRecord, others: Sequence[FileRecord], foreign: Sequence[Sequence[FileRecord]] = ()) -> Verdict:
    """Say whether a file is fit to be used.

    Parameters
    ----------
    record
        What was found of it.
    others
        What was found of its neighbours in time; see :func:`neighbours`.
    foreign
        For each of these, what was found of the other bands of its scan.
    """
    reason = _by_itself(record) or _by_scene(record, others, foreign) or _by_neighbours(record, others)
    if reason:
        return Verdict("unfit", reason)
    warm = _share_of_flag(record, "focal_plane_temperature_exceeded")
    if warm > _WARM:
        return Verdict("flagged", f"the focal plane was too warm for {warm:.1%} of the pixels looked at")
    return Verdict("fit")


def strangers(records: Sequence[FileRecord], beside: Sequence[FileRecord] = ()) -> dict[str, str]:
    """Of the files of one scan, by address, those that do not look where most others do, and why; of two both.

    All channels of a scan are seen at once: their images have one corner and one view of the Earth. Of two bands with
    the very same pixels nobody knows which is right.

    Parameters
    ----------
    records
        What was found of the files of the scan.
    beside
        Of a sector that does not move, what was found of those of the scans next to it, which have the same corner.
    """
    opened = [r for r in records if not r.error]
    copied = twins(opened)
    found = {}
    for record in opened:
        others = [r for r in (*opened, *beside) if r.href != record.href and not r.error]
        aside = aside_allowed(record.start)
        alike = [r for r in others if r.seen_from == record.seen_from and _apart(r, record) <= aside]
        if (band := copied.get(record.href)) is not None:
            name = imager_of(record.platform).band(band).name
            found[record.href] = f"its pixels are those of {name} in the same scan"
        elif 2 * len(alike) < len(others):
            apart = float(np.median([_apart(r, record) for r in others]))
            found[record.href] = (
                f"its pixels lie {apart:.0f} microradians from those of the scan's other files"
                if apart > aside
                else "its projection is not that of the scan's other files"
            )
    return found


def _apart(one: FileRecord, other: FileRecord) -> float:
    return max(abs(a - b) for a, b in zip(one.corner, other.corner, strict=True))


def neighbours(record: FileRecord, records: Iterable[FileRecord]) -> list[FileRecord]:
    """Of records, those of the same band and pixels that lie within an hour, and are fit by themselves."""
    return [
        other
        for other in records
        if other.href != record.href
        and (other.platform, other.sector, other.channel, other.place)
        == (record.platform, record.sector, record.channel, record.place)
        and abs(other.start - record.start) <= np.timedelta64(NEAR)
        and not _by_itself(other)
    ]


def _by_itself(record: FileRecord) -> str:
    return record.error or _by_index(record) or _by_pixels(record)


def _by_index(record: FileRecord) -> str:
    if record.seconds <= 0:
        return "its name tells one time for its start and end, as a placeholder's does"
    if record.unwritten_chunks > ROWS * record.earth_chunks:
        return f"{record.unwritten_chunks} of {record.earth_chunks} chunks on the Earth were never written"
    if record.told_valid < VALID * record.earth_share:
        return f"{record.told_valid:.1%} of its pixels are valid by its own count"
    return ""


def _by_pixels(record: FileRecord) -> str:  # noqa: PLR0911  (each return is a reason)
    for name, share in record.row_shares.items():
        if share > ROWS:
            return f"{share:.1%} of the rows looked at {_TOLD[name]}"
    if record.seams:
        return f"{many(record.seams, 'row')} of those looked at have nothing to do with the next"
    if record.empty > ROWS:
        return f"{record.empty:.1%} of the pixels looked at, all on the Earth, hold no count"
    if record.small:
        return record.small
    if record.valid < VALID:
        return f"{record.valid:.1%} of the pixels looked at are valid"
    if record.stripes > STRIPES and record.spread > _CONTRAST:
        return f"its rows differ from those beside them by {record.stripes:.2g} times the scatter of its pixels"
    return ""


def _by_neighbours(record: FileRecord, others: Sequence[FileRecord]) -> str:
    """What cannot be within an hour, of bands that do not depend on the Sun."""
    imager = imager_of(record.platform)
    band = imager.band(record.channel)
    if len(others) < _FEWEST or band.wavelength_um < _SUNLIT or imager.standard(BRIGHTNESS, band.name) is None:
        return ""
    ratio = record.stored_bytes / max(1.0, float(np.median([o.stored_bytes for o in others])))
    if not _SIZES[0] <= ratio <= _SIZES[1]:
        return f"its counts take {ratio:.2g} times the bytes of those of its neighbours in time"
    seen = [o for o in others if o.level == 2]
    if record.level < 2 or len(seen) < _FEWEST:
        return ""
    spread = float(np.median([o.spread for o in seen]))
    if spread > _CONTRAST and not _SPREADS[0] <= record.spread / spread <= _SPREADS[1]:
        return f"its counts scatter {record.spread / spread:.2g} times as much as those of its neighbours in time"
    return ""


def _by_scene(record: FileRecord, others: Sequence[FileRecord], foreign: Sequence[Sequence[FileRecord]]) -> str:
    """What does not show what its neighbours in time show."""
    if record.level < 2 or len(others) < _FEWEST or any(o.level < 2 for o in others):
        return ""
    if foreign and (another := of_another_band(record, others, foreign)):
        return f"its pixels are those of {another}, by its neighbours in time"
    apart = min(unlike(record, o) for o in others)
    usual = max(unlike(one, two) for one, two in combinations(others, 2))
    if apart > max(_UNLIKE, _TIMES * _share_of_time(record, others) * usual):
        return (
            f"its pixels are not those of its neighbours in time ({apart:.2g} of their variance off, "
            f"where those are {usual:.2g} from each other)"
        )
    return ""


def _share_of_time(record: FileRecord, others: Sequence[FileRecord]) -> float:
    """Time to the nearest of the neighbours by that between them: a half in the middle, 1 at an end of the archive."""
    between = max(abs(one.start - two.start) for one, two in combinations(others, 2))
    nearest = min(abs(record.start - other.start) for other in others)
    return max(0.5, float(nearest / between)) if between else 1.0


def _share_of_flag(record: FileRecord, name: str) -> float:
    names = dialect_of(record.platform).flags
    return record.flags[names.index(name)] if record.flags and name in names else 0.0
