"""Images from elsewhere are opened as what they may be, and with no password of the machine."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.errors import RasterioError

from catalog.locate import Document
from catalog.sentinel2.items import Asset
from cube.mosaic import _Raster as Raster
from cube.mosaic import _read_part as read_part
from cube.sentinel2.lazy import _cell as open_cell
from cube.sentinel2.rasters import open_raster
from cube.sentinel2.scenes import GDAL_OPTIONS
from stratacube.errors import SourceError
from stratacube.images import open_image


def _image(path: Path) -> Path:
    place = {"crs": "EPSG:32606", "transform": Affine(20, 0, 4e5, 0, -20, 7e6)}
    with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint16", **place) as file:
        file.write(np.full((1, 64, 64), 7, "u2"))
    return path


@pytest.mark.parametrize("name", ["B02_20m.jp2", "B02.tif"])
def test_an_image_that_is_text_leads_to_no_other_file(tmp_path: Path, name: str) -> None:
    own = _image(tmp_path / "own.tif")
    rasterio.shutil.copy(own, tmp_path / "own.vrt", driver="VRT")
    posing = (tmp_path / "own.vrt").rename(tmp_path / name)
    with rasterio.open(posing) as file:
        assert file.read(1).max() == 7, "GDAL alone follows it"
    with pytest.raises(SourceError, match="cannot be opened"):
        open_raster(Asset(href=str(posing)))
    with pytest.raises(RasterioError):
        open_image(str(posing))
    own.rename(tmp_path / "own.jp2")
    with open_image(str(tmp_path / "own.jp2")) as file:
        assert file.driver == "GTiff", "the name alone decides nothing"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_cell_of_a_build_that_is_text_leads_to_no_other_file(tmp_path: Path) -> None:
    """Builds come from others too: opened as one cube, and cell by cell."""
    own = _image(tmp_path / "own.tif")
    rasterio.shutil.copy(own, tmp_path / "own.vrt", driver="VRT")
    posing = (tmp_path / "own.vrt").rename(tmp_path / "posing.tif")
    part, shape = (slice(0, 64), slice(0, 64)), (64, 64)
    asset = {"type": "image/tiff; application=geotiff", "bands": [{"eo:common_name": "blue"}]}
    for path, refused in ((own, False), (posing, True)):
        item = Document({"type": "Feature", "assets": {"B02": {"href": str(path), **asset}}}, None, ())
        with pytest.raises(SourceError, match=r"posing\.tif cannot be read") if refused else nullcontext():
            assert read_part(Raster(str(path), ""), part, shape, {}).max() == 7
        with pytest.raises(SourceError, match=r"posing\.tif cannot be read") if refused else nullcontext():
            assert open_cell(item)["B02"].max() == 7


class _Asked(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *told: Any) -> None:
        return


def test_a_password_of_netrc_is_not_sent_as_images_are_read_by_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login me password hush\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Asked) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        with rasterio.Env(**GDAL_OPTIONS), pytest.raises(SourceError):
            open_raster(Asset(href=f"http://127.0.0.1:{server.server_address[1]}/B02.tif"), remote=True)
        server.shutdown()
        thread.join()
    assert server.seen  # type: ignore[attr-defined]
    assert set(server.seen) == {None}  # type: ignore[attr-defined]
