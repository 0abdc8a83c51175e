"""ABI archives as lazy xarray: one group per native resolution, each pixel decoded by its own file's rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import normalize_token, tokenize
from xarray.backends.common import BackendArray
from xarray.core import indexing

from catalog.geostationary.naming import lineage_of
from cube.decode import apply_law, to_radiance
from cube.geostationary.cells import Cells, arranged
from cube.geostationary.dialect import imager_of
from cube.geostationary.file_columns import FileColumns
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection, Window
from cube.geostationary.pixel_time import describe_timelines, seconds_after_start
from cube.geostationary.place import coordinates, mapping_variable
from cube.geostationary.read import ReadCount, read_windows, stream_images
from cube.geostationary.references import Reference
from cube.instrument import Instrument
from stratacube.errors import UsageError

__all__ = ["lazy_tree"]

_CHUNK_PIXELS = 950
"""Side of a Dask chunk, about: of two selections one after the other Dask reads whole chunks for the second, so that a
tile costs what the chunks that it touches cost."""
_STRIP_ROWS = 2048
"""Rows of a Dask chunk where an image is one chunk of its file: it is inflated from its beginning for each."""
_ORDER = ("500m", "1km", "2km")


@dataclass(frozen=True)
class View:
    """What all scans of one cube share: from where, and at which pixels of the 2 km lattice, is looked."""

    sector: str
    corner: tuple[int, int]
    projection: GeosProjection

    def __str__(self) -> str:
        longitude = self.projection.longitude_of_projection_origin
        return f"{self.sector} from longitude {longitude:g} (north-west corner at {self.corner} microradians)"


class ScanStack(BackendArray):
    """One quantity of (time, band, y, x); pixels are read when indexed, decoded by each file's own coefficients."""

    def __init__(self, cells: Cells, grid: FixedGrid, quantity: str, endpoint_url: str | None) -> None:
        self.cells = cells
        self.quantity = quantity
        self.endpoint_url = endpoint_url
        self.shape = (*cells.shape, *grid.shape)
        self.dtype = np.dtype("f4")

    def __dask_tokenize__(self) -> Any:
        """Name the same pixels alike in every process, and other pixels otherwise."""
        return normalize_token((self.quantity, self.shape, self.endpoint_url, self.cells.digest))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.float32]:
        """Read an orthogonal selection."""
        values: npt.NDArray[np.float32] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float32]:
        picks = [_positions(k, n) for k, n in zip(key, self.shape, strict=True)]
        times, bands, rows, cols = picks
        out = np.empty([len(p) for p in picks], "f4")
        if out.size:
            window = Window(int(rows.min()), int(cols.min()), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
            within: Any = np.ix_(rows - window.row, cols - window.col)
            if (np.diff(rows) == 1).all() and (np.diff(cols) == 1).all():  # copied at once, not pixel by pixel
                within = ...
            for i, t in enumerate(times):
                for j, b in enumerate(bands):
                    cell = self.cells.at(t, b)
                    out[i, j] = np.nan if cell is None else self._decode(cell, window)[within]
        scalars = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return out[scalars]

    def _decode(self, cell: Reference, window: Window) -> npt.NDArray[np.float32]:
        shape = window.height, window.width
        if self.quantity == "dqf":
            index = cell.load("dqf")
            flags = np.empty(shape, "u1")
            read_windows(index, "dqf", [window], [flags], self.endpoint_url)
            return np.where(flags == index.dqf.fill, np.float32("nan"), flags.astype("f4"))
        source = cell.header.source
        imager = imager_of(source.platform)
        quantity = imager.quantity(self.quantity, imager.band(source.channel).name)
        if quantity is None:
            return np.full(shape, np.nan, "f4")
        counts = np.empty(shape, "u2")
        hollow = imager.dialect.hollow
        index = cell.load() if hollow else cell.load("rad")
        if hollow:
            ((counts, flags),) = stream_images(index, [window], ReadCount(), self.endpoint_url)
        else:
            read_windows(index, "rad", [window], [counts], self.endpoint_url)
        radiance = to_radiance(counts, index.scale, index.offset)
        radiance[counts == index.rad.fill] = np.nan
        if hollow:
            radiance[np.isin(flags, hollow)] = np.nan
        values: npt.NDArray[np.float32] = apply_law(quantity.law, radiance, index.coefficients)
        return values


class Location(BackendArray):
    """Longitude or latitude of the pixels of a grid, computed where indexed."""

    def __init__(self, grid: FixedGrid, which: Literal[0, 1]) -> None:
        self.grid, self.which = grid, which
        self.shape, self.dtype = grid.shape, np.dtype("f8")

    def __dask_tokenize__(self) -> Any:
        """Name the same places alike in every process."""
        return normalize_token((repr(self.grid), self.which))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.float64]:
        """Compute an orthogonal selection."""
        values: npt.NDArray[np.float64] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float64]:
        rows, cols = (_positions(k, n) for k, n in zip(key, self.shape, strict=True))
        values = self.grid.lonlat(rows[:, None], cols[None, :])[self.which]
        return values[tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)]


