"""Cloud systems of other makers, and what a mask's own step means, against plain NumPy on the same arrays."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import pytest
import shapely

from catalog.geostationary.scans import Scan
from cube.strata.masks import find_masks, period_of_masks, survey_mask
from cube.strata.plugs import ConvectionOptions
from cube.strata.stages import SystemFilter
from cube.strata.table import SystemTable, read_systems
from cube.strata.windows import Frame, choose_window
from stratacube.errors import UsageError
from tests.cube.test_strata_masks import LAT, LON, write_mask
from tests.cube.test_strata_windows import candidate_times

DAY = datetime(2019, 12, 27)
EPOCH = datetime(1970, 1, 1)
KM2_OF_EARTH = 4 * np.pi * 6371.0088**2


def moving(steps: int, shape: tuple[int, int] = (34, 87)) -> npt.NDArray[np.int32]:
    """Three systems that move: 7 lives through all steps, 8 the first half, 9 a single one."""
    labels = np.zeros((steps, *shape), "i4")
    for step in range(steps):
        labels[step, 4:8, 5 + step % 40 : 9 + step % 40] = 7
        if step < steps // 2:
            labels[step, 20:23, 30:34] = 8
    labels[steps // 2, 25, 50:52] = 9
    return labels


def write_slots(
    folder: Path, labels: npt.NDArray[np.int32], times: Sequence[datetime], form: str = "regular", **more: Any
) -> None:
    """TOOCAN's public files: one a slot, int32, -998 where there is none, seconds since 1970."""
    folder.mkdir(exist_ok=True)
    for layer, time in zip(labels, times, strict=True):
        with h5py.File(folder / f"ToocanCloudMask_{time:%Y%m%d_%H%M}.nc", "w") as out:
            values = np.where(layer > 0, layer, -998)[None]
            out.create_dataset("DCS_number", data=values.astype("i4"), chunks=values.shape, compression="gzip")
            out["DCS_number"].attrs["_FillValue"] = np.array([-998], "i4")
            out["time"] = np.array([(time - EPOCH).total_seconds()])
            out["time"].attrs["units"] = "seconds since 1970-01-01 00:00:00"
            if form == "regular":
                out["latitude"], out["longitude"] = LAT, LON
            elif form == "2-d":
                out["latitude"], out["longitude"] = np.meshgrid(LAT, LON, indexing="ij")
            else:
                write_native(out, layer.shape, **more)


def write_native(out: h5py.File, shape: tuple[int, int], half: float = 0.06) -> None:
    """A geostationary satellite's own pixels: metres, as CF has them."""
    height = 35786023.0
    out["y"] = np.linspace(half, -half, shape[0]) * height
    out["x"] = np.linspace(-half, half, shape[1]) * height
    for name in "xy":
        out[name].attrs["units"] = "m"
    out["goes"] = np.int32(0)
    attrs = {"perspective_point_height": height, "semi_major_axis": 6378137.0, "semi_minor_axis": 6356752.31414}
    out["goes"].attrs.update({**attrs, "longitude_of_projection_origin": -75.0, "sweep_angle_axis": "x"})
    out["DCS_number"].attrs["grid_mapping"] = "goes"


def slots(number: int, minutes: int) -> list[datetime]:
    return [DAY + timedelta(minutes=minutes * i) for i in range(number)]


def test_toocan_slots_equal_the_daily_mask(tmp_path: Path) -> None:
    labels = moving(72)
    write_mask(tmp_path / "20191227_cloudsystems.nc", labels.astype("f8"))
    write_slots(tmp_path / "slots", labels, slots(72, 20))
    daily, _ = read_systems(str(tmp_path / "*.nc"))
    public, problems = read_systems(str(tmp_path / "slots"))
    assert not problems
    pd.testing.assert_frame_equal(public.metadata("all"), daily.metadata("all"))
    pd.testing.assert_frame_equal(public.lifetimes(), daily.lifetimes())
    np.testing.assert_array_equal(public.records()[0].area_km2, daily.records()[0].area_km2)


