"""The scenes that evidence of learning is sought on, and what of them is learned from and judged on.

A case is arrays (scenes, frames, bands, y, x), rectangles to be judged on, and a gap around them. Windows learned from
keep the gap; windows judged on lie in the rectangles and do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

import cube
from training.batches import Batch, Statistics

SIDE = 64
"""Of a window, pixels."""
ABI = tuple(f"C{number:02d}" for number in range(1, 17))
GROUPS = (ABI[:3], ABI[3:7], ABI[7:10], ABI[10:])
DISK_YEAR = "2019-01-04T06:00"
Place = tuple[int, int, int]
"""Scene, row and column of a window."""


@dataclass(frozen=True)
class Case:
    """What is learned, and where."""

    name: str
    title: str
    model: dict[str, Any]
    """Keys of the model's configuration: kind, bands, frames, groups."""
    scenes: Tensor
    """(scenes, frames, bands, y, x), NaN where nothing is known."""
    minutes: Tensor
    """(scenes, frames)."""
    train: tuple[Place, ...]
    judged: dict[str, tuple[Place, ...]]
    """By the name of a part, such as day and night."""
    dark: dict[str, tuple[str, ...]]
    """Bands of a part that hold noise alone, which nothing predicts."""

    def statistics(self) -> Statistics:
        """Mean and deviation of each band over what is learned from."""
        known = self.cut(self.train[:: max(1, len(self.train) // 512)])
        mean = known.nanmean((0, 1, 3, 4))
        spread = (known - mean[:, None, None]).square().nanmean((0, 1, 3, 4)).sqrt()
        bands = tuple(self.model["bands"])
        span = tuple((6 * spread).tolist())
        return Statistics(bands, tuple(mean.tolist()), tuple(spread.tolist()), span)

    def cut(self, places: Sequence[Place]) -> Tensor:
        """Windows (windows, frames, bands, SIDE, SIDE), physical."""
        return torch.stack([self.scenes[s, :, :, y : y + SIDE, x : x + SIDE] for s, y, x in places])

    def batch(self, places: Sequence[Place], turns: np.random.Generator | None = None) -> Batch:
        """Windows, normalised; turned and mirrored at random where ``turns`` is given."""
        windows, statistics = self.cut(places), self.statistics()
        mean, spread = statistics.tensors(windows.device)
        if turns is not None:
            for window in windows:
                window.copy_(torch.rot90(window, int(turns.integers(4)), (2, 3)))
                window.copy_(window.flip(3) if turns.random() < 0.5 else window.clone())
        minutes = torch.stack([self.minutes[scene] for scene, _, _ in places])
        return Batch((windows - mean) / spread, ~windows.isnan(), minutes, torch.arange(len(places)))


def spectral(data: Path) -> Case:
    """Two real mesoscale scenes, by day and by night, one frame of sixteen bands (C02 is missing by day)."""
    scenes = [_mesoscale(data / "abi/noaa-goes17", day) for day in ("2019-10-27", "2019-12-01")]
    corners = [(0, 0), (500 - 3 * SIDE, 500 - 3 * SIDE)]
    train, judged = _apart(scenes[0].shape[-2:], corners, 3 * SIDE, gap=32, stride=16)  # 64 km
    return Case(
        "spectral",
        "(a) Spectral: GOES-17 RadM1 of 27 October 2019 (day) and 1 December 2019 (night), blocks 64 km apart",
        {"kind": "group", "frames": 1, "bands": ABI, "groups": GROUPS},
        torch.stack(scenes)[:, None],
        torch.from_numpy(np.array(["2019-10-27T20:00", "2019-12-01T10:27"], "M8[m]").astype(np.int64))[:, None],
        tuple((scene, *place) for scene in (0, 1) for place in train),
        {name: tuple((scene, *place) for place in judged) for scene, name in enumerate(("day", "night"))},
        {"night": ABI[:6]},
    )


def temporal(data: Path) -> Case:
    """Real infrared images, four half-hours: learned from 12 to 15 UTC, judged on 16 and 17 in other blocks."""
    files = sorted((data / "cloud_systems/mergir").glob("merg_*.nc4"))
    with xr.open_mfdataset(files, combine="by_coords") as opened:
        series = torch.from_numpy(opened["Tb"].values.astype("f4"))[:, None]
        minutes = torch.from_numpy(opened["time"].values.astype("M8[m]").astype(np.int64))
    starts = (0, 1, 2, 3, 4, 8)  # the last is 16:00 to 17:30, the others end at 15:30
    side, far = 4 * SIDE, series.shape[-1] - 4 * SIDE
    corners = [(0, 0), (0, far), (far, 0), (far, far)]
    train, judged = _apart(series.shape[-2:], corners, side, gap=16, stride=32)
    return Case(
        "time",
        "(b) Time: MERGIR of 27 December 2019, four half-hours; learned from 12-15 UTC, judged on 16-17 UTC elsewhere",
        {"kind": "temporal", "frames": 4, "bands": ("Tb",)},
        torch.stack([series[start : start + 4] for start in starts]),
        torch.stack([minutes[start : start + 4] for start in starts]),
        tuple((scene, *place) for scene in range(5) for place in train),
        {"16-17 UTC": tuple((5, *place) for place in judged)},
        {},
    )


def written(data: Path) -> Case:
    """Synthetic series: parts of a real full disk of C07 that a wind made here moves on and turns, seven frames."""
    file = next((data / "abi_fulldisk_l2").glob("*C07*.nc"))
    with h5py.File(file) as opened:
        packed = opened["CMI"]
        raw, fill = packed[:], packed.attrs["_FillValue"]
        disk = np.where(
            raw == fill, np.nan, raw.astype("f4") * packed.attrs["scale_factor"] + packed.attrs["add_offset"]
        )
    whole = torch.from_numpy(disk.astype("f4"))
    places = [(y, x) for y in range(900, 4400, 250) for x in range(900, 4400, 250)]
    random = np.random.default_rng(7)
    scenes = torch.stack([_moved(whole[y : y + 240, x : x + 240], random) for y, x in places])
    inner = [(y, x) for y in (0, 48, 96) for x in (0, 48, 96)]
    west = [scene for scene, (_, x) in enumerate(places) if x < 1900]
    east = [scene for scene, (_, x) in enumerate(places) if x >= 2400]
    minutes = torch.from_numpy(np.array(DISK_YEAR, "M8[m]").astype(np.int64)) + 10 * torch.arange(7)
    return Case(
        "written",
        "(c) Synthetic: parts of a real full disk of C07 that a wind made here moves on, seven frames of 10 minutes",
        {"kind": "temporal", "frames": 7, "bands": ("C07",)},
        scenes,
        minutes.expand(len(scenes), 7),
        tuple((scene, *place) for scene in east for place in inner),
        {"written": tuple((scene, 48, 48) for scene in west)},
        {},
    )


CASES: dict[str, Callable[[Path], Case]] = {"spectral": spectral, "time": temporal, "written": written}


def _apart(
    shape: Sequence[int], corners: Sequence[tuple[int, int]], side: int, *, gap: int, stride: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Windows that keep a gap from squares, and windows that fill the squares."""

    def far(y: int, x: int) -> bool:
        reach = gap + SIDE
        return not any(
            top - reach < y < top + side + gap and left - reach < x < left + side + gap for top, left in corners
        )

    rows, columns = (range(0, length - SIDE + 1, stride) for length in shape)
    steps = range(0, side, SIDE)
    inside = [(top + y, left + x) for top, left in corners for y in steps for x in steps]
    return [(y, x) for y in rows for x in columns if far(y, x)], inside


def _mesoscale(archive: Path, day: str) -> Tensor:
    """Bands of the scan of a day at 2 km: reflectances and brightness temperatures, finer ones averaged."""
    end = str(np.datetime64(day) + 1)
    tree = cube.open_abi(archive, start=day, end=end, sector="M1", chunks=None)
    images = {}
    for name, finer in (("500m", 4), ("1km", 2), ("2km", 1)):
        for band in tree[name]["band"].values.tolist() if name in tree else ():
            solar = ABI.index(band) < 6
            group = tree[name].sel(band=band).isel(time=0)
            values = group["reflectance" if solar else "brightness_temperature"].values
            values = np.where(group["dqf"].values <= 1, values, np.nan)
            images[band] = values.reshape(500, finer, 500, finer).mean((1, 3))
    nothing = np.full((500, 500), np.nan)
    return torch.from_numpy(np.stack([images.get(band, nothing) for band in ABI]).astype("f4"))


def _moved(image: Tensor, random: np.random.Generator) -> Tensor:
    """Seven frames (7, 1, 160, 160) of an image that moves by up to 5 pixels a frame, turns and is sheared."""
    side, margin = image.shape[-1], (image.shape[-1] - 160) // 2
    wind = torch.from_numpy(random.uniform(-4, 4, (1, 2, 1, 1)).astype("f4"))
    gusts = torch.from_numpy(random.normal(0, 0.7, (1, 2, 4, 4)).astype("f4"))
    flow = wind + interpolate(gusts, (160, 160), mode="bicubic", align_corners=True)
    rows, columns = torch.meshgrid(*[torch.arange(margin, margin + 160.0)] * 2, indexing="ij")
    frames = []
    for frame in range(7):
        x, y = (axis + (frame - 3) * part for axis, part in zip((columns, rows), flow[0], strict=True))
        where = torch.stack([x, y], dim=-1)[None] / (side - 1) * 2 - 1
        frames.append(grid_sample(image[None, None], where, mode="bilinear", align_corners=True)[0])
    return torch.stack(frames)
