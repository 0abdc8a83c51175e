"""The door to the stores: tiny tile stores and cubes through loaders into a run."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from cube.instrument import instrument
from loaders.counting import compute_statistics
from loaders.statistics import BandStatistics
from loaders.statistics import Statistics as StoredStatistics
from loaders.tiles import tile_loader
from stratacube.errors import UsageError
from tests.published import assert_names_no_folder
from tests.training.small import small_run, write_store
from training import demo, evaluate, evaluation, probe
from training.batches import Batch, to_minutes
from training.config import PretrainConfig
from training.data import open_data
from training.models.codes import NO_TIME
from training.publication import publish
from training.runs import Opened, judged_on, open_run
from training.synthetic import MemoryLoader, moving_blobs
from training.trainer import Trainer

CPU = torch.device("cpu")
BANDS = ("C13", "C01", "C08")
"""Not in the store's order, and not all of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    write_store()(folder, tiles=12, steps=4, size=32)
    return folder


STATISTICS = {"C01": [100.0, 50.0], "C08": [3.0, 0.6], "C13": [80.0, 10.0]}


def tiles_run(folder: Path, store: Path, **changes: Any) -> PretrainConfig:
    data = {
        "source": "tiles",
        "stores": [{"path": str(store)}],
        "where": "tile < 8",
        "validation_where": "tile >= 8",
        "statistics": STATISTICS,
        "batch_size": 2,
        "workers": 0,
        **changes.pop("data", {}),
    }
    model = {"bands": BANDS, "groups": [["C01"], ["C13", "C08"]], "image_size": 16, "frames": 3}
    base = small_run(folder).model_dump(mode="json")
    base["model"] |= model | changes.pop("model", {})
    base["optimizer"] |= {"steps": 6}
    return PretrainConfig.model_validate({**base, "data": data, **changes})


def test_units_are_those_of_the_store(store: Path, tmp_path: Path) -> None:
    unit = open_data(tiles_run(tmp_path, store), 0, 1, CPU).statistics.unit
    assert unit == "mW m-2 sr-1 (cm-1)-1 (C13 C08), W m-2 sr-1 um-1 (C01)"


def test_sources_of_two_units_are_not_learned_from_together(store: Path, tmp_path: Path) -> None:
    facts = instrument("abi")
    other = replace(facts, quantities=tuple(replace(q, units="groat") for q in facts.quantities))
    odd = write_store()(tmp_path / "odd", steps=4, attributes={"grid": "1km", "instrument": other.described()})
    for where in ("stores", "validation_stores"):
        config = tiles_run(tmp_path, store, data={where: [{"path": str(store)}, {"path": str(odd.parent)}]})
        with pytest.raises(UsageError, match=r"radiance of C13 is in mW m-2 .* in one source and in groat in another"):
            open_data(config, 0, 1, CPU)


def test_batches_of_a_store_are_normalised_cut_and_dated(store: Path, tmp_path: Path) -> None:
    config = tiles_run(tmp_path, store, model={"image_size": 32, "frames": 4})
    data = open_data(config, 0, 1, CPU)
    assert data.validation is not None
    batches = list(data.validation)
    tiles = torch.cat([batch.samples for batch in batches]) + 8
    assert tiles.tolist() == [8, 9, 10, 11]
    opened = xr.open_zarr(store / "tiles.zarr", mask_and_scale=False, decode_times=True)
    batch = batches[0]
    assert batch.pixels.shape == (2, 4, 3, 32, 32)
    for number, band in enumerate(BANDS):
        channel = int(band[1:])
        place = opened["band"].values.tolist().index(channel)
        scale, offset = (opened[f"packing_{n}"].values[8, :, place, None, None] for n in ("scale", "offset"))
        mean, std = STATISTICS[band]
        truth = (opened[band].values[8] * scale + offset - mean) / std
        usable = (opened["valid"].values[8] >> (channel - 1)) & 1 == 1
        assert np.array_equal(batch.valid[0, :, number].numpy(), usable)
        assert np.allclose(batch.pixels[0, :, number].numpy()[usable], truth[usable], atol=1e-4)
    starts = opened["scan_start"].values[8:10]
    asked = opened["requested_time"].values[8:10]
    assert torch.equal(batch.minutes, to_minutes(np.where(np.isnat(starts), asked, starts)))


