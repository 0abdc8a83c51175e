"""One product opened for reading: harmonised reflectance numbers and the mask of its scene classes, by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from catalog.sentinel2.eopf_arrays import ArrayFacts, is_array, read_array
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import (
    OFFSET,
    OFFSET_SINCE,
    REPROCESSED,
    GranuleMetadata,
    read_granule,
    read_product,
)
from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.places import is_remote, local_path, tree_of
from catalog.sentinel2.tiles import beside
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.lattice import Window
from cube.sentinel2.mask import class_mask, class_window, on_band_grid
from cube.sentinel2.resample import SourceGrid
from cube.sentinel2.vocabulary import SCL_NAMES
from stratacube.addresses import plain_url
from stratacube.errors import SourceError

__all__ = ["NODATA_DN", "Harmonisation", "MaskRule", "ProductSource", "harmonisation"]

NODATA_DN = 0
SATURATED_DN = 65535


class Harmonisation:
    """How the numbers of a product become numbers of any product: DN + offset, which is reflectance times 10000.

    Parameters
    ----------
    offsets
        By band.
    """

    def __init__(self, offsets: Mapping[str, int]) -> None:
        self.offsets = dict(offsets)

    def apply(self, band: str, dn: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Harmonise counts; negative results stay. Reflectance is the result divided by 10000."""
        values = dn.astype("f4")
        values += np.float32(self.offsets[band])
        return values


def harmonisation(product: Product, keys: Mapping[str, str]) -> Harmonisation:
    """Return the offsets of a product's bands, given the asset key of each.

    They come from the product's own metadata, in EOPF's Zarr form from the arrays', cross-checked with its processing
    baseline; where no metadata is at hand, from the baseline. A build has it at hand, a lazy look at a remote product
    has not.

    Raises
    ------
    SourceError
        If metadata and baseline disagree, the metadata is of another product, or nothing tells.
    """
    bands = list(keys)
    hrefs = {b: product.assets[k].href for b, k in keys.items() if k in product.assets}
    if hrefs and all(tree_of(href) is not None or is_array(local_path(href)) for href in hrefs.values()):
        return Harmonisation({band: _array_offset(product, href) for band, href in hrefs.items()})
    asset = product.assets.get("product_metadata")
    if product.offset_applied:
        return Harmonisation(dict.fromkeys(bands, 0))
    if asset is None or is_remote(asset.href):
        if product.baseline == REPROCESSED:
            raise SourceError(
                f"{product.id}: baseline {REPROCESSED} needs MTD_MSIL2A.xml, which alone tells its offset"
            )
        since = tuple(int(p) for p in product.baseline.split(".")) >= OFFSET_SINCE
        return Harmonisation(dict.fromkeys(bands, OFFSET if since else 0))
    metadata = read_product(Path(asset.href.removeprefix("file://")))
    if metadata.baseline != product.baseline:
        raise SourceError(
            f"{product.id} is listed with baseline {product.baseline} but its MTD_MSIL2A.xml says {metadata.baseline}; "
            "fetch the product again or leave it out"
        )
    told = parse_product_name(metadata.id).tile, metadata.datatake_start.replace(microsecond=0)
    if told != (product.tile, product.datatake_start.replace(microsecond=0)):
        raise SourceError(
            f"{product.id} is of tile {product.tile}, sensed {product.datatake_start:%Y-%m-%d %H:%M:%S}, but its "
            f"MTD_MSIL2A.xml is of {told[0]}, {told[1]}; fetch the product again or leave it out"
        )
    return Harmonisation({b: metadata.offset(b) for b in bands})


def _array_offset(product: Product, href: str) -> int:
    facts = _facts(href)
    since = product.baseline != REPROCESSED and tuple(int(p) for p in product.baseline.split(".")) >= OFFSET_SINCE
    if not facts.is_float and product.baseline != REPROCESSED and since != (facts.offset != 0):
        raise SourceError(
            f"{plain_url(href)} has an offset of {facts.offset} counts, which contradicts processing baseline "
            f"{product.baseline}; copy the product again or leave it out"
        )
    return facts.offset


