"""Samples of a tile store, read whole and as stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from catalog.splits import SplitRule
from cube.instrument import COUNTS, lacking
from loaders.augment import Placement, View, coarse_on, pixel_transform
from loaders.batch import PackedBatch
from loaders.extents import tile_extents
from loaders.loader import Loader
from loaders.none_left import require_rule, why_none_left
from loaders.order import Pick
from loaders.parts import StoredPart
from loaders.pictures import Picture
from loaders.reading import lay_out, masks_of
from loaders.rules import rule_of
from loaders.statistics import make_decoder
from loaders.store import TileStore, select, weigh
from loaders.tile_labels import StoredLabel, is_stored, names_of, stored_label
from stratacube.errors import SourceError, UsageError

__all__ = ["TileDataset", "tile_loader", "time_code"]

OnError = Literal["raise", "skip"]


class TileDataset(Dataset[PackedBatch]):
    """A map from numbers to samples of a tile store.

    Indexing gives a batch of one; a list of numbers (or of draws) gives a batch, read together.

    Parameters
    ----------
    store
        Path or URL of a tile store, or of the folder of a build; a STAC item or collection; an opened store.
    bands
        Names or numbers, in the order wanted; all by default.
    view
        Time steps, crop, flips and rotations.
    where
        Condition on the columns of the store's table, such as ``split == 'train' and view_zenith < 65``; or numbers
        of tiles.
    weights
        See :func:`loaders.store.weigh`; how often each tile is drawn, relative to the others.
    labels
        Columns of the table, text becoming the place in :attr:`classes`; and what strata say of tiles, such as
        ``landcover`` or ``cloudsat`` (:class:`loaders.tile_labels.StoredLabel`), which is kept in memory.
    fields
        Coarse angles and places wanted in ``meta``: view_zenith, view_azimuth, solar_zenith, solar_azimuth,
        latitude_coarse, longitude_coarse. They are kept in memory, once for all workers.
    targets
        Variables with a number for each pixel of a tile, such as system_number or life_stage_ahead: they come in
        ``labels``, (B, steps, Y, X), cropped and turned as the pixels are. Of those that have the tile's own steps, the
        sample's are taken.
    on_error
        What to do with a tile of which a chunk is damaged: ``raise``, or ``skip``: it comes with no valid pixel and
        ``meta["failed"]`` set, so that batches keep their size on every rank.
    storage_options
        For fsspec.
    split
        Makes the column ``split`` anew, by the tiles' footprints and times (:mod:`catalog.splits`).
    cache_dir, cache_gb
        Folder on this node's own disk where whole shards are kept, and its bound (:class:`loaders.near.NodeCache`).

    Raises
    ------
    UsageError
        If what is asked for is not in the store.
    """

    def __init__(
        self,
        store: Any,
        *,
        bands: Sequence[str | int] | None = None,
        view: View | None = None,
        where: str | Sequence[int] | npt.NDArray[np.int64] | None = None,
        weights: str | Mapping[str, Mapping[Any, float]] | None = None,
        labels: str | Sequence[str] = (),
        fields: Sequence[str] = (),
        targets: Sequence[str] = (),
        on_error: OnError = "raise",
        storage_options: Mapping[str, Any] | None = None,
        split: SplitRule | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_gb: float = 100.0,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error {on_error!r} is not known; choose raise or skip")
        require_rule(split)
        opened = TileStore.open(store, storage_options)
        self.url, self.reader = opened.url, opened.reader.cached(cache_dir, cache_gb)
        self.store = opened
        self.bands = opened.choose(bands)
        self.instrument = opened.instrument
        self.masks = list(dict.fromkeys(b.mask for b in self.bands))
        masks = masks_of(self.bands)
        self.rules = tuple(rule_of(self.instrument, b.name, masks.index(b.view_mask), b.bit) for b in self.bands)
        self.view = view or View()
        self.view.check(self.bands[0].shape)
        self.on_error = on_error
        stored = [name for name in names_of(labels) if is_stored(opened, name)]
        labels = [name for name in names_of(labels) if name not in stored]
        table = opened.table_for(where, weights, labels)
        if split is not None:
            table = table.assign(split=split.assign(tile_extents(opened)))
        self.tiles = select(table, where)
        if not len(self.tiles):
            raise UsageError(why_none_left(opened, table, where, split))
        self.weights = weigh(table.iloc[self.tiles], weights)
        self.classes: dict[str, list[str]] = {}
        self.columns = {name: self._label(opened, name) for name in labels}  # of each sample, in the plan
        self.label_classes: dict[str, list[str]] = {}  # of what strata say: the same in all stores
        self._stored_labels: dict[str, StoredLabel] = {}
        for name in stored:
            self._stored_labels[name], names = stored_label(opened, name, self.tiles)
            self.label_classes |= {name: names} if names else {}
        self.sizes: tuple[int, ...] = (len(self.tiles),)
        self.shares: tuple[float, ...] = ()
        self._keep_small(opened)
        self._fields = {name: self._field(opened, name) for name in fields}
        self._targets = [Picture.of(opened, name, self.bands[0].shape) for name in targets]
        picture = repr((opened.fingerprint, [b.name for b in self.bands], self.view)).encode()
        self.fingerprint = hashlib.sha256(picture + self.tiles.tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getstate__(self) -> dict[str, Any]:
        """Travel to workers without what they do not read."""
        return {**self.__dict__, "store": None}

    def units(self, quantity: str) -> dict[str, str]:
        """Units of a quantity of each band that has it; counts have none."""
        if quantity == COUNTS:
            return {band.name: "1" for band in self.bands}
        found = {b.name: self.instrument.quantity(quantity, b.name) for b in self.bands}
        return {name: q.units for name, q in found.items() if q is not None}

    def require(self, quantity: str) -> None:
        """Refuse a quantity that a band does not have.

        Raises
        ------
        UsageError
            If one does not.
        """
        for band, rule in zip(self.bands, self.rules, strict=True):
            if quantity != COUNTS and rule.law(quantity) is None:
                raise lacking(band.name, quantity, [COUNTS, *rule.names])

    def sample_weights(self) -> tuple[npt.NDArray[np.float64] | None, ...]:
        """How often each sample is drawn, relative to the others."""
        return (self.weights,)

    def __getitem__(self, index: int | Pick | Sequence[int | Pick]) -> PackedBatch:
        """Read one sample, or several together."""
        many = isinstance(index, Sequence) and not isinstance(index, Pick)
        return self.__getitems__(index if many else [index])  # type: ignore[arg-type, list-item]

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedBatch:
        """Read a batch.

        Raises
        ------
        SourceError
            If a chunk is damaged and ``on_error`` is ``raise``.
        """
        picks = [d if isinstance(d, Pick) else None for d in draws]
        samples = torch.tensor([d.sample if isinstance(d, Pick) else int(d) for d in draws])
        if samples.min() < -len(self) or samples.max() >= len(self):
            raise IndexError(f"samples {int(samples.min())} to {int(samples.max())} are not in the {len(self)}")
        samples %= len(self)
        stored = self.bands[0].shape
        places = [self.view.place(stored, pick) for pick in picks]
        frames = torch.tensor([p.step for p in places])[:, None] + torch.arange(self.view.shape(stored)[0])
        values, mask, parts, failed = self._read(self.tiles[samples.numpy()], places)
        return PackedBatch(
            values,
            mask,
            tuple(b.name for b in self.bands),
            self._packing[samples[:, None], frames],
            None if self._coefficients is None else self._coefficients[samples[:, None], frames],
            self._coefficient_names,
            self.rules,
            tuple(p.orientation for p in places),
            self._meta(samples, frames, places) | {"failed": failed},
            self._labels_of(samples, places) | self._pictures(self.tiles[samples.numpy()], places, failed),
            parts,
        )

    def _labels_of(self, samples: Tensor, places: Sequence[Placement]) -> dict[str, Tensor]:
        found = {name: codes[samples] for name, codes in self.columns.items()}
        size = self.view.shape(self.bands[0].shape)[1:]
        for name, stored in self._stored_labels.items():
            found |= stored.of(name, samples, places, size)
        return found

    def _read(
        self, tiles: npt.NDArray[np.int64], places: Sequence[Placement]
    ) -> tuple[Tensor, Tensor | None, dict[int, StoredPart], Tensor]:
        """Read counts and masks of every band of a batch, in one request to storage."""
        seen = self.view.shape(self.bands[0].shape)
        parts, targets = lay_out(self.bands, tiles, places, seen, self.view.align)
        failed = torch.zeros(len(tiles), dtype=torch.bool)
        for (sample, target), error in zip(targets, self.reader.read([t for _, t in targets]), strict=True):
            if error is None:
                continue
            if self.on_error == "raise":
                raise SourceError(f"tile {target.tile} of {self.url}, {target.name}: {error}") from error
            failed[sample] = True
        for part in parts.values():
            for tensor in (part.values, part.mask):
                tensor.numpy()[failed.numpy()] = 0
        if list(parts) == [1]:
            (part,) = parts.values()
            return part.values, part.mask if len(part.masks) > 1 else part.mask[:, 0], {}, failed
        return torch.empty((len(tiles), 0, *seen), dtype=torch.uint16), None, parts, failed

    def _pictures(self, tiles: npt.NDArray[np.int64], places: Sequence[Placement], failed: Tensor) -> dict[str, Tensor]:
        """Read what was asked for of each pixel; a damaged tile is failed, as for its bands."""
        seen = self.view.shape(self.bands[0].shape)
        found = {}
        for picture in self._targets:
            stack, errors = picture.read(self.reader, tiles.tolist(), places, seen)
            if self.on_error == "raise" and errors:
                place, error = errors[0]
                raise SourceError(f"tile {tiles[place]} of {self.url}, {picture.name}: {error}") from error
            for place, _ in errors:
                failed[place] = True
            found[picture.name] = torch.from_numpy(stack)
        return found

    def _keep_small(self, store: TileStore) -> None:
        """Keep in memory what is small, of the chosen tiles and bands."""
        small, bands = store.small, [b.place for b in self.bands]

        def numbers(names: Sequence[str]) -> Tensor:
            stacked = np.stack([small[n].values[self.tiles][:, :, bands] for n in names], -1)
            return torch.from_numpy(stacked.astype("f4"))

        self._packing = numbers(("packing_scale", "packing_offset"))
        self._coefficient_names = self.instrument.coefficients
        there = set(self._coefficient_names) <= set(small)
        self._coefficients = numbers(self._coefficient_names) if there else None
        self._times = torch.from_numpy(store.times()[self.tiles].astype("i8"))
        self._scalars = {
            str(name): torch.from_numpy(np.ascontiguousarray(variable.values[self.tiles]))
            for name, variable in small.variables.items()
            if variable.dims == ("tile",) and variable.dtype.kind in "iuf"
        }

    def _field(self, store: TileStore, name: str) -> Tensor:
        if name not in store.coarse:
            raise UsageError(f"{self.url} has no field {name!r}; it has {', '.join(map(str, store.coarse)) or 'none'}")
        return torch.from_numpy(store.coarse[name].values[self.tiles])

    def share_memory(self) -> None:
        """Put the small tensors where worker processes share them instead of each having a copy."""
        stored = [tensor for label in self._stored_labels.values() for tensor in label.tensors()]
        small = (self._packing, self._coefficients, self._times, *self._scalars.values(), *self._fields.values())
        for tensor in (*small, *stored):
            if tensor is not None:
                tensor.share_memory_()  # type: ignore[no-untyped-call]

    def _meta(self, samples: Tensor, frames: Tensor, places: Sequence[Placement]) -> dict[str, Tensor]:
        """Bring times, places and angles to the sample as it is cut and turned."""
        stored = self.bands[0].shape
        steps, rows, cols = self.view.shape(stored)
        times = self._times[samples[:, None], frames]
        meta = {name: values[samples] for name, values in self._scalars.items()}
        meta |= {
            "sample": samples,
            "tile": torch.from_numpy(self.tiles)[samples],
            "time": times,
            "time_code": torch.from_numpy(time_code(times.numpy().view("M8[us]"))),
            "place": torch.tensor([tuple(p) for p in places]),
        }
        for name, field in self._fields.items():
            parts = []
            for i, p in zip(samples.tolist(), places, strict=True):
                part = field[i, p.step : p.step + steps] if field.ndim == 4 else field[i]
                parts.append(coarse_on(part.numpy(), stored[1], p, rows))
            meta[name] = torch.from_numpy(np.stack(parts))
        if self.bands[0].pixel is not None and {"x_left", "y_top"} <= set(self._scalars):
            left, top = (meta[n].tolist() for n in ("x_left", "y_top"))
            transforms = [
                pixel_transform(x, y, self.bands[0].pixel, p, (rows, cols))
                for x, y, p in zip(left, top, places, strict=True)
            ]
            meta["transform"] = torch.from_numpy(np.stack(transforms))
        return meta

    def renumber(self, label: str, classes: Sequence[str]) -> None:
        """Number a label's classes by their places in a list that holds them, such as that of several stores."""
        places = torch.tensor([classes.index(name) for name in self.classes[label]])
        self.columns[label] = places[self.columns[label]]
        self.classes[label] = list(classes)

    def _label(self, store: TileStore, name: str) -> Tensor:
        """One number a tile; text as its place among the sorted values of the whole store."""
        table = store.table_for(name)
        if name not in table:
            raise UsageError(f"no column {name!r} to label by; there are {', '.join(map(str, table.columns))}")
        column = table[name]
        if column.dtype.kind not in "iufb":
            self.classes[name] = sorted(set(column.astype(str)))
            places = {value: i for i, value in enumerate(self.classes[name])}
            column = column.astype(str).map(places)
        return torch.from_numpy(column.to_numpy()[self.tiles].copy())


