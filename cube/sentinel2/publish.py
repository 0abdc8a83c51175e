"""Describing a finished build: previews of each cell, and the STAC catalogue, written last."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely
from PIL import Image
from rasterio.enums import Resampling

from catalog.sentinel2.places import is_remote
from catalog.sentinel2.publish import CellRecord, CompositeBuild, publish_cells
from cube.job.ledger import Problem
from cube.job.report import write_report
from cube.sentinel2.composite import CellResult, cell_file
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import footprint
from cube.sentinel2.plan import Plan, PlannedCell
from cube.sentinel2.products import NODATA, encoding
from cube.sentinel2.reduce import parse_reducer
from cube.sentinel2.report import composite_report
from stratacube.addresses import plain_url
from stratacube.files import whole_file

__all__ = ["preview", "publish"]

_RGB = ("B04", "B03", "B02")
_SIDE = 384
_BRIGHT = 0.3
"""Reflectance shown as white, before the square root that opens up the shadows."""


def publish(
    config: Sentinel2Config,
    folder: Sentinel2Folder,
    plan: Plan,
    results: Mapping[str, CellResult],
    problems: Sequence[Problem],
    laps: Mapping[str, float],
    marked: Mapping[str, str],
) -> None:
    """Write previews, the report and, last, the catalogue; ``marked`` are odd products that were used, and why."""
    kind = encoding(config.values, config.reducer)
    crs = pyproj.CRS(plan.lattice.crs)
    metres = 111_195.0 if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
    build = CompositeBuild(
        id=f"sentinel2-{config.digest()}",
        title=f"Sentinel-2 L2A {config.reducer} composites",
        start=config.start,
        end=config.end,
        created=folder.created(),
        version=importlib.metadata.version("stratacube"),
        config=config.described(),
        config_hash=config.digest(),
        reducer=config.reducer,
        crs=plan.lattice.crs,
        wkt2=crs.to_wkt("WKT2_2019"),
        bands=config.bands,
        data_type=kind.dtype,
        scale=kind.scale,
        unit=kind.unit,
        nodata=NODATA,
        resolution=round(plan.lattice.dy * metres, 3),
        store=folder.store.name if "zarr" in config.products else None,
    )
    made = [p for p in plan.cells if p.cell.id in results]
    report = composite_report(config, plan, results)
    write_report(folder.report, report, problems, laps, folder.created(), config.digest())
    publish_cells(
        folder.root, build, [_record(config, folder, plan, p, results[p.cell.id], problems, marked) for p in made]
    )


def _record(
    config: Sentinel2Config,
    folder: Sentinel2Folder,
    plan: Plan,
    planned: PlannedCell,
    result: CellResult,
    problems: Sequence[Problem],
    marked: Mapping[str, str],
) -> CellRecord:
    cell, window = planned.cell, planned.window
    dropped = [{"product": p.input, "reason": p.reason} for p in problems if p.product == cell.id and p.input]
    lost = {d["product"] for d in dropped}
    files = {}
    if "cog" in config.products:
        base = f"composites/{cell.id}"
        files = {b: f"{base}/{cell_file(cell.id, b, config.reducer)}" for b in (*config.bands, "count")}
    shown = None
    if files and not parse_reducer(config.reducer).counts and set(_RGB) <= set(config.bands):
        shown = f"composites/{cell.id}/preview.png"
        preview([folder.root / files[b] for b in _RGB], folder.root / shown)
    seen = [plan.acquisitions[k] for k in planned.acquisitions if plan.acquisitions[k].datatake in result.datatakes]
    area = footprint([cell])[0]
    return CellRecord(
        id=cell.id,
        alias=cell.alias,
        ring=np.asarray(shapely.get_coordinates(area)),
        shape=(window.height, window.width),
        transform=tuple(float(v) for v in tuple(plan.lattice.transform(window))[:6]),
        bounds=plan.lattice.bounds(window),
        row=window.row,
        col=window.col,
        files=files,
        preview=shown,
        statistics=result.statistics,
        observations=result.observations,
        valid_share=result.valid_share,
        sources={p.id: _origin(p.assets, p.id) for a in seen for p in a.products if p.id not in lost},
        dropped=dropped,
        marked=[
            {"product": p.id, "reason": marked[p.id]}
            for a in seen
            for p in a.products
            if p.id in marked and p.id not in lost
        ],
    )


def _origin(assets: Mapping[str, object], name: str) -> str:
    """Where a product lies: its metadata file, which names all others; without a signature, not for readers."""
    asset = assets.get("product_metadata") or next(iter(assets.values()), None)
    href = str(getattr(asset, "href", name))
    return plain_url(href) if is_remote(href) else href


def preview(paths: Sequence[Path], target: Path) -> None:
    """Draw three bands as a true-colour picture; what is not known is transparent."""
    layers, masks = [], []
    for path in paths:
        with rasterio.open(path) as file:
            shrink = max(1.0, max(file.height, file.width) / _SIDE)
            shape = max(1, round(file.height / shrink)), max(1, round(file.width / shrink))
            data = file.read(1, out_shape=shape, resampling=Resampling.nearest)
            layers.append(data.astype("f4") * np.float32(file.scales[0]))
            masks.append(data != file.nodata)
    level = np.sqrt(np.clip(np.stack(layers, axis=-1) / _BRIGHT, 0, 1))
    alpha: npt.NDArray[np.uint8] = np.where(np.all(masks, axis=0), 255, 0).astype("u1")
    image = np.dstack([np.rint(255 * level).astype("u1"), alpha])
    with whole_file(target) as part:
        Image.fromarray(image, "RGBA").save(part, "PNG")