class ObservationTime(BackendArray):
    """When the pixels of some scans were seen, computed where indexed."""

    def __init__(self, cells: Cells, starts: npt.NDArray[np.datetime64], grid: FixedGrid) -> None:
        self.cells, self.starts, self.grid = cells, starts, grid
        self.shape, self.dtype = (len(starts), *grid.shape), np.dtype("M8[ns]")

    def __dask_tokenize__(self) -> Any:
        """Name the same times alike in every process."""
        return normalize_token((repr(self.grid), self.starts.astype("i8"), self.cells.digest))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.datetime64]:
        """Compute an orthogonal selection."""
        values: npt.NDArray[np.datetime64] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.datetime64]:
        times, rows, cols = (_positions(k, n) for k, n in zip(key, self.shape, strict=True))
        values = np.empty((len(times), len(rows), len(cols)), self.dtype)
        for i, t in enumerate(times):
            seconds = seconds_after_start(
                self.cells.any(int(t)).header, self.grid.x[None, cols], self.grid.y[rows, None]
            )
            values[i] = self.starts[t] + np.rint(seconds * 1e9).astype("m8[ns]")
        return values[tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)]


def _positions(key: Any, length: int) -> npt.NDArray[np.int64]:
    if isinstance(key, slice):
        return np.arange(*key.indices(length))
    return np.atleast_1d(np.asarray(key, "i8")) % length


def lazy_tree(columns: FileColumns, chunks: Any, lonlat: bool, observed: bool, endpoint_url: str | None) -> xr.DataTree:
    """Arrange files as a tree; see :func:`cube.open_abi`.

    Raises
    ------
    UsageError
        If the files are not of one sector, place and point of view: their pixels cannot share coordinates.
    """
    eras = columns.eras
    products = sorted({h.source.product for h in eras}, key=lineage_of)
    if len({lineage_of(product) for product in products}) > 1:
        told = " and ".join(products)
        raise UsageError(f"the source holds files of two lineages, {told}; choose one with product=")
    by_view: dict[View, list[int]] = defaultdict(list)
    for number in columns.met():
        by_view[_view(eras[number])].append(number)
    if len(by_view) > 1:
        seen = "; ".join(
            f"{_platforms(eras[n] for n in members)} {view} from "
            f"{columns.start[np.isin(columns.era, members)].min().astype('M8[us]').item()} on"
            for view, members in by_view.items()
        )
        raise UsageError(
            f"the source holds {len(by_view)} views whose pixels do not coincide: {seen}; "
            "choose one with platform=, sector=, start= and end="
        )
    groups: dict[str, list[int]] = defaultdict(list)
    view, members = next(iter(by_view.items()))
    for number in members:
        groups[eras[number].grid.resolution].append(number)
    nodes = {
        f"/{name}": _group(columns, groups[name], chunks, lonlat, observed, endpoint_url)
        for name in sorted(groups, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))
    }
    platforms = _platforms(eras[n] for n in members)
    root = xr.Dataset(attrs={"platform": platforms, "sector": view.sector, "Conventions": "CF-1.11"})
    return xr.DataTree.from_dict({"/": root, **nodes}, name="_".join([*platforms.split(), view.sector]))


def _platforms(headers: Iterable[FileIndex]) -> str:
    """Platforms of some files, in order of number: one took another's place at the same longitude."""
    return " ".join(sorted({h.source.platform for h in headers}))


def _view(header: FileIndex) -> View:
    source, grid = header.source, header.grid
    # Corners of one sector agree to a fraction of a pixel between resolutions (old mesoscale files are 14 urad off).
    corner = round(grid.left * 1e6 / 56) * 56, round(grid.top * 1e6 / 56) * 56
    return View(source.sector, corner, grid.projection)


