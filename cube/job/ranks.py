"""Several copies of one command, started as ranks: refused before they touch a folder, until an engine joins them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from stratacube.errors import UsageError

__all__ = ["refuse_ranks"]

_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "mpirun"),
    # Of the step, not of the job: a batch script with --ntasks=8 that runs one command has SLURM_NTASKS=8.
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
)
"""Variables of the number of ranks and of the own one: Open MPI; MPICH, Intel MPI and Cray; Slurm's srun."""


_HEAD_START = 2.0
"""Seconds for which the silent ranks wait: ``mpirun`` ends all others with the first that fails, and the first rank is
to have spoken by then."""


def refuse_ranks(environment: Mapping[str, str] | None = None) -> None:
    """Refuse to be one of several ranks.

    Raises
    ------
    UsageError
        If there are several; ``silent`` on all but the first.
    """
    values = os.environ if environment is None else environment
    for size, rank, launcher in _LAUNCHERS:
        number = values.get(size, "")
        if number.isdigit() and int(number) > 1:
            error = UsageError(
                f"{launcher} started {number} copies of this command, which would all build in one folder; "
                f"start it once, without {launcher}: it uses all cores of its node by itself"
            )
            error.silent = values.get(rank, "0") != "0"
            if error.silent:
                time.sleep(_HEAD_START)
            raise error
