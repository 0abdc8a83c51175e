"""The bands of a tile store, as its metadata tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr

from cube.instrument import Instrument, instrument_of
from cube.masks import mask_bit
from stratacube.errors import UsageError

__all__ = ["StoredBand", "described"]


@dataclass(frozen=True)
class StoredBand:
    """One band of a store."""

    name: str
    place: int
    """Along the store's band dimension."""
    mask: str
    """Variable one of whose bits says where the band is valid."""
    bit: int
    """Which, 0 for the lowest."""
    mask_dtype: str
    shape: tuple[int, int, int]
    """Steps, rows and columns of a tile, on the grid."""
    pixel: float | None = None
    """Side of a pixel of the grid (rad); None where the store does not say."""
    repeat: int = 1
    """How often a stored pixel repeats along either side of the grid."""
    view_mask: str = ""
    """The mask that the band would have if it were stored on the grid."""

    @property
    def stored(self) -> tuple[int, int, int]:
        """Steps, rows and columns of a tile, as stored."""
        steps, rows, cols = self.shape
        return steps, rows // self.repeat, cols // self.repeat


def described(url: str, raw: xr.Dataset) -> tuple[Instrument, tuple[StoredBand, ...]]:
    """What a store says of its instrument and bands."""
    facts = instrument_of(raw.attrs)
    names = [band.name for band in facts.bands if band.name in raw]
    if not names or "band" not in raw:
        held = ", ".join(map(str, raw.data_vars)) or "nothing"
        raise UsageError(
            f"{url} holds {held}, but no bands {facts.bands[0].name} .. {facts.bands[-1].name} of tiles; give the "
            "tiles.zarr of a build, or read other cubes by loaders.cube_loader"
        )
    return facts, tuple(_stored_band(raw, facts, name) for name in names)


def _stored_band(raw: xr.Dataset, facts: Instrument, name: str) -> StoredBand:
    image = raw[name]
    mask = raw[image.attrs["ancillary_variables"]]
    steps, rows, cols = image.shape[1:]
    repeat = int(image.attrs["repeat"]) if raw.attrs.get("store") == "native" else 1
    pixel = _pixel(image.dims[-1], raw.attrs.get("grid"), facts)
    suffix = str(image.dims[-1]).removeprefix("x") if repeat > 1 else ""
    return StoredBand(
        name,
        raw["band"].values.tolist().index(facts.band(name).number),
        str(mask.name),
        int(mask_bit(mask, name)).bit_length() - 1,
        mask.dtype.str,
        (steps, rows * repeat, cols * repeat),
        None if pixel is None else pixel / repeat,
        repeat,
        str(mask.name).replace(suffix, "", 1),
    )


def _pixel(dim: Any, grid: Any, facts: Instrument) -> float | None:
    """Side of a pixel (rad) by the dimension of a native band, else by the grid the store names."""
    name = str(dim).partition("_")[2] or str(grid)
    return next((r.pixel_urad * 1e-6 for r in facts.scan.resolutions if r.name == name), None)
