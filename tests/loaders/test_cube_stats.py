from __future__ import annotations

import json
import tracemalloc
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from PIL import Image

from cube.sentinel2.lazy import open_composites
from loaders import stats
from loaders.counting import compute_statistics
from loaders.cubes import cube_loader, open_cube
from loaders.moments import Moments
from loaders.statistics import Statistics
from stratacube.errors import UsageError
from tests.loaders.test_instruments import made_up
from training import pretrain


@pytest.fixture
def composites() -> xr.Dataset:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 900.0, (2, 90, 120)).astype("f4")
    values[0] -= 200
    values[:, :31, :41] = np.nan
    attrs = {"units": "1"}
    bands = {n: (("y", "x"), v, attrs) for n, v in zip(("B02", "B8A"), values, strict=True)}
    return xr.Dataset({**bands, "count": (("y", "x"), np.full((90, 120), 3, "u2"))})


def assert_right(found: Statistics, truth: xr.Dataset) -> None:
    assert list(found.splits) == ["all"]
    for band, s in found.splits["all"].items():
        values = truth[band].values
        values = values[np.isfinite(values)].astype("f8")
        assert (s.count, s.min, s.max) == (values.size, values.min(), values.max())
        assert s.mean == pytest.approx(values.mean(), rel=1e-12)
        assert s.std == pytest.approx(values.std(), rel=1e-12)
        assert sum(s.histogram) == s.count
        for percent, value in s.percentiles.items():
            assert value == pytest.approx(np.percentile(values, float(percent), method="inverted_cdf"), rel=1 / 4096)


