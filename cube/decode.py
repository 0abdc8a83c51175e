"""The one law by which stored counts become physical values.

Whoever decodes, decodes here: the opened stores and archives, the loaders (on any device), statistics and pictures.
All arithmetic is in float32 with one rounding an operation, which IEEE 754 fixes to the bit for ``+ - * /``. It does
not for the logarithm, where libraries differ by some units in the last place; so that is taken in double precision and
rounded once, which gives one result whoever takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["LAWS", "MEANINGS", "Law", "Ops", "apply_law", "to_radiance"]


class Ops(Protocol):
    """What a law needs beyond ``+ - * /``; one of them for each library of arrays."""

    def log(self, values: Any) -> Any:
        """Natural logarithm of float32, taken in double precision and rounded once."""

    def positive(self, values: Any) -> Any:
        """Values above 0 as they are, NaN for others."""


class _NumpyOps:
    """On NumPy's arrays."""

    def log(self, values: Any) -> Any:
        return np.log(values, dtype="f8").astype("f4")

    def positive(self, values: Any) -> Any:
        return np.where(values > 0, values, np.float32("nan"))


NUMPY = _NumpyOps()


@dataclass(frozen=True)
class Law:
    """From radiance to a quantity.

    Called with :class:`Ops`, the radiance and its coefficients in order, all float32 of the same library.
    """

    coefficients: tuple[str, ...]
    """Names, as variables of a store have them."""
    function: Callable[..., Any]
    formula: str
    """The same in words, of ``radiance`` and the coefficients, for readers of a store."""


def _identity(ops: Ops, radiance: Any) -> Any:
    return radiance


def _proportional(ops: Ops, radiance: Any, factor: Any) -> Any:
    """GOES-R Product Definition and Users' Guide, volume 3, 5.1.3.1; not divided by the cosine of the solar zenith."""
    return radiance * factor


def _planck(ops: Ops, radiance: Any, fk1: Any, fk2: Any, bc1: Any, bc2: Any) -> Any:
    """The same, 5.1.3.2: Planck's law inverted, and a line for the width of the band."""
    return (fk2 / ops.log(fk1 / ops.positive(radiance) + 1.0) - bc1) / bc2


def _planck_quadratic(ops: Ops, radiance: Any, fk1: Any, fk2: Any, c0: Any, c1: Any, c2: Any) -> Any:
    """Planck's law inverted, and a parabola for the width of the band (GK-2A AMI Level 1B Data User Manual)."""
    effective = fk2 / ops.log(fk1 / ops.positive(radiance) + 1.0)
    return c0 + effective * (c1 + c2 * effective)


LAWS: dict[str, Law] = {
    "identity": Law((), _identity, "counts * packing_scale + packing_offset"),
    "proportional": Law(("kappa0",), _proportional, "radiance * kappa0"),
    "planck": Law(
        ("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2"),
        _planck,
        "(planck_fk2 / ln(planck_fk1 / radiance + 1) - planck_bc1) / planck_bc2",
    ),
    "planck_quadratic": Law(
        ("planck_fk1", "planck_fk2", "tbb_c0", "tbb_c1", "tbb_c2"),
        _planck_quadratic,
        "tbb_c0 + T * (tbb_c1 + T * tbb_c2) where T = planck_fk2 / ln(planck_fk1 / radiance + 1)",
    ),
}
"""By the name that instruments, and the stores of their pixels, say."""

MEANINGS = {
    "kappa0": "reflectance factor of one unit of radiance, of an overhead Sun",
    "planck_fk1": "Planck's law: 2 h c2 / wavelength3, in units of radiance",
    "planck_fk2": "Planck's law: h c / (k wavelength), kelvin",
    "planck_bc1": "width of the band: what is taken from the temperature, kelvin",
    "planck_bc2": "width of the band: what the temperature is then divided by",
    "tbb_c0": "width of the band: what is added to the temperature, kelvin",
    "tbb_c1": "width of the band: factor of the temperature",
    "tbb_c2": "width of the band: factor of the temperature squared, per kelvin",
}
"""What coefficients are, for readers of a store."""


def to_radiance(counts: npt.NDArray[Any], scale: Any, offset: Any) -> npt.NDArray[np.float32]:
    """Radiance of counts.

    Parameters
    ----------
    counts
        As stored.
    scale, offset
        Of the packing, broadcastable to the counts.

    Returns
    -------
    ndarray of float32
        In the units of the files.
    """
    scale, offset = (np.asarray(n).astype("f4") for n in (scale, offset))
    return np.asarray(counts.astype("f4") * scale + offset, "f4")


def apply_law(law: str, radiance: Any, coefficients: Mapping[str, Any], ops: Ops = NUMPY) -> Any:
    """Turn radiance into a quantity.

    Parameters
    ----------
    law
        A name of :data:`LAWS`.
    radiance
        Float32, in the units of the files.
    coefficients
        By name, broadcastable to the radiance; more than the law takes may be there.
    ops
        Of the library of arrays.

    Returns
    -------
    array of float32
        Such as reflectance (1) or brightness temperature (K); NaN where there is none, as where a thermal radiance is
        not positive.
    """
    numbers = [coefficients[name] for name in LAWS[law].coefficients]
    if ops is NUMPY:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(LAWS[law].function(ops, radiance, *(np.asarray(n, "f4") for n in numbers)), "f4")
    return LAWS[law].function(ops, radiance, *numbers)
