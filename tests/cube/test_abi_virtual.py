"""Virtual cubes: the same pixels from a folder, S3, a reference store or STAC, each by its own file's rules."""

from __future__ import annotations

import shutil
import warnings
from datetime import datetime
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pystac
import pytest
import xarray as xr

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile, find_scans
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.references import is_reference_store, read_references
from cube.testing import write_abi_archive, write_abi_file
from stratacube.errors import UsageError


def files(root: Path, platform: str = "goes16", sector: str = "M1") -> list[SourceFile]:
    return [f for s in find_scans(LocalArchive(root), platform=platform, sector=sector) for f in s.files.values()]


def indexes(root: Path) -> list[FileIndex]:
    return [index_file(f) for f in files(root)]


def radiance(path: str) -> np.ndarray:
    """Radiance as h5py and the file's attributes give it, NaN where filled."""
    with h5py.File(path) as h5:
        rad = h5["Rad"]
        counts, fill = rad[()].view("u2"), rad.attrs["_FillValue"][0]
        values = counts.astype("f4") * rad.attrs["scale_factor"][0] + rad.attrs["add_offset"][0]
        return np.where(counts == fill, np.float32("nan"), values)


def test_every_source_gives_the_same_cube(small_archive: Path, tmp_path: Path) -> None:
    store = tmp_path / "references"
    cube.write_references(indexes(small_archive), store)
    assert is_reference_store(store)
    item = pystac.Item("cube", None, None, datetime(2020, 7, 1), {})
    item.add_asset("references", pystac.Asset(str(store), roles=["references"]))
    trees = [
        cube.open_abi(source, platform="goes16") for source in (small_archive, store, item, item.assets["references"])
    ]
    for tree in trees:
        assert list(tree.children) == ["500m", "1km", "2km"]
        assert tree["2km"].sizes == {"time": 7, "band": 2, "y": 300, "x": 300}
        assert isinstance(tree["2km"]["radiance"].data, dask.array.Array)
        for name in ("radiance", "dqf", "brightness_temperature"):
            a = trees[0]["2km"][name].isel(time=[1, 5], y=slice(40, 280, 7), x=slice(5, 11))
            b = tree["2km"][name].isel(time=[1, 5], y=slice(40, 280, 7), x=slice(5, 11))
            assert b.dtype == np.float32
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a[:, :, ::-1], tree["2km"][name].isel(time=[1, 5])[..., 278:39:-7, 5:11])
    for source in files(small_archive)[:5]:
        name = {2: "500m", 7: "2km", 13: "2km"}.get(source.channel, "1km")
        node = trees[1][name].ds.sel(band=f"C{source.channel:02d}").isel(time=0)
        np.testing.assert_array_equal(node["radiance"], radiance(source.href))


