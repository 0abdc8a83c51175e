"""One small published build of each source, shared by all that open them: on disk, moved, and on S3."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import s3fs

from cube.config import AbiConfig
from cube.geostationary.run import run_abi
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import run_sentinel2
from cube.testing import write_abi_archive
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

CHANNELS = [1, 2, 3, 5, 7, 8, 10, 13, 15]
BANDS = ("B02", "B03", "B04", "B8A")


@dataclass(frozen=True)
class Published:
    """Builds, as folders on disk or URLs below a bucket."""

    root: str
    options: dict[str, object]

    @property
    def tiles(self) -> str:
        """A build of six tiles."""
        return f"{self.root}/tiles"

    @property
    def composites(self) -> str:
        """A build of four cells."""
        return f"{self.root}/composites"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both were built; nothing but what is published lies there when tests see it."""
    root = tmp_path_factory.mktemp("built")
    write_abi_archive(
        root / "archive",
        start=datetime(2020, 7, 1, 16),
        hours=1 / 3,
        channels=CHANNELS,
        shape_2km=(200, 200),
        workers=1,
    )
    tiles = AbiConfig(
        output_dir=root / "tiles",
        local_data_dir=root / "archive",
        satellite="goes16",
        domain="M1",
        channels=CHANNELS,
        tile_size=64,
        num_tiles=6,
        steps=2,
        step_minutes=10,
        workers=1,
    )
    assert run_abi(tiles).code == 0
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=5 * number), bands=BANDS).write(root / "safe")
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    values = {
        "work_dir": root / "composites",
        "safe_dir": root / "safe",
        "grid_csv": root / "grid.csv",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": list(BANDS),
        "products": ["cog", "zarr"],
        "workers": 1,
    }
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 0
    return root


@pytest.fixture(scope="session")
def on_disk(built: Path) -> Published:
    """As built."""
    return Published(str(built), {})


@pytest.fixture(scope="session")
def moved(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Copied elsewhere, without the archives they were made from."""
    root = tmp_path_factory.mktemp("elsewhere")
    for name in ("tiles", "composites"):
        shutil.copytree(built / name, root / name)
    return Published(str(root), {})


@pytest.fixture(scope="session")
def on_s3(built: Path, s3_server: str) -> Published:
    """In a bucket."""
    options: dict[str, object] = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": s3_server}}
    files = s3fs.S3FileSystem(**options)
    bucket = f"published-{uuid.uuid4().hex}"
    files.mkdir(bucket)
    for name in ("tiles", "composites"):
        files.put(str(built / name), f"{bucket}/{name}", recursive=True)
    return Published(f"s3://{bucket}", options)
