"""One folder of SAFE products, many builds: each file comes once, whoever needs it first."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catalog.sentinel2 import download as downloading
from catalog.sentinel2 import fetch
from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.fetch import Fetcher, downloader
from catalog.sentinel2.saved import save_items
from catalog.sentinel2.settings import account_folder
from catalog.sentinel2.transfers import Transfers
from cube.build import main
from tests.catalog.cdse_server import CdseServer, serve
from tests.catalog.test_sentinel2_fetch import SIZE, download, product_at
from tests.sentinel2.test_supply import _config, _expected, _mosaic, _publish, scenes

__all__ = ["scenes"]

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


def test_a_file_comes_once_where_the_kernel_has_no_locks(
    tmp_path: Path, cdse: CdseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "lock", lambda *_, **__: True)  # as on Lustre mounted without flock
    product = product_at(cdse, ("B02_20m", "B03_20m"))
    together = threading.Barrier(3)
    paths: list[set[str]] = []

    def build() -> None:
        with Fetcher(tmp_path, ["B02_20m", "B03_20m"], download=download(cdse)) as fetcher:
            together.wait()
            got = fetcher.submit(product).result(30)
        assert got.failures == ()
        paths.append({a.href for a in got.product.assets.values()})

    builds = [threading.Thread(target=build) for _ in range(3)]
    for one in builds:
        one.start()
    for one in builds:
        one.join()
    assert len(paths) == 3
    assert paths[0] == paths[1] == paths[2]
    asked = Counter(path for path, _, _ in cdse.requests if path.startswith("/odata"))
    assert set(asked.values()) == {1}
    assert len(asked) == 3
    assert [p.name for p in (tmp_path / ".claims").iterdir()] == []


def test_the_budget_of_an_account_is_one_whatever_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("CDSE_USERNAME", "someone")
    monkeypatch.setenv("CDSE_PASSWORD_FILE", str(tmp_path / "keys" / "password"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        downloader(tmp_path / name)
        assert not list((tmp_path / name).iterdir())
    assert len(list((tmp_path / "keys").glob(".cdse-*"))) == 1


def test_what_an_account_received_is_counted_beside_its_credentials(
    tmp_path: Path, cdse: CdseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("CDSE_USERNAME", "someone")
    monkeypatch.setenv("CDSE_PASSWORD_FILE", str(tmp_path / "keys" / "password"))
    account_folder().mkdir(mode=0o700)  # type: ignore[union-attr]  (as the downloader makes it)
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    told, month = [], 500_000_000_000
    Transfers(account_folder()).count(month)  # type: ignore[arg-type]  (what other folders received)
    for name in ("a", "b"):
        with Fetcher(tmp_path / name, ["B02_20m"]) as fetcher:
            assert fetcher.submit(product_at(cdse)).result(30).failures == ()
        told.append(fetcher.meter.account.used())  # type: ignore[union-attr]
        assert fetcher.transfers.used() == 2 * SIZE
        assert "0.500 of 12 TB" in fetcher.meter.line()
    assert told == [month + 2 * SIZE, month + 4 * SIZE]


def test_builds_share_an_imagery_dir(
    tmp_path: Path,
    scenes: list[object],
    cdse: CdseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_items(tmp_path / "search.json", [item_from_product(p) for p in _publish(cdse, tmp_path / "safe")])
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    config = _config(tmp_path)
    common = ["sentinel2", "--items", str(config.items), "--grid-csv", str(config.grid_csv), "--workers", "1"]
    common += ["--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02", "--imagery-dir", str(tmp_path / "all")]
    assert main([*common, "--work-dir", str(config.work_dir)]) == 0
    asked = len(cdse.requests)
    assert asked
    assert main([*common, "--work-dir", str(tmp_path / "other"), "--reducer", "mean"]) == 0
    assert len(cdse.requests) == asked
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))  # type: ignore[arg-type]
    assert not (config.work_dir / "imagery_raw").exists()
    assert len(list((tmp_path / "all").glob("*.SAFE"))) == 6
    # and what is told before a build knows the folder
    for first in (["explain"], []):
        capsys.readouterr()
        dry = [] if first else ["--dry-run"]
        assert main([*first, *common, "--work-dir", str(tmp_path / "third"), "--reducer", "p25", *dry]) == 0
        told = capsys.readouterr().out
        assert "on disk" in told if first else re.search(r"download +0 files", told)
        assert not first or not re.search(r"download\b.*[1-9]", told)
    # the builds go, the archive stays; and it does not lie where a build has its own files
    assert main([*common, "--work-dir", str(tmp_path / "other"), "--reducer", "mean", "--overwrite"]) == 0
    assert len(cdse.requests) == asked
    capsys.readouterr()
    inside = ["--work-dir", str(tmp_path / "x"), "--imagery-dir", str(tmp_path / "x" / "tmp")]
    assert main([*common, *inside]) == 2
    assert "--imagery-dir" in capsys.readouterr().err
