"""What strata promise: profiles and footprints at hand in time, days of masks in bounded memory, scores at little cost.

Shares of a build are of the CPU time of one process that does all of it.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.strata.base import SampleRequest
from cube.testing import write_abi_archive, write_cloudsat_granule
from tests.benchmarks.table import Row, measure
from tests.cube.test_strata_year import FIRST, measured, write_days

_VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
_EDGE = 28e-6 * 10847 / 2
_DISK = FixedGrid(_VIEW, -_EDGE, _EDGE, 28e-6, -28e-6, 10848, 10848)
_DAY = datetime(2020, 7, 1)
_ORBIT = timedelta(seconds=5933)
_FOOTPRINTS = 100_000

Stretch = Generator[None, None, Any]


def collocated(root: str) -> Stretch:
    """A day of granules, with all scans of the day."""
    from cube.strata.cloudsat.sampler import CloudsatSampler

    starts = [_DAY + timedelta(minutes=10 * i) for i in range(144)]
    scans = [Scan("goes16", "ABI-L1b-RadF", "F", 6, t, t + timedelta(minutes=9), {}) for t in starts]
    request = SampleRequest(scans=scans, grid_of=lambda _: _DISK, tile_size=128, align=2, margin=1600)
    yield
    tiles = len(list(CloudsatSampler(request, cloudsat_root=root).candidates()))
    others = resource.getrusage(resource.RUSAGE_CHILDREN)  # HDF4 is read in processes of its own
    return tiles, others.ru_utime + others.ru_stime


def footprints(raster: str) -> Stretch:
    """Classes of footprints of 512 pixels anywhere in the full disk."""
    from cube.strata.landcover.footprints import footprint_counts
    from cube.strata.landcover.raster import open_landcover

    rng = np.random.default_rng(0)
    row, col = 2 * rng.integers(0, (10848 - 512) // 2, (2, _FOOTPRINTS))
    yield
    return int(footprint_counts(open_landcover(raster), _DISK, row, col, 512).sum())


def shares(archive: str, out: str) -> Stretch:
    """CPU time of a build with scores by valid pixels, and of what scores and counts in it."""
    from cube.config import AbiConfig
    from cube.geostationary import run, tiles, valid_share

    spent = {"scores": 0.0, "statistics": 0.0}

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*given, **named)
            finally:
                spent[name] += time.process_time() - begun

        return call

    valid_share.ValidShares.added = timed(valid_share.ValidShares.added, "scores")  # type: ignore[method-assign]
    for module, name in ((tiles, "count_band"), (tiles, "write_counts"), (run, "write_statistics")):
        setattr(module, name, timed(getattr(module, name), "statistics"))
    shutil.rmtree(out, ignore_errors=True)
    config = AbiConfig(
        local_data_dir=Path(archive), output_dir=Path(out), domain="M1", tile_size=256, num_tiles=64, steps=7,
        candidates=14, step_minutes=10, score_pixels=True, workers=1,
    )  # fmt: skip
    yield
    begun = time.process_time()
    run.run_abi(config)
    return {"whole": time.process_time() - begun, **spent}


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every bound; ``quick`` means a few days of masks."""
    return [*_cloudsat(scratch), *_landcover(scratch), *_build(scratch), *_masks(scratch, 4 if quick else 36)]


def _cloudsat(scratch: Path) -> list[Row]:
    root = scratch / "granules"
    if not root.exists():
        for number in range(15):
            # The Earth turns by 24.8 degrees while CloudSat goes round once.
            write_cloudsat_granule(
                root, (_DAY + number * _ORBIT).replace(microsecond=0), product="2B-CLDCLASS-LIDAR",
                orbit=75_000 + number, longitude=-24.8 * number, night=False,
            )  # fmt: skip
    found = measure(collocated, root=root)
    tiles, others = found.result
    what = "CloudSat: a day of 15 granules, 2B-CLDCLASS-LIDAR, collocated with 144 full disks, CPU"
    note = f"{tiles:,} tiles; {others:.1f} s of it where HDF4 is read, by the side; {found.seconds:.1f} s one by one"
    return [_row(what, found.cpu + others, "s", "ours < 10", note)]


def _landcover(scratch: Path) -> list[Row]:
    path = scratch / "MCD12C1.tif"
    if not path.exists():
        values = np.random.default_rng(1).integers(0, 17, (360, 720), "u1").repeat(10, 0).repeat(10, 1)
        how = {"driver": "GTiff", "height": 3600, "width": 7200, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
        with rasterio.open(path, "w", transform=Affine(0.05, 0, -180, 0, -0.05, 90), compress="deflate", **how) as out:
            out.write(values, 1)
    found = measure(footprints, raster=path)
    what = f"land cover: {_FOOTPRINTS:,} footprints of 512 x 512 pixels in the full disk, CPU"
    note = f"17 classes of MCD12C1's grid; peak {found.peak:,.0f} MiB; {found.seconds:.1f} s"
    return [_row(what, found.cpu, "s", "ours < 60", note)]


def _build(scratch: Path) -> list[Row]:
    archive = scratch / "archive"
    if not archive.exists():
        write_abi_archive(archive, hours=3.5, shape_2km=(300, 300))
    found = measure(shares, archive=archive, out=scratch / "build")
    told = found.result
    note = f"64 tiles of 256 x 256 pixels, 16 bands, 7 of 14 steps: {told['whole']:.1f} s of CPU"
    return [
        _row(f"{what}, of the CPU time of a build", 100 * told[name] / told["whole"], "%", target, note)
        for what, name, target in (
            ("scores by valid pixels", "scores", "ours <= 25"),
            ("statistics as tiles are cut", "statistics", "ours <= 3"),
        )
    ]


def _masks(scratch: Path, days: int) -> list[Row]:
    folder, found = scratch / f"masks-{days}", {}
    if not folder.exists():
        folder.mkdir()
        write_days(folder, days)
    for some in sorted({4, min(days, 12), days}):
        part = scratch / f"masks-{days}-{some}"
        part.mkdir(exist_ok=True)
        for number in range(some):
            name = f"{FIRST + timedelta(days=number):%Y%m%d}_cloudsystems.nc"
            if not (part / name).exists():
                (part / name).symlink_to(folder / name)
        found[some] = measured(str(part / "*.nc"), scratch)
    systems, _, seconds = found[days]
    note = f"72 x 667 x 1751 a day; {systems:,} systems; a year would take {seconds * 365 / days / 60:.1f} minutes"
    made = [
        _row(
            f"cloud systems: {days} days of masks, tables written, CPU of one process", seconds, "s", "ours < 60", note
        )
    ]
    for some, (_, most, _) in found.items():
        made.append(_row(f"peak of the process, {some} days", most, "MiB", "ours < 1000", ""))
    spread = 100 * (max(f[1] for f in found.values()) / min(f[1] for f in found.values()) - 1)
    return [*made, _row("how far these peaks lie apart", spread, "%", "ours <= 10", "")]


def _row(what: str, ours: float, unit: str, target: str, note: str) -> Row:
    return Row("Strata", what, ours, None, unit, None, target, note)
