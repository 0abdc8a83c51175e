"""The report of a build: what was asked, what was made, what is missing and how to open it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from catalog.abi.bands import BANDS
from catalog.abi.scans import Scan
from cube.abi.plan import Plan
from cube.config import AbiConfig
from cube.folder import BuildFolder

__all__ = ["write_report"]

MOST_ROWS = 20
"""Of a table of reasons; the files named below it hold the rest."""
MOST_DAYS = 31
"""Rows of tiles by day; a longer period is told by month."""

OPENING = """\
```python
import cube

tiles = cube.open_tiles("tiles.zarr", physical="{physical}")
tiles["{band}"].isel(tile=0, time={step}).plot()
```

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


def write_report(
    folder: BuildFolder,
    config: AbiConfig,
    plan: Plan,
    scans: Sequence[Scan],
    errors: pd.DataFrame,
    laps: Mapping[str, float],
    *,
    built: pd.DataFrame | None = None,
) -> None:
    """Write ``report.md``.

    Parameters
    ----------
    folder
        Where it goes.
    config
        What was asked.
    plan
        The tiles wanted, and how many candidates were refused for what.
    scans
        All scans found.
    errors
        What could not be read or made: columns ``tile``, ``scan``, ``file``, ``reason``.
    laps
        Seconds of each step of the run.
    built
        Rows of the plan whose tile is in the store; all of them by default.
    """
    made = plan.tiles if built is None else built
    parts = [
        f"# GOES ABI tiles, {config.stratification}",
        _summary(config, plan, made, errors),
        f"Built with stratacube, begun {folder.created():%Y-%m-%d %H:%M} UTC, configuration {config.digest()}.",
        "## Asked",
        _asked(config),
        "## Made",
        _made(made),
        _contact_sheet(folder),
        "## Sources",
        _completeness(config, scans),
        "## Errors",
        _reasons("Error", _errors_by_reason(errors), "None.", folder.errors.name),
        *([_unused_inputs(plan)] if plan.problems else []),
        "## Candidates left out",
        _reasons("Reason", plan.refused.most_common(), "None.", folder.plan.name),
        "## How to open",
        _opening(config),
        "## Time taken",
        _table(["Step", "Seconds"], [(name, f"{seconds:.1f}") for name, seconds in laps.items()]),
    ]
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    temporary = folder.report.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder.report)


def _summary(config: AbiConfig, plan: Plan, made: pd.DataFrame, errors: pd.DataFrame) -> str:
    wanted = len(plan.tiles)
    text = f"**{len(made)} of {wanted} planned tiles were made"
    if config.num_tiles and wanted < config.num_tiles:
        text += f" ({config.num_tiles} were asked for; see the candidates left out)"
    text += ".**"
    lacking = sum(len(lacks) > 0 for lacks in made["missing"])
    if lacking:
        text += f" Tiles that lack a channel or a scan at some time step: {lacking}."
    return text + (f" Errors: {len(errors)}, counted below." if len(errors) else "")


def _asked(config: AbiConfig) -> str:
    period = f"{config.start_dt or 'the first scan'} to {config.end_dt or 'the last scan'}"
    rows = [
        ("Stratification", config.stratification),
        ("Satellite, sector", f"{config.satellite}, {config.sector}"),
        ("Period", period),
        ("Channels", " ".join(str(channel) for channel in config.channels)),
        ("Tile", f"{config.tile_size} x {config.tile_size} pixels, {config.grid} grid"),
        ("Time steps", f"{config.steps} at {config.step_minutes} min, within {config.tolerance_minutes:g} min"),
        ("Greatest view zenith", f"{config.max_view_zenith:g} degrees"),
        ("Seed", config.seed),
    ]
    return _table(["Setting", "Value"], rows) + "\n\nEvery setting is in config.yaml."


def _made(made: pd.DataFrame) -> str:
    if made.empty:
        return "Nothing."
    by_stratum = made.groupby(["stratum", "platform", "sector"]).size().reset_index(name="tiles")
    days = pd.to_datetime(made["event_time"]).dt.strftime("%Y-%m-%d")
    unit = "Day"
    if days.nunique() > MOST_DAYS:
        days, unit = days.str.slice(0, 7), "Month"
    by_day = days.value_counts().sort_index()
    return "\n\n".join(
        [
            _table(["Stratum", "Platform", "Sector", "Tiles"], by_stratum.itertuples(index=False)),
            _table([unit, "Tiles"], by_day.items()),
        ]
    )


def _contact_sheet(folder: BuildFolder) -> str:
    sheet = folder.previews / "contact_sheet.png"
    return f"![Contact sheet]({sheet.relative_to(folder.root).as_posix()})" if sheet.exists() else ""


def _completeness(config: AbiConfig, scans: Sequence[Scan]) -> str:
    """Tell which channels the scans found have."""
    if not scans:
        return "No scan was found."
    wanted = set(config.channels)
    whole = sum(wanted <= scan.files.keys() for scan in scans)
    first, last = min(scan.start for scan in scans), max(scan.start for scan in scans)
    text = (
        f"Scans found: {len(scans)}, from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC. "
        f"With all channels asked for: {whole}. "
    )
    present = [(BANDS[c].name, sum(c in scan.files for scan in scans)) for c in sorted(wanted)]
    lacking = [(name, count, len(scans) - count) for name, count in present if count < len(scans)]
    text += "Scan by scan: completeness.csv."
    return f"{text}\n\n{_table(['Channel', 'Scans with it', 'Scans without'], lacking)}" if lacking else text


def _errors_by_reason(errors: pd.DataFrame) -> list[tuple[str, int]]:
    """Count errors by reason, the most frequent first, then by name."""
    counts = errors["reason"].value_counts()
    return sorted(((str(reason), int(count)) for reason, count in counts.items()), key=lambda r: (-r[1], r[0]))


def _reasons(what: str, counted: Sequence[tuple[str, int]], none: str, file: str) -> str:
    if not counted:
        return none
    table = _table([what, "Count"], counted[:MOST_ROWS])
    rest = len(counted) - MOST_ROWS
    return f"{table}\n\n{rest} more are in {file}." if rest > 0 else table


def _unused_inputs(plan: Plan) -> str:
    shown = [f"- {problem}" for problem in plan.problems[:MOST_ROWS]]
    rest = len(plan.problems) - MOST_ROWS
    more = [f"- and {rest} more"] if rest > 0 else []
    return "\n".join(["Inputs of the stratum that could not be used:", "", *shown, *more])


def _opening(config: AbiConfig) -> str:
    emissive = [channel for channel in config.channels if not BANDS[channel].is_reflective]
    channel = 13 if 13 in emissive else (emissive or config.channels)[0]
    physical = "brightness_temperature" if emissive else "reflectance"
    return OPENING.format(physical=physical, band=BANDS[channel].name, step=config.steps // 2)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers to the right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    numeric = [all(row[i].replace(".", "", 1).isdigit() for row in cells) for i in range(len(header))]
    lines = [list(header), ["---:" if right else "---" for right in numeric], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
