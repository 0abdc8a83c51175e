"""What the report of a build of ABI tiles tells; see :mod:`cube.job.report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pandas as pd

from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import Scan
from catalog.publish.tiles import FILES_LIMIT
from cube.config import AbiConfig
from cube.geostationary.dialect import imager_of
from cube.geostationary.drawing import Drawn
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan_table import PlanTable
from cube.instrument import BRIGHTNESS, MIXED
from cube.job.report import Report, reason_table
from cube.preview import CLEAN_WINDOW
from stratacube.page import Block, Code, Shown, Table, calendar

__all__ = ["Valid", "tile_report"]

MOST_DAYS = 31
"""Rows of tiles by day; a longer period is told by month."""

_NEAREST = {
    "scan_start": "by its start",
    "observation": "by when it sees the place",
    "mixed": "by its start, or by when it sees the place, as the stratum tells",
}

OPENING = """\
import cube

tiles = cube.open_tiles("tiles.zarr", physical="{physical}")
cube.one_tile(tiles, 0)["{band}"].isel(time={step}).plot()
"""

BY_CATALOG = "Or by way of the catalog, from any program that reads STAC and Zarr:"
CATALOG = """\
import pystac
import xarray as xr

catalog = pystac.Catalog.from_file("catalog.json")
item = next(catalog.get_items(recursive=True))
asset = item.assets["tiles"]
tile = xr.open_zarr(asset.get_absolute_href()).isel(tile=asset.extra_fields["stratacube:tile_index"])
"""

BY_TABLE = "Or by way of the table of all items, one row a tile, for they are too many for a file each:"
TABLE = """\
import pandas as pd
import xarray as xr

items = pd.read_parquet("tiles/items.parquet")
tile = xr.open_zarr("tiles.zarr").isel(tile=items["stratacube:tile_index"][0])
"""


@dataclass(frozen=True)
class Valid:
    """What share of the stored pixels is valid."""

    mean: float
    lowest: float
    """Of the tile with the fewest."""

    @property
    def words(self) -> str:
        """In a sentence."""
        return f"Valid pixels: {self.mean:.1%}; of the tile with the fewest, {self.lowest:.1%}."


def tile_report(
    config: AbiConfig,
    plan: PlanTable,
    scans: Iterable[Scan],
    made: pd.DataFrame,
    picture: Path | None = None,
    valid: Valid | None = None,
    screened: Mapping[str, str] | None = None,
    plan_map: Path | None = None,
    drawn: Drawn | None = None,
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
        Rows of the plan whose tile is in the store, and by ``lacks`` whether anything is missing from it.
    picture
        The contact sheet, relative to the folder of the build.
    valid
        What share of the pixels is valid.
    screened
        The verdict on each scan that was screened.
    plan_map
        The picture of the plan, relative to the folder of the build.
    drawn
        What ``report.html`` shows.
    """
    names, drawn = config.dialect.names, drawn or Drawn()
    sources, found = _completeness(config.channels, scans, names, screened or {})
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
            *config.split_rows,
            ("Seed", config.seed),
        ],
        made=[*drawn.made(), *_made(made), *([valid.words] if valid else [])],
        picture=Shown(None, "Contact sheet", picture) if picture else None,
        sources=sources,
        left_out=_left_out(plan, plan_map, drawn),
        opening=_opening(config, [BY_TABLE, Code(TABLE)] if len(made) > FILES_LIMIT else [BY_CATALOG, Code(CATALOG)]),
        kicker=f"Tiles · {names.title}",
        facts=[
            ("Tiles made", f"{len(made):,}", f"of {plan.tiles:,} planned"),
            *([("Valid pixels", f"{valid.mean:.1%}", f"emptiest tile {valid.lowest:.1%}")] if valid else []),
            ("Time steps", str(config.steps), config.steps_told),
            ("Bands", str(len(config.channels)), f"{config.tile_size} x {config.tile_size} pixels"),
            ("Scans found", f"{found:,}", config.satellite),
        ],
        timed=[Shown(drawn.run, drawn.run.alt + ".")] if drawn.run else [],
    )


def _left_out(plan: PlanTable, plan_map: Path | None, drawn: Drawn) -> list[Block]:
    """What was asked, found and refused, by stratum and class, and why."""
    header = ["Stratum", "Tiles asked for", "Found", "Candidates looked at", "Refused for"]
    rows = [
        (t.name, t.asked, t.found, t.drawn, ", ".join(f"{r} ({n})" for r, n in t.refused.most_common(3)) or "-")
        for t in plan.tallies
    ]
    return [
        *([Shown(drawn.quotas, "What was asked of each stratum and class, and found.")] if drawn.quotas else []),
        *reason_table("Candidates left out for", plan.refused.most_common(), "None.", "plan.parquet"),
        *([Table(header, rows)] if rows else []),
        *([Shown(None, "Where tiles were found and refused", plan_map)] if plan_map else []),
    ]


