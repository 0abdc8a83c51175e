"""Windows of any lazily opened cube as batches.

xbatcher lays the windows out, one dimension at a time: the windows of a cube are the product of those of its
dimensions, so what is kept is a list per dimension and not an entry per window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from dask.base import compute
from torch.utils.data import Dataset

from cube.mosaic import open_cells
from cube.opening import open_store
from loaders.augment import View, turned_transform
from loaders.batch import Decoder, PackedBatch
from loaders.layout import stored_chunks, touched, window_starts, windows_of_cells
from loaders.loader import Loader
from loaders.order import Pick
from loaders.statistics import make_decoder
from loaders.store import find_store, translate_open_errors
from loaders.tiles import time_code
from stratacube.errors import SourceError, UsageError

__all__ = ["CubeDataset", "Sampling", "cube_loader", "images_of", "open_cube"]

Sampling = Literal["grid", "stratified", "random"]
Indices = npt.NDArray[np.int64]


class CubeDataset(Dataset[PackedBatch]):
    """A map from numbers to windows of a cube.

    Parameters
    ----------
    cube
        Of decoded values, NaN where not valid: a dataset with a variable per band, or an array with a ``band``
        dimension. The last two dimensions are the image; ``time``, where there is one, is the frames. Windows run
        over every other dimension in steps of one. Or what :func:`open_cube` takes: a path, URL or STAC object.
    window
        Size by dimension; dimensions not named have size 1 (``band``: all).
    overlap
        By dimension, of neighbouring windows.
    sampling
        ``grid``: every whole window from the first pixel on; ``stratified``: one window at a random place within the
        reach of each of these; ``random``: as many windows anywhere. Places differ by epoch, and follow from seed,
        epoch and position alone. Of a mosaic of cells windows are those that hold some of one, and ``random`` is as
        ``stratified``.
    variables
        Bands of a dataset, in the order wanted; by default all with the dimensions of the
        largest; where there are floating numbers, these only. One with a ``band`` dimension is all its bands.
    weights
        How often each window of the grid is drawn, relative to the others; an array of their number.
    flips, rotations
        Whether windows are turned at random.
    edges
        Whether pixels that whole windows of a grid leave at the end of a dimension are in one more, which overlaps the
        one before.

    Raises
    ------
    UsageError
        If windows do not fit.
    """

    def __init__(
        self,
        cube: Any,
        window: Mapping[str, int],
        *,
        overlap: Mapping[str, int] | None = None,
        sampling: Sampling = "grid",
        variables: Sequence[str] | None = None,
        weights: npt.NDArray[np.float64] | None = None,
        flips: bool = False,
        rotations: bool = False,
        edges: bool = False,
    ) -> None:
        if sampling not in ("grid", "stratified", "random"):
            raise UsageError(f"sampling {sampling!r} is not known; choose grid, stratified or random")
        if edges and sampling != "grid":
            raise UsageError(f"`edges` are of a grid, and `sampling` is {sampling}; leave one of both out")
        cube = cube if hasattr(cube, "coords") else open_cube(cube)  # what is xarray's is taken as it is
        self.cube: xr.Dataset | xr.DataArray = cube
        self.bands, self._images = images_of(cube, variables)
        first = self._images[0]
        images = self._images if len(self._images) > 1 else [first] * len(self.bands)  # of which one may hold all
        self.units = {b: str(image.attrs.get("units", "")) for b, image in zip(self.bands, images, strict=True)}
        """By band, as the cube says them; empty where it does not."""
        self.dims = tuple(str(d) for d in first.dims if d != "band")
        lengths = dict(zip(first.dims, first.shape, strict=True))
        self._lengths = np.array([lengths[d] for d in self.dims])
        self._sizes = np.array([window.get(d, 1) for d in self.dims])
        unknown = [d for d in {**window, **(overlap or {})} if d not in self.dims]
        if unknown or (self._sizes > self._lengths).any() or self._sizes.min() < 1:
            raise UsageError(f"window {dict(window)} does not fit the cube's {lengths}; take sizes within it")
        self._starts = [
            window_starts(d, int(n), int(size), (overlap or {}).get(d, 0), edges=edges)
            for d, n, size in zip(self.dims, self._lengths, self._sizes, strict=True)
        ]
        self._chunks = stored_chunks(first, self.dims)
        self.sampling = sampling
        self._turns = View(flips=flips, rotations=rotations)
        self.weights = weights
        self._chosen = windows_of_cells(cube, self.dims, self._starts, self._sizes)
        self._coordinates = {str(d): cube[d].values for d in self.dims if d in cube.coords}
        self.sizes: tuple[int, ...] = (len(self),)
        self.shares: tuple[float, ...] = ()
        self._shape = self._sample_shape()
        self._turns.check(self._shape)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return int(np.prod([len(s) for s in self._starts])) if self._chosen is None else len(self._chosen)

    def choose(self, windows: Indices) -> None:
        """Keep some windows of the grid only, such as those of a split (:func:`loaders.windows.window_extents`).

        Raises
        ------
        UsageError
            If none is left, or windows lie anywhere, so that choosing says nothing.
        """
        if self.sampling == "random":
            raise UsageError(
                "windows that lie anywhere (`sampling=random`) are of no split; take `sampling=stratified`"
            )
        if not len(windows):
            raise UsageError("no window of the cube is left; take smaller blocks, or a smaller gap")
        self.weights = None if self.weights is None else self.weights[windows]
        self._chosen = np.asarray(windows, "i8") if self._chosen is None else self._chosen[windows]
        self.sizes = (len(self),)
        self.fingerprint = self._fingerprint()

    def reach(self) -> tuple[Indices, Indices]:
        """First and last index, along each of :attr:`dims`, of all that each window may hold: it may be moved."""
        first = np.stack([self.origin(i) for i in range(len(self))])
        stride = np.array([s[1] - s[0] if len(s) > 1 else 1 for s in self._starts])
        moved = np.where((self._sizes > 1) & (self.sampling != "grid"), stride - 1, 0)
        return first, np.minimum(first + self._sizes + moved, self._lengths)

    def sample_weights(self) -> tuple[npt.NDArray[np.float64] | None, ...]:
        """How often each window is drawn, relative to the others."""
        return (self.weights,)

    def share_memory(self) -> None:
        """Do nothing: a window's place is computed, not stored."""

    def origin(self, draw: int | Pick) -> Indices:
        """First index of a window along each of :attr:`dims`."""
        sample = draw.sample if isinstance(draw, Pick) else int(draw)
        if not -len(self) <= sample < len(self):
            raise IndexError(f"window {sample} of {len(self)}")
        window = sample % len(self) if self._chosen is None else int(self._chosen[sample])
        places = np.unravel_index(window, [len(s) for s in self._starts])
        start = np.array([s[i] for s, i in zip(self._starts, places, strict=True)])
        if self.sampling == "grid" or not isinstance(draw, Pick):
            return start
        generator = np.random.default_rng([draw.seed, draw.epoch, draw.position, 2])
        room = self._lengths - self._sizes
        if self.sampling == "random" and self._chosen is None:
            anywhere: Indices = generator.integers(0, room + 1)
            return anywhere
        stride = np.array([s[1] - s[0] if len(s) > 1 else 1 for s in self._starts])
        # A dimension that windows do not cut (its size is 1) keeps its place: every date, every tile comes.
        reach = np.where(self._sizes > 1, np.minimum(stride - 1, room - start), 0)
        return start + generator.integers(0, reach + 1)

    def __getitem__(self, index: int | Pick) -> PackedBatch:
        """Read one window."""
        return self.__getitems__([index])

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedBatch:
        """Read windows together: what they share is read once.

        Raises
        ------
        SourceError
            If the cube cannot be read there.
        """
        origins = np.array([self.origin(d) for d in draws])
        lows, highs, place = self._boxes(origins)
        keys = [self._key(low, high) for low, high in zip(lows, highs, strict=True)]
        try:
            read = self._load([[image[key] for image in self._images] for key in keys])
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"windows at {origins.tolist()} of {self.dims} cannot be read ({error})") from error
        values = np.empty((len(draws), len(self.bands), *self._shape), "f4")
        for out, box, origin in zip(values, place, origins - lows[place], strict=True):
            key = self._key(origin, origin + self._sizes)
            first = 0
            for image, source in zip(read[box], self._images, strict=True):
                bands = self._by_band(image[tuple(key.get(str(d), slice(None)) for d in source.dims)], source)
                out[first : first + len(bands)] = bands
                first += len(bands)
        turns = tuple(self._turns.place(self._shape, d if isinstance(d, Pick) else None).orientation for d in draws)
        return PackedBatch(
            torch.from_numpy(values), None, self.bands, orientation=turns, meta=self._meta(draws, origins, turns)
        )

    @staticmethod
    def _load(lazy: list[list[xr.Variable]]) -> Any:
        if lazy[0][0].chunks:
            return compute([[image.data for image in images] for images in lazy])[0]  # type: ignore[no-untyped-call]
        return [[image.values for image in images] for images in lazy]

    def _boxes(self, origins: Indices) -> tuple[Indices, Indices, Indices]:
        """Put windows into boxes: first and last index of each box, and the box of each window.

        A stored chunk is decoded whole, so windows are read as one box where that takes no more chunks than apart.
        """
        ends = origins + self._sizes
        chunks = self._chunks
        if chunks is None:
            return origins, ends, np.arange(len(origins))
        lows, highs, place = origins.copy(), ends.copy(), np.empty(len(origins), "i8")
        alone = touched(origins, ends, chunks)
        costs, used = alone.copy(), 0
        for i, (origin, end) in enumerate(zip(origins, ends, strict=True)):
            low, high = np.minimum(lows[:used], origin), np.maximum(highs[:used], end)
            cost = touched(low, high, chunks)
            fits = np.flatnonzero(cost < costs[:used] + alone[i])
            box = int(fits[0]) if fits.size else used
            if fits.size:
                lows[box], highs[box], costs[box] = low[box], high[box], cost[box]
            else:
                lows[box], highs[box], costs[box] = origin, end, alone[i]
                used += 1
            place[i] = box
        return lows[:used], highs[:used], place

    def _key(self, low: Indices, high: Indices) -> dict[str, slice]:
        return {d: slice(int(a), int(b)) for d, a, b in zip(self.dims, low, high, strict=True)}

    def _by_band(self, image: npt.NDArray[Any], source: xr.Variable) -> npt.NDArray[Any]:
        """Bring an image to (band, time, y, x)."""
        image = np.moveaxis(image, source.dims.index("band"), 0) if "band" in source.dims else image[None]
        return image.reshape(image.shape[0], *self._shape)

    def _sample_shape(self) -> tuple[int, int, int]:
        others = {d: int(n) for d, n in zip(self.dims[:-2], self._sizes[:-2], strict=True) if d != "time"}
        if any(n > 1 for n in others.values()):
            raise UsageError(f"windows may be larger than 1 along time and the image only, not along {others}")
        frames = int(self._sizes[self.dims.index("time")]) if "time" in self.dims[:-2] else 1
        return frames, int(self._sizes[-2]), int(self._sizes[-1])

    def _meta(self, draws: Sequence[int | Pick], origins: Indices, turns: Sequence[int]) -> dict[str, torch.Tensor]:
        """Where windows lie and how they are turned; with coordinates, their times and the affine of their pixels."""
        samples = [d.sample if isinstance(d, Pick) else int(d) for d in draws]
        meta = {"sample": torch.tensor(samples), "origin": torch.from_numpy(origins), "turn": torch.tensor(turns)}
        times = self._coordinates.get("time")
        if times is not None and times.dtype.kind == "M":
            place = self.dims.index("time")
            frames = origins[:, place, None] + np.arange(self._sizes[place])
            chosen = times.astype("M8[us]")[frames]
            meta["time"] = torch.from_numpy(chosen.astype("i8"))
            meta["time_code"] = torch.from_numpy(time_code(chosen))
        y, x = (self._coordinates.get(d) for d in self.dims[-2:])
        if y is not None and x is not None and min(len(y), len(x)) > 1 and y.dtype.kind == x.dtype.kind == "f":
            dy, dx = float(y[1] - y[0]), float(x[1] - x[0])
            rows, cols = origins[:, -2], origins[:, -1]
            corners = zip(x[cols] - dx / 2, y[rows] - dy / 2, turns, strict=True)
            affine = [
                turned_transform(np.array([dx, 0, left, 0, dy, top]), turn, self._shape[1:])
                for left, top, turn in corners
            ]
            meta["transform"] = torch.from_numpy(np.stack(affine))
        return meta

    def _fingerprint(self) -> str:
        kind = (self.bands, self.dims, self._lengths.tolist(), self._sizes.tolist(), self.sampling, self._turns)
        digest = hashlib.sha256(repr(kind).encode())
        for starts in self._starts:
            digest.update(starts.tobytes())
        for values in self._coordinates.values():
            digest.update(np.ascontiguousarray(values).tobytes())
        if self._chosen is None:
            return digest.hexdigest()[:16]
        return hashlib.sha256(digest.hexdigest()[:16].encode() + self._chosen.tobytes()).hexdigest()[:16]


