"""Twenty thousand chips: memory, and a run that is killed. `make long` runs them."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import zarr

MEASURED = """
import resource, sys
from pathlib import Path
from cube.build import main
from cube.geostationary.chips import store
store._SHARD = 2**21  # these chips are so small that a task would take all of them
code = main(sys.argv[1:])
# Linux carries ru_maxrss over from the parent; the status file tells of this program alone.
own = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(code, int(own) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
MANY, FEW = 20_000, 2_000
SIDE = 32


def pixels(number: int) -> npt.NDArray[np.float32]:
    """Of a chip of one band; another number in each pixel and chip."""
    image = np.arange(SIDE * SIDE, dtype="f4").reshape(1, 1, SIDE, SIDE)
    return image + np.float32(number * 100 + 0.37)


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one step; the first are in a folder of their own."""
    root = tmp_path_factory.mktemp("chips")
    for folder in ("few", "rest"):
        (root / folder).mkdir()
    for number in range(MANY):
        name = f"{'few' if number < FEW else 'rest'}/GOES16_abi_20200701T1600_sys{number:07d}.npz"
        told = json.dumps({"system_id": number, "abi_center_y": 4001})
        times = np.array(["2020-07-01T16:00:10.500000"])
        np.savez(root / name, chip=pixels(number), timestamps=times, latitude=np.zeros((4, 4), "f4"), metadata=told)
    return root


def words(pattern: Path, output: Path) -> list[str]:
    return ["import-chips", "--chips", str(pattern), "--output-dir", str(output), "--workers", "1", "--quiet"]


def peak(pattern: Path, output: Path) -> float:
    """Most memory of an import, of what drives it and what reads the chips, MB."""
    command = [sys.executable, "-c", MEASURED, *words(pattern, output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    code, own, childrens = done.stdout.split()
    assert code == "0", done.stderr
    logging.info("%s: %s MB here, %s MB in workers", pattern, own, childrens)
    return max(float(own), float(childrens))


@pytest.mark.slow
@pytest.mark.long
def test_of_each_chip_little_is_held(chips: Path, tmp_path: Path) -> None:
    """Its name and its row of text; its pixels take 4 kB here, and a hundred times that in real ones."""
    few, many = peak(chips / "few" / "*.npz", tmp_path / "few"), peak(chips / "*" / "*.npz", tmp_path / "many")
    assert (many - few) * 2**20 < 2_000 * (MANY - FEW)
    assert many < 1000


@pytest.mark.slow
@pytest.mark.long
def test_an_import_that_was_killed_goes_on(chips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", MEASURED, *words(chips / "*" / "*.npz", out)]

    def done() -> set[str]:
        lines = (out / "ledger.jsonl").read_text().splitlines() if (out / "ledger.jsonl").exists() else []
        return {key for line in lines if line.endswith("}") and (key := json.loads(line)["key"]).startswith("chips-")}

    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as begun:
        while begun.poll() is None and len(done()) < 2:
            time.sleep(0.05)
        assert begun.returncode is None, "it was to be killed on its way"
        begun.send_signal(signal.SIGKILL)
    before = done()
    made = {
        path: path.stat().st_mtime_ns for path in (out / "rows").glob("*.parquet") if f"chips-{path.stem}" in before
    }
    assert len(made) >= 2
    subprocess.run(command, check=True)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was done is not done again"
    table = pd.read_parquet(out / "chips.parquet")
    assert table["tile"].tolist() == list(range(MANY))
    store = zarr.open_group(out / "chips.zarr", mode="r")
    for number in (0, 1, FEW - 1, FEW, MANY // 2, MANY - 1):
        assert table["name"][number] == f"GOES16_abi_20200701T1600_sys{number:07d}.npz"
        np.testing.assert_array_equal(np.squeeze(store["C01"][number]), pixels(number)[0, 0])