@pytest.mark.parametrize("form", ["2-d", "native"])
def test_systems_on_other_grids_lie_where_their_pixels_do(tmp_path: Path, form: str) -> None:
    labels = moving(3)
    write_slots(tmp_path, labels, slots(3, 30), form)
    table, problems = read_systems(str(tmp_path / "*"))
    assert not problems
    longitude, latitude = np.meshgrid(LON, LAT)
    if form == "native":
        crs = pyproj.CRS.from_proj4("+proj=geos +h=35786023 +a=6378137 +b=6356752.31414 +lon_0=-75 +sweep=x")
        x, y = np.meshgrid(np.linspace(-0.06, 0.06, 87) * 35786023.0, np.linspace(0.06, -0.06, 34) * 35786023.0)
        longitude, latitude = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
    steps, _, _ = table.records()
    assert len(steps) == 5
    for i in range(len(steps)):
        step = int((steps.time[i].item() - DAY) / timedelta(minutes=30))
        inside = (labels[step] == steps.system_id[i]) & np.isfinite(longitude)
        assert steps.pixels[i] == inside.sum()
        assert inside[steps.row[i], steps.col[i]]
        here = longitude[steps.row[i], steps.col[i]], latitude[steps.row[i], steps.col[i]]
        assert (steps.longitude[i], steps.latitude[i]) == pytest.approx(here, abs=1e-6)
        if form == "2-d":
            assert steps.area_km2[i] == pytest.approx(boxes(inside), rel=0.002)


def boxes(inside: npt.NDArray[np.bool_]) -> float:
    """Area of cells of 2.4 degrees, by the share of the sphere that they are."""
    edges = np.sin(np.radians(LAT[:, None] + np.array([-1.2, 1.2])))
    return float((inside.sum(axis=1) * (edges[:, 1] - edges[:, 0]) / 2 * 2.4 / 360).sum() * KM2_OF_EARTH)


def test_areas_of_a_regular_grid_are_those_of_the_sphere(tmp_path: Path) -> None:
    labels = moving(2)
    write_slots(tmp_path, labels, slots(2, 20))
    steps, _, _ = read_systems(str(tmp_path))[0].records()
    for i in range(len(steps)):
        step = int((steps.time[i].item() - DAY) / timedelta(minutes=20))
        assert steps.area_km2[i] == pytest.approx(boxes(labels[step] == steps.system_id[i]), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("DCS_number", None, "has no variable DCS_number, only"),
        ("time", None, "time is none, expected 1 times with units"),
        ("time", "hours since yesterday", "time is not a time"),
        ("time", "days since 1970-01-01", "is of .*, not of 2019-12-27 00:00:00 as its name tells|not a time"),
        ("latitude", None, r"no latitudes and longitudes, nor .* \(34, 87\) \(found: longitude of \(87,\)\)"),
    ],
)
def test_a_slot_that_is_odd_drops_only_itself(tmp_path: Path, name: str, change: str | None, message: str) -> None:
    write_slots(tmp_path, moving(3), slots(3, 20))
    with h5py.File(tmp_path / "ToocanCloudMask_20191227_0000.nc", "r+") as out:
        if change is None:
            del out[name]
        else:
            out[name].attrs["units"] = change
    table, problems = read_systems(str(tmp_path))
    assert len(table.times) == 2
    assert len(problems) == 1
    assert re.search(message, problems[0].message)


def test_a_slot_given_twice_is_refused(tmp_path: Path) -> None:
    write_slots(tmp_path, moving(2), slots(2, 20))
    write_slots(tmp_path / "again", moving(1), slots(1, 20))
    _, problems = read_systems(str(tmp_path / "**" / "*.nc"))
    assert [re.sub(r".*/", "", p.message) for p in problems] == [
        "ToocanCloudMask_20191227_0000.nc does: give each time once."
    ]


