"""Scenes that are not what is said of them: five real dates near Exeter, one tampered with in all the ways below."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.warp import Resampling, reproject

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from cube.job.ledger import Ledger
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.exchanged import Exchange, exchanges_in, told_exchange
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.judging import Judging
from cube.sentinel2.lattice import Window
from cube.sentinel2.plausible import FEWEST, Verdict, evidence_of, judge
from cube.sentinel2.record import SceneRecord
from cube.sentinel2.run import run_sentinel2
from cube.sentinel2.sampling import CellSamples, read_samples
from cube.sentinel2.scenes import SceneResult
from cube.testing import SafeSpec, write_safe

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ULX, ULY, SIDE = 462000, 5621000, 180
BANDS = ("B02", "B03", "B04")
ODD = 2
"""Which of the dates is tampered with."""


@pytest.fixture(scope="module")
def dates(data_folder: Path) -> list[SafeSpec]:
    """The dates as products of baseline 05.10, whose counts they are."""
    folder = data_folder / "sentinel2" / "exeter_20m_2024"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    specs = []
    for path in sorted(folder.glob("*.tif")):
        images: dict[str, Any] = {}
        with rasterio.open(path) as file:
            for index, name in enumerate(file.descriptions, 1):
                if name in (*BANDS, "SCL"):
                    grid = np.zeros((SIDE, SIDE), "u2")
                    reproject(
                        rasterio.band(file, index), grid, dst_crs="EPSG:32630", resampling=Resampling.nearest,
                        dst_transform=rasterio.Affine(20, 0, ULX, 0, -20, ULY),
                    )  # fmt: skip
                    images[f"{name}_20m"] = grid.astype("u1") if name == "SCL" else grid
        when = datetime.strptime(path.stem[4:23], "%Y-%m-%d_%H-%M-%S")
        specs.append(
            SafeSpec(
                tile="30UVB", epsg=32630, ulx=ULX, uly=ULY, datatake_start=when,
                processing_time=datetime(2024, 12, 1), images=images,
            )
        )  # fmt: skip
    return specs


def _shifted(spec: SafeSpec, by: int, **changes: Any) -> SafeSpec:
    """Counts moved by a number, as another processing would have them."""
    images = {
        k: v if k.startswith("SCL") else np.where(v > 0, np.clip(v.astype("i8") + by, 1, None), 0).astype("u2")
        for k, v in spec.images.items()
    }
    return replace(spec, images=images, **changes)


def _turned(spec: SafeSpec) -> SafeSpec:
    """Pixels of other ground under the same georeference."""
    return replace(spec, images={k: np.ascontiguousarray(v[::-1, ::-1]) for k, v in spec.images.items()})


def _exchanged(spec: SafeSpec, one: str, two: str) -> SafeSpec:
    """Files of two bands in each other's places."""
    one, two = f"{one}_20m", f"{two}_20m"
    return replace(spec, images=spec.images | {one: spec.images[two], two: spec.images[one]})


