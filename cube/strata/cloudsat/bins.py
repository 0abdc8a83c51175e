"""The vertical mask: 40 bins of half a kilometre above mean sea level, and the class of cloud in each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "BIN_CENTRES", "BIN_KM", "CLASSES", "class_bins"]

BINS, BIN_KM = 40, 0.5
BIN_CENTRES = (np.arange(BINS) + 0.5) * BIN_KM
"""km."""

CLASSES = (
    "clear",
    "cirrus",
    "altostratus",
    "altocumulus",
    "stratus",
    "stratocumulus",
    "cumulus",
    "nimbostratus",
    "deep_convection",
)
"""By number; -1 where there is no observation. 2B-CLDCLASS product document, table of cloud types."""


def class_bins(
    base: npt.NDArray[np.float32],
    top: npt.NDArray[np.float32],
    kind: npt.NDArray[np.int8],
    valid: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int8]:
    """Class of cloud by bin.

    Parameters
    ----------
    base, top : ndarray of float32, shape (n, layers)
        km above mean sea level, NaN where there is no layer.
    kind : ndarray of int8, shape (n, layers)
        Class of each layer.
    valid : ndarray of bool, shape (n,)
        Whether there is an observation.

    Returns
    -------
    ndarray of int8, shape (n, 40)
        Of the layer that fills most of the bin, of two alike the higher; 0 where none reaches into it, -1 where there
        is no observation.
    """
    lower = np.arange(BINS) * BIN_KM
    classes = np.zeros((len(valid), BINS), "i1")
    most = np.zeros((len(valid), BINS), "f4")
    for layer in np.argsort(-np.nan_to_num(top, nan=-1.0), axis=1, kind="stable").T:  # from the highest layer down
        one = np.arange(len(valid)), layer
        if np.isnan(top[one]).all():
            break
        ceiling, floor = top[one][:, None], base[one][:, None]
        filled = np.minimum(ceiling, lower + BIN_KM) - np.maximum(floor, lower)
        more = np.nan_to_num(filled, nan=0.0) > most
        most[more] = filled[more]
        classes[more] = np.broadcast_to(kind[one][:, None], more.shape)[more]
    classes[~valid] = -1
    return classes
