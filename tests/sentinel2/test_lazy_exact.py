"""Where the pixels of a lazy view lie: those of a build to the bit, and the tolerance of the other backends."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lazy import open_sentinel2
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_safe
from stratacube.errors import UsageError
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:stackstac"),
    # rasterio silences its own warning while it warps, which in several threads at once sometimes fails
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

SIDE = 1000
ROWS, COLS = 240, 640
STEP = 0.0002
CORNER = -149.42, 68.49


@pytest.fixture(scope="module")
def positions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product whose counts are the column (B02) and row (B03) of each pixel, from 1."""
    rows, cols = np.indices((SIDE, SIDE)) + 1
    images = {"B02_20m": cols.astype("u2"), "B03_20m": rows.astype("u2"), "SCL_20m": np.full((SIDE, SIDE), 4, "u1")}
    spec = SafeSpec(
        tile="06WUA", epsg=EPSG, ulx=ULX, uly=ULY, datatake_start=FIRST, processing_time=datetime(2023, 1, 1),
        baseline="02.12", images=images,
    )  # fmt: skip
    return write_safe(spec, tmp_path_factory.mktemp("positions"))


def _off(safe: Path, backend: str, chunks: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """How far outside of its pixel the centre of each pixel of the view lies, in source pixels; and what was read."""
    grid = GeoBox((ROWS, COLS), Affine(STEP, 0, CORNER[0], 0, -STEP, CORNER[1]), "EPSG:4326")
    data = open_sentinel2(safe, ["B02", "B03"], geobox=grid, backend=backend, chunks=chunks)  # type: ignore[arg-type]
    found = np.stack([data[b].isel(time=0).compute().values for b in ("B02", "B03")])
    lon, lat = np.meshgrid(CORNER[0] + (np.arange(COLS) + 0.5) * STEP, CORNER[1] - (np.arange(ROWS) + 0.5) * STEP)
    x, y = pyproj.Transformer.from_crs(4326, EPSG, always_xy=True).transform(lon, lat)
    true = np.stack([(x - ULX) / 20, (ULY - y) / 20])
    assert not np.isnan(found).any()
    return np.abs(true - (np.rint(found * 1e4) - 0.5)) - 0.5, found


def test_positions_are_exact_whatever_the_chunks(positions: Path) -> None:
    """Fault 25. By pyproj pixel by pixel."""
    whole, pixels = _off(positions, "exact", 2048)
    assert whole.max() < 2e-3
    assert (whole > 0).mean() < 1e-3  # of the nearest pixels, those that are another's
    np.testing.assert_array_equal(_off(positions, "exact", 150)[1], pixels)


@pytest.mark.parametrize("backend", ["odc-stac", "stackstac"])
def test_gdals_transform_keeps_to_its_tolerance(positions: Path, backend: str) -> None:
    off, _ = _off(positions, backend, 2048)
    assert 2e-3 < off.max() < 0.125 + 0.01


def test_pixels_are_those_of_a_build(tmp_path: Path) -> None:
    """Two tiles of one datatake, a cloud: a composite of this datatake alone, in degrees, to the bit."""
    for scene in (make_scene(1, FIRST), make_scene(2, FIRST, tile="06WVA", ulx=ULX + 160 * 20)):
        scene.write(tmp_path / "safe")
    write_grid(make_grid(0.05, (-149.45, 68.45, -149.30, 68.50), "EPSG:4326"), tmp_path / "grid.csv")
    values = {
        "work_dir": tmp_path / "w", "safe_dir": tmp_path / "safe", "grid_csv": tmp_path / "grid.csv", "workers": 1,
        "start": "2021-06-01", "end": "2021-06-02", "bands": ["B02", "B03"], "values": "reflectance",
    }  # fmt: skip
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 0
    seen = 0
    for path in sorted((tmp_path / "w").glob("composites/*/*_B0?_median_clip.tif")):
        with rasterio.open(path) as file:
            built, grid = file.read(1), GeoBox(file.shape, file.transform, "EPSG:4326")
        band = path.name.split("_median")[0][-3:]
        view = open_sentinel2(tmp_path / "safe", [band], geobox=grid, resampling="bilinear", chunks=100)
        np.testing.assert_array_equal(view[band].isel(time=0).values, np.where(built == -9999, np.nan, built))
        seen += int((built != -9999).sum())
    assert seen > 20_000


def test_a_grid_with_its_south_up_is_refused_in_a_sentence(positions: Path) -> None:
    grid = GeoBox((10, 10), Affine(20, 0, ULX, 0, 20, ULY - 200), f"EPSG:{EPSG}")
    with pytest.raises(UsageError, match="south up; give one whose rows run from north to south"):
        open_sentinel2(positions, ["B02"], geobox=grid)
