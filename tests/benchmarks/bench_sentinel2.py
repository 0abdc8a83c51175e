"""Composites against the bare decode of their blocks, against odc-stac and stackstac, and the median against numpy.

The scenes are 64 km of a tile, as far as the cells reach, in pixels of 20 m and JPEG2000 blocks of 640 with code-blocks
of 8, and once more with the code-blocks of 64 that are OpenJPEG's default. Against the bare decode one process stands
on each side; against odc-stac and stackstac every side has all cores: ours as worker processes, which have imported
what they need before, theirs as Dask's threads, with the chunks that served them best here, cell by cell as their
users do.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.table import Row, Stretch, compare, race

EPSG, ULX, ULY, SIDE = 32606, 404000, 7601000, 3200
START = datetime(2019, 6, 1, 21, 30, 1)
BANDS = ("B02", "B03", "B04", "B8A")
CELLS = tuple(f"Q025_R{row:03d}_C{col:04d}" for row in (86, 87) for col in (123, 124, 125))
"""Neighbours in one tile, whole in it."""


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means two scenes of few bands, and one round."""
    rounds, scenes, bands = (1, 2, 2) if quick else (2, 12, 4)
    archive = scratch / f"archive_{scenes}_{bands}"
    if not (archive / "whole").exists():
        _write(archive, scenes, bands, SIDE)
    coarse = scratch / f"archive_{scenes}_{bands}_of_64"
    if not (coarse / "whole").exists():
        _write(coarse, scenes, bands, SIDE, code_block=64)
    given = {"archive": archive, "bands": bands}
    cells = CELLS[:2] if quick else CELLS
    return [
        *_decode(given, cells, rounds),
        *_work({**given, "archive": coarse}, cells),
        *_peers(given, cells, rounds),
        *_peers({**given, "archive": coarse}, cells, 1, "code-blocks of 64"),
        *_memory(scratch, 12 if quick else 60),
        *_median(rounds),
        *_geomedian(rounds),
    ]


def _write(archive: Path, scenes: int, bands: int, side: int, code_block: int | None = None) -> None:
    """Scenes of smooth ground with texture, and clouds over a third of it."""
    from cube.testing import SafeSpec, write_safe

    shutil.rmtree(archive, ignore_errors=True)
    y, x = np.mgrid[:side, :side].astype("f4")
    ground = 1500 + 600 * np.sin(x / 90) * np.cos(y / 70)
    for number in range(scenes):
        rng = np.random.default_rng(number)
        scl = np.full((side, side), 4, "u1")
        phase = rng.uniform(0, 6)
        scl[np.sin(x / 400 + phase) + np.sin(y / 300 - phase) > 0.6] = 9
        images: dict[str, Any] = {"SCL_20m": scl}
        for index, band in enumerate(BANDS[:bands]):
            counts = ground + 200 * index + 1000 + rng.normal(0, 40, ground.shape).astype("f4") + 4000 * (scl == 9)
            images[f"{band}_20m"] = counts.astype("u2")
        spec = SafeSpec(
            tile="06WUA",
            epsg=EPSG,
            ulx=ULX,
            uly=ULY,
            datatake_start=START + timedelta(days=5 * number),
            processing_time=datetime(2023, 1, 1),
            images=images,
        )
        write_safe(spec, archive, code_block=code_block)
    (archive / "whole").touch()


# Time ----------------------------------------------------------------------------------------------------------------