def test_a_run_on_a_store_resumes_bit_equal(store: Path, tmp_path: Path) -> None:
    whole = Trainer(tiles_run(tmp_path / "whole", store))
    whole.fit()
    config = tiles_run(tmp_path / "parts", store)
    for stop in (1, 4, None):
        part = Trainer(config)
        part.fit(stop)
    weights = part.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in whole.model.state_dict().items())


def test_a_run_on_a_store_is_evaluated(store: Path, tmp_path: Path) -> None:
    Trainer(tiles_run(tmp_path / "run", store)).fit()
    report = evaluation.evaluate(open_run(tmp_path / "run"), tmp_path / "out", pictures=2)
    assert report.samples == 4
    data = open_data(open_run(tmp_path / "run").config, 0, 1, CPU)
    batches = list(data.validation or ())
    for number, row in enumerate(report.of("band mean")):  # in physical units
        values = torch.cat([batch.pixels[:, :, number][batch.valid[:, :, number]] for batch in batches])
        assert row["rmse"] == pytest.approx(values.square().mean().sqrt().item() * STATISTICS[row["band"]][1], rel=0.15)
    assert len(list((tmp_path / "out/pictures").glob("*.png"))) == 2


@pytest.mark.parametrize("key", ["where", "validation_where", "weights"])
def test_the_manifest_of_a_model_from_elsewhere_runs_nothing(
    store: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(tiles_run(tmp_path / "run", store)).fit(1)
    (path,) = (tmp_path / "run").rglob("manifest.json")
    manifest, ran = json.loads(path.read_text()), tmp_path / "ran"
    manifest["config"]["data"][key] = f"@pd.io.common.os.system('touch {ran}') == 0"
    path.write_text(json.dumps(manifest))
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run")]) == 2
    assert not ran.exists()
    said = capsys.readouterr().err
    assert "(@ is not allowed; allowed are columns, numbers, text" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("key", ["stores", "validation_stores"])
def test_the_manifest_of_a_model_from_elsewhere_chooses_no_odd_file_system(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fsspec's some start programs, ask workers, write copies or follow text to other files."""
    monkeypatch.setattr("training.runs._gone", lambda paths: [])  # that nothing lies there is another test's
    kept = ("/data/a.zarr", "a.zarr", "file:///a.zarr", "s3://b/a.zarr", "gs://b/a", "az://b/a", "https://host.org/a")
    odd = (
        "reference::/a.json",
        "simplecache::s3://b/a",
        "dask://a",
        "ssh://host.org/a",
        "git://a",
        "data:,x",
        "xyz://a",
    )
    for place in (*kept, *odd):
        data = {"stores": [{"path": "a"}], key: [{"path": place}]}
        config = tiles_run(tmp_path, tmp_path, data=data)
        model = Opened(None, config, {}, tmp_path, tmp_path, 0)  # type: ignore[arg-type]
        if place in kept:
            assert judged_on(model, None) is model
        else:
            with pytest.raises(UsageError, match=r"manifest.json names the store .*; give `data`"):
                judged_on(model, None)
            assert judged_on(model, ["mine"]).config.data.validation_stores[0].path == "mine"  # type: ignore[union-attr]


def test_validation_sees_the_middle_of_each_tile(store: Path, tmp_path: Path) -> None:
    data = open_data(tiles_run(tmp_path, store, model={"image_size": 16, "frames": 4}), 0, 1, CPU)
    whole = open_data(tiles_run(tmp_path, store, model={"image_size": 32, "frames": 4}), 0, 1, CPU)
    seen, truth = (torch.cat([b.pixels for b in opened.validation or ()]) for opened in (data, whole))
    assert torch.equal(seen, truth[..., 8:24, 8:24])


def test_the_published_statistics_decode_as_the_run_did(store: Path, tmp_path: Path) -> None:
    compute_statistics([store], quantity="radiance").save(tmp_path / "of_store.json")
    config = tiles_run(tmp_path / "run", store, data={"statistics": str(tmp_path / "of_store.json")})
    trainer = Trainer(config)
    trainer.fit(1)
    publish(open_run(tmp_path / "run"), tmp_path / "model")
    led = assert_names_no_folder(tmp_path / "model" / "item.json", tmp_path, store.parent)
    assert {p.name for p in led} >= {"manifest.json", "config.yaml", "README.md", "statistics.json"}
    path = str(tmp_path / "model" / "statistics.json")
    again = open_data(tiles_run(tmp_path, store, data={"statistics": path}), 0, 1, CPU)
    for name in ("bands", "mean", "std", "span", "unit", "quantity"):
        assert getattr(again.statistics, name) == getattr(trainer.data.statistics, name)
    (batch,) = tile_loader(store, 4, where="tile >= 8", shuffle=False, bands=BANDS, statistics=path)
    expected = torch.cat([b.pixels for b in open_data(_whole(config), 0, 1, CPU).validation or ()])
    assert torch.equal(batch.pixels, expected)
    # As it names no folder, whoever judges it says where the stores are.
    judge = ["--output-dir", str(tmp_path / "judged"), "--pictures", "0", "--batches", "1"]
    assert evaluate.main([str(tmp_path / "model"), *judge]) != 0
    assert evaluate.main([str(tmp_path / "model"), *judge, "--data", str(store)]) == 0
    own = evaluation.evaluate(open_run(tmp_path / "run"), tmp_path / "own", batches=1, pictures=0)
    assert json.loads((tmp_path / "judged" / "evaluation.json").read_text())["rows"] == own.rows


def _whole(config: PretrainConfig) -> PretrainConfig:
    model = config.model.model_copy(update={"image_size": 32, "frames": 4})
    return config.model_copy(update={"model": model})


def test_bands_without_spread_are_refused(store: Path, tmp_path: Path) -> None:
    empty = BandStatistics(0, math.nan, math.nan, math.nan, math.nan)
    known = {band: BandStatistics(9, mean, std, 0.0, 1.0) for band, (mean, std) in STATISTICS.items()}
    StoredStatistics("radiance", {"all": {**known, "C13": empty}}).save(tmp_path / "empty.json")
    for wrong in (str(tmp_path / "empty.json"), {**STATISTICS, "C13": [80.0, 0.0]}):
        with pytest.raises(UsageError, match=r"C13.* have no (mean or no spread|standard deviation)"):
            open_data(tiles_run(tmp_path, store, data={"statistics": wrong}), 0, 1, CPU)


def test_the_demo_ends_with_a_picture(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([str(store), "--output-dir", str(tmp_path / "run"), "--steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "| interpolation | C13 |" in out
    assert Path(out.splitlines()[-1]).is_file()


def test_learning_and_judging_on_the_same_tiles_is_refused(store: Path, tmp_path: Path) -> None:
    config = tiles_run(tmp_path, store, data={"validation_where": "tile >= 7"})
    with pytest.raises(
        UsageError, match=r"1 tiles learned from share pixels and times.* with 1 judged on, such as tile 7 of"
    ):
        open_data(config, 0, 1, CPU)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"statistics": {"C01": [1, 1]}}, "C13"),
        ({"batch_size": 9}, "do not fill one batch of 9"),
        ({"stores": [{"path": "nowhere.zarr"}]}, "nowhere.zarr"),
        ({"where": "tile > 99"}, "relax"),
    ],
)
def test_data_that_do_not_fit_are_refused(store: Path, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_data(tiles_run(tmp_path, store, data=data), 0, 1, CPU)


def test_windows_of_a_composite_are_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name in ("train", "held_out"):
        values = random.normal(0.2, 0.1, (2, 48, 64)).astype("f4")
        values[:, :7, :9] = np.nan
        bands = {band: (("y", "x"), image) for band, image in zip(("B02", "B8A"), values, strict=True)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            xr.Dataset(bands).to_zarr(tmp_path / name / "composites.zarr", zarr_format=3)
    base = small_run(tmp_path / "run").model_dump(mode="json")
    base["model"] |= {"kind": "group", "bands": ["B02", "B8A"], "groups": [["B8A"], ["B02"]], "frames": 1}
    base["data"] = {
        "source": "cubes",
        "cubes": [{"path": str(tmp_path / "train")}],
        "validation_cubes": [{"path": str(tmp_path / "held_out" / "composites.zarr")}],
        "statistics": {"B02": [0.2, 0.1], "B8A": [0.2, 0.1]},
        "batch_size": 4,
        "workers": 0,
    }
    config = PretrainConfig.model_validate(base | {"validation": {"every_epochs": 1}})
    trainer = Trainer(config)
    batch = next(iter(open_data(config, 0, 1, CPU).validation or ()))
    assert batch.minutes.eq(NO_TIME).all()
    assert not batch.valid[0, 0, :, :7, :9].any()
    assert trainer.fit()
    _judged_on_other_cubes(tmp_path, capsys)


def _judged_on_other_cubes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cubes that are named take the place of those judged on; what was learned from stays, where it is there."""
    other = shutil.copytree(folder / "held_out", folder / "elsewhere" / "other")
    own = evaluation.evaluate(open_run(folder / "run"), folder / "own", batches=1, pictures=0)
    judge = ["--data", str(other), "--batches", "1", "--pictures", "0", "--output-dir", str(folder / "judged")]
    assert evaluate.main([str(folder / "run"), *judge]) == 0
    told = json.loads((folder / "judged" / "evaluation.json").read_text())
    assert (told["stores"], told["rows"]) == (["other"], own.rows)
    assert "samples from other, " in (folder / "judged" / "evaluation.md").read_text()
    publish(open_run(folder / "run"), folder / "model")
    assert evaluate.main([str(folder / "model"), *judge]) == 0
    told = json.loads((folder / "judged" / "evaluation.json").read_text())
    assert told["rows"] == [row for row in own.rows if row["method"] != "regression"]  # there is nothing to fit it on
    assert probe.main([str(folder / "run"), "--data", str(other)]) == 2
    assert "so nothing tells which windows of other cubes are fitted on" in capsys.readouterr().err


def test_moving_blobs_move_and_are_what_the_seed_says() -> None:
    blobs = moving_blobs(4, 3, 2, (16, 16), seed=3, invalid=0.1)
    same, other = (moving_blobs(4, 3, 2, (16, 16), seed=seed, invalid=0.1) for seed in (3, 4))
    assert torch.equal(blobs.valid, same.valid)
    assert torch.equal(blobs.pixels.nan_to_num(), same.pixels.nan_to_num())
    assert not torch.equal(blobs.minutes, other.minutes)
    assert torch.equal(blobs.pixels.isnan(), ~blobs.valid)
    clean = moving_blobs(4, 3, 2, (16, 16), seed=3).pixels
    assert (clean[:, 0] - clean[:, 1]).abs().mean() > 0.1


def _order(loader: MemoryLoader) -> list[list[int]]:
    return [batch.samples.tolist() for batch in loader]


def test_the_memory_loader_deals_every_sample_once_and_resumes() -> None:
    data = moving_blobs(12, 1, 1, (4, 4), seed=0)
    ranks = [MemoryLoader(data, 2, seed=5, rank=rank, ranks=2) for rank in (0, 1)]
    epochs = [[_order(loader) for loader in ranks] for _ in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(n for rank in epoch for batch in rank for n in batch) == list(range(12))
    first = MemoryLoader(data, 2, seed=5, rank=0, ranks=2)
    next(iter(first))
    second = MemoryLoader(data, 2, seed=5, rank=0, ranks=2)
    second.load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in map(_samples, second)] == epochs[0][0][1:]


@pytest.mark.parametrize(("samples", "sizes"), [(16, [5, 5, 6]), (50, [16, 16, 16, 1, 1, 1])])
def test_no_rank_goes_without_a_batch_at_the_end(samples: int, sizes: list[int]) -> None:
    data = moving_blobs(samples, 1, 1, (4, 4), seed=0)
    ranks = [list(MemoryLoader(data, 16, seed=None, rank=rank, ranks=3)) for rank in range(3)]
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert [len(batch) for batch in dealt] == sizes
    assert {n for batch in dealt for n in batch.samples.tolist()} == set(range(samples))


def _samples(batch: Batch) -> torch.Tensor:
    return batch.samples
