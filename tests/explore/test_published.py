"""What is published, as others read it: by libraries of others alone, from disk, moved, and from S3."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import rasterio
import xarray as xr

from catalog.publish.public import shown, without_folders
from tests.explore.conftest import Published
from tests.published import assert_names_no_folder
from tests.stac_validation import validate_stac

CLIENTS = Path(__file__).parent / "plain_clients.py"


CROISSANT = {
    *("@language", "@vocab", "citeAs", "column", "conformsTo", "cr", "rai", "data", "dataType", "dct"),
    *("equivalentProperty", "examples", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "sc", "separator", "source", "subField", "transform"),
}
"""The context of version 1.0, as MLCommons' library (mlcroissant 1.1.1) compares it."""
SCHEMA_ORG = {
    *("name", "description", "license", "creator", "url", "keywords", "datePublished", "version", "temporalCoverage"),
    *("distribution", "contentUrl", "contentSize", "encodingFormat", "sha256"),
}


def _keys(value: Any) -> set[str]:
    """All keys, at any depth."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    return {*value}.union(*map(_keys, value.values())) if isinstance(value, dict) else set()


def documents(root: str) -> list[Path]:
    """All STAC documents of both builds."""
    folders = (Path(root, "tiles"), Path(root, "composites"))
    names = ("catalog.json", "collection.json", "items/*.json", "tiles/**/*.json", "sources/*.json")
    return [path for folder in folders for name in names for path in folder.glob(name)]


def opened(published: Published, *clients: str) -> dict[str, Any]:
    """What plain clients read, in a process of their own and outside of the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if published.options:
        endpoint = str(published.options["client_kwargs"]["endpoint_url"])  # type: ignore[index]
        environment |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_S3_ENDPOINT": urlsplit(endpoint).netloc,
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
    command = [sys.executable, str(CLIENTS), published.root, *clients]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {k: v for line in done.stdout.splitlines() if line.startswith("{") for k, v in json.loads(line).items()}


def truth(folder: str) -> dict[str, Any]:
    """Band B04 of all cells, from their GeoTIFFs."""
    total, valid = 0.0, 0
    for path in Path(folder).glob("composites/*/*_B04_*.tif"):
        with rasterio.open(path) as file:
            values = file.read(1)
            known = values != file.nodata
            total, valid = total + float((values[known].astype("f8") * 1e-4).sum()), valid + int(known.sum())
    return {"sum": total, "valid": valid}


