"""Classes of cloud of a tile, each by a rule with its source; all that is known of a tile is a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.distance import pdist

Floats = npt.NDArray[np.float64]

__all__ = ["SCHEMES", "class_of", "cloud_type", "iorg", "scai", "temperature_features", "type_features"]

COLD, COLDEST = 241.0, 221.0
"""K. Shield and core of convective complexes, -32 and -52 degrees C: Maddox (1980), BAMS 61, 1374-1387."""
MIDDLE = 273.15
"""K: tops above the freezing level, where water may be ice."""
ICE_DIFFERENCE = 0.0
"""K. Brightness temperature at 8.5 less that at 11 micrometres is positive over ice, negative over water and clear sea:
Strabala, Ackerman and Menzel (1994), J. Appl. Meteor. 33, 212-229."""
HIGH_M, MIDDLE_M = 6500.0, 3200.0
"""m. The heights of 440 and 680 hPa in the U.S. Standard Atmosphere (1976)."""
THICK, THIN = 23.0, 3.6
"""Optical depths between types, with 440 and 680 hPa: Rossow and Schiffer (1999), BAMS 80, 2261-2287, figure 2."""

TYPES = (
    "clear",
    "cumulus",
    "stratocumulus",
    "stratus",
    "altocumulus",
    "altostratus",
    "nimbostratus",
    "cirrus",
    "cirrostratus",
    "deep_convection",
)
"""ISCCP's cloud types, by number: low, middle and high, each thin, medium and thick."""

SCHEMES: Mapping[str, tuple[str, ...]] = {
    "level": ("warm", "middle", "cold", "deep_convection"),
    "phase": ("no_ice", "some_ice", "ice"),
    "texture": ("smooth", "broken", "rough"),
    "organisation": ("single", "scattered", "clustered"),
    "type": TYPES,
}
"""Classes by what they go by: see :func:`class_of`."""


def temperature_features(window: Floats, ice: Floats | None, pixel_km: float) -> dict[str, float]:
    """Numbers of a tile from its brightness temperatures.

    Parameters
    ----------
    window : ndarray of float64, shape (rows, columns)
        K at 10 to 11 micrometres; NaN where not valid.
    ice : ndarray of float64, shape (rows, columns), optional
        K at 8.5 less K at 11 micrometres.
    pixel_km : float
        Nominal side of a pixel.

    Returns
    -------
    dict
        ``valid`` (share of pixels; the others are of those), ``bt_mean``, ``bt_min`` and ``bt_std`` (K),
        ``cold_share``, ``coldest_share``, ``middle_share``, ``ice_share`` (NaN without ``ice``), ``objects``
        (connected areas below 241 K), ``iorg`` and ``scai`` (NaN of fewer than two), and ``pixel_km``.
    """
    seen = np.isfinite(window)
    if not seen.any():
        return {"valid": 0.0}
    values = window[seen]
    labels, objects = ndimage.label(window < COLD)  # by sides, as Tobin et al. (2012) have it
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, objects + 1))).reshape(-1, 2)
    both = None if ice is None else ice[np.isfinite(ice)]
    return {
        "valid": float(seen.mean()),
        "bt_mean": float(values.mean()),
        "bt_min": float(values.min()),
        "bt_std": float(values.std()),
        "middle_share": float((values < MIDDLE).mean()),
        "cold_share": float((values < COLD).mean()),
        "coldest_share": float((values < COLDEST).mean()),
        "ice_share": float("nan") if both is None or not len(both) else float((both > ICE_DIFFERENCE).mean()),
        "objects": float(objects),
        "iorg": iorg(centres, window.size),
        "scai": scai(centres, window.shape[0]),
        "pixel_km": pixel_km,
    }


def iorg(centres: Floats, area: float) -> float:
    """Index of organisation: 0.5 where objects lie at random, more where they are clustered, less where regular.

    The area under the distribution of distances to the nearest object, drawn against that of a Poisson process of the
    same density: Tompkins and Semie (2017), JAMES 9, 1046-1078, section 2.3.

    Parameters
    ----------
    centres : ndarray of float64, shape (n, 2)
        Centroids.
    area : float
        Of the domain, in the square of their unit.

    Returns
    -------
    float
        NaN for fewer than two objects.
    """
    if len(centres) < 2:
        return float("nan")
    nearest = np.sort([np.partition(np.hypot(*(centres - one).T), 1)[1] for one in centres])  # 0 is to itself
    observed = np.arange(1, len(nearest) + 1) / len(nearest)
    random = 1.0 - np.exp(-len(centres) / area * np.pi * nearest**2)
    x, y = np.concatenate([[0.0], random, [1.0]]), np.concatenate([[0.0], observed, [1.0]])
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2))


