"""``python -m tests.benchmarks.differences DATA``: what earlier pipelines' rules change, cause by cause, as a page.

DATA is a folder of sample data: ``sentinel2/exeter_20m_2024`` and ``abi_fulldisk_l2`` in it, ``abi`` besides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.warp import Resampling, reproject

from tests.benchmarks.earlier_rules import CompositeRule, Scene, TileRule, clear, composite, tile

F = npt.NDArray[np.float64]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "differences.md"
STEP = 0.000179663056824
CELL = (-3.53, 50.70, -3.49, 50.73)
BANDS = ("B02", "B03", "B04", "B08")
EPSG, ULX, ULY, SIDE = 32630, 460000, 5623000, 400

INTRO = """\
# S2SR's rule and ours, SatVision-Pix4D's and ours

What follows is made by `python -m tests.benchmarks.differences DATA`: both rules are written anew in
`tests/benchmarks/earlier_rules.py`, with NumPy, SciPy and pyproj alone, from what the two pipelines say and do, and one
cause is turned on at a time. In each field: the median and the 95th percentile of the difference to ours, regardless of
its sign, over the pixels that both know, the share of those that differ, and that of pixels that one alone knows.
"""

COMPOSITES = """\

## Medians of Sentinel-2

Five dates of 2024 near Exeter at 20 m, on S2SR's lattice of degrees; {pixels:,} pixels; units are numbers, a ten
thousandth of reflectance each. In these scenes nothing is below 0, and no count of 0 is classified as ground, so two
causes are shown on changed scenes as well: darkened until a tenth of the observations is below 0, as over dark water,
and with a gap of 40 pixels in one date. `--preset s2sr` turns on resampling once, negatives and the corner. Pixels that
S2SR resampled twice are those of the lattice, and are told to lie where the cell's corner has them, up to one aside.

"""

TILES = """\

## Tiles of ABI

On the grid of 1 km, with corners that are odd both ways. Reflectance is without unit, brightness temperature in K. No
day scan of 0.5 km is among the sample data: bands of 1 km stand for it, taken for twice as fine, which is what the rule
does to an image and not to that band. Windows of time differ too, the first file of an hour against the nearest start
within a tolerance: that changes which scan a frame is and no pixel of one, so it has no row here.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.differences", description=str(__doc__))
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    options.output.write_text(page(options.data))
    return 0


def page(data: Path) -> str:
    """Return the page."""
    rows, pixels = composites(data / "sentinel2" / "exeter_20m_2024")
    return (
        INTRO
        + COMPOSITES.format(pixels=pixels)
        + _table(["Cause", *BANDS], rows)
        + TILES
        + _table(["Cause", "Band", "Scan", "Difference"], tiles(data))
    )


def composites(folder: Path) -> tuple[list[list[str]], int]:
    """Rows of the table of medians, and pixels of the cell."""
    causes = {
        "resampling: nearest, once": CompositeRule(resampling="nearest"),
        "resampling: nearest, twice": CompositeRule(resampling="nearest twice", own_corner=True),
        "negatives at 0": CompositeRule(negatives_at_zero=True),
        "negatives at 0, scenes darkened": CompositeRule(negatives_at_zero=True),
        "DN 0 is a value": CompositeRule(zero_is_a_value=True),
        "DN 0 is a value, one date with a gap": CompositeRule(zero_is_a_value=True),
        "duplicates vote: one date given in two baselines": CompositeRule(duplicates_vote=True),
        "origin at the cell's corner": CompositeRule(own_corner=True, resampling="nearest"),
        "all of them": CompositeRule("nearest twice", True, True, True, True),
    }
    found: dict[str, list[str]] = {cause: [] for cause in causes}
    pixels = 0
    for band in BANDS:
        scenes = list(_scenes(folder, band))
        ours, _, _ = composite(scenes, CELL, STEP, CompositeRule())
        nearest, _, _ = composite(scenes, CELL, STEP, CompositeRule(resampling="nearest"))
        pixels = ours.size
        for cause, rule in causes.items():
            if cause.endswith(("darkened", "gap")):
                changed = _darkened(scenes) if cause.endswith("darkened") else _with_gap(scenes)
                pair = [composite(changed, CELL, STEP, r)[0] for r in (rule, CompositeRule())]
                found[cause].append(_told(*pair, "{:.1f}"))
                continue
            theirs, _, _ = composite(scenes, CELL, STEP, rule)
            # the corner alone: nearest on both sides, at the same index of the cell
            base = nearest if cause.startswith("origin") else ours
            rows, cols = (slice(min(a, b)) for a, b in zip(theirs.shape, base.shape, strict=True))
            found[cause].append(_told(theirs[rows, cols], base[rows, cols], "{:.1f}"))
    return [[cause, *cells] for cause, cells in found.items()], pixels


def _darkened(scenes: Sequence[Scene]) -> list[Scene]:
    """As over dark water: so much darker that a tenth of the observations are below 0."""
    seen = np.concatenate([(s.counts.astype("i8") + s.offset)[clear(s)] for s in scenes])
    less = int(np.percentile(seen, 10))
    return [
        replace(
            s,
            counts=np.where(s.counts > 0, np.maximum(s.counts.astype("i8") - less - s.offset - 1000, 1), 0),
            offset=-1000,
        )
        for s in scenes
    ]


