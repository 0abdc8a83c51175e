"""Plugs of other people's packages: builds with each of the page "Write your own", and what is said of bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import xarray as xr

import cube
from cube import config, registry
from cube.build import main
from cube.geostationary.dialect import imager_of
from cube.preview import open_raw, thumbnail
from cube.registry import STRATA
from cube.sentinel2.grid import make_grid, write_grid
from cube.testing import write_abi_archive, write_ami_scan, write_cloud_systems
from loaders import stats
from loaders.batch import Batch
from loaders.statistics import Statistics
from loaders.tiles import tile_loader
from stratacube.errors import UsageError
from stratacube.parquet import read_frame
from tests.plugs.installed import install, install_page, plugged
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene
from tests.training.small import small_run
from training.config import validate
from training.data import open_data
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
CELL = 2000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_page(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def abi(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("abi")
    write_abi_archive(
        root, start=datetime(2020, 7, 1, 16), hours=1 / 3, channels=(13,), shape_2km=(150, 150), workers=1
    )
    flags = ["--local-data-dir", str(root), "--domain", "M1", "--channels", "13", "--tile-size", "64", "--steps", "1"]
    return ["abi", *flags, "--shard-mb", "0.005"]


def build(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a process that has the plugs on its path, as its workers do then."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cube.build", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False, timeout=300)


def here(site: Path, *arguments: str | Path) -> int:
    """Exit code of a command that starts no workers, in this process."""
    with plugged(site):
        return main([*map(str, arguments)])


@pytest.mark.slow
def test_a_stratum_and_an_engine(site: Path, abi: list[str], tmp_path: Path) -> None:
    flags = [*abi, "--output-dir", tmp_path / "out", "--stratification", "transect", "--transect-step", "80"]
    done = build(site, *flags, "--engine", "spawned", "--workers", "2")
    assert done.returncode == 0, done.stderr
    plan = read_frame(tmp_path / "out" / "plan.parquet")
    assert set(plan["stratum"]) == {"transect"}
    assert plan["row"].nunique() == 1  # along one row of the sector
    gaps = plan.groupby("event_scan")["col"].apply(lambda cols: set(np.diff(sorted(cols))))
    assert all(gap == {80} for gap in gaps)
    assert (tmp_path / "out" / "transect.csv").read_text() == "step\n80\n"
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| Transect step | 80 |" in report
    with xr.open_zarr(tmp_path / "out" / "tiles.zarr", mask_and_scale=False) as tiles:
        names = tiles["stratum"].attrs["flag_meanings"].split()
        assert {names[i] for i in tiles["stratum"].values} == {"transect"}
        assert (tiles["valid_2km"] != 0).any()
    for look in ("status", "verify"):
        assert here(site, look, tmp_path / "out") == 0
    written = (tmp_path / "out" / "catalog.json").stat().st_mtime_ns
    assert here(site, *flags, "--workers", "1") == 0  # another engine, the same build
    assert (tmp_path / "out" / "catalog.json").stat().st_mtime_ns == written
    fewer = ("--overwrite", "--num-tiles", "2", "--workers", "1")
    assert here(site, *abi, "--output-dir", tmp_path / "out", *fewer) == 0
    assert not (tmp_path / "out" / "transect.csv").exists()  # a build's parts are those of all strata


@pytest.mark.slow
# rasterio multiplies affine transforms by an operator that affine wants to retire
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_reducer(site: Path, tmp_path: Path) -> None:
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=5 * number), bands=("B02",)).write(tmp_path / "safe")
    write_grid(make_grid(CELL, (ULX, ULY - CELL, ULX + CELL, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    flags = ["sentinel2", "--safe-dir", tmp_path / "safe", "--grid-csv", tmp_path / "grid.csv", "--bands", "B02"]
    flags += ["--start", "2021-06-01", "--end", "2021-06-30", "--tr", "20", "20", "--tap"]
    done = build(site, *flags, "--work-dir", tmp_path / "spread", "--reducer", "spread", "--workers", "2")
    assert done.returncode == 0, done.stderr
    for ours in ("p0", "p100"):
        assert main([*map(str, flags), "--work-dir", str(tmp_path / ours), "--reducer", ours, "--workers", "1"]) == 0
    read = {}
    for reducer in ("spread", "p0", "p100"):
        (path,) = (tmp_path / reducer / "composites").glob(f"*/*B02_{reducer}_clip.tif")
        with rasterio.open(path) as file:
            read[reducer] = file.read(1, masked=True)
    assert read["spread"].count() > 0
    assert (read["spread"] > 0).any()
    np.testing.assert_array_equal(read["spread"].mask, read["p0"].mask)
    np.testing.assert_array_equal(read["spread"].compressed(), (read["p100"] - read["p0"]).compressed())


@pytest.mark.slow
def test_a_source(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["squares", "--numbers", "4", "--workers", "2", "--output-dir", out]
    done = build(site, *flags)
    assert done.returncode == 0, done.stderr
    assert [(out / "squares" / f"{n}.txt").read_text() for n in range(4)] == ["0\n", "1\n", "4\n", "9\n"]
    for look in ("status", "verify"):
        assert here(site, look, out) == 0
    (out / "squares" / "3.txt").write_text("9.0\n")
    (out / "squares" / "2.txt").unlink()
    assert here(site, "verify", out) == 1
    done = build(site, *flags)
    assert (done.returncode, (out / "squares" / "3.txt").read_text()) == (0, "9\n"), done.stderr
    there = "import stratacube; print(stratacube.build('squares', output_dir='x', numbers=2).code)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}
    done = subprocess.run(
        [sys.executable, "-c", there], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n", done.stderr
    without = build(tmp_path, "status", out)  # where the package is not installed
    assert without.returncode == 2
    assert "is of the source 'squares', which is not known here" in without.stderr


def refusal(site: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command says that is refused."""
    with plugged(site):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == 2
    return capsys.readouterr().err


