"""What statistics of a band are, and how they follow from how often each stored count occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cube.decode import LAWS, apply_law, to_radiance

__all__ = ["FORMAT", "PERCENTILES", "BandStatistics", "describe", "physical_of", "rounded_numbers"]

FORMAT = "stratacube-statistics-1"
PERCENTILES = (0.1, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.9)
_BINS = 128


@dataclass(frozen=True)
class BandStatistics:
    """One band, over its valid pixels, in the units of the quantity."""

    count: int
    """Valid pixels; the other numbers are NaN where there are none."""
    mean: float
    std: float
    min: float
    max: float
    percentiles: dict[str, float] = field(default_factory=dict)
    """By percent: ``"50"`` is the median."""
    edges: list[float] = field(default_factory=list)
    """Of the bins of ``histogram``, one more than those."""
    histogram: list[int] = field(default_factory=list)
    units: str = ""
    """Of the values; not known of statistics of older versions."""
    wavelength_um: float | None = None


def rounded_numbers(packing: npt.ArrayLike, coefficients: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Packing and coefficients (..., numbers) as counts are decoded by them, single; undefined ones are 0."""
    numbers = np.concatenate([np.asarray(packing, "f4"), np.asarray(coefficients, "f4")], axis=-1)
    found: npt.NDArray[np.float32] = np.nan_to_num(numbers, nan=0.0)
    return found


def physical_of(
    counts: npt.NDArray[np.intp], law: str, names: Sequence[str], numbers: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Values of counts, by the law that everything decodes by.

    Parameters
    ----------
    counts
        Stored counts.
    law
        Name of the law in :data:`cube.decode.LAWS`.
    names
        Of the coefficients.
    numbers
        Scale, offset, and the coefficients; see :func:`rounded_numbers`.
    """
    scale, offset, *rest = numbers
    coefficients: Mapping[str, float] = dict(zip(names, rest, strict=True))
    named = {name: coefficients[name] for name in LAWS[law].coefficients}
    values: npt.NDArray[np.float64] = apply_law(law, to_radiance(counts, scale, offset), named).astype("f8")
    return values


def describe(values: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]) -> BandStatistics:
    """Sum up values that occur so often: moments, percentiles, a histogram; their order does not matter."""
    total = int(weights.sum())
    if not total:
        nan = float("nan")
        return BandStatistics(0, nan, nan, nan, nan)
    values, place = np.unique(values, return_inverse=True)
    summed = np.zeros(len(values), "i8")
    np.add.at(summed, place, weights)
    mean = float((values * summed).sum() / total)
    variance = float((summed * (values - mean) ** 2).sum() / total)
    ranks = np.ceil(np.array(PERCENTILES) / 100 * total).clip(1)
    percentiles = values[np.searchsorted(np.cumsum(summed), ranks)]
    edges = np.linspace(values[0], values[-1] if values[-1] > values[0] else values[0] + 1, _BINS + 1)
    histogram = np.histogram(values, edges, weights=summed)[0].astype("i8")
    return BandStatistics(
        total,
        mean,
        variance**0.5,
        float(values[0]),
        float(values[-1]),
        {f"{p:g}": float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)},
        edges.tolist(),
        histogram.tolist(),
    )
