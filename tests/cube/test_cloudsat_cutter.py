"""SatVision-Pix4D's cutter by its own options: what they come to, and a build by the command."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import cube
from cube.build import main
from cube.geostationary.cloudsat import CloudsatConfig
from cube.testing import write_cloudsat_granule
from loaders.tiles import TileDataset
from stratacube.errors import UsageError
from stratacube.parquet import read_frame
from tests.cube.test_strata_merra2 import write_merra2


def config(**values: Any) -> CloudsatConfig:
    return CloudsatConfig.check({"cloudsat_root": "cs", "abi_root": "abi", **values})


def test_defaults_are_the_cutters() -> None:
    build = config(year=2020, day_start=61, day_end=61).build()
    assert (build.stratification, build.satellite, build.sector) == ("cloudsat", "goes16", "F")
    assert (build.start_dt, build.end_dt) == (datetime(2020, 3, 1), datetime(2020, 3, 2))
    assert (build.offsets, build.steps, build.tile_size) == ([-40, -20, 0, 20, 40], 5, 128)
    assert (build.tolerance_minutes, build.min_valid, build.margin, build.num_tiles) == (8.0, 1.0, 1600, None)
    options = build.parts[0].options.arguments()
    assert (options["profile_stride"], options["profiles_per_chip"], options["profile_selection"]) == (45, 91, "fixed")
    assert options["cloudsat_root"] == str(Path("cs").absolute())
    assert options["cloudsat_aux_root"] is None


def test_options_go_where_they_belong() -> None:
    given = config(
        year=2019, day_start=1, day_skip=2, transect=[-30, 30], max_chips=9, chip_size=512, offsets=[-60, 0, 60],
        metadata=["cloudsat", "cloudsat_aux"], cloudsat_aux_root="aux", profile_selection="chip", require_cloud=True,
        channels=["C02", "13"], orbit=67551, parallax="top", allow_missing_timesteps=True,
    )  # fmt: skip
    build = given.build()
    assert (build.start_dt, build.end_dt) == (datetime(2019, 1, 3), datetime(2020, 1, 1))
    assert (build.latitudes, build.num_tiles, build.tile_size, build.steps) == ([-30, 30], 9, 512, 3)
    assert (build.channels, build.allow_missing) == ([2, 13], True)
    options = build.parts[0].options.arguments()
    assert options["cloudsat_aux_root"] == str(Path("aux").absolute())
    assert (options["orbit"], options["parallax"], options["require_cloud"]) == (67551, "top", True)


def test_flags_of_its_readme_are_the_same() -> None:
    given = CloudsatConfig.check(
        {"cloudsat_path": "cs", "root_dir": "cs/lidar", "abi_data": "abi", "lat_lon_path": "x"}
    )
    assert given.cloudsat_root == Path("cs/lidar").absolute()
    assert given.abi_root == Path("abi").absolute()
    assert given.year == 2019
    assert given.output_dir == Path("abi_tiles").absolute()
    notes = list(given.notes())
    assert "`lat_lon_path` is not needed" in notes[0]
    assert notes[1].startswith("by default: `output_dir` ")
    assert list(config(output_dir="o", year=2019).notes()) == []
    unused = config(output_dir="o", year=2019, merra2_root="m", cloudsat_aux_root="aux")
    assert list(unused.notes()) == [
        "`cloudsat_aux_root` is not used without `metadata=cloudsat_aux`",
        "`merra2_root` is not used without `metadata=merra2`",
    ]
    used = config(output_dir="o", year=2019, merra2_root="m", metadata=["merra2"])
    assert list(used.notes()) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"cloudsat_root": None}, "`cloudsat_root` is required"),
        ({"metadata": ["merra2"]}, "needs `merra2_root`, the folder"),
        ({"metadata": ["cloudsat_aux"]}, "needs `cloudsat_aux_root`"),
        ({"year": 2019, "day_end": 366}, "2019 has the days 1 to 365"),
        ({"day_start": 9, "day_end": 8}, "are 9 and 8"),
        ({"profile_strid": 4}, "did you mean `profile_stride`"),
    ],
)
def test_what_cannot_be_is_one_sentence(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        config(**values)


def test_the_command_cuts_chips(small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = datetime(2020, 7, 1, 16, 10)
    write_cloudsat_granule(tmp_path / "cs", start, longitude=-58.7, profiles=9000, before_equator=600.0)
    words = [
        "cloudsat", "--abi-root", small_archive, "--cloudsat-root", tmp_path / "cs", "--output-dir", tmp_path / "out",
        "--year", 2020, "--day-start", 183, "--day-end", 183, "--domain", "M1", "--channels", 13,
        "--offsets", -10, 0, 10,
        "--inner-disk-margin", 0, "--min-valid-fraction", 0.5, "--profile-selection", "chip", "--workers", 1,
        "--latlon-path", "ABI_EAST_GEO.nc", "--max-chips", 2,
        "--metadata", "cloudsat", "merra2", "--merra2-root", tmp_path / "merra2", "--merra2-variables", "T2M",
    ]  # fmt: skip
    write_merra2(tmp_path / "merra2", "20200701", "tavg1_2d_slv_Nx", [15.5, 16.5, 17.5], ("T2M",), box=True)
    assert main([*map(str, words), "--plan-only"]) == 0
    assert "--latlon-path is not needed" in capsys.readouterr().err
    assert main([*map(str, words), "--engine", "local", "--shard", "1/1"]) == 0
    assert not (tmp_path / "out" / "catalog.json").exists()
    assert main(["publish", str(tmp_path / "out"), "--workers", "1"]) == 0
    plan = read_frame(tmp_path / "out" / "plan.parquet")
    assert len(plan) == 2
    for row in plan.itertuples():
        steps = np.asarray(row.requested_times, "M8[us]")
        assert (np.diff(steps) == np.timedelta64(10, "m")).all()
        seen = start + timedelta(seconds=0.16 * json.loads(row.details)["profile"])
        assert abs(steps[1] - np.datetime64(seen, "us")) < np.timedelta64(1, "s")
    tiles = cube.open_tiles(tmp_path / "out", chunks=None)
    assert tiles.sizes["profile"] > 200
    # The cell of a profile's pixel is the profile's own, but for profiles near the border of two.
    for tile in range(2):
        first, number = (int(tiles[f"cloudsat_profile_{name}"][tile]) for name in ("start", "count"))
        own = tiles.isel(tile=tile, profile=slice(first, first + number))
        at = [own[f"cloudsat_{name}"].values for name in ("row", "col")]
        for name, place, step in (("row", "latitude", 0.5), ("column", "longitude", 0.625)):
            index = own[f"cloudsat_merra2_{name}"].values
            assert (index != own[f"merra2_{name}"].values[at[0], at[1]]).mean() < 0.1
            apart = own[f"merra2_{place}"].values[index] - own[f"cloudsat_{place}"].values
            assert np.abs(apart).max() <= step / 2 + 1e-5
        assert own["merra2_T2M"].dims == ("time", "merra2_y", "merra2_x")
        asked = own["merra2_T2M_time"].values - own["requested_time"].values
        assert (np.abs(asked) <= np.timedelta64(30, "m")).all()
    dataset = TileDataset(tmp_path / "out", labels=["cloudsat", "merra2_T2M", "cloudsat_merra2_row"])
    assert dataset[0].labels["merra2_T2M"].shape == (1, *tiles["merra2_T2M"].shape[1:])
    held = {name for name, v in dataset.store.small.variables.items() if isinstance(v._data, np.ndarray)}
    assert "merra2_T2M_time" in held
    assert "merra2_row" not in held  # 16,384 numbers a tile, which of many tiles would fill the memory


def test_messages_name_its_own_options_and_shares_that_differ(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_archive, tmp_path / "abi")
    for path in tmp_path.glob("abi/**/*C13*.nc"):
        with h5py.File(path, "r+") as file:
            flags = file["DQF"][()]
            flags[::75, ::75] = 2  # one pixel in 5625
            file["DQF"][...] = flags
    start = datetime(2020, 7, 1, 16, 10)
    write_cloudsat_granule(tmp_path / "cs", start, longitude=-58.7, profiles=9000, before_equator=600.0)
    words = [
        "cloudsat", "--abi-root", tmp_path / "abi", "--cloudsat-root", tmp_path / "cs", "--year", 2020, "--day-start",
        183, "--day-end", 183, "--domain", "M1", "--channels", 13, "--offsets", 0, "--profile-selection", "chip",
        "--workers", 1, "--max-chips", 1,
    ]  # fmt: skip
    assert main([*map(str, words), "--output-dir", str(tmp_path / "never")]) == 2
    told = "with margins of 1600 pixels does not fit in sector M1 of 600 x 600 pixels; choose a smaller"
    assert f"{told} --chip-size or --inner-disk-margin" in capsys.readouterr().err
    assert main([*map(str, words), "--output-dir", str(tmp_path / "out"), "--inner-disk-margin", "0"]) == 1
    said = capsys.readouterr().err
    few = re.search(r"([\d.]+)% of its pixels are valid, fewer than the ([\d.]+)% of --min-valid-fraction; (.*)", said)
    assert few is not None
    assert 99.9 < float(few[1]) < float(few[2]) == 100.0
    assert few[3].endswith("ask for more with --max-chips, or build with a lower --min-valid-fraction")
    assert "mend the files" not in said
