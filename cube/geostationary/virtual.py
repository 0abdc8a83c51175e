"""ABI archives as lazy xarray: one group per native resolution, each pixel decoded by its own file's rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import normalize_token, tokenize
from xarray.backends.common import BackendArray
from xarray.core import indexing

from catalog.geostationary.naming import lineage_of
from catalog.geostationary.scans import better
from cube.decode import apply_law, to_radiance
from cube.geostationary.dialect import imager_of
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection, Window
from cube.geostationary.pixel_time import describe_timelines, seconds_after_start
from cube.geostationary.place import coordinates, mapping_variable
from cube.geostationary.read import ReadCount, read_windows, stream_images
from cube.geostationary.references import Reference
from cube.instrument import Instrument
from stratacube.errors import UsageError

__all__ = ["lazy_tree"]

_CHUNK_PIXELS = 2048
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

    def __init__(
        self, cells: Sequence[Sequence[Reference | None]], grid: FixedGrid, quantity: str, endpoint_url: str | None
    ) -> None:
        self.cells = cells
        self.quantity = quantity
        self.endpoint_url = endpoint_url
        self.shape = (len(cells), len(cells[0]), *grid.shape)
        self.dtype = np.dtype("f4")

    def __dask_tokenize__(self) -> Any:
        """Name the same pixels alike in every process, and other pixels otherwise."""
        sources = [[c and (c.header.source, c.header.signature) for c in row] for row in self.cells]
        return normalize_token((self.quantity, self.shape, self.endpoint_url, repr(sources)))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.float32]:
        """Read an orthogonal selection."""
        values: npt.NDArray[np.float32] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float32]:
        picks = [_positions(k, n) for k, n in zip(key, self.shape, strict=True)]
        times, bands, rows, cols = picks
        out = np.full([len(p) for p in picks], np.nan, "f4")
        if out.size:
            window = Window(int(rows.min()), int(cols.min()), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
            within = np.ix_(rows - window.row, cols - window.col)
            for i, t in enumerate(times):
                for j, b in enumerate(bands):
                    cell = self.cells[t][b]
                    if cell is not None:
                        out[i, j] = self._decode(cell, window)[within]
        scalars = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return out[scalars]

    def _decode(self, cell: Reference, window: Window) -> npt.NDArray[np.float32]:
        index, shape = cell.load(), (window.height, window.width)
        if self.quantity == "dqf":
            flags = np.empty(shape, "u1")
            read_windows(index, "dqf", [window], [flags], self.endpoint_url)
            return np.where(flags == index.dqf.fill, np.float32("nan"), flags.astype("f4"))
        imager = imager_of(index.source.platform)
        quantity = imager.quantity(self.quantity, imager.band(index.source.channel).name)
        if quantity is None:
            return np.full(shape, np.nan, "f4")
        counts = np.empty(shape, "u2")
        hollow = imager.dialect.hollow
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

    def __init__(self, headers: Sequence[FileIndex], starts: npt.NDArray[np.datetime64], grid: FixedGrid) -> None:
        self.headers, self.starts, self.grid = headers, starts, grid
        self.shape, self.dtype = (len(starts), *grid.shape), np.dtype("M8[ns]")

    def __dask_tokenize__(self) -> Any:
        """Name the same times alike in every process."""
        scans = [
            (h.source.platform, h.source.sector, h.source.mode, str(h.start), str(h.mid_time)) for h in self.headers
        ]
        return normalize_token((repr(self.grid), self.starts.astype("i8").tolist(), scans))

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
            seconds = seconds_after_start(self.headers[t], self.grid.x[None, cols], self.grid.y[rows, None])
            values[i] = self.starts[t] + np.rint(seconds * 1e9).astype("m8[ns]")
        return values[tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)]


def _positions(key: Any, length: int) -> npt.NDArray[np.int64]:
    if isinstance(key, slice):
        return np.arange(*key.indices(length))
    return np.atleast_1d(np.asarray(key, "i8")) % length


def lazy_tree(
    references: Sequence[Reference], chunks: Any, lonlat: bool, observed: bool, endpoint_url: str | None
) -> xr.DataTree:
    """Arrange references as a tree; see :func:`cube.open_abi`.

    Raises
    ------
    UsageError
        If the files are not of one sector, place and point of view: their pixels cannot share coordinates.
    """
    imagers = {imager_of(platform).title: platform for platform in _platforms(references).split()}
    if len(imagers) > 1:
        told = ", ".join(f"{title} ({platform})" for title, platform in sorted(imagers.items()))
        raise UsageError(f"the source holds files of {len(imagers)} instruments, {told}; choose one with platform=")
    products = sorted({r.header.source.product for r in references}, key=lineage_of)
    if len({lineage_of(product) for product in products}) > 1:
        told = " and ".join(products)
        raise UsageError(f"the source holds files of two lineages, {told}; choose one with product=")
    by_view: dict[View, list[Reference]] = defaultdict(list)
    for reference in _latest(references):
        by_view[_view(reference)].append(reference)
    if len(by_view) > 1:
        seen = "; ".join(
            f"{_platforms(members)} {view} from {members[0].header.source.start} on"
            for view, members in by_view.items()
        )
        raise UsageError(
            f"the source holds {len(by_view)} views whose pixels do not coincide: {seen}; "
            "choose one with platform=, sector=, start= and end="
        )
    groups: dict[str, list[Reference]] = defaultdict(list)
    view, members = next(iter(by_view.items()))
    for reference in members:
        groups[reference.header.grid.resolution].append(reference)
    nodes = {
        f"/{name}": _group(groups[name], chunks, lonlat, observed, endpoint_url)
        for name in sorted(groups, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))
    }
    platforms = _platforms(members)
    root = xr.Dataset(attrs={"platform": platforms, "sector": view.sector, "Conventions": "CF-1.11"})
    return xr.DataTree.from_dict({"/": root, **nodes}, name="_".join([*platforms.split(), view.sector]))


def _platforms(references: Sequence[Reference]) -> str:
    """Platforms of some files, in order of number: one took another's place at the same longitude."""
    return " ".join(sorted({r.header.source.platform for r in references}))


