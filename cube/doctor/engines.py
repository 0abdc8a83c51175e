"""Where tasks may run: worker processes, MPI, Dask, Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cube.job.engine.base import EngineExecutor
from cube.job.engine.local import local_executor
from cube.job.ranks import Ranks
from stratacube.checks import Check, tried

__all__ = ["engines"]

_SECONDS = 30
_MPI = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0].split(',')[0])"
_DASK = "import dask, distributed; print('dask', dask.__version__ + ', distributed', distributed.__version__)"
_JOBQUEUE = "import dask_jobqueue; print('dask-jobqueue', dask_jobqueue.__version__)"


def engines() -> Iterator[Check]:
    """Try what shares work out; all but the processes of this machine are for those who want them."""
    remedy = "give a folder for sockets that allows them (`TMPDIR=/tmp`), or build with --workers 1"
    yield tried("processes", _processes, remedy)
    yield _mpi()
    yield _python("Dask", _DASK, "pip install 'stratacube[dask]'")
    yield _python("Dask on Slurm", _JOBQUEUE, "pip install 'stratacube[dask]'")
    yield _slurm()


def _processes() -> str:
    """Have two worker processes do something, started as a build starts them."""
    pool = local_executor(2, ("cube.job.ranks",))
    try:
        found = list(pool.map(abs, range(-4, 0), timeout=_SECONDS))
    except BaseException:
        if isinstance(pool, EngineExecutor):
            pool.end()  # workers that do not answer would be waited for
        raise
    finally:
        pool.shutdown()
    if found != [4, 3, 2, 1]:
        raise RuntimeError(f"workers answered {found}")
    return "two workers answered"


def _mpi() -> Check:
    """Ask mpi4py and the launcher for their MPI: they must be of one kind."""
    asked = _python("MPI", _MPI, "pip install 'stratacube[mpi]' with the cluster's own MPI loaded")
    launcher = shutil.which("mpirun") or shutil.which("mpirun", path=str(Path(sys.executable).parent))
    if asked.state != "works":
        return asked
    ranks = Ranks.here()
    among = f"; this is rank {ranks.mine} of {ranks.number}" if ranks.number > 1 else ""
    if launcher is None:
        remedy = "load the module of the MPI that mpi4py uses, or start ranks by srun --mpi=pmix"
        return Check("MPI", "lacks", f"{asked.told}, but no mpirun is in PATH{among}", remedy)
    told, code = _said([launcher, "--version"])
    kinds = [_kind(text) for text in (asked.told, told)]
    if code == 0 and None not in kinds and kinds[0] != kinds[1]:
        remedy = f"put the mpirun of {kinds[0]} first in PATH, or build mpi4py with {kinds[1]}"
        return Check("MPI", "lacks", f"mpi4py uses {asked.told}, but {launcher} is {told}", remedy)
    return Check("MPI", "works", f"{asked.told}; {launcher}{among}")


def _kind(text: str) -> str | None:
    found = re.search(r"open ?mpi|open rte|prrte|mpich|hydra|intel", text, re.IGNORECASE)
    if found is None:
        return None
    return "Open MPI" if found[0].lower() in ("open mpi", "openmpi", "open rte", "prrte") else "MPICH"


def _slurm() -> Check:
    if shutil.which("sbatch") is None:
        remedy = "on a cluster with Slurm load its module; in a container submit from outside of it"
        return Check("Slurm", "lacks", "no sbatch in PATH", remedy)
    told, code = _said(["scontrol", "ping"])
    if code:
        return Check("Slurm", "lacks", f"its controller does not answer ({told})", "ask the operators of the cluster")
    return Check("Slurm", "works", told)


def _python(what: str, code: str, remedy: str) -> Check:
    """Run Python in a process of its own: what is imported there may end it."""
    told, status = _said([sys.executable, "-c", code])
    if status == 0:
        return Check(what, "works", told)
    reason = "not installed" if "ModuleNotFoundError" in told else told.rpartition("Error: ")[2]
    return Check(what, "lacks", reason, remedy)


def _said(command: Sequence[str]) -> tuple[str, int]:
    """The first line that a program writes, or the last where it fails, and its exit code."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} does not answer ({type(error).__name__})", 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or [f"exit {done.returncode}"]
    return " ".join(lines[0 if done.returncode == 0 else -1].split())[:160], done.returncode
