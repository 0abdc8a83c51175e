"""Moving blobs: a small data set with structure in space, time and across bands, made from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.order import Share
from stratacube.errors import UsageError
from training.batches import Batch, Statistics, to_minutes

__all__ = ["MemoryLoader", "moving_blobs"]

CLASSES = ("calm", "windy")


def moving_blobs(
    samples: int,
    frames: int,
    bands: int,
    size: tuple[int, int],
    *,
    seed: int,
    invalid: float = 0.0,
    shuffle_time: bool = False,
) -> Batch:
    """Make samples of blobs that drift steadily over a periodic image.

    Each band sees the blobs with a gain of its own, so bands are related. Class 1 drifts three times as fast as class
    0: frames alone do not tell the classes apart, their order does.

    Parameters
    ----------
    samples, frames, bands, size
        Shape of the data.
    seed
        Seed of everything.
    invalid
        Share of pixels that are invalid (their values are NaN).
    shuffle_time
        Put the frames of each sample in random order; the stated times stay in order.
    """
    random = np.random.default_rng([seed, samples])
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    gains = (-0.85) ** np.arange(bands)
    pixels = np.empty((samples, frames, bands, *size), dtype=np.float32)
    labels = random.integers(0, 2, samples)
    for sample, label in zip(pixels, labels, strict=True):
        scene = np.zeros((frames, *size), dtype=np.float32)
        drift = random.normal(size=2)
        drift *= (1.0 + 2.0 * label) * max(size) / 32 / np.hypot(*drift)
        for _ in range(5):
            centre = random.random(2) * size
            width = random.uniform(0.08, 0.2) * max(size)
            for frame in range(frames):
                away = [
                    (axis - c - frame * d + extent / 2) % extent - extent / 2
                    for axis, c, d, extent in zip((rows, columns), centre, drift, size, strict=True)
                ]
                scene[frame] += np.exp(-(away[0] ** 2 + away[1] ** 2) / (2 * width**2)).astype(np.float32)
        if shuffle_time:
            scene = scene[random.permutation(frames)]
        sample[:] = scene[:, None] * gains[:, None, None] + random.normal(scale=0.02, size=sample.shape)
    valid = random.random(pixels.shape) >= invalid
    mean, std = pixels.mean((0, 1, 3, 4)), pixels.std((0, 1, 3, 4))
    pixels = np.where(valid, (pixels - mean[:, None, None]) / std[:, None, None], np.nan).astype(np.float32)
    start = np.datetime64("2020-01-01T00:00") + random.integers(0, 525_600, samples).astype("timedelta64[m]")
    times = start[:, None] + 20 * np.arange(frames).astype("timedelta64[m]")
    return Batch(
        torch.from_numpy(pixels),
        torch.from_numpy(valid),
        to_minutes(times),
        torch.arange(samples),
        torch.from_numpy(labels.astype(np.int64)),
    )


def unit_statistics(bands: tuple[str, ...]) -> Statistics:
    """Make statistics of data that are normalised already: physical values are the normalised ones."""
    count = len(bands)
    return Statistics(bands, (0.0,) * count, (1.0,) * count, (6.0,) * count, "1", "moving blobs, normalised")


class MemoryLoader:
    """Batches of samples held in memory, in a seeded order that can be resumed exactly.

    Parameters
    ----------
    data
        All samples.
    batch_size
        Samples of a batch of one rank.
    seed
        Seed of the order; None keeps the order of the samples. The last batches may be smaller.
    rank, ranks
        Which part of each global batch is ours.
    """

    def __init__(self, data: Batch, batch_size: int, *, seed: int | None, rank: int = 0, ranks: int = 1) -> None:
        if seed is not None and len(data) < batch_size:
            raise UsageError(f"{len(data)} samples do not fill one batch of {batch_size}; use a smaller one")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.samples = len(data)
        self.rank, self.ranks = rank, ranks
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return math.ceil(len(self.data) / (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[Batch]:
        order = self._order(self.epoch)
        while self.position < len(self):
            first = self.position * self.ranks * self.batch_size
            rest = min(self.ranks * self.batch_size, len(order) - first)
            # As loaders deals a rest: evenly, and no rank goes without.
            start, end = (first + rest * rank // self.ranks for rank in (self.rank, self.rank + 1))
            chosen = order[start:end] if rest >= self.ranks else order[[first + self.rank % rest]]
            self.position += 1
            yield self.data.take(torch.from_numpy(chosen))
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch and batches handed out in it."""
        return {"epoch": self.epoch, "position": self.position, "samples": len(self.data)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a loader of the same data stood."""
        if state["samples"] != len(self.data):
            raise UsageError(f"the state is of {state['samples']} samples, the data are {len(self.data)}")
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def stream(self, share: Share, first: int) -> Iterator[Batch]:
        """Go through the epochs without an end, by steps that any number of ranks shares."""
        for numbers in share.batches(first):
            epochs, places = np.divmod(numbers, self.samples)
            chosen = [self._order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
            yield self.data.take(torch.from_numpy(np.concatenate(chosen)))

    def identity(self) -> dict[str, Any]:
        """Name the samples and their order."""
        return {"samples": self.samples, "seed": self.seed}

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse what is of other samples."""
        if identity["samples"] != self.samples:
            raise UsageError(f"the state is of {identity['samples']} samples, the data are {self.samples}")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self.seed is None:
            return np.arange(len(self.data))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
