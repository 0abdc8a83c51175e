"""One acquisition onto the lattice: what is decoded, dropped, merged."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.select import deduplicate, newest_first
from cube.sentinel2.acquisitions import group_acquisitions
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.scenes import SceneTask, piece_path, process_scene
from cube.testing import SafeSpec, write_safe
from stratacube.errors import SourceError
from tests.sentinel2.scenery import EPSG, FIRST, MASKED, SIDE, ULX, ULY, Scene, make_scene

LATTICE = Lattice(f"EPSG:{EPSG}", 20, 20, ULX, ULY)


def _task(folder: Path, products: list[Product], cells: dict[str, Window], **options: object) -> SceneTask:
    fields = {
        "acquisition": group_acquisitions(products)[0],
        "cells": tuple(cells.items()),
        "lattice": LATTICE,
        "bands": (("B02", "B02_20m"), ("B03", "B03_20m")),
        "method": "bilinear",
        "masked": MASKED,
        "dilation": 0,
        "folder": folder,
        **options,
    }
    return SceneTask(**fields)  # type: ignore[arg-type]


def _values(task: SceneTask, cell: str, window: Window) -> np.ndarray:
    out = np.full((len(task.bands), window.height, window.width), np.nan, "f4")
    for piece in window.split(768):
        path = piece_path(task.result, cell, piece)
        if path.exists():
            rows, cols = piece.within(window)
            out[:, rows, cols] = np.load(path)
    return out


def _written(scene: Scene, folder: Path) -> Product:
    return read_safe(scene.write(folder))


def test_pixels_come_through_unchanged(tmp_path: Path) -> None:
    scene = make_scene(0, FIRST)
    scene.zero = np.zeros((SIDE, SIDE), bool)
    scene.zero[50:60, 70:90] = True  # DN 0 where the classes say land
    window = Window(0, 0, SIDE, SIDE)
    task = _task(tmp_path / "out", [_written(scene, tmp_path)], {"a": window})
    process_scene(task)
    found = _values(task, "a", window)
    np.testing.assert_array_equal(found[0], scene.truth("B02"))
    np.testing.assert_array_equal(found[1], scene.truth("B03"))
    assert np.nanmin(found) < 0


def test_blocks_are_decoded_once_for_all_cells_and_not_under_clouds(tmp_path: Path) -> None:
    scene = make_scene(1, FIRST)
    scene.scl[:] = 4
    scene.scl[64:128, :] = 9  # the second row of 64-pixel blocks
    product = _written(scene, tmp_path)
    cells = {f"c{i}{j}": Window(40 * i, 48 * j, 40, 48) for i in range(6) for j in range(5)}
    result = process_scene(_task(tmp_path / "out", [product], cells))
    blocks = 4 * 4
    # all of the classes, and of two bands all but a row of blocks
    assert result.blocks == blocks + 2 * (blocks - 4)
    assert result.pixels < 3 * SIDE * SIDE
    whole = Window(0, 0, SIDE, SIDE)
    one = _task(tmp_path / "one", [product], {"a": whole})
    process_scene(one)
    many = _task(tmp_path / "out", [product], cells)
    together = _values(one, "a", whole)
    for name, window in cells.items():
        rows, cols = window.within(whole)
        np.testing.assert_array_equal(_values(many, name, window), together[:, rows, cols])


def test_fully_clouded_scene_decodes_no_band(tmp_path: Path) -> None:
    scene = make_scene(2, FIRST)
    scene.scl[:] = 9
    result = process_scene(_task(tmp_path / "out", [_written(scene, tmp_path)], {"a": Window(0, 0, SIDE, SIDE)}))
    assert result.blocks == 16
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_halves_of_a_tile_become_one(tmp_path: Path) -> None:
    north, south = make_scene(3, FIRST), make_scene(4, FIRST, strip=9)
    north.scl[130:], south.scl[:100] = 0, 0
    products = [_written(north, tmp_path), _written(south, tmp_path)]
    window = Window(0, 0, SIDE, SIDE)
    task = _task(tmp_path / "out", products, {"a": window})
    assert len(group_acquisitions(products)) == 1
    process_scene(task)
    late, early = south.truth("B02"), north.truth("B02")
    np.testing.assert_array_equal(_values(task, "a", window)[0], np.where(np.isnan(late), early, late))


def test_bands_of_three_resolutions_share_a_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    scl = np.full((SIDE, SIDE), 4, "u1")
    scl[30:60, 45:90] = 9
    images = {
        "SCL_20m": scl,
        "B08_10m": rng.integers(1001, 5000, (2 * SIDE, 2 * SIDE)).astype("u2"),
        "B02_20m": rng.integers(1001, 5000, (SIDE, SIDE)).astype("u2"),
        "B09_60m": rng.integers(1001, 5000, (SIDE // 3, SIDE // 3)).astype("u2"),
    }
    spec = SafeSpec(
        tile="06WUA", epsg=EPSG, ulx=ULX, uly=ULY, datatake_start=FIRST, processing_time=FIRST, images=images
    )
    product = read_safe(write_safe(spec, tmp_path, block=64))
    keys = (("B08", "B08_10m"), ("B02", "B02_20m"), ("B09", "B09_60m"))
    window = Window(0, 0, SIDE, SIDE)
    task = _task(tmp_path / "out", [product], {"a": window}, bands=keys, method="nearest")
    process_scene(task)
    found = _values(task, "a", window)
    masked = scl == 9
    for number in range(3):
        np.testing.assert_array_equal(np.isnan(found[number]), masked)
    clear = ~masked
    np.testing.assert_array_equal(found[1][clear], images["B02_20m"][clear] - 1000.0)
    np.testing.assert_array_equal(found[2][clear], images["B09_60m"].repeat(3, 0).repeat(3, 1)[clear] - 1000.0)
    np.testing.assert_array_equal(found[0][clear], images["B08_10m"][1::2, 1::2][clear] - 1000.0)
    averaged = _task(tmp_path / "avg", [product], {"a": window}, bands=keys[:1], method="average")
    process_scene(averaged)
    means = images["B08_10m"].reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3)) - 1000
    np.testing.assert_allclose(_values(averaged, "a", window)[0][clear], means[clear], rtol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "gone", "other size", "no image", "mismatch"])
def test_a_bad_product_drops_only_itself(tmp_path: Path, damage: str) -> None:
    good, bad = make_scene(6, FIRST), make_scene(7, FIRST, strip=9)
    products = [_written(good, tmp_path), _written(bad, tmp_path)]
    path = Path(products[1].assets["B03_20m"].href)
    content = path.read_bytes()
    assets = dict(products[1].assets)
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        path.unlink()
    elif damage == "no image":
        path.write_bytes(b"<html>404</html>")
    elif damage == "mismatch":
        text = Path(assets["product_metadata"].href)
        text.write_text(text.read_text().replace(">-1000<", ">0<"))
    if damage in ("cut", "no image"):
        assets["B03_20m"] = type(assets["B03_20m"])(**{**vars(assets["B03_20m"]), "size": None})
    elif damage == "other size":
        path.write_bytes(content + b"x")
    products[1] = Product(**{**vars(products[1]), "assets": assets})
    window = Window(0, 0, SIDE, SIDE)
    task = _task(tmp_path / "out", products, {"a": window})
    result = process_scene(task)
    assert result.products == (products[0].id,)
    ((name, _, reason),) = result.dropped
    assert name == products[1].id
    assert reason
    np.testing.assert_array_equal(_values(task, "a", window)[0], good.truth("B02"))


def test_finished_scene_is_not_made_again_but_one_with_a_loss_is(tmp_path: Path) -> None:
    scene = make_scene(8, FIRST)
    product = _written(scene, tmp_path)
    path = Path(product.assets["B03_20m"].href)
    content = path.read_bytes()
    path.write_bytes(content[:-5000])
    task = _task(tmp_path / "out", [product], {"a": Window(0, 0, SIDE, SIDE)})
    assert process_scene(task).dropped
    path.write_bytes(content)
    mended = process_scene(task)
    assert not mended.dropped
    path.unlink()
    assert process_scene(task) == mended


def test_reader_frees_blocks_and_knows_its_file(tmp_path: Path) -> None:
    product = _written(make_scene(9, FIRST), tmp_path)
    decoded = Decoded()
    with BlockReader(product.assets["B02_20m"], decoded) as reader:
        window = Window(10, 10, 100, 100)
        first = reader.read(window)
        reader.read(window)
        assert decoded.blocks == 4
        reader.forget(reader.blocks(window))
        np.testing.assert_array_equal(reader.read(window), first)
        assert decoded.blocks == 8
    with pytest.raises(SourceError, match=r"MTD_MSIL2A.xml cannot be opened"):  # though GDAL opens such documents
        BlockReader(product.assets["product_metadata"], decoded)
    Image.fromarray(np.zeros((8, 8), "u1")).save(tmp_path / "nowhere.tif")
    with pytest.raises(SourceError, match=r"nowhere.tif is not a georeferenced image of one band"):
        BlockReader(Asset(href=str(tmp_path / "nowhere.tif")), decoded)


def test_processings_outside_esas_go_last_in_search_and_build() -> None:
    """Baseline 99.99 (N9999) is no age: whatever ESA made counts before it."""
    made = {
        baseline: Product(
            id=f"S2A_MSIL2A_20210601T213001_N{baseline.replace('.', '')}_R027_T06WUA_{year}0101T000000",
            tile="06WUA",
            platform="sentinel-2a",
            datatake_start=datetime(2021, 6, 1, 21, 30, 1),
            baseline=baseline,
            processing_time=datetime(year, 1, 1),
            bbox=(0, 0, 1, 1),
        )
        for baseline, year in (("99.99", 2024), ("02.12", 2021), ("05.10", 2022), ("05.11", 2022))
    }
    order = ["05.11", "05.10", "02.12", "99.99"]
    (acquisition,) = group_acquisitions(list(made.values()))
    assert [p.baseline for p in acquisition.products] == order
    assert [p.baseline for p in sorted(made.values(), key=newest_first)] == order
    assert [p.baseline for p in deduplicate(list(made.values())).products] == ["05.11"]


def test_masks_grow_across_the_edges_of_cells(tmp_path: Path) -> None:
    """A cloud outside of a cell reaches into it: small cells together see what the whole tile does."""
    scene = make_scene(10, FIRST)
    product = _written(scene, tmp_path)
    cells = {f"c{i}{j}": Window(24 * i, 40 * j, 24, 40) for i in range(10) for j in range(6)}
    task = _task(tmp_path / "out", [product], cells, dilation=4)
    process_scene(task)
    y, x = np.ogrid[-4:5, -4:5]
    grown = ndimage.binary_dilation(np.isin(scene.scl, MASKED), structure=x * x + y * y <= 16)
    expected = np.where(grown, np.nan, scene.truth("B02"))
    assert 0.05 < np.isnan(expected).mean() < 0.95
    for name, window in cells.items():
        np.testing.assert_array_equal(_values(task, name, window)[0], expected[window.within(Window(0, 0, SIDE, SIDE))])
