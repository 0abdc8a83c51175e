"""What to do about candidates that were refused, by the reasons that the selector counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from cube.config import AbiConfig
from cube.strata.select import Selection
from cube.strata.streams import Tally
from stratacube.choices import one_of

__all__ = ["remedy_of", "why_none"]

_WORTH_TELLING = 0.1
"""Share of the refusals for a reason whose remedy is told."""


def why_none(config: AbiConfig, selection: Selection[Any]) -> str:
    """Say why no tile can be made, and what to change."""
    if not selection.drawn:
        return "the stratum proposed no place and time in the period; widen it (`start_dt`, `end_dt`)"
    # Those that were drawn twice, the second time with channels missing, count once.
    counts = [(reason or "no reason given", n) for reason, n in selection.refused.most_common()]
    told = ", ".join(f"{reason} ({n})" for reason, n in counts) if len(counts) > 1 else counts[0][0]
    text = f"no tile can be made: all {sum(n for _, n in counts)} candidates were refused: {told}"
    return text + remedy_of(config, selection)


class Refusals(Protocol):
    """What knows them: a selection, or the plan that was made of it."""

    @property
    def refused(self) -> Counter[str]:
        """How many, by reason."""

    @property
    def tallies(self) -> list[Tally]:
        """By stratum and class."""


def remedy_of(config: AbiConfig, of: Refusals) -> str:
    """Say what to change, that fewer candidates are refused, and where a search was given up.

    Parameters
    ----------
    config
        The build.
    of
        The candidates.
    """
    least = max(1.0, _WORTH_TELLING * of.refused.total())
    parts = list(dict.fromkeys(_remedy(config, reason) for reason, n in of.refused.most_common() if n >= least))
    capped = {t.stratum for t in of.tallies if t.gave_up}
    ends = (part for part in config.parts if part.name in capped)
    parts += [f"{p.name} is given up after {p.stratum.refusals} candidates refused in a row" for p in ends]
    return "".join(f"; {part}" for part in parts if part)


def _remedy(config: AbiConfig, reason: str) -> str:
    if reason.startswith("no run of"):
        return "take fewer `steps` (1 for single scans) or pass `allow_missing`"
    if reason.startswith("not "):
        return f"give `surface=any` in place of {config.surface}"
    period = "the period (`start_dt`, `end_dt`)"
    low, high = (f"{bound:g}" for bound in config.latitudes or (-90.0, 90.0))
    smaller = f"a smaller `tile_size` than {config.tile_size}" + (" or `margin`" if config.margin else "")
    return {
        "solar zenith": f"change {one_of([*_of_the_sun(config)] or ['`light`'])}, or {period}",
        "latitude": f"the sector is to reach into the latitudes {low} to {high}: change `latitudes` or `domain`",
        "view zenith": f"raise `max_view_zenith` above {config.max_view_zenith:g}",
        "spacing": f"lower `min_spacing_km` below {config.min_spacing_km:g}, or widen {period}",
        "scan not fit to be used": "mend the files that are not fit, or take them as they are with `screen=off`",
        "tile not inside the sector": f"places are to lie in the sector: change `domain`, or take {smaller}",
        "no scan within the tolerance": f"raise `tolerance_minutes` above {config.tolerance_minutes:g}, or add scans",
    }.get(reason, "")


def _of_the_sun(config: AbiConfig) -> Iterator[str]:
    if config.light != "any":
        yield f"`light` ({config.light})"
    for name in ("min_solar_zenith", "max_solar_zenith"):
        if (value := getattr(config, name)) is not None:
            yield f"`{name}` ({value:g})"