def test_indexing_reads_only_what_is_asked(small_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cube.geostationary import virtual

    tree = cube.open_abi(small_archive, bands=["C02"], chunks=None)
    seen = []

    def counted(index: FileIndex, variable: str, windows: list, out: list, endpoint: str | None) -> object:
        read = original(index, variable, windows, out, endpoint)
        seen.append(read.chunks)
        return read

    original = virtual.read_windows
    monkeypatch.setattr(virtual, "read_windows", counted)
    tree["500m"]["radiance"].isel(time=3, band=0, y=slice(0, 240), x=slice(0, 240)).load()
    assert seen == [1]


def test_coordinates_are_real(small_archive: Path) -> None:
    tree = cube.open_abi(small_archive, bands=[13], lonlat=True)
    data = tree["2km"].ds
    index = index_file(files(small_archive)[-1])
    lon, lat = index.grid.lonlat(17, 33)
    assert float(data["longitude"].isel(y=17, x=33)) == pytest.approx(float(lon))
    assert float(data["latitude"].isel(y=17, x=33)) == pytest.approx(float(lat))
    assert float(data["x_rad"][1] - data["x_rad"][0]) == pytest.approx(56e-6)
    starts = [s.start for s in find_scans(LocalArchive(small_archive), platform="goes16", sector="M1")]
    np.testing.assert_array_equal(data["time"].values, np.array(starts, "M8[ns]"))
    assert data["goes_imager_projection"].attrs["grid_mapping_name"] == "geostationary"
    nearest = data["brightness_temperature"].sel(x=1.2e6, y=7e5, method="nearest").isel(time=0, band=0)
    assert np.isfinite(nearest)


def test_two_eras_are_one_time_axis(tmp_path: Path) -> None:
    small = {"channels": (13,), "shape_2km": (260, 260), "workers": 1, "hours": 0.2}
    write_abi_archive(tmp_path / "a", start=datetime(2020, 7, 1, 16), **small)
    write_abi_archive(tmp_path / "a", start=datetime(2020, 7, 1, 17), shuffle=True, packing={13: (0.05, -2.0)}, **small)
    cube.write_references(indexes(tmp_path / "a"), tmp_path / "refs")
    tree = cube.open_abi(tmp_path / "refs")
    data = tree["2km"].ds
    np.testing.assert_array_equal(data["era"].values.ravel(), [0, 0, 1, 1])
    for i, source in enumerate(files(tmp_path / "a")):
        np.testing.assert_array_equal(data["radiance"][i, 0], radiance(source.href))
    leaves = [p for p in (tmp_path / "refs").glob("*/C13-*")]
    assert len(leaves) == 2


def test_each_leaf_opens_as_plain_kerchunk(small_archive: Path, tmp_path: Path) -> None:
    cube.write_references(indexes(small_archive), tmp_path / "refs")
    leaves = sorted((tmp_path / "refs").glob("*/C*"))
    assert [leaf.name[:3] for leaf in leaves] == ["C01", "C02", "C03", "C07", "C13"]
    for leaf in leaves:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fastparquet.*")  # fsspec reads kerchunk Parquet by it
            data = xr.open_dataset(str(leaf), engine="kerchunk", chunks=None)
            values = data["Rad"].isel(time=4).values
        source = [f for f in files(small_archive) if f"C{f.channel:02d}" == leaf.name[:3]][4]
        np.testing.assert_allclose(values, radiance(source.href), rtol=1e-5, atol=1e-4)


def test_a_day_is_added(tmp_path: Path) -> None:
    small = {"channels": (7, 13), "shape_2km": (130, 130), "workers": 1, "hours": 0.2}
    for day in (1, 2):
        write_abi_archive(tmp_path / f"{day}", start=datetime(2020, 7, day, 16), **small)
    store = tmp_path / "refs"
    cube.write_references(indexes(tmp_path / "1"), store)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}
    assert cube.write_references(indexes(tmp_path / "1"), store) == []
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert cube.write_references(indexes(tmp_path / "2"), store) == [store / "goes16-M1"]
    assert len(cube.open_abi(store)["2km"]["time"]) == 4
    assert len(cube.open_abi(store, start="2020-07-02")["2km"]["time"]) == 2
    assert len(cube.open_abi(store, end="2020-07-01T16:05")["2km"]["time"]) == 1
    write_abi_archive(tmp_path / "more", start=datetime(2020, 7, 2, 18), **small)
    cube.write_references(indexes(tmp_path / "more"), store)
    assert len(cube.open_abi(store)["2km"]["time"]) == 6
    assert not list(store.rglob("*.part"))


def test_a_missing_band_is_nan_and_a_bad_file_a_warning(small_archive: Path, tmp_path: Path) -> None:
    shutil.copytree(small_archive, tmp_path / "a")
    seventh = [f for f in files(tmp_path / "a") if f.channel == 7]
    Path(seventh[2].href).unlink()
    Path(seventh[4].href).write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    with pytest.warns(UserWarning, match="left out: .*not a readable ABI L1b file"):
        tree = cube.open_abi(tmp_path / "a", bands=["C07", "C13"])
    band = tree["2km"]["radiance"].sel(band="C07").isel(y=slice(0, 20), x=slice(0, 20)).values
    assert [bool(np.isnan(frame).all()) for frame in band] == [False, False, True, False, True, False, False]
    assert np.isfinite(tree["2km"]["radiance"].sel(band="C13").isel(y=0, x=0)).all()


