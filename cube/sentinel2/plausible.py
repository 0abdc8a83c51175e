"""Whether scenes can be what they are said to be: each against its own pixels, and against its neighbours in time.

What a catalogue says of a scene may be wrong: an offset that was added already is added once more, or is taken for
added and was not; a file holds another tile's pixels. Pixels tell. They are looked at on the lattice, harmonised and
masked, 64 by 64 of a cell, so that the same ground is compared.

Thresholds, in harmonised numbers (reflectance times 10000), with what real scenes have (five dates near Exeter and five
of tile 33TWL, from clear to nearly overcast, clouds masked):

- ``DARK``: median of a band. Surface reflectance is not negative; Sen2Cor's error is 0.005 + 5 %, and four times that
  is allowed. Seen: 229 and more. Twice the offset: -475 and less over anything but bright soil.
- ``SHIFT``: how far a scene lies from the median of its neighbours, the median of all bands. Seen: up to 191 either
  way, while a wrong offset is 1000. Bands of one scene agree about it within ``SPREAD``, as they do not where plants
  grow, soil dries or fields are burnt.
- ``UNLIKE``: correlation with other scenes over the same ground, of the band that has the highest. Seen: 0.25 and more;
  other ground: 0.09 and less. It is only asked where the others are like each other (``LIKE``): no field of snow is.
- exchanged bands: see :mod:`cube.sentinel2.exchanged`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cube.sentinel2.exchanged import Exchange, exchanges_in, told_exchange
from cube.sentinel2.reduce import known_votes, nan_median

__all__ = ["DARK", "FEWEST", "LIKE", "SHIFT", "SPREAD", "UNLIKE", "Evidence", "Verdict", "evidence_of", "judge"]

DARK = -200.0
SHIFT = (600.0, 1400.0)
SPREAD = 250.0
UNLIKE = 0.15
LIKE = 0.35
FEWEST = 100
"""Pixels that are compared, at the least."""
FEWEST_SCENES = 3
"""Of fewer scenes it cannot be told which is the odd one."""
_FEW = 12
"""Scenes up to which one of them moves the median of all."""

Decision = Literal["used", "marked", "refused"]
_F = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """What a cell tells of a scene, by band; NaN for what it does not tell."""

    pixels: int
    level: npt.NDArray[np.float64]
    """Median."""
    negative: npt.NDArray[np.float64]
    """Share below 0."""
    compared: int
    """Pixels where neighbours were seen too."""
    shift: npt.NDArray[np.float64]
    """Median of the differences from the neighbours' median."""
    likeness: float
    """Correlation with other scenes: the median of them."""
    same: frozenset[tuple[int, int]] = frozenset()
    """Pairs of bands that have the same values in all pixels."""
    exchanges: tuple[Exchange, ...] = ()
    """Pairs of bands each of which is what the other is on other dates."""


@dataclass(frozen=True)
class Verdict:
    """What is done with a scene, and why; the reason of one that is used says what could not be checked."""

    decision: Decision
    reason: str = ""


def evidence_of(stack: _F) -> list[Evidence]:
    """Gather what one cell tells of its scenes.

    Parameters
    ----------
    stack
        Samples of a cell, shape (scenes, bands, pixels), NaN where nothing is valid.
    """
    seen = np.asarray(~np.isnan(stack).any(axis=1))
    usual = np.stack([nan_median(stack[:, band]) for band in range(stack.shape[1])])
    usual[:, known_votes(np.ascontiguousarray(stack[:, 0])) < FEWEST_SCENES] = np.nan
    likeness = _likeness(stack, seen)
    found = []
    for number, (scene, there, like) in enumerate(zip(stack, seen, likeness, strict=True)):
        values = scene[:, there]
        apart = values - usual[:, there]
        apart = apart[:, ~np.isnan(apart).any(axis=0)]
        found.append(
            Evidence(
                pixels=values.shape[1],
                level=_medians(values),
                negative=(values < 0).mean(axis=1) if values.size else np.full(len(values), np.nan),
                compared=apart.shape[1],
                shift=_medians(apart),
                likeness=float(like),
                same=_same(values),
                exchanges=_exchanges(stack, number, usual),
            )
        )
    return found


def _exchanges(stack: _F, number: int, usual: _F) -> tuple[Exchange, ...]:
    """Pairs of bands of a scene that are exchanged, by the median of the others: of few it would be one of them."""
    if len(stack) < FEWEST_SCENES:
        return ()
    if len(stack) <= _FEW:
        others = np.delete(stack, number, axis=0)
        usual = np.stack([nan_median(others[:, band]) for band in range(stack.shape[1])])
        usual[:, known_votes(np.ascontiguousarray(others[:, 0])) < FEWEST_SCENES - 1] = np.nan
    both = ~np.isnan(stack[number] - usual).any(axis=0)
    return exchanges_in(stack[number][:, both], usual[:, both]) if both.sum() >= FEWEST else ()


def _same(values: _F) -> frozenset[tuple[int, int]]:
    pairs = combinations(range(len(values)), 2) if values.size else ()
    return frozenset((i, j) for i, j in pairs if np.array_equal(values[i], values[j]))


def _medians(values: _F) -> npt.NDArray[np.float64]:
    return np.median(values, axis=1).astype("f8") if values.shape[1] else np.full(len(values), np.nan)


