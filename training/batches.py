"""What the trainer needs of data: batches of normalised pixels, and loaders that know where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from loaders.order import Share
from loaders.statistics import BandStatistics
from loaders.statistics import Statistics as StoredStatistics
from training.models.codes import NO_TIME

__all__ = ["Batch", "BatchLoader", "Data", "Statistics", "TrainLoader", "minutes_of", "stored_statistics", "to_minutes"]


@dataclass(frozen=True)
class Statistics:
    """Per-band constants that turn physical values into normalised ones: ``(value - mean) / std``."""

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    span: tuple[float, ...]
    """Range of each band that PSNR and SSIM refer to, in physical units."""
    unit: str = ""
    source: str = ""
    """Where the numbers come from."""
    quantity: str = ""
    """What the values are, by the name that the store's instrument has for it."""
    details: tuple[BandStatistics, ...] = ()
    """Of each band, as the file of statistics tells it."""

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std, each (bands, 1, 1), float32."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device)
        return mean[:, None, None], torch.tensor(self.std, dtype=torch.float32, device=device)[:, None, None]

    def physical(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (..., bands, height, width) in physical units."""
        mean, std = self.tensors(pixels.device)
        return pixels * std + mean

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for manifests."""
        names = ("bands", "mean", "std", "span", "unit", "source", "quantity")
        return {**{name: getattr(self, name) for name in names}, "details": [_plain(band) for band in self.details]}

    @staticmethod
    def stored(values: Mapping[str, Any]) -> StoredStatistics:
        """Turn `as_dict`, of a manifest, into what a file of statistics holds and every decoder takes."""
        details = values.get("details") or [{}] * len(values["bands"])
        bands = {
            name: BandStatistics(
                **{**_UNKNOWN, **{k: v for k, v in told.items() if v is not None}, "mean": m, "std": s}
            )
            for name, m, s, told in zip(values["bands"], values["mean"], values["std"], details, strict=True)
        }
        return StoredStatistics(values.get("quantity", ""), {"train": bands}, {"source": values["source"]})


def stored_statistics(manifest: Mapping[str, Any]) -> StoredStatistics | None:
    """Statistics that a model was trained with, of its manifest; None of versions that did not keep all of them."""
    values = manifest["statistics"]
    return Statistics.stored(values) if values.get("details") else None


_UNKNOWN = {"count": 0, "min": math.nan, "max": math.nan}


def _plain(band: BandStatistics) -> dict[str, Any]:
    """Plain values without the histogram, and none where one is not known."""
    values = {name: value for name, value in asdict(band).items() if name not in ("edges", "histogram")}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


@dataclass(frozen=True)
class Batch:
    """Samples on the way to the model."""

    pixels: Tensor
    """(batch, frames, bands, height, width) float32, normalised; anything where not valid."""
    valid: Tensor
    """Same shape, bool."""
    minutes: Tensor
    """(batch, frames) int64, minutes since 1970-01-01 UTC, or `NO_TIME`."""
    samples: Tensor
    """(batch,) int64, numbers of the samples in their data set."""
    labels: Tensor | None = None
    """Where they are asked for: (batch,) class or number of each sample; (batch, numbers); of pixels (batch, steps,
    height, width); or of profiles (batch, profiles, levels)."""
    at: Tensor | None = None
    """(batch, profiles, 2) row and column of each profile in the sample; -1 where it is not to be counted."""

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def take(self, chosen: Tensor) -> Batch:
        """Some of the samples, by place."""
        return Batch(**{name: part[chosen] for name, part in vars(self).items() if part is not None})

    def inputs(self, mask: Any) -> tuple[Any, ...]:
        """Give what the model takes."""
        return self.pixels, self.valid, self.minutes, mask

    def valid_share(self) -> Tensor:
        """Share of the valid pixels; a scalar on the device."""
        return self.valid.float().mean()

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        if self.pixels.device == device:
            return self
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return Batch(**moved)


class BatchLoader(Protocol):
    """Batches of one rank. Iterating gives the rest of the current epoch, then the next call the next epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the loader stands to the end of its epoch."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Where the loader stands: after the last batch handed out."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another loader of the same data stood."""
        ...


class TrainLoader(BatchLoader, Protocol):
    """Samples to learn from, beside epochs of batches as one stream without an end, the epochs one after another."""

    @property
    def samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        ...

    def stream(self, share: Share, first: int) -> Iterator[Batch]:
        """One rank's micro-batches of the steps that begin at sample number ``first`` of the stream."""
        ...

    def identity(self) -> dict[str, Any]:
        """Name the samples and their order."""
        ...

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse the identity of other samples, or of another order, by `UsageError`."""
        ...


@dataclass(frozen=True)
class Data:
    """Everything a run reads."""

    train: TrainLoader
    validation: BatchLoader | None
    statistics: Statistics
    fingerprint: str
    """Names the data: a checkpoint is not resumed on other data."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What the numbers of the labels are called; of several numbers a sample, what each is, by its place."""
    parts: Mapping[str, Data] = field(default_factory=dict)
    """Of a mixture, by name: what each source is judged on and normalised by. What stands above is of the first."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of a mixture, by name: of the samples learned from; they make 1."""

    labels: tuple[Tensor, Tensor] | None = None
    """Of all samples learned from, and of all that are judged on, where labels are a column of the plan."""

    @property
    def judged(self) -> Mapping[str, Data]:
        """What has validation data, by name of the source; of one source alone the name is empty."""
        return {name: part for name, part in (self.parts or {"": self}).items() if part.validation is not None}


def minutes_of(microseconds: Tensor) -> Tensor:
    """Turn microseconds since 1970-01-01 (int64, any shape, the least number for none) into minutes, where they are."""
    minutes = torch.div(microseconds, 60_000_000, rounding_mode="floor")
    return minutes.masked_fill(microseconds == torch.iinfo(torch.int64).min, NO_TIME)


def to_minutes(times: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    """Turn datetimes (naive UTC, any shape) into int64 minutes since 1970-01-01; NaT becomes `NO_TIME`."""
    minutes = times.astype("datetime64[m]").astype(np.int64)
    return torch.from_numpy(np.where(np.isnat(times), NO_TIME, minutes))
