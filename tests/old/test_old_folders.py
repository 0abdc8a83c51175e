"""What version 0.1.0 (commit f44231c) made opens, streams and verifies; what it began is finished with the same bits.

The folders are those of ``make.py``. Bits are compared where the libraries are those that wrote them, values always.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
import zarr

import cube
from cube.build import main
from cube.config import AbiConfig
from cube.sentinel2.config import Sentinel2Config
from tests.old.make import COMMANDS

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="the folders' paths begin with /proc/self/cwd"),
    # rasterio multiplies affine transforms by an operator that affine wants to retire
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that 0.1.0 made, for tests that write nothing."""
    root = tmp_path_factory.mktemp("old")
    for packed in HERE.glob("*.tar.xz"):
        with tarfile.open(packed) as tar:
            tar.extractall(root, filter="data")
    return root


@pytest.fixture
def lay(laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lay some of it down for a test to write in; commands are run there."""

    def copy(*parts: str) -> Path:
        for part in parts:
            (tmp_path / part).parent.mkdir(exist_ok=True)
            (shutil.copytree if (laid / part).is_dir() else shutil.copy2)(laid / part, tmp_path / part)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return copy


@pytest.fixture
def there(laid: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(laid)
    return laid


@pytest.fixture(scope="module")
def numbers(laid: Path) -> dict[str, np.ndarray]:
    """What 0.1.0 read from its own folders."""
    with np.load(laid / "abi/numbers.npz") as stored:
        return dict(stored)


AS_BEFORE = {
    command: [
        f"--{name.replace('_', '-')}={value}"
        for name, value in model.former().items()
        if model.model_fields[name].default != value
    ]
    for command, model in {"abi": AbiConfig, "sentinel2": Sentinel2Config}.items()
}
"""What a build by 0.1.0 is gone on with by, besides its command."""


def again(name: str) -> list[str]:
    """Command that goes on with an old build."""
    return [*COMMANDS[name], *AS_BEFORE[COMMANDS[name][0]]]


SOURCES = {
    "abi": ("abi/archive", "abi/damaged", "abi/masks"),
    "sentinel2": ("sentinel2/archive", "sentinel2/grid.csv"),
}


def files(folder: Path) -> dict[str, Path]:
    """Every file below a folder that holds pixels, by its name there."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "zarr.json")
    return {str(p.relative_to(folder)): p for p in found}


def assert_as_made(built: Path, part: str, whole: str, laid: Path) -> None:
    """The products are those that 0.1.0 made of the whole build: file by file, bit by bit.

    GeoTIFFs have statistics among their tags now, so that their pixels and place are compared.
    """
    made = json.loads((laid / part / "made.json").read_text())
    wanted, here = made[whole], {name: sha256(p.read_bytes()).hexdigest() for name, p in files(built).items()}
    assert here.keys() == wanted.keys()
    different = [name for name in wanted if wanted[name] != here[name]]
    if any(not n.endswith(".tif") for n in different) and made["versions"] == {
        name: version(name) for name in made["versions"]
    }:
        pytest.fail(f"{built} has other bits in {different}")
    for name in different:
        if name.endswith(".tif"):
            with rasterio.open(built / name) as one, rasterio.open(laid / part / whole / name) as other:
                np.testing.assert_array_equal(one.read(), other.read())
                assert (one.profile, one.scales, one.overviews(1)) == (other.profile, other.scales, other.overviews(1))
    if built.suffix == ".zarr":
        assert_same_values(built, laid / part / whole)


def assert_same_values(built: Path, whole: Path) -> None:
    arrays = dict(zarr.open_group(whole, mode="r").arrays())
    now = dict(zarr.open_group(built, mode="r").arrays())
    assert now.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(now[name][...], array[...], err_msg=name)


OPENED = [
    *(("random", quantity) for quantity in ("counts", "radiance", "reflectance", "brightness_temperature")),
    ("partial", "radiance"),
    ("convection", "counts"),
]


@pytest.mark.parametrize(("name", "quantity"), OPENED)
def test_old_tiles_open_with_the_numbers_they_had(
    there: Path, numbers: dict[str, np.ndarray], name: str, quantity: Any
) -> None:
    tiles = cube.open_tiles(f"abi/{name}", quantity).load()
    wanted = {k.rpartition("/")[2]: v for k, v in numbers.items() if k.startswith(f"{name}/{quantity}/")}
    assert wanted
    assert quantity != "counts" or wanted.keys() == set(map(str, tiles.variables))
    for variable, values in wanted.items():
        assert tiles[variable].dtype == values.dtype
        if quantity == "counts" and variable in ("C01", "C02", "C13", "valid"):
            np.testing.assert_array_equal(tiles[variable].values, values)
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(tiles[variable].values, values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(tiles[variable].values, values)


def test_pixels_of_a_damaged_file_are_not_valid_in_old_tiles(numbers: dict[str, np.ndarray]) -> None:
    """The numbers tell something: a chunk that was damaged is absent from the partial build alone."""
    assert np.isnan(numbers["partial/radiance/C02"]).any()
    assert not np.isnan(numbers["random/radiance/C02"]).any()


def test_old_composites_open_with_the_numbers_they_had(there: Path, numbers: dict[str, np.ndarray]) -> None:
    composites = cube.open_composites("sentinel2/composites")
    wanted = {k.rpartition("/")[2]: v for k, v in numbers.items() if k.startswith("composites/")}
    assert wanted.keys() == {"B02", "B03", "count", "x", "y"}
    for variable, values in wanted.items():
        np.testing.assert_array_equal(composites[variable].values, values)


def test_old_tiles_stream_in_the_order_they_had(there: Path, numbers: dict[str, np.ndarray]) -> None:
    from loaders import tile_loader

    for at, batch in enumerate(tile_loader("abi/random", 3, seed=5, quantity="mixed", workers=0, tail="even")):
        for name, values in (
            ("tile", batch.meta["tile"]),
            ("time", batch.meta["time"]),
            ("valid", batch.valid),
            ("pixels", batch.pixels),
        ):
            np.testing.assert_allclose(np.asarray(values), numbers[f"loader/{at}/{name}"], rtol=1e-6)
    assert f"loader/{at + 1}/tile" not in numbers


def test_statistics_of_old_tiles_are_those_they_had(there: Path, tmp_path: Path) -> None:
    from loaders.statistics import Statistics
    from loaders.stats import main as stats

    assert stats(["abi/random", "--by", "stratum", "--output", str(tmp_path / "now.json")]) == 0
    before, now = (Statistics.load(p) for p in ("training/statistics.json", tmp_path / "now.json"))
    assert before.quantity == now.quantity
    for band, told in before.bands().items():
        assert (now.bands()[band].count, now.bands()[band].mean, now.bands()[band].std) == (
            told.count,
            pytest.approx(told.mean, rel=1e-9),
            pytest.approx(told.std, rel=1e-9),
        )


FINISHED = ["abi/random", "abi/convection", "sentinel2/composites"]


@pytest.mark.parametrize("folder", FINISHED)
def test_status_of_an_old_build_says_done(there: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", folder]) == 0
    assert "done" in capsys.readouterr().out


@pytest.mark.parametrize("folder", FINISHED)
def test_verify_finds_no_fault_in_an_old_build_and_says_that_it_has_no_digests(
    there: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", folder]) == 0
    assert "no digests recorded" in capsys.readouterr().out


@pytest.mark.parametrize("folder", FINISHED)
def test_verify_finds_a_file_that_is_gone_from_an_old_build(
    lay: Callable[..., Path], folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = lay(folder)
    product = next((root / folder).rglob("C02/c/0/0/0/0" if folder.startswith("abi") else "*_B02_*.tif"))
    product.unlink()
    assert main(["verify", folder]) == 1
    assert product.name in capsys.readouterr().out


def images(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which file each image is in, and when it was written."""
    names = ("tiles.zarr/C*/c/**/*", "tiles.zarr/valid/c/**/*", "composites.zarr/[Bc]*/c/**/*", "composites/*/*.tif")
    found = (p for name in names for p in folder.glob(name) if p.is_file())
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


@pytest.mark.parametrize("folder", FINISHED)
def test_the_command_of_an_old_build_makes_nothing_anew(laid: Path, lay: Callable[..., Path], folder: str) -> None:
    part, _, name = folder.partition("/")
    built = lay(*SOURCES[part], folder) / folder
    before = images(built)
    assert len(before) > 3
    assert main(again(name)) == 0
    assert images(built) == before
    for product in ("tiles.zarr",) if part == "abi" else ("composites.zarr", "composites"):
        assert_as_made(built / product, part, f"{name}/{product}", laid)


@pytest.mark.parametrize("name", ["completeness.csv", "catalog.json"])
def test_a_page_that_is_gone_from_an_old_build_is_made_again(lay: Callable[..., Path], name: str) -> None:
    built = lay(*SOURCES["abi"], "abi/random") / "abi/random"
    before = images(built)
    (built / name).unlink()
    assert main(again("random")) == 0
    assert (built / name).exists()
    assert images(built) == before


@pytest.mark.parametrize("folder", ["abi/killed", "abi/planned", "abi/partial", "sentinel2/killed"])
def test_status_and_verify_of_an_unfinished_old_build_say_so(
    there: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", folder]) == 1
    told = capsys.readouterr().out
    assert "partial" in told if folder == "abi/partial" else "to do" in told
    assert main(["verify", folder]) == 1
    assert "fault: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["killed", "planned"])
def test_an_unfinished_old_build_of_tiles_is_finished_with_the_same_bits(
    laid: Path, lay: Callable[..., Path], name: str
) -> None:
    root = lay(*SOURCES["abi"], f"abi/{name}")
    ledger = root / f"abi/{name}" / "ledger.jsonl"
    entries = map(json.loads, ledger.read_text().splitlines()) if ledger.exists() else ()
    done = {str(int(e["key"][6:])) for e in entries if e["key"].startswith("shard-") and e["status"] == "done"}
    assert bool(done) == (name == "killed")
    before = {p: told for p, told in images(root / f"abi/{name}").items() if p.parts[-4] in done}
    assert main(again(name)) == 0
    after = images(root / f"abi/{name}")
    assert {p: told for p, told in after.items() if p in before} == before, "what was made is not made again"
    assert_as_made(root / f"abi/{name}/tiles.zarr", "abi", "random/tiles.zarr", laid)
    assert main(["verify", f"abi/{name}"]) == 0


@pytest.mark.parametrize("name", ["killed", "random"])
def test_an_old_build_of_tiles_is_gone_on_with_only_as_it_was_begun(
    lay: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence names the very flags that go on with it; nothing is written."""
    built = lay(*SOURCES["abi"], f"abi/{name}") / f"abi/{name}"
    before = files(built)
    assert main(COMMANDS[name]) == 2
    told = capsys.readouterr().err
    assert f"go on with it by {' '.join(AS_BEFORE['abi'])}".replace("=", " ") in told
    assert {name for name in files(built) if not name.startswith(".claim/")} == before.keys()


def test_an_old_build_of_a_damaged_file_is_finished_after_mending_it(laid: Path, lay: Callable[..., Path]) -> None:
    root = lay(*SOURCES["abi"], "abi/partial")
    assert main(again("partial")) == 1  # it is still damaged
    shutil.copytree(root / "abi/archive", root / "abi/damaged", dirs_exist_ok=True)
    assert main(again("partial")) == 0
    assert_as_made(root / "abi/partial/tiles.zarr", "abi", "random/tiles.zarr", laid)
    assert not (root / "abi/partial/errors.csv").exists()


def test_composites_killed_between_two_cells_are_finished_with_the_same_bits(
    laid: Path, lay: Callable[..., Path]
) -> None:
    root = lay(*SOURCES["sentinel2"], "sentinel2/killed")
    assert (root / "sentinel2/killed/tmp").exists()
    assert main(again("composites-killed")) == 0
    for made in ("composites.zarr", "composites"):
        assert_as_made(root / "sentinel2/killed" / made, "sentinel2", f"composites/{made}", laid)
    assert main(["verify", "sentinel2/killed"]) == 0


def test_an_old_plan_makes_the_tiles_it_made_twins_too(laid: Path, lay: Callable[..., Path]) -> None:
    """Two records of one system, 20 minutes apart, chose the same window: such a plan is not drawn any more."""
    root = lay(*SOURCES["abi"])
    build = root / "abi/convection"
    build.mkdir()
    planned = ("config.yaml", "sources.json", "completeness.csv", "convection_*.csv", "plan.parquet")
    for path in (path for name in planned for path in (laid / "abi/convection").glob(name)):
        shutil.copy2(path, build)
    one, other = pd.read_parquet(build / "plan.parquet").itertuples()
    assert one.tile_id != other.tile_id
    assert (list(one.scan_ids), one.row, one.col) == (list(other.scan_ids), other.row, other.col)
    assert main(again("convection")) == 0
    assert_as_made(build / "tiles.zarr", "abi", "convection/tiles.zarr", laid)
    assert (build / "plan.parquet").read_bytes() == (laid / "abi/convection/plan.parquet").read_bytes()


def test_an_old_build_is_of_the_same_configuration_still(there: Path) -> None:
    """The paths in the folders are told as they were, and so is every default: else a command would be refused."""
    from cube.build import commands
    from cube.plug import imported

    for folder in FINISHED:
        part, _, name = folder.partition("/")
        told = yaml.safe_load((there / folder / "config.yaml").read_text())
        model = imported(commands()[part].config)
        place = {"abi": "output_dir", "sentinel2": "work_dir"}[part]
        assert model.load(Path(folder) / "config.yaml", {place: folder}).digest() == told["digest"], name


def test_an_old_training_run_goes_on_where_it_stopped(lay: Callable[..., Path]) -> None:
    from training.config import load_config
    from training.trainer import Trainer

    root = lay("abi/random", "training")
    trainer = Trainer(load_config("training/config.yaml"))
    assert trainer.step == 2
    assert trainer.fit()
    rows, whole = (
        [json.loads(line) for line in (root / "training" / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "whole")
    )
    assert [(r["step"], r["lr"]) for r in rows] == [(r["step"], r["lr"]) for r in whole]
    np.testing.assert_allclose([r["loss"] for r in rows], [r["loss"] for r in whole], rtol=1e-4)


def test_an_old_checkpoint_opens_as_a_model(there: Path) -> None:
    from training.runs import open_run

    opened = open_run(Path("training/run"))
    assert (opened.step, opened.weights.name, opened.config.model.bands) == (
        2,
        "ema.safetensors",
        ("C01", "C02", "C13"),
    )