def write_pyflextrkr(folder: Path, labels: npt.NDArray[np.int32], times: Sequence[datetime]) -> None:
    for layer, time in zip(labels, times, strict=True):
        with h5py.File(folder / f"mcstrack_{time:%Y%m%d_%H%M}.nc", "w") as out:
            out["cloudtracknumber"] = np.where(layer > 0, layer, np.nan)[None].astype("f4")
            out["tb"] = np.where(layer > 0, 200.0 + layer, 290.0)[None].astype("f4")
            out["tb"][0, 5, 7] = 190.0 - layer[5, 7]
            out["base_time"] = np.array([(time - EPOCH).total_seconds()])
            out["base_time"].attrs["units"] = "Seconds since 1970-01-01 00:00:00"
            out["latitude"], out["longitude"] = np.meshgrid(LAT, LON, indexing="ij")


def test_pyflextrkr_tells_systems_and_their_coldest_pixel(tmp_path: Path) -> None:
    labels = moving(4)
    write_pyflextrkr(tmp_path, labels, slots(4, 60))
    table, problems = read_systems(str(tmp_path))
    assert not problems
    steps, _, _ = table.records()
    tops = {(int(s), t.item().hour): float(k) for s, t, k in zip(steps.system_id, steps.time, steps.top, strict=True)}
    assert tops == {(7, 0): 183, (7, 1): 183, (7, 2): 183, (7, 3): 207, (8, 0): 208, (8, 1): 208, (9, 2): 209}
    assert table.records(wanted=SystemFilter(max_top_temperature=200))[0].system_id.tolist() == [7, 7, 7]


def test_tobac_features_become_cells(tmp_path: Path) -> None:
    times = slots(3, 20)
    features = np.zeros((3, 34, 87), "i4")
    features[0, 2:5, 2:5], features[1, 3:6, 3:6], features[1, 20, 20], features[2, 4:7, 4:8] = 11, 12, 13, 14
    with h5py.File(tmp_path / "Mask_Segmentation_olr.nc", "w") as out:
        out["segmentation_mask"], out["latitude"], out["longitude"] = features, LAT, LON
        out["time"] = np.array([(t - DAY) / timedelta(minutes=1) for t in times])
        out["time"].attrs["units"] = f"minutes since {DAY}"
    assert "no table of tracks" in survey_mask(find_masks(str(tmp_path))[0][0]).problem.message  # type: ignore[union-attr]
    pd.DataFrame({"feature": [11, 12, 13, 14], "cell": [5, 5, -1, 5]}).to_csv(tmp_path / "Track.csv", index=False)
    table, _ = read_systems(str(tmp_path / "*.nc"))
    assert table.metadata("all")[["system_id", "datetime"]].to_numpy().tolist() == [[5, pd.Timestamp(t)] for t in times]
    assert table.records()[0].pixels.tolist() == [9, 9, 12]


def test_tables_of_tracks_in_every_form(tmp_path: Path) -> None:
    box = shapely.box(-60, 4, -58, 6)
    rows = [{"track": "a", "time": "2019-12-27T15:00:00Z", "geometry": box}, {"track": "b", "time": "2019-12-27T16:00"}]
    rows[1]["geometry"] = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    frame = pd.DataFrame(rows)
    frame.assign(geometry=frame["geometry"].map(shapely.to_wkt)).to_csv(tmp_path / "a.csv", index=False)
    frame.assign(geometry=frame["geometry"].map(shapely.to_wkb)).to_parquet(tmp_path / "b.parquet")
    features = ",".join(
        f'{{"type":"Feature","properties":{{"track":"{r["track"]}","time":"{r["time"]}"}},'
        f'"geometry":{shapely.to_geojson(r["geometry"])}}}'
        for r in rows
    )
    (tmp_path / "c.geojson").write_text(f'{{"type":"FeatureCollection","features":[{features}]}}')
    tables = [read_systems(str(tmp_path / name))[0] for name in ("a.csv", "b.parquet", "c.geojson")]
    for table in tables:
        steps, _, _ = table.records()
        assert sorted(zip((steps.longitude % 360).tolist(), steps.latitude.tolist(), strict=True)) == [
            (180.0, 0.5),
            (301.0, 5.0),
        ]
        assert not table.tells_presence
    area = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(box)[0] / 1e6
    assert abs(area) == pytest.approx(tables[0].records()[0].area_km2.max(), rel=1e-6)
    assert len({tuple(t.file.system_id.tolist()) for t in tables}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,when,lat,lon\n1,2019,0,0\n", "no column of time, only id, when, lat, lon"),
        ("id,time\n1,2019-12-27\n", "no column of outline or place"),
        ("id,time,lat,lon\n1,2019-12-27,0,0\n1,yesterday,0,0\n", "row 2 has the time 'yesterday'"),
        ("id,time,lat,lon\n1,2019-12-27,95,0\n", "row 1 lies at longitude 0, latitude 95"),
        ("id,time,lat,lon\n,2019-12-27,5,0\n", "row 1 tells no system"),
        ("id,time,wkt\n1,2019-12-27,POLYGON ((\n", "row 1 has an outline that cannot be read"),
    ],
)
def test_tables_that_are_odd_are_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tracks.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_systems(str(tmp_path / "tracks.csv"))


