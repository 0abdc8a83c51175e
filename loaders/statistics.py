"""Statistics of bands: a file with its provenance, and what normalises by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cube.summary import FORMAT, BandStatistics
from loaders.batch import Decoder
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import write_text
from stratacube.guard import reason_of

__all__ = ["BandStatistics", "Statistics", "make_decoder", "presets"]

_PIX4D_MEAN = (
    127.34686819, 74.7938111, 44.78416806, 0.92638064, 8.63405386, 2.11682601, 0.6701766, 3.00366557,
    8.60859377, 14.6878577, 46.23647303, 36.75061689, 80.34350524, 92.54769503, 101.56140718, 85.76285184,
)  # fmt: skip
_PIX4D_STD = (
    57.3661886, 53.84979581, 37.15785529, 2.66545547, 8.2306831, 2.00586419, 0.24013674, 0.57227082,
    1.53546711, 2.40714125, 6.63860341, 5.02559105, 9.92560728, 10.89802816, 11.07162115, 8.08676479,
)  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """Statistics of the bands of one or more stores, by split."""

    quantity: str
    splits: dict[str, dict[str, BandStatistics]]
    """By split (``all`` is every tile), then by band."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def bands(self, split: str | None = None) -> dict[str, BandStatistics]:
        """One split's bands; by default those of ``train`` if they were taken, else of all.

        Raises
        ------
        UsageError
            If there is no such split.
        """
        name = split or ("train" if "train" in self.splits else "all")
        if name not in self.splits:
            raise UsageError(f"the statistics have splits {', '.join(self.splits)}, not {name!r}")
        return self.splits[name]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=True)
        try:
            write_text(path, text + "\n")
        except StratacubeError:
            raise
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); choose another file") from error

    @classmethod
    def load(cls, source: Any) -> Statistics:
        """Read a file, or take a preset by its name.

        Raises
        ------
        UsageError
            If it is neither.
        """
        if isinstance(source, Statistics):
            return source
        if str(source) in presets():
            return presets()[str(source)]
        try:
            data = json.loads(Path(source).read_text())
        except (OSError, ValueError, RecursionError) as error:
            known = ", ".join(presets())
            raise UsageError(
                f"{source} is not a statistics file ({error}); make one by `python -m loaders.stats STORE`, "
                f"or name a preset: {known}"
            ) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{source} is not of format {FORMAT}; make it anew by `python -m loaders.stats STORE`")
        try:
            read: Statistics = TypeAdapter(cls).validate_python({k: v for k, v in data.items() if k != "format"})
            read.bands()
        except ValueError as error:
            raise UsageError(
                f"{source} is damaged ({reason_of(error)}); make it anew by `python -m loaders.stats STORE`"
            ) from error
        return read


def presets() -> dict[str, Statistics]:
    """Statistics known by name: ``satvision_pix4d``, radiances an earlier project trained with, of unknown origin."""
    nan = float("nan")
    bands = {
        f"C{i:02d}": BandStatistics(0, mean, std, nan, nan)
        for i, (mean, std) in enumerate(zip(_PIX4D_MEAN, _PIX4D_STD, strict=True), start=1)
    }
    origin = {"source": "SatVision-Pix4D's configuration", "note": "pixels and period are not known"}
    return {"satvision_pix4d": Statistics("radiance", {"all": bands}, origin)}


def make_decoder(statistics: Any, quantity: str = "radiance", fill: float = 0.0, split: str | None = None) -> Decoder:
    """Make a decoder that normalises by a statistics file, a preset or a plain ``{band: (mean, std)}``.

    Raises
    ------
    UsageError
        If the statistics are of another quantity, or a band has no spread.
    """
    if statistics is None:
        return Decoder(quantity, fill=fill)
    if isinstance(statistics, Mapping):
        numbers = {band: (float(mean), float(std)) for band, (mean, std) in statistics.items()}
    else:
        loaded = Statistics.load(statistics)
        if loaded.quantity != quantity:
            raise UsageError(
                f"the statistics are of {loaded.quantity}, the batches of {quantity}; read with "
                f"`quantity={loaded.quantity}`, or make them by `python -m loaders.stats --quantity {quantity}`"
            )
        numbers = {band: (s.mean, s.std) for band, s in loaded.bands(split).items() if s.std > 0}
    flat = [band for band, (_, std) in numbers.items() if not std > 0]
    if flat or not numbers:
        raise UsageError(f"bands {', '.join(flat) or '(none)'} have no standard deviation to normalise by")
    return Decoder(
        quantity, {b: mean for b, (mean, _) in numbers.items()}, {b: std for b, (_, std) in numbers.items()}, fill
    )
