"""A series of S2SR's carried on: its rule, written anew by NumPy and pyproj, and a build with the preset."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from cube.job.inspect import verify
from cube.sentinel2.config import DEFAULT_STEP, Sentinel2Config
from cube.sentinel2.explain import explain
from cube.sentinel2.lazy import open_composites
from cube.sentinel2.run import run_sentinel2
from stratacube.errors import UsageError
from tests.benchmarks.differences import PAGE, page
from tests.benchmarks.earlier_rules import CompositeRule, Scene, composite
from tests.sentinel2.scenery import EPSG, FIRST, SIDE, ULX, ULY, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def _config(work: Path, **options: object) -> Sentinel2Config:
    given = {"work_dir": work, "start": "2021-06-01", "end": "2021-06-30", "bands": ["B02"], "workers": 1, **options}
    config: Sentinel2Config = Sentinel2Config.load(None, given)
    return config


def _decoded(config: Sentinel2Config) -> float:
    """Per cent of the scenes that a build is told to decode, the most of all files."""
    notes = [part.note for read in explain(config) for part in read.parts]
    return max(float(found[1]) for found in (re.search(r"at most (\d+)%", note) for note in notes) if found)


def test_the_preset_is_s2srs_rule(tmp_path: Path) -> None:
    """Nearest, nothing below 0, pixels from the corner of each cell; and what it is, is said wherever it lies."""
    scenes = []
    for day in range(3):
        made = make_scene(day, FIRST + timedelta(days=5 * day), bands=("B02",))
        made.values["B02"] -= 1200  # half of it below 0
        made.values["B02"] = np.maximum(made.values["B02"], -999)
        made.write(tmp_path / "safe")
        counts = np.clip(made.values["B02"] + 1000, 1, 65535)
        scenes.append(Scene(str(day), counts, made.scl, -1000, EPSG, ULX, ULY))
    to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
    west, south = to_degrees.transform(ULX + 400, ULY - SIDE * 20 + 400)
    east, north = to_degrees.transform(ULX + SIDE * 20 - 400, ULY - 400)
    cells = {f"C{i}": (west + i * (east - west) / 2, south, west + (i + 1) * (east - west) / 2, north) for i in (0, 1)}
    rows = [f"{n},{n},{','.join(map(repr, map(float, b)))},0,{i}" for i, (n, b) in enumerate(cells.items())]
    (tmp_path / "grid.csv").write_text("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax,row,col\n" + "\n".join(rows))
    common = {"safe_dir": tmp_path / "safe", "grid_csv": tmp_path / "grid.csv", "odd_scenes": "mark"}
    config = _config(
        tmp_path / "w", preset="s2sr", products=["cog", "zarr"], zarr_stores="cell", also=["months"], tap=True,
        tr=[DEFAULT_STEP, DEFAULT_STEP], **common,
    )  # fmt: skip
    assert run_sentinel2(config).code == 0
    assert verify(tmp_path / "w").code == 0
    rule = CompositeRule(resampling="nearest", negatives_at_zero=True, own_corner=True)
    for name, bounds in cells.items():
        expected, x, y = composite(scenes, bounds, DEFAULT_STEP, rule)
        with rasterio.open(tmp_path / "w" / "composites" / name / f"cell_{name}_B02_median_clip.tif") as file:
            found = np.where(file.read(1) == -9999, np.nan, file.read(1))
            assert (file.transform.c, file.transform.f) == (bounds[0], bounds[3])
            assert file.tags()["PRESET"] == "s2sr"
        assert found.shape == expected.shape
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        assert same.mean() > 0.999  # a centre on the edge of two pixels is either's
        assert np.nanmin(found) == 0
        own = open_composites(tmp_path / "w" / "items" / f"{name.lower()}.json")
        np.testing.assert_allclose(own["x"], x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(own["y"], y, rtol=0, atol=1e-9)
        item = json.loads((tmp_path / "w" / "items" / f"{name.lower()}.json").read_text())
        assert item["properties"]["stratacube:preset"] == "s2sr"
        assert "stratacube:lattice_row" not in item["properties"]
    report = (tmp_path / "w" / "report.md").read_text()
    assert "| Preset | s2sr |" in report
    assert "| Products | cog zarr, a store a cell |" in report
    assert "| Layers besides | months |" in report
    (place,) = re.findall(r'open_composites\("([^"]+)"\)', report)
    assert open_composites(tmp_path / "w" / place).sizes["x"] > 0  # the whole of it is refused, as below
    shares = [_decoded(c) for c in (config, _config(tmp_path / "x", resampling="nearest", **common))]
    assert shares[0] == pytest.approx(shares[1], abs=3)
    assert 50 < shares[0] <= 100
    with pytest.raises(UsageError, match="counted from their own corners"):
        open_composites(tmp_path / "w")


def test_ours_is_no_preset(tmp_path: Path) -> None:
    plain = _config(tmp_path, bbox=[-150, 68, -149, 69])
    assert (plain.resampling, plain.negatives, plain.origin, plain.preset) == ("bilinear", "keep", "lattice", None)
    assert not {"preset", "origin", "negatives", "also", "zarr_stores"} & plain.described().keys()
    named = _config(tmp_path, bbox=[-150, 68, -149, 69], preset="s2sr")
    assert named.described()["preset"] == "s2sr"
    assert named.digest() != plain.digest()
    with pytest.raises(UsageError, match="`preset` s2sr means `resampling` nearest, and bilinear is given"):
        _config(tmp_path, bbox=[-150, 68, -149, 69], preset="s2sr", resampling="bilinear")
    with pytest.raises(UsageError, match="give `zarr_stores` cell"):
        _config(tmp_path, bbox=[-150, 68, -149, 69], preset="s2sr", products=["zarr"])
    with pytest.raises(UsageError, match="`products` are cog; add zarr to them"):  # which wrote no store at all
        _config(tmp_path, bbox=[-150, 68, -149, 69], zarr_stores="cell")
    for name, value, form in (("codec", "lz4", "cog"), ("compress", "DEFLATE", "zarr")):
        with pytest.raises(UsageError, match=f"`{name}` {value} says how .* `products` are {form}; add"):
            _config(tmp_path, bbox=[-150, 68, -149, 69], products=[form], **{name: value})
        _config(tmp_path, bbox=[-150, 68, -149, 69], products=["cog", "zarr"], **{name: value})
    with pytest.raises(UsageError, match="`also` date date name one twice"):
        _config(tmp_path, bbox=[-150, 68, -149, 69], also=["date", "date"])


@pytest.mark.slow
@pytest.mark.long
def test_the_page_of_differences_is_what_its_script_says(data_folder: Path) -> None:
    """Causes word for word; numbers as near as other versions of libraries may make them."""
    if not (data_folder / "sentinel2" / "exeter_20m_2024").is_dir() or not (data_folder / "abi_fulldisk_l2").is_dir():
        pytest.skip("the sample data that the page is made of are not here")
    number = re.compile(r"\d+(?:\.\d+)?")
    made, kept = page(data_folder).splitlines(), PAGE.read_text().splitlines()
    assert [number.sub("", line) for line in made] == [number.sub("", line) for line in kept]
    for ours, theirs in zip(made, kept, strict=True):
        found, expected = (np.array(number.findall(line), "f8") for line in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.2)