def _edit(old: str, new: str, name: str = "MTD_MSIL2A.xml") -> Callable[[Path, SafeSpec], None]:
    def change(root: Path, spec: SafeSpec) -> None:
        path = next((root / f"{spec.id}.SAFE").rglob(name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def _granule(old: str, new: str) -> Callable[[Path, SafeSpec], None]:
    return _edit(old, new, "MTD_TL.xml")


def _of(change: Callable[[SafeSpec], SafeSpec]) -> Callable[[Path, SafeSpec], None]:
    """Another product written over this one's folder, whose name stays."""

    def written(root: Path, spec: SafeSpec) -> None:
        write_safe(change(spec), root, block=128)

    return written


def _image_of_another_tile(root: Path, spec: SafeSpec) -> None:
    other = replace(spec, ulx=ULX + 20000)
    theirs = write_safe(other, root / "other", block=128)
    shutil.copy(theirs / f"{spec.image_path('B03_20m')}.jp2", root / f"{spec.id}.SAFE/{spec.image_path('B03_20m')}.jp2")
    shutil.rmtree(root / "other")


OFFSET, SCALE = ">-1000<", 'unit="none">10000<'
IN_METADATA: dict[str, Callable[[Path, SafeSpec], None]] = {
    "offset +1000": _edit(OFFSET, ">1000<"),
    "offset -7000": _edit(OFFSET, ">-7000<"),
    "offset -9000": _edit(OFFSET, ">-9000<"),
    "offset -500": _edit(OFFSET, ">-500<"),
    "offset 0 where it is -1000": _edit(OFFSET, ">0<"),
    "offset of another band": _edit('band_id="2"', 'band_id="99"'),
    "quantification 1000": _edit(SCALE, 'unit="none">1000<'),
    "quantification 1": _edit(SCALE, 'unit="none">1<'),
    "quantification 100000": _edit(SCALE, 'unit="none">100000<'),
    "baseline 03.01 in the document": _edit("<PROCESSING_BASELINE>05.10", "<PROCESSING_BASELINE>03.01"),
    "product of another name": _edit("_R027_T30UVB", "_R027_T31UVB"),
    "east by 20 km": _granule(f"<ULX>{ULX}", f"<ULX>{ULX + 20000}"),
    "north by 20 km": _granule(f"<ULY>{ULY}", f"<ULY>{ULY + 20000}"),
    "by a pixel": _granule(f"<ULX>{ULX}", f"<ULX>{ULX + 20}"),
    "another zone": _granule("EPSG:32630", "EPSG:32631"),
    "another tile": _granule("_T30UVB_", "_T30UVC_"),
    "twice the rows": _granule(f"<NROWS>{SIDE}", f"<NROWS>{2 * SIDE}"),
    "pixels of 10 m": _granule("<XDIM>20", "<XDIM>10"),
    "an image of another tile": _image_of_another_tile,
}
IN_PIXELS: dict[str, Callable[[Path, SafeSpec], None]] = {
    "pixels that have the offset already": _of(lambda s: _shifted(s, -1000)),
    "pixels with the offset twice": _of(lambda s: _shifted(s, 1000)),
    "pixels of other ground": _of(_turned),
    "green and red exchanged": _of(lambda s: _exchanged(s, "B03", "B04")),
    "blue and red exchanged": _of(lambda s: _exchanged(s, "B02", "B04")),
}


def _build(root: Path, **options: Any) -> tuple[int, dict[str, str], dict[str, str]]:
    """Run, and return the exit code, products in errors.csv, and those that the scene index marks; with reasons."""
    write_grid(make_grid(20 * SIDE, (ULX, ULY - 20 * SIDE, ULX + 20 * SIDE, ULY), "EPSG:32630"), root / "grid.csv")
    values = {
        "work_dir": root / "w", "safe_dir": root / "safe", "grid_csv": root / "grid.csv", "start": "2024-06-01",
        "end": "2024-09-30", "bands": list(BANDS), "tr": [20, 20], "tap": True, "workers": 1, **options,
    }  # fmt: skip
    code = run_sentinel2(Sentinel2Config.load(None, values)).code
    path = root / "w" / "errors.csv"
    errors = pd.read_csv(path).set_index("product")["reason"].to_dict() if path.exists() else {}
    index = pd.read_csv(root / "w" / "indices" / "scene_files.csv").fillna("")
    marked = index[index["decision"] == "marked"].set_index("product_id")["reason"].to_dict()
    return code, errors, marked


def _write(root: Path, dates: list[SafeSpec]) -> None:
    for spec in dates:
        write_safe(spec, root, block=128)


def test_real_dates_are_not_flagged(tmp_path: Path, dates: list[SafeSpec]) -> None:
    _write(tmp_path / "safe", dates)
    assert _build(tmp_path) == (0, {}, {})
    index = pd.read_csv(tmp_path / "w" / "indices" / "scene_files.csv").fillna("")
    assert set(index["decision"]) == {"used"}
    assert index["reason"].str.contains("180 x 180 pixels of 20 m where a whole tile has 5490 x 5490").all()


@pytest.mark.slow
@pytest.mark.long
def test_real_dates_at_another_size_are_marked_for_that_alone(tmp_path: Path, data_folder: Path) -> None:
    """Of 33TWL, whose items and granules tell of 10 m and whose files have 120 m."""
    folder, features = data_folder / "sentinel2" / "t33twl_120m_2023", []
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    for path in sorted(folder.glob("*/*_L2A.json")):
        features.append(json.loads(path.read_text()))
        for asset in features[-1]["assets"].values():
            asset["href"] = str((path.parent / asset["href"]).resolve())
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    write_grid(make_grid(12000, (499980, 5076000, 523980, 5100000), "EPSG:32633"), tmp_path / "grid.csv")
    values = {
        "work_dir": tmp_path / "w", "items": tmp_path / "items.json", "grid_csv": tmp_path / "grid.csv",
        "start": "2023-08-01", "end": "2023-08-31", "bands": ["B02", "B04", "B08"], "tr": [120, 120], "workers": 1,
    }  # fmt: skip
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 0
    index = pd.read_csv(tmp_path / "w" / "indices" / "scene_files.csv").fillna("")
    assert (index["product_id"].nunique(), set(index["decision"])) == (5, {"marked"})
    size = re.compile(r"\w+ has 915 x 915 pixels but (10980|5490) x \1 by (its MTD_TL.xml|the list of its files)")
    assert all(size.fullmatch(told) for reason in index["reason"].unique() for told in reason.split("; "))


@pytest.mark.parametrize("baseline", ["02.12", "03.01"])
def test_real_dates_of_several_baselines_are_not_flagged(tmp_path: Path, dates: list[SafeSpec], baseline: str) -> None:
    older = [_shifted(s, -1000, baseline=baseline) if n % 2 else s for n, s in enumerate(dates)]
    _write(tmp_path / "safe", older)
    assert _build(tmp_path) == (0, {}, {})


@pytest.mark.slow
@pytest.mark.parametrize("which", [*IN_METADATA, *IN_PIXELS])
def test_every_tampered_product_is_flagged_and_no_other(tmp_path: Path, dates: list[SafeSpec], which: str) -> None:
    _write(tmp_path / "safe", dates)
    {**IN_METADATA, **IN_PIXELS}[which](tmp_path / "safe", dates[ODD])
    code, errors, marked = _build(tmp_path)
    assert {*errors, *marked} == {dates[ODD].id}
    assert code == (1 if errors else 0)
    if which == "pixels that have the offset already":
        assert "an offset is subtracted that its pixels do not have" in errors[dates[ODD].id]


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("offset +1000", "BOA_ADD_OFFSET of B01 is 1000 where processings have 0 or -1000"),
        ("east by 20 km", "by its MTD_TL.xml tile 30UVB lies at 482000"),
        ("pixels that have the offset already", "median reflectance of -0.0.* negative pixels"),
    ],
)
def test_a_tampered_product_is_left_out(tmp_path: Path, dates: list[SafeSpec], which: str, words: str) -> None:
    _write(tmp_path / "safe", dates)
    {**IN_METADATA, **IN_PIXELS}[which](tmp_path / "safe", dates[ODD])
    code, errors, marked = _build(tmp_path)
    assert (code, list(errors), marked) == (1, [dates[ODD].id], {})
    assert pd.Series(errors).str.contains(words).all()
    others = [s for n, s in enumerate(dates) if n != ODD]
    stack = np.stack(
        [
            np.where(np.isin(s.images["SCL_20m"], (4, 5, 6)) & (s.images["B04_20m"] > 0), s.images["B04_20m"] - 1000.0,
                     np.nan)
            for s in others
        ]
    )  # fmt: skip
    empty = np.isnan(stack).all(axis=0)
    expected = np.where(empty, -9999, np.nanmedian(np.where(empty, 0, stack), axis=0))
    with rasterio.open(next((tmp_path / "w").glob("composites/*/*_B04_median_clip.tif"))) as file:
        np.testing.assert_array_equal(file.read(1), expected)
    item = json.loads(next((tmp_path / "w").glob("items/*.json")).read_text())
    assert [d["product"] for d in item["properties"]["stratacube:dropped"]] == [dates[ODD].id]