def scai(centres: Floats, side: float) -> float:
    """Simple convective aggregation index: the smaller, the more aggregated.

    Objects over the most that there could be, times the geometric mean of their distances over the domain's side, in
    thousandths: Tobin, Bony and Roca (2012), J. Climate 25, 6885-6904, equation 1.

    Parameters
    ----------
    centres : ndarray of float64, shape (n, 2)
        Centroids in pixels.
    side : float
        Of the domain, in pixels.

    Returns
    -------
    float
        NaN for fewer than two objects.
    """
    if len(centres) < 2:
        return float("nan")
    apart = float(np.exp(np.mean(np.log(pdist(centres)))))
    return 1000.0 * len(centres) / (side**2 / 2) * apart / side


def cloud_type(height: Floats, depth: Floats, clear: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """ISCCP's type of each pixel, as a place in :data:`TYPES`.

    Parameters
    ----------
    height : ndarray of float64
        m, of cloud tops; NaN where unknown.
    depth : ndarray of float64
        Optical depth; NaN where unknown.
    clear : ndarray of bool
        Where there is no cloud.

    Returns
    -------
    ndarray of int8
        -1 where a cloud's height or depth is not known.
    """
    level = (height > MIDDLE_M).astype("i1") + (height > HIGH_M)
    thickness = (depth > THIN).astype("i1") + (depth > THICK)
    known = np.isfinite(height) & np.isfinite(depth)
    found: npt.NDArray[np.int8] = np.where(clear, 0, np.where(known, 1 + 3 * level + thickness, -1)).astype("i1")
    return found


def type_features(types: npt.NDArray[np.int8]) -> dict[str, float]:
    """Share of each type in a tile's pixels of known type, and ``valid``, the share of those."""
    known = types[types >= 0]
    if not known.size:
        return {"valid": 0.0}
    counts = np.bincount(known, minlength=len(TYPES)) / known.size
    return {"valid": float(known.size / types.size)} | dict(zip(TYPES, counts.tolist(), strict=True))


def class_of(scheme: str, features: Mapping[str, float]) -> str | None:
    """Class of a tile; None where what it goes by is not known.

    Parameters
    ----------
    scheme : str
        ``level``: ``deep_convection`` where 5 % of the pixels are colder than 221 K, ``cold`` where 25 % are colder
        than 241 K, ``middle`` where 25 % are below freezing, else ``warm``. ``phase``: ``ice`` where half of the pixels
        look like ice, ``some_ice`` where a tenth do, else ``no_ice``. ``texture``: ``smooth``, ``broken`` or ``rough``:
        the standard deviation of brightness temperature is below 3 K, below 12 K, or more. ``organisation``, of tiles
        with a cold area: ``single``, or ``scattered`` where Iorg is 0.5 at most, else ``clustered``. ``type``: the type
        of most pixels.
    features : mapping
        Of :func:`temperature_features`, or of :func:`type_features` for ``type``.
    """
    if features.get("valid", 0.0) < _LEAST_VALID:
        return None
    place = _RULES[scheme](features)
    return None if place is None else SCHEMES[scheme][place]


def _level(features: Mapping[str, float]) -> int:
    if features["coldest_share"] >= 0.05:
        return 3
    return 2 if features["cold_share"] >= 0.25 else int(features["middle_share"] >= 0.25)


def _phase(features: Mapping[str, float]) -> int | None:
    share = features["ice_share"]
    return None if np.isnan(share) else int(share >= 0.1) + int(share >= 0.5)


def _texture(features: Mapping[str, float]) -> int:
    return int(features["bt_std"] >= 3.0) + int(features["bt_std"] >= 12.0)


def _organisation(features: Mapping[str, float]) -> int | None:
    if features["objects"] < 2:
        return 0 if features["objects"] else None
    return 2 if features["iorg"] > 0.5 else 1


def _type(features: Mapping[str, float]) -> int:
    return int(np.argmax([features[name] for name in TYPES]))


_RULES: Mapping[str, Callable[[Mapping[str, float]], int | None]] = {
    "level": _level,
    "phase": _phase,
    "texture": _texture,
    "organisation": _organisation,
    "type": _type,
}
"""Shares and deviations are ours where no source has any."""
_LEAST_VALID = 0.5
"""Share of a tile's pixels of which something must be known."""
