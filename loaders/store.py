"""A tile store as the loaders see it: its bands, and a table of its tiles to filter, weigh and label by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from catalog.geostationary.s3 import faults
from catalog.locate import STORES, locate
from cube.instrument import Instrument, Quantity
from cube.opening import open_store
from loaders.bands import StoredBand, described
from loaders.chunks import ChunkReader
from loaders.pictures import is_picture
from loaders.rules import grid_side, on_grid
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.expression import evaluate
from stratacube.guard import guarded, named, reason_of
from stratacube.parquet import read_frame

__all__ = [
    "COARSE",
    "StoredBand",
    "TileStore",
    "assign_splits",
    "find_store",
    "select",
    "translate_open_errors",
    "weigh",
]

COARSE = ("view_zenith", "view_azimuth", "solar_zenith", "solar_azimuth", "latitude_coarse", "longitude_coarse")
_BLOCK = 1024
_SMALL = 4096
"""Numbers a tile of variables that are held of all tiles; of larger ones what is asked for is read."""
_SPLITS = (("train", 0.8), ("val", 0.9), ("test", 1.0))


@dataclass
class TileStore:
    """An opened tile store; the pixels stay in storage.

    Create it with :meth:`open`.
    """

    url: str
    reader: ChunkReader
    instrument: Instrument
    bands: tuple[StoredBand, ...]
    small: xr.Dataset
    """Every variable of a few numbers a tile, in memory."""
    coarse: xr.Dataset
    """Angles and places at blocks of the tiles, in storage."""
    ragged: xr.Dataset
    """Profiles that cross the tiles, one tile's after another's, in storage."""
    plan: pd.DataFrame | None = None
    shapes: dict[str, tuple[tuple[str, ...], tuple[int, ...], np.dtype[Any]]] = field(default_factory=dict)
    """Of each variable: dimensions, shape and type."""
    classes: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of each variable that is an enumeration, what its numbers are called."""
    side: int | None = None
    """Pixels along a tile's side on the grid that bands share; None where each has its own."""

    @classmethod
    def open(cls, source: Any, storage_options: Mapping[str, Any] | None = None) -> TileStore:
        """Open a store.

        Parameters
        ----------
        source
            Path or URL of ``tiles.zarr``, of the folder of a build or of a STAC document, the content of such a
            document, or an item, collection or catalog of pystac; or a store already opened.
        storage_options
            For fsspec, such as ``{"anon": True}``.

        Raises
        ------
        UsageError
            If there is no tile store at ``source``.
        """
        if isinstance(source, TileStore):
            return source
        options = dict(storage_options or {})
        url = find_store(source, options)
        with translate_open_errors(url, "a tile store", "give the tiles.zarr of a build"):
            raw = open_store(url, options, mask_and_scale=False, decode_times=False)
            return cls._of(url, options, raw)

    @classmethod
    def _of(cls, url: str, options: dict[str, Any], raw: xr.Dataset) -> TileStore:
        with named(plain_url(url)):
            facts, bands = described(url, raw)
            names = [band.name for band in bands]
        images = {*names, *(b.mask for b in bands), *(str(n) for n, v in raw.variables.items() if is_picture(v.dims))}
        shapes = {str(n): (tuple(map(str, v.dims)), v.shape, v.dtype) for n, v in raw.variables.items()}
        small = xr.decode_cf(raw.drop_vars(images))
        coarse = small[[n for n in COARSE if n in small]]
        scalars = [n for n in small.variables if small[n].ndim == 0]
        ragged = small[[n for n in small.data_vars if "profile" in small[n].dims]]
        small = small.drop_vars([*coarse.data_vars, *ragged.data_vars, *scalars])
        large = {n: v for n, v in small.data_vars.items() if _is_large(v)}
        small = small.drop_vars(large).load().assign(large)
        plan = _read_plan(url, options, small)
        reader, side = ChunkReader(url, options), grid_side(raw.attrs)
        classes = {str(n): _named_flags(v.attrs) for n, v in raw.variables.items() if "flag_values" in v.attrs}
        return cls(url, reader, facts, bands, small, coarse, ragged, plan, shapes, classes, side)

    def __len__(self) -> int:
        return int(self.small.sizes["tile"])

    def choose(self, bands: Sequence[str | int] | None) -> tuple[StoredBand, ...]:
        """Bands by name or channel, in the order given; by default all that lie on one grid.

        Raises
        ------
        UsageError
            If a band is not there, or their tiles differ in pixels.
        """
        there = {b.name: b for b in self.bands}
        bands = on_grid(self.url, {b.name: b.shape[1] for b in self.bands}, self.side) if bands is None else bands
        names = {b.number: b.name for b in self.instrument.bands}
        wanted = [names.get(b, str(b)) if isinstance(b, int) else b for b in bands] if bands is not None else [*there]
        unknown = [b for b in wanted if b not in there]
        if unknown or not wanted:
            raise UsageError(f"{self.url} has bands {', '.join(there)}, not {', '.join(unknown) or 'none'}")
        chosen = tuple(there[b] for b in wanted)
        if len({b.shape for b in chosen}) > 1:
            sizes = ", ".join(f"{b.name} {b.shape[1]}x{b.shape[2]}" for b in chosen)
            raise UsageError(f"bands of one batch must have one size, not {sizes}; choose bands of one resolution")
        return chosen

    def quantity(self, name: str, band: str) -> Quantity | None:
        """What a band has by the name of a quantity (``mixed`` too); None where it has no such thing."""
        return self.instrument.quantity(name, band)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a tile: the plan, the store's variables of one number a tile, and a split.

        ``split`` is the plan's, else :func:`assign_splits` by event time.
        """
        table = pd.DataFrame({"tile": np.arange(len(self))})
        if self.plan is not None:
            table = self.plan.sort_values("tile").reset_index(drop=True)
        for name, variable in self.small.variables.items():
            if variable.dims == ("tile",) and name not in table:
                table[str(name)] = _decode_flags(variable)
        if "event_time" not in table and "requested_time" in self.small:
            table["event_time"] = self.small["requested_time"].values[:, 0]
        if "split" not in table and "event_time" in table:
            table["split"] = assign_splits(table["event_time"])
        return table

    def table_for(self, *uses: Any) -> pd.DataFrame:
        """Give the table, with the mean angles that some expressions or names mention.

        ``view_zenith`` and ``solar_zenith`` are means over the tile (degrees; the Sun's over all steps too, and 90
        where the Earth is not seen). They are read only where needed.
        """
        table, text = self.table, repr(uses)
        for name in ("view_zenith", "solar_zenith"):
            if name in text and name in self.coarse and name not in table:
                blocks = range(0, len(self), _BLOCK)
                parts = [self.coarse[name][i : i + _BLOCK].fillna(90.0) for i in blocks]
                table[name] = np.concatenate([p.values.reshape(len(p), -1).mean(axis=1) for p in parts])
        return table

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what the tiles are: bands, sizes, places, times, packing; not of how they are compressed."""
        digest = hashlib.sha256(repr([(b.name, b.shape) for b in self.bands] + [len(self)]).encode())
        for name in sorted(str(n) for n, v in self.small.variables.items() if not _is_large(v)):
            values = np.ascontiguousarray(self.small[name].values)
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def times(self) -> npt.NDArray[np.datetime64]:
        """When each frame was seen; (tile, time) in microseconds.

        Stores of before do not say: of these it is the start of the scan. It is the time asked for where there is no
        scan.
        """
        times = self.small["requested_time"].values
        for better in ("scan_start", "observation_time"):
            if better in self.small:
                times = np.where(np.isnat(self.small[better].values), times, self.small[better].values)
        return times.astype("M8[us]")