def _decode(given: dict[str, Any], cells: Sequence[str], rounds: int) -> list[Row]:
    """What is left besides the decode, and what cells that share blocks cost."""
    section = f"Composites and the bare decode, one process, {given['bands']} bands, {_scenes(given)} scenes"
    one = {**given, "cells": cells[:1]}
    found = race(
        {
            "one": (build, one),
            "bare one": (bare_decode, one),
            "all": (build, {**given, "cells": cells}),
            "bare all": (bare_decode, {**given, "cells": cells}),
            "split": (build, {**one, "parts": 4}),
        },
        rounds,
    )
    s, blocks = ({k: f(m) for k, m in found.items()} for f in (lambda m: m.seconds, lambda m: m.result["pixels"]))
    if blocks["one"] > blocks["bare one"] or blocks["all"] > blocks["bare all"]:
        raise AssertionError(f"more is decoded than the blocks under the cells: {blocks}")

    def row(what: str, ours: str, theirs: str, target: str | None = None, note: str = "") -> Row:
        return compare(section, what, s[ours], s[theirs], "s", target=target, note=note)

    def pixels(what: str, ours: str, theirs: str) -> Row:
        return compare(section, what, blocks[ours] / 1e6, blocks[theirs] / 1e6, "10^6")

    same = pixels("pixels decoded for those 16 cells", "split", "one")
    return [
        row("one cell of 0.25 degrees, against the bare decode of its blocks", "one", "bare one", "ours <= 1.5 theirs"),
        pixels("pixels decoded for it", "one", "bare one"),
        row(f"{len(cells)} cells, against the same", "all", "bare all", "ours <= 1.5 theirs"),
        pixels("pixels decoded for them", "all", "bare all"),
        row(
            "one cell's area in 16 cells, against in one",
            "split",
            "one",
            "ours <= 1.25 theirs",
            "products, warp, median",
        ),
        replace(same, target="ours <= 1.01 theirs"),
        compare(section, "peak of the process", found["all"].peak, None, "MiB", target="ours < 1000"),
    ]


def _work(given: dict[str, Any], cells: Sequence[str]) -> list[Row]:
    """CPU time of a run in one process, whatever else the machine does, against OpenJPEG alone and what was estimated.

    Code-blocks are of 64, as in ESA's files: the faster a decoder, the more all else weighs.
    """
    section = f"CPU of a run in one process, {given['bands']} bands, {_scenes(given)} scenes, code-blocks of 64"
    found = []
    for what, values in (
        ("one cell", {"cells": cells[:1]}),
        (f"{len(cells)} cells", {"cells": cells}),
        ("one cell's area in 16 cells", {"cells": cells[:1], "parts": 4}),
    ):
        asked = {**given, **values}
        ours, bare = (race({"": (function, asked)}, 1)[""] for function in (build, bare_areas))
        told = ours.result["estimate"]
        against = "against OpenJPEG's decode of the same areas"
        found += [
            compare(section, f"{what}, {against}", ours.cpu, bare.cpu, "s", target="ours <= 2 theirs"),
            compare(
                section, f"{what}, against what `--dry-run` says", ours.cpu, told, "s", target="ours <= 1.2 theirs"
            ),
            compare(section, f"{what}, the same", ours.cpu, told, "s", target="ours >= 0.8 theirs"),
        ]
    return found


def _peers(given: dict[str, Any], cells: Sequence[str], rounds: int, layout: str = "") -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    section = f"Median composites, {cores} cores, {given['bands']} bands, {_scenes(given)} scenes"
    section += f", {layout}" if layout else ""
    found = []
    for chosen, times in ((cells[:1], rounds), (cells, 1)):
        asked = {**given, "cells": chosen}
        runs = race(
            {
                "ours": (build, {**asked, "resampling": "nearest", "workers": cores}),
                "odc-stac": (odc_median, asked),
                "stackstac": (stackstac_median, asked),
            },
            times,
        )
        ours = runs["ours"]
        for peer in ("odc-stac", "stackstac"):
            theirs = runs[peer]
            for figure, tolerance in (("mean", 1e-3 * ours.result["mean"]), ("valid", 5e-3)):
                if abs(ours.result[figure] - theirs.result[figure]) > tolerance:
                    raise AssertionError(f"{peer} and this project disagree: {theirs.result} and {ours.result}")
            what = f"{len(chosen)} cell{'s' * (len(chosen) > 1)}, a whole run, against {peer} with masked median"
            note = f"values compared; peak {ours.peak:,.0f} MiB a worker at most against {theirs.peak:,.0f} MiB"
            found.append(compare(section, what, ours.seconds, theirs.seconds, "s", target="ratio >= 3", note=note))
    return found


def _scenes(given: dict[str, Any]) -> int:
    return len(list(Path(given["archive"]).glob("*.SAFE")))