def test_statistics_of_composites(
    composites: xr.Dataset, write_cube: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cube(composites, chunks=(32, 32), scale=0.0001, name="build/composites.zarr")
    output = tmp_path / "s.json"
    assert stats.main([str(path.parent), "--output", str(output)]) == 0
    assert "B8A" in capsys.readouterr().out
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (2 * 320, 200)
    found = Statistics.load(output)
    assert found.quantity == "reflectance"
    assert list(found.splits["all"]) == ["B02", "B8A"], "counts of observations are no band"
    assert_right(found, open_composites(path.parent))
    assert found.provenance["valid_pixels"] == 2 * (90 * 120 - 31 * 41)
    assert found.provenance["pixels"] == 2 * 90 * 120
    assert found.provenance["stores"][0]["store"] == str(path)
    opened = open_cube(path)
    (batch,) = cube_loader(opened, {"y": 90, "x": 120}, 1, statistics=output, quantity="reflectance")
    with pytest.raises(UsageError, match="read with `quantity=reflectance`"):
        cube_loader(opened, {"y": 90, "x": 120}, 1, statistics=output)
    for c in range(2):
        normal = batch.pixels[0, 0, c][batch.valid[0, 0, c]]
        assert abs(float(normal.mean())) < 1e-4
        assert float(normal.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_workers_change_nothing(
    composites: xr.Dataset, write_cube: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loaders.moments._PIXELS", 32 * 32)
    packed = (composites[["B02", "B8A"]] / 3).round().fillna(-9999).astype("i2")
    for band in packed.values():
        band.attrs |= {"_FillValue": -9999, "scale_factor": 0.0003}
    first, second = write_cube(composites, chunks=(32, 32)), write_cube(packed, chunks=(90, 7), name="counts.zarr")
    found = [compute_statistics([first, second], workers=n) for n in (0, 1, 2)]
    assert found[0].splits == found[1].splits == found[2].splits
    assert found[0].provenance["stores"][0]["boxes"] == 2 * 3 * 4
    assert found[0].splits["all"]["B02"].count == 2 * (90 * 120 - 31 * 41)
    assert_right(found[0], xr.concat([open_cube(p)[["B02", "B8A"]].astype("f4") for p in (first, second)], "cube"))
    few = compute_statistics([first], bands=["B8A"], sample=4, workers=1)
    assert few.provenance["stores"][0]["boxes"] == 4
    assert list(few.splits["all"]) == ["B8A"]


def test_any_values() -> None:
    """Zero, whole numbers, both signs and any size; parts in any cut."""
    rng = np.random.default_rng(2)
    values = np.concatenate(
        [rng.integers(-4096, 4097, 5000), rng.normal(0, 1e30, 500), rng.normal(0, 1e-30, 500), [0.0, -0.0, np.nan]]
    ).astype("f4")
    rng.shuffle(values)
    total = sum((Moments.of(part) for part in np.split(values, [0, 1, 700, 5000])), Moments())
    s, good = total.describe(), values[np.isfinite(values)].astype("f8")
    assert (total.pixels, s.count, s.min, s.max) == (values.size, good.size, good.min(), good.max())
    assert s.std == pytest.approx(good.std(), rel=1e-12)
    for percent, value in s.percentiles.items():
        assert value == pytest.approx(np.percentile(good, float(percent), method="inverted_cdf"), rel=1 / 4096, abs=0)
    whole = np.arange(-50, 51).astype("f4")
    assert Moments.of(whole).describe().percentiles["50"] == 0
    assert Moments.of(np.full(3, np.nan, "f4")).describe().count == 0


def test_wrong_use(
    composites: xr.Dataset, write_cube: Any, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cube(composites, chunks=(90, 120))
    kelvin = write_cube(composites.B02.assign_attrs(units="K").to_dataset(), name="kelvin.zarr")
    watts = write_cube(composites.B02.assign_attrs(units="W m-2 sr-1 um-1").to_dataset(), name="watts.zarr")
    empty = write_cube(composites[["B02"]] * np.nan, name="empty.zarr")
    for arguments, said in (
        ([path, store], "two runs"),
        ([path, "--where", "split == 'train'"], "leave --where"),
        ([path, "--by", "stratum"], "leave --where and --by out"),
        ([path, "--bands", "B99"], "B99"),
        ([kelvin], "say what it holds by --quantity"),
        (
            [kelvin, "--quantity", "radiance"],
            "B02 has units 'K', which is not radiance; say what it holds by --quantity",
        ),
        ([path, "--quantity", "radiance"], "has units '1', which is not radiance"),
        ([path, "--quantity", "brightness_temperature"], "has units '1', which is not brightness_temperature"),
        (
            [path, "--quantity", "reflectence"],
            "is 'reflectence': give radiance, reflectance, brightness_temperature or m",
        ),
        ([watts, "--quantity", "mixed"], "has units 'W m-2 sr-1 um-1', which is not mixed"),
        ([store, "--quantity", "reflectance", "--bands", "C01,C13"], "C13 has no reflectance; leave it out of --bands"),
        ([store, "--quantity", "brightness_temperature", "--bands", "C01"], "C01 has no brightness_temperature; leave"),
        ([empty], "no pixel of B02 is valid"),
        ([store, "--by", "genus"], "no column 'genus' to split by"),
        ([tmp_path], "composites.zarr"),
    ):
        assert stats.main([*map(str, arguments), "--output", str(tmp_path / "s.json")]) == 2
        assert said in capsys.readouterr().err
    percent = write_cube(composites.B02.assign_attrs(units="%").to_dataset(), name="percent.zarr")
    assert stats.main([str(percent), "--output", str(tmp_path / "p.json")]) == 0
    assert Statistics.load(tmp_path / "p.json").splits["all"]["B02"].units == "%"
    own = composites.B02.assign_attrs(units="shilling").to_dataset().assign_attrs(instrument=made_up(2).described())
    own = write_cube(own, name="own.zarr")  # a cube that carries the record of its instrument has its quantities
    assert stats.main([str(own), "--quantity", "reflectance", "--output", str(tmp_path / "o.json")]) == 0
    assert stats.main([str(own), "--quantity", "brightness_temperature", "--output", str(tmp_path / "o.json")]) == 2
    assert "give radiance, reflectance or mixed" in capsys.readouterr().err
    assert stats.main([str(kelvin), "--quantity", "brightness_temperature", "--output", str(tmp_path / "k.json")]) == 0
    assert stats.main([str(watts), "--quantity", "radiance", "--output", str(tmp_path / "w.json")]) == 0
    assert stats.main([str(kelvin), "--quantity", "mixed", "--output", str(tmp_path / "k.json")]) == 0
    (path / "B8A" / "c" / "0" / "0").write_bytes(b"nothing")
    assert stats.main([str(path), "--output", str(tmp_path / "s.json")]) == 1
    assert "B8A at y 0:90, x 0:120 cannot be read" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_cube(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "large.zarr", mode="w", zarr_format=3)
    names = {"dimension_names": ("y", "x"), "dtype": "f4", "chunks": (512, 512), "fill_value": 0.25}
    group.create_array("B02", shape=(8192, 8192), **names)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(tmp_path / "large.zarr")
    tracemalloc.start()
    found = compute_statistics([tmp_path / "large.zarr"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.splits["all"]["B02"].count == 2**26
    assert peak < 1e8, "the band holds 268 MB"


@pytest.mark.slow
def test_training_on_composites(composites: xr.Dataset, write_cube: Any, tmp_path: Path) -> None:
    """The preset of Sentinel-2 learns from a build and the statistics taken of it."""
    path = write_cube(composites, chunks=(32, 32), scale=0.0001, name="build/composites.zarr")
    assert stats.main([str(path.parent), "--output", str(tmp_path / "s.json")]) == 0
    changes = {
        "model.size": "tiny", "model.bands": ["B02", "B8A"], "model.groups": [["B02"], ["B8A"]],
        "model.image_size": 16, "model.patch_size": 8, "data.cubes": [{"path": str(path.parent)}],
        "data.statistics": str(tmp_path / "s.json"), "data.workers": 0, "data.batch_size": 4,
        "optimizer.epochs": 1, "optimizer.warmup_epochs": 0, "run.precision": "32-true",
    }  # fmt: skip
    settings = chain.from_iterable(("--set", f"{key}={json.dumps(value)}") for key, value in changes.items())
    run = tmp_path / "run"
    assert pretrain.main(["--config", "sentinel2_group", "--output-dir", str(run), *settings]) == 0
    assert len(list((run / "checkpoints").iterdir())) == 1
