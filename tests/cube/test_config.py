"""Configurations: what is refused is refused in one sentence, and one build is one digest however it is written."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from cube.build import main
from cube.config import AbiConfig
from cube.testing import write_abi_archive
from stratacube.errors import UsageError

FLAGS = ("--domain", "M1", "--channels", "13", "--grid", "2km", "--tile-size", "32", "--steps", "1", "--num-tiles", "2")


def config(tmp_path: Path, file: str | None = None, **flags: Any) -> AbiConfig:
    """A configuration of a YAML text and flags."""
    path = None
    if file is not None:
        path = tmp_path / "build.yaml"
        path.write_text(file)
    loaded: AbiConfig = AbiConfig.load(path, {"output_dir": str(tmp_path / "out"), **flags})
    return loaded


@pytest.mark.parametrize("name", ["start_dt", "end_dt"])
@pytest.mark.parametrize("value", ["1593561600", "1.5e9", "20200701", "true", "[2020, 7]", '"1593561600"', '"now"'])
def test_a_number_is_no_time(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` is .*give ISO 8601"):
        config(tmp_path, f"{name}: {value}\n")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("20200701", datetime(2020, 7, 2)),
        ("2020-07-01", datetime(2020, 7, 2)),
        (" 2020-07-01 ", datetime(2020, 7, 2)),
        ("2020-W27-3", datetime(2020, 7, 2)),
        ("2020-07-01T00:00", datetime(2020, 7, 1)),
        ("2020-07-01 12", datetime(2020, 7, 1, 12)),
        ("2020-07-01t12", datetime(2020, 7, 1, 12)),
        ("20200701T12", datetime(2020, 7, 1, 12)),
        ("2020-07-01T12:00+02:00", datetime(2020, 7, 1, 10)),
        ("2020-07-01T12:00Z", datetime(2020, 7, 1, 12)),
    ],
)
def test_a_date_as_an_end_is_the_whole_day(tmp_path: Path, value: str, wanted: datetime) -> None:
    assert config(tmp_path, end_dt=value).end_dt == wanted
    assert config(tmp_path, yaml.safe_dump({"end-dt": value})).end_dt == wanted
    assert config(tmp_path, start_dt="20200701").start_dt == datetime(2020, 7, 1)


def test_dates_and_times_as_yaml_reads_them(tmp_path: Path) -> None:
    read = config(tmp_path, "start-dt: 2020-07-01\nend-dt: 2020-07-01\n")
    assert (read.start_dt, read.end_dt) == (datetime(2020, 7, 1), datetime(2020, 7, 2))
    read = config(tmp_path, "start-dt: 2020-07-01T06:00:00Z\nend-dt: 2020-07-01T12:00:00\n")
    assert (read.start_dt, read.end_dt) == (datetime(2020, 7, 1, 6), datetime(2020, 7, 1, 12))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"tolerance_minutes": "inf"}, "`tolerance_minutes` is 'inf': give a finite number"),
        ({"tolerance_minutes": float("nan")}, "`tolerance_minutes` is nan"),
        ({"min_spacing_km": "inf"}, "`min_spacing_km` is 'inf'"),
        ({"shard_mb": "nan"}, "`shard_mb` is 'nan'"),
        ({"output_dir": "s3://bucket/out"}, "`output_dir` is 's3://bucket/out': give a path of this machine"),
        ({"local_data_dir": "s3://noaa-goes16"}, "`local_data_dir` is 's3://noaa-goes16': give a path"),
        ({"systems": "all"}, "`systems` goes with `stratification=convection`, not with random"),
        (
            {"stratification": "convection", "convection_regex": "*.nc", "area": "km2"},
            "`area` goes with `stratification=random`, not with convection",
        ),
        ({"good_dqf": ["77"]}, r"`good_dqf` is \[77\]; the quality of ABI has the values 0 to 4"),
        ({"good_dqf": []}, "one must be good"),
        ({"channels": ["13", "13"]}, "name one twice"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        config(tmp_path, **flags)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "archive"
    write_abi_archive(root, start=datetime(2020, 7, 1, 16), hours=0.1, channels=(13,), shape_2km=(130, 130), workers=1)
    return root


def test_a_relative_folder_is_known_from_anywhere(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    monkeypatch.chdir(archive.parent)
    flags = ["abi", "--workers", "1", "--plan-only", *FLAGS]
    assert main([*flags, "--local-data-dir", archive.name, "--output-dir", str(output)]) == 0
    stamp = (output / "plan.parquet").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    for same in (str(archive), f"{archive}/", str(archive.parent / "x" / ".." / archive.name)):
        assert main([*flags, "--local-data-dir", same, "--output-dir", "out"]) == 0
    assert (output / "plan.parquet").stat().st_mtime_ns == stamp


def test_a_home_folder_and_masks_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    read = config(tmp_path, local_data_dir="~/abi", stratification="convection", convection_regex="masks/*.nc")
    assert read.local_data_dir == tmp_path / "abi"
    assert read.convection_regex == str(tmp_path / "masks" / "*.nc")


def test_the_config_of_a_build_makes_it_again(archive: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    flags = ["abi", "--workers", "1", "--plan-only", *FLAGS, "--end-dt", "2020-07-01", "--start-dt", "2020-07-01"]
    assert main([*flags, "--local-data-dir", str(archive), "--output-dir", str(first)]) == 0
    again = ["abi", "--workers", "1", "--plan-only", "--config", str(first / "config.yaml")]
    assert main([*again, "--output-dir", str(second)]) == 0
    assert main([*again, "--output-dir", str(third), "--seed", "5"]) == 0
    one, two, three = (yaml.safe_load((p / "config.yaml").read_text()) for p in (first, second, third))
    assert one["digest"] == two["digest"] != three["digest"]
    assert one["build"] == two["build"] == {**three["build"], "seed": 42}


def test_flags_of_quality_are_the_imagers(tmp_path: Path) -> None:
    ami = {"satellite": "gk2a", "domain": "LA", "local_data_dir": str(tmp_path)}
    assert config(tmp_path, good_dqf=["4"]).good_dqf == [4]
    with pytest.raises(UsageError, match=r"`good_dqf` is \[4\]; the quality of AMI has the values 0 to 3"):
        config(tmp_path, good_dqf=["4"], **ami)


@pytest.mark.parametrize("grid", ["2km", "native"])
def test_the_form_of_a_store_is_one_where_the_grid_decides_it(tmp_path: Path, grid: str) -> None:
    forms = [config(tmp_path, grid=grid, **more) for more in ({}, {"store": "native"}, {"store": "common"})]
    assert len({c.digest() for c in forms}) == 1


@pytest.mark.parametrize("domain", [{"M1": 1}, ["M1"], 7])
def test_a_domain_that_is_no_text_is_refused_as_such(domain: object) -> None:
    with pytest.raises(UsageError, match=r"^`domain` is .*: give text$"):
        AbiConfig.load(None, {"output_dir": "out", "local_data_dir": "archive", "domain": domain})


@pytest.mark.parametrize("given", [None, [], 7])
def test_a_satellite_that_is_none_is_one_sentence(given: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`satellite` is .*; give one, or several of one imager"):
        AbiConfig.load(None, {"output_dir": tmp_path, "satellite": given})
