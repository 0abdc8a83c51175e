"""What an instrument is, as data: its bands, what they measure, by which law, within which bounds, on which pixels.

A build writes the record of its instrument into its store, and whoever reads the store (loaders, statistics, pictures,
catalogues) knows the instrument by that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cube.decode import LAWS
from cube.registry import INSTRUMENTS
from stratacube.choices import nearest, one_of
from stratacube.errors import UsageError
from stratacube.guard import reason_of

__all__ = [
    "ATTRIBUTE",
    "BRIGHTNESS",
    "COUNTS",
    "MIXED",
    "REFLECTANCE",
    "Band",
    "Bound",
    "Instrument",
    "Quantity",
    "Resolution",
    "ScanGeometry",
    "instrument",
    "instrument_of",
    "lacking",
    "quantities_known",
    "told_in",
]

ATTRIBUTE = "instrument"
"""Of the root of a store: the record, as plain values."""

COUNTS = "counts"
"""Asked for in place of a quantity: what is stored, not decoded."""
MIXED = "mixed"
"""Instead of a quantity: of each band what it is best told in."""

REFLECTANCE, BRIGHTNESS = "toa_bidirectional_reflectance", "toa_brightness_temperature"
"""Standard names of what instruments call reflectance (1) and brightness temperature (K), or otherwise."""

_BITS = 64
"""Of the widest mask: an instrument with more bands has several."""


@dataclass(frozen=True, slots=True)
class Band:
    """What is nominal about a band; numbers that calibrate come from each file."""

    name: str
    """Of its variable in a store."""
    number: int
    """In a store's ``band`` dimension."""
    wavelength_um: float
    fwhm_um: float | None
    """Full width at half maximum."""
    pixel_urad: float
    """Side of a native pixel at nadir."""
    title: str
    common_name: str | None = None
    """In the STAC EO extension, where it has one."""
    fill: int = 65535
    """Count of a pixel without a value in its files; in a store too, where pixels are copied."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A physical quantity of some bands; several with one name cover bands of different units."""

    name: str
    """``radiance``, ``reflectance``, ``brightness_temperature`` and such."""
    standard_name: str
    """Of the CF conventions."""
    units: str
    label: str
    """For people."""
    law: str
    """How it follows from radiance: a name of :data:`cube.decode.LAWS`."""
    bands: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UsageError(
                f"quantity {self.name!r} follows by the law {self.law!r}, which is unknown here: "
                f"there are {one_of([*LAWS])}"
            )

    @property
    def packed(self) -> bool:
        """Whether it is what counts are packings of: the radiance."""
        return self.law == "identity"

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the numbers of each file that its law takes."""
        return LAWS[self.law].coefficients


@dataclass(frozen=True, slots=True)
class Bound:
    """Between what a number of a file, or a value, lies if it is right; its sign is the bounds'."""

    name: str
    """Of an attribute or variable of the files, or of a quantity."""
    low: float
    high: float
    bands: tuple[str, ...]
    source: str
    """Where this comes from."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """One of the native pixel sizes."""

    name: str
    """Suffix of dimensions and masks in a native store."""
    pixel_urad: float
    metres: float
    """Nominal side at nadir."""
    full_disk: int
    """Pixels along a side of the full disk."""


@dataclass(frozen=True, slots=True)
class ScanGeometry:
    """How the Earth is scanned."""

    resolutions: tuple[Resolution, ...]
    cadence_minutes: tuple[float, ...]
    """Between full disks, in the modes there are or were."""

    def resolution(self, pixel_urad: float) -> Resolution:
        """Resolution of a native pixel."""
        return next(r for r in self.resolutions if r.pixel_urad == pixel_urad)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument.

    The bit of a band in a mask is the band's position in :attr:`bands`.
    """

    name: str
    title: str
    long_name: str
    bands: tuple[Band, ...]
    quantities: tuple[Quantity, ...]
    """That of the law ``identity`` is the radiance that counts are packings of."""
    scan: ScanGeometry
    bounds: tuple[Bound, ...] = ()
    dialect: Any = field(default=None, compare=False, repr=False)
    """How its files are read: whoever reads them knows the type. No part of the record that stores hold."""

    def band(self, key: str | int) -> Band:
        """Band by name or number.

        Raises
        ------
        UsageError
            If there is none.
        """
        for band in self.bands:
            if key in (band.name, band.number):
                return band
        wanted = str(key).strip().lower()
        for band in self.bands:
            if wanted in (band.name.lower(), str(band.number)):
                return band
        names = [band.name for band in self.bands]
        raise UsageError(f"band {key!r} is unknown; {self.title} has {', '.join(names)}{nearest(str(key), names)}")

    def quantity(self, name: str, band: str) -> Quantity | None:
        """What a band has by the name of a quantity; None where it has no such thing.

        ``mixed`` is what the band is best told in: the first that is not its radiance.
        """
        return self.quantities_of(band).get(name)

    def quantities_of(self, band: str) -> dict[str, Quantity]:
        """Quantities of a band by all names that they are asked for by, ``mixed`` being the last."""
        of_band = [q for q in self.quantities if band in q.bands]
        best = next((q for q in of_band if not q.packed), None)
        named = {q.name: q for q in reversed(of_band)}  # of one name the first counts
        return {q.name: named[q.name] for q in of_band} | ({} if best is None else {MIXED: best})

    def standard(self, standard_name: str, band: str) -> Quantity | None:
        """What a band has of a standard name, whatever it is called; None where it has no such thing."""
        return next((q for q in self.quantities if band in q.bands and q.standard_name == standard_name), None)

    def packed(self, band: str) -> Quantity:
        """Return what the counts of a band are packings of.

        Raises
        ------
        UsageError
            If nothing is said of that.
        """
        found = next((q for q in self.quantities if band in q.bands and q.packed), None)
        if found is None:
            raise UsageError(f"band {band!r} of {self.title} has no quantity of the law 'identity'; give it one")
        return found

    @property
    def quantity_names(self) -> tuple[str, ...]:
        """Names of the quantities, each once."""
        return tuple(dict.fromkeys(q.name for q in self.quantities))

    @property
    def words(self) -> tuple[str, ...]:
        """All that pixels may be asked for in, by who opens them and who trains on them: quantities and more."""
        return (COUNTS, *self.quantity_names, MIXED)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of all numbers of each file that the laws take, each once."""
        return tuple(dict.fromkeys(name for q in self.quantities for name in q.coefficients))

    @property
    def mask_dtype(self) -> str:
        """NumPy's name of the smallest unsigned integers that hold a bit a band."""
        size = next((n for n in (8, 16, 32) if len(self.bands) <= n), _BITS)
        return f"<u{size // 8}"

    def mask_place(self, band: str) -> tuple[int, int]:
        """Which of the instrument's masks holds a band, and at which bit."""
        position = [b.name for b in self.bands].index(band)
        return divmod(position, _BITS)

    def described(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        values: dict[str, Any] = _plain(asdict(replace(self, dialect=None)))
        del values["dialect"]
        return values

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Instrument:
        """Make the record of plain values.

        Raises
        ------
        UsageError
            If they are not an instrument's.
        """
        try:
            scan = values["scan"]
            return cls(
                values["name"],
                values["title"],
                values["long_name"],
                tuple(Band(**band) for band in values["bands"]),
                tuple(Quantity(**_with_bands(q)) for q in values["quantities"]),
                ScanGeometry(
                    tuple(Resolution(**r) for r in scan["resolutions"]), tuple(map(float, scan["cadence_minutes"]))
                ),
                tuple(Bound(**_with_bands(b)) for b in values["bounds"]),
            )
        except Exception as error:
            raise UsageError(
                f"attribute `{ATTRIBUTE}` is not the record of an instrument ({reason_of(error)})"
            ) from error


def _with_bands(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "bands": tuple(values["bands"])}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def instrument(name: str) -> Instrument:
    """Return an instrument by its name in the registry.

    Raises
    ------
    UsageError
        If there is none of the name.
    """
    found: Instrument = INSTRUMENTS.load(name)
    return found


def instrument_of(attributes: Mapping[str, Any]) -> Instrument:
    """Return the instrument whose pixels a store holds.

    Parameters
    ----------
    attributes
        Of the store's root. Stores up to format 2 do not say: they were of one instrument.

    Raises
    ------
    UsageError
        If what they say is not an instrument.
    """
    values = attributes.get(ATTRIBUTE)
    return instrument("abi") if values is None else Instrument.read(values)


_DIMENSIONLESS = ("1", "%")
"""Units of numbers without any, as attributes spell them."""


def quantities_known(attributes: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """Return the quantities that a cube may hold.

    Parameters
    ----------
    attributes
        Of the cube: where they have the record of an instrument, its quantities are all. Else they are those of every
        instrument that is known here.
    """
    if ATTRIBUTE in attributes:
        return instrument_of(attributes).quantities
    return tuple(q for found in INSTRUMENTS.all().values() for q in found.quantities)


def told_in(units: str, quantities: Sequence[Quantity]) -> set[str]:
    """Names of those of some quantities that have some units, ``mixed`` among them where that may be one.

    Units that none has may be a radiance's, which has many spellings.
    """
    alike = _DIMENSIONLESS if units in _DIMENSIONLESS else (units,)
    found = [q for q in quantities if q.units in alike] or [q for q in quantities if q.packed]
    return {q.name for q in found} | ({MIXED} if any(not q.packed for q in found) else set())


def lacking(what: str, quantity: str, has: Sequence[str], *, is_band: bool = True) -> UsageError:
    """Error of what is asked for a quantity that it does not have.

    Parameters
    ----------
    what
        A band, or a whole store.
    quantity
        What it was asked for.
    has
        What it could be asked for.
    is_band
        Whether it may be left out of `bands`.
    """
    there = [f"`quantity={name}`" for name in has]
    ways = ["leave it out of `bands`"] * is_band + ([f"take {one_of(there)}"] if there else [])
    return UsageError(f"{what} has no {quantity}{nearest(quantity, has)}; {', or '.join(ways) or 'take another'}")
