"""Codes of place, time and band group: fixed sines and cosines, laid side by side along the width of a token.

The three parts lie in channels of their own, as in SatMAE (arXiv 2207.08051, section 3): the position takes what time
and group leave. Nothing is learned and nothing depends on the size of the image, so weights serve any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CodeWidths", "calendar", "group_code", "position_code", "time_code"]

MINUTES_A_DAY = 1440
NO_TIME = -(2**62)
"""Time of a frame that has none: its code is zero."""


@dataclass(frozen=True)
class CodeWidths:
    """Channels of a token given to each code."""

    position: int
    time: int
    group: int

    @classmethod
    def split(cls, width: int, *, time: bool, groups: bool) -> CodeWidths:
        """Share ``width`` channels: 3/8 to time and 1/4 to groups where there are any, the rest to position."""
        time_width = 16 * round(width * 3 / 8 / 16) if time else 0
        group_width = 4 * round(width / 4 / 4) if groups else 0
        return cls(width - time_width - group_width, time_width, group_width)


def position_code(rows: int, columns: int, width: int, reference: tuple[int, int], device: torch.device) -> Tensor:
    """Code of each patch of a grid.

    Parameters
    ----------
    rows, columns
        Patches of the grid.
    width
        Channels, a multiple of 4: half for the row, half for the column.
    reference
        Rows and columns of the grid the model was trained on; other grids are laid over the same extent, which
        interpolates the code exactly.
    device
        Where to make it.

    Returns
    -------
    Tensor
        (rows, columns, width), float32.
    """
    parts = []
    for count, trained in ((rows, reference[0]), (columns, reference[1])):
        centre = (torch.arange(count, device=device, dtype=torch.float64) + 0.5) * (trained / count) - 0.5
        parts.append(_sines(centre, _frequencies(width // 4, 1e-2, device)))
    by_row = parts[0][:, None].expand(rows, columns, -1)
    by_column = parts[1][None].expand(rows, columns, -1)
    return torch.cat([by_row, by_column], dim=-1).float()


def group_code(groups: int, width: int, device: torch.device) -> Tensor:
    """Code of each band group, (groups, width), float32."""
    number = torch.arange(groups, device=device, dtype=torch.float64)
    return _sines(number, _frequencies(width // 2, 1e-1, device)).float()


def calendar(minutes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split minutes since 1970-01-01 (UTC) into year, day of the year (from 0) and minute of the day.

    The year comes from the proleptic Gregorian calendar counted in eras of 400 years from 1 March.
    """
    days = torch.div(minutes, MINUTES_A_DAY, rounding_mode="floor")
    march = days + 719_468  # days since 0000-03-01
    era_day = march % 146_097
    era_year = (era_day - era_day // 1_460 + era_day // 36_524 - era_day // 146_096) // 365
    march_day = era_day - (365 * era_year + era_year // 4 - era_year // 100)
    year = torch.div(march, 146_097, rounding_mode="floor") * 400 + era_year + (march_day >= 306).long()
    before = year - 1
    first = 365 * before + before // 4 - before // 100 + before // 400 - 719_162
    return year, days - first, minutes % MINUTES_A_DAY


def time_code(minutes: Tensor, width: int) -> Tensor:
    """Code of each frame's time: year, day of the year, minute of the day, and minutes since the first frame.

    Day and minute are cyclic (31 December is near 1 January); frames one minute apart have different codes.

    Parameters
    ----------
    minutes
        (batch, frames), int64, minutes since 1970-01-01 UTC; ``NO_TIME`` where a frame has no time.
    width
        Channels, a multiple of 16: an eighth for the year, an eighth for the day, a quarter for the minute, the rest
        for the offset.

    Returns
    -------
    Tensor
        (batch, frames, width), float32.
    """
    known = minutes != NO_TIME
    filled = torch.where(known, minutes, torch.zeros_like(minutes))
    first = torch.where(known, minutes, torch.full_like(minutes, 2**62)).amin(dim=1, keepdim=True)
    offset = torch.where(known, minutes - first, torch.zeros_like(minutes))
    year, day, minute = calendar(filled)
    part, device = width // 16, minutes.device  # one sine and one cosine a frequency
    parts = [
        _sines((year - 2000).double(), _frequencies(part, 1e-2, device)),
        _sines(day.double() / 366, _cycles(part, 91, device)),
        _sines(minute.double() / MINUTES_A_DAY, _cycles(2 * part, 360, device)),
        _sines(offset.double(), _frequencies(4 * part, 1e-5, device)),
    ]
    code = torch.cat(parts, dim=-1).float()
    return torch.where(known[..., None], code, torch.zeros_like(code))


def _frequencies(count: int, lowest: float, device: torch.device) -> Tensor:
    """Frequencies from 1 down to ``lowest`` (radians a unit), evenly in the logarithm; whole units never alias."""
    share = torch.arange(count, device=device, dtype=torch.float64) / max(1, count - 1)
    return lowest**share


def _cycles(count: int, most: int, device: torch.device) -> Tensor:
    """Whole numbers of cycles, from 1 to ``most``, evenly in the logarithm (radians a cycle)."""
    share = torch.arange(count, device=device, dtype=torch.float64) / max(1, count - 1)
    return 2 * math.pi * torch.round(float(most) ** share)


def _sines(value: Tensor, frequencies: Tensor) -> Tensor:
    angle = value[..., None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
