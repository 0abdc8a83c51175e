"""Why a condition leaves no tile: a store without a split, above all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from catalog.finer import lacking, remedy
from catalog.splits import GAP, SplitRule
from loaders.extents import tile_extents
from loaders.store import TileStore
from stratacube.errors import SourceError, UsageError

__all__ = ["require_rule", "why_none_left"]


def why_none_left(store: TileStore, table: pd.DataFrame, where: Any, rule: SplitRule | None) -> str:
    """Tell how many tiles each split has, and what would make others where none is to be learned from or judged on."""
    text = f"filter {where!r} leaves none of the {len(store)} tiles of {store.url}"
    if "split" not in table:
        return f"{text}; relax it"
    counts = Counter(table["split"].astype(str))
    told = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    used = rule or SplitRule()
    if not lacking(used, counts):
        return f"{text} (splits: {told}; `split` makes others, of smaller blocks); relax it"
    all_ = ", for all are in the gap between splits" if set(counts) == {GAP} else ""
    text = f"{text}{all_} (splits: {told})"
    again = (
        "give `split`, a SplitRule of smaller blocks (in a config of training `data.split`), or build with smaller"
        " `split_km` and `split_hours`"
    )
    try:
        return f"{text}; {again}: {remedy(used, lambda: tile_extents(store), '')}"
    except SourceError:  # it does not say where its tiles lie, so that nothing can be tried
        return f"{text}; {again}"


def require_rule(split: Any) -> None:
    """Refuse what is no rule, such as the name of a split.

    Raises
    ------
    UsageError
        If it is none.
    """
    if not (split is None or isinstance(split, SplitRule)):
        where = f'where="split == {split!r}"' if isinstance(split, str) else "where=\"split == 'train'\""
        raise UsageError(
            f"`split` is {split!r}, and makes splits anew by a SplitRule; to take the tiles of one, give {where}"
        )
