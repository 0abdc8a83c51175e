"""What pixels are normalised by: a file, constants, or statistics of the very samples that are learned from."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from loaders.counting import compute_statistics
from loaders.cubes import CubeDataset
from loaders.moments import PRECISION, Moments
from loaders.statistics import BandStatistics, presets
from loaders.statistics import Statistics as StoredStatistics
from loaders.tiles import TileDataset
from stratacube.errors import UsageError
from training.batches import Statistics
from training.settings_data import CubesData, TilesData

__all__ = ["OWN", "normalisation", "own_statistics", "warn_of_foreign"]

_log = logging.getLogger(__name__)

OWN = "own"
"""Word for statistics of the samples that are learned from."""
_ENOUGH = 4096
"""Samples of each source that are looked at for them."""
_LOOK = 64
"""Samples that foreign constants are set beside."""
_OFF = 0.1
"""Share by which a foreign mean or deviation may differ without a word."""


def own_statistics(
    datasets: Sequence[TileDataset | CubeDataset], quantity: str, most: int = _ENOUGH
) -> StoredStatistics:
    """Take statistics of the samples of some sources, and of no others.

    Parameters
    ----------
    datasets
        What is learned from.
    quantity
        What values are.
    most
        Samples of each to look at, spread evenly.
    """
    tiles = [d for d in datasets if isinstance(d, TileDataset)]
    if tiles:
        chosen = [_spread(d.tiles, most) for d in tiles]
        return compute_statistics(
            [d.store for d in tiles], quantity=quantity, bands=[b.name for b in tiles[0].bands], tiles=chosen
        )
    found: dict[str, Moments] = {}
    units: dict[str, str] = {}
    for cube in (d for d in datasets if isinstance(d, CubeDataset)):
        units |= cube.units
        for window in _spread(np.arange(len(cube)), most).tolist():
            for band, values in zip(cube.bands, cube[window].values[0].numpy(), strict=True):
                found[band] = found.get(band, Moments()) + Moments.of(values.ravel())
    bands = {band: replace(moments.describe(), units=units.get(band, "")) for band, moments in found.items()}
    return StoredStatistics(quantity, {"train": bands}, {"source": "windows learned from", "percentiles": PRECISION})


def normalisation(
    data: TilesData | CubesData, bands: tuple[str, ...], units: Mapping[str, str], stored: StoredStatistics | None
) -> Statistics:
    """Find the mean and deviation of each band of a model.

    Parameters
    ----------
    data
        Where they are from.
    bands
        Of the model.
    units
        As the sources say them.
    stored
        What takes the place of the config's: of a model that is trained, or taken of the samples.

    Raises
    ------
    UsageError
        If a band has none, or no spread.
    """
    if isinstance(data.statistics, dict) and stored is None:
        known = {b: BandStatistics(0, *numbers, math.nan, math.nan) for b, numbers in data.statistics.items()}
        source = "given in the config"
    else:
        read = stored or StoredStatistics.load(data.statistics)
        known = read.bands()
        source = f"{data.statistics}: {json.dumps(read.provenance, default=str)}"
        _warn_of_all(read, str(data.statistics))
    missing = [band for band in bands if band not in known]
    if missing:
        raise UsageError(f"the statistics do not have bands {', '.join(missing)}; make them anew for all of {bands}")
    chosen = [replace(known[band], units=units.get(band) or known[band].units) for band in bands]
    flat = [band for band, told in zip(bands, chosen, strict=True) if not (math.isfinite(told.mean) and told.std > 0)]
    if flat:
        raise UsageError(
            f"the statistics of {', '.join(flat)} have no mean or no spread to normalise by: no pixel of them was"
            " valid, or all are alike; leave these bands out, or make statistics of more tiles"
        )
    return Statistics(
        bands,
        tuple(band.mean for band in chosen),
        tuple(band.std for band in chosen),
        tuple(_span(band) for band in chosen),
        _told(bands, {band: told.units for band, told in zip(bands, chosen, strict=True)}),
        source,
        data.quantity,
        tuple(chosen),
    )


def warn_of_foreign(data: TilesData | CubesData, datasets: Sequence[TileDataset | CubeDataset]) -> None:
    """Say of constants that were not taken of these data by how much they are off, band by band."""
    if not isinstance(data.statistics, dict) and data.statistics not in presets():
        return
    if isinstance(data.statistics, dict):
        given = data.statistics
    else:
        given = {band: (s.mean, s.std) for band, s in presets()[data.statistics].bands().items()}
    own = own_statistics(datasets, data.quantity, _LOOK).bands()
    for band, (mean, std) in given.items():
        if band not in own or not own[band].count:
            continue
        here = own[band].mean, own[band].std
        wrong = [
            f"{what} {theirs:.4g}, here {ours:.4g} ({(theirs / ours - 1 if ours else math.inf):+.0%})"
            for what, theirs, ours in (("mean", mean, here[0]), ("deviation", std, here[1]))
            if abs(theirs - ours) > _OFF * abs(ours)
        ]
        if wrong:
            _log.warning(
                "constants of %s are not those of these data: %s; take statistics: own", band, ", ".join(wrong)
            )


def _warn_of_all(read: StoredStatistics, name: str) -> None:
    if "train" not in read.splits and read.provenance.get("by") is not None:
        _log.warning(
            "%s has no split train: its statistics are of all tiles, also of those to be judged on; take"
            " data.statistics: own",
            name,
        )


def _spread(numbers: np.ndarray[Any, np.dtype[np.int64]], most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Some of the numbers, spread evenly."""
    return numbers[:: max(1, math.ceil(len(numbers) / most))]


def _told(bands: tuple[str, ...], units: Mapping[str, str]) -> str:
    """Units of all bands, with the bands of each where they differ; nothing where they are not known."""
    by_unit: dict[str, list[str]] = {}
    for band in bands:
        by_unit.setdefault(units[band], []).append(band)
    if len(by_unit) == 1:
        return next(iter(by_unit))
    return ", ".join(f"{unit or 'unknown'} ({' '.join(names)})" for unit, names in by_unit.items())


def _span(band: BandStatistics) -> float:
    """Range between the outermost percentiles, or six deviations where there are no percentiles."""
    ends = sorted(band.percentiles, key=float)
    span = band.percentiles[ends[-1]] - band.percentiles[ends[0]] if len(ends) > 1 else 0.0
    return span if span > 0 else 6 * band.std
