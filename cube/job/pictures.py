"""Pictures that every source's report has: how a run went, and small copies of its previews."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from cube.job.ledger import Entry
from stratacube.page import Picture, Series, lines

__all__ = ["evenly", "small", "throughput"]

_SIDE = 176
_QUALITY = 82
_GROUND = (13, 17, 20)
"""What shows through where a picture has no valid pixel."""


def throughput(entries: Iterable[Entry], what: str) -> Picture | None:
    """Draw how many products were there after how long; pauses between the runs of a build are left out.

    Parameters
    ----------
    entries
        Of the ledger, of the tasks that make products. Those of earlier versions do not say when they ended.
    what
        Products, such as ``tiles``.
    """
    figures = [entry.figures for entry in entries if "ended" in entry.figures]
    told = sorted((f["ended"], f.get("seconds", 0.0), f.get("tiles", 1.0)) for f in figures)
    if len(told) < 2:
        return None
    spent, made, before = 0.0, 0.0, told[0][0] - told[0][1]
    x, y = [0.0], [0.0]
    for ended, seconds, number in told:
        passed = ended - before
        spent += passed if passed < 2 * seconds + 60 else seconds
        made += number
        before = ended
        x.append(spent)
        y.append(made)
    unit, size = ("minutes", 60.0) if spent > 300 else ("seconds", 1.0)
    rate = made / max(spent, 1e-9)
    told_rate = f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute"
    alt = f"{what} made over the run: {made:.0f} in {spent / size:.1f} {unit}, {told_rate}"
    return lines([Series(what, [v / size for v in x], y, filled=True)], alt=alt, x=unit, y=f"{what} made", zero=True)


def small(path: Path, alt: str, side: int = _SIDE) -> Picture:
    """Return a small copy of an image file; where that is transparent, it is dark."""
    with Image.open(path) as image:
        image.draft("RGB", (side, side))
        whole = image.convert("RGBA")
    whole.thumbnail((side, side), Image.Resampling.BOX)
    ground = Image.new("RGB", whole.size, _GROUND)
    ground.paste(whole, (0, 0), whole)
    buffer = BytesIO()
    ground.save(buffer, "JPEG", quality=_QUALITY)
    return Picture(alt, *ground.size, image=buffer.getvalue(), media_type="image/jpeg")


def evenly(names: Sequence[str], most: int) -> list[str]:
    """Return some at even steps, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
