"""How ABI scans: when each swath of a sector is seen, by mode.

The tables of mode 6 are those of NOAA STAR (GOES-16 ABI pixel times, https://www.star.nesdis.noaa.gov/GOESCal/
goes_tools.php), in whole seconds for each pixel, of which this is what remains: they are the same along a swath's
columns, and grow along its rows at the imager's rate of 1.4 degrees a second. The other satellites carry the same
imager and are taken to scan alike.

There is no table of mode 3. Its full disk has the same 22 swaths, is called 66 s longer by the names of its files
(637 s instead of 571 s), and its last pixels are seen 638 s after its start. With 30 s from each swath to the next, the
pace of the other swaths, they are: 2.1 s + 21 * 30 s + 6.2 s. Its other sectors last as long as those of mode 6.
"""

from __future__ import annotations

import math
from dataclasses import replace

from cube.geostationary.pixel_time import Timeline

__all__ = ["ABI_TIMELINES"]

_RATE = 1 / math.radians(1.4)
_STAR = "by NOAA STAR's table of GOES-16"
_DERIVED = "as derived from that of mode 6 and the length of a scan"

_FULL_DISK = Timeline(
    sectors=("F",),
    modes=(6,),
    edges=(
        *(142800, 128576, 114408, 100184, 85960, 71736, 57512, 43288, 29120, 14896, 672),
        *(-13552, -27776, -41944, -56168, -70392, -84616, -98840, -113064, -127232, -141456),
    ),
    fixed=True,
    middles=(2.07, 16.91, 26.88, 48.97, *(77.94 + 30 * swath for swath in range(17)), 566.18),
    rate=_RATE,
    error=1.0,
    source=_STAR,
)
_CONUS = Timeline(
    sectors=("C",),
    modes=(6,),
    edges=(12880, 27104, 41328, 55552, 69776),
    fixed=False,
    middles=tuple(2.86 + 30 * swath for swath in range(6)),
    rate=_RATE,
    error=1.0,
    source=_STAR,
)
_MESOSCALE = Timeline(
    sectors=("M1", "M2"),
    modes=(6,),
    edges=(13328,),
    fixed=False,
    middles=(0.56, 3.59),
    rate=_RATE,
    error=1.0,
    source=_STAR,
)

ABI_TIMELINES = (
    _FULL_DISK,
    _CONUS,
    _MESOSCALE,
    replace(
        _FULL_DISK,
        modes=(3,),
        middles=tuple(2.07 + 30 * swath for swath in range(22)),
        error=None,
        source=_DERIVED,
    ),
    *(replace(t, modes=(3,), error=None, source="as in mode 6") for t in (_CONUS, _MESOSCALE)),
)
"""Mode 4, full disks every 5 minutes, has none: nothing is known of it but its start and end."""
