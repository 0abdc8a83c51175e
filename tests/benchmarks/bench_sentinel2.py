"""Composites against the bare decode of their blocks, against odc-stac and stackstac, and the median against numpy.

The scenes are tiles of full size (5490 x 5490 pixels of 20 m, JPEG2000 in blocks of 640), one core on every side.
"""

from __future__ import annotations

import shutil
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.table import Row, Stretch, compare, race

EPSG, ULX, ULY = 32606, 399960, 7600020
START = datetime(2019, 6, 1, 21, 30, 1)
BANDS = ("B02", "B03", "B04")
CELL = "Q025_R086_C0122"
NEXT = "Q025_R087_C0122"
"""The cell south of it, in the same tile."""


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means two scenes of few bands, and one round."""
    rounds, scenes, bands = (1, 2, 2) if quick else (2, 4, 3)
    archive = scratch / f"archive_{scenes}_{bands}"
    if not (archive / "whole").exists():
        _write(archive, scenes, bands, 5490)
    return [*_composite(archive, bands, rounds), *_memory(scratch, 12 if quick else 60), *_median(rounds)]


def _write(archive: Path, scenes: int, bands: int, side: int, block: int = 640) -> None:
    """Scenes of smooth ground with texture, and clouds over a third of it."""
    from cube.sentinel2.synthetic import SafeSpec, write_safe

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
            tile="06WVC",
            epsg=EPSG,
            ulx=ULX,
            uly=ULY,
            datatake_start=START + timedelta(days=5 * number),
            processing_time=datetime(2023, 1, 1),
            images=images,
        )
        write_safe(spec, archive, block=block)
    (archive / "whole").touch()


# Time ----------------------------------------------------------------------------------------------------------------


def _composite(archive: Path, bands: int, rounds: int) -> list[Row]:
    section = f"Median of one cell of 0.25 degrees, {bands} bands, {len(list(archive.glob('*.SAFE')))} scenes"
    given = {"archive": archive, "bands": bands}
    found = race(
        {
            "ours": (build, {**given, "cells": [CELL], "resampling": "bilinear"}),
            "nearest": (build, {**given, "cells": [CELL], "resampling": "nearest"}),
            "two": (build, {**given, "cells": [CELL, NEXT], "resampling": "bilinear"}),
            "bare": (bare_decode, {**given, "cells": [CELL]}),
            "bare two": (bare_decode, {**given, "cells": [CELL, NEXT]}),
            "odc": (lazy_median, {**given, "backend": "odc-stac"}),
            "stackstac": (lazy_median, {**given, "backend": "stackstac"}),
        },
        rounds,
    )
    ours, theirs = found["nearest"].result, found["odc"].result
    if abs(ours["mean"] - theirs["mean"]) > 1e-3 * theirs["mean"] or abs(ours["valid"] - theirs["valid"]) > 5e-3:
        raise AssertionError(f"the ways to make one composite disagree: {ours} and {theirs}")
    if found["ours"].result["pixels"] != found["bare"].result["pixels"]:
        raise AssertionError(f"not the same blocks: {found['ours'].result} and {found['bare'].result}")
    s = {k: m.seconds for k, m in found.items()}

    def row(what: str, one: str, other: str, target: str | None = None, note: str = "") -> Row:
        return compare(section, what, s[one], s[other], "s", target=target, note=note)

    extra, decode = s["two"] - s["ours"], s["bare two"] - s["bare"]
    return [
        row("a whole run, against the bare decode of its blocks", "ours", "bare", "ours <= 1.5 theirs", "same blocks"),
        row("a whole run, against odc-stac with masked median", "nearest", "odc", "ratio >= 3", "values compared"),
        row("a whole run, against stackstac with masked median", "nearest", "stackstac", "ratio >= 3"),
        compare(section, "one more cell, against the decode of its new blocks", extra, decode, "s"),
        compare(section, "peak of the process", found["ours"].peak, found["odc"].peak, "MiB", target="ours < 1000"),
    ]


def build(archive: str, bands: int, cells: list[str], resampling: str) -> Stretch:
    from cube.config import load_config
    from cube.ledger import Ledger
    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.run import run_sentinel2

    work = Path(archive).with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    values = {
        "work_dir": work,
        "safe_dir": archive,
        "cells": cells,
        "start": "2019-06-01",
        "end": "2019-08-31",
        "bands": list(BANDS[:bands]),
        "resampling": resampling,
        "workers": 1,
    }
    config = load_config(Sentinel2Config, None, values)
    yield
    code = run_sentinel2(config)
    yield
    if code:
        raise AssertionError(f"the build ended with {code}")
    import rasterio

    with rasterio.open(work / "composites" / CELL / f"cell_{CELL}_B02_median_clip.tif") as file:
        data = file.read(1, masked=True)
    figures = [e.figures for e in Ledger(work / "ledger.jsonl").entries.values() if "pixels" in e.figures]
    return {
        "mean": float(data.mean()) * 1e-4,
        "valid": float(1 - np.ma.getmaskarray(data).mean()),
        "pixels": sum(f["pixels"] for f in figures),
    }


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
    grid = SourceGrid(f"EPSG:{EPSG}", (20.0, 0.0, ULX, 0.0, -20.0, ULY), 5490, 5490)
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


def lazy_median(archive: str, bands: int, backend: str) -> Stretch:
    import dask
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.grid import cell_from_id
    from cube.sentinel2.lazy import open_sentinel2

    warnings.simplefilter("ignore")
    config = Sentinel2Config(work_dir=Path("x"), cells=[CELL], start="2019-06-01", end="2019-08-31")  # type: ignore[arg-type]
    lattice = config.lattice("EPSG:4326", metres=False)
    window = lattice.window(*cell_from_id(CELL).bounds)
    box = GeoBox((window.height, window.width), Affine(*tuple(lattice.transform(window))[:6]), "EPSG:4326")
    paths = sorted(Path(archive).glob("*.SAFE"))
    yield
    with dask.config.set(scheduler="synchronous"):
        data = open_sentinel2(paths, BANDS[:bands], geobox=box, backend=backend, chunks=512)  # type: ignore[arg-type]
        result = data.median("time").compute()
    yield
    values = result["B02"].values
    return {"mean": float(np.nanmean(values)), "valid": float((~np.isnan(values)).mean())}


# Memory --------------------------------------------------------------------------------------------------------------


def _memory(scratch: Path, many: int) -> list[Row]:
    """Peak of a worker over few and many scenes of one cell."""
    section = "Memory of a worker, one cell, two bands"
    found = {}
    for count in (6, many):
        archive = scratch / f"small_{count}"
        if not (archive / "whole").exists():
            _write(archive, count, 2, 1600)
        given = {"archive": archive, "bands": 2, "cells": [CELL], "resampling": "bilinear"}
        found |= race({str(count): (build, given)}, 1)
    few, lots = found["6"].peak, found[str(many)].peak
    return [
        compare(section, f"{many} scenes, against 6", lots, few, "MiB", target="ours <= 1.25 theirs"),
        compare(section, f"{many} scenes", lots, None, "MiB", target="ours < 1000"),
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
