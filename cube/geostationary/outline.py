"""Outlines of tiles and sectors on the ground."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import GeosProjection

__all__ = ["footprint_ring"]

_EDGE_POINTS = 16


def footprint_ring(
    projection: GeosProjection, left: float, top: float, width: float, height: float | None = None
) -> npt.NDArray[np.float64]:
    """Outline of a rectangle of scan angles on the ground.

    Parameters
    ----------
    projection
        The satellite's view.
    left, top
        Scan angles of the north-west corner in radians.
    width, height
        Sides in radians; a square if no height is given.

    Returns
    -------
    ndarray
        Longitude and latitude (points, 2), counter-clockwise; points beyond the limb are drawn in to it.
    """
    height = width if height is None else height
    t = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    u = np.concatenate([np.zeros_like(t), t, np.ones_like(t), 1 - t])
    v = np.concatenate([t, np.ones_like(t), 1 - t, np.zeros_like(t)])
    x, y = left + u * width, top - v * height
    lon, lat = projection.to_lonlat(x, y)
    beyond = np.isnan(lat)
    if not beyond.any():
        return np.stack([lon, lat], axis=1)
    inside_x, inside_y = _point_on_earth(projection, left, top, width, height)
    near, far = np.zeros(beyond.sum()), np.ones(beyond.sum())
    for _ in range(40):
        share = (near + far) / 2
        _, trial = projection.to_lonlat(
            inside_x + share * (x[beyond] - inside_x), inside_y + share * (y[beyond] - inside_y)
        )
        near, far = np.where(np.isnan(trial), near, share), np.where(np.isnan(trial), share, far)
    lon[beyond], lat[beyond] = projection.to_lonlat(
        inside_x + near * (x[beyond] - inside_x), inside_y + near * (y[beyond] - inside_y)
    )
    return np.stack([lon, lat], axis=1)


def _point_on_earth(
    projection: GeosProjection, left: float, top: float, width: float, height: float
) -> tuple[float, float]:
    """Centre of the rectangle, or where that misses the Earth, the mean of its points that do not."""
    x, y = left + width / 2, top - height / 2
    if np.isfinite(projection.to_lonlat(x, y)[1]):
        return x, y
    xs, ys = np.meshgrid(left + width * np.linspace(0, 1, 33), top - height * np.linspace(0, 1, 33))
    seen = np.isfinite(projection.to_lonlat(xs, ys)[1])
    return float(xs[seen].mean()), float(ys[seen].mean())
