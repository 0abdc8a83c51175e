"""From a trained model and a source to a folder of features: resumable, in the memory of one row of windows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loaders.statistics import Statistics as StoredStatistics
from stratacube.claim import claimed
from stratacube.errors import UsageError
from training.batches import Statistics
from training.embed_sources import FeatureSource
from training.feature_store import FeatureStore
from training.features import Grid, Strip, strips
from training.models import MaskedAutoencoder
from training.neighbours import draw_map
from training.runs import Opened

__all__ = ["embed", "statistics_of"]

_log = logging.getLogger(__name__)


def statistics_of(opened: Opened) -> StoredStatistics:
    """Statistics that a model was trained with, as every decoder takes them.

    Raises
    ------
    UsageError
        If the model learned from data that have none, such as blobs.
    """
    if not hasattr(opened.config.data, "quantity"):
        raise UsageError(
            f"{opened.config.name} learned from {opened.config.data.source}, which are no satellite images"
        )
    return Statistics.stored(opened.manifest["statistics"])


def embed(
    opened: Opened,
    source: FeatureSource,
    output: Path,
    *,
    tokens: bool = True,
    overlap: int | None = None,
    batch: int = 8,
    device: str = "cpu",
) -> FeatureStore:
    """Make features of all images of a source.

    What a run that was stopped has done is not done again.

    Parameters
    ----------
    opened
        The model.
    source
        What to make features of.
    output
        Folder to write into.
    tokens
        Keep the features of every patch; else only those pooled over cells of the size of a window.
    overlap
        Of neighbouring windows, pixels; half a window by default.
    batch
        Windows encoded together.
    device
        Where to compute.

    Raises
    ------
    UsageError
        If the folder holds other features, or the source does not fit the model.
    """
    config = opened.config.model
    model = opened.model.to(device).eval()
    overlap = min(config.height_width) // 2 if overlap is None else overlap
    grid = Grid.of(model, source.size, overlap)
    about = {
        "model": opened.config.name,
        "config_hash": opened.manifest["config_hash"],
        "step": opened.step,
        "source": source.name,
        "bands": list(config.bands),
        "groups": [[config.bands[band] for band in group] for group in config.group_indices],
        "patch_size": config.patch_size,
        "overlap": overlap,
        "size": list(source.size),
        "samples": source.samples,
        "tokens": tokens,
    }
    shape = (source.samples, config.frames, len(model.groups), grid.rows, grid.columns, config.dimensions.embed_dim)
    output.mkdir(parents=True, exist_ok=True)
    with claimed(output):
        # Whole windows, so that strips are whole chunks: the first rows of windows are multiples of this.
        step = grid.down[1] - grid.down[0] if len(grid.down) > 2 else grid.rows
        pooled = (grid.rows, grid.columns) if source.one_cell else grid.window
        store = FeatureStore(output, about, shape, pooled, tokens=tokens, strip=step)
        for sample in range(source.samples):
            if (sample, None) not in store.done:
                _sample(store, model, source, sample, grid, batch)
                _log.info("%d of %d images done", sample + 1, source.samples)
        cell = pooled[0] * config.patch_size, pooled[1] * config.patch_size
        places = [source.place(sample, cell) for sample in range(source.samples)]
        draw_map(store, output / "map.png")
        links = [{"rel": "derived_from", "href": source.name}, {"rel": "via", "href": str(opened.folder)}]
        store.finish(places, f"Features of {source.name} by {opened.config.name}", links)
    return store


class _Cells:
    """Sums over the cells of an image, (down, across, groups, width), by weight."""

    def __init__(self, store: FeatureStore) -> None:
        self.cell = store.cell
        self.sums = torch.zeros(store.array("pooled").shape[1:], dtype=torch.float64)
        self.weights = torch.zeros(self.sums.shape[:-1], dtype=torch.float64)
        self.count = torch.zeros(self.sums.shape[:2], dtype=torch.float64)

    def add(self, strip: Strip) -> None:
        """Take in some rows of patches."""
        weighted = (strip.features.nan_to_num() * strip.weight[..., None]).double().sum(0).permute(1, 2, 0, 3)
        weight = strip.weight.double().sum(0).permute(1, 2, 0)  # (rows, columns, groups)
        down = (strip.first + torch.arange(weight.shape[0])) // self.cell[0]
        across = torch.arange(weight.shape[1]) // self.cell[1]
        index = down[:, None].expand(weight.shape[:2]), across[None].expand(weight.shape[:2])
        self.sums.index_put_(index, weighted, accumulate=True)
        self.weights.index_put_(index, weight, accumulate=True)
        frames, groups = strip.weight.shape[:2]
        self.count.index_put_(
            index, torch.full(weight.shape[:2], frames * groups, dtype=torch.float64), accumulate=True
        )

    def write(self, store: FeatureStore, sample: int) -> None:
        """Write the means."""
        empty = self.weights == 0
        means = self.sums / self.weights.masked_fill(empty, float("nan"))[..., None]
        store.write("pooled", (sample,), means.float().numpy())
        store.write("valid_share", (sample,), (self.weights.sum(-1) / self.count).float().numpy())


def _sample(
    store: FeatureStore, model: MaskedAutoencoder, source: FeatureSource, sample: int, grid: Grid, batch: int
) -> None:
    """Make the features of one image; of one that was begun, the rest."""
    cells = _Cells(store)
    begun = [number for number in range(len(grid.down)) if (sample, number) in store.done] if store.tokens else []
    begin = len(begun)
    for number in range(begin):
        cells.add(_written(store, sample, grid, number))
    made = strips(model, lambda top, bottom: source.read(sample, top, bottom), grid, batch=batch, begin=begin)
    for number, strip in enumerate(made, start=begin):
        kept = Strip(strip.first, strip.features.cpu(), strip.weight.cpu())
        cells.add(kept)
        if store.tokens:
            rows = slice(strip.first, strip.first + strip.weight.shape[2])
            store.write("tokens", (sample, slice(None), slice(None), rows), kept.features.numpy())
            store.write("weight", (sample, slice(None), slice(None), rows), kept.weight.numpy())
            store.mark(sample, number)
    cells.write(store, sample)
    times = source.place(sample, (grid.rows, grid.columns)).times
    store.write("time", (sample,), times.astype("M8[us]").astype("i8"))
    store.mark(sample)


def _written(store: FeatureStore, sample: int, grid: Grid, number: int) -> Strip:
    end = grid.down[number + 1] if number + 1 < len(grid.down) else grid.rows
    rows = slice(grid.down[number], end)

    def read(name: str) -> Tensor:
        values: Any = store.array(name)[(sample, slice(None), slice(None), rows)]
        return torch.from_numpy(np.ascontiguousarray(values))

    return Strip(grid.down[number], read("tokens"), read("weight"))
