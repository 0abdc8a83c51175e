"""Masks of a store: one bit a band, found by what the mask says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from stratacube.errors import SourceError

__all__ = ["mask_bit"]


def mask_bit(mask: Any, band: str) -> np.unsignedinteger[Any]:
    """Bit of a band, by the CF flags of a mask.

    Parameters
    ----------
    mask
        Variable with ``dtype`` and ``attrs``: the one that the band's ``ancillary_variables`` names.
    band
        Name of the band.

    Returns
    -------
    unsigned integer
        Of the mask's type.

    Raises
    ------
    SourceError
        If the mask does not know the band.
    """
    names, flags = str(mask.attrs.get("flag_meanings", "")).split(), np.atleast_1d(mask.attrs.get("flag_masks", []))
    if band not in names or len(names) != len(flags):
        raise SourceError(
            f"mask {mask.name} has flags for {', '.join(names) or 'no band'} but not for {band}; build the store again"
        )
    return np.dtype(mask.dtype).type(int(flags[names.index(band)]))  # type: ignore[no-any-return]
