"""Cloud features: definitions against plain formulas, products of ABI read by place, draws by class, a whole build."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import cube
from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.cloud_products import find_products, read_fields
from cube.geostationary.find import find
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.headers import Headers
from cube.geostationary.run import run_abi
from cube.strata import SampleRequest
from cube.strata.clouds.definitions import (
    TYPES,
    class_of,
    cloud_type,
    iorg,
    scai,
    temperature_features,
    type_features,
)
from cube.strata.clouds.sampler import CloudsSampler
from stratacube.errors import SourceError, UsageError
from stratacube.parquet import read_frame

VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)


def test_objects_at_random_have_half_an_index_and_clusters_more() -> None:
    rng = np.random.default_rng(4)
    scattered = [iorg(rng.uniform(0, 500, (200, 2)), 500.0**2) for _ in range(40)]
    assert np.mean(scattered) == pytest.approx(0.5, abs=0.02)
    clusters = np.repeat(rng.uniform(50, 450, (10, 2)), 20, axis=0) + rng.normal(0, 4, (200, 2))
    assert iorg(clusters, 500.0**2) > 0.8
    lattice = np.stack(np.meshgrid(np.arange(25.0, 500, 50), np.arange(25.0, 500, 50)), -1).reshape(-1, 2)
    assert iorg(lattice, 500.0**2) < 0.3
    assert math.isnan(iorg(np.zeros((1, 2)), 10.0))


def test_indexes_are_their_formulas() -> None:
    centres = np.array([[10.0, 10.0], [10.0, 40.0], [70.0, 40.0]])
    nearest = [30.0, 30.0, 60.0]
    x = [0.0, *(1 - math.exp(-3 / 100**2 * math.pi * r * r) for r in nearest), 1.0]
    y = [0.0, 1 / 3, 2 / 3, 1.0, 1.0]
    assert iorg(centres, 100.0**2) == pytest.approx(float(np.trapezoid(y, x)))
    apart = (30.0 * 60.0 * math.hypot(60, 30)) ** (1 / 3)
    assert scai(centres, 100.0) == pytest.approx(3 / (100**2 / 2) * apart / 100 * 1000)


def test_features_are_counted_on_valid_pixels() -> None:
    window = np.full((20, 20), 290.0)
    window[2:4, 2:4], window[10:14, 10:14], window[0] = 230.0, 210.0, np.nan
    found = temperature_features(window, window - 290.0, 2.0)
    assert found["valid"] == 0.95
    assert (found["objects"], found["bt_min"]) == (2, 210.0)
    assert found["cold_share"] == pytest.approx(20 / 380)
    assert found["coldest_share"] == pytest.approx(16 / 380)
    assert found["bt_std"] == pytest.approx(np.nanstd(window))
    assert found["ice_share"] == 0.0
    assert math.isnan(temperature_features(window, None, 2.0)["ice_share"])
    assert temperature_features(np.full((4, 4), np.nan), None, 2.0) == {"valid": 0.0}


def test_classes_go_by_their_rules() -> None:
    base = {"valid": 1.0, "middle_share": 0.0, "cold_share": 0.0, "coldest_share": 0.0, "bt_std": 1.0, "objects": 0.0}
    base |= {"ice_share": 0.05, "iorg": float("nan")}
    for scheme, change, wanted in (
        ("level", {}, "warm"),
        ("level", {"middle_share": 0.25}, "middle"),
        ("level", {"middle_share": 0.5, "cold_share": 0.25}, "cold"),
        ("level", {"middle_share": 0.2, "cold_share": 0.1, "coldest_share": 0.05}, "deep_convection"),
        ("level", {"valid": 0.4}, None),
        ("phase", {}, "no_ice"),
        ("phase", {"ice_share": 0.1}, "some_ice"),
        ("phase", {"ice_share": 0.5}, "ice"),
        ("phase", {"ice_share": float("nan")}, None),
        ("texture", {}, "smooth"),
        ("texture", {"bt_std": 3.0}, "broken"),
        ("texture", {"bt_std": 12.0}, "rough"),
        ("organisation", {}, None),
        ("organisation", {"objects": 1.0}, "single"),
        ("organisation", {"objects": 5.0, "iorg": 0.5}, "scattered"),
        ("organisation", {"objects": 5.0, "iorg": 0.51}, "clustered"),
    ):
        assert class_of(scheme, base | change) == wanted, (scheme, change)


def test_types_are_those_of_isccp() -> None:
    heights, depths = np.array([1000.0, 5000.0, 9000.0]), np.array([1.0, 10.0, 50.0])
    found = cloud_type(*np.meshgrid(heights, depths, indexing="ij"), np.zeros((3, 3), bool))
    assert [TYPES[i] for i in found.ravel()] == [
        "cumulus",
        "stratocumulus",
        "stratus",
        "altocumulus",
        "altostratus",
        "nimbostratus",
        "cirrus",
        "cirrostratus",
        "deep_convection",
    ]
    odd = cloud_type(np.array([np.nan, np.nan, 100.0]), np.array([1.0, 1.0, np.nan]), np.array([True, False, False]))
    assert odd.tolist() == [0, -1, -1]
    assert class_of("type", type_features(found)) == "cumulus"
    assert class_of("type", type_features(np.array([7, 7, 0, -1], "i1"))) == "cirrus"


def test_a_real_product_is_read_at_the_pixels_asked_for(data_folder: Path) -> None:
    path = next((data_folder / "abi" / "noaa-goes17" / "ABI-L2-ACHAC").rglob("*.nc"))
    with h5py.File(path) as file:
        raw, flags = file["HT"][100:110, 200:220], file["DQF"][100:110, 200:220]
        truth = np.where((flags == 0) & (raw != 65535), raw * float(file["HT"].attrs["scale_factor"][0]), np.nan)
        x = -0.06986 + 0.00028 * np.arange(200, 220)
        y = 0.1281 - 0.00028 * np.arange(100, 110)
        origin = float(file["goes_imager_projection"].attrs["longitude_of_projection_origin"][0])
    view = GeosProjection(35786023.0, 6378137.0, 6356752.31414, origin)
    grid = FixedGrid(view, x[0] - 112e-6, y[0] + 112e-6, 56e-6, -56e-6, 50, 100)  # five of its pixels of 2 km a side
    found = read_fields(path, "HT", [grid])[0]
    assert np.array_equal(found, np.repeat(np.repeat(truth, 5, 0), 5, 1), equal_nan=True)
    assert np.isfinite(found).any()
    far = FixedGrid(view, 0.14, 0.14, 56e-6, -56e-6, 4, 4)
    assert np.isnan(read_fields(path, "HT", [far])[0]).all()
    with pytest.raises(SourceError, match="sees the Earth from -137 degrees east, the scan from -75"):
        read_fields(path, "HT", [FixedGrid(VIEW, 0, 0, 56e-6, -56e-6, 4, 4)])


def test_what_is_not_of_good_quality_or_fill_is_not_known(tmp_path: Path) -> None:
    grid = FixedGrid(VIEW, 0.01, 0.01, 56e-6, -56e-6, 2, 3)
    values = np.array([[1, 2, 65535], [4, 5, 6]], "u2")
    path = write_product(tmp_path, "ACHA", "HT", values, grid, "20201831600000")
    with h5py.File(path, "r+") as file:
        file["DQF"][1, 1] = 4
    found = read_fields(path, "HT", [grid])[0]
    assert np.array_equal(found, [[1, 2, np.nan], [4, np.nan, 6]], equal_nan=True)


def scans_of(archive: Path) -> list[Scan]:
    config = AbiConfig(output_dir=archive / "none", local_data_dir=archive, domain="M1", channels=[13])
    return find(config)


@pytest.fixture
def request_of(small_archive: Path, tmp_path: Path) -> Any:
    scans, headers = scans_of(small_archive), Headers(tmp_path / "index", None, 0)

    def make(**more: Any) -> SampleRequest:
        def grid_of(scan: Scan) -> FixedGrid:
            grid = headers.of(scan).grid
            return grid.rescaled(28e-6 / grid.dx)

        return SampleRequest(
            **{"scans": scans, "grid_of": grid_of, "tile_size": 128, "align": 2, "num_tiles": 12, **more}
        )

    return make


def temperatures(archive: Path, row: int, col: int, size: int, start: str) -> NDArray[np.float64]:
    """Brightness temperature of C13 by h5py and the formula of the files' guide; row and col of 1 km."""
    path = next(archive.rglob(f"*C13_G16_s{start}*.nc"))
    with h5py.File(path) as file:
        part = slice(row // 2, (row + size) // 2), slice(col // 2, (col + size) // 2)
        raw = file["Rad"][part].view("u2")
        number = {n: float(np.ravel(file[n][()])[0]) for n in ("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")}
        scale, offset = (float(file["Rad"].attrs[n][0]) for n in ("scale_factor", "add_offset"))
        good = np.isin(file["DQF"][part], (0, 1)) & (raw != 4095)
    radiance = np.where(good, raw * scale + offset, np.nan)
    found: NDArray[np.float64] = (
        number["planck_fk2"] / np.log(number["planck_fk1"] / radiance + 1) - number["planck_bc1"]
    ) / number["planck_bc2"]
    return found


def test_features_of_a_draw_are_those_of_the_files(request_of: Any, small_archive: Path) -> None:
    drawn = list(islice(CloudsSampler(request_of(), clouds_by="texture").candidates(), 12))
    assert len(drawn) == 12
    assert list(islice(CloudsSampler(request_of(), clouds_by="texture").candidates(), 30))[:12] == drawn
    for c in drawn:
        told = c.details
        seen = temperatures(small_archive, told["row"], told["col"], 128, told["scan_id"].rpartition("_s")[2])
        assert told["bt_mean"] == pytest.approx(np.nanmean(seen), abs=2e-3)
        assert told["bt_std"] == pytest.approx(np.nanstd(seen), abs=2e-3)
        assert told["cold_share"] == pytest.approx(np.mean(seen[np.isfinite(seen)] < 241), abs=2e-3)
        assert "ice_share" not in told  # the archive has no band at 8.5 micrometres
        deviation = np.nanstd(seen)
        assert told["class_name"] == ("smooth" if deviation < 3 else "broken" if deviation < 12 else "rough")
    rough = CloudsSampler(request_of(), clouds_by="texture", cloud_classes=["rough"])
    assert {c.details["class_name"] for c in islice(rough.candidates(), 5)} == {"rough"}
    assert rough.quotas == {"rough": 1.0}
    tally = Counter(c.details["class_name"] for c in drawn)
    assert max(tally.values()) - min(tally.values()) <= 1


def write_product(folder: Path, product: str, variable: str, values: NDArray[Any], grid: FixedGrid, start: str) -> Path:
    """A product on pixels of its own, in the form of the real ones."""
    path = folder / f"OR_ABI-L2-{product}M1-M6_G16_s{start}_e{start}_c{start}.nc"
    with h5py.File(path, "w") as out:
        out[variable] = values
        out[variable].attrs["_FillValue"] = values.dtype.type(np.iinfo(values.dtype).max)
        out["DQF"] = np.zeros(values.shape, "u1")
        out["x"], out["y"] = grid.x, grid.y
        out["goes_imager_projection"] = np.int32(0)
        out["goes_imager_projection"].attrs["longitude_of_projection_origin"] = [-75.0]
    return path


def test_products_decide_where_they_are_given(request_of: Any, tmp_path: Path) -> None:
    wanted = request_of()
    grid = wanted.grid_of(wanted.scans[0])
    coarse = grid.rescaled(2 * 4)  # 8 km
    half = coarse.width // 2
    height = np.full(coarse.shape, 1000, "u2")
    height[:, half:] = 9000
    for scan in wanted.scans[:2]:
        start = f"{scan.start:%Y%j%H%M%S}{scan.start.microsecond // 100_000}"
        write_product(tmp_path, "ACHA", "HT", height, coarse, start)
        write_product(tmp_path, "COD", "COD", np.full(grid.rescaled(2).shape, 50, "u2"), grid.rescaled(2), start)
    products = find_products(str(tmp_path))
    assert [products.has_types(scan) for scan in wanted.scans[:3]] == [True, True, False]
    sampler = CloudsSampler(wanted, cloud_products=str(tmp_path))
    drawn = list(islice(sampler.candidates(), 10))
    assert {c.details["class_name"] for c in drawn} == {"stratus", "deep_convection"}
    assert {c.details["scan_id"] for c in drawn} <= {scan.id for scan in wanted.scans[:2]}
    for c in drawn:
        west = np.clip(8 * half - c.details["col"], 0, 128) / 128
        assert c.details["stratus"] == pytest.approx(west, abs=0.07)
        assert c.details["class_name"] == ("stratus" if c.details["stratus"] > 0.5 else "deep_convection")
    with pytest.raises(UsageError, match=r"class cirrus of `cloud_classes` is not met at any of \d+ places of 4 looks"):
        list(CloudsSampler(wanted, cloud_products=str(tmp_path), cloud_classes=["cirrus"], cloud_looks=4).candidates())
    with pytest.raises(UsageError, match="none of 1 scans has both ACHA and COD there"):
        next(CloudsSampler(request_of(scans=wanted.scans[4:5]), cloud_products=str(tmp_path)).candidates())
    bad = next(tmp_path.glob("*ACHA*"))
    bad.write_bytes(bad.read_bytes()[:300])
    again = CloudsSampler(wanted, cloud_products=str(tmp_path))
    assert list(islice(again.candidates(), 5))
    assert any("cannot be read as a cloud product" in p.message for p in again.problems)


def test_what_cannot_be_is_one_sentence(request_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by level there are warm, middle, cold, deep_convection"):
        CloudsSampler(request_of(), cloud_classes=["cirrus"])
    with pytest.raises(UsageError, match="it has no product of clouds"):
        CloudsSampler(request_of(), cloud_products=str(tmp_path))
    with pytest.raises(UsageError, match="goes with `cloud_products`"):
        AbiConfig.check({"output_dir": tmp_path, "stratification": "clouds", "clouds_by": "type"})
    with pytest.raises(UsageError, match=r"compares C11 and C14, and scan .* lacks one: name both in `channels`"):
        next(CloudsSampler(request_of(), clouds_by="phase").candidates())
    with pytest.raises(UsageError, match="No scan starts in the period"):
        next(CloudsSampler(request_of(start=datetime(2021, 1, 1))).candidates())


def test_a_build_keeps_the_features_of_its_tiles(small_archive: Path, tmp_path: Path) -> None:
    config = AbiConfig(
        stratification="clouds",
        clouds_by="texture",
        output_dir=tmp_path / "tiles",
        local_data_dir=small_archive,
        domain="M1",
        channels=[13],
        tile_size=128,
        steps=1,
        num_tiles=6,
        workers=1,
        screen="off",
    )
    assert run_abi(config).code == 0
    opened = cube.open_tiles(tmp_path / "tiles", physical="brightness_temperature", chunks=None)
    details = [json.loads(text) for text in read_frame(tmp_path / "tiles" / "plan.parquet")["details"]]
    names = opened["clouds_class"].attrs["flag_meanings"].split()
    assert names == ["smooth", "broken", "rough"]
    for tile in range(6):
        seen = opened["C13"][tile, 0].values.astype("f8")
        assert float(opened["clouds_bt_std"][tile]) == pytest.approx(np.nanstd(seen), abs=5e-3)
        assert names[int(opened["clouds_class"][tile])] == details[tile]["class_name"]
    assert np.isnan(opened["clouds_ice_share"].values).all()


def test_a_product_that_claims_too_much_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "OR_ABI-L2-ACHAM1-M6_G16_s20201831600000_e20201831600000_c20201831600000.nc"
    with h5py.File(path, "w") as file:
        for name in ("x", "y"):
            file.create_dataset(name, shape=(10**12,), dtype="i2", chunks=(1024,))
    with pytest.raises(SourceError, match="its x has 1000000000000 values where 2 to 21696 are expected"):
        read_fields(path, "HT", [])