def build(
    archive: str, bands: int, cells: list[str], resampling: str = "bilinear", workers: int = 1, parts: int = 1
) -> Stretch:
    """A whole run; ``parts`` cuts each cell into so many along both sides."""
    from cube.job.engine import Workers, run_tasks
    from cube.job.ledger import Ledger
    from cube.sentinel2.making import MODULES
    from cube.sentinel2.run import run_sentinel2

    config = _config(archive, bands, cells, resampling, workers, parts)
    work, told = config.work_dir, "\n".join(run_sentinel2(config.model_copy(update={"dry_run": True})).lines)
    seconds = re.search(r"duration +about ([\d.]+) (s|h)", told)
    assert seconds is not None, told
    with Workers(workers, modules=MODULES) as ready:  # the server that workers are forked from stays
        list(run_tasks([_Nothing("a"), _Nothing("b")], _Nothing.run, ready))
    yield
    code = run_sentinel2(config).code
    yield
    if code:
        raise AssertionError(f"the build ended with {code}")
    import rasterio

    data = []
    for path in sorted(work.glob("composites/*/*_B02_median_clip.tif")):
        with rasterio.open(path) as file:
            data.append(file.read(1, masked=True).ravel())
    values = np.ma.concatenate(data)
    figures = [e.figures for e in Ledger(work / "ledger.jsonl").entries.values() if "pixels" in e.figures]
    return {
        "mean": float(values.mean()) * 1e-4,
        "valid": float(1 - np.ma.getmaskarray(values).mean()),
        "pixels": sum(f["pixels"] for f in figures),
        "estimate": float(seconds[1]) * {"s": 1, "h": 3600}[seconds[2]],
    }


def _config(archive: str, bands: int, cells: list[str], resampling: str, workers: int, parts: int) -> Any:
    """Return the configuration of a run, whose folder is empty."""
    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.grid import cell_from_id

    work = Path(archive).with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    values: dict[str, Any] = {
        "work_dir": work,
        "safe_dir": archive,
        "start": "2019-06-01",
        "end": "2020-12-31",  # of the most scenes that are compared
        "bands": list(BANDS[:bands]),
        "resampling": resampling,
        "workers": workers,
    }
    if parts == 1:
        values["cells"] = cells
    else:
        values["grid_csv"] = Path(archive).with_name("grid.csv")
        lines = ["tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax,row,col"]
        for name in cells:
            left, bottom, right, top = cell_from_id(name).bounds
            x, y = np.linspace(left, right, parts + 1), np.linspace(top, bottom, parts + 1)
            for i, j in np.ndindex(parts, parts):
                lines.append(f"{name}_{i}_{j},,{x[j]},{y[i + 1]},{x[j + 1]},{y[i]},{i},{j}")
        values["grid_csv"].write_text("\n".join(lines) + "\n")
    return Sentinel2Config.load(None, values)


def bare_areas(archive: str, bands: int, cells: list[str], parts: int = 1) -> Stretch:
    """Decode what a run decodes, with OpenJPEG alone."""
    from cube.sentinel2 import rasters
    from cube.sentinel2.jpeg2000 import decode_area
    from cube.sentinel2.run import run_sentinel2

    asked: list[Any] = []

    def noted(*area: Any) -> Any:
        asked.append(area)
        return decode_area(*area)

    rasters.decode_area = noted
    if run_sentinel2(_config(archive, bands, cells, "bilinear", 1, parts)).code:
        raise AssertionError("the build failed")
    rasters.decode_area = decode_area
    yield
    pixels = sum(decode_area(*area).size for area in asked)
    yield
    return {"pixels": pixels}


@dataclass(frozen=True)
class _Nothing:
    """A task that does nothing: a worker that has done it has started."""

    key: str

    def run(self) -> None:
        """Do nothing."""


