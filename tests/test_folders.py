"""No file outside of its folder, none over another's, nothing without bound: names and sizes from elsewhere."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.places import local_candidates, place
from cube.build import main
from cube.config import AbiConfig
from cube.geostationary.plan_table import PlanTable
from cube.job.ledger import Entry, Ledger
from cube.job.run import Run
from cube.sentinel2.grid import COLUMNS, read_cells
from cube.sentinel2.lattice import Lattice
from cube.sentinel2.plan import read_geometry
from loaders import stats
from stratacube.errors import SourceError, UsageError
from stratacube.files import Written
from stratacube.inside import LONGEST_NAME, is_inside, why_not_a_name
from stratacube.parquet import read_frame, write_frame
from training import probe


def grid_file(path: Path, name: str) -> Path:
    frame = pd.DataFrame([[name, "a", 0.0, 0.0, 1.0, 1.0, 0, 0]], columns=COLUMNS)
    frame.to_csv(path, index=False)
    return path


NO_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/x",
    "a\\b",
    "a\nb",
    "a\0b",
    "\u202egnp",
    "x" * (LONGEST_NAME + 1),
    "\u00e9" * 80,
]
NAMES = ["a", "...", ".hidden", "a..b", "Q025_R083_C0119", "x" * LONGEST_NAME, "Z\u00fcrich"]


def test_what_can_be_the_name_of_a_file(tmp_path: Path) -> None:
    assert [name for name in NO_NAMES if not why_not_a_name(name)] == []
    for name in NAMES:
        assert why_not_a_name(name) is None
        (tmp_path / f"cell_{name}_B02_percentile_clip.tif.{'0' * 8}.part").touch()
        assert (tmp_path / name).resolve().parent == tmp_path


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a", True),
        ("a/b/c.tif", True),
        ("a/..b/c", True),
        ("", False),
        (".", False),
        ("/a", False),
        ("//a", False),
        ("..", False),
        ("../a", False),
        ("a/../../b", False),
        ("a/..", False),
        ("a\0b", False),
    ],
)
def test_what_lies_in_a_folder(path: str, inside: bool, tmp_path: Path) -> None:
    assert is_inside(path) is inside
    if inside:
        assert (tmp_path / path).resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "x" * 151])
@pytest.mark.parametrize("form", ["csv", "geojson"])
def test_a_cell_called_as_a_folder_is_refused(name: str, form: str, tmp_path: Path) -> None:
    path = grid_file(tmp_path / "grid.csv", name)
    if form == "geojson":
        ring = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
        path = tmp_path / "grid.geojson"
        geometry = {"type": "Polygon", "coordinates": [ring]}
        path.write_text(json.dumps({"id": name, "type": "Feature", "geometry": geometry}))
    with pytest.raises(UsageError, match=r"has a cell '.*; ids become names of files and folders"):
        read_cells(path)
    work = tmp_path / "work"
    period = ("--start", "2021-06-01", "--end", "2021-06-02")
    assert main(["sentinel2", "--work-dir", str(work), "--grid-csv", str(path), *period]) == 2
    assert sorted(os.listdir(tmp_path)) == sorted({"grid.csv", path.name, *(["work"] if work.exists() else [])})


PRODUCT: dict[str, Any] = {
    "tile": "32TMT",
    "platform": "sentinel-2a",
    "datatake_start": None,
    "baseline": "05.00",
    "processing_time": None,
    "bbox": (0, 0, 1, 1),
}


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a\0", "", "x" * 200])
def test_a_product_does_not_lie_outside_of_its_folder(name: str) -> None:
    product = Product(id=name, assets={}, **PRODUCT)
    with pytest.raises(SourceError, match="not a path inside of a product"):
        place(product, "B02_20m", Asset(href="https://host.org/x/B02.tif"))


@pytest.mark.parametrize(
    "href",
    [
        "https://host.org/a.SAFE/../../x.jp2",
        "https://host.org/a.SAFE/%2e%2e/%2e%2e/x.jp2",
        "https://host.org/Products(1)/Nodes(a.SAFE)/Nodes(..)/Nodes(x.jp2)/$value",
        "s3://eodata/a.SAFE/../../../x.jp2",
    ],
)
def test_a_file_of_a_product_does_not_lie_outside_of_it(href: str) -> None:
    product = Product(id="a", assets={}, **PRODUCT)
    with pytest.raises(SourceError, match="not a path inside of a product"):
        place(product, "B02_20m", Asset(href=href))


@pytest.mark.parametrize("key", ["../../../../etc/a.jp2", "/etc/a.jp2", "x/../../a.jp2"])
def test_a_mirror_is_not_left(key: str, tmp_path: Path) -> None:
    product = Product(id="a", assets={}, **PRODUCT)
    found = local_candidates(product, "B02_20m", Asset(href=f"s3://eodata/{key}"), [tmp_path])
    assert [p for p in found if not Path(os.path.normpath(p)).is_relative_to(tmp_path)] == []


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.ledger = root, root / "ledger.jsonl"


@pytest.mark.parametrize("path", ["../victim.tif", "{above}/victim.tif", "tmp/../../victim.tif"])
def test_the_ledger_of_another_removes_nothing_outside(path: str, tmp_path: Path) -> None:
    """A file that is not as its ledger says is removed, to be made anew; and parts beside it are, as a killed run's."""
    folder = tmp_path / "build"
    folder.mkdir()
    for name in ("victim.tif", "victim.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "build" / "own.tif").write_text("spoilt")
    ledger = Ledger(folder / "ledger.jsonl")
    listed = (Written("own.tif", 1, "0"), Written(path.format(above=tmp_path), 1, "0"))
    for key, files in (("cell a", listed[:1]), ("cell b", listed[1:])):
        ledger.record(Entry(key, "done", files=files))
    run = object.__new__(Run)
    run.folder, run.ledger, run._listing, run._warned = _Folder(folder), Ledger(ledger.path), None, set()  # type: ignore[assignment]
    run.alone, run._expected = True, lambda entry: ()  # type: ignore[method-assign, assignment]
    assert run.done(["cell a", "cell b"]) == set()
    assert sorted(os.listdir(tmp_path)) == ["build", "victim.part", "victim.tif"]
    assert not (folder / "own.tif").exists(), "what is its own is removed"


def test_the_plan_of_another_with_tiles_outside_is_refused(small_archive: Path, tmp_path: Path) -> None:
    given = ["--local-data-dir", str(small_archive), "--domain", "M1", "--channels", "13", "--tile-size", "64"]
    shape = ["--grid", "2km", "--steps", "1", "--num-tiles", "2", "--workers", "1", "--plan-only"]
    assert main(["abi", *given, *shape, "--output-dir", str(tmp_path)]) == 0
    frame = read_frame(tmp_path / "plan.parquet")
    frame.loc[1, "tile_id"] = "../../b"
    write_frame(tmp_path / "plan.parquet", frame)
    with pytest.raises(SourceError, match=r"has a tile '../../b', which has a slash"):
        PlanTable(tmp_path / "plan.parquet").frame()


# make-grid, and other commands that write one file


SMALL = ("--cell-size", "5", "--bounds", "0", "0", "10", "10")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["catalog.json", "grid.txt", "grid", "grid.csv.gz", ".csv", "README.md"])
def test_a_grid_has_the_name_of_one(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make-grid", "--output", str(tmp_path / name), *SMALL]) == 2
    assert f"--output is {name}, and a grid is a .csv or a .geojson" in said(capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["grid.csv", "grid.geojson", "GRID.CSV"])
def test_a_grid_is_written_again_and_nothing_else_is_written_over(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    for cells in ("5", "10"):
        assert main(["make-grid", "--output", str(path), "--cell-size", cells, *SMALL[2:]]) == 0
    assert len(read_cells(path)) == 1
    for other in ("a,b\n1,2\n", '{"type": "Catalog"}', '{"type": "FeatureCollection", "features": []}', "", "\0"):
        path.write_text(other)
        assert main(["make-grid", "--output", str(path), *SMALL]) == 2
        assert "is there and is not a grid; give another --output, or remove it" in said(capsys)
        assert path.read_text() == other


def test_a_grid_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make-grid", "--output", str(tmp_path / "gird" / "a.csv"), *SMALL]) == 2
    assert f"folder {tmp_path / 'gird'} of --output is not there; make it" in said(capsys)
    (tmp_path / "a.csv").mkdir()
    assert main(["make-grid", "--output", str(tmp_path / "a.csv"), *SMALL]) == 2
    assert "is not a grid" in said(capsys)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_statistics_and_probes_are_not_written_over_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "catalog.json"
    catalog.write_text('{"type": "Catalog"}')
    for command in (stats.main, probe.main):
        assert command(["nothing", "--output", str(catalog)]) == 2
        assert "is there and does not hold" in said(capsys)
    assert catalog.read_text() == '{"type": "Catalog"}'


# without bound

BIG = "more than the 5000000 that a grid may have; choose a larger --cell-size or smaller --bounds"
EUROPE = ("--bounds", "2500000", "1500000", "6500000", "5500000", "--crs", "EPSG:3035")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--cell-size", "1", *EUROPE), f"4e+06 x 4e+06 cells of 1.0 are {BIG}"),
        (("--cell-size", "0.01", "--bounds", "-180", "-90", "180", "90"), f"18000 x 36000 cells of 0.01 are {BIG}"),
        (("--cell-size", "1e-300"), f"3e+301 x 3.6e+302 cells of 1e-300 are {BIG}"),
        (("--cell-size", "5e-324"), f"inf x inf cells of 5e-324 are {BIG}"),
        (("--bounds", "-1e308", "0", "1e308", "1"), f"4 x inf cells of 0.25 are {BIG}"),
        (("--bounds", "1e308", "0", "-1e308", "0"), f"0 x -inf cells of 0.25 are {BIG}"),
        (("--bounds", "0", "0", "0", "0"), "choose bounds that are a whole number of cells"),
        (("--bounds", "10", "10", "0", "0"), "choose bounds that are a whole number of cells"),
    ],
)
def test_a_grid_without_bound(
    flags: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert main(["make-grid", "--output", str(tmp_path / "grid.csv"), *flags]) == 2
    assert told in said(capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert time.monotonic() - begin < 5
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (1e-6, "250000 x 250000 pixels of 1e-06 x 1e-06, and a cell may have 1073741824"),
        (1e-300, "2.5e+299 x 2.5e+299 pixels"),
        (5e-324, "inf x inf pixels"),
    ],
)
def test_a_cell_without_bound(step: float, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Lattice("EPSG:4326", step, step).window(8.0, 47.0, 8.25, 47.25)
    assert told in str(caught.value)
    assert "choose a larger `tr`" in str(caught.value)
    assert Lattice("EPSG:32632", 1.0, 1.0).window(0, 0, 32768, 32768).height == 32768


@pytest.mark.parametrize(
    ("corner", "told"),
    [([1, 1e9], "latitude 1e+09"), ([1, 91], "latitude 91"), ([1, -1e300], "latitude -1e+300"), ([1e9, 1], "1e+09")],
)
def test_an_area_that_is_not_in_degrees(corner: list[float], told: str, tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], corner, [0, 0]]]}))
    with pytest.raises(UsageError, match="and GeoJSON has degrees") as caught:
        read_geometry(path)
    assert told in str(caught.value)
    with pytest.raises(UsageError, match=r"wider than 180|and GeoJSON has degrees"):
        read_cells(path, "EPSG:3035")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    for name in ("grid.csv", "area.geojson"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3_000_000_000)  # a hole: it takes no room
    with pytest.raises(UsageError, match=r"grid\.csv has 3 GB, and 2 GB are the most"):
        read_cells(tmp_path / "grid.csv")
    with pytest.raises(UsageError, match=r"`polygon` .*area\.geojson has 3 GB, and 2 GB are the most"):
        read_geometry(tmp_path / "area.geojson")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("num_tiles", 10**12, "give 1e+07 or less"),
        ("num_tiles", 10**30, "give 1e+07 or less"),
        ("seed", 10**30, "give 9.22337e+18 or less"),
    ],
)
def test_a_plan_without_bound(key: str, value: int, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"`{key}` is {value}: {told}")):
        AbiConfig.check({"output_dir": "/x", key: value})
    assert AbiConfig.check({"output_dir": "/x", key: 10**7}).model_dump()[key] == 10**7


def test_a_tile_larger_than_the_scan_is_refused_with_both_sizes(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--domain", "M1", "--channels", "13", "--num-tiles", "1", "--tile-size", "1000000")
    assert main(["abi", "--output-dir", str(tmp_path), "--local-data-dir", str(small_archive), *flags]) != 0
    assert "a tile of 1000000 x 1000000 pixels does not fit in sector M1 of" in said(capsys)