@pytest.mark.parametrize("claim", ["applied, though it is not", "to apply, though it was", "an older baseline"])
def test_what_a_catalogue_says_of_the_offset(tmp_path: Path, dates: list[SafeSpec], claim: str) -> None:
    """Items without metadata, as of an archive of COGs: their word is held against the pixels."""
    archive = [_shifted(s, -1000) for s in dates] if claim == "to apply, though it was" else list(dates)
    _write(tmp_path / "safe", archive)
    items = []
    for number, spec in enumerate(archive):
        item = item_from_product(read_safe(tmp_path / "safe" / f"{spec.id}.SAFE"))
        item["assets"] = {k: a for k, a in item["assets"].items() if not k.endswith("_metadata")}
        applied = claim == "to apply, though it was"
        item["properties"]["earthsearch:boa_offset_applied"] = applied is not (number == ODD)
        if claim == "an older baseline":
            item["properties"]["earthsearch:boa_offset_applied"] = False
            if number == ODD:
                item["id"] = item["id"].replace("_N0510_", "_N0301_")
        items.append(item)
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    code, errors, marked = _build(tmp_path, safe_dir=None, items=path)
    odd = items[ODD]["id"]
    if claim == "to apply, though it was":
        assert (code, list(errors), marked) == (1, [odd], {})
        assert "an offset is subtracted that its pixels do not have" in errors[odd]
        code, errors, marked = _build(tmp_path, safe_dir=None, items=path, odd_scenes="mark", overwrite=True)
        assert (code, errors, list(marked)) == (0, {}, [odd])
    else:
        assert (code, errors, list(marked)) == (0, {}, [odd])
        assert "above that of other dates in all bands" in marked[odd]
    item = json.loads(next((tmp_path / "w").glob("items/*.json")).read_text())
    assert [m["product"] for m in item["properties"]["stratacube:marked"]] == [odd]