def select(table: pd.DataFrame, where: str | Sequence[int] | npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """Tiles for which a condition on the table's columns holds, such as ``stratum == 'convection'``; or tiles as given.

    Raises
    ------
    UsageError
        If the condition cannot be evaluated, or there is no such tile.
    """
    if where is None:
        return np.arange(len(table))
    if not isinstance(where, str):
        tiles = np.asarray(where, "i8")
        if tiles.size and not 0 <= tiles.min() <= tiles.max() < len(table):
            raise UsageError(f"tiles {tiles.min()} to {tiles.max()} are not in the store's {len(table)}")
        return tiles
    mask = evaluate(table, where, "filter")
    if mask.dtype != bool:
        raise UsageError(f"filter {where!r} gives {mask.dtype}, not true or false; write a comparison")
    return np.flatnonzero(mask)


def weigh(
    table: pd.DataFrame, weights: str | Mapping[str, Mapping[Any, float]] | None
) -> npt.NDArray[np.float64] | None:
    """Relative weights of tiles.

    Parameters
    ----------
    table
        One row a tile.
    weights
        An expression of columns (``1 / probability``), or by column the weight of each of its values
        (``{"stratum": {"random": 1, "convection": 3}}``; several columns multiply), or None.

    Raises
    ------
    UsageError
        If a column or a value has no weight.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        found = evaluate(table, weights, "weights")
        if found.dtype.kind not in "biuf":
            raise UsageError(f"weights {weights!r} give {found.dtype}, not numbers; calculate with columns of numbers")
        return found.astype("f8")
    product = np.ones(len(table))
    for column, by_value in weights.items():
        if column not in table:
            raise UsageError(f"no column {column!r} to weigh by; there are {', '.join(map(str, table.columns))}")
        factors = table[column].map(by_value)
        if factors.isna().any():
            lacking = sorted(set(table[column][factors.isna()].astype(str)))
            raise UsageError(f"weights by {column} name {list(by_value)}, but tiles have {lacking} too")
        product *= factors.to_numpy("f8")
    return product


def assign_splits(times: Any, days: int = 7) -> npt.NDArray[Any]:
    """Split by time: whole blocks of days go to train (80 %), val or test (10 % each), by a fixed hash of the block.

    Systems last for days, so tiles near in time share a split; the split of a tile never changes as a store grows.
    """
    blocks = np.asarray(times, "M8[D]").astype("i8") // days
    return np.array([_split_of(block) for block in blocks.tolist()])


def _split_of(block: int) -> str:
    share = int.from_bytes(hashlib.sha256(f"split-{block}".encode()).digest()[:4], "little") / 2**32
    return next(name for name, end in _SPLITS if share < end)


def _decode_flags(variable: xr.Variable) -> Any:
    """Names instead of numbers where a variable is an enumeration."""
    if "flag_meanings" not in variable.attrs:
        return variable.values
    names = _named_flags(variable.attrs)
    return [names.get(v, str(v)) for v in variable.values.tolist()]


def _named_flags(attributes: Mapping[Any, Any]) -> dict[int, str]:
    """Names of the numbers of an enumeration."""
    names = str(attributes.get("flag_meanings", "")).split()
    return dict(zip(np.atleast_1d(attributes["flag_values"]).tolist(), names, strict=True))


def _is_large(variable: xr.Variable | xr.DataArray) -> bool:
    """Whether a variable has so many numbers a tile, as the weather about it, that those of all are not held."""
    return variable.dims[:1] == ("tile",) and math.prod(variable.shape[1:]) > _SMALL


def find_store(source: Any, options: Mapping[str, Any]) -> str:
    """URL of the Zarr store that a path, a URL, the folder of a build, or a STAC object or document stands for.

    Raises
    ------
    UsageError
        If a STAC document leads to no store, or the URL is of no known kind.
    SourceError
        If the place cannot be reached.
    """
    with translate_open_errors(str(source)[:200], "a place that can be read", "give a path or a URL"):
        return locate(source, STORES, options)


@contextmanager
def translate_open_errors(url: str, what: str, remedy: str) -> Iterator[None]:
    """Say in one sentence why there is no such thing at a URL, or why it cannot be reached."""
    shown = plain_url(url)
    try:
        yield
    except StratacubeError:
        raise
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        reason = str(error).replace(url, shown)
        raise UsageError(f"{shown} is not {what} ({reason}); {remedy}") from error
    except faults() as error:
        reason = str(error).replace(url, shown)
        raise SourceError(
            f"{shown} cannot be reached ({reason}); check the address, the network and the credentials"
        ) from error
    except Exception as error:  # damaged metadata makes the libraries raise anything
        reason = reason_of(error).replace(url, shown)
        raise SourceError(f"{shown} is not {what} that can be read ({reason}); {remedy}") from error


def plan_beside(url: str, options: Mapping[str, Any], *needed: str) -> pd.DataFrame | None:
    """Read the plan of the build that a store, or the catalog of its cells, lies in.

    Parameters
    ----------
    url
        Of the store or the document.
    options
        For fsspec.
    *needed
        Columns that make it a plan.

    Returns
    -------
    DataFrame or None
        None where no plan is there.

    Raises
    ------
    SourceError
        If what is there is no plan.
    """
    parent = url.rpartition("/")[0]
    filesystem, folder = fsspec.core.url_to_fs(parent or ".", **options)
    path = str(PurePosixPath(folder) / "plan.parquet")
    if not filesystem.exists(path):
        return None
    with _read_as_plan(path), filesystem.open(path, "rb") as file:
        plan = read_frame(file)
        if lacking := {*needed} - {*plan.columns}:
            raise ValueError(f"it has no column {min(lacking)}")
    return plan


def _read_as_plan(path: str) -> AbstractContextManager[None]:
    return guarded(f"{plain_url(path)} is not the plan of a build", "run the build's command again to mend it")


def _read_plan(url: str, options: dict[str, Any], small: xr.Dataset) -> pd.DataFrame | None:
    """Read the plan beside a store of tiles, if there is one."""
    plan, path = plan_beside(url, options, "tile"), f"{url.rpartition('/')[0]}/plan.parquet"
    if plan is None:
        return None
    with _read_as_plan(path):
        if sorted(plan["tile"]) != [*range(len(plan))]:
            raise ValueError("its tiles are not numbered one after the other")
        if "event_time" in plan and plan["event_time"].dtype.kind != "M":
            raise ValueError(f"its event_time holds {plan['event_time'].dtype}, not times")
    if len(plan) != small.sizes["tile"]:
        raise UsageError(f"{path} has {len(plan)} tiles but {url} has {small.sizes['tile']}; they are of two builds")
    return plan