def _form(config: AbiConfig) -> str:
    return ", 2 km bands stored once" if TileLayout.of(config).is_view else ""


def _summary(wanted: int | None, planned: int, made: pd.DataFrame) -> str:
    text = f"**{len(made)} of {planned} planned tiles were made"
    if wanted and planned < wanted:
        text += f" ({wanted} were asked for; see the candidates left out)"
    text += ".**"
    lacking = int(made["lacks"].sum())
    if lacking:
        text += f" Tiles that lack a channel or a scan at some time step: {lacking}."
    return text


def _made(made: pd.DataFrame) -> list[Block]:
    if made.empty:
        return ["Nothing."]
    by_stratum = made.groupby(["stratum", "platform", "sector"]).size().reset_index(name="tiles")
    days = pd.to_datetime(made["event_time"]).dt.strftime("%Y-%m-%d")
    unit = "Day"
    if days.nunique() > MOST_DAYS:
        days, unit = days.str.slice(0, 7), "Month"
    by_day = days.value_counts().sort_index()
    splits = made["split"].value_counts().sort_index() if "split" in made else {}
    return [
        Table.of(["Stratum", "Platform", "Sector", "Tiles"], by_stratum.itertuples(index=False)),
        Table.of([unit, "Tiles"], by_day.items()),
        *([Table.of(["Split", "Tiles"], splits.items())] if len(splits) else []),
    ]


def _completeness(
    channels: Iterable[int], scans: Iterable[Scan], names: Naming, screened: Mapping[str, str]
) -> tuple[list[Block], int]:
    """Tell which channels the scans found have, and what screening made of them; they are counted as they come."""
    wanted, number, whole = set(channels), 0, 0
    present: Counter[int] = Counter()
    first = last = None
    counted = _Calendar()
    for scan in scans:
        number += 1
        whole += wanted <= scan.files.keys()
        counted.add(scan.start, wanted <= scan.files.keys(), screened.get(scan.id, ""))
        present.update(wanted & scan.files.keys())
        first, last = min(first or scan.start, scan.start), max(last or scan.start, scan.start)
    if first is None or last is None:
        return ["No scan was found."], 0
    text = (
        f"Scans found: {number}, from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC. "
        f"With all channels asked for: {whole}. Scan by scan: completeness.csv."
    )
    lacking = [(names.bands[c].name, present[c], number - present[c]) for c in sorted(wanted) if present[c] < number]
    table = [Table(["Channel", "Scans with it", "Scans without"], lacking)] if lacking else []
    picture = calendar(counted.hours, alt=f"Calendar of {number} scans: when all channels asked for are there")
    return [text, Shown(picture, "When the archive has what was asked for."), *table, counted.table()], number


class _Calendar:
    """Scans by day, or by month of a longer period: found, with all channels, and what screening made of them."""

    def __init__(self) -> None:
        self._days: dict[str, Counter[str]] = {}
        self.hours: dict[tuple[date, int], tuple[int, int, int]] = {}
        """By day and hour: found, with all channels, not fit to be used."""

    def add(self, start: datetime, whole: bool, verdict: str) -> None:
        """Count a scan; ``verdict`` is empty where it was not screened."""
        count = self._days.setdefault(f"{start:%Y-%m-%d}", Counter())
        count.update({"found": 1, "whole": int(whole), "screened": int(bool(verdict)), verdict: 1})
        key = start.date(), start.hour
        found, all_there, unfit = self.hours.get(key, (0, 0, 0))
        self.hours[key] = found + 1, all_there + whole, unfit + (verdict == "unfit")

    def table(self) -> Table:
        """Return it as a table."""
        days, unit = self._days, "Day"
        if len(days) > MOST_DAYS:
            unit, days = "Month", {}
            for day, count in self._days.items():
                days.setdefault(day[:7], Counter()).update(count)
        counted = ("found", "whole", "screened", "flagged", "unfit")
        rows = [[day, *(count[name] for name in counted)] for day, count in sorted(days.items())]
        header = [unit, "Scans found", "With all channels", "Screened", "Flagged", "Not fit to be used"]
        return Table(header, rows)


def _opening(config: AbiConfig, catalog: Sequence[Block]) -> list[Block]:
    imager = imager_of(config.satellites[0])
    bands = [imager.band(c) for c in config.channels]
    emissive = [b for b in bands if imager.standard(BRIGHTNESS, b.name)]
    band = next((b for b in emissive if b.common_name == CLEAN_WINDOW), (emissive or bands)[0])
    told = imager.standard(BRIGHTNESS, band.name) or imager.quantity(MIXED, band.name) or imager.packed(band.name)
    return [Code(OPENING.format(physical=told.name, band=band.name, step=config.steps // 2)), *catalog]