def cube_loader(
    cube: Any,
    window: Mapping[str, int],
    batch_size: int,
    *,
    overlap: Mapping[str, int] | None = None,
    sampling: Sampling = "grid",
    variables: Sequence[str] | None = None,
    weights: npt.NDArray[np.float64] | None = None,
    flips: bool = False,
    rotations: bool = False,
    statistics: Any = None,
    quantity: str = "radiance",
    fill: float = 0.0,
    **options: Any,
) -> Loader:
    """Batches of windows of a cube, such as ``open_abi``, ``open_sentinel2`` or ``open_composites`` of ``cube`` give.

    Parameters
    ----------
    cube, window, overlap, sampling, variables, weights, flips, rotations
        See :class:`CubeDataset`.
    batch_size
        Windows of one batch on one rank.
    statistics
        To normalise by: a file of ``python -m loaders.stats``, or ``{band: (mean, std)}``.
    quantity
        What the cube holds; statistics of another are refused.
    fill
        Value of pixels that are not valid, after normalisation.
    **options
        Of :class:`loaders.loader.Loader`: shuffle, seed, workers, device, tail and others.
    """
    dataset = CubeDataset(
        cube,
        window,
        overlap=overlap,
        sampling=sampling,
        variables=variables,
        weights=weights,
        flips=flips,
        rotations=rotations,
    )
    decoder: Decoder = make_decoder(statistics, quantity, fill)
    return Loader(dataset, batch_size, decoder=decoder, **options)