def _facts(href: str) -> ArrayFacts:
    if tree_of(href) is None:
        return read_array(local_path(href))
    from catalog.sentinel2.eopf_tree import known_tree  # noqa: PLC0415  (clients of the web)

    tree, inside = known_tree(href)
    return tree.facts(inside)


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
        With all files on disk, unless `remote`.
    keys
        Asset key by band, e.g. ``{"B02": "B02_20m"}``.
    rule
        What to mask.
    decoded
        Counter to add to.
    remote
        Whether files may also lie elsewhere, and be read by ranges.

    Raises
    ------
    SourceError
        If a file is missing or unreadable, or the metadata cannot be trusted.
    """

    def __init__(
        self,
        product: Product,
        keys: Mapping[str, str],
        rule: MaskRule,
        decoded: Decoded,
        *,
        remote: bool = False,
    ) -> None:
        self.product, self.rule = product, rule
        self.remarks: list[str] = []
        """What is odd about it."""
        self.harmonisation = harmonisation(product, keys)
        with ExitStack() as opened:

            def opening(key: str) -> BlockReader:
                return opened.enter_context(BlockReader(_asset(product, key), decoded, remote=remote))

            self.classes = opening(_classes_key(product))
            self.bands = {band: opening(key) for band, key in keys.items()}
            granule = _granule(product)
            for key, reader in (*((keys[b], r) for b, r in self.bands.items()), (_classes_key(product), self.classes)):
                self.remarks += _refuse_elsewhere(product, key, reader, granule)
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
        found = self.classes.read(at)
        if found.size and found.max() > np.iinfo("u1").max:
            raise SourceError(
                f"{self.classes.href} holds {found.max()} where scene classes go to {len(SCL_NAMES) - 1}; "
                "it is another image, fetch the product again"
            )
        valid = class_mask(found, self.rule.classes, self.rule.dilation)
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


def _classes_key(product: Product) -> str:
    return "SCL_60m" if "SCL_20m" not in product.assets and "SCL_60m" in product.assets else "SCL_20m"


def _granule(product: Product) -> GranuleMetadata | None:
    asset = product.assets.get("granule_metadata")
    return None if asset is None or is_remote(asset.href) else read_granule(local_path(asset.href))


def _refuse_elsewhere(product: Product, key: str, reader: BlockReader, granule: GranuleMetadata | None) -> list[str]:
    """Refuse an image that lies elsewhere than the catalogue or the metadata says; remark on other sizes."""
    asset, pixel = product.assets[key], int(key[-3:-1])
    told = [(asset.proj_code, asset.shape, asset.transform, "the list of its files")]
    if granule is not None and pixel in granule.grids:
        grid = granule.grids[pixel]
        told.append((granule.proj_code, (grid.rows, grid.cols), grid.transform, "its MTD_TL.xml"))
    remarks = []
    there = _bounds((reader.grid.height, reader.grid.width), reader.grid.transform)
    for code, shape, transform, where in told:
        if code is None or shape is None or transform is None:
            continue
        said = _bounds(shape, transform)
        if code != reader.grid.crs or max(abs(a - b) for a, b in zip(said, there, strict=True)) > pixel / 2:
            raise SourceError(
                f"{reader.href} lies at {_numbers(there)} in {reader.grid.crs}, but by {where} at {_numbers(said)} in "
                f"{code}; it is another tile's, or that is wrong: fetch the product again or leave it out"
            )
        if tuple(shape) != (reader.grid.height, reader.grid.width):
            size = f"{reader.grid.height} x {reader.grid.width} pixels but {shape[0]} x {shape[1]} by {where}"
            remarks.append(f"{key} has {size}")
    if beside(product.tile, (reader.grid.height, reader.grid.width), reader.grid.transform):
        remarks.append(f"{key} does not lie on the ground of tile {product.tile}")
    return remarks


def _bounds(shape: tuple[int, int], transform: Sequence[float]) -> tuple[float, float, float, float]:
    """West, south, east and north in the unit of the CRS."""
    a, _, left, _, e, top = transform
    return left, top + shape[0] * e, left + shape[1] * a, top


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.10g}" for v in values)
