"""Several copies of one command, started as ranks: they share one build, or are refused before they touch a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from stratacube.errors import UsageError

__all__ = ["Ranks", "joined", "joining", "refuse", "refuse_ranks"]

_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "mpirun"),
    # Of the step, not of the job: a batch script with --ntasks=8 that runs one command has SLURM_NTASKS=8.
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
)
"""Variables of the number of ranks and of the own one: Open MPI; MPICH, Intel MPI and Cray; Slurm's srun."""

_MEETING = ("OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD", "PMI2_FD")
"""Variables of which ranks have one that can find each other; of ``srun --mpi=none`` they have none."""

_HEAD_START = 2.0
"""Seconds for which the silent ranks wait: ``mpirun`` ends all others with the first that fails, and the first rank is
to have spoken by then."""

_joined = False


@dataclass(frozen=True)
class Ranks:
    """Copies of this command."""

    number: int = 1
    mine: int = 0
    launcher: str = ""
    can_meet: bool = False

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> Ranks:
        """Those that a launcher tells this process of."""
        values = os.environ if environment is None else environment
        for size, rank, launcher in _LAUNCHERS:
            number, mine = values.get(size, ""), values.get(rank, "0")
            if number.isdecimal() and int(number) > 1:
                meet = any(name in values for name in _MEETING)
                return cls(int(number), int(mine) if mine.isdecimal() else 0, launcher, meet)
        return cls()


@contextmanager
def joining() -> Iterator[None]:
    """Within, this process leads other ranks, or there are none."""
    global _joined  # noqa: PLW0603  (of the process, as the ranks are)
    _joined = True
    try:
        yield
    finally:
        _joined = False


def joined() -> bool:
    """Whether this process leads other ranks."""
    return _joined


def refuse_ranks(environment: Mapping[str, str] | None = None) -> None:
    """Refuse to be one of several ranks that do not share their work.

    Raises
    ------
    UsageError
        If there are several; ``silent`` on all but the first.
    """
    ranks = Ranks.here(environment)
    if ranks.number > 1 and not _joined:
        refuse(ranks, "they share work in `stratacube.build` and on the command line only")


def refuse(ranks: Ranks, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Refuse ranks, in one sentence of the first of them.

    Raises
    ------
    UsageError
        In any case; ``silent`` on all but the first.
    """
    error = UsageError(
        f"{ranks.launcher} started {ranks.number} copies of this command, which cannot share one build: {reason}; or "
        f"start it once, without {ranks.launcher}: it uses all cores of its node by itself"
    )
    error.silent = ranks.mine != 0
    if error.silent:
        time.sleep(_HEAD_START)
    raise error from cause