def _group(
    columns: FileColumns, eras: Sequence[int], chunks: Any, lonlat: bool, observed: bool, endpoint_url: str | None
) -> xr.Dataset:
    """Build the dataset of one resolution."""
    headers = [columns.eras[n] for n in eras]
    like = headers[0]
    grid = like.grid
    for other in headers:
        if not grid.same_pixels(other.grid):
            raise UsageError(f"{other.source.href} has other pixels than {like.source.href}; choose a period")
    imager = imager_of(like.source.platform)
    mapping = imager.dialect.grid_mapping
    table = arranged(columns, eras)
    scans, channels, cells = table.scans, table.channels, table.cells()
    variables = {name: xr.Variable(("time", "band"), values, attrs) for name, values, attrs in table.per_file()}
    for quantity in _quantities(channels, imager):
        stack = ScanStack(cells, grid, quantity, endpoint_url)
        described = _attributes(quantity, imager)
        variables[quantity] = _lazy(("time", "band", "y", "x"), stack, described, chunks, like)
    data = xr.Dataset(
        variables,
        coords={
            "time": ("time", scans, {"standard_name": "time", "long_name": "start of scan"}),
            "band": ("band", [imager.band(c).name for c in channels], {"long_name": f"{imager.title} band"}),
            **coordinates(grid),
            mapping: mapping_variable(grid.projection),
            "wavelength": ("band", [imager.band(c).wavelength_um for c in channels], {"units": "um"}),
            "platform": ("time", table.platforms(), {"long_name": "satellite"}),
        },
        attrs={"resolution": grid.resolution, "Conventions": "CF-1.11"},
    )
    if lonlat:
        for which, name in enumerate(("longitude", "latitude")):
            attrs = {"standard_name": name, "units": "degrees_east" if name == "longitude" else "degrees_north"}
            data.coords[name] = _lazy(("y", "x"), Location(grid, 0 if which == 0 else 1), attrs, chunks, like)
    if observed:
        attrs = {"standard_name": "time", "long_name": "when the pixel was seen"}
        attrs["comment"] = describe_timelines(imager.dialect.timelines)
        seen = ObservationTime(cells, scans, grid)
        data.coords["observation_time"] = _lazy(("time", "y", "x"), seen, attrs, chunks, like)
    return data


def _lazy(
    dims: tuple[str, ...], array: BackendArray, attrs: dict[str, Any], chunks: Any, like: FileIndex
) -> xr.Variable:
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
    if chunks is None:
        return variable
    if chunks == "auto":
        height, width = like.rad.chunks
        # Of a chunk that is a whole image, rows: more would not fit in memory, and narrower is inflated as often.
        rows = height * max(1, _CHUNK_PIXELS // height) if height <= _STRIP_ROWS else _STRIP_ROWS
        spatial = {"y": rows, "x": width * max(1, _CHUNK_PIXELS // width)}
        chunks = {"time": 1, "band": 1, **spatial}
    imager = imager_of(like.source.platform).name
    name = f"{imager}-{tokenize(array)}"
    return variable.chunk({d: n for d, n in chunks.items() if d in dims}, name=name, inline_array=True)


def _quantities(channels: Sequence[int], imager: Instrument) -> list[str]:
    """What there is of some channels: radiance and quality first."""
    bands, quantities = {imager.band(c).name for c in channels}, imager.quantities
    first, *rest = (n for n in imager.quantity_names if any(bands & {*q.bands} for q in quantities if q.name == n))
    return [first, "dqf", *rest]


def _attributes(name: str, imager: Instrument) -> dict[str, Any]:
    dialect = imager.dialect
    common = {"grid_mapping": dialect.grid_mapping, "coordinates": "wavelength"}
    if name == "dqf":
        return {
            "long_name": "data quality flag",
            "flag_values": list(range(len(dialect.flags))),
            "flag_meanings": " ".join(dialect.flags),
            **common,
        }
    parts = [q for q in imager.quantities if q.name == name]
    ranges = {q.units: f"{q.bands[0]}-{q.bands[-1]}" for q in parts}
    if len(parts) > 1:
        units, comment = " or ".join(f"{u} ({r})" for u, r in ranges.items()), "NaN where the file holds its fill value"
        return {"long_name": parts[0].name, "units": units, "comment": f"{comment} or the band is missing", **common}
    (units, bands), *_ = ranges.items()
    comment = f"{bands}; NaN for other bands"
    if parts[0].law == "proportional":
        comment = f"{bands}, not divided by the cosine of the solar zenith angle; NaN for other bands"
    return {"long_name": name.replace("_", " "), "units": units, "comment": comment, **common}
