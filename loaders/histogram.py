"""Histograms of every band in one picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from loaders.statistics import BandStatistics, Statistics
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import whole_file

__all__ = ["draw_histograms"]

_PANEL = (320, 200)
_MARGIN = 14
_TITLE = 34
_COLUMNS = 4
_INK, _BAR, _BAND, _MEAN = "#202428", "#4878a8", "#dce6f0", "#c03028"


def draw_histograms(statistics: Statistics, path: Path, split: str = "all") -> None:
    """Draw one panel a band: the histogram, the mean (line) and one standard deviation about it (shade).

    Raises
    ------
    UsageError
        If the picture cannot be written.
    """
    bands = {name: s for name, s in statistics.bands(split).items() if s.histogram}
    columns = min(_COLUMNS, max(1, len(bands)))
    rows = -(-len(bands) // columns)
    sheet = Image.new("RGB", (columns * _PANEL[0], max(1, rows) * _PANEL[1]), "white")
    for i, (name, band) in enumerate(bands.items()):
        panel = _draw_panel(name, band, statistics.quantity)
        sheet.paste(panel, (i % columns * _PANEL[0], i // columns * _PANEL[1]))
    try:
        _save(sheet, path)
    except StratacubeError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be written ({error}); choose another file") from error


def _save(sheet: Image.Image, path: Path) -> None:
    kind = Image.registered_extensions().get(path.suffix.lower())  # the part that is written has another suffix
    if kind is None:
        raise ValueError(f"unknown file extension: {path.suffix}")
    with whole_file(path) as part:
        sheet.save(part, format=kind)


def _draw_panel(name: str, band: BandStatistics, quantity: str) -> Image.Image:
    panel = Image.new("RGB", _PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(11)
    left, right = _MARGIN, _PANEL[0] - _MARGIN
    top, bottom = _TITLE, _PANEL[1] - _TITLE
    low, high = band.edges[0], band.edges[-1]

    def across(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    draw.rectangle([across(band.mean - band.std), top, across(band.mean + band.std), bottom], fill=_BAND)
    most = max(band.histogram)
    for i, count in enumerate(band.histogram):
        if count:
            height = count / most * (bottom - top)
            draw.rectangle([across(band.edges[i]), bottom - height, across(band.edges[i + 1]), bottom], fill=_BAR)
    draw.line([across(band.mean), top, across(band.mean), bottom], fill=_MEAN)
    draw.line([left, bottom, right, bottom], fill=_INK)
    draw.text((left, 4), f"{name}  {_about(band, quantity)}", _INK, font)
    draw.text((left, 17), f"mean {band.mean:.4g}  std {band.std:.4g}  n {band.count:.3g}", _MEAN, font)
    draw.text((left, bottom + 3), f"{low:.4g}", _INK, font)
    draw.text((right, bottom + 3), f"{high:.4g}", _INK, font, anchor="ra")
    return panel


def _about(band: BandStatistics, quantity: str) -> str:
    """Wavelength and units of a band, as far as they are known."""
    wave = "" if band.wavelength_um is None else f"{band.wavelength_um:g} um  "
    return f"{wave}[{band.units or quantity}]"
