"""The command line: the predecessor's flags in both spellings, grids, mistakes, status and verify."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import yaml
from pyproj import Transformer

from cube import demo
from cube.build import main
from cube.testing import DemoArchive, write_sentinel2_archive
from stratacube.claim import CLAIM
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

BAND = "B02"


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of one tile."""
    root = tmp_path_factory.mktemp("safe")
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=number), bands=(BAND,)).write(root)
    return root


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cells of 2 km."""
    path = tmp_path_factory.mktemp("grid") / "grid.csv"
    bounds = (ULX, ULY - 4000, ULX + 4000, ULY)
    flags = ["--cell_size", "2000", "--crs", f"EPSG:{EPSG}", "--bounds", *map(str, bounds)]
    assert main(["make-grid", "--output", str(path), *flags]) == 0
    return path


def build(safe: Path, grid: Path, work: Path, *flags: str) -> int:
    base = ["--safe-dir", str(safe), "--grid_csv", str(grid), "--start", "2021-06-01", "--end", "2021-06-30"]
    return main(["sentinel2", "--work_dir", str(work), *base, "--bands", BAND, "--workers", "1", *flags])


def test_grid_is_the_predecessors_by_default(tmp_path: Path) -> None:
    assert main(["make-grid", "--output", str(tmp_path / "grid.csv"), "--bounds", "-150", "68", "-149", "69"]) == 0
    table = pd.read_csv(tmp_path / "grid.csv")
    assert list(table.columns)[:8] == ["tile_id_rc", "tile_id_geo", "xmin", "ymin", "xmax", "ymax", "row", "col"]
    assert len(table) == 16
    assert (table["xmax"] - table["xmin"] == 0.25).all()


def config_of(work: Path) -> dict[str, Any]:
    stored: dict[str, Any] = yaml.safe_load((work / "config.yaml").read_text())["build"]
    return stored


@pytest.mark.parametrize("sign", ["-", "_"])
@pytest.mark.parametrize("equals", [False, True])
def test_flags_of_the_predecessor_in_both_spellings(
    safe: Path, grid: Path, tmp_path: Path, sign: str, equals: bool
) -> None:
    given: list[tuple[str, list[str]]] = [
        ("work-dir", [str(tmp_path / "w")]),
        ("grid-csv", [str(grid)]),
        ("bbox", ["-149.9", "-68.9", "-149.0", "-68.3"]),
        ("start", ["2021-06-01"]),
        ("end", ["2021-06-30"]),
        ("bands", [BAND]),
        ("bands-res", ["20"]),
        ("mask-classes", ["0", "3", "8", "9"]),
        ("tr", ["40", "40"]),
        ("safe-dir", [str(safe)]),
    ]
    flags = []
    for name, values in given:
        flag = "--" + name.replace("-", sign)
        flags += [f"{flag}={values[0]}"] if equals and len(values) == 1 else [flag, *values]
    switches = ["--tap", f"--keep{sign}tmp", f"--plan{sign}only"]
    box = flags.index("--bbox")
    assert main(["sentinel2", *flags, *switches]) == 2  # the other hemisphere
    flags[box + 1 : box + 5] = ["-156", "67", "-149", "69"]
    assert main(["sentinel2", *flags, *switches]) == 0
    stored = config_of(tmp_path / "w")
    assert stored["bbox"] == [-156.0, 67.0, -149.0, 69.0]
    assert stored["mask_classes"] == [0, 3, 8, 9]
    assert (stored["tr"], stored["tap"], stored["bands_res"]) == ([40.0, 40.0], True, 20)
    plan = pd.read_parquet(tmp_path / "w" / "plan.parquet")
    assert plan[["height", "width"]].to_numpy().tolist() == [[50, 50]] * 4


def test_keep_tmp_keeps_the_scenes(safe: Path, grid: Path, tmp_path: Path) -> None:
    assert build(safe, grid, tmp_path / "w", "--keep-tmp") == 0
    assert len(list((tmp_path / "w" / "tmp" / "scenes").iterdir())) == 3


def test_flags_override_the_file(safe: Path, grid: Path, tmp_path: Path) -> None:
    named = {"bands": ["B03"], "reducer": "mean", "safe-dir": str(safe), "start": "2021-06-01", "end": "2021-06-30"}
    (tmp_path / "s2.yaml").write_text(yaml.safe_dump(named))
    assert build(safe, grid, tmp_path / "w", "--config", str(tmp_path / "s2.yaml"), "--plan-only") == 0
    assert (config_of(tmp_path / "w")["bands"], config_of(tmp_path / "w")["reducer"]) == ([BAND], "mean")


def test_relative_paths_are_the_same_build(
    safe: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(safe, grid, tmp_path / "w") == 0
    monkeypatch.chdir(safe)
    assert build(Path(), Path("..") / grid.relative_to(safe.parent), tmp_path / "w") == 0
    item = json.loads(next((tmp_path / "w" / "items").iterdir()).read_text())
    sources = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert len(sources) == 3
    assert all(s.rpartition("/")[2] in {p.stem for p in safe.iterdir()} for s in sources)


def test_dry_run_writes_nothing(safe: Path, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (*safe.rglob("*"), *grid.parent.rglob("*"), *tmp_path.rglob("*"))}
    assert build(safe, grid, tmp_path / "w", "--dry_run") == 0
    assert "4, 0 of them reached by no product" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in (*safe.rglob("*"), *grid.parent.rglob("*"), *tmp_path.rglob("*"))}
    assert after == before


def _no_grid(folder: Path) -> list[str]:
    (folder / "grid.csv").write_text("tile_id_rc,xmin\na,1\n")
    return ["--grid-csv", str(folder / "grid.csv")]


def _no_text(folder: Path) -> list[str]:
    (folder / "grid.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    return ["--grid-csv", str(folder / "grid.csv")]


def _endless(folder: Path) -> list[str]:
    (folder / "grid.csv").write_text("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax\na,a,0,0,inf,1\n")
    return ["--grid-csv", str(folder / "grid.csv")]


def _too_wide(folder: Path) -> list[str]:
    ring = [[-179.9, 68], [179.9, 68], [179.9, 69], [-179.9, 69], [-179.9, 68]]
    (folder / "grid.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return ["--grid-csv", str(folder / "grid.geojson")]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--bands", "B10"], 2, "band 'B10' is unknown"),
        (["--tap"], 2, "--tap aligns pixels to --tr, which is not given; give --tr DX DY too"),
        (["--bbox", "-150", "69", "-149", "68"], 2, "--bbox has south 69.0 and north 68.0"),
        (["--bbox", "170", "10", "-170", "11"], 2, "touches none of the 4 cells"),
        (["--bbox", "a", "1", "2", "3"], 2, "--bbox is 'a'"),
        (["--bbox", "nan", "1", "2", "3"], 2, "--bbox is 'nan'"),
        (_endless, 2, "line 2: bounds are not a rectangle"),
        (["--cells", "nobody"], 2, "cell nobody is not in the grid of 4 cells"),
        (["--start", "June"], 2, "give ISO 8601"),
        (["--end", "2020-01-01"], 2, "is not after --start"),
        (["--mask-classes", "12"], 2, "scene class 12 is unknown"),
        (["--reducer", "mode"], 2, "reducer 'mode' is unknown"),
        (["--crs", "EPSG:3413"], 2, "--crs is EPSG:3413 but grid file"),
        (_too_wide, 2, "is wider than 180 degrees; cut it in two at the antimeridian"),
        (["--safe-dir", "/nowhere"], 2, "there is no folder /nowhere"),
        (["--items", "/nowhere.json"], 2, "--items and --safe-dir are both given"),
        (["--polygon", "/nowhere.geojson"], 2, "--polygon /nowhere.geojson cannot be read"),
        (["--grid-csv", "/nowhere.csv"], 2, "grid file /nowhere.csv cannot be read"),
        (_no_grid, 2, "has no column tile_id_geo"),
        (_no_text, 2, "cannot be understood"),
        (["--start", "2019-01-01", "--end", "2019-02-01"], 2, "outside of the period; widen"),
    ],
)
def test_mistakes_are_one_sentence(
    safe: Path, grid: Path, tmp_path: Path, flags: Any, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(safe, grid, tmp_path / "w", *(flags(tmp_path) if callable(flags) else flags)) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert said in told
    assert not (tmp_path / "w" / "composites").exists()


def test_a_folder_of_something_else_is_left_alone(
    safe: Path, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.tex").write_text("precious")
    assert build(safe, grid, tmp_path / "w", "--overwrite") == 2
    assert "thesis.tex is there" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def built(safe: Path, grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("build") / "w"
    assert build(safe, grid, work, "--products", "cog", "zarr") == 0
    return work


def test_status_and_verify_of_a_whole_build(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(built)]) == 0
    told = capsys.readouterr().out
    assert f"{built}: Sentinel-2 median composites, B02\n" in told
    assert "4 cells" in told
    assert "done       4\n" in told
    assert main(["verify", str(built)]) == 0
    assert "0 faults" in capsys.readouterr().out


def test_verify_of_what_is_only_planned(
    safe: Path, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(safe, grid, tmp_path / "w", "--plan-only") == 0
    assert main(["status", str(tmp_path / "w")]) == 1
    assert "to do      4" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "w")]) == 1
    assert "4 of 4 tasks have not been built" in capsys.readouterr().out


def test_grid_that_changed_since_is_not_gone_on_with(
    safe: Path, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells of another place under the same names, or a store that begins elsewhere, would be wrong in silence."""
    own = tmp_path / "grid.csv"
    table = pd.read_csv(grid)
    table.iloc[3:].to_csv(own, index=False)
    assert build(safe, own, tmp_path / "w", "--products", "zarr") == 0
    before = {
        p: p.read_bytes()
        for p in (tmp_path / "w").rglob("*")
        if p.is_file() and p.suffix != ".log" and p.parent.name != CLAIM
    }
    for changed in (table, table.iloc[3:].assign(xmin=lambda t: t["xmin"] - 40)):
        changed.to_csv(own, index=False)
        assert build(safe, own, tmp_path / "w", "--products", "zarr") == 2
        assert "the grid or polygon file has changed since" in capsys.readouterr().err
    assert before.items() <= {p: p.read_bytes() for p in (tmp_path / "w").rglob("*") if p.is_file()}.items()
    assert build(safe, own, tmp_path / "w", "--products", "zarr", "--overwrite") == 0
    assert main(["verify", str(tmp_path / "w")]) == 0