def bare_decode(archive: str, bands: int, cells: list[str]) -> Stretch:
    """Decode, with rasterio alone, the blocks under the cells that hold a valid pixel, and the classes under them."""
    import rasterio
    from rasterio.windows import Window as RasterWindow

    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.grid import cell_from_id
    from cube.sentinel2.mask import MASK_CLASSES
    from cube.sentinel2.resample import SourceGrid, margin, source_map
    from cube.sentinel2.scenes import PIECE

    config = Sentinel2Config(work_dir=Path("x"), cells=cells, start="2019-06-01", end="2019-08-31")  # type: ignore[arg-type]
    lattice = config.lattice("EPSG:4326", metres=False)
    grid = SourceGrid(f"EPSG:{EPSG}", (20.0, 0.0, ULX, 0.0, -20.0, ULY), SIDE, SIDE)
    windows = []
    for name in cells:
        for piece in lattice.window(*cell_from_id(name).bounds).split(PIECE):
            mapped = source_map(lattice, piece, grid)
            window = mapped.source_window(grid, margin("bilinear", max(mapped.stretch())))
            if window.height and window.width:
                windows.append(window)
    clear = ~np.isin(np.arange(256), MASK_CLASSES)
    pixels = 0
    yield
    with rasterio.Env(GDAL_CACHEMAX=32, GDAL_NUM_THREADS="1"):
        for safe in sorted(Path(archive).glob("*.SAFE")):
            with rasterio.open(next(safe.rglob("*SCL_20m.jp2"))) as file:
                classes = np.zeros(file.shape, "u1")
                under = [b for _, b in file.block_windows(1) if any(_meets(b, w) for w in windows)]
                for block in under:
                    classes[block.toslices()] = file.read(1, window=block)
                    pixels += block.height * block.width
            needed = np.zeros(classes.shape, bool)
            for w in windows:
                place = slice(w.row, w.end_row), slice(w.col, w.end_col)
                needed[place] = clear[classes[place]]
            for band in BANDS[:bands]:
                with rasterio.open(next(safe.rglob(f"*{band}_20m.jp2"))) as file:
                    for block in under:
                        if needed[block.toslices()].any():
                            file.read(1, window=RasterWindow(block.col_off, block.row_off, block.width, block.height))
                            pixels += block.height * block.width
    return {"pixels": pixels}


def _meets(block: Any, window: Any) -> bool:
    return bool(
        block.row_off < window.end_row
        and window.row < block.row_off + block.height
        and block.col_off < window.end_col
        and window.col < block.col_off + block.width
    )


