"""Scans in a stac-geoparquet table: read back exactly, a row group at a time, and by anybody's reader."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
from stac_geoparquet.arrow import stac_table_to_items

from catalog.geostationary import item_table
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.item_table import ItemTable
from catalog.geostationary.items import load_items, save_items, scan_item
from catalog.geostationary.scans import Scan, find_scans
from catalog.geostationary.shelf import ScanShelf
from stratacube.errors import SourceError, UsageError
from tests.catalog.test_abi_items import CRS, START, make_scan
from tests.stac_validation import validate_stac

RING = [(-100.0, 20.0), (-90.0, 20.0), (-90.0, 30.0), (-100.0, 30.0)]


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    """Scans that lack channels, and those of the first are not the lowest; of two kinds of sector."""
    return [
        make_scan(START + i * timedelta(minutes=10), sector=sector, mode=mode, channels=channels)
        for i, (sector, mode, channels) in enumerate(
            itertools.product(("F", "M1"), (3, 6), ((13,), tuple(range(1, 17)), (2, 7)))
        )
    ]


@pytest.fixture(scope="module")
def content(scans: list[Scan], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A table of them, in row groups of five."""
    path = tmp_path_factory.mktemp("table") / "sources.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_table, "_ROW_GROUP", 5)
        save_items(path, scans)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "sources.parquet").write_bytes(content)
    return tmp_path / "sources.parquet"


def plain(value: Any) -> Any:
    """An item out of a table as it was: there, what is absent is null, and so is what is empty of a place."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    return [plain(v) for v in value] if isinstance(value, list) else value


def same_times(item: dict[str, Any]) -> dict[str, Any]:
    times = {k: datetime.fromisoformat(v) for k, v in item["properties"].items() if k.endswith("datetime")}
    return item | {"properties": item["properties"] | times}


def test_scans_come_back_exactly(path: Path, scans: list[Scan]) -> None:
    assert pq.read_metadata(path).num_row_groups == 3
    found = load_items(path)
    assert found == scans
    assert [list(scan.files) for scan in found] == [list(scan.files) for scan in scans]
    shelf = ScanShelf(path)
    assert list(shelf) == [scan.id for scan in scans]
    assert list(shelf.scans()) == scans
    for scan in random.Random(1).choices(scans, k=40):
        assert shelf[scan.id] == scan


def test_a_scan_cut_down_to_channels_keeps_its_times(tmp_path: Path) -> None:
    whole = make_scan()
    part = Scan(**{f: getattr(whole, f) for f in Scan.__slots__} | {"files": {1: whole.files[1]}})
    assert (part.files[1].start, part.files[1].end) != (part.start, part.end)
    save_items(tmp_path / "sources.parquet", [part])
    assert load_items(tmp_path / "sources.parquet") == [part]


def test_real_scans_come_back_exactly(abi_data: Path, tmp_path: Path) -> None:
    scans = find_scans(LocalArchive(abi_data), platform="goes17", sector="M1")
    save_items(tmp_path / "sources.parquet", scans)
    assert load_items(tmp_path / "sources.parquet") == scans


def test_any_reader_finds_the_items(path: Path, scans: list[Scan]) -> None:
    items = list(stac_table_to_items(pq.read_table(path)))
    for found, scan in zip(items, scans, strict=True):
        assert found["geometry"] == {"type": "Polygon", "coordinates": []}  # which RFC 7946 takes for null
        assert all(map(math.isnan, found.pop("bbox")))
        assert pystac.Item.from_dict(found).datetime.replace(tzinfo=None) == scan.start
        item = plain(found | {"geometry": None}) | {"geometry": None}
        assert same_times(item) == same_times(scan_item(scan))
    validate_stac(item)
    frame = geopandas.read_parquet(path)
    assert list(frame["id"]) == [scan.id for scan in scans]
    assert frame.geometry.is_empty.all()
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_authority() == ("OGC", "CRS84")
    assert list(frame["datetime"].dt.tz_localize(None)) == [scan.start for scan in scans]
    assert pq.read_schema(path).field("links").type.value_type.get_field_index("href") >= 0  # not of type null


def test_an_outline_is_kept_where_it_is_known(tmp_path: Path, scans: list[Scan]) -> None:
    path = tmp_path / "sources.parquet"

    def item(scan: Scan) -> dict[str, Any]:
        return scan_item(scan, geometry=RING, projection=CRS) if scan.sector == "F" else scan_item(scan)

    save_items(path, scans, item=item)
    assert load_items(path) == scans
    frame = geopandas.read_parquet(path)
    assert list(frame.geometry.is_empty) == [scan.sector != "F" for scan in scans]
    assert frame.total_bounds.tolist() == [-100, 20, -90, 30]


def test_a_row_group_is_read_once_while_its_scans_are_asked_for(
    path: Path, scans: list[Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counted(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, i: int, **options: Any) -> pa.Table:
            read.append(i)
            return super().read_row_group(i, **options)

    monkeypatch.setattr(pq, "ParquetFile", Counted)
    shelf = ScanShelf(path)
    for scan in scans:
        shelf[scan.id]
    assert read == [0, 1, 2, 0, 1, 2]  # the ids; then the scans
    monkeypatch.setattr(item_table, "_KEPT", 1)
    shelf, read[:] = ScanShelf(path), []
    for scan in (scans[0], scans[-1], scans[1], scans[-2]):
        shelf[scan.id]
    assert read == [2, 0, 2] or read == [2, 0, 2, 0][: len(read)]  # of one that is kept, the other has to go


def test_ids_that_are_not_those_of_scans_are_passed_over(path: Path, scans: list[Scan]) -> None:
    """Another program's table may call its items as it likes."""
    table = pq.read_table(path)
    names = pa.array([f"a{i}" for i in range(len(scans))])
    pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", names), path)
    shelf = ScanShelf(path)
    assert list(shelf) == [scan.id for scan in scans]
    assert shelf[scans[3].id] == scans[3]