def _with_gap(scenes: Sequence[Scene]) -> list[Scene]:
    """As where a detector failed: a stripe of 40 pixels of the third date has no data, and is classified as ground."""
    counts = scenes[2].counts.copy()
    counts[:, 180:220] = 0
    return [*scenes[:2], replace(scenes[2], counts=counts), *scenes[3:]]


def _scenes(folder: Path, band: str) -> Iterator[Scene]:
    """Real pixels on one UTM grid; the first date a second time, as an older processing of it."""
    for number, path in enumerate(sorted(folder.glob("*.tif"))):
        images = {}
        with rasterio.open(path) as file:
            for index, name in enumerate(file.descriptions, 1):
                if name in (band, "SCL"):
                    images[name] = np.zeros((SIDE, SIDE), "u2")
                    reproject(
                        rasterio.band(file, index), images[name], dst_crs=f"EPSG:{EPSG}",
                        dst_transform=rasterio.Affine(20, 0, ULX, 0, -20, ULY), resampling=Resampling.nearest,
                    )  # fmt: skip
        scene = Scene(path.stem, images[band], images["SCL"], -1000, EPSG, ULX, ULY)
        yield scene
        if number == 0:
            yield replace(scene, counts=np.where(images[band] > 0, np.maximum(images[band], 1001) - 1000, 0), offset=0)


def tiles(data: Path) -> Iterator[list[str]]:
    """Rows of the table of tiles."""
    day = sorted((data / "abi" / "noaa-goes17" / "ABI-L1b-RadM" / "2019" / "300" / "20").glob("*.nc"))
    disk = sorted((data / "abi_fulldisk_l2").glob("*C07*.nc"))
    for path in day:
        band = int(path.name.split("-M")[-1].split("C")[1][:2])
        if band in (1, 3, 5):
            image, quality = _opened(path)
            rule = TileRule(every_second=True)
            yield [
                "0.5 km: every second pixel, not the mean of four", f"C{band:02d} for C02", "mesoscale, day",
                _compared(image, quality, 0.5, [(11, 21)], 440, rule, "{:.4f}"),
            ]  # fmt: skip
    scans = [(p, "mesoscale, day", [(101, 201)], 700) for p in day if "C07" in p.name or "C13" in p.name]
    places = [(r, c) for r in (2501, 4001, 5501, 7001) for c in (2501, 4001, 5501, 7001)]
    scans += [(p, "full disk, night", places, 1024) for p in disk]
    for path, what, corners, side in scans:
        image, quality = _opened(path)
        name = "C" + path.name.split("-M")[-1].split("C")[1][:2]
        for cause, rule in (
            ("odd corner: rounded to a pixel of 2 km", TileRule(rounded_corner=True)),
            ("quality flags unseen", TileRule(quality_unseen=True)),
        ):
            yield [cause, name, what, _compared(image, quality, 2, corners, side, rule, "{:.2f}")]


def _opened(path: Path) -> tuple[F, npt.NDArray[np.integer[Any]]]:
    """Reflectance or brightness temperature, by the file's own coefficients; and the quality flags."""
    with h5py.File(path) as file:
        name = "CMI" if "CMI" in file else "Rad"
        stored = file[name]
        counts = stored[:].view("u2") if stored.dtype.kind == "i" else stored[:]
        fill = int(np.asarray(stored.attrs["_FillValue"]).view("u2").ravel()[0])
        values = np.where(counts == fill, np.nan, counts * float(stored.attrs["scale_factor"][0]))
        values += float(stored.attrs["add_offset"][0])
        flags = file["DQF"][:].view("u1")
        if name == "CMI":
            return values, flags
        if int(file["band_id"][0]) <= 6:
            return values * float(file["kappa0"][()]), flags
        fk1, fk2, bc1, bc2 = (float(file[f"planck_{n}"][()]) for n in ("fk1", "fk2", "bc1", "bc2"))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (fk2 / np.log(fk1 / np.where(values > 0, values, np.nan) + 1) - bc1) / bc2, flags


def _compared(
    image: F, quality: npt.NDArray[np.integer[Any]], kilometres: float, corners: Sequence[tuple[int, int]], side: int,
    rule: TileRule, form: str,
) -> str:  # fmt: skip
    both = [[tile(image, quality, kilometres, c, side, r).ravel() for c in corners] for r in (rule, TileRule())]
    theirs, ours = (np.concatenate(found) for found in both)
    return _told(theirs, ours, form)


def _told(theirs: F, ours: F, form: str) -> str:
    """Median and 95th percentile, the share that differs, and what one alone knows."""
    apart = np.abs(theirs - ours)
    known = apart[np.isfinite(apart)]
    alone = 100 * (np.isfinite(theirs) != np.isfinite(ours)).mean()
    text = " / ".join(form.format(v) for v in np.percentile(known, [50, 95]))
    differs = f"{text} ({100 * (known > 0).mean():.1f} %)"
    return f"{differs}, {alone:.2g} % one's alone" if alone else differs


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
