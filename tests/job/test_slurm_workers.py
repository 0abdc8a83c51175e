"""Dask's workers in jobs of a real Slurm: they come, are killed as at the end of their time, and others follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cube.job.inspect import verify
from tests.job.racing import Command, contents
from tests.training import test_slurm
from tests.training.test_slurm import ROOT, Cluster, wait_for

pytestmark = test_slurm.pytestmark
cluster = test_slurm.cluster


def running(cluster: Cluster) -> list[str]:
    """Jobs that run."""
    return cluster.call("squeue", "-h", "-t", "R", "-o", "%i").split()


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_jobs_that_end_are_followed_by_others(
    cluster: Cluster, abi_command: Command, undisturbed: Path, tmp_path: Path
) -> None:
    words = ["dask", "cluster=slurm", "memory=1GB", "walltime=00:10:00", "interface=lo"]
    words += [f"job_logs={tmp_path / 'jobs'}", f"scratch={tmp_path / 'scratch'}", f"prologue=export PYTHONPATH={ROOT}"]
    hold = tmp_path / "hold"
    hold.touch()
    code = (
        "import sys; from pathlib import Path; from tests.job import slowly; from cube.build import main;"
        "slowly.at('abi', 'building', Path(sys.argv[1])); sys.exit(main(sys.argv[2:]))"
    )
    arguments = abi_command.arguments(tmp_path / "work", "--workers", "2", "--engine", *words)
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "said").open("w") as said:
        build = subprocess.Popen(
            [sys.executable, "-c", code, str(hold), *arguments], cwd=tmp_path, env=environment, stdout=said, stderr=said
        )
        try:
            wait_for(lambda: build.poll() is not None or bool(list(tmp_path.glob("hold.*"))))
            assert build.poll() is None, (tmp_path / "said").read_text()
            first = running(cluster)
            cluster.call("scancel", "--signal=KILL", first[0])
            hold.unlink()
            assert build.wait(300) == 0, (tmp_path / "said").read_text()
        finally:
            build.kill()
    assert "Traceback" not in (tmp_path / "said").read_text()
    wait_for(lambda: not running(cluster), seconds=60)
    assert os.listdir(tmp_path / "jobs")
    there, expected = contents(tmp_path / "work"), contents(undisturbed)
    lasting = [name for name in expected if name.startswith(("tiles.zarr", "plan", "catalog", "previews"))]
    assert len(lasting) > 20
    assert [name for name in lasting if there.get(name) != expected[name]] == []
    assert verify(tmp_path / "work").data["faults"] == []