def test_real_tracks_and_the_masks_drawn_from_them_agree(data_folder: Path) -> None:
    folder = data_folder / "cloud_systems"
    tracks, problems = read_systems(str(folder / "atrackcs_*.csv"))
    assert not problems
    rows = list(csv.DictReader((folder / "atrackcs_20191224_20191231.csv").read_text().splitlines()))
    times = defaultdict(set)
    for row in rows:
        times[row["belong"]].add(row["time"])
    assert len(tracks) == len(times)
    assert sorted(tracks.file.count.tolist()) == sorted(map(len, times.values()))
    assert tracks.step_minutes == 60
    outlines = defaultdict(list)
    for row in rows:
        outlines[row["time"], round(float(row["area_tb"]), 1)].append(shapely.from_wkt(row["geometry"]))
    steps, _, _ = tracks.records()
    for time, area, lon, lat in zip(
        steps.time, steps.area_km2.tolist(), steps.longitude.tolist(), steps.latitude.tolist(), strict=True
    ):
        found = outlines[str(time).replace("T", " "), round(area, 1)]
        assert shapely.distance(found, shapely.Point(lon, lat)).min() < 1e-9
    masks, problems = read_systems(str(folder / "masks"))
    assert not problems
    assert masks.step_minutes == 60
    assert set(masks.lifetimes()["duration_min"] % 60) == {0}
    # A mask keeps one of two outlines that overlap, so not all of the table's are there, but most.
    same = tracks.records()[0].time < np.datetime64("2019-12-28")
    assert 0.7 < len(masks.records()[0]) / same.sum() <= 1.0


@pytest.mark.parametrize("minutes", [20, 30, 60])
def test_durations_ages_and_presence_follow_the_masks_own_step(tmp_path: Path, minutes: int) -> None:
    steps = 24 * 60 // minutes
    write_mask(tmp_path / "20191227_cloudsystems.nc", moving(steps).astype("f8"), np.arange(steps) * minutes / 60)
    write_mask(tmp_path / "20191228_cloudsystems.nc", moving(steps).astype("f8"), np.arange(steps) * minutes / 60)
    table, _ = read_systems(str(tmp_path))
    assert table.step_minutes == minutes
    assert table.lifetimes()["duration_min"].tolist() == [48 * 60, 24 * 60, 2 * minutes]  # over midnight
    _, system, age = table.records()
    mine = system == 0
    assert age[mine] == pytest.approx((np.arange(2 * steps) + 0.5) / (2 * steps))
    early, _, _ = table.records(wanted=SystemFilter(life_stages=["initiating"], min_lifetime_hours=48))
    assert early.time.max() < np.datetime64("2019-12-27T12:00")
    assert len(early) == steps // 2

    event = DAY + timedelta(hours=11, minutes=60 - minutes)
    pixels = table.pixels_by_time(1, event, timedelta(hours=3))
    assert set(np.diff(list(pixels)).tolist()) == {timedelta(minutes=minutes)}
    assert len(pixels) == 6 * 60 // minutes + 1  # also where it is not there any more
    assert all(n == (12 if t < DAY + timedelta(hours=12) else 0) for t, n in pixels.items())