def test_percentile_names_its_files_shortly(safe: Path, grid: Path, tmp_path: Path) -> None:
    assert build(safe, grid, tmp_path / "w", "--reducer", "percentile:90") == 0
    assert len(list((tmp_path / "w").glob("composites/*/*_B02_p90_clip.tif"))) == 4
    assert build(safe, grid, tmp_path / "w", "--reducer", "p90") == 0  # the same build


def test_crs_without_a_grid_is_told(safe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    area = ["--safe-dir", str(safe), "--cells", "Q025_R085_C0122", "--crs", "EPSG:3413"]
    period = ["--start", "2021-06-01", "--end", "2021-06-30"]
    assert main(["sentinel2", "--work-dir", str(tmp_path / "w"), *area, *period]) == 2
    assert "without --grid-csv cells are of the grid in EPSG:4326" in capsys.readouterr().err


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-800])


def _blank(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.full(file.shape, -9999, "f4"), 1)


@pytest.mark.parametrize(
    ("pattern", "spoil", "said"),
    [
        ("composites/*/*_B02_median_clip.tif", Path.unlink, "is missing (cell "),
        ("composites/*/*_B02_median_clip.tif", _truncate, "does not decode"),
        ("composites/*/*_B02_median_clip.tif", _blank, "holds 0 values where"),
        ("composites/*/*_count.tif", Path.unlink, "does not decode"),
        ("composites.zarr/B02/c/0/0", Path.unlink, "holds 0 values where"),
        ("composites.zarr/B02/c/0/0", _truncate, "does not decode"),
        ("composites.zarr/count", shutil.rmtree, "composites.zarr/count is missing"),
        ("indices/cells/*.json", Path.unlink, "cannot be read"),
        ("items/*.json", Path.unlink, "which is not there"),
        ("plan.parquet", Path.unlink, "plan.parquet is missing"),
    ],
)
def test_verify_finds_what_is_spoilt(
    built: Path, tmp_path: Path, pattern: str, spoil: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built, tmp_path / "w")
    spoil(next((tmp_path / "w").glob(pattern)))
    assert main(["verify", str(tmp_path / "w")]) == 1
    assert said in capsys.readouterr().out


