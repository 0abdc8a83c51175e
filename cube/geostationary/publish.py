"""Describing a finished build: pictures, STAC catalog, report."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from catalog.geostationary.items import scan_item
from catalog.geostationary.shelf import ScanShelf
from catalog.publish.model import BandInfo, TileBuild
from catalog.publish.tiles import publish_tiles
from cube.config import AbiConfig
from cube.geostationary.drawing import draw
from cube.geostationary.folder import AbiFolder
from cube.geostationary.headers import Headers
from cube.geostationary.layout import TileLayout
from cube.geostationary.outline import footprint_ring
from cube.geostationary.pictures import draw_previews
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.projections import TileViews, read_views
from cube.geostationary.report import Valid, tile_report
from cube.geostationary.screening import Screened
from cube.job.ledger import Problem
from cube.job.publishing_times import PublishingTimes
from cube.job.report import write_report
from cube.job.run import Run
from stratacube.errors import SourceError
from stratacube.page import Shown

__all__ = ["Publication", "publish"]

_HALF_KM = {"mean": "500 m bands averaged to 1 km", "decimate": "of 500 m bands one of four pixels", "keep": "as it is"}
_KEPT = 256
"""Items of scans held at once: tiles come in order of time."""
_BRIEF = (
    *("tile", "stratum", "platform", "sector", "split", "event_time", "latitude", "longitude", "x_left", "y_top"),
    *("shard", "missing"),
)
_LINEAGE = "each band at its own resolution on the fixed grid, {half}; the 1 km grid repeats 2 km pixels"


@dataclass(frozen=True)
class Publication:
    """A build to describe."""

    config: AbiConfig
    folder: AbiFolder
    plan: PlanTable
    shelf: ScanShelf
    headers: Headers


def publish(build: Publication, problems: Sequence[Problem], laps: Mapping[str, float], run: Run) -> None:
    """Write previews, the report and, last, the catalog."""
    config, folder = build.config, build.folder
    failed = {p.product for p in problems if p.kind == "product"}

    def blocks(columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Rows of the tiles that were made, never all of a million at once: the lists in them fill gigabytes."""
        for block in build.plan.blocks(None if columns is None else [*dict.fromkeys(["tile_id", *columns])]):
            yield block[[name not in failed for name in block["tile_id"]]]

    made = _brief(blocks)
    began = time.monotonic()
    draw_previews(folder, made, run, config.previews)
    layout = TileLayout.of(config)
    numbers = pd.Index(made["tile"])

    @cache
    def views() -> TileViews:
        with xr.open_zarr(folder.tiles, chunks=None) as store:
            return read_views(store)

    lefts, tops = made["x_left"].to_numpy(), made["y_top"].to_numpy()

    def ring(tile: int) -> npt.NDArray[np.float64]:
        at = numbers.get_loc(tile)
        return footprint_ring(views()[tile], float(lefts[at]), float(tops[at]), layout.side)

    pictures = draw(folder, made, build.plan.tallies, run.ledger.entries, ring)
    pictures.save(folder.previews)
    drawn = time.monotonic()
    sheet = folder.previews / "contact_sheet.png"
    report = tile_report(
        config,
        build.plan,
        build.shelf.scans(),
        made,
        sheet.relative_to(folder.root) if sheet.exists() else None,
        _valid(run),
        Screened(folder.screening).by_scan if folder.screening.exists() else {},
        folder.plan_map.relative_to(folder.root) if folder.plan_map.exists() else None,
        pictures,
    )
    for shown in report.sources:
        if isinstance(shown, Shown) and shown.picture is not None:
            shown.picture.save(folder.previews / "calendar.svg")

    times = PublishingTimes(run, began, drawn)

    def tell() -> None:
        laps_of_all = {**laps, **times.record_so_far()}
        write_report(folder.report, report, problems, laps_of_all, folder.created(), config.digest())

    tell()  # the catalogue names it, and it is written once more when that is prepared
    if made.empty:
        return
    observatory = config.dialect.names.observatory()
    with xr.open_zarr(folder.tiles, chunks=None) as store:
        observed, angles = _observed(store), _angles(store, made)
    errors = pd.DataFrame(
        [{"tile": p.product, "scan": p.input, "file": p.href, "reason": p.reason} for p in problems],
        columns=["tile", "scan", "file", "reason"],
        dtype=str,
    )
    described = TileBuild(
        id=f"{layout.instrument.name}-{config.stratification}-{config.digest()}",
        title=f"{observatory.mission} {layout.instrument.title} tiles, {config.stratification}",
        description=(
            f"{len(made)} tiles of {config.tile_size} x {config.tile_size} pixels ({config.grid} grid), {config.steps} "
            f"time steps, bands {', '.join(layout.band(c).name for c in config.channels)}, "
            f"cut from {observatory.origin}."
        ),
        version=importlib.metadata.version("stratacube"),
        config=config.described(),
        config_hash=config.digest(),
        created=folder.created(),
        seed=config.seed,
        time_means=build.plan.time_means,
        observed=observed,
        grid=config.grid,
        lineage=_LINEAGE.format(half=_HALF_KM[config.half_km]) if layout.is_view else "",
        tile_size=config.tile_size,
        pixel=layout.pixel,
        bands=[_band_info(layout, c) for c in config.channels],
        observatory=observatory,
        projections=_PerTile(numbers, lambda tile: views()[tile].crs),
        footprints=_PerTile(numbers, ring),
        sources=_Sources(build),
        errors=errors,
        dropped=dict(build.plan.refused),
        angles=angles,
        software={name: importlib.metadata.version(name) for name in ("zarr", "numpy", "isal", "h5py")},
    )
    publish_tiles(folder.root, blocks, described, tell)