def test_between_a_masks_steps_nothing_is_known() -> None:
    """An hourly mask with windows of 20-minute steps: a system that is there each hour is there all the time."""
    event = datetime(2020, 6, 1, 12)
    scans = [Scan("goes16", "ABI-L1b-RadF", "F", 6, t, t + timedelta(minutes=9), {}) for t in candidate_times(event)]
    frames = [Frame(scan.start, scan, 0) for scan in scans]
    hourly = {event + timedelta(hours=h): 5 for h in range(-2, 3)}
    assert choose_window(frames, 7, bands=16, system_pixels=hourly).start == 4  # as if nothing were told
    gone = hourly | {event + timedelta(hours=h): 0 for h in (1, 2)}
    choice = choose_window(frames, 7, bands=16, system_pixels=gone)
    assert choice.start == 3  # to 12:40, the most centred that ends before the hour at which it is gone
    grows = {event + timedelta(hours=h): 9 - abs(h - 1) for h in range(-2, 3)}
    assert choose_window(frames, 7, bands=16, system_pixels=grows).start == 4
    shrinks = {event + timedelta(hours=h): 9 - h for h in range(-2, 3)} | {event - timedelta(hours=2): 1}
    assert choose_window(frames, 7, bands=16, system_pixels=shrinks).start <= 1


def test_filters_leave_what_satisfies_them(tmp_path: Path) -> None:
    write_slots(tmp_path, moving(12), slots(12, 20))
    table, _ = read_systems(str(tmp_path))
    steps, _, _ = table.records()
    middle = float(np.sort(steps.area_km2)[3])
    small, _, _ = table.records(wanted=SystemFilter(max_area_km2=middle))
    large, _, _ = table.records(
        wanted=SystemFilter(min_area_km2=float(np.nextafter(np.float32(middle), np.float32(np.inf))))
    )
    assert sorted([*small.area_km2, *large.area_km2]) == sorted(steps.area_km2)
    assert max(small.area_km2) <= middle < min(large.area_km2)
    brief, _, _ = table.records(wanted=SystemFilter(max_lifetime_hours=2))
    assert set(brief.system_id.tolist()) == {8, 9}
    with pytest.raises(UsageError, match="tell no brightness temperatures: leave `max_top_temperature` out"):
        table.records(wanted=SystemFilter(max_top_temperature=220))


def test_the_period_is_that_of_the_names(tmp_path: Path) -> None:
    for name in ("20200228_cloudsystems.nc", "202002_DCS_number_monthly.nc", "20200301_cloudsystems.nc"):
        (tmp_path / name).touch()
    assert period_of_masks(ConvectionOptions(convection_regex=str(tmp_path))) == (
        datetime(2020, 2, 1),
        datetime(2020, 3, 2),
    )
    write_slots(tmp_path / "slots", moving(2), slots(2, 20))
    of_slots = period_of_masks(ConvectionOptions(convection_regex=str(tmp_path / "slots")))
    assert of_slots == (DAY, DAY + timedelta(minutes=21))
    (tmp_path / "t.csv").write_text("id,time,lat,lon\n1,2019-12-27T03:00,5,0\n1,2019-12-27T09:00,5,0\n")
    of_table = period_of_masks(ConvectionOptions(convection_regex=str(tmp_path / "t.csv")))
    assert of_table == (DAY + timedelta(hours=3), DAY + timedelta(hours=9, seconds=1))


def test_records_are_sorted_however_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cube.strata.records._HELD", 1000)
    write_slots(tmp_path, moving(40), slots(40, 20))
    parts = [survey_mask(file).steps for file in find_masks(str(tmp_path))[0]]
    ahead, back = (SystemTable.of(None, [p for p in order if p is not None]) for order in (parts, parts[::-1]))
    for name in ("system_id", "time", "row", "pixels", "longitude"):
        np.testing.assert_array_equal(getattr(ahead.records()[0], name), getattr(back.records()[0], name))
    assert (np.diff(ahead.records()[0].system_id) >= 0).all()
