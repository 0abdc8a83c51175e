"""A small archive of Sentinel-2 products for the demo: one landscape, seen by several datatakes in all their variety.

Two tiles that overlap, processing baselines on both sides of 04.00, one scene in two processings, a tile cut in two by
datastrips, a bank of cloud, and one JPEG2000 file that is cut short.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from cube.testing.sentinel2.safe import SafeSpec, write_safe
from stratacube.files import write_text

__all__ = ["DemoArchive", "write_sentinel2_archive"]

EPSG, ULX, ULY = 32606, 400000, 7624000
"""North of Toolik Lake, Alaska: corner of the eastern tile's part, where both tiles of the archive have ground."""

OVERLAP = 100
"""Pixels of 20 m that the tiles have in common."""

_SPECTRA = {
    "vegetation": {"B02": 300, "B03": 600, "B04": 450, "B8A": 3200},
    "bare": {"B02": 900, "B03": 1200, "B04": 1600, "B8A": 2300},
    "water": {"B02": 350, "B03": 250, "B04": 60, "B8A": -40},
}
"""Reflectance times 10000; clear water is negative in the near infrared after atmospheric correction."""


@dataclass(frozen=True)
class DemoArchive:
    """What was written."""

    root: Path
    grid: Path
    """Grid of cells of 0.05 degrees over it."""
    bbox: tuple[float, float, float, float]
    start: datetime
    end: datetime
    products: tuple[str, ...]
    corrupt: str
    """The product with the file that is cut short."""

    def options(self) -> dict[str, Any]:
        """Return the options of a build of all of it."""
        return {
            "safe_dir": self.root,
            "grid_csv": self.grid,
            "bbox": list(self.bbox),
            "start": self.start,
            "end": self.end,
            "bands": ["B02", "B03", "B04", "B8A"],
            "products": ["cog", "zarr"],
        }


def write_sentinel2_archive(root: str | Path, *, side: int = 500, seed: int = 0) -> DemoArchive:
    """Write the archive.

    Parameters
    ----------
    root
        Folder of the SAFE products and the grid.
    side
        Pixels of 20 m along a tile.
    seed
        Of clouds and noise.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    wide = 2 * side - OVERLAP
    kinds, relief = _landscape(side, wide)
    written: list[SafeSpec] = []
    first = datetime(2021, 6, 4, 21, 35, 31)
    for number, baseline in enumerate(("03.01", "03.01", "04.00", "05.10", "05.10", "05.10")):
        # two summers: the first processed before baseline 04.00, the second after
        when = first + timedelta(days=5 * number if baseline < "04.00" else 365 + 5 * number)
        scl = _clouds(kinds, rng, bank=number == 3)
        bands = {band: _band(band, kinds, relief, scl, rng) for band in _SPECTRA["water"]}
        for tile, left in (("06WUB", 0), ("06WVB", side - OVERLAP)):
            view = slice(left, left + side)
            spec = _spec(tile, left, when, baseline, scl[:, view], {b: v[:, view] for b, v in bands.items()})
            if number == 4 and left == 0:
                written += _halves(spec, root, side)
            else:
                write_safe(spec, root, block=256)
                written.append(spec)
    # the first scene again, as ESA reprocessed it later
    again = replace(written[0], baseline="05.00", processing_time=datetime(2023, 3, 1))
    counts = {
        k: v if k.startswith("SCL") else np.where(v > 0, v + 1000, 0).astype("u2") for k, v in again.images.items()
    }
    again = replace(again, images=counts)
    write_safe(again, root, block=256)
    written.append(again)
    corrupt = written[2]
    _cut(root / f"{corrupt.id}.SAFE" / f"{corrupt.image_path('B03_20m')}.jp2")
    bbox = _bbox(side, wide)
    write_text(root / "grid.csv", _cells(bbox))
    ids = tuple(spec.id for spec in written)
    return DemoArchive(root, root / "grid.csv", bbox, datetime(2021, 6, 1), datetime(2022, 9, 1), ids, corrupt.id)


def _landscape(height: int, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return scene classes of the ground (4 vegetation, 5 bare, 6 water) and a brightness that follows the relief."""
    y, x = np.mgrid[:height, :width].astype("f4")
    hills = np.sin(x / 61 + 0.7 * np.sin(y / 83)) * np.cos(y / 47) + 0.4 * np.sin((x + 2 * y) / 29)
    kinds = np.full((height, width), 4, "u1")
    kinds[hills > 0.75] = 5
    river = np.abs(x - width / 2 - 60 * np.sin(y / 70)) < 5
    lakes = hills < -0.95
    kinds[river | lakes] = 6
    return kinds, (1 + 0.12 * hills).astype("f4")


