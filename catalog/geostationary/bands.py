"""What catalogues say of the bands of the instruments; all else of them is in the instruments' own records.

Source: GOES-R Product Definition and Users' Guide, volume 3, table 5.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BANDS", "Band"]


@dataclass(frozen=True, slots=True)
class Band:
    """What is nominal about a band; numbers that calibrate come from each file."""

    name: str
    channel: int
    wavelength: float
    """Central wavelength in micrometres."""
    fwhm: float
    """Full width at half maximum in micrometres."""
    common_name: str | None = None
    """Name in the STAC EO extension, where it has one."""


BANDS = {
    "abi": {
        band.channel: band
        for band in (
            Band("C01", 1, 0.47, 0.04, "blue"),
            Band("C02", 2, 0.64, 0.10, "red"),
            Band("C03", 3, 0.865, 0.039, "nir"),
            Band("C04", 4, 1.378, 0.015, "cirrus"),
            Band("C05", 5, 1.61, 0.06, "swir16"),
            Band("C06", 6, 2.25, 0.05, "swir22"),
            Band("C07", 7, 3.90, 0.20),
            Band("C08", 8, 6.185, 0.83),
            Band("C09", 9, 6.95, 0.40),
            Band("C10", 10, 7.34, 0.20),
            Band("C11", 11, 8.50, 0.40),
            Band("C12", 12, 9.61, 0.38),
            Band("C13", 13, 10.35, 0.50, "lwir"),
            Band("C14", 14, 11.20, 0.80, "lwir11"),
            Band("C15", 15, 12.30, 1.00, "lwir12"),
            Band("C16", 16, 13.30, 0.60),
        )
    }
}
"""By instrument and channel number."""
