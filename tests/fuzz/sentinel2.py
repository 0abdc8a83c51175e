"""Products of Sentinel-2: metadata, manifests, catalogues' answers, images, grids, and what a build keeps of them."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from catalog.sentinel2.convert import item_from_product, product_from_item, products_from_items
from catalog.sentinel2.download import AbsentError
from catalog.sentinel2.eopf import read_eopf
from catalog.sentinel2.eopf_tree import read_tree
from catalog.sentinel2.fetch_arrays import chunk_keys
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import read_granule, read_product
from catalog.sentinel2.odata import expand_manifest, product_from_odata
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import load_items, save_items
from catalog.sentinel2.transfers import Transfers
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.cell_selection import select_cells
from cube.sentinel2.digests import checks_of, manifest_of, verify
from cube.sentinel2.grid import make_grid, read_cells, write_grid
from cube.sentinel2.intact import refuse_damaged
from cube.sentinel2.lattice import Window
from cube.sentinel2.periods import periods_of, refuse_odd_periods
from cube.sentinel2.plan import read_geometry
from cube.sentinel2.predecessor import next_command, not_there
from cube.sentinel2.source import MaskRule, ProductSource
from cube.testing import SafeSpec, write_eopf, write_safe
from stratacube.errors import SourceError
from tests.fuzz.containers import damaged_parquet
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head, damaged_lines, damaged_text
from tests.fuzz.real import real_files
from tests.fuzz.structured import damaged_csv, damaged_json, damaged_json_lines, damaged_xml

__all__ = ["PARSERS"]

_SIDE = 96
_ELSEWHERE = "https://host/product.zarr"
_THEN = 1_600_000_000


def _spec(baseline: str, *, seed: int = 0) -> SafeSpec:
    rng = np.random.default_rng(seed)
    return SafeSpec(
        tile="06WVC",
        epsg=32606,
        ulx=399960,
        uly=7600020,
        datatake_start=datetime(2021, 6, 1, 21, 30, 1),
        processing_time=datetime(2023, 1, 1),
        baseline=baseline,
        images={
            "B02_20m": rng.integers(900, 4000, (_SIDE, _SIDE)).astype("u2"),
            "SCL_20m": rng.integers(0, 12, (_SIDE, _SIDE)).astype("u1"),
        },
    )


def _safes(folder: Path) -> list[Path]:
    return [write_safe(_spec(b), folder, block=32) for b in ("02.05", "03.01", "05.10")]


def _products(folder: Path) -> list[Path]:
    real = real_files("sentinel2/metadata/*/MTD_MSIL2A.xml", folder, 4)
    return [safe / "MTD_MSIL2A.xml" for safe in _safes(folder)] + [
        p for p in real if b"2A_User_Product" in p.read_bytes()
    ]


def _granules(folder: Path) -> list[Path]:
    real = real_files("sentinel2/metadata/**/MTD_TL.xml", folder, 4)
    written = [p for safe in _safes(folder) for p in safe.glob("GRANULE/*/MTD_TL.xml")]
    return written + [p for p in real if b"Level-2A_Tile_ID" in p.read_bytes()]


def _product(_: Path, path: Path) -> Any:
    told = read_product(path)
    return told, told.offset("B02")


def _granule(_: Path, path: Path) -> Any:
    return read_granule(path)


def _folder(folder: Path) -> list[Path]:
    return [*write_safe(_spec("05.10"), folder, block=32).rglob("*.xml")]


def _described(folder: Path, _: Path) -> Any:
    return item_from_product(read_safe(next(folder.glob("*.SAFE"))))


def _manifest_text(safe: Path) -> str:
    files = sorted(p for p in safe.rglob("*") if p.is_file())
    streams = (
        f'<dataObject ID="d{i}"><byteStream mimeType="x" size="{p.stat().st_size}"><fileLocation locatorType="URL" '
        f'href="./{p.relative_to(safe).as_posix()}"/><checksum checksumName="MD5">'
        f"{hashlib.md5(p.read_bytes()).hexdigest()}</checksum></byteStream></dataObject>"
        for i, p in enumerate(files)
    )
    return f"<xfdu><dataObjectSection>{''.join(streams)}</dataObjectSection></xfdu>"


def _manifest(folder: Path) -> list[Path]:
    safe = write_safe(_spec("05.10"), folder, block=32)
    (safe / "manifest.safe").write_text(_manifest_text(safe))
    return [safe / "manifest.safe"]


def _expanded(_: Path, path: Path) -> Any:
    found = product_from_odata(_ENTRY)
    return expand_manifest(found, path.read_bytes()), manifest_of(path.parent)


_ENTRY = {
    "Id": "3b8f8a5c-0000-0000-0000-000000000000",
    "Name": "S2A_MSIL2A_20210601T213001_N0510_R027_T06WVC_20230101T000000.SAFE",
    "ContentDate": {"Start": "2021-06-01T21:30:01.024000Z", "End": "2021-06-01T21:30:01.024000Z"},
    "S3Path": "/eodata/Sentinel-2/MSI/L2A/2021/06/01/S2A_MSIL2A_20210601T213001_N0510_R027_T06WVC_20230101T000000.SAFE",
    "Footprint": "geography'SRID=4326;POLYGON ((-150 68, -147 68, -147 69, -150 69, -150 68))'",
    "GeoFootprint": {"type": "Polygon", "coordinates": [[[-150, 68], [-147, 68], [-147, 69], [-150, 69], [-150, 68]]]},
    "Attributes": [
        {"Name": "cloudCover", "Value": 12.5},
        {"Name": "processingDate", "Value": "2023-01-01T00:00:00+00:00"},
        {"Name": "datastripIdentifier", "Value": "S2A_OPER_MSI_L2A_DS_S2RP_20230101T000000_S20210601T213004_N05.10"},
    ],
}


def _entries(folder: Path) -> list[Path]:
    bare = {k: v for k, v in _ENTRY.items() if k != "GeoFootprint"}
    paths = [folder / "entry.json", folder / "bare.json"]
    for path, entry in zip(paths, (_ENTRY, bare), strict=True):
        path.write_text(json.dumps(entry))
    for i, path in enumerate(real_files("stac/odata/*.json", folder, 2)):
        paths.append(folder / f"real{i}.json")
        paths[-1].write_text(json.dumps(json.loads(path.read_text())["value"][0]))
    return paths


def _odata(_: Path, path: Path) -> Any:
    return item_from_product(product_from_odata(_parsed(path)))


def _parsed(path: Path) -> Any:
    """What a server's answer is parsed to, which is no reader of ours."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError("it is not JSON") from error