def _boxes(archive: str, bands: int, cells: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Items and geoboxes as a user of STAC has them."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from catalog.sentinel2.safe import read_safe
    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.grid import cell_from_id
    from cube.sentinel2.lazy import _item

    config = Sentinel2Config(work_dir=Path("x"), cells=cells, start="2019-06-01", end="2019-08-31")  # type: ignore[arg-type]
    lattice = config.lattice("EPSG:4326", metres=False)
    boxes = []
    for name in cells:
        window = lattice.window(*cell_from_id(name).bounds)
        boxes.append(GeoBox((window.height, window.width), Affine(*tuple(lattice.transform(window))[:6]), "EPSG:4326"))
    keys = {band: f"{band}_20m" for band in BANDS[:bands]}
    return [_item(read_safe(path), keys) for path in sorted(Path(archive).glob("*.SAFE"))], boxes


def odc_median(archive: str, bands: int, cells: list[str]) -> Stretch:
    """Load a cell, mask it, take the median; one chunk a cell and scene, where odc-stac is fastest."""
    import odc.stac

    warnings.simplefilter("ignore")
    items, boxes = _boxes(archive, bands, cells)
    names = list(BANDS[:bands])
    types = {"*": {"data_type": "uint16", "nodata": 0}, "SCL": {"data_type": "uint8", "nodata": 0}}
    yield

    def medians() -> Iterator[Any]:
        for box in boxes:
            data = odc.stac.load(
                items,
                bands=[*names, "SCL"],
                geobox=box,
                chunks={},
                groupby="solar_day",
                stac_cfg={"*": {"assets": types}},
            )
            clear = ~data["SCL"].isin(_masked()) & (data[names] != 0)
            yield (data[names].where(clear) - 1000).median("time").compute()["B02"].values

    found = list(medians())
    yield
    return _figures(found)


def stackstac_median(archive: str, bands: int, cells: list[str]) -> Stretch:
    """Stack a cell, mask it, take the median; chunks of 512, where stackstac is fastest."""
    import stackstac
    from rasterio.enums import Resampling

    warnings.simplefilter("ignore")
    items, boxes = _boxes(archive, bands, cells)
    stacked = [item.to_dict() for item in items]
    for asset in (asset for item in stacked for asset in item["assets"].values()):
        asset["proj:epsg"] = int(asset["proj:code"].rpartition(":")[2])
    names = list(BANDS[:bands])
    yield

    def medians() -> Iterator[Any]:
        for box in boxes:
            outline = box.boundingbox
            data = stackstac.stack(
                stacked,
                assets=[*names, "SCL"],
                epsg=4326,
                bounds=(outline.left, outline.bottom, outline.right, outline.top),
                resolution=(abs(box.resolution.x), abs(box.resolution.y)),
                snap_bounds=False,
                rescale=False,
                resampling=Resampling.nearest,
                chunksize=512,
            )
            clear = ~data.sel(band="SCL").isin(_masked())
            images = data.sel(band=names)
            yield (images.where(clear & (images != 0)) - 1000).median("time").compute().sel(band="B02").values

    found = list(medians())
    yield
    return _figures(found)


def _masked() -> list[int]:
    from cube.sentinel2.mask import MASK_CLASSES

    return list(MASK_CLASSES)


def _figures(found: Sequence[Any]) -> dict[str, float]:
    values = np.concatenate([v.ravel() for v in found])
    return {"mean": float(np.nanmean(values)) * 1e-4, "valid": float((~np.isnan(values)).mean())}


# Memory --------------------------------------------------------------------------------------------------------------


def _memory(scratch: Path, many: int) -> list[Row]:
    """Peak of a worker over few and many scenes of one cell."""
    section = "Memory of a worker, one cell, two bands"
    found = {}
    for count in (6, many):
        archive = scratch / f"small_{count}"
        if not (archive / "whole").exists():
            _write(archive, count, 2, 1600)
        given = {"archive": archive, "bands": 2, "cells": CELLS[:1]}
        found |= race({str(count): (build, given)}, 1)
    few, lots = found["6"].peak, found[str(many)].peak
    return [
        compare(section, f"{many} scenes, against 6", lots, few, "MiB", target="ours <= 1.25 theirs"),
        compare(section, f"{many} scenes", lots, None, "MiB", target="ours < 381", note="400 MB"),
    ]


# Median --------------------------------------------------------------------------------------------------------------


def _median(rounds: int) -> list[Row]:
    section = "Median of 24 x 700 x 1393 float32, 60 % NaN, one thread"
    found = race({"ours": (median, {"ours": True}), "numpy": (median, {"ours": False})}, rounds)
    if found["ours"].result != found["numpy"].result:
        raise AssertionError("the medians disagree")
    figures = found["ours"].seconds, found["numpy"].seconds
    return [compare(section, "sort and gather, against numpy.nanmedian", *figures, "s", target="ratio >= 5")]


def median(ours: bool) -> Stretch:
    from cube.sentinel2.reduce import nan_median

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    stack = rng.normal(1000, 300, (24, 700, 1393)).astype("f4")
    stack[rng.random(stack.shape) < 0.6] = np.nan
    yield
    result = nan_median(stack) if ours else np.nanmedian(stack, axis=0)
    yield
    return float(np.nansum(result, dtype="f8"))


# Geomedian -----------------------------------------------------------------------------------------------------------


def _geomedian(rounds: int) -> list[Row]:
    section = "Geomedian of 24 votes of 9 bands, 260 x 260 pixels, 60 % NaN, one core"
    found = race({"ours": (geomedian, {"ours": True}), "geomad": (geomedian, {"ours": False})}, rounds)
    ours, theirs = found["ours"], found["geomad"]
    if abs(ours.result - theirs.result) > 0.5:
        raise AssertionError("the geomedians disagree")
    note = "both to within one count a pixel; CPU"
    return [compare(section, "against geomad", ours.cpu, theirs.cpu, "s", target="ratio >= 1.5", note=note)]


def geomedian(ours: bool) -> Stretch:
    """Mean of bands and pixels of more than three votes, in counts; of two any point between them is one."""
    import geomad

    from cube.sentinel2.geomedian import geometric_median

    rng = np.random.default_rng(0)
    stack = rng.uniform(200, 3000, (9, 1, 260, 260)) * rng.normal(1, 0.15, (1, 24, 260, 260))
    stack += rng.normal(0, 60, stack.shape)  # of votes in one line any point in their middle would be one
    stack[:, rng.random(stack.shape[1:]) < 0.1] *= 2.5
    stack[:, rng.random(stack.shape[1:]) < 0.6] = np.nan
    counts = np.rint(stack).astype("f4")
    reflectances = np.ascontiguousarray(counts.transpose(2, 3, 0, 1)) * np.float32(1e-4)
    yield
    result = geometric_median(counts) if ours else geomad.nangeomedian_pcm(reflectances, eps=1e-7, num_threads=1)
    yield
    several = np.isfinite(counts[0]).sum(axis=0) > 3
    found = result[:, several] if ours else result[several] * 1e4
    return float(found.mean(dtype="f8"))