def test_what_was_saved_stays_when_saving_fails(path: Path, scans: list[Scan]) -> None:
    class Broken(list[Scan]):
        def __iter__(self) -> Iterator[Scan]:
            yield make_scan(START + timedelta(hours=1))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        save_items(path, Broken(scans))
    assert load_items(path) == scans
    with pytest.raises(UsageError, match=r"12 items were to be written .* and 0 came; give them in a list"):
        save_items(path, iter(scans))  # type: ignore[arg-type]
    assert load_items(path) == scans
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_scan_at_all_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot hold no item at all"):
        save_items(tmp_path / "sources.parquet", [])
    assert not list(tmp_path.iterdir())


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def flip_an_address(path: Path) -> None:
    """A bit in the middle of the addresses of one channel."""
    group = pq.read_metadata(path).row_group(1)
    (column,) = (c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == "assets.C13.href")
    middle = column.data_page_offset + (column.dictionary_page_offset or column.data_page_offset)
    path.write_bytes(flipped(path.read_bytes(), middle // 2))


def of_frame(path: Path, frame: pd.DataFrame) -> None:
    frame.to_parquet(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(random.Random(7).randbytes(400)), "is not a stac-geoparquet table"),
        (lambda path: path.write_bytes(b""), "is not a stac-geoparquet table"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not a stac-geoparquet table"),
        (flip_an_address, "is not a stac-geoparquet table .*CRC"),
        (lambda path: of_frame(path, pd.DataFrame({"a": [1]})), "is not a stac-geoparquet table"),
        (lambda path: of_frame(path, pd.DataFrame({"id": [1], "assets": [2]})), "is not a stac-geoparquet table"),
        (lambda path: of_frame(path, pd.DataFrame({"id": ["a"], "assets": [{"C01": {"a": 1}}]})), "have no field href"),
        (lambda path: of_frame(path, pd.DataFrame({"id": ["a"], "assets": [{"C01": {"href": "a"}}]})), "not describe"),
        (lambda path: path.unlink(), "file not found"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a stac-geoparquet table"),
    ],
)
def test_a_spoilt_table_is_one_sentence_with_a_remedy(path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(path)
    for read in (load_items, lambda path: list(ScanShelf(path).scans())):
        with pytest.raises(SourceError, match=rf"^.*sources\.parquet.*{said}.*remove it to list") as told:
            read(path)
        assert "\n" not in str(told.value)
        assert str(told.value).count("remove") == 1


def test_a_flipped_bit_is_told_or_does_not_matter(path: Path, scans: list[Scan]) -> None:
    content, told = path.read_bytes(), 0
    for at in random.Random(11).sample(range(len(content)), 12):
        path.write_bytes(flipped(content, at))
        try:
            assert load_items(path) == scans
        except SourceError as error:
            told += "remove it to list" in str(error)
    assert told > 2


def test_a_scan_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(SourceError, match=r"scan goes16_x is not in .*sources\.parquet"):
        ScanShelf(path)["goes16_x"]


def test_only_what_is_asked_for_is_read(path: Path) -> None:
    item = next(iter(ItemTable(path, ["platform"], ["href"])))
    assert item["properties"] == {"platform": "GOES-16"}
    assert [list(asset) for asset in item["assets"].values()] == [["href"]]