def _items(folder: Path) -> list[Path]:
    items = [item_from_product(read_safe(safe)) for safe in _safes(folder)]
    saved = [folder / "items.json", folder / "one.json"]
    save_items(saved[0], items)
    saved[1].write_text(json.dumps(items[0], default=str))
    real = real_files("stac/**/*.json", folder, 40)
    return saved + [p for p in real if b'"assets"' in p.read_bytes() and b'"Collection"' not in p.read_bytes()]


def _found(_: Path, path: Path) -> Any:
    products, dropped = products_from_items(load_items(path))
    return [item_from_product(p) for p in products], dropped


def _one_item(_: Path, path: Path) -> Any:
    item = _parsed(path)
    for one in item["features"] if isinstance(item, dict) and isinstance(item.get("features"), list) else [item]:
        for access in ("https", "s3"):
            product_from_item(one, access)  # type: ignore[arg-type]  (each in turn)


def _parquet_items(folder: Path) -> list[Path]:
    path = folder / "items.parquet"
    save_items(path, [item_from_product(read_safe(safe)) for safe in _safes(folder)])
    return [path]


def _images(folder: Path) -> list[Path]:
    written = [p for safe in _safes(folder) for p in safe.rglob("*.jp2")]
    return written + real_files("sentinel2/native_jp2_60m/SCL.jp2", folder, 1)


def _eopf(folder: Path) -> list[Path]:
    """Products of both versions of Zarr."""
    made = [write_eopf(_spec("05.10", seed=v), folder / f"v{v}", v, chunk=64) for v in (2, 3)]  # type: ignore[arg-type]
    return [p for product in made for p in sorted(product.rglob("*")) if p.is_file()]


def _eopf_documents(folder: Path) -> list[Path]:
    return [p for p in _eopf(folder) if p.name in (".zattrs", ".zarray", "zarr.json")]


