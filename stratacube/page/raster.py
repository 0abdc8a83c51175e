"""Images with what is needed to read them: a colour bar with its unit, a scale bar, a caption to each of several."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from stratacube.page.charts import ticks
from stratacube.page.picture import Picture, element, number

__all__ = ["COLOURS", "Scale", "coloured", "image_picture"]

Floats = npt.NDArray[np.floating]

COLOURS = {
    "viridis": (
        *((68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140)),
        *((40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37)),
    ),
    "grey": ((0, 0, 0), (255, 255, 255)),
    "cold_white": ((255, 255, 255), (0, 0, 0)),
    "difference": ((33, 102, 172), (247, 247, 247), (178, 24, 43)),
}
"""Colours from the least to the greatest value. Viridis is in the public domain (CC0); ``cold_white`` shows clouds in
the infrared as they are seen."""
_WIDTH = 960.0
_MOST = 720
"""Rows or columns of an image that is drawn; a larger one is thinned."""
_BAR = 10.0


@dataclass(frozen=True)
class Scale:
    """What the colours mean."""

    low: float
    high: float
    unit: str = ""
    colours: str = "viridis"

    @classmethod
    def of(cls, values: Floats, unit: str = "", colours: str = "viridis") -> Scale:
        """From the 2nd to the 98th percentile of what is known."""
        known = values[np.isfinite(values)]
        low, high = (float(v) for v in np.percentile(known, [2.0, 98.0])) if known.size else (0.0, 1.0)
        return cls(low, high if high > low else low + 1.0, unit, colours)


def coloured(values: Floats, scale: Scale) -> npt.NDArray[np.uint8]:
    """Return RGBA, shape (y, x, 4); what is not finite is transparent.

    Parameters
    ----------
    values
        Shape (y, x).
    scale
        What is coloured how.
    """
    anchors = np.array(COLOURS[scale.colours], "f8")
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, scale.low) - scale.low) / (scale.high - scale.low), 0.0, 1.0)
    at = np.linspace(0.0, 1.0, len(anchors))
    layers = [np.interp(share, at, anchors[:, n]) for n in range(3)]
    return np.stack([*layers, np.where(known, 255.0, 0.0)], axis=-1).round().astype("u1")


def image_picture(
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    alt: str,
    captions: Sequence[str] = (),
    scale: Scale | None = None,
    pixel_km: float | None = None,
    title: str = "",
) -> Picture:
    """Lay images side by side, with a colour bar and a scale bar below.

    Parameters
    ----------
    images
        RGBA, shape (y, x, 4), all of one shape.
    alt
        What they show, in words.
    captions
        One an image.
    scale
        What the colours mean; None where they are natural.
    pixel_km
        Side of a pixel on the ground in kilometres; None where that is not known.
    title
        Above the images.
    """
    rows, columns = images[0].shape[:2]
    gap = 8.0 if len(images) > 1 else 0.0
    most = 620.0 if len(images) == 1 else _WIDTH
    wide = (most - gap * (len(images) - 1)) / len(images)
    wide = min(wide, 620.0 * columns / rows)
    high = wide * rows / columns
    top = 22.0 if title else 0.0
    parts = [element("text", escape(title), class_="strong", x=0, y=13)] if title else []
    for n, image in enumerate(images):
        x = n * (wide + gap)
        place = {"x": x, "y": top, "width": wide, "height": high}
        parts.append(element("rect", class_="track", **place))
        smooth = "auto" if max(rows, columns) > wide else "pixelated"
        parts.append(element("image", href=_address(image), style=f"image-rendering:{smooth}", **place))
        if captions:
            parts.append(element("text", escape(captions[n]), class_="soft", x=x, y=top + high + 16))
    below = top + high + (26.0 if captions else 12.0)
    if scale is not None:
        parts += _colour_bar(scale, below)
    if pixel_km is not None:
        parts += _scale_bar(pixel_km * columns / wide, 360.0 if scale is not None else 0.0, below)
    bottom = below + (34.0 if scale is not None or pixel_km is not None else 0.0)
    return Picture(alt, max(len(images) * (wide + gap) - gap, 560.0), bottom, drawing="".join(parts))


def _address(image: npt.NDArray[np.uint8]) -> str:
    thin = max(1, math.ceil(max(image.shape[:2]) / _MOST))
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image[::thin, ::thin])).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _colour_bar(scale: Scale, top: float) -> list[str]:
    wide = 240.0
    ramp = coloured(np.linspace(scale.low, scale.high, 128)[None, :], scale)
    parts = [
        element("image", href=_address(ramp), x=0, y=top, width=wide, height=_BAR, preserveAspectRatio="none"),
        element("rect", class_="rim", x=0, y=top, width=wide, height=_BAR),
    ]
    for value in ticks(scale.low, scale.high, 4):
        x = (value - scale.low) / (scale.high - scale.low) * wide
        side = "soft" if x < 12 else "soft mid"
        parts.append(element("text", f"{value:.5g}", class_=side, x=x, y=top + _BAR + 15))
    return [*parts, element("text", escape(scale.unit), x=wide + 12, y=top + 9)]


def _scale_bar(km: float, left: float, top: float) -> list[str]:
    """Draw a bar of a round length, of which ``km`` are a unit of the drawing."""
    longest = 160.0 * km
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max(m for m in (1, 2, 5) if m * power <= longest)
    wide = length / km
    path = f"M{number(left)} {number(top + 1)}v8h{number(wide)}v-8"
    told = f"{length:g} km" if length >= 1 else f"{length * 1000:g} m"
    return [element("path", class_="axis", d=path), element("text", told, x=left + wide + 10, y=top + 9)]