def tile_loader(
    store: Any,
    batch_size: int,
    *,
    bands: Sequence[str | int] | None = None,
    view: View | None = None,
    where: str | Sequence[int] | npt.NDArray[np.int64] | None = None,
    weights: str | Mapping[str, Mapping[Any, float]] | None = None,
    labels: str | Sequence[str] = (),
    fields: Sequence[str] = (),
    targets: Sequence[str] = (),
    on_error: OnError = "raise",
    storage_options: Mapping[str, Any] | None = None,
    split: SplitRule | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_gb: float = 100.0,
    statistics: Any = None,
    quantity: str = "radiance",
    fill: float = 0.0,
    **options: Any,
) -> Loader:
    """Batches of a tile store.

    Parameters
    ----------
    store, bands, view, where, weights, labels, fields, targets, on_error, storage_options, split, cache_dir, cache_gb
        See :class:`TileDataset`.
    batch_size
        Samples of one batch on one rank.
    statistics
        File written by ``python -m loaders.stats``, or its content, to normalise by; None leaves physical values.
    quantity, fill
        See :class:`loaders.batch.Decoder`.
    **options
        Of :class:`loaders.loader.Loader`: shuffle, seed, workers, device, tail and others.

    Returns
    -------
    Loader
        Of :class:`loaders.batch.Batch`.

    Raises
    ------
    UsageError
        If what is asked for is not in the store, a band does not have the quantity, or the statistics are of another.
    """
    dataset = TileDataset(
        store,
        bands=bands,
        view=view,
        where=where,
        weights=weights,
        labels=labels,
        fields=fields,
        targets=targets,
        on_error=on_error,
        storage_options=storage_options,
        split=split,
        cache_dir=cache_dir,
        cache_gb=cache_gb,
    )
    dataset.require(quantity)
    return Loader(dataset, batch_size, decoder=make_decoder(statistics, quantity, fill), **options)


def time_code(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.float32]:
    """Year, day of year (1 to 366), minute of the day, and minutes since the first frame; (..., time, 4)."""
    years = times.astype("M8[Y]")
    days = times.astype("M8[D]")
    minute = np.timedelta64(60_000_000, "us")
    code = [
        years.astype("i8") + 1970,
        (days - years.astype("M8[D]")).astype("i8") + 1,
        (times - days.astype("M8[us]")) / minute,
        (times - times[..., :1]) / minute,
    ]
    return np.stack(code, -1).astype("f4")