def open_cube(source: Any, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open a Zarr store with a variable a band, or the rasters of a build, decoded by CF and without Dask.

    Parameters
    ----------
    source
        Path or URL of the store, of the folder of a build of composites or of a STAC document, the content of such a
        document, or an item, collection or catalog of pystac: the store where there is one, else the files of the
        cells as one cube (:func:`cube.mosaic.open_cells`).
    storage_options
        For fsspec.

    Raises
    ------
    UsageError
        If there is no store at ``source``.
    SourceError
        If it cannot be reached.
    """
    url, options = find_store(source, storage_options or {}), dict(storage_options or {})
    remedy = (
        "give the folder of a build that has ended, its tiles.zarr or composites.zarr (`products=cog zarr`), or a "
        "store with a variable a band"
    )
    with translate_open_errors(url, "a Zarr store of a cube", remedy):
        cells = None if url.endswith(".zarr") else open_cells(url, options)
        return open_store(url, options, decode_coords="all") if cells is None else cells


def images_of(
    cube: xr.Dataset | xr.DataArray | xr.DataTree, variables: Sequence[str] | None
) -> tuple[tuple[str, ...], list[xr.Variable]]:
    """Names of the bands, and the variables that hold them.

    Raises
    ------
    UsageError
        If the cube lacks one, or they do not fit together.
    """
    if isinstance(cube, xr.DataTree):
        groups = ", ".join(path for path in cube.groups if cube[path].data_vars)
        raise UsageError(f"a tree of cubes has several grids; choose one of {groups}, such as tree['2km'].ds")
    if isinstance(cube, xr.DataArray):
        named = cube["band"].values.tolist() if "band" in cube.coords else range(cube.sizes.get("band", 1))
        names = (cube.name or "values",) if "band" not in cube.dims else named
        return tuple(str(n) for n in names), [cube.variable]
    arrays = [n for n in cube.data_vars if cube[n].ndim >= 2 and cube[n].dtype.kind in "fiu"]
    # Counts of observations and classes stand beside the bands of floating numbers; they are no bands.
    said = {n for v in cube.data_vars.values() for n in str(v.attrs.get("ancillary_variables", "")).split()}
    alike = [n for n in arrays if cube[n].dtype.kind == "f" and n not in said] or arrays
    first = max(alike, key=lambda n: cube[n].ndim, default=None)
    chosen = list(variables) if variables is not None else [n for n in alike if cube[n].dims == cube[first].dims]
    missing = [n for n in chosen if n not in arrays]
    if missing or not chosen:
        raise UsageError(
            f"the cube has {', '.join(map(str, arrays)) or 'no images'}, not {', '.join(map(str, missing)) or 'none'}"
        )
    if len(chosen) == 1 and "band" in cube[chosen[0]].dims:
        return images_of(cube[chosen[0]], None)
    if len({cube[n].dims for n in chosen}) > 1 or any("band" in cube[n].dims for n in chosen):
        raise UsageError(
            f"{', '.join(map(str, chosen))} cannot be one batch: variables need the same dimensions and no band "
            f"dimension; choose one, such as variables=[{str(first)!r}]"
        )
    return tuple(str(n) for n in chosen), [cube[n].variable for n in chosen]