def _likeness(stack: _F, seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Median of each scene's correlations with the others; NaN where too few share enough pixels."""
    mask = seen.astype("f8")
    shared = mask @ mask.T
    best = np.full(shared.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for band in range(stack.shape[1]):
            values = np.where(seen, stack[:, band], 0).astype("f8")
            values -= values.sum() / max(1, seen.sum()) * mask  # keeps squares small
            total, square = values @ mask.T, (values * values) @ mask.T
            covariance = values @ values.T - total * total.T / shared
            spread = square - total * total / shared
            best = np.fmax(best, np.where(shared >= FEWEST, covariance / np.sqrt(spread * spread.T), np.nan))
    np.fill_diagonal(best, np.nan)
    out = np.full(len(best), np.nan)
    for number, row in enumerate(best):
        row = row[np.isfinite(row)]  # noqa: PLW2901
        if len(row) >= FEWEST_SCENES - 1:
            out[number] = np.median(row)
    return out


def judge(
    evidence: Mapping[str, Sequence[Evidence]], bands: Sequence[str], *, clear: bool = True
) -> dict[str, Verdict]:
    """Decide on scenes by what all cells tell of them.

    Parameters
    ----------
    evidence
        By scene, that of each cell.
    bands
        Names of the bands.
    clear
        Whether clouds and snow are masked: where they are not, scenes differ by more than any fault.
    """
    likeness = {name: _weighted([(e.likeness, e.pixels) for e in told]) for name, told in evidence.items()}
    return {
        name: _verdict(told, bands, likeness[name], [v for n, v in likeness.items() if n != name], clear)
        for name, told in evidence.items()
    }


def _verdict(
    told: Sequence[Evidence], bands: Sequence[str], likeness: float, others: Iterable[float], clear: bool
) -> Verdict:
    if sum(e.pixels for e in told) < FEWEST:
        return Verdict("used", "not checked: too few clear pixels")
    found = _twins(told, bands) or _against_itself(told, bands)
    if found is None and not clear:
        return Verdict("used", "not compared with other dates: clouds or snow are not masked")
    if found is None and sum(e.compared for e in told) < FEWEST:
        return Verdict("used", "not compared with other dates: fewer than three see the same ground")
    return (
        found or _exchanged(told, bands) or _against_others(told, bands) or _unlike(likeness, others) or Verdict("used")
    )


def _twins(told: Sequence[Evidence], bands: Sequence[str]) -> Verdict | None:
    """Two bands with the same pixels wherever they are seen, as where one's file was put in the other's place."""
    common = frozenset.intersection(*(e.same for e in told if e.pixels))
    if not common:
        return None
    one, two = (bands[b] for b in min(common))
    return Verdict("refused", f"{one} and {two} have the same pixels: the file of one lies in the other's place")


def _exchanged(told: Sequence[Evidence], bands: Sequence[str]) -> Verdict | None:
    """Two bands that show what the other does on other dates, in cells that are most of what is compared."""
    found = told_exchange([(e.exchanges, e.compared) for e in told if e.compared >= FEWEST])
    if found is None:
        return None
    one, two = bands[found.one], bands[found.two]
    reason = f"{one} shows what {two} does on other dates, and {two} what {one} does: their files are exchanged"
    return Verdict("refused", reason) if found.sure else Verdict("marked", f"{reason}, or the ground has changed")


def _against_itself(told: Sequence[Evidence], bands: Sequence[str]) -> Verdict | None:
    level = [_weighted([(float(e.level[b]), e.pixels) for e in told]) for b in range(len(bands))]
    darkest = int(np.argmin(level))
    if not level[darkest] < DARK:
        return None
    weights = [e.pixels for e in told if e.pixels]
    negative = np.average([e.negative[darkest] for e in told if e.pixels], weights=weights)
    return Verdict(
        "refused",
        f"{bands[darkest]} has a median reflectance of {level[darkest] / 1e4:.3f} and {100 * negative:.0f} % "
        "negative pixels: an offset is subtracted that its pixels do not have",
    )


def _against_others(told: Sequence[Evidence], bands: Sequence[str]) -> Verdict | None:
    shift = np.array([_weighted([(float(e.shift[b]), e.compared) for e in told]) for b in range(len(bands))])
    middle = float(np.median(shift))
    spread = float(np.median(np.abs(shift - middle)))
    if not (SHIFT[0] <= abs(middle) <= SHIFT[1] and spread <= SPREAD):
        return None
    side = "above" if middle > 0 else "below"
    far = f"its reflectance is {abs(middle) / 1e4:.3f} {side} that of other dates in all bands"
    if middle < 0:
        return Verdict("refused", f"{far}: an offset is subtracted that its pixels do not have")
    return Verdict("marked", f"{far}: its offset may not be applied, or there is haze")


def _unlike(likeness: float, others: Iterable[float]) -> Verdict | None:
    known = [v for v in others if np.isfinite(v)]
    if not likeness < UNLIKE or len(known) < FEWEST_SCENES - 1 or float(np.median(known)) < LIKE:
        return None
    return Verdict(
        "marked",
        f"it is unlike other dates (correlation {likeness:.2f}, theirs {float(np.median(known)):.2f}): its pixels may "
        "be of another place",
    )


def _weighted(pairs: Sequence[tuple[float, int]]) -> float:
    """Weighted median of the numbers; NaN where there are none."""
    known = sorted((value, weight) for value, weight in pairs if weight and np.isfinite(value))
    if not known:
        return float("nan")
    total: Any = np.cumsum([weight for _, weight in known])
    return known[int(np.searchsorted(total, total[-1] / 2))][0]
