"""What the report of a build of ABI tiles tells; see :mod:`cube.job.report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd

from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import Scan
from catalog.publish.tiles import FILES_LIMIT
from cube.config import AbiConfig
from cube.geostationary.dialect import imager_of
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan_table import PlanTable
from cube.instrument import BRIGHTNESS, MIXED
from cube.job.report import Report, markdown_table, reason_table
from cube.preview import CLEAN_WINDOW

__all__ = ["tile_report"]

MOST_DAYS = 31
"""Rows of tiles by day; a longer period is told by month."""

_NEAREST = {
    "scan_start": "by its start",
    "observation": "by when it sees the place",
    "mixed": "by its start, or by when it sees the place, as the stratum tells",
}

OPENING = """\
```python
import cube

tiles = cube.open_tiles("tiles.zarr", physical="{physical}")
cube.one_tile(tiles, 0)["{band}"].isel(time={step}).plot()
```

{catalog}"""

BY_CATALOG = """\
Or by way of the catalog, from any program that reads STAC and Zarr:

```python
import pystac
import xarray as xr

catalog = pystac.Catalog.from_file("catalog.json")
item = next(catalog.get_items(recursive=True))
asset = item.assets["tiles"]
tile = xr.open_zarr(asset.get_absolute_href()).isel(tile=asset.extra_fields["stratacube:tile_index"])
```
"""

BY_TABLE = """\
Or by way of the table of all items, one row a tile, for they are too many for a file each:

```python
import pandas as pd
import xarray as xr

items = pd.read_parquet("tiles/items.parquet")
tile = xr.open_zarr("tiles.zarr").isel(tile=items["stratacube:tile_index"][0])
```
"""


def tile_report(
    config: AbiConfig,
    plan: PlanTable,
    scans: Iterable[Scan],
    made: pd.DataFrame,
    picture: Path | None = None,
    valid: str = "",
    screened: Mapping[str, str] | None = None,
    drawn: Path | None = None,
) -> Report:
    """Tell of a build.

    Parameters
    ----------
    config
        What was asked.
    plan
        What was planned.
    scans
        All scans found.
    made
        Rows of the plan whose tile is in the store.
    picture
        The contact sheet, relative to the folder of the build.
    valid
        What share of the pixels is valid.
    screened
        The verdict on each scan that was screened.
    drawn
        The picture of the plan, relative to the folder of the build.
    """
    names = config.dialect.names
    return Report(
        title=f"{names.observatory().mission} {names.title} tiles, {config.stratification}",
        summary=_summary(config.num_tiles, plan.tiles, made),
        asked=[
            *([("Plan", config.plan)] if config.plan else [("Stratification", config.stratification)]),
            *(row for part in config.parts for row in part.options.rows()),
            ("Satellite, sector", f"{config.satellite}, {config.sector}"),
            ("Period", f"{config.start_dt or 'the first scan'} to {config.end_dt or 'the last scan'}"),
            ("Channels", " ".join(str(channel) for channel in config.channels)),
            ("Tile", f"{config.tile_size} x {config.tile_size} pixels, {config.grid} grid{_form(config)}"),
            ("Time steps", f"{config.steps} {config.steps_told}, within {config.tolerance_minutes:g} min"),
            ("Nearest scan", _NEAREST[plan.time_means or "scan_start"]),
            ("Greatest view zenith", f"{config.max_view_zenith:g} degrees"),
            *_splits(config),
            ("Seed", config.seed),
        ],
        made=f"{_made(made)}\n\n{valid}".strip(),
        picture=picture,
        sources=_completeness(config.channels, scans, names, screened or {}),
        left_out=_left_out(plan, drawn),
        opening=_opening(config, BY_TABLE if len(made) > FILES_LIMIT else BY_CATALOG),
    )


def _left_out(plan: PlanTable, drawn: Path | None) -> str:
    """What was asked, found and refused, by stratum and class, and why."""
    header = ["Stratum", "Tiles asked for", "Found", "Candidates looked at", "Refused for"]
    rows = [
        (t.name, t.asked, t.found, t.drawn, ", ".join(f"{r} ({n})" for r, n in t.refused.most_common(3)) or "-")
        for t in plan.tallies
    ]
    parts = [
        reason_table("Candidates left out for", plan.refused.most_common(), "None.", "plan.parquet"),
        markdown_table(header, rows) if rows else "",
        "" if drawn is None else f"![Where tiles were found and refused]({drawn.as_posix()})",
    ]
    return "\n\n".join(part for part in parts if part)


def _splits(config: AbiConfig) -> list[tuple[str, str]]:
    if config.splits == "off":
        return []
    earth = f"{config.split_km:g} km" if config.split_km else "the whole Earth"
    time = f"{config.split_hours:g} h" if config.split_hours else "all time"
    gap = f"{config.split_gap_km:g} km or {config.split_gap_hours:g} h between them"
    return [("Splits", f"blocks of {earth} and {time}, {gap}; what reaches over is in none (gap)")]


def _form(config: AbiConfig) -> str:
    return ", 2 km bands stored once" if TileLayout.of(config).is_view else ""


def _summary(wanted: int | None, planned: int, made: pd.DataFrame) -> str:
    text = f"**{len(made)} of {planned} planned tiles were made"
    if wanted and planned < wanted:
        text += f" ({wanted} were asked for; see the candidates left out)"
    text += ".**"
    lacking = sum(len(lacks) > 0 for lacks in made["missing"])
    if lacking:
        text += f" Tiles that lack a channel or a scan at some time step: {lacking}."
    return text


def _made(made: pd.DataFrame) -> str:
    if made.empty:
        return "Nothing."
    by_stratum = made.groupby(["stratum", "platform", "sector"]).size().reset_index(name="tiles")
    days = pd.to_datetime(made["event_time"]).dt.strftime("%Y-%m-%d")
    unit = "Day"
    if days.nunique() > MOST_DAYS:
        days, unit = days.str.slice(0, 7), "Month"
    by_day = days.value_counts().sort_index()
    splits = made["split"].value_counts().sort_index() if "split" in made else {}
    return "\n\n".join(
        [
            markdown_table(["Stratum", "Platform", "Sector", "Tiles"], by_stratum.itertuples(index=False)),
            markdown_table([unit, "Tiles"], by_day.items()),
            *([markdown_table(["Split", "Tiles"], splits.items())] if len(splits) else []),
        ]
    )


def _completeness(channels: Iterable[int], scans: Iterable[Scan], names: Naming, screened: Mapping[str, str]) -> str:
    """Tell which channels the scans found have, and what screening made of them; they are counted as they come."""
    wanted, number, whole = set(channels), 0, 0
    present: Counter[int] = Counter()
    first = last = None
    calendar = _Calendar()
    for scan in scans:
        number += 1
        whole += wanted <= scan.files.keys()
        calendar.add(scan.start, wanted <= scan.files.keys(), screened.get(scan.id, ""))
        present.update(wanted & scan.files.keys())
        first, last = min(first or scan.start, scan.start), max(last or scan.start, scan.start)
    if first is None or last is None:
        return "No scan was found."
    text = (
        f"Scans found: {number}, from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC. "
        f"With all channels asked for: {whole}. Scan by scan: completeness.csv."
    )
    lacking = [(names.bands[c].name, present[c], number - present[c]) for c in sorted(wanted) if present[c] < number]
    table = markdown_table(["Channel", "Scans with it", "Scans without"], lacking) if lacking else ""
    return "\n\n".join(part for part in (text, table, calendar.table()) if part)


class _Calendar:
    """Scans by day, or by month of a longer period: found, with all channels, and what screening made of them."""

    def __init__(self) -> None:
        self._days: dict[str, Counter[str]] = {}

    def add(self, start: datetime, whole: bool, verdict: str) -> None:
        """Count a scan; ``verdict`` is empty where it was not screened."""
        count = self._days.setdefault(f"{start:%Y-%m-%d}", Counter())
        count.update({"found": 1, "whole": int(whole), "screened": int(bool(verdict)), verdict: 1})

    def table(self) -> str:
        """Return it as a table."""
        days, unit = self._days, "Day"
        if len(days) > MOST_DAYS:
            unit, days = "Month", {}
            for day, count in self._days.items():
                days.setdefault(day[:7], Counter()).update(count)
        counted = ("found", "whole", "screened", "flagged", "unfit")
        rows = [[day, *(count[name] for name in counted)] for day, count in sorted(days.items())]
        header = [unit, "Scans found", "With all channels", "Screened", "Flagged", "Not fit to be used"]
        return markdown_table(header, rows)


def _opening(config: AbiConfig, catalog: str) -> str:
    imager = imager_of(config.satellites[0])
    bands = [imager.band(c) for c in config.channels]
    emissive = [b for b in bands if imager.standard(BRIGHTNESS, b.name)]
    band = next((b for b in emissive if b.common_name == CLEAN_WINDOW), (emissive or bands)[0])
    told = imager.standard(BRIGHTNESS, band.name) or imager.quantity(MIXED, band.name) or imager.packed(band.name)
    return OPENING.format(physical=told.name, band=band.name, step=config.steps // 2, catalog=catalog)
