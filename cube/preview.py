"""Pictures of what was built: a thumbnail a tile, and one contact sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from cube.decode import apply_law, to_radiance
from cube.instrument import BRIGHTNESS, REFLECTANCE, Band, instrument_of
from cube.masks import mask_bit
from stratacube.files import whole_file

__all__ = ["CLEAN_WINDOW", "contact_sheet", "open_raw", "sample", "thumbnail"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

RED, NEAR_INFRARED, BLUE = "red", "nir", "blue"
"""Common names of the bands of natural colour."""
CLEAN_WINDOW = "lwir"
"""Common name of the band that shows clouds best by night."""
WINDOWS = ("lwir", "lwir11", "lwir12")
"""Common names of the bands that see the ground through clear air."""

DAY_LIMIT = 85.0
"""Solar zenith angle in degrees beyond which the visible bands show too little."""
GAMMA = 2.2
_LEVEL = 1
"""Of deflate: the highest makes them an eighth smaller and takes four times as long, more than drawing them."""
HAZE = {RED: 0.03, NEAR_INFRARED: 0.0, BLUE: 0.06}
"""Greatest reflectance that is taken for air, where the darkest pixels of a band have it, and taken off."""
WINDOW_RANGE = (195.0, 310.0)
"""Brightness temperatures from white to black, in kelvin, for the window bands."""
LEAST_SPAN = 10.0
"""Of a stretched picture, in kelvin: less would only show noise."""


def open_raw(store: Path) -> xr.Dataset:
    """Open a tile store as `thumbnail` wants it: counts as they lie, read only where they are indexed."""
    dataset: xr.Dataset = xr.open_zarr(store, mask_and_scale=False, decode_times=False, chunks=None)
    return dataset


def thumbnail(dataset: xr.Dataset, tile: int, path: Path, size: int = 256) -> str:
    """Write a picture of one tile at its middle time step.

    By day, and with a red, a near infrared and a blue band, it is natural colour, with
    0.45 red + 0.1 near infrared + 0.45 blue for green (CIMSS natural true colour; Bah, Gunshor and Schmit 2018,
    doi:10.1029/2018EA000379). Else it is the brightness temperature of the clean window near 10.4 um, or of the
    thermal band nearest to it in order, cold in white. Else the first band, stretched. Where the middle step has no
    valid pixel, the nearest step that has some is shown. Invalid pixels are transparent.

    Parameters
    ----------
    dataset : Dataset
        A tile store, opened raw (see `open_raw`). One inner chunk is read of each band shown and of its
        validity.
    tile : int
        Index along ``tile``.
    path : Path
        The PNG to write; its folder is made.
    size : int
        Side of the picture in pixels.

    Returns
    -------
    str
        What it shows, such as ``natural colour, step 3``; ``no valid pixel`` for an empty tile.
    """
    picture, caption = _draw(_Tile(dataset, tile, size))
    with whole_file(path) as part:
        picture.save(part, format="PNG", compress_level=_LEVEL)
    return caption


def contact_sheet(previews: Path, tiles: pd.DataFrame, path: Path, *, cell: int = 160, limit: int = 100) -> int:
    """Write a grid of thumbnails with captions (tile, event time, stratum), on black.

    Parameters
    ----------
    previews : Path
        Folder of the thumbnails, ``<tile id>.png``.
    tiles : DataFrame
        Rows of the plan to show. Beyond ``limit`` they are taken at even steps, so that all of the build is sampled.
    path : Path
        The PNG to write; its folder is made.
    cell : int
        Side of a picture on the sheet in pixels.
    limit : int
        Greatest number of pictures.

    Returns
    -------
    int
        How many are shown; with none, no file is written.
    """
    if tiles.empty:
        return 0
    shown = sample(tiles, limit)
    font = ImageFont.load_default(size=10)
    captions = [
        f"{row.tile_id}\n{pd.Timestamp(row.event_time):%Y-%m-%d %H:%M}\n{row.stratum}" for row in shown.itertuples()
    ]
    texts = [_wrap(caption, font, cell) for caption in captions]
    gap, line = 8, 13
    height = cell + line * max(text.count("\n") + 1 for text in texts) + 4
    columns = min(10, math.ceil(math.sqrt(len(shown))))
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (height + gap) + gap), (16, 16, 16))
    draw = ImageDraw.Draw(sheet)
    for place, (tile_id, text) in enumerate(zip(shown["tile_id"], texts, strict=True)):
        left = gap + place % columns * (cell + gap)
        top = gap + place // columns * (height + gap)
        with Image.open(previews / f"{tile_id}.png") as picture:
            small = picture.convert("RGBA").resize((cell, cell), Image.Resampling.BOX)
        sheet.paste((0, 0, 0), (left, top, left + cell, top + cell))
        sheet.paste(small, (left, top), small)
        draw.multiline_text((left, top + cell + 2), text, fill=(220, 220, 220), font=font, spacing=2)
    with whole_file(path) as part:
        sheet.save(part, format="PNG", compress_level=_LEVEL)
    return len(shown)


def sample(tiles: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return some rows at even steps, the first and the last among them; all where there are no more."""
    even = np.linspace(0, len(tiles) - 1, min(most, len(tiles)))
    return tiles.iloc[np.unique(even.round().astype(int))]