def _latest(references: Sequence[Reference]) -> list[Reference]:
    """Of files of one channel and start, as where one was issued again, keep the one to read."""
    best: dict[Any, Reference] = {}
    for reference in references:
        source = reference.header.source
        known = best.get(source.identity)
        if known is None or better(source, known.header.source) is source:
            best[source.identity] = reference
    return list(best.values())


def _view(reference: Reference) -> View:
    source, grid = reference.header.source, reference.header.grid
    # Corners of one sector agree to a fraction of a pixel between resolutions (old mesoscale files are 14 urad off).
    corner = round(grid.left * 1e6 / 56) * 56, round(grid.top * 1e6 / 56) * 56
    return View(source.sector, corner, grid.projection)


def _group(
    references: Sequence[Reference], chunks: Any, lonlat: bool, observed: bool, endpoint_url: str | None
) -> xr.Dataset:
    """Build the dataset of one resolution."""
    grid = references[0].header.grid
    for other in references:
        if not grid.same_pixels(other.header.grid):
            raise UsageError(
                f"{other.header.source.href} has other pixels than {references[0].header.source.href}; choose a period"
            )
    channels = sorted({r.header.source.channel for r in references})
    imager = imager_of(references[0].header.source.platform)
    mapping = imager.dialect.grid_mapping
    scans = _scan_times(references)
    table: list[list[Reference | None]] = [[None] * len(channels) for _ in scans]
    for reference in references:
        source = reference.header.source
        row = table[int(np.searchsorted(scans, reference.header.start, "right")) - 1]
        _refuse_together(row, reference)
        row[channels.index(source.channel)] = reference
    data = xr.Dataset(
        coords={
            "time": ("time", scans, {"standard_name": "time", "long_name": "start of scan"}),
            "band": ("band", [imager.band(c).name for c in channels], {"long_name": f"{imager.title} band"}),
            **coordinates(grid),
            mapping: mapping_variable(grid.projection),
            "wavelength": ("band", [imager.band(c).wavelength_um for c in channels], {"units": "um"}),
        },
        attrs={"resolution": grid.resolution, "Conventions": "CF-1.11"},
    )
    platforms = [next(c.header.source.platform for c in row if c is not None) for row in table]
    data.coords["platform"] = ("time", platforms, {"long_name": "satellite"})
    for name, values, attrs in _per_file(table, imager):
        data[name] = xr.Variable(("time", "band"), values, attrs)
    for quantity in _quantities(channels, imager):
        stack = ScanStack(table, grid, quantity, endpoint_url)
        data[quantity] = _lazy(("time", "band", "y", "x"), stack, _attributes(quantity, imager), chunks, references[0])
    if lonlat:
        for which, name in enumerate(("longitude", "latitude")):
            attrs = {"standard_name": name, "units": "degrees_east" if name == "longitude" else "degrees_north"}
            data.coords[name] = _lazy(("y", "x"), Location(grid, 0 if which == 0 else 1), attrs, chunks, references[0])
    if observed:
        headers = [next(c.header for c in row if c is not None) for row in table]
        attrs = {"standard_name": "time", "long_name": "when the pixel was seen"}
        attrs["comment"] = describe_timelines(imager.dialect.timelines)
        seen = ObservationTime(headers, scans, grid)
        data.coords["observation_time"] = _lazy(("time", "y", "x"), seen, attrs, chunks, references[0])
    return data