def _clouds(kinds: npt.NDArray[np.uint8], rng: np.random.Generator, *, bank: bool) -> npt.NDArray[np.uint8]:
    """Return scene classes with clouds, their shadows to the north-west, and thin cirrus round them."""
    scl = kinds.copy()
    height, width = kinds.shape
    y, x = np.mgrid[:height, :width]
    if bank:
        scl[y < height * 0.8 + 0.1 * x] = 9
        return scl
    for _ in range(6):
        row, col, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(15, height / 7)
        apart = np.hypot(y - row, x - col)
        scl[(np.hypot(y - row + 12, x - col + 18) < radius) & (scl < 8)] = 3
        scl[(apart < 1.2 * radius) & (scl < 8)] = 10
        scl[apart < radius] = 9
    return scl


def _band(
    band: str,
    kinds: npt.NDArray[np.uint8],
    relief: npt.NDArray[np.float32],
    scl: npt.NDArray[np.uint8],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Reflectance times 10000."""
    values = np.zeros(kinds.shape)
    for kind, spectrum in zip((4, 5, 6), (_SPECTRA[n] for n in ("vegetation", "bare", "water")), strict=True):
        values[kinds == kind] = spectrum[band]
    values = values * relief + rng.normal(0, 25, kinds.shape)
    values[scl == 3] *= 0.4
    values[scl == 10] += 900
    values[scl == 9] = 6500 + rng.normal(0, 300, int((scl == 9).sum()))
    return values


def _spec(
    tile: str,
    left: int,
    when: datetime,
    baseline: str,
    scl: npt.NDArray[np.uint8],
    bands: dict[str, npt.NDArray[np.float64]],
) -> SafeSpec:
    offset = 0 if baseline < "04.00" else 1000
    # zero means no data: without an offset dark pixels end at one
    images: dict[str, Any] = {f"{b}_20m": np.clip(np.rint(v) + offset, 1, 65534).astype("u2") for b, v in bands.items()}
    return SafeSpec(
        tile=tile,
        epsg=EPSG,
        ulx=ULX - 20 * (scl.shape[1] - OVERLAP) + 20 * left,
        uly=ULY,
        datatake_start=when,
        processing_time=when + timedelta(hours=7),
        baseline=baseline,
        images={**images, "SCL_20m": scl},
    )


def _halves(spec: SafeSpec, root: Path, side: int) -> list[SafeSpec]:
    """Write a tile as two products, of two datastrips that overlap by a few rows."""
    parts = []
    for number, rows in enumerate((slice(side // 2 + 8, None), slice(0, side // 2 - 8))):
        images = {k: v.copy() for k, v in spec.images.items()}
        for image in images.values():
            image[rows] = 0
        later = timedelta(seconds=11 * number)
        part = replace(
            spec,
            images=images,
            datastrip_start=spec.datatake_start + timedelta(seconds=4) + later,
            processing_time=spec.processing_time + later,
        )
        write_safe(part, root, block=256)
        parts.append(part)
    return parts


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _bbox(height: int, width: int) -> tuple[float, float, float, float]:
    """Bounds in degrees of what lies well within the tiles."""
    to_degrees = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True)
    inner = 400
    west = ULX - 20 * (height - OVERLAP)
    return to_degrees.transform_bounds(west + inner, ULY - 20 * height + inner, west + 20 * width - inner, ULY - inner)  # type: ignore[no-any-return,unused-ignore]


def _cells(bbox: tuple[float, float, float, float]) -> str:
    """Return a grid file in the predecessor's columns: cells of 0.05 degrees from the northern row on."""
    west, south = (float(np.floor(b * 20) / 20) for b in bbox[:2])
    east, north = (round(float(np.floor(b * 20) / 20) + 0.05, 2) for b in bbox[2:])
    lines = ["tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax,row,col"]
    for row, col in np.ndindex(round((north - south) / 0.05), round((east - west) / 0.05)):
        bounds = west + col * 0.05, north - (row + 1) * 0.05, west + (col + 1) * 0.05, north - row * 0.05
        names = f"Q005_O{_place(west, north)}_R{row:03d}_C{col:04d}", f"Q005_{_place(*bounds[:2])}"
        lines.append(",".join(map(str, (*names, *bounds, row, col))))
    return "\n".join(lines) + "\n"


def _place(lon: float, lat: float) -> str:
    """Name a corner, in Alaska as the archive is: ``W149_75_N68_50``."""
    return f"W{-lon:.2f}_N{lat:.2f}".replace(".", "_")