def _ground(seed: int = 0, pixels: int = 900) -> np.ndarray:
    """Three bands of a patchy ground."""
    rng = np.random.default_rng(seed)
    patches = np.repeat(rng.uniform(300, 2500, pixels // 3), 3)
    return np.stack([patches * f + rng.normal(0, 30, pixels) for f in (0.5, 1.0, 1.6)]).astype("f4")


def _verdicts(scenes: list[np.ndarray], **options: Any) -> list[Verdict]:
    told = {str(n): [e] for n, e in enumerate(evidence_of(np.stack(scenes)))}
    return list(judge(told, BANDS, **options).values())


def _noisy(seed: int) -> np.ndarray:
    return _ground() + np.random.default_rng(seed).normal(0, 60, (3, 900)).astype("f4")


def test_dates_alike_are_used() -> None:
    assert {v.decision for v in _verdicts([_noisy(n) for n in range(5)])} == {"used"}


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        (lambda s: s - 1000, "refused"),
        (lambda s: s + 1000, "marked"),
        (lambda s: s[[0, 0, 2]], "refused"),  # one band's file in another's place
        (lambda s: s[[0, 2, 1]], "refused"),  # and that one's in its own
        (lambda s: s[[2, 1, 0]] + 150, "refused"),  # under haze
        (lambda s: s[[0, 2, 1]] + np.array([[0], [700], [-800]]), "marked"),  # so much that it is less clear
        (lambda s: s * np.array([[1], [1], [0.65]]), "used"),  # bare soil that turns green
        (lambda s: s + np.array([[150], [300], [1500]]), "used"),  # plants
        (lambda s: s * 0.6, "used"),  # wet soil
        (lambda s: s + np.array([[-300], [-900], [-1700]]), "used"),  # burnt
        (lambda s: s + np.array([[200], [900], [1800]]), "used"),  # bare for a season
        (lambda s: s - 400, "used"),
        (lambda s: s + 500, "used"),
        (lambda s: s + np.array([[1000], [900], [200]]) * 4, "used"),  # snow that was not masked
        (lambda s: s[:, ::-1], "marked"),
    ],
)
def test_one_of_five_dates(change: Callable[[np.ndarray], np.ndarray], decision: str) -> None:
    scenes = [_noisy(n) for n in range(5)]
    scenes[3] = np.asarray(change(scenes[3]), "f4")
    assert [v.decision for v in _verdicts(scenes)] == ["used"] * 3 + [decision] + ["used"]


def test_bands_are_exchanged_only_where_all_of_it_tells() -> None:
    rng = np.random.default_rng(5)
    usual = np.stack([rng.uniform(400, 900, 500), rng.uniform(1000, 2000, 500)]).astype("f4")
    turned = usual[::-1]
    assert exchanges_in(turned, usual) == (Exchange(0, 1, sure=True),)
    assert exchanges_in(np.float32(0.45) * usual + np.float32(0.55) * turned, usual) == ()  # no nearer to either
    others = np.stack([rng.uniform(1000, 2000, 500), rng.uniform(400, 900, 500)]).astype("f4")
    assert exchanges_in(others, usual) == ()  # other ground, whose difference has no such pattern
    found = [Exchange(0, 1, sure=True)]
    assert told_exchange([(found, 300), ((), 200)]) == found[0]
    assert told_exchange([(found, 100), ((), 300)]) is None


