"""The Advanced Baseline Imager of GOES-16 to GOES-19, as data."""

from __future__ import annotations

from catalog.geostationary.bands import BANDS
from cube.instrument import Band, Bound, Instrument, Quantity, Resolution, ScanGeometry

__all__ = ["ABI"]

_BANDS = {
    "C01": (28, "blue"),
    "C02": (14, "red"),
    "C03": (28, "veggie"),
    "C04": (56, "cirrus"),
    "C05": (28, "snow and ice"),
    "C06": (56, "cloud particle size"),
    "C07": (56, "shortwave window"),
    "C08": (56, "upper-level water vapour"),
    "C09": (56, "mid-level water vapour"),
    "C10": (56, "lower-level water vapour"),
    "C11": (56, "cloud-top phase"),
    "C12": (56, "ozone"),
    "C13": (56, "clean longwave window"),
    "C14": (56, "longwave window"),
    "C15": (56, "dirty longwave window"),
    "C16": (56, "carbon dioxide"),
}
"""Pixel at nadir in microradians, and title."""
_SUN, _HEAT = tuple(_BANDS)[:6], tuple(_BANDS)[6:]
"""Bands of reflected sunlight and of emission."""
_PUG = "GOES-R Product Definition and Users' Guide, volume 3"
_SEEN = "packings seen in files of GOES-16 to GOES-18 from 2017 to 2023, widened twofold and more"


ABI = Instrument(
    name="abi",
    title="ABI",
    long_name="Advanced Baseline Imager",
    bands=tuple(
        Band(b.name, b.channel, b.wavelength, b.fwhm, float(_BANDS[b.name][0]), _BANDS[b.name][1], b.common_name)
        for b in BANDS["abi"].values()
    ),
    quantities=(
        *(
            Quantity(
                "radiance",
                f"toa_outgoing_radiance_per_unit_{per}",
                units,
                "top-of-atmosphere radiance",
                "identity",
                bands,
            )
            for per, units, bands in (
                ("wavelength", "W m-2 sr-1 um-1", _SUN),
                ("wavenumber", "mW m-2 sr-1 (cm-1)-1", _HEAT),
            )
        ),
        Quantity("reflectance", "toa_bidirectional_reflectance", "1", "reflectance factor", "proportional", _SUN),
        Quantity(
            "brightness_temperature", "toa_brightness_temperature", "K", "brightness temperature", "planck", _HEAT
        ),
    ),
    scan=ScanGeometry(
        (
            Resolution("500m", 14.0, 500.0, 21696),
            Resolution("1km", 28.0, 1000.0, 10848),
            Resolution("2km", 56.0, 2000.0, 5424),
        ),
        (15.0, 10.0),  # modes 3 and 6
    ),
    bounds=(
        Bound("scale_factor", 1e-4, 2.0, (*_SUN, *_HEAT), _SEEN + "; radiances grow with counts"),
        Bound("add_offset", -50.0, 0.0, (*_SUN, *_HEAT), _SEEN + "; count 0 lies a little below no radiance"),
        Bound("kappa0", 5e-4, 0.05, _SUN, f"{_PUG}, 5.1.3.1: pi d2 / Esun, Esun from 76 to 2,020 W m-2 um-1"),
        Bound("planck_fk1", 4e3, 3e5, _HEAT, f"{_PUG}, 5.1.3.2: 2 h c2 / wavelength3, from 13.3 to 3.9 um"),
        Bound("planck_fk2", 1e3, 4e3, _HEAT, f"{_PUG}, 5.1.3.2: h c / (k wavelength), from 13.3 to 3.9 um"),
        Bound("planck_bc1", -1.0, 3.0, _HEAT, f"{_PUG}, 5.1.3.2: a correction of kelvins at most"),
        Bound("planck_bc2", 0.98, 1.01, _HEAT, f"{_PUG}, 5.1.3.2: a correction of a hundredth at most"),
        Bound("reflectance", -0.1, 2.0, _SUN, "bright cloud at a low Sun, not divided by its cosine; noise below 0"),
        Bound("brightness_temperature", 150.0, 420.0, _HEAT, "coldest cloud tops to saturation of C07 by fires"),
    ),
)
"""Bit ``channel - 1`` of a mask is the band's, as it was before there were other instruments."""
