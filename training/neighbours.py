"""What features are alike: nearest neighbours, and a picture of their main components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from stratacube.errors import UsageError
from stratacube.files import whole_file
from stratacube.guard import guarded

if TYPE_CHECKING:
    from training.feature_store import FeatureStore

__all__ = ["draw_map", "nearest_cells"]

Floats = npt.NDArray[np.float32]

_MOST = 20_000
"""Features that components are taken of."""
_SHOWN = 16
"""Tiles on a sheet."""
_SIDE = 256
"""Least side of the picture, pixels."""


def nearest_cells(folder: Path, row: int, count: int) -> geopandas.GeoDataFrame:
    """Find the cells whose pooled features are most like those of one, by the cosine of their angle.

    Features are taken from their mean first, which nearly all have in common.

    Parameters
    ----------
    folder
        Of features.
    row
        Of ``features.parquet``, from 0.
    count
        How many to find.

    Returns
    -------
    GeoDataFrame
        Rows of the table with ``similarity``, best first, the one itself left out.

    Raises
    ------
    UsageError
        If there is no such row.
    """
    path = folder / "features.parquet"
    with guarded(f"{path} cannot be read as a table of features", "run training.embed again"):
        table = geopandas.read_parquet(path)
        features = np.stack(table["features"].to_list()).astype("f4") if len(table) else np.zeros((0, 1), "f4")
    if not 0 <= row < len(table):
        raise UsageError(f"{path} has rows 0 to {len(table) - 1}, not {row}")
    known = np.isfinite(features).all(axis=0)  # a group of which no pixel was valid somewhere says nothing
    apart = features[:, known] - features[:, known].mean(axis=0)
    lengths = np.linalg.norm(apart, axis=1).clip(min=1e-12)
    similarity = (apart @ apart[row]) / (lengths * lengths[row])
    order = [int(i) for i in np.argsort(-similarity, kind="stable") if i != row][:count]
    return table.iloc[order].drop(columns="features").assign(similarity=similarity[order])


def draw_map(store: FeatureStore, path: Path) -> None:
    """Draw the three main components of the features in red, green and blue: of a cube's first image, or of tiles."""
    cubes = store.array("pooled").shape[1:3] != (1, 1)
    name = "tokens" if store.tokens else "pooled"
    shown = 1 if cubes else min(_SHOWN, store.array(name).shape[0])
    images = [_image(store.array(name)[i], tokens=store.tokens) for i in range(shown)]
    colours = _components(np.stack(images))
    sheet = _sheet(colours)
    scale = max(1, _SIDE // max(1, min(sheet.shape[:2])))
    picture = Image.fromarray(sheet)
    size = sheet.shape[1] * scale, sheet.shape[0] * scale
    with whole_file(path) as part:
        picture.resize(size, Image.Resampling.NEAREST).save(part, format="PNG")


def _image(values: Any, *, tokens: bool) -> Floats:
    """One vector a place: all groups, and the mean of frames."""
    values = np.asarray(values, "f4")
    if tokens:  # (frames, groups, y, x, width)
        known = np.isfinite(values)
        values = np.where(known, values, 0).sum(0) / np.where(known.any(0), known.sum(0).clip(min=1), np.nan)
        values = np.moveaxis(values, 0, 2)
    found: Floats = values.reshape(*values.shape[:2], -1)
    return found


def _components(images: Floats) -> npt.NDArray[np.uint8]:
    flat = images.reshape(-1, images.shape[-1])
    known = np.isfinite(flat).all(axis=1)
    colours = np.zeros((len(flat), 3), np.uint8)
    used = flat[known]
    if len(used) > 1:
        some = torch.from_numpy(used[:: max(1, len(used) // _MOST)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, _, axes = torch.pca_lowrank(some, q=min(6, *some.shape))
        values = (used - some.mean(0).numpy()) @ axes[:, :3].numpy()
        low, high = np.percentile(values, [2, 98], axis=0)
        scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255
        colours[np.flatnonzero(known)[:, None], np.arange(values.shape[1])] = scaled.round().astype(np.uint8)
    return colours.reshape(*images.shape[:-1], 3)


def _sheet(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images side by side, about as many down as across."""
    across = max(1, round(len(images) ** 0.5))
    down = -(-len(images) // across)
    blank = np.full((across * down - len(images), *images.shape[1:]), 255, np.uint8)
    rows = np.concatenate([images, blank]).reshape(down, across, *images.shape[1:])
    sheet: npt.NDArray[np.uint8] = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    return sheet
