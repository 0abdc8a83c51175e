"""A run's folder belongs to one run: real processes that are refused, killed, stopped and woken."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import stratacube.claim
from stratacube.claim import claimed
from stratacube.errors import ClaimedError, ClaimLostError, UsageError
from stratacube.files import fenced
from tests.training.small import small_run
from training.checkpoint import Checkpoints
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
ENDLESS = ("optimizer.steps=100000", "validation.every_epochs=null", "checkpoints.every_steps=5")


def start(folder: Path, *changes: str, **environment: str) -> subprocess.Popen[str]:
    flags = ["--config", "cpu_smoke", "--output-dir", str(folder), "--set", "data.samples=64"]
    flags += ["--set", "logs.every_steps=1", *(word for change in changes for word in ("--set", change))]
    return subprocess.Popen(
        [sys.executable, "-m", "training.pretrain", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps(folder: Path) -> list[int]:
    return Checkpoints(folder / "checkpoints", 1, 0).steps()


def contents(folder: Path) -> dict[str, str]:
    """All of a run's folder but its claim."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".claim" not in p.parts
    }


def test_a_claimed_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    trainer = Trainer(small_run(tmp_path))
    with claimed(tmp_path):
        before = contents(tmp_path)
        with pytest.raises(
            ClaimedError, match=rf"{tmp_path} is being written by this very process \(process {os.getpid()} on "
        ):
            trainer.fit()
        assert contents(tmp_path) == before
    assert trainer.fit(stop_at=1) is False
    assert trainer.fit()  # released in between, and its own checkpoint is no other run's


def test_a_run_that_went_on_elsewhere_in_between_is_refused(tmp_path: Path) -> None:
    first, second = (Trainer(small_run(tmp_path)) for _ in range(2))
    first.fit(stop_at=2)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"in between \(its newest checkpoint is step_00000002, not None\)"):
        second.fit()
    assert contents(tmp_path) == before
    third = Trainer(small_run(tmp_path))
    first.fit(stop_at=3)
    with pytest.raises(UsageError, match="is step_00000003, not step_00000002"):
        third.fit()


def test_a_checkpoint_that_vanishes_while_it_is_read_is_another_run_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(small_run(tmp_path)).fit(stop_at=1)
    gone = tmp_path / "checkpoints" / "step_00000007"
    monkeypatch.setattr(Checkpoints, "latest", lambda _: gone)
    with pytest.raises(UsageError, match="step_00000007 was removed while it was read"):
        Trainer(small_run(tmp_path))


def test_what_killed_runs_left_is_swept_by_the_next(tmp_path: Path) -> None:
    Trainer(small_run(tmp_path)).fit(stop_at=1)
    left = tmp_path / "checkpoints" / ".step_00000002.0123abcd.part"
    (left / "half").mkdir(parents=True)
    aside = tmp_path / "checkpoints" / "step_00000001"
    aside.rename(aside.with_name(".step_00000001.0123abcd.old.part"))  # killed between the two renames of a save
    trainer = Trainer(small_run(tmp_path))
    with pytest.raises(UsageError, match="run the same command again"):
        trainer.fit()
    assert not left.exists()
    assert aside.exists()
    again = Trainer(small_run(tmp_path))
    assert again.step == 1
    assert again.fit()


def test_a_lost_claim_saves_logs_and_removes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise ClaimLostError("lost")

    trainer = Trainer(small_run(tmp_path, checkpoints={"keep_last": 1}, validation={"every_epochs": 1}))
    trainer.fit(stop_at=2)
    before = contents(tmp_path)
    for change in ({"logs": {"every_steps": 1}}, {"logs": {"every_steps": 100}, "checkpoints": {"every_steps": 3}}):
        trainer = Trainer(small_run(tmp_path, **change))
        with fenced(tmp_path / "checkpoints", lost), fenced(tmp_path, _late(trainer)), pytest.raises(ClaimLostError):
            trainer.fit()
        assert trainer.step > 2
        assert {**contents(tmp_path), "config.yaml": ""} == {**before, "config.yaml": ""}


def _late(trainer: Trainer) -> Callable[[], None]:
    """Lose the claim when the first step is done."""

    def check() -> None:
        if trainer.step > 2:
            raise ClaimLostError("lost")

    return check


STOPPED = """
import os, signal, sys
from pathlib import Path
from tests.training.small import small_run
from training import trainer
from training.trainer import Trainer

def step(self, *arguments, before=Trainer._step):
    if self.step == 5 and sys.argv[3] == "between":
        self.writer.wait()  # else it depends on the disk whether step 4 is written by now
        os.kill(os.getpid(), signal.SIGSTOP)
    return before(self, *arguments)

def gather(run, before=trainer.gather_state):
    fill = before(run)
    def stopped(folder):
        fill(folder)
        if run.checkpoints.path(2).exists() and sys.argv[3] == "saving":
            os.kill(os.getpid(), signal.SIGSTOP)
    return stopped

Trainer._step = step
trainer.gather_state = gather
Trainer(small_run(Path(sys.argv[1]), checkpoints={"every_steps": 2}, logs={"every_steps": int(sys.argv[2])})).fit()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("every", "moment", "saved"), [(1, "between", 4), (100, "saving", 2)])
def test_a_run_that_was_stopped_and_lost_its_folder_wakes_up_and_writes_nothing(
    tmp_path: Path, every: int, moment: str, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path), str(every), moment],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        config = small_run(tmp_path, checkpoints={"every_steps": 2})
        with pytest.raises(ClaimedError, match=f"process {process.pid} "):
            Trainer(config).fit()
        monkeypatch.setattr(stratacube.claim, "LIMIT", 1.0)
        time.sleep(1.1)
        other = Trainer(config)
        assert other.step == saved
        other.fit(stop_at=8)
        before = contents(tmp_path)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "ClaimLostError" in errors
    assert "nothing more was written to it" in errors
    assert contents(tmp_path) == before
    assert Trainer(config).fit()


@pytest.mark.slow
def test_the_second_of_two_commands_is_refused_and_a_killed_one_leaves_no_claim(tmp_path: Path) -> None:
    first = start(tmp_path, *ENDLESS)
    wait_for(lambda: bool(steps(tmp_path)), first)
    second = start(tmp_path, *ENDLESS)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert f"{tmp_path} is being written by process {first.pid} on {socket.gethostname()}" in told[0]
    assert first.poll() is None
    first.kill()
    first.communicate()
    before = steps(tmp_path)[-1]
    third = start(tmp_path, *ENDLESS)
    wait_for(lambda: steps(tmp_path)[-1] > before, third)
    third.send_signal(signal.SIGTERM)
    _, errors = third.communicate(timeout=60)
    assert third.returncode == 75
    assert "going on from" in errors or f"{before} of 100000 steps done" in errors
    rows = [int(line.split(",")[0]) for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    assert rows == list(range(1, steps(tmp_path)[-1] + 1))


@pytest.mark.slow
def test_all_ranks_of_a_refused_run_end_by_themselves(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    with claimed(tmp_path):
        ranks = [
            start(tmp_path, "run.devices=2", "run.strategy=ddp", **shared, RANK=str(i), LOCAL_RANK=str(i))
            for i in range(2)
        ]
        ends = [rank.communicate(timeout=120) for rank in ranks]  # nobody ends them: none may wait for the other
        assert [rank.returncode for rank in ranks] == [2, 2], ends
        told = [line for _, errors in ends for line in errors.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, told  # the first rank's
        assert f"{tmp_path} is being written by process {os.getpid()}" in ends[0][1]
        assert contents(tmp_path) == {}
