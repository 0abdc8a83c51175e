"""How ABI scans: when each swath of a sector is seen, by mode.

The tables are those of NOAA STAR (GOES-16 and GOES-17 ABI pixel times, https://www.star.nesdis.noaa.gov/GOESCal/
goes_tools.php), in whole seconds for each pixel, of which this is what remains: they are the same along a swath's
columns, and grow along its rows at the imager's rate of 1.4 degrees a second. The full disk of mode 6 is another for
GOES-17, whose scans take 24 s less; GOES-18 and GOES-19 are taken to scan as GOES-16 does, whose length their files
have.
"""

from __future__ import annotations

import math
from dataclasses import replace

from cube.geostationary.pixel_time import Timeline

__all__ = ["ABI_TIMELINES"]

_FULL_DISK = Timeline(
    sectors=("F",),
    modes=(6,),
    edges=(
        *(142800, 128576, 114408, 100184, 85960, 71736, 57512, 43288, 29120, 14896, 672),
        *(-13552, -27776, -41944, -56168, -70392, -84616, -98840, -113064, -127232, -141456),
    ),
    fixed=True,
    middles=(2.07, 16.91, 26.88, 48.97, *(77.94 + 30 * swath for swath in range(17)), 566.18),
    rate=1 / math.radians(1.4),
    error=1.0,
    source="by NOAA STAR's table of GOES-16",
)
_CONUS = replace(
    _FULL_DISK,
    sectors=("C",),
    modes=(3, 6),
    edges=(12880, 27104, 41328, 55552, 69776),
    fixed=False,
    middles=tuple(2.86 + 30 * swath for swath in range(6)),
)
_MESOSCALE = replace(_CONUS, sectors=("M1", "M2"), edges=(13328,), middles=(0.56, 3.59))
_OF_GOES17 = replace(
    _FULL_DISK,
    platforms=("goes17",),
    middles=(2.07, 10.32, 20.28, 37.98, *(65.6 + 30 * swath for swath in range(16)), 525.56, 542.05),
    source="by NOAA STAR's table of GOES-17",
)
_MODE_3 = replace(_FULL_DISK, modes=(3,), middles=tuple(2.07 + 30 * swath for swath in range(22)))
_MODE_4 = replace(
    _FULL_DISK,
    modes=(4,),
    middles=(
        *(2.07, 10.32, 20.28, 31.51, 43.72, 56.67, 70.21, 87.92, 102.25, 116.82, 131.47),
        *(146.15, 160.83, 179.02, 193.35, 207.36, 220.92, 233.88, 246.07, 257.28, 267.25, 275.52),
    ),
)

ABI_TIMELINES = (_OF_GOES17, _FULL_DISK, _MODE_3, _MODE_4, _CONUS, _MESOSCALE)
"""The first that fits holds. Modes 3 (until April 2019) and 6 leave time for other sectors between swaths; mode 4 is of
full disks alone, every 5 minutes."""
