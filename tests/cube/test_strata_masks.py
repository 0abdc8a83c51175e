"""Cloud-system masks and their tables, against the slow and obvious way: one mask a system."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import pytest

from cube.strata.labels import MaskGrid, survey_labels
from cube.strata.masks import find_masks, survey_mask
from cube.strata.systems import SLOTS, inside_inner_disk, seen_from
from cube.strata.table import SystemTable, read_systems
from stratacube.errors import UsageError

LAT = np.arange(-39.96, 40.0, 2.4)
LON = 150.0 + 2.4 * np.arange(87)
HOURS = np.arange(0, 24, 1 / 3)


def write_mask(
    path: Path,
    labels: npt.NDArray[Any],
    hours: npt.NDArray[Any] | None = HOURS,
    *,
    lat: npt.NDArray[Any] = LAT,
    lon: npt.NDArray[Any] = LON,
    dims: Sequence[str] = ("day", "nt", "lat", "lon"),
    chunks: tuple[int, ...] | None = None,
    name: str = "DCS_number",
    fill: float | None = None,
) -> Path:
    """Write a mask the way netCDF-4 lays it out: dimension scales, ``nt`` without a coordinate variable."""
    dims = dims[-labels.ndim :]
    with h5py.File(path, "w") as out:
        for key, axis in (("lat", lat), ("lon", lon)):
            out[key] = axis
            if np.ndim(axis) == 1:
                out[key].make_scale(key)
        # Of chunks of several steps, floats are read by another way than the others: as netCDF-4 packs them.
        packing = {"compression": "gzip", "shuffle": chunks[0] > 1} if chunks else {}
        variable = out.create_dataset(name, data=labels, chunks=chunks, **packing)
        for axis, dim in enumerate(dims):
            if dim not in out:
                size = labels.shape[axis]
                out[dim] = np.zeros(size, ">f4")
                out[dim].make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
            variable.dims[axis].attach_scale(out[dim])
        if hours is not None:
            out["time"] = hours
            if "nt" in out:
                out["time"].dims[0].attach_scale(out["nt"])
        if fill is not None:
            variable.attrs["_FillValue"] = np.array([fill], labels.dtype)
    return path


def random_labels(
    rng: np.random.Generator, steps: int = 72, shape: tuple[int, int] = (34, 87), first: int = 1
) -> npt.NDArray[np.float64]:
    """Blobs of every shape, broken ones and rings too, with negative and NaN pixels between them."""
    labels = np.where(rng.random((steps, *shape)) < 0.1, -1.0, 0.0)
    labels[rng.random(labels.shape) < 0.02] = np.nan
    for system in range(first, first + 40):
        start, life = rng.integers(0, steps), rng.integers(1, 30)
        row, col = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1])
        for step in range(start, min(steps, start + life)):
            height, width = rng.integers(1, 9, 2)
            rows = np.arange(row, min(row + height, shape[0]))
            cols = (np.arange(col, col + width) + step // 4) % shape[1]
            part = np.ix_([step], rows, cols)
            labels[part] = np.where(rng.random((1, len(rows), len(cols))) < 0.6, system, labels[part])
            if min(len(rows), len(cols)) > 4:
                labels[step, rows[1:-1], cols[len(cols) // 2]] = 0  # a hole, so the centroid may lie outside
    return labels


def slow_records(labels: npt.NDArray[Any], times: list[datetime], circular: bool = False) -> list[tuple[Any, ...]]:
    """One mask a system: (time, id, pixels, anchor row, anchor column, mean row, mean column)."""
    records = []
    step = float(np.median(np.diff(LAT)))
    for layer, time in zip(labels, times, strict=True):
        for system in np.unique(layer[layer > 0]):
            rows, cols = np.nonzero(layer == system)
            width, base = layer.shape[1], cols[0]
            if circular:
                cols = np.where(cols - base > (width - 1) // 2, cols - width, cols)
                cols = np.where(cols - base < -(width // 2), cols + width, cols)
            row, offset = rows.sum() / len(rows), (cols - base).sum() / len(rows)
            shrink = np.cos(np.radians(LAT[0] + step * row)) * (lon_step(circular) / step)
            distance = (rows - row) ** 2 + ((cols - base - offset) * shrink) ** 2
            best = int(np.argmin(distance))
            mean = (base + offset) % width if circular else base + offset
            anchor = int(cols[best]) % width
            records.append((time, int(system), len(rows), int(rows[best]), anchor, row, mean))
    return records


def lon_step(circular: bool) -> float:
    return 360.0 / 87 if circular else float(np.median((np.diff(LON) + 180) % 360 - 180))


def as_records(table: SystemTable) -> list[tuple[Any, ...]]:
    s, _, _ = table.records()
    columns = (s.time, s.system_id, s.pixels, s.row, s.col, s.centroid_row, s.centroid_col)
    return sorted(zip(*(c.tolist() for c in columns), strict=True))


def day_times(day: datetime) -> list[datetime]:
    return [day + timedelta(minutes=20 * i) for i in range(72)]


@pytest.mark.parametrize("chunks", [None, (1, 34, 87), (5, 7, 20), (72, 34, 87)])
@pytest.mark.parametrize(("dtype", "first"), [("f8", 1), ("f4", 5_000_000), ("i4", 900_000)])
def test_one_pass_equals_one_mask_a_system(
    tmp_path: Path, chunks: tuple[int, ...] | None, dtype: str, first: int
) -> None:
    labels = random_labels(np.random.default_rng(1), first=first)
    path = write_mask(tmp_path / "20200630_cloudsystems.nc", np.nan_to_num(labels).astype(dtype), chunks=chunks)
    table, problems = read_systems(str(path))
    assert not problems
    expected = sorted(slow_records(labels, day_times(datetime(2020, 6, 30))))
    assert as_records(table) == expected
    outside = [r for r in expected if labels[(r[0].hour * 60 + r[0].minute) // 20, round(r[5]), round(r[6])] != r[1]]
    assert len(outside) > 20, "the case of a centroid outside its system is not tried"


def test_systems_across_the_seam_of_a_circular_grid() -> None:
    lon = np.arange(87) * (360.0 / 87)
    grid = MaskGrid.of(LAT, lon)
    assert grid.circular
    labels = random_labels(np.random.default_rng(2), steps=20)
    for layer, time in zip(labels, day_times(datetime(2020, 1, 1)), strict=False):
        position = np.flatnonzero(layer > 0)
        steps = survey_labels(layer.ravel()[position].astype(np.int64), position, grid, time)
        expected = slow_records(layer[None], [time], circular=True)
        assert as_records(SystemTable.of(grid, [steps])) == sorted(expected)
    pair = np.zeros((34, 87))
    pair[10, [0, 1, 85, 86]] = 5
    position = np.flatnonzero(pair)
    steps = survey_labels(np.full(4, 5), position, grid, datetime(2020, 1, 1))
    assert steps.centroid_col[0] == 86.5
    assert steps.col[0] in (86, 0)


def test_longitudes_that_pass_360_are_no_seam() -> None:
    grid = MaskGrid.of(LAT, (300.0 + 2.4 * np.arange(87)) % 360)
    assert not grid.circular
    assert grid.steps[1] == pytest.approx(2.4)
    real = MaskGrid.of(LAT, 150.0 + 0.12 * np.arange(1751))  # ends a rounding error beyond 360
    assert not real.circular
    assert real.same(MaskGrid.of(LAT, (150.0 + 0.12 * np.arange(1751)).astype("f4").astype("f8")))


def test_monthly_equals_daily_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    days = [random_labels(rng, first=1 + 20 * d) for d in range(3)]
    for d, labels in enumerate(days):
        write_mask(tmp_path / f"2020020{d + 1}_cloudsystems.nc", labels)
    month = np.zeros((31, 72, 34, 87))
    month[:3] = days
    month[30] = 7777  # February has no such day
    for chunks in (None, (2, 30, 10, 87)):
        write_mask(tmp_path / "202002_DCS_number_monthly.nc", month, None, chunks=chunks)
        monthly, _ = read_systems(str(tmp_path / "202002_*.nc"))
        daily, _ = read_systems(str(tmp_path / "2020020*.nc"))
        assert as_records(monthly) == as_records(daily)
        pd.testing.assert_frame_equal(monthly.metadata("all"), daily.metadata("all"))


def test_systems_live_on_over_files_and_workers_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    records: list[tuple[Any, ...]] = []
    for d in range(3):
        labels = random_labels(rng, first=1 + 20 * d)
        write_mask(tmp_path / f"2019123{d - 1}_cloudsystems.nc" if d else tmp_path / "20191229_cloudsystems.nc", labels)
        records += slow_records(labels, day_times(datetime(2019, 12, 29) + timedelta(days=d)))
    table, _ = read_systems(str(tmp_path / "2019*.nc"))
    assert as_records(table) == sorted(records)

    lifetimes = table.lifetimes()
    assert list(lifetimes) == ["system_id", "start_time", "end_time", "num_time_steps", "duration_min"]
    assert (lifetimes["end_time"] - lifetimes["start_time"]).dt.total_seconds().max() > 86400
    for row in lifetimes.itertuples(index=False):
        times = sorted(r[0] for r in records if r[1] == row.system_id)
        assert (row.start_time, row.end_time) == (times[0], times[-1])
        assert (row.num_time_steps, row.duration_min) == (len(times), 20 * len(times))

    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        parallel, _ = read_systems(str(tmp_path / "2019*.nc"), pool)
    assert as_records(parallel) == as_records(table)
    pd.testing.assert_frame_equal(parallel.metadata(), table.metadata())


def test_metadata_has_the_columns_of_the_predecessor(tmp_path: Path) -> None:
    labels = random_labels(np.random.default_rng(5))
    table, _ = read_systems(str(write_mask(tmp_path / "20200630_cloudsystems.nc", labels)))
    whole = table.metadata("all")
    assert list(whole) == [
        "datetime",
        "system_id",
        "center_y",
        "center_x",
        "latitude",
        "longitude",
        "longitude_norm",
        "satellite",
        "inside_inner_disk",
    ]
    assert len(whole) == len(table.records()[0])
    assert (whole["latitude"] == LAT[whole["center_y"]]).all()
    assert (whole["longitude"] == LON[whole["center_x"]]).all()
    assert whole["longitude_norm"].between(-180, 180, inclusive="left").all()
    step = ((whole["datetime"] - pd.Timestamp("2020-06-30")).dt.total_seconds() // 1200).astype(int)
    assert (labels[step, whole["center_y"], whole["center_x"]] == whole["system_id"]).all()
    assert whole[["datetime", "system_id"]].apply(tuple, axis=1).is_monotonic_increasing

    middle = table.metadata()
    assert middle["system_id"].is_unique
    for row in middle.itertuples(index=False):
        times = sorted(whole.loc[whole["system_id"] == row.system_id, "datetime"])
        assert row.datetime == times[len(times) // 2]


def test_csv_files_read_back(tmp_path: Path) -> None:
    write_mask(tmp_path / "20200630_cloudsystems.nc", random_labels(np.random.default_rng(6)))
    table, _ = read_systems(str(tmp_path / "*.nc"))
    metadata = pd.read_csv(table.write_metadata_csv(tmp_path, "all"), parse_dates=["datetime"], keep_default_na=False)
    lifetimes = pd.read_csv(table.write_lifetimes_csv(tmp_path), parse_dates=["start_time", "end_time"])
    assert {p.name for p in tmp_path.glob("*.csv*")} == {"convection_metadata.csv", "convection_lifetimes.csv"}
    pd.testing.assert_frame_equal(metadata, table.metadata("all"), check_dtype=False)
    pd.testing.assert_frame_equal(lifetimes, table.lifetimes(), check_dtype=False)


def test_satellite_by_box_and_nearest_subpoint() -> None:
    cases = {
        (262.8, 10.0): "east",
        (-75.0, 45.7): "",
        (220.0, 0.0): "west",
        (254.1, 0.0): "east",  # seen by both: 30.9 from -75, 31.1 from -137
        (253.9, 0.0): "west",
        (254.0, 0.0): "east",  # as far from both
        (254.0, 44.0): "east",
        (220.0, 44.0): "east",
        (150.5, 0.0): "west",
        (150.4, 0.0): "",
        (-2.5, 0.0): "",
        (-2.7, 0.0): "east",
    }
    lon, lat = np.array(list(cases)).T
    assert seen_from(lon, lat).tolist() == list(cases.values())
    assert seen_from((lon + 180) % 360 - 180, lat).tolist() == list(cases.values())
    assert seen_from(np.array([262.8]), np.array([0.0]), ["west"]).tolist() == ["west"]


def test_inner_disk_by_navigation_equals_pyproj() -> None:
    rng = np.random.default_rng(7)
    lon, lat = rng.uniform(-200, 20, 20_000), rng.uniform(-60, 60, 20_000)
    for name, slot in SLOTS.items():
        crs = pyproj.CRS.from_proj4(
            f"+proj=geos +h=35786023 +a=6378137 +b=6356752.31414 +lon_0={slot.subpoint} +sweep=x"
        )
        x, y = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(lon, lat)
        metres = np.array([x, y])
        metres[~np.isfinite(metres)] = 1e9
        col, row = (np.array([[1], [-1]]) * metres / 35786023 + 28e-6 * 5424) // 28e-6
        inside = ((row >= 1600) & (row < 9248) & (col >= 1600) & (col < 9248)).tolist()
        assert inside_inner_disk(lon, lat, np.full(len(lon), name)).tolist() == inside
        assert 1000 < sum(inside) < 15_000
    assert not inside_inner_disk(lon, lat, np.full(len(lon), "")).any()


def test_fill_values_and_infinities_are_no_systems(tmp_path: Path) -> None:
    labels = np.zeros((72, 34, 87))
    labels[0, 0, :4] = [9.969209968386869e36, np.inf, 3, 12345]
    table, _ = read_systems(str(write_mask(tmp_path / "20200101_x.nc", labels, fill=12345)))
    assert table.records()[0].system_id.tolist() == [3]


def test_a_file_of_no_system_is_fine(tmp_path: Path) -> None:
    write_mask(tmp_path / "20200101_cloudsystems.nc", np.zeros((72, 34, 87)))
    table, problems = read_systems(str(tmp_path / "*.nc"))
    assert not problems
    assert len(table.metadata("all")) == len(table.lifetimes()) == 0


def test_single_precision_hours_and_odd_steps_are_taken_to_the_minute(tmp_path: Path) -> None:
    labels = np.zeros((9, 34, 87))
    labels[:, 3, 3] = 1
    write_mask(tmp_path / "20200101_cloudsystems.nc", labels, (np.arange(9) / 3).astype("f4"))
    table, _ = read_systems(str(tmp_path / "*.nc"))
    assert table.records()[0].time.tolist() == day_times(datetime(2020, 1, 1))[:9]


GOOD = np.zeros((72, 34, 87))
GOOD[:, 5, 5] = 1


@pytest.mark.parametrize(
    ("name", "labels", "more", "message"),
    [
        (
            "20200102_x.nc",
            GOOD.transpose(0, 2, 1),
            {"dims": ("nt", "lon", "lat")},
            r"lon: 87, lat: 34.*\(nt, lat, lon\)",
        ),
        ("20200102_x.nc", GOOD[0], {}, r"\(lat: 34, lon: 87\), expected numbers with \(nt, lat, lon\)"),
        ("202001_x.nc", GOOD, {}, r"nt: 72, lat: 34, lon: 87\), expected numbers with \(day, nt, lat, lon\)"),
        ("20200102_x.nc", GOOD, {"name": "mask"}, "no variable DCS_number, only .*mask"),
        ("20200102_x.nc", GOOD[:, :, 1:], {"lon": LON[1:]}, r"another grid \(34 x 86.*34 x 87"),
        ("20200102_x.nc", GOOD, {"lon": LON + 1}, "another grid .*lon 151.*lon 150"),
        ("20200102_x.nc", GOOD, {"lat": LAT**3 / 1600}, "lat has steps"),
        ("20200102_x.nc", GOOD, {"lat": LAT * 3}, "lat is not .* in -90 to 90"),
        ("20200102_x.nc", GOOD, {"hours": HOURS + 24}, "time runs from 24 to 47.6667"),
        ("20200102_x.nc", GOOD[:71], {"hours": HOURS[:70]}, r"time has shape \(70,\), expected \(71,\)"),
        ("20200102_x.nc", GOOD[:71], {"hours": None}, "time has shape none"),
        ("20200101_y.nc", GOOD, {}, "holds 2020-01-01 00:00, as .*20200101_cloudsystems.nc does"),
        ("clouds.nc", GOOD, {}, "tells no date"),
        ("20201301_x.nc", GOOD, {}, "tells no date"),
    ],
)
def test_a_bad_file_drops_only_itself_and_says_why(
    tmp_path: Path, name: str, labels: npt.NDArray[Any], more: dict[str, Any], message: str
) -> None:
    write_mask(tmp_path / "20200101_cloudsystems.nc", GOOD)
    bad = write_mask(tmp_path / name, labels, **({"hours": HOURS if labels.ndim > 2 else None} | more))
    table, problems = read_systems(str(tmp_path / "*.nc"))
    assert len(table.records()[0]) == 72
    assert [p.source for p in problems] == [str(bad)]
    assert re.search(message, problems[0].message)


def test_a_file_without_grid_is_named(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "20200101_x.nc", GOOD)
    with h5py.File(path, "a") as out:
        del out["lat"]
    with pytest.raises(UsageError, match=r"the shape of lat is none, expected \(34,\)"):
        read_systems(str(path))


def test_truncated_and_foreign_files_drop_only_themselves(tmp_path: Path) -> None:
    labels = random_labels(np.random.default_rng(9))
    write_mask(tmp_path / "20200101_cloudsystems.nc", labels)
    whole = write_mask(tmp_path / "20200102_cloudsystems.nc", labels, chunks=(1, 34, 87)).read_bytes()
    (tmp_path / "20200102_cloudsystems.nc").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "20200103_cloudsystems.nc").write_text("<html>not found</html>")
    damaged = bytearray(whole)
    middle = len(whole) // 2
    damaged[middle : middle + 3000] = b"x" * 3000
    (tmp_path / "20200104_cloudsystems.nc").write_bytes(damaged)
    table, problems = read_systems(str(tmp_path / "*.nc"))
    assert set(np.unique(table.records()[0].time.astype("M8[D]")).tolist()) == {datetime(2020, 1, 1).date()}
    assert [Path(p.source).name[:8] for p in problems] == ["20200102", "20200103", "20200104"]
    assert all("cannot be read as NetCDF-4" in p.message for p in problems)


@pytest.mark.parametrize("fault", [OverflowError("date value out of range"), MemoryError(), ValueError("chunk")])
def test_whatever_is_raised_on_a_mask_drops_only_it(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mask(tmp_path / "20200101_cloudsystems.nc", GOOD)

    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr("cube.strata.readers.daily._step_times", fail)
    ((file,), _) = find_masks(str(path))
    problem = survey_mask(file).problem
    assert problem is not None
    assert re.fullmatch(rf"{path} cannot be read as NetCDF-4 \(.+\); fetch or write it again", problem.message)


def test_nothing_usable_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'No cloud-system mask matches ".*glob'):
        read_systems(str(tmp_path / "2020.*nc"))
    write_mask(tmp_path / "20200102_x.nc", GOOD[0], None)
    with pytest.raises(UsageError, match=r"None of the 1 files .*expected numbers with"):
        read_systems(str(tmp_path / "*.nc"))


def test_files_are_found_at_any_depth_by_date(tmp_path: Path) -> None:
    for name in ("b/20200102_cloudsystems.nc", "a/20200103_cloudsystems.nc", "202001_DCS_number_monthly.nc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, problems = find_masks(str(tmp_path / "**/*.nc"))
    assert not problems
    assert [(f.start.day, f.kind == "monthly") for f in files] == [(1, True), (2, False), (3, False)]
    assert survey_mask(files[0]).problem is not None


def test_a_list_of_dimensions_that_is_none_ends_no_process(tmp_path: Path) -> None:
    for day, listed in enumerate((np.array([2**31 - 1]), np.array([b"x"]), np.zeros((3, 2))), 1):
        path = write_mask(tmp_path / f"202007{day:02d}_cloudsystems.nc", np.zeros((72, 34, 87)))
        with h5py.File(path, "r+") as out:
            del out["DCS_number"].attrs["DIMENSION_LIST"]
            out["DCS_number"].attrs["DIMENSION_LIST"] = listed
    masks = str(tmp_path / "*.nc")
    code = f"from cube.strata.masks import *; print([survey_mask(m).problem for m in find_masks({masks!r})[0]])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[None, None, None]\n")


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((72, 10**6, 87), (1, 64, 87)), ((72, 34, 10**12), None), ((72, 2**15, 2**15), (1, 2**15, 2**14))],
)
def test_a_mask_without_bound_takes_no_memory(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...] | None
) -> None:
    path = tmp_path / "20200701_cloudsystems.nc"
    with h5py.File(path, "w") as out:
        out.create_dataset("DCS_number", shape, "f8", chunks=chunks)
        for name, size in zip(("lat", "lon"), shape[-2:], strict=True):
            out.create_dataset(name, (size,), "f8", chunks=(min(64, size),))
    problem = survey_mask(find_masks(str(path))[0][0]).problem
    assert problem is not None
    assert "a side and" in problem.message