def test_bright_ground_needs_the_neighbours() -> None:
    """Over a desert an offset too many leaves no negative pixel."""
    scenes = [_noisy(n) + 1500 for n in range(4)]
    scenes[1] -= 1000
    assert [v.decision for v in _verdicts(scenes)] == ["used", "refused", "used", "used"]
    assert "below that of other dates in all bands" in _verdicts(scenes)[1].reason
    assert {v.decision for v in _verdicts(scenes, clear=False)} == {"used"}
    assert {v.reason for v in _verdicts(scenes[:2])} == {
        "not compared with other dates: fewer than three see the same ground"
    }


def test_scenes_are_compared_where_both_see() -> None:
    """One sees the bright half alone, another the dark one: neither is odd for that."""
    scenes = [_noisy(n) for n in range(5)]
    order = np.argsort(_ground()[1])
    for scene in scenes:
        scene[:] = scene[:, order]
    scenes[0][:, :450], scenes[1][:, 450:] = np.nan, np.nan
    assert {v.decision for v in _verdicts(scenes)} == {"used"}


def test_few_pixels_tell_nothing() -> None:
    scenes = [_noisy(n) for n in range(4)]
    scenes[2] -= 3000
    scenes[2][:, FEWEST - 1 :] = np.nan
    assert _verdicts(scenes)[2] == Verdict("used", "not checked: too few clear pixels")


def test_ground_without_features_is_not_said_to_be_elsewhere() -> None:
    rng = np.random.default_rng(3)
    scenes = [np.full((3, 900), 200, "f4") + rng.normal(0, 40, (3, 900)).astype("f4") for _ in range(5)]
    assert {v.decision for v in _verdicts(scenes)} == {"used"}


@pytest.mark.parametrize("size", [(100, 90), (1000, 700), (64, 64), (1500, 40)])
def test_samples_are_the_same_pixels_however_a_cell_is_cut(tmp_path: Path, size: tuple[int, int]) -> None:
    """Pieces are cut along the lattice: their corners lie anywhere in a cell."""
    window = Window(-37, 1411, *size)
    whole = np.random.default_rng(1).normal(0, 1, (2, *size)).astype("f4")
    samples = CellSamples(window, 2)
    for piece in window.split(48):
        rows, cols = (slice(a - o, b - o) for a, b, o in (
            (piece.row, piece.end_row, window.row), (piece.col, piece.end_col, window.col),
        ))  # fmt: skip
        samples.take(piece, whole[:, rows, cols])
    step = samples.step
    np.testing.assert_array_equal(samples.values, whole[:, ::step, ::step])
    assert max(samples.values.shape) <= 64
    (tmp_path / "c").mkdir()
    samples.write(tmp_path, "c")
    found = read_samples(tmp_path, "c")
    assert found is not None
    np.testing.assert_array_equal(found, whole[:, ::step, ::step].reshape(2, -1))
    assert read_samples(tmp_path, "d") is None


def test_the_gravest_word_of_a_run_stands(tmp_path: Path) -> None:
    """Cells are made in turns: what one of them tells of a scene is not taken back by the next, but by the next run."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record = SceneRecord(ledger, tmp_path)
    run = Judging(Sentinel2Config.model_construct(), Sentinel2Folder(tmp_path), record)
    run.note(SceneResult((), (), ("p",), (), dropped=(("p", "x", "cut"),)))
    run.note(SceneResult((), (), ("p",), (), dropped=(("p", "x", "cut again"),)))
    assert record.verdict("p") == Verdict("refused", "cut")
    run._decide("p", Verdict("used"))
    assert SceneRecord(Ledger(ledger.path), tmp_path).verdict("p") == Verdict("refused", "cut")
    run.note(SceneResult((), (), ("q",), (), remarks=(("q", "small"),)))
    run._decide("q", Verdict("used"))
    assert record.marked() == {"q": "small"}
    Judging(Sentinel2Config.model_construct(), Sentinel2Folder(tmp_path), record)._decide("p", Verdict("used"))
    assert record.verdict("p") == Verdict("used")