def _eopf_consolidated(folder: Path) -> list[Path]:
    return [
        p for p in _eopf(folder) if p.name == ".zmetadata" or (p.name == "zarr.json" and p.parent.suffix == ".zarr")
    ]


def _eopf_tree(folder: Path, path: Path) -> Any:
    """What a product tells of itself that lies elsewhere, and its chunks."""

    def read(href: str) -> bytes:
        if not href.endswith(path.name):
            raise AbsentError(f"{href} is not there")
        return path.read_bytes()

    tree = read_tree(_ELSEWHERE, read)
    images = tree.assets().items()
    return {k: (a, [*chunk_keys(tree.metadata(a.href.removeprefix(f"{_ELSEWHERE}/")))]) for k, a in images}


def _eopf_chunks(folder: Path) -> list[Path]:
    return [p for p in _eopf(folder) if p.name[0].isdigit()]


def _eopf_read(folder: Path, path: Path) -> Any:
    product = read_eopf(next(p for p in path.parents if p.suffix == ".zarr"))
    keys = {"B02": "B02_20m"}
    with ProductSource(product, keys, MaskRule([]), Decoded()) as source:
        window = Window(0, 0, min(_SIDE, source.grids()["B02"].height), min(_SIDE, source.grids()["B02"].width))
        return source.values("B02", window, source.valid(window, source.grids()["B02"]))[0].tobytes()


def _decoded(folder: Path, path: Path) -> Any:
    asset = next(a for a in _assets(path.parent) if a.href == str(path))
    with BlockReader(asset, Decoded()) as reader:
        size = min(reader.grid.height, 300), min(reader.grid.width, 300)
        window = Window(0, 0, *size)
        reader.expect(Window(0, 0, min(size[0], 40), min(size[1], 40)))
        part = reader.read(Window(0, 0, min(size[0], 40), min(size[1], 40)))
    with BlockReader(asset, Decoded()) as reader:
        return part.tobytes(), reader.read(window).tobytes()


def _assets(folder: Path) -> list[Any]:
    return [Asset(href=str(path)) for path in folder.glob("*.jp2")]


def _guarded_images(folder: Path) -> list[Path]:
    (path,) = _manifest(folder)
    return [*path.parent.rglob("*.jp2"), *path.parent.rglob("MTD_*.xml")]


def _verified(folder: Path, path: Path) -> Any:
    """The files of a product that are as its manifest has them, with what they hold."""
    safe = next(folder.glob("*.SAFE"))
    product = _as_listed(safe)
    good, spoilt = verify(checks_of(product, list(product.assets), lambda *_: False))
    if spoilt:
        raise SourceError(next(iter(spoilt.values()))[1])
    return {p: Path(p).read_bytes() for p in good}


def _as_listed(safe: Path) -> Product:
    product = product_from_odata(_ENTRY)
    names = {"product_metadata": safe / "MTD_MSIL2A.xml", "granule_metadata": next(safe.rglob("MTD_TL.xml"))}
    names |= {p.stem[-7:]: p for p in safe.rglob("*.jp2")}
    return Product(**{**vars(product), "assets": {k: Asset(href=str(p)) for k, p in names.items()}})


def _same_bytes(found: Any, whole: Any) -> bool:
    return bool(found == whole)


def _csv_grid(folder: Path) -> list[Path]:
    paths = [folder / "grid.csv", folder / "laea.csv"]
    write_grid(make_grid(0.25, (-150.0, 68.0, -149.0, 69.0)), paths[0])
    write_grid(make_grid(1000, (0, 0, 3000, 2000), "EPSG:3413"), paths[1])
    return paths


def _geojson(folder: Path) -> list[Path]:
    paths = [folder / "grid.geojson", folder / "area.json", folder / "parts.geojson"]
    write_grid(make_grid(0.5, (-150.0, 68.0, -149.0, 69.0)), paths[0])
    ring = [[-150, 68], [-149, 68.1], [-149.2, 69], [-150, 68]]
    paths[1].write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    across = [[[[179, 1], [180, 1], [180, 2], [179, 1]]], [[[-180, 1], [-179, 1], [-180, 2], [-180, 1]]]]
    feature = {
        "type": "Feature",
        "properties": {"name": "a"},
        "geometry": {"type": "MultiPolygon", "coordinates": across},
    }
    paths[2].write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return paths


