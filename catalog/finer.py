"""Smaller blocks for samples of which a rule leaves a split empty: what is advised, not what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from catalog.leaks import Extents
from catalog.splits import GAP, SplitRule

__all__ = ["finer_rule", "lacking", "remedy", "told"]

MOST = 100
"""Samples that rules are tried on: advice is to be quick."""
_HALVINGS = 8


def told(counts: Counter[str], names: Iterable[str]) -> str:
    """How many samples each split has, those with none too, and how many are of none."""
    return ", ".join(f"{name} {counts[name]}" for name in (*names, GAP))


def lacking(rule: SplitRule, counts: Counter[str]) -> list[str]:
    """Which of the first two splits of a rule, train and val, are to have samples and have none."""
    return [name for name in _wanted(rule) if not counts[name]]


def finer_rule(rule: SplitRule, extents: Extents) -> tuple[SplitRule, Counter[str]] | None:
    """Find a rule of smaller blocks, with gaps that shrink with them, by which samples are in more than the gap.

    Parameters
    ----------
    rule
        By which they are not.
    extents
        What the samples cover, in the order in which they were drawn; the first :data:`MOST` are looked at.

    Returns
    -------
    tuple of SplitRule and Counter, or None
        The first rule by which the first two splits have samples, else one by which the first has, with the number of
        samples of each split. None where there is none, as of a single sample that two splits want.
    """
    few = extents.take(range(min(MOST, len(extents))))
    wanted, second = _wanted(rule), None
    if len(few) < len(wanted):
        return None
    for n in range(1, _HALVINGS + 1):
        for km, hours in ((n, n), (0, n), (n, 0)):
            tried = _smaller(rule, 0.5**km, 0.5**hours)
            counts = Counter(tried.assign(few).tolist())
            if all(counts[name] for name in wanted):
                return tried, counts
            if second is None and counts[wanted[0]]:
                second = tried, counts
    return second


def remedy(rule: SplitRule, extents: Callable[[], Extents], prefix: str) -> str:
    """Say which smaller blocks and gaps would give the first two splits samples, or that none would.

    Parameters
    ----------
    rule
        By which one of them has none.
    extents
        What the samples cover, asked for once.
    prefix
        Of the names of parameters: ``split_`` for those of a build, or nothing for those of a rule.
    """
    covered = extents()
    found = finer_rule(rule, covered)
    names = "block_{0}" if not prefix else f"{prefix}{{0}}"
    gaps = f"{prefix}gap_{{0}}"
    if found is None:
        both = f"`{names.format('km')}` and `{names.format('hours')}`"
        return f"no smaller {both} mend that: it takes more samples, from a longer period or a larger area"
    finer, counts = found
    values = [
        (names.format("km"), rule.block_km, finer.block_km),
        (names.format("hours"), rule.block_hours, finer.block_hours),
        (gaps.format("km"), rule.gap_km, finer.gap_km),
        (gaps.format("hours"), rule.gap_hours, finer.gap_hours),
    ]
    changed = [f"`{name}` {new:g}" for name, old, new in values if new is not None and new != old]
    of = f" of the first {MOST}" if len(covered) > MOST else ""
    listed = " and ".join([", ".join(changed[:-1])] * (len(changed) > 1) + changed[-1:])
    text = f"with {listed} they would be {told(counts, rule.shares)}{of}"
    left = lacking(rule, counts)
    return text + (f"; {' and '.join(left)} takes more samples" if left else "")


def _wanted(rule: SplitRule) -> list[str]:
    return [name for name, share in [*rule.shares.items()][:2] if share > 0] or [*rule.shares][:1]


def _smaller(rule: SplitRule, km: float, hours: float) -> SplitRule:
    return replace(
        rule,
        block_km=rule.block_km and _short(rule.block_km * km),
        block_hours=rule.block_hours and _short(rule.block_hours * hours),
        gap_km=_short(rule.gap_km * km),
        gap_hours=_short(rule.gap_hours * hours),
    )


def _short(number: float) -> float:
    """Return it with as many digits as are read with ease."""
    return float(f"{number:.3g}")
