"""Areas of JPEG2000 files decoded alone, against GDAL's whole tiles."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.windows import Window as RasterWindow

from catalog.sentinel2.items import Asset
from catalog.sentinel2.safe import read_safe
from cube.sentinel2 import jpeg2000
from cube.sentinel2.acquisitions import group_acquisitions
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.jpeg2000 import can_decode_areas, decode_area
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.scenes import SceneTask, process_scene
from cube.testing.sentinel2.safe import LAYOUTS
from stratacube.errors import SourceError
from tests.sentinel2.scenery import EPSG, FIRST, MASKED, SIDE, ULX, ULY, make_scene

AREAS = [
    Window(0, 0, 1, 1),
    Window(5, 190, 3, 4),
    Window(191, 63, 140, 66),
    Window(0, 0, 450, 400),
    Window(449, 399, 1, 1),
]


def _write(path: Path, dtype: str = "uint16", **options: Any) -> np.ndarray:
    """An image of 450 x 400: texture, the whole range of the type, and flat ground."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (450, 400), dtype, endpoint=True)
    image[100:300, 50:250] = 1500 % np.iinfo(dtype).max
    image[200:, 200:] //= 16
    defaults = {"QUALITY": 100, "REVERSIBLE": "YES", "tiled": True, "blockxsize": 192, "blockysize": 192}
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        height=450,
        width=400,
        count=1,
        dtype=dtype,
        crs=f"EPSG:{EPSG}",
        transform=Affine(20, 0, ULX, 0, -20, ULY),
        **{**defaults, **options},
    ) as file:
        file.write(image, 1)
    return image


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("pixel", sorted(LAYOUTS))
def test_an_area_has_the_bits_of_the_whole(tmp_path: Path, pixel: int, dtype: str) -> None:
    _, precinct, code_block = LAYOUTS[pixel]
    path = tmp_path / "image.jp2"
    precincts = ",".join(5 * [f"{{{precinct},{precinct}}}"])
    options = {"RESOLUTIONS": 5, "PRECINCTS": precincts, "CODEBLOCK_WIDTH": code_block, "CODEBLOCK_HEIGHT": code_block}
    image = _write(path, dtype, **options)
    assert can_decode_areas(path)
    for area in AREAS:
        found = decode_area(path, area, dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, image[area.row : area.end_row, area.col : area.end_col])


def test_an_area_of_esas_own_file_has_gdals_bits(data_folder: Path) -> None:
    folder = data_folder / "sentinel2" / "native_jp2_60m"
    paths = sorted(folder.glob("*.jp2"))
    assert len(paths) == 4
    for path in paths:
        assert can_decode_areas(path)
        with rasterio.open(path) as file:
            for area in (Window(0, 0, 300, 300), Window(700, 811, 97, 333), Window(1800, 1700, 30, 130)):
                place = RasterWindow(area.col, area.row, area.width, area.height)
                np.testing.assert_array_equal(decode_area(path, area, file.dtypes[0]), file.read(1, window=place))


@pytest.mark.parametrize(
    "options", [{"REVERSIBLE": "NO", "QUALITY": 60}, {"CODEC": "J2K"}], ids=["lossy", "bare codestream"]
)
def test_other_kinds_of_files_are_left_to_gdal(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "image.jp2"
    _write(path, **options)
    assert not can_decode_areas(path)
    if "CODEC" not in options:  # a bare codestream has no place on Earth
        with BlockReader(Asset(href=str(path)), Decoded()) as reader, rasterio.open(path) as file:
            reader.expect(Window(10, 10, 50, 60))
            found = reader.read(Window(10, 10, 50, 60))
            np.testing.assert_array_equal(found, file.read(1)[10:60, 10:70])
            assert reader.decoded.pixels == 192 * 192


def test_a_palette_is_left_to_gdal(tmp_path: Path) -> None:
    """OpenJPEG would look the colours up; counts are wanted."""
    image = np.arange(40000, dtype="u1").reshape(200, 200)
    place = {"crs": f"EPSG:{EPSG}", "transform": Affine(20, 0, ULX, 0, -20, ULY)}
    profile = {"height": 200, "width": 200, "count": 1, "dtype": "uint8", **place}
    with rasterio.open(tmp_path / "image.tif", "w", driver="GTiff", **profile) as file:
        file.write(image, 1)
        file.write_colormap(1, {i: (255 - i, i, i // 2, 255) for i in range(256)})
    path = tmp_path / "image.jp2"
    rasterio.shutil.copy(tmp_path / "image.tif", path, driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    with BlockReader(Asset(href=str(path)), Decoded()) as reader:
        reader.expect(Window(90, 90, 20, 20))
        np.testing.assert_array_equal(reader.read(Window(90, 90, 20, 20)), image[90:110, 90:110])


@pytest.mark.slow
def test_decoding_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image.jp2"
    _write(path)
    decode_area(path, AREAS[0], "u2")
    tracemalloc.start()
    try:
        for side in range(2, 192):
            decode_area(path, Window(side, side, side, side + 1), "u2")
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image.jp2"
    _write(path)
    content, first, last = path.read_bytes(), Window(0, 0, 100, 100), Window(400, 300, 20, 20)
    tile = content.rindex(b"\xff\x90\x00\x0a")  # the last tile's header
    path.write_bytes(content[:tile] + bytes(12) + content[tile + 12 :])
    with pytest.raises(SourceError, match=r"\w"):
        decode_area(path, last, "u2")
    path.write_bytes(content[: len(content) // 2])
    for area in (first, last):  # a file that is cut is no good anywhere
        with pytest.raises(SourceError, match="too short"):
            decode_area(path, area, "u2")
    path.write_bytes(b"no image")
    with pytest.raises(SourceError, match="cannot be opened"):
        decode_area(path, first, "u2")


def test_only_what_is_valid_under_the_cells_is_decoded(tmp_path: Path) -> None:
    """A cell of a few pixels costs a few pixels, with the same values as whole blocks give."""
    scene = make_scene(1, FIRST)
    scene.scl[:] = 4
    scene.scl[:, 40:] = 9
    product = read_safe(scene.write(tmp_path))
    task = SceneTask(
        acquisition=group_acquisitions([product])[0],
        cells=(("a", Window(10, 20, 30, 50)), ("b", Window(35, 20, 10, 10))),
        lattice=Lattice(f"EPSG:{EPSG}", 20, 20, ULX, ULY),
        bands=(("B02", "B02_20m"), ("B03", "B03_20m")),
        method="bilinear",
        masked=MASKED,
        dilation=0,
        folder=tmp_path / "areas",
    )
    found = process_scene(task)
    # Two pixels more on each side. Of the classes rows 8 to 46 and columns 18 to 63 of the first block, 34 x 8 of the
    # next; of the bands the same rows, and the columns up to the clouds.
    assert found.pixels == 39 * 46 + 34 * 8 + 2 * 39 * 22
    assert found.pixels < SIDE * SIDE / 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg2000, "_library", lambda: None)
        assert not can_decode_areas(Path(product.assets["B02_20m"].href))
        whole = SceneTask(**{**vars(task), "folder": tmp_path / "whole"})
        assert process_scene(whole).pixels > found.pixels
    pieces = sorted(p.relative_to(task.result) for p in task.result.rglob("[0-9]*.npy"))
    assert len(pieces) == 2
    for piece in pieces:
        assert (task.result / piece).read_bytes() == (whole.result / piece).read_bytes()


def test_blocks_are_decoded_by_area_here() -> None:
    """The wheels of rasterio bring OpenJPEG; where they cease to, builds are slower, and this test says so."""
    assert jpeg2000._library() is not None
