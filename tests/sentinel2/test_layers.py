"""The geometric median and what is told beside a composite: against plain loops, geomad, and whole builds."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr

from cube.job.inspect import verify
from cube.sentinel2 import geomedian
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.geomedian import geometric_median
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.layers import added, refuse_reducers
from cube.sentinel2.lazy import open_composites
from cube.sentinel2.products import is_known, write_cog
from cube.sentinel2.reduce import nan_median, parse_reducer, present
from cube.sentinel2.run import run_sentinel2
from loaders.cubes import images_of, open_cube
from stratacube.errors import UsageError
from tests.sentinel2.built import built
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, expected_stack, make_scene, small_archive

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

Stack = npt.NDArray[np.float32]
MADS = ("emad", "smad", "bcmad")


def spectra(votes: int, clear: float, seed: int = 0, side: int = 40) -> Stack:
    """A landscape of nine bands, with haze in a tenth of the votes and clouds over some."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(200, 3000, (9, 1, side, side))
    stack = ground * rng.normal(1, 0.15, (1, votes, side, side)) + rng.normal(0, 60, (9, votes, side, side))
    stack[:, rng.random(stack.shape[1:]) < 0.1] *= 2.5
    stack[:, rng.random(stack.shape[1:]) > clear] = np.nan
    stack[4, rng.random(stack.shape[1:]) > 0.98] = np.nan  # one band alone
    return np.rint(stack).astype("f4")


