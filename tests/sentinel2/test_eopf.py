"""Products in EOPF's Zarr form: the same composites as from SAFE products of the same pixels, to the bit."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import rasterio
import zarr

from catalog.sentinel2.eopf import read_eopf
from catalog.sentinel2.find import find_safe
from catalog.sentinel2.items import Asset
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.select import deduplicate
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.eopf import ZarrRaster, some_of_blosc
from cube.sentinel2.explain import explain
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lattice import Window
from cube.sentinel2.lazy import open_sentinel2
from cube.sentinel2.run import Sentinel2Build
from cube.sentinel2.source import MaskRule, ProductSource, harmonisation
from cube.testing import SafeSpec, write_eopf, write_safe
from stratacube.errors import SourceError
from stratacube.files import human_bytes
from tests.sentinel2.built import built
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification.*"),
]

BANDS = ["B02", "B03"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three dates, folders of SAFE and of Zarr v2 and v3; and the cells to make of them."""
    root = tmp_path_factory.mktemp("forms")
    for number, baseline in enumerate(("02.12", "05.10", "05.10")):
        scene = make_scene(number, FIRST + timedelta(days=number), baseline=baseline)
        scene.write(root / "safe")
        write_eopf(scene.spec, root / "v2", 2)
        write_eopf(scene.spec, root / "v3", 3, chunk=100)
    write_grid(make_grid(2400, (ULX, ULY - 4800, ULX + 4800, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    return root


def _build(archive: Path, work: Path, **values: Any) -> dict[str, Any]:
    return built(work, grid_csv=archive / "grid.csv", start="2021-06-01", end="2021-06-30", bands=BANDS, **values)


@pytest.fixture(scope="module")
def told(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is built from SAFE."""
    return _build(archive, tmp_path_factory.mktemp("told") / "w", safe_dir=archive / "safe")


def _equal(found: dict[str, Any], told: dict[str, Any]) -> None:
    assert found.keys() == told.keys()
    assert len(told) == 12
    for name, pixels in told.items():
        np.testing.assert_array_equal(found[name], pixels, err_msg=name)


@pytest.mark.parametrize("form", ["v2", "v3"])
def test_composites_are_those_of_safe(archive: Path, told: dict[str, Any], form: str, tmp_path: Path) -> None:
    _equal(_build(archive, tmp_path / "folder", safe_dir=archive / form), told)


def test_a_product_in_both_forms_counts_once_and_items_give_its_folder(
    archive: Path, told: dict[str, Any], tmp_path: Path
) -> None:
    """By items: of one date the images one by one, of the next the folder alone, of the last in both forms."""
    items = []
    for number, path in enumerate(sorted((archive / "v2").iterdir())):
        described = json.loads((path / ".zattrs").read_text())["stac_discovery"]
        hrefs = {
            **{f"{b}_20m": path / f"measurements/reflectance/r20m/{b.lower()}" for b in BANDS},
            "SCL_20m": path / "conditions/mask/l2a_classification/r20m/scl",
        }
        kept = {"product": path} if number else hrefs
        assets = {key: {"href": str(href), "type": "application/vnd+zarr"} for key, href in kept.items()}
        if not number:
            for asset in assets.values():
                asset |= {"proj:epsg": EPSG, "proj:shape": [240, 240], "proj:transform": [20, 0, ULX, 0, -20, ULY]}  # type: ignore[dict-item]
        items.append({**described, "properties": {**described["properties"], "datetime": None}, "assets": assets})
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    _equal(_build(archive, tmp_path / "w", items=tmp_path / "items.json"), told)
    products = [p for form in ("safe", "v2") for p in find_safe(archive / form)[0]]
    kept = deduplicate(products)
    assert [p.assets["B02_20m"].href[-4:] for p in kept.products] == [".jp2"] * 3
    assert [d.reason.partition(":")[0] for d in kept.dropped] == ["listed twice"] * 3
    config = {"work_dir": tmp_path / "x", "safe_dir": archive / "v3", "grid_csv": archive / "grid.csv", "bands": BANDS}
    asked = Sentinel2Config.load(None, {**config, "start": "2021-06-01", "end": "2021-06-30", "also": ["months"]})
    reads = list(explain(asked))
    told_before = dict(Sentinel2Build(asked).estimate())
    assert told_before["read"] == f"9 files, {human_bytes(sum(r.size or 0 for r in reads))}"
    assert told_before["write"].startswith(human_bytes(240 * 240 * (2 * 4 + 2 + 12 * 2)))
    assert len(reads) == 9
    for read in reads:
        assert read.size == sum(p.stat().st_size for p in Path(read.href).rglob("*") if p.is_file())
    box = [-149.44, 68.45, -149.40, 68.48]
    view = open_sentinel2(archive / "v3", BANDS, bbox=box).compute()
    assert view.equals(open_sentinel2(archive / "safe", BANDS, bbox=box).compute())
    assert view["B02"].notnull().sum() > 1_000


def test_what_a_product_says_of_itself_is_what_safe_says(archive: Path) -> None:
    for safe, other in zip(sorted((archive / "safe").iterdir()), sorted((archive / "v3").iterdir()), strict=True):
        one, two = read_safe(safe), read_eopf(other)
        for name in (
            "id",
            "tile",
            "platform",
            "datatake_start",
            "datastrip_start",
            "baseline",
            "processing_time",
            "relative_orbit",
        ):
            assert getattr(one, name) == getattr(two, name), name
        assert two.sun_elevation == one.sun_elevation == 40.0
        for key in ("B02_20m", "B03_20m", "SCL_20m"):
            a, b = one.assets[key], two.assets[key]
            assert (a.proj_code, a.shape, a.transform) == (b.proj_code, b.shape, b.transform)


def test_some_of_a_blosc_buffer_is_the_same_as_all_of_it() -> None:
    rng = np.random.default_rng(5)
    smooth = np.cumsum(rng.integers(-3, 4, 700_000)).astype("u2")
    noise = rng.integers(0, 65536, 100_000).astype("u2")
    for data in (smooth, noise, smooth[:7], np.zeros(300_000, "u2")):
        for shuffle, name, size in ((2, "zstd", 0), (1, "zstd", 0), (1, "lz4", 4096), (0, "zstd", 1 << 14)):
            buffer = numcodecs.Blosc(name, 3, shuffle, blocksize=size).encode(data)
            whole = data.tobytes()
            for start, stop in [(0, len(whole)), *np.sort(rng.integers(0, len(whole) + 1, (12, 2)), axis=1).tolist()]:
                assert some_of_blosc(io.BytesIO(buffer), start, stop) == whole[start:stop]
    with pytest.raises(ValueError, match="bytes for"):
        some_of_blosc(io.BytesIO(buffer[:-1]), 0, 10)
    for place in (10**6, 3):  # behind its end, and within its header
        damaged = bytearray(numcodecs.Blosc("zstd", 3, 1).encode(smooth))
        damaged[16:20] = place.to_bytes(4, "little")
        with pytest.raises(ValueError, match="the chunk is damaged"):
            some_of_blosc(io.BytesIO(damaged), 0, 10)


_BLOSC = zarr.codecs.BloscCodec(cname="zstd", clevel=1)
_LAYOUTS: dict[str, tuple[dict[str, Any], int]] = {
    "v2": ({"compressors": numcodecs.Blosc("zstd", 1, 2), "zarr_format": 2}, 512),
    "v2, Zstandard": ({"compressors": numcodecs.Zstd(1), "zarr_format": 2}, 2000),
    "v3": ({"compressors": _BLOSC, "zarr_format": 3}, 512),
    "v3, Zstandard": ({"compressors": zarr.codecs.ZstdCodec(level=1), "zarr_format": 3}, 2000),
    "v3, big-endian": (
        {"compressors": _BLOSC, "zarr_format": 3, "serializer": zarr.codecs.BytesCodec(endian="big")},
        512,
    ),
}
"""How an array is stored, and rows that are decoded together."""


@pytest.mark.parametrize("form", _LAYOUTS)
def test_large_chunks_are_decoded_in_strips(tmp_path: Path, form: str) -> None:
    """A whole tile in one chunk, and its windows; cut, it is told."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9000, (2000, 1500)).astype("u2")
    path = tmp_path / "b02"
    layout, rows = _LAYOUTS[form]
    attributes = {
        "scale_factor": 1e-4,
        "add_offset": -0.1,
        "proj:epsg": EPSG,
        "proj:transform": [20, 0, ULX, 0, -20, ULY],
    }
    array = zarr.create_array(
        path, shape=counts.shape, chunks=counts.shape, attributes=attributes, **{"dtype": "u2", **layout}
    )
    array[:] = counts
    raster = ZarrRaster(path)
    assert raster.block == (rows, 1500)
    with BlockReader(Asset(href=str(path)), Decoded()) as reader:
        for window in (Window(0, 0, 2000, 1500), Window(500, 700, 600, 800), Window(1999, 1499, 1, 1)):
            np.testing.assert_array_equal(reader.read(window), counts[window.within(Window(0, 0, 2000, 1500))])
    chunk = next(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr")))
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with BlockReader(Asset(href=str(path)), Decoded()) as reader, pytest.raises(SourceError, match="b02 cannot be dec"):
        reader.read(Window(1990, 0, 10, 10))
    if "Zstandard" in form:  # whole, and shorter than a chunk
        chunk.write_bytes(numcodecs.Zstd(1).encode(counts[:7].tobytes()))
        with pytest.raises(SourceError, match="the chunk holds 21000 bytes where 30000 are wanted"):
            raster.decode(Window(9, 0, 1, 10))


def test_reflectances_without_a_value_are_no_data(tmp_path: Path) -> None:
    """GeoZarr's floats, packed as counts are: what is not a number is 0, which no reflectance is."""
    values = np.array([[0.0, 0.1234], [np.nan, -0.05], [np.inf, -np.inf], [6.5535, 1e6], [6.4534, -0.2]], "f4")
    attributes = {"proj:epsg": EPSG, "proj:transform": [20, 0, ULX, 0, -20, ULY]}
    array = zarr.create_array(
        tmp_path / "b02", shape=(5, 2), chunks=(5, 2), dtype="f4", zarr_format=3, attributes=attributes
    )
    array[:] = values
    raster = ZarrRaster(tmp_path / "b02")
    told = [[1000, 2234], [0, 500], [0, 0], [65535, 65535], [65534, 0]]
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(raster.decode(Window(0, 0, 5, 2)), told)


def test_saturated_pixels_are_none_in_any_form(tmp_path: Path) -> None:
    """DN 65535 of an old baseline, 6.5535 as a float, was packed to 999; an observer sees nothing there."""
    scene = make_scene(0, FIRST, baseline="02.12")
    scene.values["B02"][50:60, 50:60] = 65535
    scene.write(tmp_path / "safe")
    path = write_eopf(scene.spec, tmp_path / "floats", 3, chunk=100)
    home = zarr.open_group(path / "measurements/reflectance/r20m")
    for name in ("b02", "b03"):
        counts, attributes = home[name][:], dict(home[name].attrs)
        values = np.where(counts == 0, np.nan, counts * 1e-4).astype("f4")
        place = {key: value for key, value in attributes.items() if key.startswith("proj:")}
        home.create_array(name, data=values, chunks=(100, 100), attributes=place, overwrite=True)
    zarr.consolidate_metadata(path)
    seen = []
    for form in ("safe", "floats"):
        (product,) = find_safe(tmp_path / form)[0]
        keys, whole = {"B02": "B02_20m", "B03": "B03_20m"}, Window(0, 0, 240, 240)
        with ProductSource(product, keys, MaskRule(()), Decoded()) as source:
            seen += [[source.values(band, whole, np.ones((240, 240), bool)) for band in keys]]
    for (values, there), (others, there_too) in zip(*seen, strict=True):
        np.testing.assert_array_equal(there, there_too)
        np.testing.assert_array_equal(values[there], others[there])
    expected = np.ones((240, 240), bool)
    expected[50:60, 50:60] = False
    np.testing.assert_array_equal(seen[0][0][1], expected)
    assert seen[0][1][1].all()


def test_a_lost_chunk_is_no_empty_one(archive: Path, tmp_path: Path) -> None:
    """Zarr reads a chunk that is not there as fill, which is no data."""
    shutil.copytree(archive / "v3", tmp_path / "v3")
    product = sorted((tmp_path / "v3").iterdir())[1]
    (product / "measurements/reflectance/r20m/b02/c/1/1").unlink()
    _build(archive, tmp_path / "w", code=1, safe_dir=tmp_path / "v3")
    errors = (tmp_path / "w" / "errors.csv").read_text()
    assert "b02 cannot be decoded at block (1, 1) (chunk c/1/1 is missing; copy the product again" in errors
    assert product.name.removesuffix(".zarr") in errors
    classes = product / "conditions/mask/l2a_classification/r20m/scl"
    (classes / "c/0/0").unlink()
    with pytest.raises(SourceError, match="chunk c/0/0 is missing"):
        ZarrRaster(classes).decode(Window(0, 0, 10, 10))
    native = product / "measurements/reflectance/r20m/b05"
    shutil.copytree(product / "measurements/reflectance/r20m/b03", native)
    (native / "c/0/0").unlink()  # no band has anything there: half a tile
    assert not ZarrRaster(classes).decode(Window(0, 0, 10, 10)).any()


def test_what_contradicts_itself_is_one_sentence(archive: Path, tmp_path: Path) -> None:
    path = sorted((archive / "v3").iterdir())[1]

    def changed(where: str, change: Any) -> Path:
        copy = tmp_path / f"{len(list(tmp_path.iterdir()))}" / path.name
        shutil.copytree(path, copy)
        document = json.loads((copy / where / "zarr.json").read_text())
        change(document)
        (copy / where / "zarr.json").write_text(json.dumps(document))
        return copy

    band = "measurements/reflectance/r20m/b02"
    cases = [
        (
            band,
            lambda d: d["attributes"].update(add_offset=-0.05),
            r"b02 has scale_factor 0\.0001 and add_offset -0\.05",
        ),
        (band, lambda d: d["attributes"].update(scale_factor=1), "b02 has scale_factor 1 and"),
        (band, lambda d: d["attributes"].update(fill_value=7), "b02 has fill_value 7 where no data is 0"),
        (
            band,
            lambda d: d["attributes"].update({"proj:epsg": 32633}),
            "lies in EPSG:32606 .* said to be in EPSG:32633",
        ),
        (
            band,
            lambda d: d["attributes"].pop("proj:transform"),
            "b02 is not an image of an EOPF product that can be read",
        ),
        (band, lambda d: d.update(shape=[10**9, 10**9]), "b02 has 1000000000 x 1000000000 pixels"),
        (band, lambda d: d.update(data_type="complex64"), "b02 holds values of type complex64"),
        (
            "",
            lambda d: d["attributes"]["stac_discovery"].update(id="S2A_x"),
            "'S2A_x' is not the name|holds the product S2A_x",
        ),
        (
            "",
            lambda d: d["attributes"]["stac_discovery"]["properties"].update({"eopf:baseline": "02.00"}),
            "eopf:baseline is 02.00",
        ),
        (
            "",
            lambda d: d["attributes"]["stac_discovery"]["properties"].update(start_datetime="2021-06-07T00:00:00Z"),
            "by its name but at 2021-06-07",
        ),
    ]
    for where, change, words in cases:
        with pytest.raises(SourceError, match=words):
            read_eopf(changed(where, change))
    late = replace(read_eopf(path), baseline="02.12")
    with pytest.raises(
        SourceError, match=r"b02 has an offset of -1000 counts, which contradicts processing baseline 02\.12"
    ):
        harmonisation(late, {"B02": "B02_20m"})


@pytest.mark.parametrize("form", ["s2_examples", "geozarr_examples"])
def test_exeter_in_a_real_tree(data_folder: Path, form: str, tmp_path: Path) -> None:
    """The metadata of a real product, instantiated as it is and filled with real pixels, in both forms of it."""
    trees = sorted((data_folder / "eopf").glob(f"{form}__*.json"))
    scenes = sorted((data_folder / "sentinel2" / "exeter_20m_2024").glob("*.tif"))
    if not trees or not scenes:
        pytest.skip(f"{data_folder} holds no trees of EOPF or no scenes near Exeter")
    name = trees[0].stem.partition("__")[2]
    side, ulx, uly = 300, 699960, 4700040
    images = {}
    with rasterio.open(scenes[2]) as file:
        for index, band in enumerate(file.descriptions, 1):
            if band in ("B02", "B04", "SCL"):
                images[f"{band}_20m"] = file.read(index)[:side, :side].astype("u1" if band == "SCL" else "u2")
    spec = SafeSpec(
        tile="32TQM", epsg=32632, ulx=ulx, uly=uly, datatake_start=datetime(2025, 10, 8, 10, 0, 41, 24000),
        datastrip_start=datetime(2025, 10, 8, 10, 3), processing_time=datetime(2025, 10, 8, 12, 26, 13),
        baseline="05.11", relative_orbit=122, images=images,
    )  # fmt: skip
    assert spec.id == name
    write_safe(spec, tmp_path / "safe", block=128)
    _instantiate(json.loads(trees[0].read_text()), tmp_path / "zarr" / f"{name}.zarr", images)
    found = read_eopf(tmp_path / "zarr" / f"{name}.zarr") if form == "s2_examples" else None
    bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
    assert found is None or set(found.assets) == {f"{band}_20m" for band in bands}
    write_grid(make_grid(3000, (ulx, uly - 6000, ulx + 6000, uly), "EPSG:32632"), tmp_path / "grid.csv")
    values = {"grid_csv": tmp_path / "grid.csv", "start": "2025-10-01", "end": "2025-10-30", "bands": ["B02", "B04"]}
    told = built(tmp_path / "told", safe_dir=tmp_path / "safe", **values)
    _equal(built(tmp_path / "found", safe_dir=tmp_path / "zarr", **values), told)
    assert sum(int((p != -9999).sum()) for n, p in told.items() if "B02" in n) > 30_000


def _instantiate(tree: dict[str, Any], path: Path, images: dict[str, Any]) -> None:
    """Write the images' part of a tree as files of its version of Zarr, attributes and layout untouched."""
    version = tree["zarr_format"]

    def write(node: dict[str, Any], place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        described = {k: v for k, v in node.items() if k not in ("members", "attributes")}
        if version == 3:
            (place / "zarr.json").write_text(json.dumps({**described, "attributes": node["attributes"]}))
        else:
            (place / (".zgroup" if "members" in node else ".zarray")).write_text(json.dumps(described))
            (place / ".zattrs").write_text(json.dumps(node["attributes"]))
        for name, member in (node.get("members") or {}).items():
            inside = f"{place.relative_to(path)}/{name}".removeprefix("./")
            if "members" in member or inside.rpartition("/")[0].endswith(
                ("reflectance/r20m", "l2a_classification/r20m")
            ):
                write(member, place / name)

    write(tree, path)
    for key, counts in images.items():
        band = key.partition("_")[0].lower()
        home = "conditions/mask/l2a_classification" if band == "scl" else "measurements/reflectance"
        array = zarr.open_array(path / home / "r20m" / band, mode="r+")
        whole = np.zeros(array.shape, counts.dtype)
        whole[: counts.shape[0], : counts.shape[1]] = counts
        if array.dtype.kind == "f":
            array[:] = np.where(whole == 0, np.nan, (whole.astype("f8") - 1000) / 10000)
        else:
            array[:] = whole
