"""Tiles of real scans that flatter no codec: nothing is in two of them, nor twice in one.

The steps of a tile are disjoint crops of one scan, and no two scans are of the same place and time. So a codec finds
nothing twice that it would not find twice in a build: crops that overlap let it copy what it has seen just before.
Steps of a build are 20 minutes apart and do resemble one another; how much depends on the weather, and here it is left
out. Bands are at their native pixels, those of 0.5 km averaged to 1 km, and masks are what the files' DQF say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cube.geostationary.resample import average, count_factor

__all__ = ["SCANS", "Crops", "real_crops"]

SCANS = {
    "M1, day": "abi/noaa-goes17/ABI-L1b-RadM/2019/300/20/*RadM1*.nc",
    "M1, night": "abi/noaa-goes17/ABI-L1b-RadM/2019/335/10/*RadM1*.nc",
    "M1, limb": "abi/noaa-goes17/ABI-L1b-RadM/2019/001/00/*RadM1*.nc",
    "M1 of 2017, day": "abi/noaa-goes16/ABI-L1b-RadM/2017/193/18/*RadM1*.nc",
    "M1 of 2020, night": "abi/noaa-goes16/ABI-L1b-RadM/2020/001/00/*RadM1*.nc",
    "C, night": "abi/noaa-goes16/ABI-L1b-RadC/2020/004/03/*RadC*.nc",
    "C, day": "abi/noaa-goes16/ABI-L1b-RadC/2023/256/15/*RadC*.nc",
    "F, night, from level 2": "abi_fulldisk_l2/*CMIPF*.nc",
}
"""Files by scan. The CONUS scan of 2019, day 300, is left out: it sees the place of the first, a minute later."""
_FULL_SIDE = 5424 * 2
"""Rows of 1 km over the full disk."""
_L1B_OF_LEVEL_2 = {3: (0.37691253, -12.037643, 1023), 7: (0.00156435, -0.0376, 16383)}
"""Scale, offset and fill of the radiances that a level 2 file is made of again."""
Counts = npt.NDArray[np.uint16]


@dataclass
class Crops:
    """Tiles of one scan."""

    scan: str
    bands: dict[int, Counts] = field(default_factory=dict)
    """By channel, (tile, step, y, x) at the band's pixel."""
    valid: dict[str, Counts] = field(default_factory=dict)
    """By pixel (``1km``, ``2km``), bit ``channel - 1`` where that band is usable."""


def real_crops(data: Path, *, steps: int, size: int, most: int) -> Iterator[Crops]:
    """Tiles of every scan.

    Parameters
    ----------
    data
        Folder of the samples.
    steps
        Crops of a tile.
    size
        Pixels of 1 km along the side of a crop; even.
    most
        Tiles of one scan at most, taken evenly from all places.
    """
    for scan, pattern in SCANS.items():
        files = {_channel(path): path for path in sorted(data.glob(pattern))}
        crops = Crops(scan)
        for channel, path in files.items():
            counts, good = _band(path, channel, steps, size, most)
            pixel = "1km" if counts.shape[-1] == size else "2km"
            crops.bands[channel] = counts
            mask = crops.valid.setdefault(pixel, np.zeros(counts.shape, "u2"))
            mask |= good * np.uint16(1 << (channel - 1))
        yield crops


def _channel(path: Path) -> int:
    return int(path.name.split("_")[1][-2:])


def _band(path: Path, channel: int, steps: int, size: int, most: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    with h5py.File(path) as file:
        image, flags = file["Rad" if "Rad" in file else "CMI"], file["DQF"]
        sector = 1000 if "RadM" in path.name else _FULL_SIDE if "CMIPF" in path.name else 3000
        ratio = image.shape[0] / sector  # pixels along a kilometre
        side = round(size * ratio)
        places = _places(image.shape[0] // side, image.shape[1] // side, steps, most)
        windows = [np.s_[r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in places]
        raw = np.stack([image[w] for w in windows]).view("u2")
        good = np.isin(np.stack([flags[w] for w in windows]), (0, 1))
        if "CMI" in file:
            raw, good = _radiance_counts(file, channel, raw, good)
        good &= raw != (image.attrs["_FillValue"].view("u2")[0] if "Rad" in file else _L1B_OF_LEVEL_2[channel][2])
    if ratio > 1.5:
        factor = count_factor(2, int(raw[good].max()))
        averaged = [average(r, g, 2, factor) for r, g in zip(raw, good, strict=True)]
        raw, good = np.stack([a for a, _ in averaged]), np.stack([g for _, g in averaged])
    shape = (len(raw) // steps, steps, *raw.shape[1:])
    return raw.reshape(shape), good.reshape(shape)


def _places(rows: int, columns: int, steps: int, most: int) -> list[tuple[int, int]]:
    """Places of the crops: runs of neighbours, the runs evenly over all there are."""
    every = [(r, c) for r in range(rows) for c in range(columns)]
    runs = [every[i : i + steps] for i in range(0, len(every) - steps + 1, steps)]
    count = min(most, len(runs))
    return [place for i in range(count) for place in runs[(2 * i + 1) * len(runs) // (2 * count)]]


def _radiance_counts(
    file: h5py.File, channel: int, raw: Counts, good: npt.NDArray[np.bool_]
) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Counts of level 1b that a level 2 file was made of, as near as its own packing lets them be told."""
    image = file["CMI"]
    there = raw != image.attrs["_FillValue"].view("u2")[0]
    value = raw * image.attrs["scale_factor"][0] + image.attrs["add_offset"][0]
    if channel <= 6:
        radiance = value / file["kappa0"][()]
    else:
        fk1, fk2, bc1, bc2 = (file[f"planck_{name}"][()] for name in ("fk1", "fk2", "bc1", "bc2"))
        radiance = fk1 / (np.exp(fk2 / (bc1 + bc2 * value)) - 1)
    scale, offset, fill = _L1B_OF_LEVEL_2[channel]
    counts = np.clip(np.rint((radiance - offset) / scale), 0, fill - 1)
    return np.where(there, counts, fill).astype("u2"), good & there