def _plain(votes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slow and obvious, of one pixel (bands, votes): a vote if the others cannot pull it away, else Weiszfeld."""
    for vote in votes.T:
        apart = votes - vote[:, None]
        far = np.linalg.norm(apart, axis=0)
        if np.linalg.norm((apart[:, far > 0] / far[far > 0]).sum(axis=1)) <= (far == 0).sum():
            return vote
    place = votes.mean(axis=1)
    for _ in range(20_000):
        weight = 1 / np.maximum(np.linalg.norm(votes - place[:, None], axis=0), 1e-9)
        before, place = place, (votes * weight).sum(axis=1) / weight.sum()
        if np.abs(place - before).max() < 1e-7:
            break
    return place


@pytest.mark.parametrize(("votes", "clear"), [(5, 1.0), (24, 0.4), (9, 0.8)])
def test_geomedian_is_the_nearest_to_all_observations(votes: int, clear: float) -> None:
    stack = spectra(votes, clear, side=12)
    given = stack.copy()
    found = parse_reducer("geomedian").reduce(stack)
    np.testing.assert_array_equal(stack, given)
    for row, col in np.ndindex(12, 12):
        pixel = stack[:, ~np.isnan(stack[:, :, row, col]).any(axis=0), row, col].astype("f8")
        if pixel.shape[1] == 0:
            assert np.isnan(found[:, row, col]).all()
        elif pixel.shape[1] <= 2:
            np.testing.assert_allclose(found[:, row, col], pixel.mean(axis=1), rtol=1e-6)
        else:
            np.testing.assert_allclose(found[:, row, col], _plain(pixel), rtol=0, atol=1)
    assert np.isnan(geometric_median(np.empty((2, 0, 3, 4), "f4"))).all()
    same = np.full((3, 6, 2, 2), 700, "f4")
    np.testing.assert_array_equal(geometric_median(same), same[:, 0])


def _turn(points: npt.NDArray[np.float64], a: int, b: int, c: int) -> float:
    """Twice the area of a triangle, above 0 where it turns to the left."""
    one, two = points[:, b] - points[:, a], points[:, c] - points[:, a]
    return float(one[0] * two[1] - one[1] * two[0])


def _of_four(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of four points of a plane: the one within the others' triangle, else where the diagonals cross (Fagnano)."""

    def side(*corners: int) -> float:
        return float(np.sign(_turn(points, *corners)))

    for inner in range(4):
        a, b, c = (i for i in range(4) if i != inner)
        if abs(side(a, b, inner) + side(b, c, inner) + side(c, a, inner)) == 3:
            return points[:, inner]
    for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        if side(a, b, c) != side(a, b, d) and side(c, d, a) != side(c, d, b):
            ab, cd = points[:, b] - points[:, a], points[:, d] - points[:, c]
            far = np.linalg.solve(np.stack([ab, -cd], axis=1), points[:, c] - points[:, a])
            return points[:, a] + far[0] * ab
    raise AssertionError("no four points of a plane in general position")


def test_geomedian_of_votes_near_a_line_is_not_only_near_in_sum() -> None:
    """Haze moves all bands alike: between votes on a line the sum of distances hardly changes over hundreds."""
    rng = np.random.default_rng(11)
    ground = rng.uniform(200, 3000, (2, 1, 30, 30))
    four = np.rint(ground * rng.normal(1, 0.3, (1, 4, 30, 30)) + rng.uniform(-30, 30, (2, 4, 30, 30))).astype("f4")
    found = geometric_median(four)
    checked = 0
    for row, col in np.ndindex(30, 30):
        points = four[:, :, row, col].astype("f8")
        if all(_turn(points, *corners) for corners in _TRIPLES):  # no three of them on one line
            np.testing.assert_allclose(found[:, row, col], _of_four(points), rtol=0, atol=1, err_msg=str(points))
            checked += 1
    assert checked > 850
    place = np.sort(rng.uniform(0.5, 2, (1, 9, 30, 30)), axis=1)  # an odd number on a line: the middle one
    line = (ground * place).astype("f4")
    np.testing.assert_allclose(geometric_median(line[:, rng.permutation(9)]), line[:, 4], rtol=0, atol=1)


def test_many_votes_on_a_line_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median is one of them, which is looked for among all: the square of their number of distances a pixel."""
    rng = np.random.default_rng(4)
    place = np.sort(rng.uniform(0.5, 2, (1, 161, 16, 16)), axis=1)
    line = (rng.uniform(200, 3000, (9, 1, 16, 16)) * place).astype("f4")
    given = line[:, rng.permutation(161)]
    found, most = _traced(given)
    np.testing.assert_allclose(found, line[:, 80], rtol=0, atol=1)
    assert most < 40e6, "their distances all at once take 113 MB"
    monkeypatch.setattr(geomedian, "_ENDED", 1 << 15)  # 22 pixels at once
    in_parts, less = _traced(given)
    np.testing.assert_array_equal(in_parts, found)
    assert less < most / 2


def _traced(stack: Stack) -> tuple[Stack, int]:
    """Return the geomedian, and the most bytes that it took."""
    tracemalloc.start()
    found = geometric_median(stack)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, most


_TRIPLES = ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))


def test_geomedian_and_its_deviations_are_geomads() -> None:
    geomad = pytest.importorskip("geomad", reason="geomad is not installed; the plain loops alone are the oracle")
    stack = spectra(24, 0.5)
    theirs_form = np.ascontiguousarray(stack.transpose(2, 3, 0, 1))
    theirs = geomad.nangeomedian_pcm(theirs_form * np.float32(1e-4), eps=1e-7, num_threads=1) * 1e4
    ours = geometric_median(stack)
    several = (~np.isnan(stack).any(axis=0)).sum(axis=0) > 3  # of two any point between is one
    assert several.mean() > 0.9
    assert np.abs(ours.transpose(1, 2, 0) - theirs)[several].max() < 1
    days = np.arange(24)
    found = added(MADS, (), stack, present(stack), ours, days, "geomedian")
    both = added(MADS, (), stack, present(stack), stack[:, 0], days, "median")
    whole = np.where(np.isnan(stack).any(axis=0), np.nan, stack)  # theirs takes what is seen in all bands
    theirs_form = np.ascontiguousarray(whole.transpose(2, 3, 0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for name, scale, near in (("emad", 1e-4, 2e-6), ("smad", 1, 2e-6), ("bcmad", 1, 2e-6)):
            expected = getattr(geomad, f"{name}_pcm")(theirs_form, ours.transpose(1, 2, 0), num_threads=1) * scale
            np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=near)
            np.testing.assert_array_equal(both[name], found[name], err_msg="round the geomedian whatever the composite")


def test_medoid_takes_the_earliest_of_two_that_are_equally_near() -> None:
    """Any two are: what float32 makes of the middle between them must not decide."""
    rng = np.random.default_rng(0)
    stack = rng.uniform(0, 3000, (4, 2, 50, 50)).astype("f4")
    np.testing.assert_array_equal(parse_reducer("medoid").reduce(stack), stack[:, 0])
    gap = np.full((4, 1, 50, 50), np.nan, "f4")
    np.testing.assert_array_equal(parse_reducer("medoid").reduce(np.concatenate([gap, stack], axis=1)), stack[:, 0])


def test_dates_and_months_are_of_the_observations() -> None:
    rng = np.random.default_rng(3)
    stack = rng.integers(0, 900, (3, 7, 20, 20)).astype("f4")
    stack[:, rng.random((7, 20, 20)) < 0.5] = np.nan
    stack[1, rng.random((7, 20, 20)) < 0.1] = np.nan
    days = (np.datetime64("2020-11-20") + np.array([0, 40, 12, 30, 200, 370, 12])).astype("M8[D]").astype("i8")
    composite = np.stack([nan_median(band) for band in stack])
    found = added(("date", "months"), (1, 6, 11, 12), stack, present(stack), composite, days, "median")
    assert [*found] == ["date", "count_01", "count_06", "count_11", "count_12"]
    for row, col in np.ndindex(20, 20):
        seen = [v for v in range(7) if not np.isnan(stack[:, v, row, col]).any()]
        apart = {v: float(((stack[:, v, row, col] - composite[:, row, col]) ** 2).sum()) for v in seen}
        nearest = min(seen, key=lambda v: (apart[v], days[v]), default=None)
        assert found["date"][row, col] == (-9999 if nearest is None else days[nearest])
    month = days.astype("M8[D]").astype(object)
    for number in (1, 6, 11, 12):
        mine = [v for v in range(7) if month[v].month == number]
        expected = (~np.isnan(stack[:, mine])).sum(axis=1).min(axis=0)
        np.testing.assert_array_equal(found[f"count_{number:02d}"], expected)


def test_layers_are_no_composite_and_composites_no_layers() -> None:
    with pytest.raises(UsageError, match="`also=emad`, and a reducer such as median"):
        refuse_reducers("emad", [])
    with pytest.raises(UsageError, match=r"`also` has 'dates'.*date"):
        refuse_reducers("median", ["dates"])
    with pytest.raises(UsageError, match="`also` has 'mean'"):
        refuse_reducers("median", ["mean"])


def test_a_count_has_no_nearest_day() -> None:
    """An observation is no nearer to how many there are than another: its day was written all the same."""
    with pytest.raises(UsageError, match=r"`also` has date, .* `reducer` count makes none"):
        refuse_reducers("count", ["months", "date"])
    refuse_reducers("count", ["months", "emad"])


def test_a_build_with_layers(tmp_path: Path) -> None:
    """Files, store, items and what verify says, of an archive of which numpy knows the truth."""
    scenes = small_archive(tmp_path / "safe")
    grid = make_grid(2400, (ULX, ULY - 2400, ULX + 2400, ULY), f"EPSG:{EPSG}")
    write_grid(grid, tmp_path / "grid.csv")
    config = Sentinel2Config.load(
        None,
        {
            "work_dir": tmp_path / "w", "safe_dir": tmp_path / "safe", "grid_csv": tmp_path / "grid.csv",
            "start": "2021-05-01", "end": "2021-06-30", "bands": ["B02", "B03"], "workers": 1,
            "products": ["cog", "zarr"], "also": ["date", "months", "emad"], "months": [5, 6],
        },
    )  # fmt: skip
    assert run_sentinel2(config).code == 0
    assert verify(tmp_path / "w").code == 0
    stack = np.stack([expected_stack(scenes, band, 400)[:, :120, :120] for band in ("B02", "B03")])
    days = np.array([(FIRST + timedelta(days=5 * n) - datetime(1970, 1, 1)).days for n in range(5)])
    names = ["date", "count_05", "count_06", "emad"]
    truth = added(config.also, (5, 6), stack, present(stack), np.stack([nan_median(b) for b in stack]), days, "median")
    assert [*truth] == names
    store = xr.open_zarr(tmp_path / "w" / "composites.zarr", decode_coords="all").load()
    (cell,) = (tmp_path / "w" / "composites").iterdir()
    item = json.loads((tmp_path / "w" / "items" / f"{cell.name.lower()}.json").read_text())
    for name in names:
        with rasterio.open(cell / f"cell_{cell.name}_{name}.tif") as file:
            np.testing.assert_array_equal(file.read(1), truth[name])
        assert item["assets"][name]["roles"] == ["metadata"]
    expected = truth["date"].astype("M8[D]").astype("M8[ns]")
    expected[truth["date"] == -9999] = np.datetime64("NaT")
    np.testing.assert_array_equal(store["date"], expected)
    np.testing.assert_array_equal(store["emad"], truth["emad"])
    np.testing.assert_array_equal(store["count_06"], store["count"])
    assert images_of(store, None)[0] == ("B02", "B03"), "deviations are no bands"
    (tmp_path / "w" / "composites.zarr").rename(tmp_path / "gone.zarr")
    cells = open_cube(tmp_path / "w")
    assert images_of(cells, None)[0] == ("B02", "B03")
    np.testing.assert_array_equal(cells["date"], expected)
    np.testing.assert_array_equal(cells["emad"], truth["emad"])
    own = open_composites(tmp_path / "w" / "items" / f"{cell.name.lower()}.json").load()
    for name in (*names, "count"):  # a cell by itself is as it is among all
        np.testing.assert_array_equal(own[name], cells[name], err_msg=name)
        assert own[name].dtype == cells[name].dtype, name


def test_lost_pixels_of_a_layer_are_found(tmp_path: Path) -> None:
    """Where nothing was seen deviations are NaN, which had counted as a value: no pixel could be lost."""
    scene = make_scene(3, FIRST)
    scene.scl[:70] = 9
    scene.write(tmp_path / "safe")
    write_grid(make_grid(2400, (ULX, ULY - 2400, ULX + 2400, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    found = built(
        tmp_path / "w", safe_dir=tmp_path / "safe", grid_csv=tmp_path / "grid.csv", bands=["B02", "B03"],
        start="2021-06-01", end="2021-06-02", also=["emad"],
    )  # fmt: skip
    (path,) = tmp_path.glob("w/composites/*/*_emad.tif")
    seen = ~np.isnan(scene.truth("B02")[:120, :120])
    np.testing.assert_array_equal(~np.isnan(found[path.name]), seen)
    with rasterio.open(path) as file:
        assert float(file.tags(1)["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * seen.mean(), abs=0.01)
        where = file.transform, str(file.crs)
    assert verify(tmp_path / "w").code == 0
    lost = np.where(seen, np.random.default_rng(0).random(seen.shape), np.nan).astype("f4")
    lost[119] = np.nan
    write_cog(path, lost, *where, nodata=np.nan, name="emad", tags={})
    with rasterio.open(path) as file:
        told = {name.removeprefix("STATISTICS_"): float(v) for name, v in file.tags(1).items() if "STATISTICS" in name}
    known = lost[~np.isnan(lost)].astype("f8")
    expected = {"MINIMUM": known.min(), "MAXIMUM": known.max(), "MEAN": known.mean(), "STDDEV": known.std()}
    assert told == pytest.approx({**expected, "VALID_PERCENT": 100 * known.size / lost.size}, rel=1e-3)
    report = verify(tmp_path / "w")
    assert report.code == 1
    assert any(f"holds {seen[:119].sum()} values where {seen.sum()} were made" in line for line in report.lines)


@pytest.mark.parametrize("nodata", [np.nan, -1.0])
def test_known_is_what_is_neither_nan_nor_stands_for_nothing(nodata: float) -> None:
    """A plug's layer of numbers may have a number for nothing."""
    values = np.array([[nodata, 0.0], [2.0, np.nan]])
    np.testing.assert_array_equal(is_known(values, nodata), [[False, True], [True, False]])
    np.testing.assert_array_equal(is_known(np.array([0, 3], "u2"), 0), [False, True])
