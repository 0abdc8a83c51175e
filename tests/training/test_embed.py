"""Features of tiles, cubes and archives against the model itself, window by window."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from pyproj import Transformer

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube import open_abi, write_references
from cube.geostationary.index import index_file
from cube.testing import write_abi_archive
from loaders.statistics import BandStatistics
from loaders.statistics import Statistics as StoredStatistics
from stratacube.errors import SourceError, UsageError
from tests.job.test_ranks import mpirun, needs_mpirun
from tests.published import assert_names_no_folder
from tests.stac_validation import _core
from tests.training.small import small_run
from tests.training.test_data import STATISTICS, tiles_run
from tests.training.test_splits import cube_run
from training import embed as command
from training import embedding
from training.embed_sources import CubeSource, TileSource
from training.embedding import Manner, embed, statistics_of
from training.feature_store import FeatureStore
from training.features import Grid, Rows, strips
from training.models import MaskedAutoencoder
from training.runs import Opened, open_run
from training.trainer import Trainer


def by_hand(model: MaskedAutoencoder, pixels: Any, valid: Any, minutes: Any, overlap: int) -> tuple[Any, Any]:
    """Every window apart, every token by itself."""
    patch, (height, width) = model.config.patch_size, model.config.height_width
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def starts(count: int, window: int) -> list[int]:
        found = [n for n in range(0, count, window - overlap // patch) if n + window <= count]
        return found if found[-1] + window == count else [*found, count - window]

    shape = (model.config.frames, len(model.groups), rows, columns)
    sums, weights = np.zeros((*shape, model.config.dimensions.embed_dim)), np.zeros(shape)
    share = np.zeros(shape)
    h, w = height // patch, width // patch
    for top in starts(rows, h):
        for left in starts(columns, w):
            cut = (
                slice(None),
                slice(None),
                slice(top * patch, top * patch + height),
                slice(left * patch, left * patch + width),
            )
            with torch.no_grad():
                tokens = model.encode(pixels[cut][None], valid[cut][None], minutes[None])[0].numpy()
            for t, g, i, j in np.ndindex(shape[0], shape[1], h, w):
                bands = list(model.groups[g])
                place = (slice(i * patch, (i + 1) * patch), slice(j * patch, (j + 1) * patch))
                good = valid[cut][t, bands][(slice(None), *place)].double().mean().item()
                edge = min(i + 1, h - i) / -(-h // 2) * (min(j + 1, w - j) / -(-w // 2))
                sums[t, g, top + i, left + j] += tokens[t, g, i, j] * good * edge
                weights[t, g, top + i, left + j] += good * edge
                share[t, g, top + i, left + j] = good
    with np.errstate(invalid="ignore"):
        return sums / weights[..., None], share


@pytest.fixture(scope="module")
def trained(placed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    Trainer(tiles_run(folder, placed)).fit(2)
    return folder


@pytest.mark.parametrize(("size", "overlap"), [((16, 16), 8), ((26, 43), 8), ((24, 40), 0), ((8, 36), 12)])
def test_windows_are_blended_by_validity_and_border(trained: Path, size: tuple[int, int], overlap: int) -> None:
    model = open_run(trained).model.eval()
    torch.manual_seed(3)
    pixels = torch.randn(3, 3, *size)
    valid = torch.rand(pixels.shape) > 0.3
    valid[:, :, :4, :4] = False
    minutes = torch.tensor([26_297_280, 26_297_300, 26_297_320])
    grid = Grid.of(model, size, overlap)
    made = list(strips(model, lambda a, b: Rows(pixels[..., a:b, :], valid[..., a:b, :], minutes), grid, batch=2))
    features = torch.cat([strip.features for strip in made], dim=2).numpy()
    weight = torch.cat([strip.weight for strip in made], dim=2).numpy()
    if size[0] < 16:
        assert features.shape[2] == 2
        return
    truth, share = by_hand(model, pixels, valid, minutes, overlap)
    np.testing.assert_allclose(features, truth, atol=2e-5)
    np.testing.assert_allclose(weight, share, atol=1e-6)
    assert np.isnan(features[:, :, 0, 0]).all()


def test_tiles_have_the_features_of_the_model(trained: Path, placed: Path, tmp_path: Path, capsys) -> None:
    arguments = [str(trained), str(placed), "--output-dir", str(tmp_path / "out"), "--where", "tile >= 8"]
    assert command.main([*arguments, "--overlap", "8"]) == 0
    opened = open_run(trained)
    source = TileSource(placed, opened.config.model, statistics_of(opened), "radiance", "tile >= 8")
    group = zarr.open_group(tmp_path / "out" / "features.zarr", mode="r")
    assert group["tokens"].shape == (4, 3, 2, 8, 8, 64)
    rows = source.read(2, 0, 32)
    truth, share = by_hand(opened.model.eval(), rows.pixels, rows.valid, rows.minutes, 8)
    np.testing.assert_allclose(group["tokens"][2], truth, atol=2e-5)
    pooled = np.nansum(truth * share[..., None], axis=(0, 2, 3)) / share.sum((0, 2, 3))[:, None]
    np.testing.assert_allclose(group["pooled"][2, 0, 0], pooled, atol=2e-5)
    np.testing.assert_allclose(group["valid_share"][2, 0, 0], share.mean(), rtol=1e-5)
    table = geopandas.read_parquet(tmp_path / "out" / "features.parquet")
    assert table["number"].tolist() == [8, 9, 10, 11]
    np.testing.assert_allclose(np.array(table["features"][2]).reshape(2, 64), pooled, atol=2e-5)
    assert table["start"][2] == np.datetime64(source.tiles.store.times()[10][0])
    assert table.geometry[0].covers(table.geometry[1].centroid)  # tiles 8 and 9 lie in one place
    item = json.loads((tmp_path / "out" / "item.json").read_text())
    assert list(_core(item)) == []
    assert {"features", "table", "map"} == set(item["assets"])
    leads = {k["rel"]: (tmp_path / "out" / k["href"]).resolve() for k in item["links"]}
    assert leads == {"derived_from": (placed / "tiles.zarr").resolve(), "via": opened.folder.resolve()}
    assert_names_no_folder(tmp_path / "out" / "item.json", placed.parent, trained.parent)
    with Image.open(tmp_path / "out" / "map.png") as picture:
        assert len(picture.getcolors(1 << 20) or ()) > 20
    capsys.readouterr()
    assert (
        command.main(
            [str(trained), "--output-dir", str(tmp_path / "out"), "--like", "1", "--neighbours", "2", "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    features = np.stack(table["features"].to_list())
    apart = features - features.mean(0)
    alike = apart @ apart[1] / np.linalg.norm(apart, axis=1) / np.linalg.norm(apart[1])
    assert [cell["similarity"] for cell in found] == pytest.approx(sorted(np.delete(alike, 1))[:0:-1], abs=1e-3)
    assert [cell["row"] for cell in found] == [i for i in np.argsort(-alike) if i != 1][:2]


def test_the_picture_and_pooled_features_need_no_tokens(trained: Path, placed: Path, tmp_path: Path) -> None:
    opened = open_run(trained)
    source = TileSource(placed, opened.config.model, statistics_of(opened), "radiance", "tile >= 8")
    both = [embed(opened, source, tmp_path / name, tokens=kept) for name, kept in (("all", True), ("pooled", False))]
    assert np.array_equal(both[0].array("pooled")[:], both[1].array("pooled")[:], equal_nan=True)
    assert not (tmp_path / "pooled" / "features.zarr" / "tokens").exists()
    assert (tmp_path / "pooled" / "map.png").exists()


@pytest.fixture(scope="module")
def cube_model(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("cubes") / "run"
    statistics = {"B02": [80.0, 46.0], "B8A": [80.0, 46.0]}
    Trainer(cube_run(folder, cube, statistics=statistics)).fit(1)
    return open_run(folder)


@pytest.mark.parametrize(("overlap", "tokens", "first"), [(8, True, 7), (12, False, 5)])
def test_a_stopped_run_goes_on_and_gives_the_same(
    cube: Path,
    cube_model: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overlap: int,
    tokens: bool,
    first: int,
) -> None:
    """Also where windows overlap by more than half, and the last ones by more than the others."""
    opened, step = cube_model, 16 - overlap
    part = xr.open_zarr(cube, chunks=None).isel(y=slice(0, 84), x=slice(0, 60))
    source = CubeSource(part, str(cube), opened.config.model, statistics_of(opened), "reflectance")
    options: dict[str, Any] = {"overlap": overlap, "tokens": tokens}
    whole = embed(opened, source, tmp_path / "whole", **options)
    read, calls = source.read, []

    def dying(sample: int, top: int, bottom: int) -> Rows:
        calls.append(top)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return read(sample, top, bottom)

    with monkeypatch.context() as patched:
        patched.setattr(source, "read", dying)
        with pytest.raises(KeyboardInterrupt):
            embed(opened, source, tmp_path / "parts", **options)
    with (tmp_path / "parts" / "done.jsonl").open("a") as ledger:
        ledger.write("[0, 8")  # cut off
    monkeypatch.setattr(source, "read", lambda s, top, bottom: calls.append(top) or read(s, top, bottom))
    calls.clear()
    parts = embed(opened, source, tmp_path / "parts", **options)
    assert calls[0] == first * step  # rows of windows again, of which the next needs a part
    assert_same_features(parts, whole)
    with pytest.raises(UsageError, match="holds features of another overlap"):
        embed(opened, source, tmp_path / "parts", overlap=0)


def assert_same_features(one: FeatureStore, other: FeatureStore) -> None:
    """Bit by bit, with nothing left behind."""
    for name in ("tokens", "weight") * one.tokens + ("pooled", "valid_share", "time"):
        assert np.array_equal(one.array(name)[:], other.array(name)[:], equal_nan=name != "time"), name
    assert np.isfinite(one.array("pooled")[:]).all()
    assert not (one.folder / "strips").exists()


@pytest.mark.parametrize(("rows", "overlap", "count"), [(160, 8, 5), (84, 12, 5), (68, 0, 1)])
def test_parts_of_one_image_are_made_apart_and_in_any_order(
    cube: Path, cube_model: Opened, tmp_path: Path, rows: int, overlap: int, count: int
) -> None:
    """No two of them write to one chunk, and none changes a bit."""
    opened = cube_model
    part = xr.open_zarr(cube, chunks=None).isel(y=slice(0, rows), x=slice(0, 60))
    source = CubeSource(part, str(cube), opened.config.model, statistics_of(opened), "reflectance")
    whole = embed(opened, source, tmp_path / "whole", overlap=overlap)
    work = embedding._Work.begin(opened, source, tmp_path / "parts", Manner(overlap=overlap))
    parts = work.parts(0, shared_by=2)
    assert [strip for p in parts for strip in range(p.first, p.end)] == [*range(len(work.grid.down))]
    assert len(parts) == count
    chunk = work.store.array("tokens").chunks[3]
    written = [{row // chunk for row in range(work.grid.down[p.first], work.grid.end(p.end - 1))} for p in parts]
    assert sum(map(len, written)) == len(set().union(*written))
    for p in reversed(parts[1:]):
        work.make(p)
    left = work.parts(0)  # as another run finds it, whatever its workers
    assert [(p.first, p.end) for p in left] == [(0, parts[0].end)]
    work.make(left[0])
    work.finish_image(0)
    assert_same_features(work.finish(), whole)


def test_cells_of_a_region_lie_where_its_pixels_do(cube: Path, cube_model: Opened, tmp_path: Path) -> None:
    opened = cube_model
    arguments = [str(opened.folder), str(cube), "--output-dir", str(tmp_path), "--pooled"]
    to_earth = Transformer.from_crs(32606, 4326, always_xy=True)
    lon, lat = to_earth.transform([400_500, 401_500], [7_599_000, 7_599_600])
    bbox = tuple(f"{n:.6f}" for n in (lon[0], lat[0], lon[1], lat[1]))
    assert command.main([*arguments, "--bbox", *bbox]) == 0
    table = geopandas.read_parquet(tmp_path / "features.parquet")
    west, _, _, north = table.total_bounds
    assert west == pytest.approx(lon[0], abs=0.005)
    assert north == pytest.approx(lat[1], abs=0.002)
    first = table[(table["cell_y"] == 0) & (table["cell_x"] == 0)].geometry.iloc[0]
    assert first.area * 111_320**2 * np.cos(np.radians(lat[0])) == pytest.approx(160 * 160, rel=0.03)
    assert command.main([*arguments, "--bbox", "10", "10", "11", "11"]) == 2


@pytest.mark.slow
def test_a_region_of_an_archive(tmp_path: Path) -> None:
    archive = {
        "platform": "goes16",
        "sector": "M1",
        "start": datetime(2020, 7, 1, 16),
        "hours": 0.2,
        "channels": (8, 13),
    }
    write_abi_archive(tmp_path / "abi", shape_2km=(48, 80), workers=1, **archive)
    known = {band: BandStatistics(9, mean, std, 0.0, 1.0) for band, (mean, std) in STATISTICS.items()}
    statistics = StoredStatistics("radiance", {"train": known})
    run = tmp_path / "run"
    config = small_run(
        run, model={"kind": "temporal", "groups": None, "bands": ["C13", "C08"], "frames": 2, "image_size": 32}
    )
    Trainer(config).fit(1)
    tree = open_abi(tmp_path / "abi", chunks=None)
    source = CubeSource(tree["2km"].to_dataset(), "abi", config.model, statistics, "radiance", ["radiance"])
    store = embed(open_run(run), source, tmp_path / "out", overlap=0)
    assert isinstance(store, FeatureStore)
    table = geopandas.read_parquet(tmp_path / "out" / "features.parquet")
    assert len(table) > 1
    assert table["start"].min() == np.datetime64(tree["2km"]["time"].values[0].astype("M8[us]"))
    radiance = tree["2km"]["radiance"].sel(band="C13").isel(time=0).values[:32]
    np.testing.assert_allclose(
        source.read(0, 0, 32).pixels[0, 0].numpy()[np.isfinite(radiance)],
        ((radiance - STATISTICS["C13"][0]) / STATISTICS["C13"][1])[np.isfinite(radiance)],
        rtol=1e-4,
        atol=1e-5,
    )
    scans = [
        f
        for scan in find_scans(LocalArchive(tmp_path / "abi"), platform="goes16", sector="M1")
        for f in scan.files.values()
    ]
    write_references([index_file(file) for file in scans], tmp_path / "references")
    known_as = "virtual", config.model, statistics, "radiance", ["radiance"]
    virtual = CubeSource(open_abi(tmp_path / "references", chunks=None)["2km"].to_dataset(), *known_as)
    assert torch.equal(virtual.read(0, 0, 32).pixels, source.read(0, 0, 32).pixels)
    assert virtual.samples == source.samples


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give a source"),
        (["nowhere.zarr"], "nowhere.zarr is not"),
        (["STORE", "--overlap", "16"], "overlap is 16 pixels"),
        (["STORE", "--batch", "0"], "batch is 0"),
        (["STORE", "--bbox", "1", "2", "3", "4"], "tiles are chosen by --where"),
        (["STORE", "--like", "7"], "cannot be read as a table of features"),
    ],
)
def test_wrong_use_is_one_sentence(
    trained: Path,
    placed: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys,
) -> None:
    flags = [str(placed) if flag == "STORE" else flag for flag in flags]
    assert command.main([str(trained), *flags, "--output-dir", str(tmp_path / "out")]) in (1, 2)
    said = capsys.readouterr().err
    assert message.replace("overlap", "--overlap").replace("batch is", "--batch is") in said
    assert said.count("\n") == 1


def test_models_of_blobs_have_no_satellite_images(tmp_path: Path) -> None:
    Trainer(small_run(tmp_path)).fit(1)
    with pytest.raises(UsageError, match="learned from blobs"):
        statistics_of(open_run(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param("dask", marks=pytest.mark.long),
        pytest.param("mpi", marks=[pytest.mark.long, needs_mpirun]),
    ],
)
def test_workers_make_the_features_that_one_process_makes(
    trained: Path, placed: Path, cube: Path, cube_model: Opened, tmp_path: Path, engine: str, capsys
) -> None:
    flags = [str(trained), str(placed), "--where", "tile >= 6", "--overlap", "8"]
    assert command.main([*flags, "--output-dir", str(tmp_path / "one")]) == 0
    there = [*flags, "--output-dir", str(tmp_path / "two")]
    if engine == "mpi":
        done = mpirun(3, "-m", "training.embed", *there)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("6 images") == 1
    else:
        assert command.main([*there, "--workers", "2", "--engine", engine]) == 0
    groups = [zarr.open_group(tmp_path / name / "features.zarr", mode="r") for name in ("one", "two")]
    for name in ("tokens", "weight", "pooled", "valid_share", "time"):
        np.testing.assert_allclose(groups[1][name][...], groups[0][name][...], atol=1e-6)
    tables = [geopandas.read_parquet(tmp_path / name / "features.parquet") for name in ("one", "two")]
    assert tables[0].drop(columns="features").equals(tables[1].drop(columns="features"))
    assert len((tmp_path / "two" / "done.jsonl").read_text().splitlines()) == 6
    if engine == "dask":  # one image by two workers
        flags = [str(cube_model.folder), str(cube), "--output-dir"]
        assert command.main([*flags, str(tmp_path / "image")]) == 0
        assert command.main([*flags, str(tmp_path / "shared"), "--workers", "2", "--engine", engine]) == 0
        groups = [zarr.open_group(tmp_path / name / "features.zarr", mode="r") for name in ("image", "shared")]
        for name in ("tokens", "pooled", "valid_share"):
            np.testing.assert_allclose(groups[1][name][...], groups[0][name][...], atol=1e-6)
        assert not (tmp_path / "shared" / "strips").exists()
    flags = [str(trained), str(placed)]
    assert command.main([*flags, "--output-dir", str(tmp_path / "two"), "--workers", "0"]) == 2
    assert "--workers is 0" in capsys.readouterr().err


def test_an_image_that_fails_is_told_and_done_when_it_can_be(
    trained: Path, placed: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The others are done, nothing is called finished, and the same command goes on with the rest."""
    flags = [str(trained), str(placed), "--where", "tile >= 8", "--output-dir", str(tmp_path), "--engine", "local"]
    read, made = TileSource.read, []

    def failing(self: TileSource, sample: int, top: int, bottom: int) -> Rows:
        made.append(sample)
        if sample == 1:
            raise SourceError("chunk 7 is damaged")
        return read(self, sample, top, bottom)

    monkeypatch.setattr(TileSource, "read", failing)
    assert command.main(flags) == 1
    assert "1 of 4 images failed, such as image 1: chunk 7 is damaged" in capsys.readouterr().err
    assert not (tmp_path / "item.json").exists()
    assert {*made} == {0, 1, 2, 3}
    monkeypatch.setattr(TileSource, "read", read)
    assert command.main(flags) == 0
    assert len(geopandas.read_parquet(tmp_path / "features.parquet")) == 4
