"""One cell from the pieces of its scenes: bands at once, and what that holds in memory."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cube.sentinel2.composite import CellTask, Vote, process_cell
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.scenes import SceneResult, piece_path
from tests.sentinel2.scenery import EPSG, ULX, ULY

WINDOW = Window(700, 0, 100, 90)  # in two pieces


def _task(folder: Path, window: Window = WINDOW, bands: int = 3, reducer: str = "median") -> CellTask:
    return CellTask(
        cell="a",
        window=window,
        outline="",
        lattice=Lattice(f"EPSG:{EPSG}", 20, 20, ULX, ULY),
        bands=tuple(f"B{i:02d}" for i in range(1, bands + 1)),
        votes=tuple(Vote(f"d{i}", (folder / f"scene{i}",)) for i in range(5)),
        reducer=reducer,
        values="dn",
        folder=folder / "cog",
        cog=window is WINDOW,
        compress="ZSTD",
        kept=None,
        result=folder / "result.json",
    )


def _scene(folder: Path, pieces: list[tuple[str, int, int, int]]) -> None:
    """What tells a cell which pieces a scene wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = SceneResult(cells=("a",), bands=(), products=(), pieces=tuple(pieces))
    (folder / "scene.json").write_text(json.dumps(asdict(scene)))


@pytest.mark.parametrize("reducer", ["median", "medoid", "best"])
def test_bands_made_at_once_are_the_same(tmp_path: Path, reducer: str) -> None:
    task = _task(tmp_path, reducer=reducer)
    rng = np.random.default_rng(0)
    for vote in task.votes:
        for piece in WINDOW.split(768):
            values = rng.normal(1000, 300, (3, piece.height, piece.width)).astype("f4")
            values[rng.random(values.shape) < 0.4] = np.nan
            path = piece_path(vote.folders[0], "a", piece)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values)
        pieces = [("a", p.row, p.col, 0) for p in WINDOW.split(768)]
        _scene(vote.folders[0], pieces)
    alone = process_cell(task)
    together = process_cell(replace(task, folder=tmp_path / "threads", threads=4))
    assert together == alone
    names = sorted(p.name for p in task.folder.iterdir())
    assert len(names) == 4
    for name in names:
        assert (task.folder / name).read_bytes() == (tmp_path / "threads" / name).read_bytes()


def test_memory_does_not_grow_with_the_bands(tmp_path: Path) -> None:
    pixels = 1000 * 1000
    task = _task(tmp_path, Window(0, 0, 1000, 1000), bands=8)
    for vote in task.votes:
        _scene(vote.folders[0], [])
    tracemalloc.start()
    try:
        process_cell(task)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * pixels  # each band that is held longer adds four; threads hold more or less at once


def test_months_are_held_in_bytes_and_counted_beyond_them(tmp_path: Path) -> None:
    """Twelve of them are more than all bands."""
    june, july, pixels = 18_414, 18_444, 1000 * 1000  # 2020
    task = _task(tmp_path, Window(0, 0, 1000, 1000), bands=1)
    task = replace(task, also=("date", "months"), months=tuple(range(1, 13)))
    for vote in task.votes:
        _scene(vote.folders[0], [])
    tracemalloc.start()
    try:
        process_cell(task)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 54 * pixels  # in two bytes each they would be 60
    small, scene = Window(0, 0, 4, 5), tmp_path / "scene"
    path = piece_path(scene, "a", small)
    path.parent.mkdir(parents=True)
    np.save(path, np.full((1, 4, 5), 1000, "f4"))
    _scene(scene, [("a", 0, 0, 0)])
    votes = tuple(Vote(f"d{i}", (scene,), june if i < 260 else july) for i in range(300))
    process_cell(replace(task, window=small, votes=votes, cog=True))
    for name, number in (("count_06", 260), ("count_07", 40), ("count_08", 0), ("count", 300)):
        with rasterio.open(task.folder / f"cell_a_{name}.tif") as file:
            assert file.dtypes[0] == "uint16"
            assert (file.read(1) == number).all()
