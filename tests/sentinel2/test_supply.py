"""A search kept in a file, and files that are brought while scenes are processed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import rasterio

from catalog.sentinel2 import fetch
from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import save_items
from catalog.sentinel2.settings import Account
from catalog.sentinel2.tokens import TokenSource
from cube.build import main
from cube.sentinel2 import supply
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.plan import choose_cells
from cube.sentinel2.run import run_sentinel2
from tests.catalog.cdse_server import USER, Answer, CdseServer, serve
from tests.catalog.stac_server import serve_items
from tests.catalog.test_sentinel2_fetch import download
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, expected_stack, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def _remote(product: Product) -> Product:
    """Return the product as a catalogue lists it, in the bucket."""
    assets = {
        key: replace(asset, href=f"s3://eodata/Sentinel-2/{product.id}.SAFE/{asset.href.partition('.SAFE/')[2]}")
        for key, asset in product.assets.items()
    }
    return replace(product, assets=assets)


def _config(tmp_path: Path, **options: object) -> Sentinel2Config:
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    values = {
        "work_dir": tmp_path / "w",
        "items": tmp_path / "search.json",
        "grid_csv": tmp_path / "grid.csv",
        "access": "local",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": ["B02"],
        "workers": 1,
        **options,
    }
    config: Sentinel2Config = Sentinel2Config.load(None, values)
    return config


def test_signatures_are_kept_in_no_file_and_asked_for_again(
    tmp_path: Path, scenes: list[Scene], caplog: pytest.LogCaptureFixture
) -> None:
    text = (tmp_path / "search.json").read_text()
    signed = text.replace("s3://eodata/", "https://host.org/eodata/").replace('.jp2"', '.jp2?sig=hidden&se=1"')
    (tmp_path / "search.json").write_text(signed)
    config = _config(tmp_path, access="https")
    folder = Sentinel2Folder(config.work_dir)
    cells = choose_cells(config)
    first = supply.find(config, folder, cells, None)
    hrefs = {a.href for p in first.products for k, a in p.assets.items() if k == "B02_20m"}
    assert len(hrefs) == len(scenes)
    assert all(href.endswith(".jp2?sig=hidden&se=1") for href in hrefs)
    assert "hidden" not in "".join(p.read_text() for p in folder.root.rglob("*") if p.is_file())
    assert supply.find(config, folder, cells, None) == first
    (tmp_path / "search.json").unlink()
    plain = supply.find(config, folder, cells, None)
    assert {a.href for p in plain.products for k, a in p.assets.items() if k == "B02_20m"} == {
        href.partition("?")[0] for href in hrefs
    }
    assert "the signatures of addresses, which are kept in no file, cannot be had again" in caplog.text


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    scenes = [make_scene(n, FIRST + timedelta(days=n)) for n in range(6)]
    products = [read_safe(scene.write(tmp_path / "safe")) for scene in scenes]
    save_items(tmp_path / "search.json", [item_from_product(_remote(p)) for p in products])
    return scenes


def _mosaic(work: Path) -> np.ndarray:
    out = np.full((200, 200), np.nan, "f4")
    for path in work.glob("composites/*/*_B02_median_clip.tif"):
        with rasterio.open(path) as file:
            row, col = round((ULY - file.transform.f) / 20), round((file.transform.c - ULX) / 20)
            data = file.read(1)
        out[row : row + 100, col : col + 100] = np.where(data == -9999, np.nan, data)
    return out


def _expected(scenes: list[Scene]) -> np.ndarray:
    stack = expected_stack(scenes, "B02", 200, 200)
    empty = np.isnan(stack).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0))


def test_saved_search_is_planned_and_built_from_a_mirror(tmp_path: Path, scenes: list[Scene]) -> None:
    answer = run_sentinel2(_config(tmp_path, dry_run=True))
    assert answer.code == 0
    assert any(
        "download   24 files" in line for line in answer.lines
    )  # a band, the classes and two documents of six products
    config = _config(tmp_path)
    assert run_sentinel2(_config(tmp_path, plan_only=True)).code == 0
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw")
    assert run_sentinel2(config).code == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))
    assert len(pd.read_csv(config.work_dir / "indices" / "query_manifest.csv")) == 6
    assert len(pd.read_csv(config.work_dir / "indices" / "scene_index.csv")) == 6


def test_a_file_that_cannot_be_had_drops_its_scene_only(tmp_path: Path, scenes: list[Scene]) -> None:
    config = _config(tmp_path)
    assert run_sentinel2(_config(tmp_path, plan_only=True)).code == 0
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw")
    next((config.work_dir / "imagery_raw").glob(f"{scenes[3].spec.id}.SAFE/**/*B02_20m.jp2")).unlink()
    assert run_sentinel2(config).code == 1
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected([s for s in scenes if s is not scenes[3]]))
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {scenes[3].spec.id}
    assert "`access=https`" in errors["reason"].iloc[0]
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw", dirs_exist_ok=True)
    assert run_sentinel2(config).code == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


def _publish(cdse: CdseServer, folder: Path) -> list[Product]:
    """Give the server the files of SAFE products; return the products as its catalogue lists them."""
    listed = []
    for safe in sorted(folder.glob("*.SAFE")):
        product = read_safe(safe)
        assets = {}
        for key, asset in product.assets.items():
            content = Path(asset.href).read_bytes()
            href = cdse.put(cdse.zipper(safe.name, *Path(asset.href).relative_to(safe).parts), content)
            assets[key] = replace(asset, href=href, checksum=hashlib.md5(content).hexdigest())
        listed.append(replace(product, assets=assets))
    return listed


def _as_stac(cdse: CdseServer, products: list[Product]) -> None:
    """Let the server answer searches as a STAC API does."""
    page = {"type": "FeatureCollection", "features": [item_from_product(p) for p in products], "links": []}
    conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
    search = {"rel": "search", "href": f"{cdse.url}/stac/search", "method": "POST", "type": "application/geo+json"}
    links = [search, {"rel": "self", "href": f"{cdse.url}/stac"}, {"rel": "root", "href": f"{cdse.url}/stac"}]
    root = {"type": "Catalog", "stac_version": "1.1.0", "id": "here", "description": "here", "links": links}

    def answer(path: str, asked: dict[str, Any]) -> Answer:
        document = page if path.endswith("/search") else {**root, "conformsTo": conforms}
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    cdse.search = answer


def test_search_download_and_composites_in_one_command(
    tmp_path: Path,
    scenes: list[Scene],
    cdse: CdseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    products = _publish(cdse, tmp_path / "safe")
    _as_stac(cdse, products)
    band = [p.assets["B02_20m"].href for p in products]
    # one token refused, a busy server, a broken line, spoilt bytes; and one file that the server lost
    cdse.fail(band[0], "401")
    cdse.fail(band[1], "429:0")
    cdse.fail(band[2], "truncate:2000")
    cdse.fail(band[3], "spoil")
    lost = cdse.files.pop(unquote(urlsplit(band[4]).path))
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    config = _config(tmp_path)
    work = ["--work_dir", str(config.work_dir), "--grid_csv", str(config.grid_csv), "--stac-url", f"{cdse.url}/stac"]
    period = ["--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02", "--workers", "1"]
    assert main(["sentinel2", *work, *period, "--dry-run"]) == 0
    assert "download   24 files" in capsys.readouterr().out
    assert not cdse.logins
    assert main(["sentinel2", *work, *period]) == 1
    assert "of 12 TB in 30 days" in capsys.readouterr().err  # how much of the quota is used
    missing = next(s for s in scenes if s.spec.id == products[4].id)
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected([s for s in scenes if s is not missing]))
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {missing.spec.id}
    assert "B02_20m" in errors["reason"].iloc[0]
    assert {fields.get("username") for fields in cdse.logins if fields["grant_type"] == "password"} == {USER}
    fetched = sorted(p.name for p in (config.work_dir / "imagery_raw").rglob("*.jp2"))
    index = pd.read_csv(config.work_dir / "indices" / "scene_files.csv")
    assert sorted(Path(p).name for p in index["path"][index["fetched"] == 1]) == fetched
    assert len(fetched) == 11  # the band and the scene classes of six products, but the one
    # found again, the same command brings this file and no other
    cdse.put(band[4], lost)
    cdse.requests.clear()
    assert main(["sentinel2", *work, *period]) == 0
    assert [p for p, _, _ in cdse.requests if p.startswith("/odata")] == [unquote(urlsplit(band[4]).path)]
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))
    assert main(["verify", str(config.work_dir)]) == 0


def test_search_of_a_real_server_and_files_by_s3(
    tmp_path: Path,
    scenes: list[Scene],
    cdse: CdseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = []
    for safe in sorted((tmp_path / "safe").glob("*.SAFE")):
        product = _remote(read_safe(safe))
        items.append({**item_from_product(product), "collection": "sentinel-2-l2a"})
        for asset in product.assets.values():
            name = asset.href.removeprefix("s3://")
            cdse.files[f"/{name}"] = (safe / asset.href.partition(".SAFE/")[2]).read_bytes()
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    config = _config(tmp_path)
    with serve_items(tmp_path, items) as url:
        command = ["sentinel2", "--work-dir", str(config.work_dir), "--grid-csv", str(config.grid_csv)]
        command += ["--stac-url", url, "--access", "s3", "--start", "2021-06-01", "--end", "2021-06-30"]
        command += ["--bands", "B02", "--workers", "1"]
        assert main([*command, "--plan-only"]) == 0
        assert not cdse.requests
    assert main(command) == 0  # the search is kept: the server is gone
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))
    assert not cdse.logins


def test_refused_password_is_one_sentence_and_nothing_is_built(
    tmp_path: Path,
    scenes: list[Scene],
    cdse: CdseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_items(tmp_path / "search.json", [item_from_product(p) for p in _publish(cdse, tmp_path / "safe")])
    wrong = TokenSource(lambda: Account(USER, "guessed wrongly"), f"{cdse.url}/token", pause=0.01)
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse, tokens=wrong))
    config = _config(tmp_path)
    command = ["sentinel2", "--work-dir", str(config.work_dir), "--items", str(config.items)]
    command += ["--grid-csv", str(config.grid_csv), "--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02"]
    assert main(command) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "CDSE_PASSWORD" in told[0]
    assert "guessed wrongly" not in "".join(
        p.read_text(errors="ignore") for p in config.work_dir.rglob("*") if p.is_file()
    )
    assert len(cdse.logins) == 1
    assert not (config.work_dir / "composites").exists()
    # with the right one the same command goes on
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    assert main(command) == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))


def test_download_without_an_account_is_one_sentence(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CDSE_USERNAME", "CDSE_PASSWORD", "CDSE_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    search = json.loads(
        (tmp_path / "search.json").read_text().replace("s3://eodata", "https://download.dataspace.copernicus.eu")
    )
    (tmp_path / "search.json").write_text(json.dumps(search))
    config = _config(tmp_path)
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o644)
    command = ["sentinel2", "--work-dir", str(config.work_dir), "--items", str(config.items)]
    command += ["--grid-csv", str(config.grid_csv), "--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02"]
    assert main(command) == 2
    assert "CDSE_USERNAME is not set" in capsys.readouterr().err
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD_FILE", str(tmp_path / "password"))
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "can be used by others (mode 644)" in told
    assert "secret" not in told
