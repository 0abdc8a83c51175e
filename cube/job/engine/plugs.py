"""Our engines that have options, and the options: light, for every command line reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cube.job.engine.plug import EnginePlug
from stratacube.settings import LocalPath, Settings

__all__ = ["DASK", "MPI", "DaskOptions", "MpiOptions"]


class DaskOptions(Settings):
    """Where Dask's workers are: of this machine, of a scheduler that runs, or in jobs of Slurm."""

    cluster: Literal["local", "slurm"] = Field("local", description="start workers on this machine, or in Slurm jobs")
    scheduler: str | None = Field(None, description="address of a scheduler that runs, such as tcp://10.0.0.1:8786")
    scheduler_file: LocalPath | None = Field(None, description="file that a running scheduler wrote its address into")
    queue: str | None = Field(None, description="partition of the jobs")
    account: str | None = Field(None, description="account of the jobs")
    cores: int = Field(1, ge=1, description="cores of a job; each has one worker")
    memory: str | None = Field(None, description="memory of a job, such as 180GB, or of each worker on this machine")
    walltime: str | None = Field(None, description="time limit of a job, such as 02:00:00")
    adapt: int | None = Field(
        None, ge=0, description="fewest workers; more come while there are tasks (default: always `workers`)"
    )
    interface: str | None = Field(None, description="network interface, such as ib0")
    scratch: LocalPath | None = Field(None, description="folder of workers' own scratch, on a disk of the node")
    job_logs: LocalPath | None = Field(None, description="folder of the jobs' own logs (default: the current one)")
    directives: str = Field("", description="more lines of the job's head, without #SBATCH")
    prologue: str = Field("", description="lines of shell before a worker starts, such as module load")
    wait_minutes: float = Field(60.0, gt=0, description="minutes to wait while there is no worker, as in a queue")

    @model_validator(mode="after")
    def _agree(self) -> DaskOptions:
        running = [name for name in ("scheduler", "scheduler_file") if getattr(self, name) is not None]
        if len(running) > 1:
            raise ValueError("`scheduler` and `scheduler_file` are both given; give one")
        of_jobs = ("queue", "account", "walltime", "interface", "job_logs", "directives", "prologue")
        given = [name for name in of_jobs if getattr(self, name)] + ["cores"] * (self.cores != 1)
        if given and (running or self.cluster != "slurm"):
            raise ValueError(f"`{given[0]}` is of jobs; give `cluster=slurm` too, and no running scheduler")
        if running and (self.cluster != "local" or self.adapt is not None):
            other = "cluster" if self.cluster != "local" else "adapt"
            raise ValueError(f"`{other}` goes with workers that are started here, not with `{running[0]}`")
        if self.cluster == "slurm" and self.memory is None:
            raise ValueError("`memory` is required with `cluster=slurm`: what a job may use, such as 180GB")
        return self


class MpiOptions(Settings):
    """There are none: ``mpirun`` or ``srun`` says where the ranks are."""


DASK = EnginePlug("cube.job.engine.dask:dask_executor", DaskOptions)
MPI = EnginePlug("cube.job.engine.mpi:mpi_executor", MpiOptions)