def assert_same(read: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read["valid"] == expected["valid"] > 1000
    assert read["sum"] == pytest.approx(expected["sum"], rel=1e-6)


def test_plain_clients_open_what_was_moved(moved: Published) -> None:
    read = opened(moved, "pystac", "duckdb")
    assert_same(read["pystac"]["B04"], truth(moved.composites))
    tiles = xr.open_zarr(f"{moved.tiles}/tiles.zarr")["C13"].values.astype("f8")
    assert read["pystac"]["C13"]["sum"] == pytest.approx(float(np.nansum(tiles)))
    # What is on this machine lies in the builds; all else is for everyone.
    local = [href for href in read["pystac"]["links"] if "://" not in href]
    assert local
    assert all(href.startswith(moved.root) and Path(href).exists() for href in local)
    boxes = pd.read_parquet(f"{moved.composites}/items.parquet")["bbox"]
    assert read["duckdb"]["counted"][0] == [4, min(b["xmin"] for b in boxes), max(b["ymax"] for b in boxes)]
    assert read["duckdb"]["counted"][1][0] == 6


@pytest.mark.slow
def test_a_tile_is_drawn_by_its_render_where_its_item_says(moved: Published) -> None:
    read = opened(moved, "rio_tiler_of_tiles")["rio_tiler_of_tiles"]
    raw = xr.open_zarr(f"{moved.tiles}/tiles.zarr", mask_and_scale=False)["C13"]
    counts = raw.isel(tile=read["tile"], time=0).values
    values = counts * raw.attrs["scale_factor"] + raw.attrs["add_offset"]
    known = counts != raw.attrs["_FillValue"]
    assert known.mean() > 0.9
    assert np.array_equal(read["mask"], known)
    low, high = read["rescale"]
    every = raw.values[raw.values != raw.attrs["_FillValue"]] * raw.attrs["scale_factor"] + raw.attrs["add_offset"]
    np.testing.assert_allclose([low, high], np.percentile(every, [2, 98]), rtol=0.02)
    bright = 255 * (1 - (values - low) / (high - low)).clip(0, 1)  # what is cold is bright
    np.testing.assert_allclose(np.array(read["grey"])[known], bright[known], atol=1.01)
    np.testing.assert_allclose(read["bounds"], read["bbox"], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on_disk", "moved", "on_s3"])
def test_heavier_clients_open_it_from_anywhere(where: str, request: pytest.FixtureRequest, built: Path) -> None:
    published = request.getfixturevalue(where)
    read = opened(published, "pystac", "odc", "stackstac", "rio_tiler", "titiler", "rustac")
    expected = truth(f"{built}/composites")
    for client in ("odc", "stackstac", "titiler"):
        assert_same(read[client], expected)
    assert_same(read["pystac"]["B04"], expected)
    assert read["rio_tiler"]["shape"] == [100, 100]
    assert read["rustac"]["cells"] == 4
    assert read["rustac"]["tiles"] == 6


def test_documents_are_valid_and_name_no_folder_of_the_machine(on_disk: Published) -> None:
    found = documents(on_disk.root)
    assert len(found) > 15
    for path in found:
        text = path.read_text()
        validate_stac(json.loads(text))
        assert on_disk.root not in text, path
    for folder in (on_disk.tiles, on_disk.composites):
        led = assert_names_no_folder(Path(folder, "catalog.json"), on_disk.root)
        names = {p.relative_to(folder).as_posix() for p in led}
        assert names >= {"report.html", "report.md", "DATACARD.md", "croissant.json", "plan.parquet"}
        assert names & {"tiles.zarr/zarr.json", "composites.zarr/zarr.json"}
        assert names >= {p.relative_to(folder).as_posix() for p in found if p.is_relative_to(folder)}


def test_links_have_titles_and_lead_somewhere(on_disk: Published) -> None:
    own = (Path(on_disk.tiles, name) for name in ("catalog.json", "tiles/collection.json"))
    for path in (*own, *Path(on_disk.composites).glob("c[ao][tl]*.json")):
        for link in json.loads(path.read_text())["links"]:
            assert link.get("title"), (path, link)
            assert "://" in link["href"] or (path.parent / link["href"]).is_file(), link
    items = [json.loads(path.read_text()) for path in Path(on_disk.composites, "items").iterdir()]
    assert {path.stem for path in Path(on_disk.composites, "items").iterdir()} == {item["id"] for item in items}
    for item in items:
        assert re.fullmatch("[a-z0-9_-]+", item["id"])
        sources = {k["title"]: k["href"] for k in item["links"] if k["rel"] == "derived_from"}
        assert all(href.startswith("https://stac.dataspace.copernicus.eu/") for href in sources.values())
        assert all(href.endswith(f"/{name}") for name, href in sources.items())
    scan = json.loads(next(Path(on_disk.tiles, "sources").iterdir()).read_text())
    name = scan["assets"]["C13"]["href"]
    assert re.fullmatch(
        r"s3://noaa-goes16/ABI-L1b-RadM/2020/183/16/OR_ABI-L1b-RadM1-M6C13_G16_s\d+_e\d+_c\d+\.nc", name
    )
    assert (Path(on_disk.root) / "archive").is_dir()
    assert [*Path(on_disk.root, "archive").rglob(name.rpartition("/")[2])]


@pytest.mark.parametrize("build", ["tiles/tiles", "composites"])
def test_collections_tell_what_stands_beside_them(on_disk: Published, build: str) -> None:
    folder = Path(on_disk.root, build)
    collection = json.loads((folder / "collection.json").read_text())
    assets = collection["assets"]
    store = assets["store" if "tiles" in build else "composites"]
    assert store["zarr:consolidated"] is True
    assert {*collection["renders"]} >= ({"C02", "C13"} if "tiles" in build else {"true_colour", "count"})
    for render in collection["renders"].values():
        assert {*render["assets"]} <= {*collection["item_assets"]}
        assert all(low < high for low, high in render["rescale"])
    assert {b["name"] for b in store["bands"]} >= ({"C13"} if "tiles" in build else {"B04", "B8A"})
    assert {"index", "report", "plan", "croissant", "datacard"} <= set(assets)
    assert collection["stratacube:config"]["channels" if "tiles" in build else "bands"]
    for name, asset in assets.items():
        path = folder / asset["href"]
        assert path.exists(), name
        if "file:checksum" in asset:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert asset["file:checksum"] == f"1220{digest}"
            assert asset["file:size"] == path.stat().st_size
    assert "file:checksum" in assets["plan"]
    assert collection["sci:citation"]
    assert {role for p in collection["providers"] for role in p["roles"]} == {"producer", "licensor", "processor"}
    assert {"constellation", "instruments", "gsd"} <= set(collection["summaries"])
    index = pyarrow.parquet.read_table(folder / assets["index"]["href"])
    assert len(index) == (6 if "tiles" in build else 4)
    hrefs = pd.DataFrame(index.to_pandas()["assets"].tolist())["tiles" if "tiles" in build else "B04"]
    assert all((folder / asset["href"]).exists() for asset in hrefs)


def test_composites_tell_counts_as_they_are(on_disk: Published) -> None:
    item = json.loads(next(Path(on_disk.composites, "items").iterdir()).read_text())
    (count,) = item["assets"]["count"]["bands"]
    assert "nodata" not in count  # no observation is a number of them
    (band,) = item["assets"]["B04"]["bands"]
    with rasterio.open(Path(on_disk.composites, "items", item["assets"]["B04"]["href"])) as file:
        told = file.scales[0], file.offsets[0], file.nodata
    assert (band["raster:scale"], band["raster:offset"], band["nodata"]) == told
    assert item["assets"]["composites"]["zarr:zarr_format"] == 3
    for asset in item["assets"].values():
        path = Path(on_disk.composites, "items", asset["href"])
        assert path.exists()
        assert asset.get("file:size", path.stat().st_size) == path.stat().st_size


@pytest.mark.parametrize("build", ["tiles", "composites"])
def test_croissant_and_card_say_what_is_there(on_disk: Published, build: str) -> None:
    folder = Path(on_disk.root, build)
    croissant = json.loads((folder / "croissant.json").read_text())
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert set(croissant["@context"]) >= CROISSANT  # of which its readers make what they know
    known = {*CROISSANT, *SCHEMA_ORG}
    assert {key for key in _keys({**croissant, "@context": {}}) if not key.startswith("@")} <= known
    table, images = croissant["distribution"]
    assert table["encodingFormat"] == "application/x-parquet"  # the only name of it that MLCommons' library reads
    assert hashlib.sha256((folder / table["contentUrl"]).read_bytes()).hexdigest() == table["sha256"]
    assert [*folder.glob(images["includes"].replace("/**", ""))]
    (records,) = croissant["recordSet"]
    plan = pd.read_parquet(folder / table["contentUrl"])
    columns = {f["source"]["extract"]["column"]: f["dataType"] for f in records["field"]}
    assert set(columns) <= set(plan.columns)
    assert columns["row"] == "sc:Integer"
    card = (folder / "DATACARD.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<xarray.Dataset>" in done.stdout
    collection = json.loads((folder / ("tiles/collection.json" if build == "tiles" else "collection.json")).read_text())
    assert collection["sci:citation"] in card
    assert croissant["name"] == collection["id"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/goes/OR_x.nc is not a readable scan", "OR_x.nc is not a readable scan"),
        ("file:///data/a/b.jp2 (/data/c.xml)", "b.jp2 (c.xml)"),
        ("s3://bucket/a/b.nc and https://host/a/b", "s3://bucket/a/b.nc and https://host/a/b"),
        ("../masks/a.nc, ./b/c, 1/2 and W m-2 sr-1/um", "../masks/a.nc, ./b/c, 1/2 and W m-2 sr-1/um"),
        ("/data/masks/*.nc", "*.nc"),
    ],
)
def test_folders_of_the_machine_are_left_out(text: str, told: str) -> None:
    assert without_folders(text) == told
    assert shown({"a": [text, 3], "b": None}) == {"a": [told, 3], "b": None}


@pytest.mark.parametrize("text", ["/data/ann/my data/goes/x.nc", "file:///data/ann/data (old)/goes, new/x.nc"])
def test_folders_may_have_names_with_spaces(text: str) -> None:
    assert shown({"a": text}) == {"a": "x.nc"}