def _brief(blocks: Callable[[Sequence[str]], Iterator[pd.DataFrame]]) -> pd.DataFrame:
    """What pictures and the report ask of all tiles; ``lacks`` says whether anything is missing from one."""
    told = (block.assign(lacks=block["missing"].map(len) > 0).drop(columns="missing") for block in blocks(_BRIEF))
    return pd.concat(told, ignore_index=True)


def _valid(run: Run) -> Valid | None:
    """What share of the pixels is valid, by what the tasks told."""
    told = [entry.figures for key, entry in run.ledger.entries.items() if key.startswith("shard-")]
    shares = [figures["valid_share"] for figures in told if "lowest_valid" in figures]
    if not shares:
        return None
    lowest = min(figures["lowest_valid"] for figures in told if "lowest_valid" in figures)
    return Valid(sum(shares) / len(shares), lowest)


class _PerTile(Mapping[Any, Any]):
    """What is worked out of a tile when it is asked for; of 100,000 tiles it would fill the memory."""

    def __init__(self, tiles: pd.Index, work_out: Callable[[int], Any]) -> None:
        self.tiles, self.work_out = tiles, work_out

    def __getitem__(self, tile: int | str) -> Any:
        if tile not in self.tiles:
            raise KeyError(tile)
        return self.work_out(int(tile))

    def __contains__(self, tile: object) -> bool:
        return tile in self.tiles

    def __iter__(self) -> Iterator[int]:
        return iter(self.tiles)

    def __len__(self) -> int:
        return len(self.tiles)


class _Sources(Mapping[str, Any]):
    """Items of the source scans, each made when it is asked for; the tiles of a scan ask one after the other."""

    def __init__(self, build: Publication) -> None:
        self.build = build
        self._item = lru_cache(_KEPT)(self._made)
        self._ring = lru_cache(_KEPT)(footprint_ring)
        self._names = {*build.plan.named}

    def __getitem__(self, name: str) -> Any:
        """Item of a scan, with the sector's outline where one of its files can be read."""
        return self._item(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _made(self, name: str) -> Any:
        scan, names = self.build.shelf[name], self.build.config.dialect.names
        try:
            grid = self.build.headers.of(scan).grid
        except SourceError:
            return scan_item(scan, naming=names)
        side = grid.width * grid.dx, grid.height * -grid.dy
        ring = self._ring(grid.projection, grid.left, grid.top, *side)
        return scan_item(scan, geometry=ring, projection=grid.projection.crs, naming=names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.build.plan.named)

    def __len__(self) -> int:
        return len(self.build.plan.named)


def _band_info(layout: TileLayout, channel: int) -> BandInfo:
    band = layout.band(channel)
    radiance = layout.instrument.packed(band.name)
    return BandInfo(
        name=band.name,
        title=band.title,
        center_wavelength=band.wavelength_um,
        fwhm=band.fwhm_um,
        units=radiance.units,
        resolution=layout.resolution(channel).metres,
        stored=round(layout.resolution(channel).metres * layout.band_pixel(channel) / (band.pixel_urad * 1e-6)),
        common_name=band.common_name,
    )


def _angles(data: xr.Dataset, tiles: pd.DataFrame) -> pd.DataFrame:
    """Angles at the centre of each tile: the middle of the coarse grid, at the middle of the window."""
    middle = {"y_coarse": data.sizes["y_coarse"] // 2, "x_coarse": data.sizes["x_coarse"] // 2}
    centre = data[["view_zenith", "solar_zenith", "solar_azimuth"]].isel(middle)
    centre = centre.isel(time=data.sizes["time"] // 2, tile=tiles["tile"].to_numpy()).load()
    return pd.DataFrame({name: centre[name].values for name in centre.data_vars}, index=tiles["tile"].to_numpy())


def _observed(data: xr.Dataset) -> Mapping[int, npt.NDArray[np.datetime64]]:
    """When each tile was seen, by frame, NaT where not known; nothing of stores that do not tell."""
    times: Any = data["observation_time"].values.astype("M8[us]") if "observation_time" in data else []
    return _PerTile(pd.RangeIndex(len(times)), lambda tile: times[tile])
