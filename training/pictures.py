"""Pictures of reconstructions: input, what the encoder saw, reconstruction, error; a column a frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stratacube.files import whole_file
from training.batches import Statistics
from training.validate import Restored

__all__ = ["save_pictures"]

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SIDE = 128
"""Least side of a panel, pixels."""
_MARGIN, _TOP, _LEFT = 4, 18, 92
_ROWS = ("input", "visible", "reconstruction", "error")
_HIDDEN = (70, 70, 90)
_INVALID = (150, 60, 60)


def save_pictures(
    restored: Restored, statistics: Statistics, bands: Sequence[str], folder: Path, *, first: int, most: int
) -> int:
    """Draw the samples of a batch, one picture each.

    Grey runs over each band's central 98 % in the sample, and over a quarter of the band's range at least, so that an
    even scene looks even; errors from blue (too low) over white to red (too high), full at that quarter. Hidden
    patches are blue grey, invalid pixels dull red.

    Parameters
    ----------
    restored
        The batch.
    statistics
        Units.
    bands
        Which bands to draw.
    folder
        Where to write ``sample_000.png`` and so on.
    first
        Number of the first picture.
    most
        Draw no more than this many.

    Returns
    -------
    int
        Pictures written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = _array(statistics.physical(restored.truth))
    estimate = _array(statistics.physical(restored.estimate.float()))
    masked, valid = _array(restored.masked), _array(restored.valid)
    count = min(len(truth), most)
    for sample in range(count):
        blocks = []
        for band in bands:
            number = statistics.bands.index(band)
            chosen = (sample, slice(None), number)
            panels = _panels(truth[chosen], estimate[chosen], masked[chosen], valid[chosen], statistics.span[number])
            blocks.append((band, panels))
        with whole_file(folder / f"sample_{first + sample:03d}.png") as part:
            _compose(blocks, statistics.unit).save(part, format="PNG")
    return count


def _array(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _panels(
    truth: Floats, estimate: Floats, masked: NDArray[np.bool_], valid: NDArray[np.bool_], span: float
) -> list[list[Picture]]:
    """Four rows of frames."""
    shown = truth[valid] if valid.any() else np.zeros(1, dtype=np.float32)
    low, high = np.percentile(shown, [1, 99])
    middle, half = (low + high) / 2, max(high - low, span / 4) / 2
    low, high = middle - half, middle + half
    filled = np.where(masked, estimate, truth)
    rows: list[list[Picture]] = [[], [], [], []]
    for frame in range(len(truth)):
        real, hidden, usable = _grey(truth[frame], low, high), masked[frame], valid[frame]
        real[~usable] = _INVALID
        seen = real.copy()
        seen[hidden] = _HIDDEN
        error = _diverging((estimate[frame] - truth[frame]) / (span / 4))
        error[~(hidden & usable)] = 255
        for row, picture in zip(rows, (real, seen, _grey(filled[frame], low, high), error), strict=True):
            row.append(picture)
    return rows


def _grey(values: Floats, low: float, high: float) -> Picture:
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255
    return np.repeat(scaled.round().astype(np.uint8)[..., None], 3, axis=-1)


def _diverging(values: Floats) -> Picture:
    """Blue at -1, white at 0, red at 1."""
    strength = np.clip(values, -1, 1)[..., None]
    red, blue = np.array([178, 24, 43]), np.array([33, 102, 172])
    end = np.where(strength > 0, red, blue)
    return (255 + (end - 255) * np.abs(strength)).round().astype(np.uint8)


def _compose(blocks: list[tuple[str, list[list[Picture]]]], unit: str) -> Image.Image:
    height, width = blocks[0][1][0][0].shape[:2]
    scale = max(1, -(-_SIDE // min(height, width)))
    step_x, step_y = width * scale + _MARGIN, height * scale + _MARGIN
    frames = len(blocks[0][1][0])
    block_height = _TOP + len(_ROWS) * step_y
    canvas = Image.new("RGB", (_LEFT + frames * step_x, block_height * len(blocks)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (band, rows) in enumerate(blocks):
        top = number * block_height
        draw.text((_LEFT, top + 3), f"{band}  {unit}", fill="black")
        for row, (name, panels) in enumerate(zip(_ROWS, rows, strict=True)):
            y = top + _TOP + row * step_y
            draw.text((4, y + step_y // 2 - 6), name, fill="black")
            for column, panel in enumerate(panels):
                image = Image.fromarray(panel).resize((width * scale, height * scale), Image.Resampling.NEAREST)
                canvas.paste(image, (_LEFT + column * step_x, y))
    return canvas
