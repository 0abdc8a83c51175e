"""Commands of the pages on Sentinel-2 and on S2SR, run in their order on scenes of the places and days they name."""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from cube.build import main
from cube.sentinel2.config import AdoptConfig, GridConfig, Sentinel2Config
from stratacube.flags import flag
from tests.sentinel2 import scenery
from tests.sentinel2.s2sr import write_work_dir
from tests.sentinel2.scenery import Scene, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
SENTINEL2, S2SR = ROOT / "docs" / "sentinel2.md", ROOT / "docs" / "s2sr.md"
DAYS = [datetime(2019, 6, 5, 21, 30, 1), datetime(2019, 8, 30, 21, 30, 1), datetime(2019, 9, 5, 21, 30, 1)]
BANDS = ("B02", "B03", "B04", "B8A")


def _commands(page: Path) -> list[list[str]]:
    """Commands of console blocks, without what calls the program; the others on a page are not run here."""
    found = []
    for text in re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.M | re.S):
        for line in text.splitlines():
            assert line.startswith("$ ")
            found.append(line[2:].removeprefix("python -m cube.build ").removeprefix("stratacube "))
    return [shlex.split(line) for line in found]


def _first(page: Path) -> list[str]:
    (lines,) = re.findall(r"^    python -m cube.build (sentinel2 --work-dir s2 .*?)\n\n", page.read_text(), re.M | re.S)
    return shlex.split(lines.replace("\\\n", " "))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """A work dir of S2SR of three days at Toolik."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenery, "ULY", 7_620_000)
    (tmp_path / "grid.csv").write_text("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax,row,col\n")
    scenes = [make_scene(n, when, bands=BANDS, ulx=400_000) for n, when in enumerate(DAYS)]
    write_work_dir(tmp_path / "old_work_dir", scenes, tmp_path / "grid.csv")
    return scenes


@pytest.mark.slow
def test_commands_of_the_page_on_sentinel2_run(old: list[Scene], capsys: pytest.CaptureFixture[str]) -> None:
    adopting, *builds = _commands(SENTINEL2)
    assert adopting[:2] == ["sentinel2", "adopt"]
    assert main(adopting) == 0
    rows = re.findall(r"^    ((?:period|20\d\d).*)$", SENTINEL2.read_text(), re.M)
    Path("seasons.csv").write_text("\n".join([*rows, "2019-autumn,2019-09-01,2019-09-30"]) + "\n")
    coarse = ["--tr", "0.002", "0.001", "--workers", "1", "--safe-dir", "s2/imagery_raw"]
    assert main([*_first(SENTINEL2), *coarse]) == 0
    files = pd.read_csv("s2/indices/query_manifest.csv")
    assert files["status"].tolist().count("used") == 2
    for words in builds:
        assert main([*words, *coarse, *([] if "--bands" in words else ["--bands", "B02"])]) == 0
    assert set(pd.read_csv("s2/indices/query_manifest.csv")["status"]) == {"used"}
    with xr.open_zarr("seasons/composites.zarr", chunks=None) as store:
        assert store["B02"].sizes["time"] == 3
        assert store["count"].max(["y", "x"]).values.tolist() == [2, 1, 0]
    built = {path.parent.name for path in Path().glob("*/catalog.json")}
    assert built == {"s2", "median", "clearest", "seasons"}


@pytest.mark.slow
def test_commands_of_the_page_on_s2sr_run(old: list[Scene], tmp_path: Path) -> None:
    (tmp_path / "old_work_dir").rename("old_s2_sr")
    grid, build, adopting, longer = _commands(S2SR)
    assert main([*grid, "--bounds", "-150", "68", "-149", "69"]) == 0
    assert main(adopting) == 0
    coarse = ["--tr", "0.002", "0.001", "--workers", "1", "--safe-dir", "s2_sr/imagery_raw", "--bands", "B02", "B8A"]
    assert main([*build, *coarse]) == 0
    assert main([*longer, *coarse]) == 0
    assert set(pd.read_csv("s2_sr/indices/query_manifest.csv")["status"]) == {"used"}
    assert Path("s2_sr/tmp").is_dir()


def test_flags_of_s2sr_are_told() -> None:
    told = set(re.findall(r"^\| `(--[\w-]+)`(?:, `(--[\w-]+)`)? \|", S2SR.read_text(), re.M))
    flags = {name.replace("_", "-") for pair in told for name in pair if name}
    # those of its code (s2sr_pipeline.py), and no others
    theirs = {"--bbox", "--grid-csv", "--start", "--end", "--bands", "--bands-res", "--mask-classes", "--tr", "--tap"}
    assert flags == {*theirs, "--work-dir", "--keep-tmp"}
    models = Sentinel2Config, GridConfig, AdoptConfig
    known = {flag(name) for model in models for name in model.model_fields} | {"--config"}
    for page in (SENTINEL2, S2SR):
        named = {word.replace("_", "-") for word in re.findall(r"(?<![\w-])`(--[a-z][a-z0-9_-]+)", page.read_text())}
        assert named - known == set()


@pytest.mark.parametrize("page", [SENTINEL2, S2SR], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}, target
