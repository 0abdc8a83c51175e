"""Products in EOPF's Zarr form that lie on S3 or in the web: what is made of them is what is made of them on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from cube.sentinel2.eopf import ZarrRaster
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lattice import Window
from cube.sentinel2.lazy import open_sentinel2
from cube.testing import write_eopf
from stratacube.errors import SourceError
from tests.catalog.cdse_server import CdseServer, serve
from tests.sentinel2.built import built
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification.*"),
]

BANDS = ["B02", "B03"]
KEY, SECRET = "AKIAOURS", "secret-of-s3"
_IMAGES = {
    **{f"{band}_20m": f"measurements/reflectance/r20m/{band.lower()}" for band in BANDS},
    "SCL_20m": "conditions/mask/l2a_classification/r20m/scl",
}


@dataclass
class World:
    """Three products on disk, and elsewhere: Zarr v2 in the web, v3 on S3, and v3 in the web of which items name the
    images."""

    root: Path
    web: CdseServer
    s3: str
    items: list[dict[str, Any]]

    def build(self, work: Path, code: int = 0, **values: Any) -> dict[str, Any]:
        period = {"start": "2021-06-01", "end": "2021-06-30", "bands": BANDS}
        return built(work, code, grid_csv=self.root / "grid.csv", **period, **values)

    def saved(self, folder: Path, items: list[dict[str, Any]] | None = None) -> Path:
        path = folder / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items or self.items}))
        return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("elsewhere")
    write_grid(make_grid(2400, (ULX, ULY - 4800, ULX + 4800, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    products = []
    for number, (form, baseline) in enumerate(((2, "02.12"), (3, "05.10"), (3, "05.10"))):
        scene = make_scene(number, FIRST + timedelta(days=number), baseline=baseline)
        scene.write(root / "safe")
        if number == 2:  # half a tile: chunks that hold nothing are in no product
            for counts in scene.spec.images.values():
                counts[:, 100:200] = 0
            scene.spec.images["B05_20m"] = scene.spec.images["B02_20m"]  # type: ignore[index]
        products.append(write_eopf(scene.spec, root / "zarr", form, chunk=100))
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket="eopf")
    try:
        with serve() as web:
            items = []
            for number, product in enumerate(products):
                for path in (p for p in product.rglob("*") if p.is_file()):
                    inside = f"{product.name}/{path.relative_to(product).as_posix()}"
                    if number == 1:
                        client.put_object(Bucket="eopf", Key=inside, Body=path.read_bytes())
                    else:
                        web.put(f"{web.url}/eopf/{inside}", path.read_bytes())
                where = f"{'s3:/' if number == 1 else web.url}/eopf/{product.name}"
                named = {"product": where} if number < 2 else {k: f"{where}/{v}" for k, v in _IMAGES.items()}
                items.append(_item(product, {key: {"href": href} for key, href in named.items()}))
            yield World(root, web, f"http://{host}:{port}", items)
    finally:
        server.stop()


def _item(product: Path, assets: dict[str, Any]) -> dict[str, Any]:
    document = product / "zarr.json"
    told = json.loads((document if document.exists() else product / ".zattrs").read_text())
    described = told.get("attributes", told)["stac_discovery"]
    return {**described, "properties": {**described["properties"], "datetime": None}, "assets": assets}


def test_composites_are_those_of_the_same_products_on_disk(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", KEY)
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    told = world.build(tmp_path / "disk", safe_dir=world.root / "zarr")
    given = {"items": world.saved(tmp_path), "cdse_s3_endpoint": world.s3}
    found = world.build(tmp_path / "w", **given)
    assert len(told) == 12
    for name, pixels in told.items():
        np.testing.assert_array_equal(found[name], pixels, err_msg=name)
    asked = [path for path, _, _ in world.web.requests]
    assert len([p for p in asked if p.endswith((".zmetadata", "zarr.json"))]) <= 12  # not one for each array and file
    assert not any("b01" in path for path in asked)
    chunks = [p for p in asked if not p.endswith((".zmetadata", "zarr.json"))]
    assert len(chunks) == len(set(chunks)) == 2 * 3 * 9 + 3
    # whether three chunks of classes are lost or empty
    assert sorted(p.rpartition("b05/")[2] for p in chunks if "b05" in p) == ["c/0/1", "c/1/1", "c/2/1"]
    archive = tmp_path / "w" / "imagery_raw"
    for path in (p for p in archive.rglob("*") if p.is_file() and p.name.isdigit()):
        assert path.read_bytes() == (world.root / "zarr" / path.relative_to(archive)).read_bytes()
    # what is there is not asked for again; what was lost is, and no more than that
    before = len(world.web.requests)
    chunk = next(archive.glob("*/measurements/reflectance/r20m/b02/1.1"))
    chunk.unlink()
    again = world.build(tmp_path / "w2", imagery_dir=archive, **given)
    assert all((again[name] == pixels).all() for name, pixels in told.items())
    asked = [path for path, _, _ in world.web.requests[before:]]
    assert [p for p in asked if "zmetadata" not in p and "zarr.json" not in p] == [
        f"/eopf/{chunk.relative_to(archive).as_posix()}"
    ]
    # a saved search needs nobody
    before = len(world.web.requests)
    world.build(tmp_path / "w2", imagery_dir=archive, overwrite=False, **given)
    assert len(world.web.requests) == before


def test_a_look_at_products_elsewhere_is_a_look_at_them_on_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", world.s3),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    box = [-149.44, 68.45, -149.40, 68.48]
    told = open_sentinel2(world.root / "zarr", BANDS, bbox=box).compute()
    assert told["B02"].notnull().sum() > 1_000
    assert open_sentinel2(world.items, BANDS, bbox=box).compute().equals(told)


def test_a_chunk_that_is_lost_elsewhere_is_no_empty_one(world: World) -> None:
    classes, band = (world.items[2]["assets"][key]["href"] for key in ("SCL_20m", "B02_20m"))
    empty = Window(0, 100, 100, 100)
    assert not ZarrRaster(classes).decode(empty).any()
    with pytest.raises(SourceError, match="chunk c/0/1 is missing"):
        ZarrRaster(band).decode(empty)  # nobody asks for a band where its classes hold nothing
    seen = urlsplit(band).path.replace("b02", "b05") + "/c/0/1"
    world.web.files[seen] = b"pixels"
    try:
        with pytest.raises(SourceError, match="chunk c/0/1 is missing"):
            ZarrRaster(classes).decode(empty)
    finally:
        del world.web.files[seen]


def test_what_cannot_be_read_is_one_sentence_and_taken_once_it_is_mended(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    web, address = world.web, world.items[0]["assets"]["product"]["href"]
    bare = {**world.items[0], "assets": {"product": {"href": address.replace("/eopf/", "/nowhere/")}}}
    with pytest.raises(SourceError, match=r"nowhere/.*\.zarr has no consolidated metadata"):
        open_sentinel2([bare], BANDS, bbox=[-149.44, 68.45, -149.40, 68.48])
    broken = {**world.items[0], "assets": {"product": {"href": address.replace("/eopf/", "/broken/")}}}
    web.put(f"{broken['assets']['product']['href']}/.zmetadata", b"[")
    lost = f"{urlsplit(world.items[2]['assets']['B02_20m']['href']).path}/c/1/0"
    held, given = web.files.pop(lost), {"items": world.saved(tmp_path, [broken, world.items[2]])}
    world.build(tmp_path / "w", 1, **given)
    errors = (tmp_path / "w" / "errors.csv").read_text()
    assert "b02 cannot be decoded at block (1, 0) (chunk c/1/0 is missing" in errors
    left_out = (tmp_path / "w" / "indices" / "left_out.csv").read_text()
    assert "broken/" in left_out
    assert ".zarr/.zmetadata is not the metadata of a product that can be read (" in left_out
    web.files[lost] = held
    for path in [p for p in web.files if "20210601" in p and p.startswith("/eopf/")]:
        web.files[path.replace("/eopf/", "/broken/")] = web.files[path]
    (archive := tmp_path / "w" / "imagery_raw").rename(tmp_path / "before")
    made = world.build(tmp_path / "w", **given)
    assert len(list(archive.glob("*/measurements/reflectance/r20m/b02"))) == 2
    told = world.build(tmp_path / "w2", items=world.saved(tmp_path, [world.items[0], world.items[2]]))
    assert all((made[name] == pixels).all() for name, pixels in told.items())
