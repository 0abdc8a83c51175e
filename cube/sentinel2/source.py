"""One product opened for reading: harmonised reflectance numbers and the mask of its scene classes, by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import OFFSET_SINCE, REPROCESSED, read_product
from catalog.sentinel2.places import is_remote
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.lattice import Window
from cube.sentinel2.mask import class_mask, class_window, on_band_grid
from cube.sentinel2.resample import SourceGrid
from stratacube.errors import SourceError

__all__ = ["NODATA_DN", "Harmonisation", "MaskRule", "ProductSource", "harmonisation"]

NODATA_DN = 0
SATURATED_DN = 65535
COMMON_QUANTIFICATION = 10000
"""Harmonised numbers are reflectance times this, whatever the product's own quantification."""


class Harmonisation:
    """How the numbers of a product become numbers of any product: (DN + offset) * factor.

    Parameters
    ----------
    offsets
        By band.
    quantification
        The product's own.
    """

    def __init__(self, offsets: Mapping[str, int], quantification: int = COMMON_QUANTIFICATION) -> None:
        self.offsets = dict(offsets)
        self.factor = COMMON_QUANTIFICATION / quantification

    def apply(self, band: str, dn: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Harmonise counts; negative results stay. Reflectance is the result divided by 10000."""
        values = dn.astype("f4")
        values += np.float32(self.offsets[band])
        if self.factor != 1:
            values *= np.float32(self.factor)
        return values


def harmonisation(product: Product, bands: Iterable[str]) -> Harmonisation:
    """Return the offset and quantification of a product's bands.

    They come from the product's own metadata, cross-checked with its processing baseline; where no metadata is at
    hand, from the baseline. A build has it at hand; a lazy look at a remote product has not.

    Raises
    ------
    SourceError
        If metadata and baseline disagree, the metadata is of another product, or nothing tells.
    """
    bands = list(bands)
    asset = product.assets.get("product_metadata")
    if product.offset_applied:
        return Harmonisation(dict.fromkeys(bands, 0))
    if asset is None or is_remote(asset.href):
        if product.baseline == REPROCESSED:
            raise SourceError(
                f"{product.id}: baseline {REPROCESSED} needs MTD_MSIL2A.xml, which alone tells its offset"
            )
        since = tuple(int(p) for p in product.baseline.split(".")) >= OFFSET_SINCE
        return Harmonisation(dict.fromkeys(bands, -1000 if since else 0))
    metadata = read_product(Path(asset.href.removeprefix("file://")))
    if metadata.baseline != product.baseline:
        raise SourceError(
            f"{product.id} is listed with baseline {product.baseline} but its MTD_MSIL2A.xml says {metadata.baseline}; "
            "fetch the product again or leave it out"
        )
    return Harmonisation({b: metadata.offset(b) for b in bands}, metadata.quantification)


class MaskRule:
    """Which scene classes are masked, and by how much the mask grows.

    Parameters
    ----------
    classes
        Scene classes to mask.
    dilation
        Pixels of the scene classification.
    """

    def __init__(self, classes: Iterable[int], dilation: int = 0) -> None:
        self.classes, self.dilation = tuple(sorted(classes)), dilation


class ProductSource:
    """The rasters of one product.

    Parameters
    ----------
    product
        With all files on disk.
    keys
        Asset key by band, e.g. ``{"B02": "B02_20m"}``.
    rule
        What to mask.
    decoded
        Counter to add to.

    Raises
    ------
    SourceError
        If a file is missing or unreadable, or the metadata cannot be trusted.
    """

    def __init__(self, product: Product, keys: Mapping[str, str], rule: MaskRule, decoded: Decoded) -> None:
        self.product, self.rule = product, rule
        self.harmonisation = harmonisation(product, keys)
        with ExitStack() as opened:
            self.classes = opened.enter_context(BlockReader(_classes(product), decoded))
            self.bands = {
                band: opened.enter_context(BlockReader(_asset(product, key), decoded)) for band, key in keys.items()
            }
            self._opened = opened.pop_all()

    def __enter__(self) -> ProductSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def grids(self) -> dict[str, SourceGrid]:
        """Return the grid of each band."""
        return {band: reader.grid for band, reader in self.bands.items()}

    def class_window(self, window: Window, grid: SourceGrid) -> Window:
        """Return the part of the scene classification that a window of a band needs."""
        return class_window(window, grid, self.classes.grid, self.rule.dilation)

    def valid(self, window: Window, grid: SourceGrid) -> npt.NDArray[np.bool_]:
        """Return the mask on a window of a band's grid."""
        at = self.class_window(window, grid)
        if not (at.height and at.width):
            return np.zeros((window.height, window.width), bool)
        valid = class_mask(self.classes.read(at), self.rule.classes, self.rule.dilation)
        return on_band_grid(valid, at, window, grid, self.classes.grid)

    def values(
        self, band: str, window: Window, wanted: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return harmonised numbers of a window and where they are numbers, of the pixels wanted."""
        dn = self.bands[band].read(window, wanted)
        there = wanted & (dn != NODATA_DN) & (dn != SATURATED_DN)
        return self.harmonisation.apply(band, dn), there


def _asset(product: Product, key: str) -> Asset:
    if key not in product.assets:
        raise SourceError(f"{product.id} has no {key}; it is dropped whole, so that all bands see the same scenes")
    return product.assets[key]


def _classes(product: Product) -> Asset:
    return _asset(product, "SCL_60m" if "SCL_20m" not in product.assets and "SCL_60m" in product.assets else "SCL_20m")
