"""From radiance to reflectance and brightness temperature, with each file's own coefficients.

Source: GOES-R Product Definition and Users' Guide, volume 3, sections 5.1.3.1 and 5.1.3.2. All in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from catalog.geostationary.bands import Band

__all__ = ["PHYSICAL_ATTRIBUTES", "Physical", "calibrate"]

Floats = npt.NDArray[np.float32]
Physical = Literal["radiance", "reflectance", "brightness_temperature"]


@dataclass(frozen=True)
class Quantity:
    """What a physical quantity is called, and which bands have it."""

    standard_name: str
    units: str
    reflective: bool
    emissive: bool

    def defined_for(self, band: Band) -> bool:
        """Whether a band measures this."""
        return self.reflective if band.is_reflective else self.emissive

    def attributes(self, band: Band) -> dict[str, Any]:
        """CF attributes of a variable of one band."""
        units, name = self.units or band.units, self.standard_name
        if name == "toa_outgoing_radiance_per_unit":
            name += "_wavelength" if band.is_reflective else "_wavenumber"
        return {
            "standard_name": name,
            "units": units,
            "long_name": f"ABI {band.name} ({band.title})",
            "wavelength_um": band.wavelength,
        }


PHYSICAL_ATTRIBUTES: dict[str, Quantity] = {
    "radiance": Quantity("toa_outgoing_radiance_per_unit", "", reflective=True, emissive=True),
    "reflectance": Quantity("toa_bidirectional_reflectance", "1", reflective=True, emissive=False),
    "brightness_temperature": Quantity("toa_brightness_temperature", "K", reflective=False, emissive=True),
}


def calibrate(radiance: Floats, physical: Physical, **coefficients: Any) -> Floats:
    """Turn radiance into a physical quantity.

    Parameters
    ----------
    radiance
        Float32 array in the units of the files.
    physical
        The quantity wanted.
    **coefficients
        ``kappa0`` (reflectance) or ``planck_fk1, planck_fk2, planck_bc1, planck_bc2`` (brightness temperature),
        float32, broadcastable to the radiance.

    Returns
    -------
    ndarray of float32
        Radiance as given; reflectance factor (1), not divided by the cosine of the solar zenith angle; or brightness
        temperature in K, NaN where the radiance is not positive.
    """
    if physical == "radiance":
        return radiance
    if physical == "reflectance":
        return np.asarray(radiance * coefficients["kappa0"], "f4")
    fk1, fk2, bc1, bc2 = (coefficients[f"planck_{name}"] for name in ("fk1", "fk2", "bc1", "bc2"))
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.where(radiance > 0, radiance, np.float32("nan"))
        temperature = (fk2 / np.log(fk1 / positive + np.float32(1)) - bc1) / bc2
    return np.asarray(temperature, "f4")
