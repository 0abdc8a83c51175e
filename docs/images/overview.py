"""Draws overview.jpg from real pixels: ``python docs/images/overview.py DATA``, with Chromium at hand.

DATA is a folder of sample data. What is read of it:

- ``abi/noaa-goes17/ABI-L1b-RadM/2019/300/20``: OR_ABI-L1b-RadM1-M6C01, C03, C05, C07, C08 and C13 of GOES-17 at
  s20193002000275, as NOAA publishes them in ``s3://noaa-goes17`` (public domain; NOAA GOES-R Series Program);
- ``sentinel2/exeter_20m_2024/*.tif``: bands B02, B03, B04 and SCL of Sentinel-2 L2A at 20 m near Exeter on five
  days from June to August 2024 (contains modified Copernicus Sentinel data 2024).

The five days are laid out as SAFE products, for that is what a build of composites reads.
"""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import xarray as xr
from PIL import Image
from playwright.sync_api import sync_playwright
from rasterio.warp import Resampling, reproject

import stratacube
from cube.sentinel2.grid import make_grid, write_grid
from cube.testing import SafeSpec, write_safe
from stratacube import preview
from stratacube.page import Picture
from stratacube.page.picture import style

HERE = Path(__file__).resolve().parent
SCAN = "abi/noaa-goes17/ABI-L1b-RadM/2019/300"
LEFT, TOP, SIDE = 460400, 5622180, 336
"""Corner of the five days' common ground in UTM 30N, metres, and its side in pixels of 20 m."""
MADE = datetime(2024, 12, 1)
SUMMER = ("2024-06-01", "2024-08-31")
WIDTH = 1240
PAGE = """<!doctype html><meta charset="utf-8"><style>{css}
body{{width:{width}px;padding-bottom:10px}} .picture{{display:block}} p{{max-width:none;margin:0;padding:14px 16px 0}}
.row{{display:grid;gap:12px;padding:10px 16px 0}} span{{color:var(--soft)}} .picture{{overflow:visible}}
.abi{{grid-template-columns:2.1fr 1fr 1fr}} .abi>:first-child{{grid-row:span 2}}
.abi>:nth-child(n+2) text{{font-size:24px;transform:translateY(7px)}}
.abi>:nth-child(n+2) text.strong{{transform:translateY(-4px)}}
.days{{grid-template-columns:repeat(6,1fr)}} .days text{{font-size:30px}}
.days text.strong{{transform:translateY(-6px)}}
.days .picture{{margin-top:8px}} .days .axis,.days .axis+text{{display:none}}
</style><p><b>GOES-17 ABI</b>
<span>the Kincade Fire in California, 27 October 2019, 20:00 UTC: one scan, opened lazily</span></p>
<div class="row abi">{abi}</div>
<p><b>Sentinel-2</b> <span>near Exeter, summer 2024, 20 m: five days, and the composite of their clear pixels</span></p>
<div class="row days">{sentinel2}</div>"""


def abi(data: Path) -> list[Picture]:
    """Fire, smoke, water vapour and cloud tops of one scan."""
    tree = stratacube.open_abi(data / SCAN, bands=["C01", "C03", "C05", "C07", "C08", "C13"])
    fine = tree["1km"]["reflectance"].isel(time=0)
    heat = tree["2km"]["brightness_temperature"].isel(time=0)
    colour = colours(fine.sel(band=["C05", "C03", "C01"]), "band", 0.02, 0.75)
    fire, hot = dict(y=slice(250, 550), x=slice(130, 430)), dict(y=slice(125, 275), x=slice(65, 215))
    seen = heat.sel(band="C07").isel(hot)
    return [
        preview.quicklook(colour, title="Bands 1.6, 0.87 and 0.47 µm"),
        preview.quicklook(colour.isel(fire), title="Smoke, 1 km pixels"),
        preview.quicklook(seen, low=280, high=340, colours="viridis", title="Fire, 3.9 µm"),
        preview.quicklook(heat.sel(band="C08"), title="Water vapour, 6.2 µm"),
        preview.quicklook(heat.sel(band="C13"), title="Cloud tops, 10.3 µm"),
    ]


def colours(image: xr.DataArray, bands: str, dark: float, bright: float) -> xr.DataArray:
    """Levels from 0 to 1 of reflectance, as eyes see them."""
    return (
        (((image - dark) / (bright - dark)).clip(0, 1) ** (1 / 2.0)).transpose(bands, "y", "x").rename({bands: "rgb"})
    )


def sentinel2(data: Path, folder: Path) -> list[Picture]:
    """Single days, and their median."""
    days = sorted((data / "sentinel2/exeter_20m_2024").glob("*.tif"))
    pictures = []
    for path in days:
        images = on_one_grid(path)
        when = datetime.strptime(path.stem[4:23], "%Y-%m-%d_%H-%M-%S")
        spec = SafeSpec(
            tile="30UVB", epsg=32630, ulx=LEFT, uly=TOP, datatake_start=when, processing_time=MADE, images=images
        )
        write_safe(spec, folder / "products")
        counts = xr.DataArray([images[f"{b}_20m"] for b in ("B04", "B03", "B02")], dims=("band", "y", "x"))
        pictures.append(
            preview.quicklook(visible(counts.where(counts > 0) / 1e4 - 0.1, "band"), title=f"{when.day} {when:%B}")
        )
    grid, side = folder / "grid.csv", SIDE * 20
    write_grid(make_grid(side, (LEFT, TOP - side, LEFT + side, TOP), "EPSG:32630"), grid)
    stratacube.build(
        "sentinel2", work_dir=folder / "build", safe_dir=folder / "products", start=SUMMER[0], end=SUMMER[1],
        grid_csv=grid, bands=["B02", "B03", "B04"], products=["zarr"], workers=1,
    )  # fmt: skip
    composites = stratacube.open_composites(folder / "build")
    median = composites[["B04", "B03", "B02"]].to_dataarray("band")
    return [*pictures, preview.quicklook(visible(median, "band"), title="Median")]


def visible(reflectance: xr.DataArray, bands: str) -> xr.DataArray:
    """Natural colour of land."""
    return colours(reflectance, bands, 0.0, 0.22)


def on_one_grid(path: Path) -> dict[str, np.ndarray]:
    """Bands of one day, each on the common grid."""
    images = {}
    transform = rasterio.Affine(20, 0, LEFT, 0, -20, TOP)
    with rasterio.open(path) as file:
        for index, name in enumerate(file.descriptions, 1):
            image = np.zeros((SIDE, SIDE), "u1" if name == "SCL" else "u2")
            near = Resampling.nearest
            reproject(rasterio.band(file, index), image, dst_crs="EPSG:32630", dst_transform=transform, resampling=near)
            images[f"{name}_20m"] = image
    return images


def shot(page: str) -> bytes:
    """Return a picture of a page as PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        sheet = browser.new_page(viewport={"width": WIDTH, "height": 400}, color_scheme="dark")
        sheet.set_content(page)
        image = sheet.screenshot(full_page=True)
        browser.close()
    return image


def main() -> None:
    """Draw it beside this file."""
    data = Path(sys.argv[1])
    with TemporaryDirectory() as folder:
        rows = {"abi": abi(data), "sentinel2": sentinel2(data, Path(folder))}
    markup = {name: "".join(p.markup() for p in pictures) for name, pictures in rows.items()}
    page = PAGE.format(css=style("page.css") + style("picture.css"), width=WIDTH, **markup)
    Image.open(BytesIO(shot(page))).convert("RGB").save(HERE / "overview.jpg", quality=84, optimize=True)


if __name__ == "__main__":
    main()
