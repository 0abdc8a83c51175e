"""The lines that SatVision-Pix4D's users type, as docs/predecessor.md has them; only paths are others."""

from __future__ import annotations

import shlex
from datetime import date, datetime
from pathlib import Path

import boto3
import h5py
import numpy as np
import pandas as pd
import pytest

from cube.build import main
from cube.testing import write_abi_archive, write_cloud_systems, write_cloudsat_granule
from stratacube.parquet import read_frame
from tests.conftest import ROOT
from tests.cube.test_abi_run import put_in_bucket

SMALL = ["--domain", "M1", "--steps", "2", "--step-minutes", "10", "--plan-only", "--workers", "1"]
"""What the archive of these tests is, a sector of an hour, and what is not wanted of it: pixels."""


def lines() -> list[list[str]]:
    """Flags of the documented lines: 2.2, 2.3, 2.4, 2.5, section 5, tiles of its metadata, and 2.1."""
    text = (ROOT / "docs" / "predecessor.md").read_text()
    start = "$ python -m cube.build "
    return [shlex.split(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start)]


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    grid = {"latitudes": np.arange(-5, 20, 0.25), "longitudes": np.arange(285, 310, 0.25)}
    write_cloud_systems(folder, date=date(2020, 7, 1), steps=range(47, 52), **grid)
    return folder


@pytest.fixture(scope="module")
def online(s3_server: str, small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """NOAA's bucket, with an hour of 2020 and one of January 2019."""
    january = tmp_path_factory.mktemp("january")
    write_abi_archive(january, start=datetime(2019, 1, 5, 16), hours=1, channels=(13,), shape_2km=(300, 300), workers=1)
    for archive in (small_archive, january):
        put_in_bucket(s3_server, archive)
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=s3_server, **keys).create_bucket(Bucket="noaa-goes17", ACL="public-read")
    return s3_server


def typed(line: list[str], masks: Path, archive: Path, *more: str) -> int:
    """Run a line in the folder that the test is in."""
    for name, path in (("masks", masks), ("archive", archive)):
        if not Path(name).exists():
            Path(name).symlink_to(path)
    return main([*line, *more])


