"""The Advanced Baseline Imager of GOES-16 to GOES-19, as data."""

from __future__ import annotations

from catalog.geostationary.bands import BANDS
from cube.instrument import Band, Bound, Instrument, Quantity, Resolution, ScanGeometry

__all__ = ["ABI"]

_SUN = tuple(b.name for b in BANDS.values() if b.is_reflective)
_HEAT = tuple(b.name for b in BANDS.values() if not b.is_reflective)
_PUG = "GOES-R Product Definition and Users' Guide, volume 3"
_SEEN = "packings seen in files of GOES-16 to GOES-18 from 2017 to 2023, widened twofold and more"
_RESOLUTIONS = {14: 21696, 28: 10848, 56: 5424}
"""Pixels along the full disk by the pixel, in microradians."""


def _resolutions() -> tuple[Resolution, ...]:
    nominal = {b.pixel: (b.resolution, b.gsd) for b in BANDS.values()}
    return tuple(Resolution(nominal[p][0], float(p), nominal[p][1], n) for p, n in _RESOLUTIONS.items())


ABI = Instrument(
    name="abi",
    title="ABI",
    long_name="Advanced Baseline Imager",
    bands=tuple(
        Band(b.name, b.channel, b.wavelength, b.fwhm, float(b.pixel), b.title, b.common_name) for b in BANDS.values()
    ),
    quantities=(
        *(
            Quantity(
                "radiance",
                f"toa_outgoing_radiance_per_unit_{per}",
                BANDS[channel].units,
                "top-of-atmosphere radiance",
                "identity",
                bands,
            )
            for per, channel, bands in (("wavelength", 1, _SUN), ("wavenumber", 7, _HEAT))
        ),
        Quantity("reflectance", "toa_bidirectional_reflectance", "1", "reflectance factor", "proportional", _SUN),
        Quantity(
            "brightness_temperature", "toa_brightness_temperature", "K", "brightness temperature", "planck", _HEAT
        ),
    ),
    scan=ScanGeometry(_resolutions(), (15.0, 10.0)),  # modes 3 and 6
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