@dataclass
class _Tile:
    """One tile of a store, read band by band as it is asked for."""

    dataset: xr.Dataset
    tile: int
    size: int

    def __post_init__(self) -> None:
        self.facts = instrument_of(self.dataset.attrs)
        self.numbers = [int(number) for number in self.dataset["band"].values]
        self.bands = [self.facts.band(number) for number in self.numbers]
        self.arrays: dict[str, npt.NDArray[Any]] = {}

    def common(self, name: str) -> Band | None:
        """Band by its common name, if it is in the store."""
        return next((band for band in self.bands if band.common_name == name), None)

    @property
    def steps(self) -> list[int]:
        """Time steps, the middle one first and then outwards."""
        count = self.dataset.sizes["time"]
        return sorted(range(count), key=lambda step: (abs(step - count // 2), step))

    def is_day(self, step: int) -> bool:
        """Whether the sun is high enough for the visible bands."""
        zenith = self._coarse_zenith(step)
        return bool(np.isfinite(zenith)) and zenith < DAY_LIMIT

    def sun(self, step: int) -> float:
        """Cosine of the mean solar zenith angle."""
        return max(math.cos(math.radians(self._coarse_zenith(step))), math.cos(math.radians(DAY_LIMIT)))

    def _coarse_zenith(self, step: int) -> float:
        angles = self.array("solar_zenith")[step]
        return float(np.nanmean(angles)) if np.isfinite(angles).any() else math.nan

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return all steps of a variable, read once: they are one inner chunk, a part costs as much."""
        if name not in self.arrays:
            self.arrays[name] = np.asarray(self.dataset[name].isel(tile=self.tile).values)
        return self.arrays[name]

    def coefficient(self, name: str, band: Band, step: int) -> np.float32:
        """One of the numbers that decode a band."""
        return np.float32(self.array(name)[step, self.numbers.index(band.number)])

    def radiance(self, band: Band, step: int) -> tuple[Floats, Mask]:
        """Radiance and where it is valid, at the resolution of the picture."""
        mask = self.dataset[self.dataset[band.name].attrs["ancillary_variables"]]
        usable = self.array(str(mask.name))[step] & mask_bit(mask, band.name) != 0
        if not usable.any():  # spares reading the band
            return np.zeros((self.size, self.size), "f4"), np.zeros((self.size, self.size), bool)
        packing = (self.coefficient(name, band, step) for name in ("packing_scale", "packing_offset"))
        return _resize(to_radiance(self.array(band.name)[step], *packing), usable, self.size)

    def quantity(self, standard_name: str, band: Band, step: int, radiance: Floats) -> Floats:
        """Another quantity of a band's radiance."""
        found = self.facts.standard(standard_name, band.name)
        assert found is not None
        numbers = {c: self.coefficient(c, band, step) for c in found.coefficients}
        values: Floats = apply_law(found.law, radiance, numbers)
        return values


def _draw(tile: _Tile) -> tuple[Image.Image, str]:
    for step in tile.steps:
        for drawing in (_natural_colour, _brightness, _first_band):
            found = drawing(tile, step)
            if found is not None:
                levels, mask, what = found
                return _image(levels, mask), f"{what}, step {step}"
    return Image.new("RGBA", (tile.size, tile.size), (0, 0, 0, 0)), "no valid pixel"


Drawn = tuple[Floats, Mask, str]
"""Levels in [0, 1], shape (y, x) or (y, x, 3); where they are valid; what they show."""


def _natural_colour(tile: _Tile, step: int) -> Drawn | None:
    levels, masks = [], []
    for name in (RED, NEAR_INFRARED, BLUE) if tile.is_day(step) else ():
        band = tile.common(name)
        if band is None or tile.facts.standard(REFLECTANCE, band.name) is None:
            return None
        radiance, mask = tile.radiance(band, step)
        if not mask.any():
            return None
        reflectance = tile.quantity(REFLECTANCE, band, step, radiance) / tile.sun(step)
        haze = min(float(np.percentile(reflectance[mask], 1.0)), HAZE[name])
        levels.append(reflectance - haze)
        masks.append(mask)
    if not levels:
        return None
    red, near_infrared, blue = levels
    green = 0.45 * red + 0.1 * near_infrared + 0.45 * blue
    colour = np.clip(np.stack([red, green, blue], axis=-1), 0.0, 1.0) ** (1.0 / GAMMA)
    return colour.astype("f4"), np.logical_and.reduce(masks), "natural colour"


def _brightness(tile: _Tile, step: int) -> Drawn | None:
    for band in _by_nearness(tile):
        radiance, mask = tile.radiance(band, step)
        if not mask.any():
            continue
        kelvin = tile.quantity(BRIGHTNESS, band, step, radiance)
        mask &= np.isfinite(kelvin)
        if not mask.any():
            continue
        window = band.common_name in WINDOWS
        low, high = WINDOW_RANGE if window else _stretch(kelvin[mask], LEAST_SPAN)
        levels = 1.0 - np.clip((kelvin - low) / (high - low), 0.0, 1.0)
        return levels.astype("f4"), mask, f"{band.name} brightness temperature"
    return None


def _by_nearness(tile: _Tile) -> list[Band]:
    """Thermal bands, the clean window first, then by their places on either side of it; of two, the longer wave."""
    places = {band.name: place for place, band in enumerate(tile.facts.bands)}
    thermal = [b for b in tile.bands if tile.facts.standard(BRIGHTNESS, b.name)]
    clean = next((places[b.name] for b in tile.facts.bands if b.common_name == CLEAN_WINDOW), len(places))
    return sorted(thermal, key=lambda b: (abs(places[b.name] - clean), -places[b.name]))


def _first_band(tile: _Tile, step: int) -> Drawn | None:
    for band in tile.bands:
        radiance, mask = tile.radiance(band, step)
        if mask.any():
            low, high = _stretch(radiance[mask], 1e-6)
            levels = np.clip((radiance - low) / (high - low), 0.0, 1.0)
            return levels.astype("f4"), mask, f"{band.name} radiance"
    return None


def _stretch(values: Floats, least: float) -> tuple[float, float]:
    """Return the 2nd and 98th percentiles, at least ``least`` apart."""
    low, high = (float(v) for v in np.percentile(values, [2.0, 98.0]))
    widen = max(least - (high - low), 0.0) / 2
    return low - widen, high + widen


def _resize(values: Floats, mask: Mask, size: int) -> tuple[Floats, Mask]:
    """Average the valid pixels of each pixel of the picture; valid where at least half of it is."""
    weight = _box(mask.astype("f4"), size)
    total = _box(np.where(mask, values, np.float32(0)), size)
    return (total / np.maximum(weight, 1e-6)).astype("f4"), weight >= 0.5


def _box(values: Floats, size: int) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(values, dtype="f4"))
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def _image(levels: Floats, mask: Mask) -> Image.Image:
    bytes_ = (np.nan_to_num(levels) * 255.0).round().astype("u1")
    if bytes_.ndim == 2:
        bytes_ = np.repeat(bytes_[..., None], 3, axis=-1)
    bytes_[~mask] = 0
    alpha = np.where(mask, np.uint8(255), np.uint8(0))[..., None]
    return Image.fromarray(np.concatenate([bytes_, alpha], axis=-1))


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Break lines that are wider than a cell."""
    return "\n".join(part for line in text.split("\n") for part in _broken(line, font, width))


def _broken(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> Iterator[str]:
    """Pieces of a line, broken after a blank or an underscore where there is one."""
    while font.getlength(line) > width:
        fits = next(n for n in range(len(line), 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
        cut = max(line.rfind(" ", 0, fits), line.rfind("_", 0, fits)) + 1 or fits
        yield line[:cut]
        line = line[cut:]
    yield line
