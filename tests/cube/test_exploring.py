"""Pictures of arrays and of builds."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import xarray as xr
from PIL import Image

import stratacube
from cube.job.ledger import Entry, Ledger
from cube.job.pictures import small, throughput
from cube.mixing import rgb
from cube.sentinel2.drawing import mosaic, observations
from cube.sentinel2.grid import Cell
from cube.sentinel2.lattice import Window
from cube.sentinel2.plan import PlannedCell
from stratacube import preview
from stratacube.errors import UsageError
from stratacube.page import Scale, coloured


def images_of(picture) -> list[np.ndarray]:
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', picture.drawing)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def utm(values: np.ndarray, pixel: float = 20.0, **attrs: str) -> xr.DataArray:
    rows, columns = values.shape[-2:]
    coords = {"y": 7_600_000.0 - pixel * np.arange(rows), "x": 500_000.0 + pixel * np.arange(columns)}
    mapping = xr.Variable((), 0, {"crs_wkt": pyproj.CRS(32606).to_wkt()})
    dims = ("time", "y", "x")[-values.ndim :]
    return xr.DataArray(values, {**coords, "spatial_ref": mapping}, dims, "B", {"grid_mapping": "spatial_ref", **attrs})


def test_colours_are_where_values_are():
    values = np.array([[0.0, 5.0, 10.0, np.nan, 99.0]])
    pixels = coloured(values, Scale(0.0, 10.0))
    assert pixels[0, [0, 2]].tolist() == [[68, 1, 84, 255], [253, 231, 37, 255]]
    assert pixels[0, 3, 3] == 0
    assert pixels[0, 4].tolist() == pixels[0, 2].tolist()
    assert coloured(values, Scale(0.0, 10.0, colours="cold_white"))[0, 0].tolist() == [255, 255, 255, 255]


def test_quicklook_has_pixels_a_colour_bar_and_a_scale_bar_of_the_ground():
    values = np.linspace(200, 300, 40 * 50, dtype="f4").reshape(40, 50)
    values[0, 0] = np.nan
    picture = preview.quicklook(utm(values, units="K", long_name="Warmth"), low=200, high=300)
    image, ramp = images_of(picture)
    assert image.shape == (40, 50, 4)
    assert image[0, 0, 3] == 0
    assert image[-1, -1].tolist() == [0, 0, 0, 255]  # warm is dark
    assert ramp[0, 0, :3].tolist() == [255, 255, 255]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.drawing)
    assert texts[0] == "Warmth"
    assert {"200", "250", "300", "K"} <= {*texts}
    wide = float(
        re.search(r'<image href="[^"]+" style="[^"]+" x="[^"]+" y="[^"]+" width="([\d.]+)"', picture.drawing)[1]
    )
    bar = float(re.search(r"h([\d.]+)v-8", picture.drawing)[1])
    told = next(t for t in texts if t.endswith(" m"))
    # 50 pixels of 20 m in the middle of a zone, which UTM draws at 0.9996 of their size
    assert float(told[:-2]) / bar == pytest.approx(1000 / 0.9996 / wide, rel=2e-3)


def test_colour_images_are_shown_as_they_are():
    values = np.zeros((4, 5, 3), "f4")
    values[..., 0] = 1.0
    values[0, 0] = np.nan
    for dims in (("y", "x", "rgb"), ("rgb", "y", "x")):
        image = xr.DataArray(values, dims=("y", "x", "rgb")).transpose(*dims)
        (pixels,) = images_of(preview.quicklook(image))
        assert pixels.shape == (4, 5, 4)
        assert pixels[1, 1].tolist() == [255, 0, 0, 255]
        assert pixels[0, 0, 3] == 0
    with pytest.raises(UsageError, match=r"the dimensions time, y, x, and not y and x alone"):
        preview.quicklook(utm(np.full((3, 6, 7), 280.0, "f4"), units="K"))


def test_mixed_pictures_have_a_scale_bar_of_the_ground():
    red = utm(np.full((5, 6), 0.1, "f4"))
    picture = preview.quicklook(rgb(xr.Dataset({"B04": red, "B03": red, "B02": red})))
    assert images_of(picture)[0].shape == (5, 6, 4)
    assert "km" in picture.drawing or " m<" in picture.drawing


def test_strip_and_valid_share():
    values = np.arange(5 * 6 * 7, dtype="f4").reshape(5, 6, 7)
    values[:2, 0, 0] = np.nan
    images = utm(values).assign_coords(time=pd.date_range("2020-07-01T16:00", periods=5, freq="10min"))
    picture = preview.strip(images, most=3)
    assert len(images_of(picture)) == 4  # three steps and the colour bar
    assert [t for t in re.findall(r">(07-01 [\d:]+)<", picture.drawing)] == [
        "07-01 16:00:00", "07-01 16:20:00", "07-01 16:40:00"
    ]  # fmt: skip
    share = images_of(preview.valid_share(images))[0]
    assert share[0, 0].tolist() == coloured(np.array([[60.0]]), Scale(0.0, 100.0))[0, 0].tolist()
    assert share[1, 1].tolist() == [253, 231, 37, 255]


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(UsageError, match=r"`image` has the dimensions time, y, x, and not y and x alone"):
        preview.quicklook(utm(np.zeros((5, 6, 7))))
    with pytest.raises(UsageError, match=r"`images` has the dimensions y, x"):
        preview.strip(utm(np.zeros((6, 7))))
    with pytest.raises(UsageError, match=r"`low` is 3 and `high` 3"):
        preview.quicklook(utm(np.zeros((6, 7))), low=3, high=3)
    with pytest.raises(UsageError, match=r"`colours` is 'foo', which is not one of viridis, "):
        preview.quicklook(utm(np.zeros((6, 7))), colours="foo")
    with pytest.raises(UsageError, match=r"`image` has no pixels \(y 0, x 7\)"):
        preview.quicklook(utm(np.zeros((6, 7))).isel(y=slice(0)))
    with pytest.raises(UsageError, match=r"recipe 'ndvi' has no option `sun`; leave it out"):
        rgb(xr.Dataset({"B04": utm(np.zeros((6, 7)))}), "ndvi", sun=True)
    with pytest.raises(UsageError, match=r"holds no plan.parquet; give the folder of a build"):
        preview.footprints("nowhere")
    with pytest.raises(UsageError, match=r"holds no ledger.jsonl"):
        preview.throughput("nowhere")


def test_planned_build_is_drawn(tmp_path: Path):
    rows = [("a", 10.0, 50.0, "random", "train"), ("b", 12.0, 51.0, "snow", "val")]
    pd.DataFrame(rows, columns=["tile_id", "longitude", "latitude", "stratum", "split"]).to_parquet(
        tmp_path / "plan.parquet"
    )
    picture = preview.footprints(tmp_path)
    assert "random  1" in picture.drawing
    assert "val  1" in picture.drawing
    table = "scan,platform,sector,start,C01,status\n" + "".join(
        f"{scan},p,s,2020-07-01 {hour:02d}:00:00,True,{status}\n"
        for scan, hour, status in (("x", 3, "complete"), ("y", 3, "missing C01"), ("", 4, "no scan"))
    )
    (tmp_path / "completeness.csv").write_text(table)
    titles = re.findall(r"<title>([^<]*)</title>", preview.calendar(tmp_path).drawing)
    assert titles == ["2020-07-01, utc hour 3: 1 of 2 whole"]


def test_run_is_drawn_without_its_pauses(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for n, ended in enumerate([1000.0, 1010.0, 90_010.0, 90_020.0]):  # a day between two runs
        figures = {"seconds": 10.0, "tiles": 4.0, "ended": ended}
        ledger.record(Entry(f"shard-{n:06d}", "done", figures=figures))
    assert "16 in 40.0 seconds" in preview.throughput(tmp_path).alt
    assert throughput([Entry("shard-000000", "done", figures={"seconds": 1.0})], "Tiles") is None


def cells(tmp_path: Path, names: str) -> tuple[list[PlannedCell], dict[str, Path], dict[str, Path]]:
    """Cells of 20 x 30 pixels in a row, whose pictures are red, green and blue, and their counts 1, 2 and 0."""
    planned, pictures, counts = [], {}, {}
    for n, name in enumerate(names):
        planned.append(PlannedCell(Cell(name, 0, 0, 1, 1), Window(5, 100 + 30 * n, 20, 30), ()))
        pictures[name] = tmp_path / f"{name}.png"
        colour = [(255, 0, 0), (0, 255, 0), (0, 0, 255)][n]
        Image.new("RGB", (15, 10), colour).save(pictures[name])
        counts[name] = tmp_path / f"{name}.tif"
        profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "width": 30, "height": 20, "nodata": 0}
        with rasterio.open(counts[name], "w", **profile) as file:
            file.write(np.full((20, 30), [1, 2, 0][n], "u2"), 1)
    return planned, pictures, counts


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_mosaic_and_observations_lie_as_the_lattice_says(tmp_path: Path):
    planned, pictures, counts = cells(tmp_path, "abc")
    shown = mosaic(planned, pictures)
    image = np.asarray(Image.open(io.BytesIO(shown.image)))
    assert image.shape == (20, 90, 4)
    assert image[10, [5, 35, 65], :3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert image[[0, 19], [0, 89], 3].tolist() == [255, 255]  # to the edges
    assert mosaic(planned[:1], pictures) is None
    counted, _ = images_of(observations(planned, counts))
    assert counted.shape == (20, 90, 4)
    assert counted[10, 35].tolist() == [253, 231, 37, 255]
    assert counted[10, 65, 3] == 0
    assert observations(planned, {}) is None


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_cells_that_are_no_rectangles_leave_each_other_be_in_pictures(tmp_path: Path):
    """The windows of two triangles are one and the same; each knows its own half."""
    planned, pictures, counts = cells(tmp_path, "ab")
    planned = [replace(p, window=Window(0, 0, 20, 30)) for p in planned]
    west = np.tile(np.arange(30) < 15, (20, 1))
    for name, mine in (("a", west), ("b", ~west)):
        colour = (255, 0, 0, 255) if name == "a" else (0, 255, 0, 255)
        Image.fromarray(np.where(mine[..., None], colour, 0).astype("u1")).save(pictures[name])
        with rasterio.open(counts[name], "r+") as file:
            file.write(np.where(mine, 1 if name == "a" else 2, 0).astype("u2"), 1)
    for order in (planned, planned[::-1]):
        image = np.asarray(Image.open(io.BytesIO(mosaic(order, pictures).image)))
        assert (image[west] == [255, 0, 0, 255]).all()
        assert (image[~west] == [0, 255, 0, 255]).all()
        counted, _ = images_of(observations(order, counts))
        assert counted[..., 3].all()
        assert (counted[~west] == [253, 231, 37, 255]).all()
        assert len(np.unique(counted[west], axis=0)) == 1
        assert (counted[west] != counted[~west]).any()


def test_small_copy_is_dark_where_nothing_is_known(tmp_path: Path):
    image = Image.new("RGBA", (400, 200), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    copy = Image.open(io.BytesIO(small(tmp_path / "a.png", "a").image))
    assert copy.size == (176, 88)
    assert max(copy.getpixel((10, 10))) < 30


def test_names_are_offered_and_loaded_late():
    assert {"quicklook", "strip", "footprints"} <= {*dir(preview)}
    assert stratacube.preview.quicklook is preview.quicklook
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        preview.nothing  # noqa: B018
