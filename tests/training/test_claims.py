"""A run's folder belongs to one run: real processes that are refused, killed, stopped and woken."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

import stratacube.claim
import training.trainer
from stratacube.claim import claimed
from stratacube.errors import ClaimedError, ClaimLostError, UsageError
from stratacube.files import fenced
from tests.training.forks import begin, begin_ranks, end
from tests.training.small import small_run
from training import pretrain
from training.checkpoint import Checkpoints
from training.trainer import Trainer

ENDLESS = ("optimizer.steps=100000", "validation.every_epochs=null", "checkpoints.every_steps=5")


def flags(folder: Path, *changes: str) -> list[str]:
    flags = ["--config", "cpu_smoke", "--output-dir", str(folder), "--set", "data.samples=64"]
    return [*flags, "--set", "logs.every_steps=1", *(word for change in changes for word in ("--set", change))]


def wait_for(condition: Callable[[], bool], process: BaseProcess, said: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), said.read_text()
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


def stopped(folder: Path, every: int, moment: str) -> None:
    """Train, and stand still after step 5, or in the midst of the second checkpoint."""
    before, gather = Trainer._step, training.trainer.gather_state

    def step(self: Trainer, *arguments: Any) -> Any:
        if self.step == 5 and moment == "between":
            assert self.writer is not None
            self.writer.wait()  # else it depends on the disk whether step 4 is written by now
            os.kill(os.getpid(), signal.SIGSTOP)
        return before(self, *arguments)

    def gathered(run: Trainer) -> Callable[[Path], None]:
        fill = gather(run)

        def filled(folder: Path) -> None:
            fill(folder)
            if run.checkpoints.path(2).exists() and moment == "saving":
                os.kill(os.getpid(), signal.SIGSTOP)

        return filled

    Trainer._step = step  # type: ignore[method-assign]
    training.trainer.gather_state = gathered
    Trainer(small_run(folder, checkpoints={"every_steps": 2}, logs={"every_steps": every})).fit()


@pytest.mark.slow
@pytest.mark.usefixtures("_server_with_torch")
@pytest.mark.parametrize(("every", "moment", "saved"), [(1, "between", 4), (100, "saving", 2)])
def test_a_run_that_was_stopped_and_lost_its_folder_wakes_up_and_writes_nothing(
    tmp_path: Path, every: int, moment: str, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path.with_name(f"{tmp_path.name}-said")
    process = begin(said, stopped, tmp_path, every, moment)
    assert process.pid is not None
    try:
        state = psutil.Process(process.pid)
        wait_for(lambda: state.status() == psutil.STATUS_STOPPED, process, said)
        config = small_run(tmp_path, checkpoints={"every_steps": 2})
        with pytest.raises(ClaimedError, match=f"process {process.pid} "):
            Trainer(config).fit()
        monkeypatch.setattr(stratacube.claim, "LIMIT", 1.0)
        time.sleep(1.1)
        other = Trainer(config)
        assert other.step == saved
        other.fit(stop_at=8)
        before = contents(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
    finally:
        code = end([process])
    errors = said.read_text()
    assert code == [1]
    assert "ClaimLostError" in errors
    assert "nothing more was written to it" in errors
    assert contents(tmp_path) == before
    assert Trainer(config).fit()


@pytest.mark.slow
@pytest.mark.usefixtures("_server_with_torch")
def test_the_second_of_two_commands_is_refused_and_a_killed_one_leaves_no_claim(tmp_path: Path) -> None:
    folder, said = tmp_path / "run", [tmp_path / f"said-{number}" for number in range(3)]
    first = begin(said[0], pretrain.main, flags(folder, *ENDLESS))
    wait_for(lambda: bool(steps(folder)), first, said[0])
    second = begin(said[1], pretrain.main, flags(folder, *ENDLESS))
    assert end([second]) == [2]
    told = [line for line in said[1].read_text().splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert f"{folder} is being written by process {first.pid} on {socket.gethostname()}" in told[0]
    assert first.is_alive()
    first.kill()
    first.join()
    before = steps(folder)[-1]
    third = begin(said[2], pretrain.main, flags(folder, *ENDLESS))
    wait_for(lambda: steps(folder)[-1] > before, third, said[2])
    third.terminate()
    assert end([third]) == [75]
    errors = said[2].read_text()
    assert "going on from" in errors or f"{before} of 100000 steps done" in errors
    rows = [int(line.split(",")[0]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert rows == list(range(1, steps(folder)[-1] + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("_server_with_torch")
def test_all_ranks_of_a_refused_run_end_by_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with claimed(folder):
        words = flags(folder, "run.devices=2", "run.strategy=ddp")
        ranks = begin_ranks(tmp_path, 2, pretrain.main, words)
        ends = end(ranks)  # nobody ends them: none may wait for the other
        said = [(tmp_path / f"said-{rank}").read_text() for rank in range(2)]
        assert ends == [2, 2], said
        told = [line for errors in said for line in errors.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, told  # the first rank's
        assert f"{folder} is being written by process {os.getpid()}" in said[0]
        assert contents(folder) == {}
