"""Listing local archives, and finding scans in them."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import pytest

from catalog.geostationary.archives import Archive, FirstOf, LocalArchive, S3Archive
from catalog.geostationary.scans import find_scans
from catalog.geostationary.truncation import breaks_off
from stratacube.errors import SourceError, UsageError

NOON = datetime(2020, 1, 1, 12)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def name_at(start: datetime, channel: int = 1, *, sector: str = "M1", platform: int = 16, made: int = 60) -> str:
    end, created = start + timedelta(seconds=5), start + timedelta(seconds=made)
    stamps = "_".join(
        f"{k}{t:%Y%j%H%M%S}{t.microsecond // 100_000}" for k, t in zip("sec", (start, end, created), strict=True)
    )
    return f"OR_ABI-L1b-Rad{sector}-M6C{channel:02d}_G{platform}_{stamps}.nc"


def put(folder: Path, start: datetime, channel: int = 1, *, content: bytes = b"x", **kwargs: int | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name_at(start, channel, **kwargs)  # type: ignore[arg-type]
    path.write_bytes(content)
    return path


def hour_of(root: Path, time: datetime) -> Path:
    return root / f"{time:%Y/%j/%H}"


def listed(archive: Archive, start: datetime | None, end: datetime | None, sector: str = "M1") -> list[str]:
    return [file.href for file in archive.files("goes16", sector, start, end)]


@pytest.fixture
def day(tmp_path):
    """A day with one file every ten minutes below ABI-L1b-RadM/YYYY/DDD/HH."""
    for i in range(144):
        time = datetime(2020, 1, 1) + 10 * i * MINUTE
        put(hour_of(tmp_path / "ABI-L1b-RadM", time), time)
    return tmp_path


def test_a_period_includes_its_start_and_not_its_end(day):
    files = list(LocalArchive(day).files("goes16", "M1", NOON, NOON + HOUR))
    assert [file.start for file in files] == [NOON + 10 * i * MINUTE for i in range(6)]
    assert all(Path(file.href).is_absolute() and file.size == 1 for file in files)
    assert files[0].tag == str(Path(files[0].href).stat().st_mtime_ns)


def test_an_open_period_is_everything(day):
    assert len(listed(LocalArchive(day), None, None)) == 144
    assert len(listed(LocalArchive(day), NOON, None)) == 72
    assert len(listed(LocalArchive(day), None, NOON)) == 72


@pytest.mark.parametrize("inner", ["", "ABI-L1b-RadM", "ABI-L1b-RadM/2020", "ABI-L1b-RadM/2020/001"])
def test_folders_of_other_hours_are_not_entered(day, inner):
    # Files of the period in folders three hours away show whether those folders were entered.
    decoys = [
        put(hour_of(day / "ABI-L1b-RadM", NOON + shift * HOUR), NOON + MINUTE, channel=channel)
        for channel, shift in ((2, 3), (3, -3))
    ]
    near = put(hour_of(day / "ABI-L1b-RadM", NOON + HOUR), NOON + 2 * MINUTE)
    found = listed(LocalArchive(day / inner), NOON, NOON + HOUR)
    assert not set(found) & {str(decoy) for decoy in decoys}
    assert str(near) in found
    assert len(found) == 7


def test_a_root_that_is_one_hour_is_read_whatever_the_period(day):
    root = hour_of(day / "ABI-L1b-RadM", NOON)
    late = put(root, NOON + 5 * HOUR)
    assert listed(LocalArchive(root), NOON + 5 * HOUR, NOON + 6 * HOUR) == [str(late)]


def test_neighbouring_years_are_looked_at(tmp_path):
    new_year = datetime(2021, 1, 1)
    odd = put(hour_of(tmp_path, new_year - MINUTE), new_year + timedelta(seconds=1))
    assert listed(LocalArchive(tmp_path), new_year, new_year + HOUR) == [str(odd)]


def test_a_project_folder_named_as_a_year_hides_nothing(tmp_path):
    path = put(tmp_path / "2026" / "goes" / "flat", NOON)
    beside = put(tmp_path / "2026", NOON + MINUTE)
    assert sorted(listed(LocalArchive(tmp_path), NOON, NOON + HOUR)) == sorted([str(path), str(beside)])


def test_any_depth_and_any_order_of_folders(tmp_path):
    paths = [put(tmp_path / folder, NOON, i + 1) for i, folder in enumerate(("", "a", "a/b/c/d", "2020/01/01"))]
    assert sorted(listed(LocalArchive(tmp_path), NOON, NOON + HOUR)) == sorted(map(str, paths))


def test_other_products_and_buckets_are_not_entered_and_other_files_ignored(tmp_path):
    wanted = put(tmp_path / "noaa-goes16" / "ABI-L1b-RadM", NOON)
    put(tmp_path / "noaa-goes17" / "ABI-L1b-RadM", NOON)
    put(tmp_path / "noaa-goes16" / "ABI-L1b-RadC", NOON)
    put(tmp_path / "noaa-goes16" / "ABI-L1b-RadM", NOON, sector="M2")
    put(tmp_path / "noaa-goes16" / "ABI-L1b-RadM", NOON, platform=18)
    (wanted.parent / "README.txt").write_text("x")
    (wanted.parent / "OR_ABI-L1b-RadM1-M6C01_G16_s1_e1_c1.nc").write_text("x")
    (wanted.parent / (wanted.name + ".part")).write_text("x")
    wanted.with_name(wanted.name.replace("C01", "C02")).mkdir()
    assert listed(LocalArchive(tmp_path), NOON, NOON + HOUR) == [str(wanted)]


def test_what_looks_like_a_file_and_is_not_understood_is_counted_and_named(
    day: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = next(day.rglob("*.nc"))
    folder = hour_of(day / "ABI-L1b-RadM", NOON)
    sent = put(folder, NOON + timedelta(seconds=30))
    sent = sent.rename(sent.with_name(sent.name.replace(".nc", "-118900_0.nc")))
    four = put(folder, NOON + timedelta(seconds=60))
    four = four.rename(four.with_name(four.name + "4"))
    with caplog.at_level(logging.WARNING):
        found = listed(LocalArchive(day), NOON, NOON + 2 * MINUTE)
    assert {str(sent), str(four)} <= set(found)
    assert len(found) == 3
    assert not caplog.text
    (folder / f"123_{first.name}").touch()
    with caplog.at_level(logging.WARNING):
        assert listed(LocalArchive(day), NOON, NOON + 2 * MINUTE) == found
    said = f"1 file looks like ABI L1b and was not understood: 123_{first.name} (it does not begin with OR_"
    assert said in caplog.text
    for i in range(5):
        (folder / f"{i}.{first.name}".replace(".nc", ".NC")).touch()
    (folder / f".{first.name}.0a1b.part").touch()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert listed(LocalArchive(day), NOON, NOON + 2 * MINUTE) == found
    assert "6 files look like ABI L1b and were not understood: 0." in caplog.text
    assert "and 3 more" in caplog.text


def test_names_of_times_that_are_none_stop_nothing(day: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = hour_of(day / "ABI-L1b-RadM", NOON)
    whole = listed(LocalArchive(day), None, None)
    name = name_at(NOON)
    for stamp in ("s9999366", "s2019366", "s0000001"):
        (folder / name.replace("s2020001", stamp)).touch()
    (folder / name.replace("e2020001", "e2019365")).touch()
    with caplog.at_level(logging.WARNING):
        assert listed(LocalArchive(day), None, None) == whole
    assert "4 files look like ABI L1b and were not understood" in caplog.text
    assert "before it starts" in caplog.text


@pytest.mark.parametrize("token", [{}, {"NextContinuationToken": "here"}])
def test_a_listing_that_never_ends_is_one_sentence(token: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        """One that has pages without end."""

        def call_s3(self, *_: object, **__: object) -> dict[str, object]:
            return {"IsTruncated": True, **token}

    monkeypatch.setattr("catalog.geostationary.archives.s3_filesystem", lambda *_, **__: Server())
    with pytest.raises(
        SourceError, match=r"s3://noaa-goes16 .* could not be read \(its listing goes on without saying"
    ):
        list(S3Archive(endpoint_url="http://127.0.0.1:1").files("goes16", "M1", NOON, NOON + MINUTE))


def test_a_listing_of_ever_new_pages_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        """One that always tells where its listing goes on."""

        def call_s3(self, *_: object, ContinuationToken: str = "", **__: object) -> dict[str, object]:
            return {"IsTruncated": True, "NextContinuationToken": ContinuationToken + "x"}

    monkeypatch.setattr("catalog.geostationary.archives.s3_filesystem", lambda *_, **__: Server())
    with pytest.raises(SourceError, match=r"its listing of ABI-L1b-RadM/2020/\d+/\d+/.* goes on after 1000 pages"):
        list(S3Archive(endpoint_url="http://127.0.0.1:1").files("goes16", "M1", NOON, NOON + MINUTE))


def test_links_are_followed_once_and_broken_ones_ignored(tmp_path):
    real = tmp_path / "real"
    path = put(real, NOON)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(real)
    (root / "b").symlink_to(real)
    (real / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / name_at(NOON, 2)).symlink_to(tmp_path / "gone")
    (root / name_at(NOON, 3)).symlink_to(root / name_at(NOON, 3))
    assert listed(LocalArchive(root), NOON, NOON + HOUR) == [str(root / "a" / path.name)]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so tests of permissions step down."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_an_unreadable_folder_is_one_sentence():
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        locked = root / "locked"
        locked.mkdir(mode=0)
        with as_nobody(), pytest.raises(SourceError, match=r"locked cannot be read \(Permission denied\); check"):
            listed(LocalArchive(root), NOON, NOON + HOUR)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "does not exist"), ("file", "is not a folder")])
def test_a_root_that_is_no_folder_is_refused(tmp_path, name, said):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"{name} {said}; give the folder"):
        LocalArchive(tmp_path / name)


def test_an_empty_folder_is_empty(tmp_path):
    assert find_scans(LocalArchive(tmp_path), platform="goes16", sector="F") == []


def test_the_real_archive_holds_what_its_readme_says(abi_data):
    archive = LocalArchive(abi_data)
    first, day, night = find_scans(archive, platform="west", sector="M1")
    assert list(first.files) == [1]
    assert sorted(set(range(1, 17)) - set(day.files)) == [2]
    assert day.start == datetime(2019, 10, 27, 20, 0, 27, 500_000)
    assert list(night.files) == list(range(1, 17))
    assert [list(s.files) for s in find_scans(archive, platform="16", sector="C")] == [[1, 4, 6], [8, 16]]
    (within,) = find_scans(
        archive, platform="goes17", sector="C", start=datetime(2019, 10, 27), end=datetime(2019, 10, 28)
    )
    assert within.id == "goes17_ABI-L1b-RadC_s20193002001196"
    inner = LocalArchive(abi_data / "noaa-goes17" / "ABI-L1b-RadM" / "2019" / "300")
    assert find_scans(inner, platform="goes17", sector="M1") == [day]


def test_channels_are_a_subset_and_keep_the_scans_identity(tmp_path):
    for i in range(3):
        for channel in (1, 2, 13):
            shift = timedelta(milliseconds=0 if channel == 1 else 300)
            put(tmp_path, NOON + i * MINUTE + shift, channel)
    put(tmp_path, NOON + 3 * MINUTE, 1)
    archive = LocalArchive(tmp_path)
    every = find_scans(archive, platform="goes16", sector="M1", start=NOON, end=NOON + HOUR)
    some = find_scans(archive, platform="goes16", sector="M1", channels=[2, 13], start=NOON, end=NOON + HOUR)
    assert len(every) == 4
    assert [scan.id for scan in some] == [scan.id for scan in every[:3]]
    assert all(list(scan.files) == [2, 13] for scan in some)


def test_a_scan_across_a_bound_is_whole_or_absent(tmp_path):
    for channel, tenths in ((1, -1), (2, 1)):
        put(tmp_path, NOON + timedelta(milliseconds=100 * tenths), channel)
    archive = LocalArchive(tmp_path)
    assert find_scans(archive, platform="16", sector="M1", start=NOON, end=NOON + HOUR) == []
    (scan,) = find_scans(archive, platform="16", sector="M1", start=NOON - HOUR, end=NOON)
    assert list(scan.files) == [1, 2]


def test_east_changes_satellite_on_the_day(tmp_path):
    day = datetime(2025, 4, 7)
    for platform in (16, 19):
        for i in range(-2, 2):
            put(tmp_path, day + 10 * i * MINUTE, platform=platform)
    scans = find_scans(LocalArchive(tmp_path), platform="east", sector="M1")
    assert [(scan.platform, scan.start - day) for scan in scans] == [
        ("goes16", -20 * MINUTE),
        ("goes16", -10 * MINUTE),
        ("goes19", 0 * MINUTE),
        ("goes19", 10 * MINUTE),
    ]


def test_wrong_questions_are_refused(tmp_path):
    archive = LocalArchive(tmp_path)
    with pytest.raises(UsageError, match="from 2020-01-01 12:00:00 to 2020-01-01 11:00:00 is empty"):
        find_scans(archive, platform="16", sector="F", start=NOON, end=NOON - HOUR)
    with pytest.raises(UsageError, match="channel 17 is unknown; ABI has channels 1 to 16"):
        find_scans(archive, platform="16", sector="F", channels=[1, 17])
    with pytest.raises(UsageError, match="`start_dt` and `end_dt`"):
        find_scans(S3Archive(), platform="16", sector="F")


@pytest.fixture
def hdf5(tmp_path):
    """Content of a whole HDF5 file."""
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["x"] = list(range(5000))
    content = (tmp_path / "some.h5").read_bytes()
    (tmp_path / "some.h5").unlink()
    return content


def test_a_first_archive_is_completed_by_a_second(tmp_path, hdf5):
    local, remote = tmp_path / "local", tmp_path / "remote"
    for channel in range(1, 7):
        put(remote, NOON, channel, content=hdf5)
    here = put(local, NOON, 1, content=hdf5)
    put(local, NOON, 2, content=hdf5, made=30)  # an earlier issue
    newer = put(local, NOON, 3, content=hdf5, made=90)
    put(local, NOON, 4, content=hdf5[:-1000])  # cut short
    rewritten = put(local, NOON, 5, content=hdf5)
    put(remote, NOON, 5, content=hdf5 + bytes(500))  # larger, but the local one is whole
    archive = FirstOf(LocalArchive(local), LocalArchive(remote))
    found = {file.channel: Path(file.href) for file in archive.files("goes16", "M1", NOON, NOON + HOUR)}
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert {c: p.parent.name for c, p in found.items() if c in (2, 4, 6)} == dict.fromkeys((2, 4, 6), "remote")
    assert [found[c] for c in (1, 3, 5)] == [here, newer, rewritten]


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_a_cut_file_is_told_from_a_whole_one(tmp_path, libver):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = list(range(5000))
    assert not breaks_off(str(path))
    path.write_bytes(path.read_bytes()[:-1])
    assert breaks_off(str(path))


def test_what_is_no_hdf5_file_breaks_off(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"<html>not found</html>" * 10)
    assert all(breaks_off(str(tmp_path / name)) for name in ("a", "b", "gone"))


def test_of_the_real_files_one_is_cut(abi_data):
    cut = [path.name for path in abi_data.rglob("*.nc") if breaks_off(str(path))]
    assert [name[:18] for name in cut] == ["OR_ABI-L2-LSTC-M3_"]