def test_all_lists_know_them(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in {
        ("abi",): (f"{{{','.join(STRATA.ours)},transect,mixed}}", "local, dask, mpi or spawned", "--transect-step"),
        (): ("squares",),
    }.items():
        with plugged(site), pytest.raises(SystemExit):
            main([*command, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert [word for word in words if word not in told] == []
    told = " ".join(build(site, "sentinel2", "--help").stdout.split())  # a description, made when it is imported
    assert "best, spread, or a percentile" in told
    assert "did you mean transect?" in refusal(site, capsys, "abi", "--stratification", "transekt")


def test_options_of_another_stratum_are_refused(
    site: Path, abi: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(site, capsys, *abi, "--output-dir", tmp_path / "out", "--transect-step", "3")
    assert "--transect-step goes with --stratification transect, not with random" in said


def test_a_plug_changes_no_configuration_that_does_not_use_it(site: Path, tmp_path: Path) -> None:
    def described() -> tuple[str, dict[str, object]]:
        read = config.AbiConfig.load(None, {"output_dir": tmp_path})
        return read.digest(), read.described()

    before = described()
    with plugged(site):
        assert described() == before
        assert config.AbiConfig.load(None, {"output_dir": tmp_path, "stratification": "transect"}).described() == {
            **before[1],
            "stratification": "transect",
            "transect_step": 64,
        }


BAD = """
from pydantic import Field
from cube.strata.plug import Options, Stratum
class Taken(Options):
    seed: int = Field(1, description="not its own")
TAKEN = Stratum("x:y", Taken)
"""


def test_plugs_that_do_not_work_are_left_out_with_one_warning_each(abi: list[str], tmp_path: Path) -> None:
    points = {
        "stratacube.strata": {
            "lost": "no_such_module:THING",
            "random": "bad:TAKEN",
            "greedy": "bad:TAKEN",
            "os:system": "bad:TAKEN",
        },
        "stratacube.engines": {"broken": "bad_engine:run"},
        "stratacube.sources": {"broken": "no_such_module:THING"},
    }
    site = install(tmp_path / "site", "bad-plugs", {"bad.py": BAD, "bad_engine.py": "1 / 0\n"}, points)
    flags = [*abi, "--num-tiles", "2", "--workers", "1", "--output-dir", tmp_path / "out"]
    done = build(site, *flags)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "bad-plugs 1.0" in line]
    for part in (
        "stratum 'lost' of bad-plugs 1.0 is left out: ModuleNotFoundError: No module named 'no_such_module'",
        "stratum 'random' of bad-plugs 1.0 is left out: the name is taken",
        "stratum 'greedy' of bad-plugs 1.0 is left out: its option 'seed' is another's",
        "stratum 'os:system' of bad-plugs 1.0 is left out: its name is not a word",
        "source 'broken' of bad-plugs 1.0 is left out: ModuleNotFoundError",
    ):
        assert sum(part in line for line in said) == 1, (part, said)
    assert "Traceback" not in done.stderr
    done = build(site, *flags, "--engine", "broken")
    assert done.returncode == 2
    assert "engine 'broken' of bad-plugs 1.0 cannot be used (ZeroDivisionError: division by zero)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_in_code_is_no_name(
    site: Path, abi: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output-dir", tmp_path / "out")
    place = "my_plugs.transect:TRANSECT"
    for flag, value, told in (("--stratification", place, repr(place)), ("--engine", "os:system", "os:system: give ")):
        assert f"{flag} is {told}" in refusal(site, capsys, *abi, *out, flag, value)
    written = tmp_path / "build.yaml"
    written.write_text("stratification: my_plugs.transect:TRANSECT\n")
    assert f"give {', '.join(STRATA.ours)}, transect or mixed" in refusal(site, capsys, *abi, *out, "--config", written)
    folder = tmp_path / "planned"
    assert main([*abi, "--num-tiles", "2", "--workers", "1", "--output-dir", str(folder), "--plan-only"]) == 0
    stored = folder / "config.yaml"
    stored.write_text(stored.read_text().replace("source: geostationary", "source: os:system"))
    assert "'os:system', which is not known here" in refusal(site, capsys, "status", folder)


def test_an_instrument(tmp_path: Path) -> None:
    """Its record is found by name, in a worker too, and a store that carries it needs no package at all."""
    code = """
from dataclasses import replace
from cube.instrument import instrument

IMAGER = replace(instrument("abi"), name="imager", title="IM", bands=instrument("abi").bands[:5], bounds=())
"""
    site = install(
        tmp_path / "site", "imagers", {"imagers.py": code}, {"stratacube.instruments": {"imager": "imagers:IMAGER"}}
    )
    asked = (
        "import multiprocessing as m; from cube.instrument import instrument; from cube.registry import INSTRUMENTS\n"
        "if __name__ == '__main__':\n"
        "    with m.get_context('forkserver').Pool(1) as pool: found = pool.apply(instrument, ('imager',))\n"
        "    print(INSTRUMENTS.names()[-1], found.title, found.mask_dtype, found == instrument('imager'))"
    )
    (tmp_path / "ask.py").write_text(asked)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}
    command = [sys.executable, str(tmp_path / "ask.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "imager IM <u1 True\n", done.stderr


@pytest.fixture(scope="module")
def far(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build of an instrument that has files, and names for its quantities, of its own."""
    folder = tmp_path_factory.mktemp("far")
    data, out = folder / "data", folder / "out"
    for path in write_ami_scan(data, ["vi004", "ir105", "ir112"], datetime(2023, 8, 9, 0, 34, 41), shape=(60, 80)):
        path.rename(path.with_name(path.name.replace("gk2a_", "far1_")))
    shape = ["--tile-size", "32", "--num-tiles", "2", "--steps", "1", "--domain", "LA", "--channels", "vi004,ir105,14"]
    done = build(
        site, "abi", "--satellite", "far1", "--local-data-dir", data, "--output-dir", out, *shape, "--workers", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "found 1 scan, 3 files" in done.stderr
    assert "done: 2 tiles in 1 shard in" in done.stderr
    return out


def test_a_satellite(site: Path, far: Path) -> None:
    """One with files of its own is found, cut, published and opened, and nothing here names it."""
    out = far
    with xr.open_zarr(out / "tiles.zarr", mask_and_scale=False) as tiles:  # and no package is needed to read it
        assert tiles.attrs["instrument"]["title"] == "FAR"
        assert {*tiles["platform"].values} == {7}
        assert (tiles["valid_2km"] == 0b110).all()
        assert tiles["valid_2km"].dtype == np.uint8
    assert np.isfinite(cube.open_tiles(out, "warmth")["ir105"]).all()
    assert 'physical="warmth"' in (out / "report.md").read_text()
    assert caption(out) == "ir105 brightness temperature"  # what it shows is told by the standard name
    assert build(site, "verify", out).returncode == 0
    told = " ".join(build(site, "abi", "--help").stdout.split())
    for words in (
        "AMI: gk2a; FAR: far1",
        "AMI-L1b; FAR: FAR",
        "FAR: FD, ELA, LA",
        "FAR: channels 1 (vi004), 13 (ir105)",
    ):
        assert words in told
    told = build(site, "abi", "--satellite", "far2", "--output-dir", out).stderr
    assert "ABI flies on goes16" in told
    assert "FAR flies on far1" in told


def test_a_build_whose_instrument_is_not_installed(far: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "verify"):
        assert main([command, str(far)]) == 2
        said = capsys.readouterr().err
        assert "it is of the satellite 'far1', and none of the instruments known here (abi, ami) flies on that" in said
        assert "install the package that its instrument came from" in said


def caption(out: Path) -> str:
    """What the picture of the first tile shows."""
    with open_raw(out / "tiles.zarr") as tiles:
        return thumbnail(tiles, 0, out.parent / "picture.png").partition(",")[0]


def test_the_quantities_of_an_instrument(far: Path, tmp_path: Path) -> None:
    """They are streamed, counted and learned by the names and units that the store has, whoever reads it."""
    out = far
    with xr.open_zarr(out / "tiles.zarr", mask_and_scale=False) as raw:
        place = raw["band"].values.tolist().index(1)
        scale, offset, factor = (
            raw[n].values[:, :, place, None, None].astype("f4") for n in ("packing_scale", "packing_offset", "kappa0")
        )
        truth = (raw["vi004"].values.astype("f4") * scale + offset) * factor
    (batch,) = tile_loader(out, 2, bands=["vi004"], quantity="albedo", shuffle=False)
    assert isinstance(batch, Batch)
    np.testing.assert_array_equal(batch.pixels[:, :, 0], truth)
    with pytest.raises(UsageError, match=r"ir105 has no albedo; .*`quantity=radiance`, `quantity=warmth` or `quantity"):
        tile_loader(out, 2, quantity="albedo", bands=["vi004", "ir105"])
    with pytest.raises(UsageError, match=r"vi004 has no albdo \(did you mean albedo\?\)"):
        tile_loader(out, 2, bands=["vi004"], quantity="albdo")
    told = tmp_path / "statistics.json"
    assert stats.main([str(out), "--quantity", "mixed", "--by", "stratum", "--output", str(told)]) == 0
    found = Statistics.load(told).splits["all"]
    assert {name: s.units for name, s in found.items()} == {"vi004": "1", "ir105": "kelvin", "ir112": "kelvin"}
    assert found["vi004"].mean == pytest.approx(truth.mean(dtype="f8"), rel=1e-6)
    data = {"source": "tiles", "stores": [{"path": str(out)}], "where": "tile == 0", "validation_where": "tile == 1"}
    data |= {"statistics": str(told), "quantity": "mixed", "workers": 0}
    model = {"bands": ["ir105", "vi004"], "groups": [["ir105"], ["vi004"]], "image_size": 32, "kind": "group"}
    values = small_run(tmp_path / "run").model_dump(mode="json")
    values["model"] |= model | {"frames": 1}
    trainer = Trainer(validate({**values, "data": data, "optimizer": {"lr": 1e-3, "steps": 1, "warmup_steps": 0}}, ""))
    assert trainer.data.statistics.unit == "kelvin (ir105), 1 (vi004)"
    trainer.fit()
    assert len([*(tmp_path / "run" / "checkpoints").iterdir()]) == 1
    wrong = validate({**values, "data": {**data, "quantity": "warmth"}}, "")
    with pytest.raises(UsageError, match="vi004 has no warmth"):
        open_data(wrong, 0, 1, torch.device("cpu"))


@pytest.mark.slow
def test_a_kind_of_masks(site: Path, small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same systems in files of another kind give the same plan; a file that its survey refuses is told."""
    grid = {"latitudes": np.arange(-5, 20, 0.25), "longitudes": np.arange(285, 310, 0.25)}
    for kind in ("nc", "npz"):
        (tmp_path / kind).mkdir()
    with h5py.File(write_cloud_systems(tmp_path / "nc", date=date(2020, 7, 1), steps=range(47, 52), **grid)) as masks:
        held = {"latitude": masks["lat"][()], "longitude": masks["lon"][()], "labels": masks["DCS_number"][()]}
    np.savez(tmp_path / "npz" / "20200701_systems.npz", minutes=np.arange(72) * 20, **held)
    np.savez(tmp_path / "npz" / "20200702_systems.npz", labels=held["labels"][:1])
    flags = ["abi", "--local-data-dir", small_archive, "--domain", "M1", "--channels", "13", "--steps", "1"]
    flags += ["--tile-size", "64", "--stratification", "convection", "--systems", "all", "--plan-only"]
    for kind in ("nc", "npz"):
        out = tmp_path / "out" / kind
        done = build(site, *flags, "--output-dir", out, "--workers", "2", "--convection-regex", tmp_path / kind / "*")
        assert done.returncode == (0 if kind == "nc" else 1), done.stderr
    bad = tmp_path / "npz" / "20200702_systems.npz"
    assert f"{bad} cannot be used: kind of masks 'npz' of my-plugs 1.0 failed (KeyError: " in done.stderr
    plans = [read_frame(tmp_path / "out" / kind / "plan.parquet") for kind in ("nc", "npz")]
    assert len(plans[0]) > 1
    pd.testing.assert_frame_equal(*plans)
    (tmp_path / "npz" / "day.npz").touch()
    told = refusal(site, capsys, *flags, "--output-dir", tmp_path / "x", "--convection-regex", tmp_path / "npz" / "d*")
    assert "YYYYMMDD_cloudsystems.nc, YYYYMM_DCS_number_monthly.nc or YYYYMMDD_systems.npz" in told


def test_a_law_that_is_unknown_leaves_its_instrument_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = "from dataclasses import replace\nfrom cube.instrument import instrument\n"
    code += "replace(instrument('abi').quantities[0], law='guess')\n"
    site = install(tmp_path, "guess", {"guess.py": code}, {"stratacube.instruments": {"guess": "guess:NONE"}})
    with plugged(site):
        assert "guess" not in registry.INSTRUMENTS.all()
    (said,) = (r.getMessage() for r in caplog.records)
    assert "'guess' of guess 1.0 is left out: quantity 'radiance' follows by the law 'guess', which is unknown" in said


WRONG = """
from cube.plug import Command, SourcePlug
NUMBER = 7
LATE = SourcePlug({"late": Command("x", "nothing_here:Config", "nothing_here:run")}, "nothing_here:I")
ODD = SourcePlug({"Odd One": Command("x", "a:b", "a:b")}, "a:b")
"""


def test_what_is_of_the_wrong_kind_is_left_out_or_told(
    abi: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A bad package of somebody else takes no command down but its own."""
    points = {
        "stratacube.sources": {"wrong": "wrong_kind:NUMBER", "late": "wrong_kind:LATE", "odd": "wrong_kind:ODD"},
        "stratacube.strata": {"wrong": "wrong_kind:NUMBER"},
        "stratacube.instruments": {"wrong": "wrong_kind:NUMBER"},
        "stratacube.engines": {"wrong": "wrong_kind:NUMBER"},
        "stratacube.reducers": {"wrong": "wrong_kind:NUMBER"},
    }
    site = install(tmp_path / "site", "wrong-kinds", {"wrong_kind.py": WRONG}, points)
    flags = [*abi, "--num-tiles", "2", "--workers", "1", "--output-dir", str(tmp_path / "out"), "--plan-only"]
    with plugged(site):
        imager_of.cache_clear()
        assert main(flags) == 0
    imager_of.cache_clear()
    for kind, lacks in (("source", "commands"), ("stratum", "sampler"), ("instrument", "bands")):
        told = (
            f"{kind} 'wrong' of wrong-kinds 1.0 is left out: TypeError: wrong_kind:NUMBER is not a {kind}: it has no "
        )
        assert sum(told + lacks in r.getMessage() for r in caplog.records) == 1, caplog.text
    assert sum("its command 'Odd One' is not a word" in r.getMessage() for r in caplog.records) == 1
    capsys.readouterr()
    assert "engine 'wrong' of wrong-kinds 1.0 cannot be used" in refusal(site, capsys, *flags, "--engine", "wrong")
    said = refusal(site, capsys, "late", "--output-dir", str(tmp_path / "x"))
    assert "nothing_here:Config cannot be imported (ModuleNotFoundError: No module named 'nothing_here')" in said
