"""Describing a finished build: pictures, STAC catalog, report."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from catalog.abi.bands import BANDS
from catalog.abi.items import scan_item
from catalog.abi.scans import Scan
from catalog.publish.model import BandInfo, TileBuild
from catalog.publish.tiles import publish_tiles
from cube.abi.grid import GeosProjection
from cube.abi.index import FileIndex
from cube.abi.layout import TileLayout
from cube.abi.plan import Plan
from cube.config import AbiConfig
from cube.engine import Workers, run_tasks
from cube.folder import BuildFolder
from cube.ledger import Problem
from cube.preview import contact_sheet, open_raw, thumbnail
from cube.report import write_report
from stratacube.errors import StratacubeError

__all__ = ["footprint_ring", "publish"]

_EDGE_POINTS = 16


def publish(
    config: AbiConfig,
    folder: BuildFolder,
    plan: Plan,
    used: Mapping[str, Scan],
    scans: Sequence[Scan],
    headers: Mapping[str, FileIndex],
    projections: Mapping[int, GeosProjection],
    problems: Sequence[Problem],
    laps: Mapping[str, float],
    workers: Workers,
) -> None:
    """Write previews, the report and, last, the catalog."""
    tiles = plan.tiles
    failed = {p.tile_id for p in problems if p.kind == "product"}
    made = tiles[~tiles["tile_id"].isin(failed)]
    _previews(folder, made, workers)
    errors = pd.DataFrame(
        [{"tile": p.tile_id, "scan": p.scan_id, "file": p.href, "reason": p.reason} for p in problems],
        columns=["tile", "scan", "file", "reason"],
        dtype=str,
    )
    write_report(folder, config, plan, scans, errors, laps, built=made)
    if made.empty:
        return
    layout = TileLayout.of(config)
    build = TileBuild(
        id=f"abi-{config.stratification}-{config.digest()}",
        title=f"GOES ABI tiles, {config.stratification}",
        description=(
            f"{len(made)} tiles of {config.tile_size} x {config.tile_size} pixels ({config.grid} grid), {config.steps} "
            f"time steps, bands {', '.join(BANDS[c].name for c in config.channels)}, cut from GOES-R ABI L1b radiances."
        ),
        version=importlib.metadata.version("stratacube"),
        config=config.described(),
        config_hash=config.digest(),
        created=folder.created(),
        seed=config.seed,
        grid=config.grid,
        tile_size=config.tile_size,
        pixel=layout.pixel,
        bands=[_band_info(c) for c in config.channels],
        projections={row.tile_id: projections[int(row.tile)].crs for row in made.itertuples()},
        footprints={
            int(row.tile): footprint_ring(projections[int(row.tile)], row.x_left, row.y_top, layout.side)
            for row in made.itertuples()
        },
        sources={name: _source(scan, headers) for name, scan in used.items()},
        errors=errors,
        dropped=dict(plan.refused),
        angles=_angles(folder.tiles, made),
        software={name: importlib.metadata.version(name) for name in ("zarr", "numpy", "isal", "h5py")},
    )
    publish_tiles(folder.root, made, build)


def _band_info(channel: int) -> BandInfo:
    band = BANDS[channel]
    return BandInfo(
        name=band.name,
        title=band.title,
        center_wavelength=band.wavelength,
        fwhm=band.fwhm,
        units=band.units,
        resolution=band.gsd,
        common_name=band.common_name,
    )


def _source(scan: Scan, headers: Mapping[str, FileIndex]) -> Any:
    """Item of a source scan, with the sector's outline where one of its files was read."""
    known = [headers[f.href] for f in scan.files.values() if f.href in headers]
    if not known:
        return scan_item(scan)
    grid = known[0].grid
    side = grid.width * grid.dx, grid.height * -grid.dy
    ring = footprint_ring(grid.projection, grid.left, grid.top, *side)
    return scan_item(scan, geometry=ring, projection=grid.projection.crs)


