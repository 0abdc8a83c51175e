"""References to the chunks of one ABI file: where each lies, how it is encoded, what its numbers mean.

A :class:`FileIndex` is all that is needed to read any pixel of a file by plain byte ranges, without HDF5. It is
made once per file (HDF5's lock is process-wide, so by processes) and cached by path, size and modification tag.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from catalog.geostationary.s3 import s3_filesystem, translate_s3_errors
from catalog.geostationary.scans import SourceFile
from cube.geostationary.file_index import ChunkTable, Coefficients, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.index_cache import cache_name, load_index, save_index, with_current_stat
from stratacube.errors import SourceError

__all__ = ["ChunkTable", "Coefficients", "FileIndex", "IndexTask", "index_file"]

_FILTER_NAMES = {1: "deflate", 2: "shuffle"}
_J2000, _MINUTE = np.datetime64("2000-01-01T12:00:00", "ns"), np.timedelta64(60, "s")
_S3_BLOCK = 2**20  # HDF5's metadata lies scattered between the chunks: small blocks fetch less of what is not needed


@dataclass(frozen=True)
class IndexTask:
    """Index one file, in a worker."""

    source: SourceFile
    cache: Path
    endpoint_url: str | None = None
    scan_id: str = ""
    """The scan it is a channel of."""

    @property
    def key(self) -> str:
        """Name among the tasks of a run."""
        return self.source.href

    def index(self) -> FileIndex:
        """Return the whole index."""
        return index_file(self.source, self.cache, self.endpoint_url)

    def header(self) -> FileIndex:
        """Return the index without its chunk tables, which stay in the cache."""
        return self.index().without_chunks()


def index_file(source: SourceFile, cache: Path | None = None, endpoint_url: str | None = None) -> FileIndex:
    """Index one file, from the cache when it is there.

    Parameters
    ----------
    source
        The file as its archive listed it.
    cache
        Folder of cached indexes; None for no caching.
    endpoint_url
        S3 endpoint, for files on S3.

    Raises
    ------
    SourceError
        If the file cannot be opened, is truncated, or is not an ABI L1b file.
    """
    source = with_current_stat(source)
    cached = None if cache is None else cache / cache_name(source)
    known = None if cached is None else load_index(cached, source)
    if known is not None:
        return known
    try:
        with _opened(source, endpoint_url) as file, h5py.File(file, "r") as h5:
            index = _read_index(h5, source)
    except SourceError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise SourceError(f"{source.href} is not a readable ABI L1b file ({_reason(error)})") from error
    if cached is not None:
        try:
            save_index(index, cached)
        except OSError as error:  # a cache that cannot be kept costs time, nothing else
            warnings.warn(f"index of {source.href} is not cached ({error.strerror}: {cached.parent})", stacklevel=2)
    return index


@contextmanager
def _opened(source: SourceFile, endpoint_url: str | None) -> Iterator[BinaryIO | str]:
    """What h5py opens: a path, or a file on S3 read in blocks."""
    if source.href.startswith("s3://"):
        with translate_s3_errors(source.href, endpoint_url):
            remote = s3_filesystem(endpoint_url).open(source.href, block_size=_S3_BLOCK, cache_type="blockcache")
        with remote as file:
            yield file
    else:
        yield source.href


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "truncated file" in text:
        return "truncated file"
    if isinstance(error, FileNotFoundError):
        return "file not found"
    return text[:160] or type(error).__name__


def _read_index(h5: h5py.File, source: SourceFile) -> FileIndex:
    rad, dqf = h5["Rad"], h5["DQF"]
    if rad.ndim != 2 or rad.chunks is None or rad.shape != dqf.shape:
        raise ValueError(f"Rad {rad.shape} and DQF {dqf.shape} are not chunked images of one shape")
    band = int(h5["band_id"][()].ravel()[0])
    if band != source.channel:
        raise ValueError(f"band_id is {band} but the name says C{source.channel:02d}")
    table = _chunk_table(rad)
    valid = _scalar(h5, "valid_pixel_count")
    return FileIndex(
        source=source,
        grid=_grid(h5, table.shape),
        rad=table,
        dqf=_chunk_table(dqf),
        scale=float(_attribute(rad, "scale_factor")),
        offset=float(_attribute(rad, "add_offset")),
        units=_text(_attribute(rad, "units")),
        coefficients=Coefficients(
            kappa0=_reflectance_factor(h5),
            planck_fk1=_scalar(h5, "planck_fk1"),
            planck_fk2=_scalar(h5, "planck_fk2"),
            planck_bc1=_scalar(h5, "planck_bc1"),
            planck_bc2=_scalar(h5, "planck_bc2"),
        ),
        mid_time=_mid_time(h5, source),
        wavelength=_scalar(h5, "band_wavelength"),
        valid_fraction=valid / float(np.prod(table.shape)),
    )


def _chunk_table(dataset: h5py.Dataset) -> ChunkTable:
    plist = dataset.id.get_create_plist()
    filters = []
    for i in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(i)
        if code not in _FILTER_NAMES:
            raise ValueError(f"{dataset.name} uses the HDF5 filter {name!r}, which ABI L1b files never had")
        filters.append(_FILTER_NAMES[code])
    rows, cols = (-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    offsets, sizes = np.zeros((2, rows, cols), "i8")
    height, width = dataset.chunks

    def record(info: Any) -> None:
        if info.filter_mask:
            raise ValueError(f"{dataset.name} has chunks that skip a filter (mask {info.filter_mask})")
        at = info.chunk_offset[0] // height, info.chunk_offset[1] // width
        offsets[at], sizes[at] = info.byte_offset, info.size

    dataset.id.chunk_iter(record)
    kind = dataset.dtype.newbyteorder("=")
    unsigned = _text(dataset.attrs.get("_Unsigned", b"false")).lower() == "true"
    dtype = np.dtype(f"{dataset.dtype.str[0]}{'u' if unsigned else kind.kind}{kind.itemsize}")
    fill = np.asarray(_attribute(dataset, "_FillValue")).astype(dataset.dtype).astype(dtype.newbyteorder("="))
    return ChunkTable(dataset.shape, dataset.chunks, dtype.str, tuple(filters), int(fill), offsets, sizes)


def _grid(h5: h5py.File, shape: tuple[int, int]) -> FixedGrid:
    mapping = h5["goes_imager_projection"].attrs
    numbers = ("perspective_point_height", "semi_major_axis", "semi_minor_axis", "longitude_of_projection_origin")
    projection = GeosProjection(
        **{name: float(np.ravel(mapping[name])[0]) for name in numbers},
        sweep_angle_axis=_text(mapping["sweep_angle_axis"]),
    )
    x0, dx = _axis(h5["x"])
    y0, dy = _axis(h5["y"])
    return FixedGrid(projection, x0, y0, dx, dy, *shape)


def _axis(dataset: h5py.Dataset) -> tuple[float, float]:
    """First centre and spacing of an axis in radians, packed or (in rewritten files) already floating point."""
    scale = float(np.ravel(dataset.attrs.get("scale_factor", 1.0))[0])
    offset = float(np.ravel(dataset.attrs.get("add_offset", 0.0))[0])
    values = dataset[[0, dataset.shape[0] - 1]].astype("f8") * scale + offset
    step = (values[1] - values[0]) / (dataset.shape[0] - 1)
    return _whole_microradians(values[0], step), _whole_microradians(step, step / dataset.shape[0])


def _whole_microradians(value: float, pixel: float) -> float:
    """Undo float32 rounding: the fixed grid is laid out in microradians. Further than 0.002 pixel off, keep it."""
    exact = round(float(value) * 1e6, 0) / 1e6
    return exact if abs(exact - value) < 0.002 * abs(pixel) else float(value)


def _mid_time(h5: h5py.File, source: SourceFile) -> np.datetime64:
    """The file's ``t``, or where that lies outside the scan (units of a rewritten file), the middle of the scan."""
    start, end = np.datetime64(source.start, "ns"), np.datetime64(source.end, "ns")
    seconds = float(h5["t"][()]) if "t" in h5 else float("nan")
    if abs(seconds) < 1e10:
        told = _J2000 + np.timedelta64(round(seconds * 1e9), "ns")
        if start - _MINUTE <= told <= end + _MINUTE:
            return told
    return start + (end - start) // 2


def _scalar(h5: h5py.File, name: str) -> float:
    """Value of a scalar variable as float, NaN when absent or filled (archives lack some)."""
    if name not in h5:
        return float("nan")
    value = float(np.ravel(h5[name][()])[0])
    missing = value in (-999.0, -1.0) or abs(value) > 1e30
    return float("nan") if missing else value


def _reflectance_factor(h5: h5py.File) -> float:
    esun, distance = _scalar(h5, "esun"), _scalar(h5, "earth_sun_distance_anomaly_in_AU")
    factor = np.pi * distance**2 / esun
    return float(factor) if np.isfinite(factor) else _scalar(h5, "kappa0")


def _attribute(dataset: h5py.Dataset, name: str) -> Any:
    return np.ravel(dataset.attrs[name])[0]


def _text(value: Any) -> str:
    return (
        value.decode()
        if isinstance(value, bytes)
        else str(np.ravel(value)[0] if isinstance(value, np.ndarray) else value)
    )
