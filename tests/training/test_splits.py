"""What is learned from and judged on shares no pixel, and statistics are of what is learned from."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import zarr

from catalog.splits import SplitRule
from loaders.counting import compute_statistics
from loaders.cubes import CubeDataset
from loaders.extents import tile_extents
from loaders.order import Pick, Share
from loaders.statistics import Statistics as StoredStatistics
from loaders.tiles import TileDataset
from loaders.windows import window_extents
from stratacube.errors import UsageError
from tests.training.small import small_run
from tests.training.test_data import BANDS, CPU, STATISTICS, tiles_run
from training import evaluate
from training.config import PretrainConfig
from training.data import open_data
from training.runs import open_run
from training.trainer import Trainer

HOURS = {"block_km": None, "block_hours": 72.0, "gap_hours": 1.0, "shares": {"train": 0.5, "val": 0.5}}
"""Blocks of three days, as the tiny store's tiles come."""


def at_one_time(folder: Path, source: Path) -> Path:
    """The same store, all of whose tiles are of one scan."""
    shutil.copytree(source, folder)
    group = zarr.open_group(folder / "tiles.zarr", mode="r+")
    for name in ("requested_time", "scan_start", "scan_mid"):
        values = group[name][...]
        group[name][...] = np.broadcast_to(values[:1], values.shape)
    return folder


