"""Fixtures shared by all tests: the real samples, a small archive, a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from multiprocessing import forkserver
from pathlib import Path

import pytest

from cube.job.engine.local import forking_server
from cube.testing import write_abi_archive
from tests.s3_server import running_s3

ROOT = Path(__file__).resolve().parents[1]
START = datetime(2020, 7, 1, 16)
CHANNELS = (1, 2, 3, 7, 13)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: else one worker of several ends alone with it."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves anything in the user's cache folder."""
    monkeypatch.setenv("STRATACUBE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def _server_with_torch() -> None:
    """Processes are forked from a server that knows PyTorch and the trainer, whatever server the tests before began."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    forking_server(("loaders.tiles", "loaders.cubes", "loaders.mixture", "training.trainer"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real samples: STRATACUBE_DATA, else ../shared/data beside the checkout."""
    for folder in (os.environ.get("STRATACUBE_DATA"), ROOT.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("real samples are not here; set STRATACUBE_DATA to the folder that holds abi/ and sentinel2/")


@pytest.fixture(scope="session")
def abi_data(data_folder: Path) -> Path:
    """Real ABI files, laid out as in NOAA's buckets."""
    folder = data_folder / "abi"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="session")
def ami_data(data_folder: Path) -> Path:
    """Real files of GK-2A's imager: eight bands of one scan of the local area."""
    folder = data_folder / "gk2a"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of five bands, 10 minutes apart, 600 x 600 pixels of 1 km: several chunks a file."""
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, start=START, hours=1, channels=CHANNELS, shape_2km=(300, 300), workers=1)
    return root


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of a real S3 server without any bucket."""
    with running_s3() as endpoint:
        yield endpoint