def test_views_that_do_not_coincide_are_not_mixed(tmp_path: Path) -> None:
    for minute, corner in ((0, (0.02464, 0.11536)), (10, (0.028, 0.11536))):
        write_abi_file(tmp_path, channel=13, start=datetime(2020, 7, 1, 16, minute), corner=corner, shape=(130, 130))
    with pytest.raises(UsageError, match=r"holds 2 views whose pixels do not coincide.*start= and end="):
        cube.open_abi(tmp_path)
    assert cube.open_abi(tmp_path, end="2020-07-01T16:05")["2km"].sizes["time"] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bands": ["C17"]}, "band 'C17' is unknown"),
        ({"start": "2031-01-01"}, "holds no ABI L1b or AMI L1b scan"),
        ({"start": "soon"}, "'soon' is not a time"),
        ({"platform": "goes12"}, "goes12"),
    ],
)
def test_bad_requests_get_one_sentence(small_archive: Path, options: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        cube.open_abi(small_archive, **options)
    with pytest.raises(UsageError, match="does not exist"):
        cube.open_abi(small_archive / "nowhere")


def test_real_scan_equals_satpy(abi_data: Path) -> None:
    import satpy

    folder = abi_data / "noaa-goes17" / "ABI-L1b-RadM" / "2019" / "300"
    tree = cube.open_abi(folder)
    files = {path.name[path.name.index("-M6") + 3 :][:3]: str(path) for path in folder.rglob("*.nc")}
    assert len(files) == 15
    for kind, channels in {"radiance": (1, 16), "reflectance": (1, 6), "brightness_temperature": (7, 16)}.items():
        names = [name for name in files if channels[0] <= int(name[1:]) <= channels[1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = satpy.Scene(list(files.values()), reader="abi_l1b")
            scene.load(names, calibration=kind)
            truths = {name: scene[name].values / (100 if kind == "reflectance" else 1) for name in names}
        for name, truth in truths.items():
            node = next(c for c in tree.children.values() if name in c["band"].values)
            ours = node[kind].sel(band=name).isel(time=0).values
            np.testing.assert_allclose(ours, truth, rtol=5e-7, err_msg=f"{name} {kind}")


def test_real_eras_and_night_scan(abi_data: Path) -> None:
    old = cube.open_abi(abi_data, platform="goes16", sector="C", end="2021-01-01")
    new = cube.open_abi(abi_data, platform="goes16", sector="C", start="2021-01-01")
    assert set(old.children) == {"1km", "2km"}
    for path in (abi_data / "noaa-goes16" / "ABI-L1b-RadC").rglob("*.nc"):
        name = "C" + path.name.split("C")[2][:2]
        tree = new if "s2023" in path.name else old
        node = next(c for c in tree.children.values() if name in c["band"].values)
        np.testing.assert_array_equal(node["radiance"].sel(band=name).isel(time=0), radiance(str(path)))


def test_opening_references_reads_no_chunk_table(small_archive: Path, tmp_path: Path) -> None:
    cube.write_references(indexes(small_archive), tmp_path / "refs")
    references = read_references(tmp_path / "refs")
    assert all(r.header.rad.offsets.size == 0 for r in references)
    loaded = references[0].load()
    assert loaded.rad.offsets.size > 0
    assert loaded.dqf.offsets.size > 0
    counts = references[0].load("rad")
    np.testing.assert_array_equal(counts.rad.offsets, loaded.rad.offsets)
    assert counts.dqf.offsets.size == 0
    tree = cube.open_abi(tmp_path / "refs")
    sides = [side for name in tree.children for axis in tree[name]["radiance"].chunks[2:] for side in axis]
    assert 700 < max(sides) <= 950  # what two selections one after the other cost at least


def test_references_in_several_records_are_read_by_their_own_size(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cube.geostationary import reference_leaf

    with monkeypatch.context() as written:
        written.setattr(reference_leaf, "_RECORD", 10)  # two scans of four chunks a record
        cube.write_references(indexes(small_archive), tmp_path / "refs")
    (leaf,) = (tmp_path / "refs").glob("*/C13-*")
    assert len(list((leaf / "Rad").glob("*.parq"))) == 4
    data = cube.open_abi(tmp_path / "refs", bands=["C13"])["2km"].ds
    for i, source in enumerate(f for f in files(small_archive) if f.channel == 13):
        np.testing.assert_array_equal(data["radiance"][i, 0], radiance(source.href))
