"""The same windows of the same pixels, from ESA's JPEG 2000 and from EOPF's Zarr, by CPU time of one process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from scipy.ndimage import zoom

from catalog.sentinel2.eopf import read_eopf
from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.lattice import Window
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_eopf, write_safe
from tests.benchmarks.table import Row, compare

SIDE = 5490
BANDS = ("B02", "B03", "B04", "B8A")
_CELL = Window(2000, 1800, 1393, 1393)
_ROUNDS = 3
_ENOUGH = 10.0
"""Seconds."""


def _scene(number: int) -> SafeSpec:
    """A whole tile of 20 m with clouds, whose counts compress as real ones do (about 55 % by JPEG 2000)."""
    rng = np.random.default_rng(number)
    smooth = zoom(rng.normal(size=(90, 90)), 61, order=1)[:SIDE, :SIDE]
    images: dict[str, npt.NDArray[np.integer]] = {
        f"{band}_20m": (2500 + 600 * smooth + rng.normal(0, 40, smooth.shape)).clip(1).astype("u2") for band in BANDS
    }
    images["SCL_20m"] = np.where(zoom(rng.normal(size=(45, 45)), 122, order=1)[:SIDE, :SIDE] > 1, 9, 4).astype("u1")
    return SafeSpec(
        tile="06WVB", epsg=32606, ulx=399960, uly=7700040, datatake_start=datetime(2021, 6, 1 + number, 21, 30, 1),
        processing_time=datetime(2023, 1, 1), baseline="05.10", images=images,
    )  # fmt: skip


def _read(product: Product, windows: list[Window]) -> npt.NDArray[np.generic]:
    """Read windows of all bands as a build does: what will be read is said first."""
    found = []
    for band in BANDS:
        with BlockReader(product.assets[f"{band}_20m"], Decoded()) as reader:
            for window in windows:
                reader.expect(window)
            found += [reader.read(window) for window in windows]
    return np.concatenate([f.ravel() for f in found])


def _seconds(work: Callable[[], object]) -> float:
    """CPU time of the best of some rounds; of long ones there are fewer."""
    found: list[float] = []
    while len(found) < _ROUNDS and sum(found) < _ENOUGH:
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means one scene, and no whole runs."""
    shutil.rmtree(scratch, ignore_errors=True)
    scenes = [_scene(number) for number in range(1 if quick else 3)]
    safe = [read_safe(write_safe(s, scratch / "safe")) for s in scenes]
    forms = {f"Zarr v{v}": [read_eopf(write_eopf(s, scratch / f"v{v}", v)) for s in scenes] for v in (2, 3)}  # type: ignore[arg-type]
    cases = {
        "one cell of 0.25 degrees": _CELL.split(768),
        "a window of 256 x 256": [Window(2600, 2300, 256, 256)],
        "the whole tile": Window(0, 0, SIDE, SIDE).split(768),
    }
    found = []
    title = "EOPF's Zarr against ESA's JPEG 2000: the same windows of 4 bands of 20 m, by CPU time"
    with rasterio.Env(GDAL_NUM_THREADS="1"):
        for case, windows in cases.items():
            told = _seconds(lambda windows=windows: _read(safe[0], windows))
            for form, products in forms.items():
                np.testing.assert_array_equal(_read(products[0], windows), _read(safe[0], windows))
                ours = _seconds(lambda windows=windows, products=products: _read(products[0], windows))
                found.append(compare(title, f"{case}, {form}", ours, told, "s", target="ratio >= 3"))
    if not quick:
        told = _whole(scratch, "safe")
        for form in ("v2", "v3"):
            ours = _whole(scratch, form)
            found.append(
                compare(title, f"3 scenes, one cell, the whole run, Zarr {form}", ours, told, "s", note="wall")
            )
    return found


def _whole(folder: Path, form: str) -> float:
    """Wall time of a run; its worker is another process."""
    best = np.inf
    for turn in range(_ROUNDS):
        values = {
            "work_dir": folder / f"w-{form}-{turn}", "safe_dir": folder / form, "bbox": [-148.2, 68.85, -148.0, 69.0],
            "start": "2021-06-01", "end": "2021-06-30", "bands": list(BANDS), "workers": 1,
        }  # fmt: skip
        config = Sentinel2Config.load(None, values)
        begun = time.monotonic()
        assert run_sentinel2(config).code == 0
        best = min(best, time.monotonic() - begun)
    return float(best)
