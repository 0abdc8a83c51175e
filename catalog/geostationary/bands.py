"""The sixteen ABI bands (GOES-R Product Definition and Users' Guide, volume 3, table 5.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BANDS", "Band", "band_names"]


@dataclass(frozen=True, slots=True)
class Band:
    """What is nominal about a band; numbers that calibrate come from each file."""

    channel: int
    wavelength: float
    """Central wavelength in micrometres."""
    fwhm: float
    """Full width at half maximum in micrometres."""
    pixel: int
    """Pixel at nadir in microradians: 14 (500 m), 28 (1 km) or 56 (2 km)."""
    title: str
    common_name: str | None = None
    """Name in the STAC EO extension, where it has one."""

    @property
    def name(self) -> str:
        """``C01`` .. ``C16``."""
        return f"C{self.channel:02d}"

    @property
    def is_reflective(self) -> bool:
        """Whether the band measures reflected sunlight (C01 to C06) rather than emission."""
        return self.channel <= 6

    @property
    def units(self) -> str:
        """Units of radiance."""
        return "W m-2 sr-1 um-1" if self.is_reflective else "mW m-2 sr-1 (cm-1)-1"

    @property
    def gsd(self) -> float:
        """Side of a native pixel at nadir, in metres."""
        return {14: 500.0, 28: 1000.0, 56: 2000.0}[self.pixel]

    @property
    def resolution(self) -> str:
        """Name of the native resolution."""
        return {14: "500m", 28: "1km", 56: "2km"}[self.pixel]


BANDS = {
    band.channel: band
    for band in (
        Band(1, 0.47, 0.04, 28, "blue", "blue"),
        Band(2, 0.64, 0.10, 14, "red", "red"),
        Band(3, 0.865, 0.039, 28, "veggie", "nir"),
        Band(4, 1.378, 0.015, 56, "cirrus", "cirrus"),
        Band(5, 1.61, 0.06, 28, "snow and ice", "swir16"),
        Band(6, 2.25, 0.05, 56, "cloud particle size", "swir22"),
        Band(7, 3.90, 0.20, 56, "shortwave window"),
        Band(8, 6.185, 0.83, 56, "upper-level water vapour"),
        Band(9, 6.95, 0.40, 56, "mid-level water vapour"),
        Band(10, 7.34, 0.20, 56, "lower-level water vapour"),
        Band(11, 8.50, 0.40, 56, "cloud-top phase"),
        Band(12, 9.61, 0.38, 56, "ozone"),
        Band(13, 10.35, 0.50, 56, "clean longwave window", "lwir"),
        Band(14, 11.20, 0.80, 56, "longwave window", "lwir11"),
        Band(15, 12.30, 1.00, 56, "dirty longwave window", "lwir12"),
        Band(16, 13.30, 0.60, 56, "carbon dioxide"),
    )
}
"""By channel number."""


def band_names(channels: tuple[int, ...] | list[int]) -> list[str]:
    """Names of channels, ``C01`` .. ``C16``."""
    return [BANDS[c].name for c in channels]