def test_build_of_an_unknown_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = {"created": FIRST, "digest": "0", "build": {"radar": True}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    assert main(["status", str(tmp_path)]) == 2
    assert "which is not known here (geostationary, sentinel2, chips)" in capsys.readouterr().err


def test_cells_that_are_no_rectangles_keep_to_themselves_in_the_store(safe: Path, tmp_path: Path) -> None:
    """Two triangles share a square of pixels: neither wipes out the other."""
    to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
    corners = [to_degrees.transform(ULX + x, ULY - y) for x, y in ((200, 200), (200, 4000), (4000, 4000), (4000, 200))]
    features = [
        {
            "type": "Feature",
            "id": name,
            "properties": {},
            "geometry": {"type": "Polygon", "coordinates": [[*(corners[i] for i in ring), corners[ring[0]]]]},
        }
        for name, ring in (("west", (0, 1, 2)), ("east", (2, 3, 0)))
    ]
    (tmp_path / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    grid, work = tmp_path / "cells.geojson", tmp_path / "w"
    assert build(safe, grid, work, "--crs", f"EPSG:{EPSG}", "--products", "cog", "zarr") == 0
    assert main(["verify", str(work)]) == 0
    with xr.open_zarr(work / "composites.zarr", mask_and_scale=False, chunks=None) as store:
        stored = int((~np.isnan(store[BAND].values)).sum())
    known = 0
    for path in work.glob(f"composites/*/*_{BAND}_median_clip.tif"):
        with rasterio.open(path) as file:
            known += int((file.read(1) != -9999).sum())
    assert stored == known > 15000


@pytest.fixture
def demo_archive(tmp_path: Path) -> DemoArchive:
    return write_sentinel2_archive(tmp_path / "archive", side=220)


@pytest.mark.slow
def test_demo_accepts_what_is_wrong_on_purpose_and_nothing_else(
    demo_archive: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_abi", lambda output: 0)
    monkeypatch.setattr(demo, "write_sentinel2_archive", lambda root: demo_archive)
    assert main(["demo", "--output-dir", str(tmp_path / "demo")]) == 0
    told = capsys.readouterr().out
    assert "SYNTHETIC" in told
    for name in ("picture", "catalog", "errors"):
        places = [line.split(maxsplit=1)[1] for line in told.splitlines() if line.startswith(f"{name}  ")]
        assert [Path(place).exists() for place in places] == [True]
    next(demo_archive.root.glob("*_20220614T*06WVB*/GRANULE/*/IMG_DATA/R20m/*B04_20m.jp2")).write_bytes(b"")
    assert main(["demo", "--output-dir", str(tmp_path / "again")]) == 2
    assert "left out: ['" in capsys.readouterr().out


def test_what_a_build_would_read_is_told(safe: Path, grid: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ("--safe-dir", str(safe), "--grid-csv", str(grid), "--start", "2021-06-01", "--end", "2021-06-30")
    assert main(["explain", "sentinel2", "--work-dir", str(tmp_path / "out"), *flags, "--bands", BAND, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    read = [Path(f["href"]) for f in files]
    names = ("MTD_MSIL2A.xml", "MTD_TL.xml", "_SCL_20m.jp2", f"_{BAND}_20m.jp2")
    assert sorted(read) == sorted(p for p in safe.rglob("*") if p.name.endswith(names))
    assert [f["size"] for f in files] == [f["parts"][0]["bytes"] for f in files] == [p.stat().st_size for p in read]
    band = next(f["parts"][0] for f in files if f["href"].endswith(f"_{BAND}_20m.jp2"))
    with rasterio.open(next(p for p in read if p.name.endswith(f"_{BAND}_20m.jp2"))) as image:
        share, pixels = (4000 / 20) ** 2 / (image.width * image.height), f"{image.height} x {image.width}"
    assert band["what"] == "on disk"
    told = int(band["note"].removeprefix("at most ").partition("%")[0])
    assert band["note"].endswith(f"% of {pixels} pixels")
    assert share <= told / 100 <= 1.3 * share + 0.01