def test_tiles_that_overlap_are_refused_however_paths_are_spelt(
    placed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = at_one_time(tmp_path / "now", placed)
    open_data(tiles_run(tmp_path, store, data={"where": "tile < 6", "validation_where": "tile >= 6"}), 0, 1, CPU)
    (tmp_path / "link").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    for spelt in (
        str(store),
        "./now",
        f"{store.parent}/../{store.parent.name}/now/tiles.zarr",
        "link",
        f"file://{store}",
    ):
        data = {
            "where": "tile in [0, 2, 4]",
            "validation_stores": [{"path": spelt}],
            "validation_where": "tile in [1, 7]",
        }
        with pytest.raises(
            UsageError, match=r"1 tiles learned from share pixels and times.* with 1 judged on.*tile 0 of"
        ):
            open_data(tiles_run(tmp_path, store, data=data), 0, 1, CPU)


def test_a_run_that_began_with_shared_pixels_goes_on_with_a_warning(
    placed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = at_one_time(tmp_path / "now", placed)
    config = tiles_run(tmp_path / "run", store, data={"where": "tile < 7", "validation_where": "tile >= 7"})
    with pytest.raises(UsageError, match="share pixels and times"):
        Trainer(config)
    with monkeypatch.context() as before:
        before.setattr("training.data.refuse_leaks", lambda *_, **__: None)
        Trainer(config).fit(1)
    with caplog.at_level(logging.WARNING, "training"):
        assert Trainer(config).fit(2) is False
    assert "share pixels and times" in caplog.text


def test_a_model_is_judged_on_no_other_store_of_what_it_learned_from(
    placed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Tiles 8 and on of the other store are 4 and on of the run's."""
    own, other = (shutil.copytree(placed, tmp_path / name) for name in ("own", "other"))
    group = zarr.open_group(other / "tiles.zarr", mode="r+")
    for _, array in group.arrays():
        if array.metadata.dimension_names and array.metadata.dimension_names[0] == "tile":
            array[...] = np.roll(array[...], 4, axis=0)
    Trainer(tiles_run(tmp_path / "run", own)).fit(1)
    judge = ["--data", str(other), "--batches", "1", "--pictures", "0", "--output-dir", str(tmp_path / "judged")]
    assert evaluate.main([str(tmp_path / "run"), *judge]) == 2
    told = capsys.readouterr().err
    assert re.search(r"4 tiles learned from share pixels and times, or a system, with 4 judged on, such as", told)
    assert not (tmp_path / "judged").exists()
    # Its own tiles that it did not learn from may be judged on, whatever their store is called.
    renamed = own.rename(tmp_path / "renamed")
    assert evaluate.main([str(tmp_path / "run"), "--data", str(renamed), *judge[2:]]) == 0
    assert "whether it is judged on pixels of that cannot be told" in caplog.text


def test_a_store_is_split_by_blocks_with_a_gap(placed: Path, tmp_path: Path) -> None:
    rule = SplitRule(**HOURS)
    names = rule.assign(tile_extents(placed))
    assert {"train", "val"} <= set(names)
    run = tiles_run(
        tmp_path, placed, data={"split": HOURS, "where": "split == 'train'", "validation_where": "split == 'val'"}
    )
    data = open_data(run, 0, 1, CPU)
    assert data.train.samples == (names == "train").sum()
    seen = torch.cat([batch.samples for batch in data.validation or ()])
    assert len(seen) == (names == "val").sum()
    assert (
        TileDataset(placed, where="split == 'val'", split=rule).tiles.tolist()
        == np.flatnonzero(names == "val").tolist()
    )


def test_a_filter_that_leaves_nothing_tells_the_splits(placed: Path) -> None:
    with pytest.raises(UsageError, match=r"leaves none of the 12 tiles .*\(splits: .*train \d+.*`split` makes others"):
        TileDataset(placed, where="split == 'nowhere'")


def test_a_small_build_of_one_split_is_told_which_blocks_give_more(placed: Path, tmp_path: Path) -> None:
    store = at_one_time(tmp_path / "now", placed)
    plan = pd.read_parquet(store / "plan.parquet")
    plan.assign(event_time=plan["event_time"].iloc[0]).to_parquet(store / "plan.parquet")
    sides = {"where": "split == 'train'", "validation_where": "split == 'val'"}
    told = (
        r"none of the 12 tiles .*\(splits: \w+ 12\); give `split`, a SplitRule .*`data.split`.*:"
        r" with (.*) they would be train (\d+)"
    )
    with pytest.raises(UsageError, match=told) as refused:
        open_data(tiles_run(tmp_path, store, data=sides), 0, 1, CPU)
    advice = dict(re.findall(r"`(block_\w+|gap_\w+)` ([\d.]+)", re.search(told, str(refused.value))[1]))
    rule = {"block_km": 3000.0, "block_hours": 168.0, **{key: float(value) for key, value in advice.items()}}
    sides["validation_where"] = "split == 'test'"  # of so few tiles there is none for a third side
    data = open_data(tiles_run(tmp_path, store, data={**sides, "split": rule}), 0, 1, CPU)
    assert data.train.samples == int(re.search(told, str(refused.value))[2])


def test_own_statistics_are_of_what_is_learned_from(placed: Path, tmp_path: Path) -> None:
    config = tiles_run(tmp_path / "run", placed, data={"statistics": "own"})
    trainer = Trainer(config)
    truth = compute_statistics([placed], where="tile < 8", bands=BANDS).bands("all")
    assert trainer.data.statistics.mean == tuple(truth[band].mean for band in BANDS)
    assert trainer.data.statistics.std == tuple(truth[band].std for band in BANDS)
    trainer.fit(1)
    (tmp_path / "run" / "statistics.json").unlink()  # they travel with the checkpoint
    again = Trainer(config).data.statistics
    assert (again.mean, again.std, again.span) == tuple(
        getattr(trainer.data.statistics, n) for n in ("mean", "std", "span")
    )
    opened = open_run(tmp_path / "run")
    assert opened.manifest["statistics"]["mean"] == list(again.mean)


def test_statistics_of_all_tiles_are_told(placed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = compute_statistics([placed], where="tile >= 0")
    StoredStatistics("radiance", {"all": whole.bands("all")}, whole.provenance).save(tmp_path / "all.json")
    with caplog.at_level(logging.WARNING, "training"):
        open_data(tiles_run(tmp_path, placed, data={"statistics": str(tmp_path / "all.json")}), 0, 1, CPU)
    assert "all.json has no split train: its statistics are of all tiles" in caplog.text


def test_foreign_constants_are_told_band_by_band(
    placed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = compute_statistics([placed], where="tile < 8", bands=BANDS).bands("all")
    given = {band: [own[band].mean * 1.05, own[band].std * 0.95] for band in BANDS}
    given["C08"] = [own["C08"].mean * 1.2, own["C08"].std]
    with caplog.at_level(logging.WARNING, "training"):
        open_data(tiles_run(tmp_path, placed, data={"statistics": given}), 0, 1, CPU)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "constants of C08 are not those of these data: mean" in told
    assert "(+20%)" in told
    assert "deviation" not in told


def test_foreign_constants_of_a_preset_are_told_too(
    placed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "training"):
        open_data(tiles_run(tmp_path, placed, data={"statistics": "satvision_pix4d"}), 0, 1, CPU)
    own = compute_statistics([placed], where="tile < 8", bands=BANDS).bands("all")
    told = [record.getMessage() for record in caplog.records]
    for band, mean, std in (
        ("C01", 127.34686819, 57.3661886),
        ("C08", 3.00366557, 0.57227082),
        ("C13", 80.34350524, 9.92560728),
    ):
        (line,) = [text for text in told if f"of {band} are" in text]
        assert f"mean {mean:.4g}, here {own[band].mean:.4g}" in line
        assert f"deviation {std:.4g}, here {own[band].std:.4g}" in line


def cube_run(folder: Path, cube: Path, bands: Sequence[str] = ("B02", "B8A"), **data: Any) -> PretrainConfig:
    base = small_run(folder).model_dump(mode="json")
    base["model"] |= {"kind": "group", "bands": [*bands], "groups": [[band] for band in bands[::-1]], "frames": 1}
    statistics = {band: [0.2, 0.1] for band in bands}
    section = {"source": "cubes", "cubes": [{"path": str(cube)}], "statistics": statistics}
    return PretrainConfig.model_validate({**base, "data": {**section, "batch_size": 2, "workers": 0, **data}})


BLOCKS = {"block_km": 0.4, "block_hours": None, "gap_km": 0.04, "gap_hours": 0.0, "shares": {"train": 0.6, "val": 0.4}}


def test_a_cube_is_split_within_itself_by_blocks_with_a_gap(cube: Path, tmp_path: Path) -> None:
    """Wherever windows are moved: none comes nearer to the other side than the gap of four pixels."""
    data = open_data(cube_run(tmp_path, cube, split=BLOCKS, flips=False, rotations=False), 0, 1, CPU)
    seen = {name: np.zeros((160, 240), dtype=bool) for name in ("train", "val")}

    def mark(name: str, batch: Any) -> None:
        for value in (batch.pixels[:, 0, 1, 0, 0].double() * 0.1 + 0.2).tolist():
            row, column = int(value + 1e-4), round((value - int(value + 1e-4)) * 1000)
            seen[name][row : row + 16, column : column + 16] = True

    for _, batch in zip(range(150), data.train.stream(Share(2, 2), 0), strict=False):
        mark("train", batch)
    for batch in data.validation or ():
        mark("val", batch)
    assert min(mask.sum() for mask in seen.values()) > 16 * 16
    near = np.pad(seen["train"], 3)
    grown = np.any([near[i : i + 160, j : j + 240] for i in range(7) for j in range(7)], axis=0)
    assert not (grown & seen["val"]).any()


def test_the_reach_of_windows_holds_wherever_they_are_moved(cube: Path) -> None:
    opened = xr.open_zarr(cube, chunks=None)
    windows = CubeDataset(opened, {"y": 16, "x": 16}, variables=["B02"], sampling="stratified")
    first, end = windows.reach()
    drawn = np.array([[windows.origin(Pick(i, 0, epoch, i)) for i in range(len(windows))] for epoch in range(60)])
    assert (drawn >= first).all()
    assert (drawn + 16 <= end).all()
    assert (end - (drawn + 16).max(axis=0) <= 2).mean() > 0.9  # and hardly more


def test_windows_of_one_cube_on_both_sides_are_refused(cube: Path, tmp_path: Path) -> None:
    spelt = os.path.relpath(cube)
    with pytest.raises(UsageError, match="share pixels and times, and are both learned from and judged on"):
        open_data(cube_run(tmp_path, cube, validation_cubes=[{"path": spelt}]), 0, 1, CPU)


def test_that_nothing_is_held_out_is_told(cube: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "training"):
        assert open_data(cube_run(tmp_path, cube), 0, 1, CPU).validation is None
        assert "nothing is held out to be judged on; give `data.split`" in caplog.text
        caplog.clear()
        open_data(cube_run(tmp_path, cube, split=BLOCKS), 0, 1, CPU)
    assert "held out" not in caplog.text


def test_windows_anywhere_are_of_no_split(cube: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are of no split"):
        open_data(cube_run(tmp_path, cube, split=BLOCKS, sampling="random"), 0, 1, CPU)


def test_own_statistics_of_a_cube_are_of_the_windows_learned_from(cube: Path, tmp_path: Path) -> None:
    trainer = Trainer(cube_run(tmp_path, cube, split=BLOCKS, statistics="own"))
    opened = xr.open_zarr(cube, chunks=None)
    windows = CubeDataset(opened, {"y": 16, "x": 16}, variables=["B02", "B8A"], sampling="stratified")
    names = SplitRule(**BLOCKS).assign(window_extents(opened, windows))
    values = np.concatenate([windows[int(i)].values[0, 0].numpy().ravel() for i in np.flatnonzero(names == "train")])
    assert trainer.data.statistics.mean[0] == pytest.approx(values.astype("f8").mean(), rel=1e-6)
    assert trainer.data.statistics.std[0] == pytest.approx(values.astype("f8").std(), rel=1e-6)


def test_a_split_without_sense_is_one_sentence(tmp_path: Path, placed: Path) -> None:
    with pytest.raises(ValueError, match=r"`block_hours` is 72, and the gap 100; give blocks larger than the gap"):
        tiles_run(tmp_path, placed, data={"split": {**HOURS, "gap_hours": 100.0}})
    assert STATISTICS