def _cells(_: Path, path: Path) -> Any:
    cells = read_cells(path)
    return select_cells(cells, bbox=[-180, -90, 180, 90])


def _projected(_: Path, path: Path) -> Any:
    return read_cells(path, "EPSG:3413")


def _area(_: Path, path: Path) -> Any:
    return read_geometry(path)


def _transfers(folder: Path) -> list[Path]:
    transfers = Transfers(folder)
    for i in range(3):
        (folder / f"{i}.jp2").write_bytes(b"x")
        os.utime(folder / f"{i}.jp2", (_THEN, _THEN))
        transfers.record(folder / f"{i}.jp2", 1, "0" * 32)
    lines = (json.loads(line) | {"time": _THEN} for line in transfers.path.read_text().splitlines())
    transfers.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [transfers.path]


def _transferred(folder: Path, _: Path) -> Any:
    transfers = Transfers(folder)
    return [transfers.is_good(folder / f"{i}.jp2", "0" * 32) for i in range(3)], transfers.used()


def _period_table(folder: Path) -> list[Path]:
    path = folder / "periods.csv"
    path.write_text("period,start,end\n2019-jja,2019-06-01,2019-08-31\n2020,2020-01-01T00:00Z,2020-12-31\n")
    return [path]


def _periods(_: Path, path: Path) -> Any:
    periods = periods_of(path)
    refuse_odd_periods(periods, datetime.min, datetime.max)
    return periods


def _intact(_: Path, path: Path) -> Any:
    return refuse_damaged(path)


def _old_manifest(folder: Path) -> list[Path]:
    (folder / "indices").mkdir()
    path = folder / "indices" / "query_manifest.csv"
    path.write_text("Id,Name,ContentDate,queried_utc\n1,S2A_MSIL2A_20190601T213001_x.SAFE,\"{'Start': 1}\",2019\n")
    return [path]


def _missing(folder: Path, _: Path) -> Any:
    return not_there(folder, []), next_command(folder, folder, [], None)


_XML = (damaged_xml, damaged_xml, damaged_text, damaged_bytes)
_JSON = (damaged_json, damaged_json, damaged_json_lines, damaged_text, damaged_bytes)

PARSERS = (
    Parser("product-xml", _products, _product, _XML),
    Parser("granule-xml", _granules, _granule, _XML),
    Parser("safe-folder", _folder, _described, _XML),
    Parser("manifest", _manifest, _expanded, _XML, is_told=False),
    Parser("odata", _entries, _odata, _JSON, is_told=False),
    Parser("stac-items", _items, _one_item, _JSON, is_told=False),
    Parser("stac-saved", _items, _found, (*_JSON, damaged_lines)),
    Parser("stac-parquet", _parquet_items, _found, (damaged_parquet, damaged_head, damaged_bytes), share=0.5),
    Parser("eopf-metadata", _eopf_documents, _eopf_read, _JSON),
    Parser("eopf-tree", _eopf_consolidated, _eopf_tree, _JSON, is_told=False),
    Parser("eopf-chunks", _eopf_chunks, _eopf_read, (damaged_head, damaged_bytes)),
    Parser("jp2", _images, _decoded, (damaged_head, damaged_head, damaged_bytes)),
    Parser("jp2-verified", _guarded_images, _verified, (damaged_head, damaged_bytes, damaged_text), same=_same_bytes),
    Parser("grid-csv", _csv_grid, _cells, (damaged_csv, damaged_csv, damaged_lines, damaged_text, damaged_bytes)),
    Parser("grid-geojson", _geojson, _cells, _JSON),
    Parser("grid-projected", _geojson, _projected, _JSON),
    Parser("area-geojson", _geojson, _area, _JSON),
    Parser("periods", _period_table, _periods, (damaged_csv, damaged_csv, damaged_lines, damaged_text, damaged_bytes)),
    Parser("jp2-adopted", _images, _intact, (damaged_head, damaged_head, damaged_bytes), share=0.5),
    Parser("s2sr-manifest", _old_manifest, _missing, (damaged_csv, damaged_lines, damaged_text, damaged_bytes)),
    Parser("transfers", _transfers, _transferred, (damaged_json_lines, damaged_lines, damaged_text, damaged_bytes)),
)