def _angles(store: Path, tiles: pd.DataFrame) -> pd.DataFrame:
    """Angles at the centre of each tile: the middle of the coarse grid, at the middle of the window."""
    with xr.open_zarr(store, chunks=None) as data:
        middle = {"y_coarse": data.sizes["y_coarse"] // 2, "x_coarse": data.sizes["x_coarse"] // 2}
        centre = data[["view_zenith", "solar_zenith", "solar_azimuth"]].isel(middle)
        centre = centre.isel(time=data.sizes["time"] // 2, tile=tiles["tile"].to_numpy()).load()
    return pd.DataFrame({name: centre[name].values for name in centre.data_vars}, index=tiles["tile"].to_numpy())


def footprint_ring(
    projection: GeosProjection, left: float, top: float, width: float, height: float | None = None
) -> npt.NDArray[np.float64]:
    """Outline of a rectangle of scan angles on the ground.

    Parameters
    ----------
    projection
        The satellite's view.
    left, top
        Scan angles of the north-west corner in radians.
    width, height
        Sides in radians; a square if no height is given.

    Returns
    -------
    ndarray
        Longitude and latitude (points, 2), counter-clockwise; points beyond the limb are drawn in to it.
    """
    height = width if height is None else height
    t = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    u = np.concatenate([np.zeros_like(t), t, np.ones_like(t), 1 - t])
    v = np.concatenate([t, np.ones_like(t), 1 - t, np.zeros_like(t)])
    x, y = left + u * width, top - v * height
    inside_x, inside_y = _point_on_earth(projection, left, top, width, height)
    lon, lat = projection.to_lonlat(x, y)
    beyond = np.isnan(lat)
    near, far = np.zeros(beyond.sum()), np.ones(beyond.sum())
    for _ in range(40):
        share = (near + far) / 2
        _, trial = projection.to_lonlat(
            inside_x + share * (x[beyond] - inside_x), inside_y + share * (y[beyond] - inside_y)
        )
        near, far = np.where(np.isnan(trial), near, share), np.where(np.isnan(trial), share, far)
    lon[beyond], lat[beyond] = projection.to_lonlat(
        inside_x + near * (x[beyond] - inside_x), inside_y + near * (y[beyond] - inside_y)
    )
    return np.stack([lon, lat], axis=1)


def _point_on_earth(
    projection: GeosProjection, left: float, top: float, width: float, height: float
) -> tuple[float, float]:
    """Centre of the rectangle, or where that misses the Earth, the mean of its points that do not."""
    x, y = left + width / 2, top - height / 2
    if np.isfinite(projection.to_lonlat(x, y)[1]):
        return x, y
    xs, ys = np.meshgrid(left + width * np.linspace(0, 1, 33), top - height * np.linspace(0, 1, 33))
    seen = np.isfinite(projection.to_lonlat(xs, ys)[1])
    return float(xs[seen].mean()), float(ys[seen].mean())


@dataclass(frozen=True)
class _PreviewTask:
    """Thumbnails of the tiles of one shard."""

    shard: int
    store: Path
    tiles: tuple[tuple[int, Path], ...]

    @property
    def key(self) -> str:
        return f"previews-{self.shard:06d}"


def _draw(task: _PreviewTask) -> None:
    with open_raw(task.store) as data:
        for tile, path in task.tiles:
            thumbnail(data, tile, path)


def _previews(folder: BuildFolder, tiles: pd.DataFrame, workers: Workers) -> None:
    folder.previews.mkdir(exist_ok=True)
    tasks = [
        _PreviewTask(
            int(shard),
            folder.tiles,
            tuple((int(r.tile), folder.previews / f"{r.tile_id}.png") for r in rows.itertuples()),
        )
        for shard, rows in tiles.groupby("shard")
    ]
    for outcome in run_tasks(tasks, _draw, workers, label="drawing"):
        if outcome.error:
            raise StratacubeError(f"thumbnails of {outcome.task.key} could not be drawn: {outcome.error}")
    contact_sheet(folder.previews, tiles, folder.previews / "contact_sheet.png")