def _refuse_together(row: Sequence[Reference | None], reference: Reference) -> None:
    """Refuse scans of two satellites at one time, as where one is tested beside another: one would hide the other."""
    source = reference.header.source
    other = next((c.header.source for c in row if c and c.header.source.platform != source.platform), None)
    if other is not None:
        both = " and ".join(sorted((source.platform, other.platform)))
        raise UsageError(f"{both} both scanned {source.sector} at {source.start}; choose one with `platform`")


def _lazy(
    dims: tuple[str, ...], array: BackendArray, attrs: dict[str, Any], chunks: Any, like: Reference
) -> xr.Variable:
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
    if chunks is None:
        return variable
    if chunks == "auto":
        height, width = like.header.rad.chunks
        # Of a chunk that is a whole image, rows: more would not fit in memory, and narrower is inflated as often.
        rows = height * max(1, _CHUNK_PIXELS // height) if height <= _CHUNK_PIXELS else _CHUNK_PIXELS
        spatial = {"y": rows, "x": width * max(1, _CHUNK_PIXELS // width)}
        chunks = {"time": 1, "band": 1, **spatial}
    imager = imager_of(like.header.source.platform).name
    name = f"{imager}-{tokenize(array)}"
    return variable.chunk({d: n for d, n in chunks.items() if d in dims}, name=name, inline_array=True)


def _scan_times(references: Sequence[Reference]) -> npt.NDArray[np.datetime64]:
    """Scan starts: channels of one scan start within some tenths of a second of each other."""
    starts = np.unique(np.array([r.header.start for r in references], "M8[ns]"))
    apart = np.diff(starts) > np.timedelta64(5, "s")
    firsts: npt.NDArray[np.datetime64] = starts[np.concatenate([[True], apart])]
    return firsts


def _per_file(
    table: Sequence[Sequence[Reference | None]], imager: Instrument
) -> list[tuple[str, npt.NDArray[Any], dict[str, Any]]]:
    """Coefficients, times and eras of each file, (time, band)."""
    shape = len(table), len(table[0])
    names = imager.coefficients
    numbers = {n: np.full(shape, np.nan, "f4") for n in ("scale_factor", "add_offset", *names)}
    middle = np.full(shape, np.datetime64("NaT", "ns"), "M8[ns]")
    era = np.full(shape, -1, "i4")
    known: dict[str, int] = {}
    for t, row in enumerate(table):
        for b, cell in enumerate(row):
            if cell is None:
                continue
            header = cell.header
            numbers["scale_factor"][t, b], numbers["add_offset"][t, b] = header.scale, header.offset
            for name in names:
                numbers[name][t, b] = header.coefficients[name]
            middle[t, b] = header.mid_time
            era[t, b] = known.setdefault(header.signature, len(known))
    return [
        *((n, v, {"long_name": f"{n} of the file"}) for n, v in numbers.items()),
        ("scan_mid", middle, {"standard_name": "time", "long_name": "middle of scan"}),
        ("era", era, {"long_name": "encoding era; files of one number are encoded alike, -1 where there is none"}),
    ]


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
