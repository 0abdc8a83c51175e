"""Describing a finished build: previews of each cell, and the STAC catalogue, written last."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from cube.job.publishing_times import PublishingTimes
from cube.job.report import write_report
from cube.job.run import Run
from cube.sentinel2.cell_store import cell_store_file
from cube.sentinel2.composite import CellResult, cell_file
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.drawing import draw
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import footprint
from cube.sentinel2.layers import layers_of
from cube.sentinel2.plan import Plan, PlannedCell
from cube.sentinel2.products import NODATA, encoding, is_known
from cube.sentinel2.reduce import parse_reducer
from cube.sentinel2.report import composite_report
from cube.sentinel2.splitting import told_splits
from cube.sentinel2.vrt import write_mosaics
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
    run: Run,
) -> None:
    """Write previews, the report and, last, the catalogue; ``marked`` are odd products that were used, and why."""
    began = time.monotonic()
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
        preset=config.preset,
        layers={
            name: {
                "data_type": k.dtype,
                "nodata": "nan" if np.isnan(k.nodata) else k.nodata,
                "unit": k.unit,
                "description": k.about,
            }
            for name, k in layers_of(config.also, config.months_seen()).items()
        },
        store=folder.store.name if config.one_store else None,
    )
    made, splits = [p for p in plan.cells if p.name in results], told_splits(folder.plan)
    dropped: dict[str, list[Problem]] = {}  # by cell: each would look through all of them otherwise
    for problem in problems:
        if problem.input:
            dropped.setdefault(problem.product, []).append(problem)
    records = [
        replace(
            _record(config, folder, plan, p, results[p.name], dropped.get(p.name, ()), marked),
            split=splits.get(p.name),
        )
        for p in made
    ]
    previews = {r.id: folder.root / r.preview for r in records if r.preview is not None}
    counts = {r.id: folder.root / r.files["count"] for r in records if "count" in r.files}
    pictures = draw(plan, results, previews, counts, run.ledger.entries)
    pictures.save(folder.previews)
    report = composite_report(config, plan, results, splits, pictures)
    drawn = time.monotonic()

    times = PublishingTimes(run, began, drawn)

    def tell() -> None:
        laps_of_all = {**laps, **times.record_so_far()}
        write_report(folder.report, report, problems, laps_of_all, folder.created(), config.digest())

    tell()  # the catalogue names it, and it is written once more when that is prepared
    if not plan.own_corners:
        build = replace(build, mosaics=write_mosaics(folder.root, plan.lattice, records))
    publish_cells(folder.root, build, records, tell)


def _record(
    config: Sentinel2Config,
    folder: Sentinel2Folder,
    plan: Plan,
    planned: PlannedCell,
    result: CellResult,
    problems: Sequence[Problem],
    marked: Mapping[str, str],
) -> CellRecord:
    cell, window, period = planned.cell, planned.window, planned.period
    lattice, suffix = plan.lattice_of(cell), "" if period is None else f"_{period.period}"
    dropped = [{"product": p.input, "reason": p.reason} for p in problems]
    lost = {d["product"] for d in dropped}
    files = {}
    if "cog" in config.products:
        base = f"composites/{cell.id}"
        names = (*config.bands, "count", *layers_of(config.also, config.months_seen()))
        files = {b: f"{base}/{cell_file(planned.name, b, config.reducer)}" for b in names}
    shown = None
    if files and not parse_reducer(config.reducer).counts and set(_RGB) <= set(config.bands):
        shown = f"composites/{cell.id}/preview{suffix}.png"
        preview([folder.root / files[b] for b in _RGB], folder.root / shown)
    seen = [plan.acquisitions[k] for k in planned.acquisitions if plan.acquisitions[k].datatake in result.datatakes]
    area = footprint([cell])[0]
    return CellRecord(
        id=planned.name,
        period=None if period is None else (period.period, period.start, period.end),
        alias=cell.alias,
        ring=np.asarray(shapely.get_coordinates(area)),
        shape=(window.height, window.width),
        transform=tuple(float(v) for v in tuple(lattice.transform(window))[:6]),
        bounds=lattice.bounds(window),
        corner=None if plan.own_corners else (window.row, window.col),
        files=files,
        preview=shown,
        store=f"composites/{cell.id}/{cell_store_file(planned.name)}" if config.cell_stores else None,
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
        with rasterio.open(path, driver="GTiff") as file:
            shrink = max(1.0, max(file.height, file.width) / _SIDE)
            shape = max(1, round(file.height / shrink)), max(1, round(file.width / shrink))
            data = file.read(1, out_shape=shape, resampling=Resampling.nearest)
            layers.append(data.astype("f4") * np.float32(file.scales[0]))
            masks.append(is_known(data, file.nodata))
    level = np.sqrt(np.clip(np.stack(layers, axis=-1) / _BRIGHT, 0, 1))
    alpha: npt.NDArray[np.uint8] = np.where(np.all(masks, axis=0), 255, 0).astype("u1")
    image = np.dstack([np.rint(255 * level).astype("u1"), alpha])
    with whole_file(target) as part:
        Image.fromarray(image, "RGBA").save(part, "PNG", compress_level=1)  # the default takes six times as long
