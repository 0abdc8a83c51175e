"""Statistics of every band in one pass over tiles, composites or other cubes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cube.instrument import MIXED, lacking, quantities_known, told_in
from loaders.cubes import images_of, open_cube
from loaders.layout import cells_of
from loaders.moments import PRECISION, Box, boxes, gather
from loaders.statistics import BandStatistics, Statistics
from loaders.store import TileStore, find_store, select
from loaders.tally import tally
from loaders.tiles import TileDataset
from stratacube.addresses import plain_url
from stratacube.choices import nearest, one_of
from stratacube.errors import UsageError

__all__ = ["compute_statistics", "open_any"]


def compute_statistics(
    stores: Sequence[Any],
    *,
    quantity: str | None = None,
    bands: Sequence[str | int] | None = None,
    where: str | None = None,
    by: str = "split",
    sample: int | None = None,
    seed: int = 0,
    workers: int = 0,
    engine: Any = None,
    storage_options: dict[str, Any] | None = None,
    tiles: Sequence[npt.NDArray[np.int64]] | None = None,
) -> Statistics:
    """Count every valid pixel of some tile stores, or of some composites and other cubes.

    Parameters
    ----------
    stores
        Tile stores, or Zarr stores with a variable a band; they are put together.
    quantity
        As of :class:`loaders.batch.Decoder`; by default radiance of tiles, and reflectance of cubes, where it says what
        they hold.
    bands
        All by default; a native store's bands of different sizes are counted group by group.
    where
        Condition on the tiles' table; cubes have none.
    by
        Column of the table that splits the tiles; statistics are of each value and of all. Cubes have one split, all.
    sample, seed
        Look at this many tiles of each store (boxes of each band of a cube) only, drawn by the seed.
    workers
        Processes that read and count; 0 for this one.
    engine
        Where they are, as builds have it: ``local``, ``dask`` or ``mpi``, with options, or an executor; by default
        beside this process. The statistics are the same wherever they were counted.
    storage_options
        For fsspec.
    tiles
        Numbers of the tiles of each store that count, in place of ``where``: they are the split train.

    Returns
    -------
    Statistics
        With provenance: stores, fingerprints, numbers of tiles, filter, versions.

    Raises
    ------
    StratacubeError
        If a store cannot be read or holds nothing to count.
    """
    if workers < 0:
        raise UsageError(f"`workers` is {workers}: give 0 (this process alone) or more")
    if sample is not None and sample < 1:
        raise UsageError(f"`sample` is {sample}: give 1 or more, or leave it out to look at all")
    opened = [open_any(source, storage_options or {}) for source in stores]
    cubes = [found for found in opened if isinstance(found, xr.Dataset)]
    tiled = [found for found in opened if isinstance(found, TileStore)]
    if cubes and tiled:
        raise UsageError("tile stores and cubes hold different quantities; take their statistics in two runs")
    quantity = quantity or ("reflectance" if cubes else "radiance")
    if seed < 0:
        raise UsageError(f"`seed` is {seed}; give 0 or more")
    draw = _Sample(sample, seed)
    if cubes:
        found, described = _of_cubes(cubes, quantity, bands, where, by, draw, workers, engine)
    else:
        found, described = _of_tiles(tiled, quantity, bands, where, by, draw, (workers, engine), tiles)
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": f"stratacube {importlib.metadata.version('stratacube')}",
        **described,
        "where": where,
        "by": by,
        "sample": sample,
        "seed": seed,
        "valid_pixels": int(sum(s.count for s in found["all"].values())),
    }
    return Statistics(quantity, found, provenance)


Found = tuple[dict[str, dict[str, BandStatistics]], dict[str, Any]]
"""Statistics by split and band, and what is to say of the stores."""


@dataclass(frozen=True)
class _Sample:
    """Which of many to look at."""

    size: int | None
    seed: int

    def of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.size is None or self.size >= len(numbers):
            return numbers
        return np.sort(np.random.default_rng(self.seed).choice(numbers, self.size, replace=False))


def open_any(source: Any, options: dict[str, Any]) -> TileStore | xr.Dataset:
    """Open a store as what it is."""
    if isinstance(source, TileStore):
        return TileStore.open(source, options)
    cube = open_cube(source, options)
    if {"tile", "band"} <= {*map(str, cube.dims)}:
        return TileStore.open(source, options)
    cube.encoding["source"] = find_store(source, options)
    return cube


def _of_tiles(
    stores: Sequence[TileStore], quantity: str, bands: Sequence[str | int] | None, where: str | None, by: str,
    sample: _Sample, at: tuple[int, Any], given: Sequence[npt.NDArray[np.int64]] | None,
) -> Found:  # fmt: skip
    counted, described = [], []
    for number, store in enumerate(stores):
        table = store.table_for(where, by)
        if by not in table and by != "split":
            raise UsageError(f"{store.url} has no column {by!r} to split by; there are {', '.join(map(str, table))}")
        tiles = sample.of(select(table, where if given is None else given[number]))
        described.append(
            {"store": plain_url(store.url), "fingerprint": store.fingerprint, "tiles": len(tiles), "of": len(store)}
        )
        splits = table[by].astype(str).to_numpy()[tiles] if by in table else np.full(len(tiles), "all")
        splits = splits if given is None else np.full(len(tiles), "train")
        _check_quantity(store, bands, quantity)
        for group in _by_size(store, bands) if len(tiles) else ():
            counted.append((TileDataset(store, bands=group, where=tiles), splits.tolist()))
    total = tally(counted, *at)
    names = total.splits()
    found = {"all": total.bands(None, quantity)}
    if names != ["all"]:
        found |= {name: total.bands(name, quantity) for name in names}
    if not found["all"]:
        raise UsageError(f"no tile has a valid pixel of {quantity}; check the filter and the bands")
    about = _about(stores, quantity)
    found = {name: {b: replace(s, **about[b]) for b, s in of_bands.items()} for name, of_bands in found.items()}
    return found, {"stores": described, "pixels": int(sum(total.pixels.values()))}


def _about(stores: Sequence[TileStore], quantity: str) -> dict[str, dict[str, Any]]:
    """Units and wavelength of each band, as its statistics say them: no number is of two units."""
    about: dict[str, dict[str, Any]] = {}
    for store in stores:
        for name in (b.name for b in store.bands):
            found = store.quantity(quantity, name)
            units, wavelength = found.units if found else "", store.instrument.band(name).wavelength_um
            before = about.setdefault(name, {"units": units, "wavelength_um": wavelength})["units"]
            if before != units:
                raise UsageError(
                    f"{quantity} of {name} is in {before or 'no units'} in one store and in {units or 'no units'} in "
                    f"{store.url}; take their statistics apart"
                )
    return about


def _check_quantity(store: TileStore, bands: Sequence[str | int] | None, quantity: str) -> None:
    """Refuse bands that were asked for and do not have the quantity; of all bands those that have it count, if any."""
    has = {b.name: store.instrument.quantities_of(b.name) for b in store.bands}
    for band in () if bands is None else [name for group in _by_size(store, bands) for name in group]:
        if quantity not in has[band]:
            raise lacking(band, quantity, [*has[band]])
    if not any(quantity in names for names in has.values()):
        raise lacking(store.url, quantity, [*dict.fromkeys(n for names in has.values() for n in names)], is_band=False)


def _of_cubes(
    cubes: Sequence[xr.Dataset], quantity: str, bands: Sequence[str | int] | None, where: str | None, by: str,
    sample: _Sample, workers: int, engine: Any,
) -> Found:  # fmt: skip
    if where is not None or by != "split":
        raise UsageError("cubes have no table of tiles; leave `where` and `by` out")
    wanted: list[Box] = []
    described = []
    for number, cube in enumerate(cubes):
        names, images = images_of(cube, None if bands is None else [str(b) for b in bands])
        _check_units(cube, names, quantity)
        looked_at = []
        for name, image in zip(names, images, strict=True):
            cut = boxes(image, number, name, cells_of(cube, image.dims))
            looked_at += [cut[i] for i in sample.of(np.arange(len(cut)))]
        url = cube.encoding["source"]
        described.append({"store": plain_url(url), "fingerprint": _fingerprint(cube), "boxes": len(looked_at)})
        wanted += looked_at
    total = gather(cubes, wanted, workers, engine)
    units = {name: str(cube[name].attrs.get("units", "")) for cube in cubes for name in total if name in cube}
    found = {band: replace(moments.describe(), units=units.get(band, "")) for band, moments in total.items()}
    if not any(s.count for s in found.values()):
        raise UsageError(f"no pixel of {', '.join(found)} is valid; check the store")
    about = {"stores": described, "pixels": sum(moments.pixels for moments in total.values()), "percentiles": PRECISION}
    return {"all": found}, about


def _check_units(cube: xr.Dataset, names: Sequence[str], quantity: str) -> None:
    """Refuse a quantity that is unknown, or that the units of a band belie."""
    known = quantities_known(cube.attrs)
    words = [*dict.fromkeys(q.name for q in known), MIXED]
    if quantity not in words:
        raise UsageError(f"`quantity` is {quantity!r}: give {one_of(words)}{nearest(quantity, words)}")
    for name in names:
        units = cube[name].attrs.get("units")
        if units is not None and quantity not in told_in(units, known):
            raise UsageError(f"{name} has units {units!r}, which is not {quantity}; say what it holds by `quantity`")


def _fingerprint(cube: xr.Dataset) -> str:
    """Digest of a cube's metadata and coordinates."""
    digest = hashlib.sha256(json.dumps(cube.to_dict(data=False), sort_keys=True, default=str).encode())
    for name in sorted(map(str, cube.coords)):
        digest.update(np.ascontiguousarray(cube[name].values).tobytes())
    return digest.hexdigest()[:16]


def _by_size(store: TileStore, bands: Sequence[str | int] | None) -> list[list[str]]:
    """Names of the bands wanted, in groups of one size."""
    chosen = store.bands if bands is None else [store.choose([b])[0] for b in bands]
    return [[b.name for b in chosen if b.shape == shape] for shape in sorted({b.shape for b in chosen})]