def test_random_tiles_without_a_word(
    online: str,
    masks: Path,
    small_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [*SMALL, "--s3-endpoint", online, "--channels", "13", "--tile-size", "64"]
    assert typed(lines()[0], masks, small_archive, *more) == 0
    told = "defaults are taken for what was not given: --output-dir abi_tiles, --start-dt 2019-01-01T00:00:00, --end-dt"
    assert told in capsys.readouterr().err
    plan = read_frame(tmp_path / "abi_tiles" / "plan.parquet")
    assert len(plan) == 5
    assert set(plan["event_time"].dt.date) == {date(2019, 1, 5)}


@pytest.mark.parametrize(("number", "folder"), [(1, "tiles_pix4d"), (2, "tiles_local"), (3, "tiles_aws")])
def test_convection_tiles(
    number: int,
    folder: str,
    online: str,
    masks: Path,
    small_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [*SMALL, "--allow-missing"] + ([] if number == 2 else ["--s3-endpoint", online])
    more += ["--tile-size", "64"]  # of 512 pixels there is but one in the sector
    more += ["--channels", "1", "2"] if number == 1 else []  # all 16 are more than the archive has
    assert typed(lines()[number], masks, small_archive, *more, "--systems", "all") == 0
    told = "no scan of west in the period" in capsys.readouterr().err
    assert told == (number != 2)  # both are looked for where nothing is said
    plan = read_frame(tmp_path / folder / "plan.parquet")
    assert len(plan)
    assert set(plan["event_time"].dt.date) == {date(2020, 7, 1)}


def test_metadata_of_masks_alone_and_tiles_of_it(
    masks: Path,
    small_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cube.geostationary.find.find_scans", lambda *_, **__: pytest.fail("scans were listed"))
    assert typed(lines()[4], masks, small_archive, "--workers", "1") == 0
    assert capsys.readouterr().out == f"2 tables in {tmp_path / 'metadata'}\n"
    found = pd.read_csv("metadata/20200701_cloudsystems_metadata.csv", parse_dates=["datetime"])
    with h5py.File(masks / "20200701_cloudsystems.nc") as source:
        labels = source["DCS_number"][47:52]
        for row in found.itertuples():
            step = round((row.datetime - pd.Timestamp(2020, 7, 1)) / pd.Timedelta(minutes=20)) - 47
            assert labels[step, row.center_y, row.center_x] == row.system_id
        assert len(found) == sum(len(np.unique(layer[layer > 0])) for layer in labels)
    lives = pd.read_csv("metadata/20200701_cloudsystems_lifetimes.csv")
    assert (lives["duration_min"] == 20 * lives["num_time_steps"]).all()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)

    # The same events, from the masks and from the tables made of them.
    more = [*SMALL, "--channels", "13", "--tile-size", "64", "--systems", "all"]
    assert typed(lines()[5], masks, small_archive, *more) == 0
    direct = ["abi", "-r", "convection", "-cr", "masks", "-o", "direct", "--local-data-dir", "archive"]
    assert typed(direct, masks, small_archive, *more) == 0
    tables, plain = (read_frame(tmp_path / name / "plan.parquet") for name in ("tiles_of_metadata", "direct"))
    assert len(tables)
    columns = ["system_id", "event_time", "row", "col", "window_start"]
    pd.testing.assert_frame_equal(tables[columns], plain[columns])

    # The end is exclusive: the last event goes where it ends there.
    last = plain["event_time"].max()
    more += ["--start-dt", "2020-07-01", "--end-dt", f"{last:%Y-%m-%dT%H:%M}"]
    assert typed([*direct[:6], "ended", *direct[7:]], masks, small_archive, *more) == 0
    ended = read_frame(tmp_path / "ended" / "plan.parquet")
    assert len(ended) == (plain["event_time"] < last).sum()


def test_tiles_about_the_track_of_cloudsat(
    masks: Path,
    tmp_path: Path,
    small_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its line has no flag at all: what has a default gets it, and what has none is asked for by its name."""
    monkeypatch.chdir(tmp_path)
    assert typed(lines()[6][:1], masks, small_archive) == 2
    assert "--cloudsat-root is required: give the folder of granules" in capsys.readouterr().err
    start = datetime(2020, 7, 1, 16, 10)
    for day, of in ((start, 1), (start.replace(day=2), 2)):  # of the second there is no scan
        track = {"longitude": -58.7, "profiles": 9000, "before_equator": 600.0, "orbit": of}
        write_cloudsat_granule(tmp_path / "granules", day, product="2B-CLDCLASS-LIDAR", **track)
    more = ["--year", "2020", "-d", "182", "--domain", "M1", "--channels", "13", "--offsets", "0", "--plan-only"]
    more += ["--inner-disk-margin", "0", "--profile-selection", "chip", "--workers", "1", "-llp", "ABI_EAST_GEO.nc"]
    assert typed(lines()[6], masks, small_archive, *more) == 0
    told = capsys.readouterr().err
    assert f"by default: --output-dir {tmp_path / 'abi_tiles'}\n" in told
    assert "--lat-lon-path is not needed" in told
    plan = read_frame(tmp_path / "abi_tiles" / "plan.parquet")
    assert set(plan["stratum"]) == {"cloudsat"}
    assert set(plan["event_time"].dt.date) == {date(2020, 7, 1)}


def test_short_flags_are_the_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("cube.geostationary.run.run_abi", lambda config: seen.append(config) or 0)
    short = "-r convection -o out -cr /masks/*.nc -ts 256 -c 1 2 -s goes17 -p ABI-L1b-RadF -d F"
    long = (
        "--stratification convection --output-dir out --convection-regex /masks/*.nc --tile-size 256 --channels 1 2 "
        "--satellite goes17 --product ABI-L1b-RadF --domain F"
    )
    for flags in (short, long):
        assert main(["abi", *flags.split()]) == 0
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--no-archive"], "--no-archive goes with --plan-only and --stratification convection; give both"),
        (["-r", "convection"], "needs --convection-regex, a glob of cloud-system masks"),
        (
            ["-r", "convection", "-cr", "a", "--metadata-csv", "b"],
            "--convection-regex and --metadata-csv both tell the systems; give one of them",
        ),
        (
            ["-r", "convection", "-cr", "/none", "--plan-only", "--no-archive"],
            'No cloud-system mask matches "/none": give a folder or a glob',
        ),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["abi", *flags]) == 2
    assert told in capsys.readouterr().err
