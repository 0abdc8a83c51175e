"""A folder is its owner's: what a run does once it has lost it, what it refuses, what it clears away."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cube.geostationary.folder import AbiFolder
from cube.job import folder as folders
from cube.job.engine import Workers, run_tasks
from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger
from cube.job.run import Run
from stratacube import claim
from stratacube.claim import CLAIM, claimed
from stratacube.errors import ClaimLostError, UsageError
from stratacube.files import whole_file, write_text
from tests.ground.processes import wait_for

DESCRIBED = {"of": "this"}


def take_over(folder: Path) -> None:
    """Do to the newest ticket what another run does that takes the folder over."""
    with max((folder / CLAIM).iterdir()).open("r+b") as ticket:
        ticket.seek(claim._TAKEN)
        ticket.write(b"x")


def opened(folder: BuildFolder, *, digest: str = "d", overwrite: bool = False) -> Any:
    return folder.opened(DESCRIBED, digest, overwrite=overwrite)


@pytest.mark.parametrize("error", [OSError("not there"), UsageError("no such tile"), KeyError("b")])
def test_whatever_a_run_that_lost_its_folder_stumbles_on_it_says_that_it_lost_it(
    tmp_path: Path, error: Exception
) -> None:
    def stumble(*, lost: bool) -> None:
        with opened(BuildFolder(tmp_path)):
            if lost:
                take_over(tmp_path)
            raise error

    with pytest.raises(ClaimLostError, match="is no longer this run's"):
        stumble(lost=True)
    with pytest.raises(type(error)):
        stumble(lost=False)


def test_overwriting_ends_when_the_folder_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of the build goes last, so that what is left is still known to be one."""
    folder = BuildFolder(tmp_path)
    with opened(folder):
        write_text(folder.plan, "plan")
        write_text(folder.report, "report")
    remove = folders.remove

    def lost_at_the_plan(path: Path) -> None:
        if path == folder.plan:
            take_over(tmp_path)
        remove(path)

    monkeypatch.setattr(folders, "remove", lost_at_the_plan)
    with pytest.raises(ClaimLostError), opened(folder, overwrite=True):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {CLAIM, "config.yaml", "plan.parquet", "report.md"}


def test_what_came_into_the_folder_before_the_claim_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(folder: Path) -> Any:
        (folder / "thesis.tex").write_text("precious")
        return claimed(folder)

    monkeypatch.setattr(folders, "claimed", late)
    with pytest.raises(UsageError, match=r"thesis\.tex is there"), opened(BuildFolder(tmp_path), overwrite=True):
        pass
    assert not (tmp_path / "config.yaml").exists()


def test_a_planned_build_gives_way_to_no_other_even_if_its_plan_is_lost(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    with opened(folder):
        pass
    with opened(folder, digest="another"):  # nothing was planned yet
        assert folder.holds("another")
        Ledger(folder.ledger).record(Entry("plan", "done"))
    with pytest.raises(UsageError, match="holds a build of another configuration"), opened(folder):
        pass
    Path(folder.ledger).unlink()
    folder.plan.touch()
    with pytest.raises(UsageError, match="holds a build of another configuration"):
        folder.refuse_other(DESCRIBED, "d")
    with opened(folder, overwrite=True):
        assert folder.holds("d")


def test_what_a_killed_run_left_is_neither_kept_nor_told(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    with opened(folder):
        pass
    part = tmp_path / "pictures"
    stray, at_top = part / "deep" / ".a.png.01234567.part", tmp_path / ".report.md.01234567.part"
    stray.parent.mkdir(parents=True)
    for path in (stray, at_top):
        path.write_text("half")
    with opened(folder), Workers() as workers:
        assert not at_top.exists()
        run = Run(folder, workers, 0, lambda _: ())
        assert run.keep("draw", lambda: write_text(part / "deep" / "a.png", "whole"), lambda: [part])
        ((_, written),) = run.ledger.files_of(["draw"])
        assert [file.path for file in written or ()] == ["pictures/deep/a.png"]
        assert not run.keep("draw", pytest.fail, lambda: [part])
    assert not stray.exists()


@dataclass(frozen=True)
class Writing:
    """A task that writes a file, and where it is told to, loses the folder before."""

    key: str
    folder: Path
    lose: bool = False

    def run(self) -> None:
        """Do so."""
        if self.lose:
            take_over(self.folder)
        write_text(self.folder / self.key, "text")


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_fenced_and_the_first_that_finds_the_folder_lost_ends_all(tmp_path: Path, workers: int) -> None:
    with claimed(tmp_path) as fence, Workers(workers, fence=fence) as pool:
        (one, two) = run_tasks([Writing("a", tmp_path), Writing("b", tmp_path)], Writing.run, pool)
        assert {file.path for outcome in (one, two) for file in outcome.written} == {"a", "b"}
        tasks = [Writing("c", tmp_path, lose=True), *(Writing(f"d{i}", tmp_path) for i in range(3))]
        with pytest.raises(ClaimLostError, match="another process has taken it over"):
            list(run_tasks(tasks, Writing.run, pool))
    assert not (tmp_path / "c").exists()


def test_a_worker_that_outlives_its_claim_writes_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path) as fence:
        pass
    with Workers(2, fence=fence) as pool, pytest.raises(ClaimLostError, match="has ended"):
        list(run_tasks([Writing("a", tmp_path), Writing("b", tmp_path)], Writing.run, pool))
    assert [p.name for p in tmp_path.iterdir()] == [CLAIM]


def test_a_task_is_not_begun_once_the_claim_is_lost(tmp_path: Path) -> None:
    begun: list[Writing] = []
    with claimed(tmp_path) as fence, Workers(fence=fence) as pool:
        take_over(tmp_path)
        with pytest.raises(ClaimLostError, match="another process has taken it over"):
            list(run_tasks([Writing("a", tmp_path), Writing("b", tmp_path)], begun.append, pool))
    assert begun == []


@dataclass(frozen=True)
class Dying:
    """A task that is killed once another one beside it is in the midst of a file; both go through when tried again."""

    key: str
    folder: Path
    aside: Path

    def run(self) -> None:
        """Do so."""
        halfway = self.aside / "halfway"
        if self.key == "killed":
            wait_for(halfway.exists, 60)
            if not (self.aside / "killed").exists():
                (self.aside / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        with whole_file(self.folder / "deep" / self.key) as part:
            part.write_text("half")
            if not halfway.exists():
                halfway.touch()
                time.sleep(60)


@pytest.mark.slow
def test_what_a_worker_was_writing_when_another_died_goes(tmp_path: Path) -> None:
    folder, aside = BuildFolder(tmp_path / "out"), tmp_path / "aside"
    aside.mkdir()
    tasks = [Dying("killed", folder.root, aside), Dying("beside", folder.root, aside)]
    with opened(folder) as fence, Workers(2, fence=fence) as pool:
        run = Run(folder, pool, 1, lambda _: ())
        for outcome in run.do(tasks, Dying.run, "dying"):
            run.record(outcome.task.key, "done", files=outcome.written)
    assert sorted(p.name for p in (folder.root / "deep").iterdir()) == ["beside", "killed"]


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, abi_command: Any) -> None:
    from cube.build import main

    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert main([*abi_command.arguments(folder), "--dry-run"]) == 2
    assert main([*abi_command.arguments(folder), "--dry-run", "--overwrite"]) == 2
    (folder / "thesis.tex").unlink()
    assert main([*abi_command.arguments(folder), "--plan-only", "--workers", "1"]) == 0
    other = ["--num-tiles", "5", "--dry-run"]
    assert main([*abi_command.arguments(folder), *other]) == 2
    assert main([*abi_command.arguments(folder), *other, "--overwrite"]) == 0


def test_what_a_killed_run_left_in_the_index_goes(tmp_path: Path, abi_command: Any) -> None:
    from cube.build import main

    folder = AbiFolder(tmp_path / "out")
    arguments = [*abi_command.arguments(folder.root), "--workers", "1"]
    assert main([*arguments, "--plan-only"]) == 0
    stray = folder.index / ".0123.npz.01234567.part"
    stray.parent.mkdir(exist_ok=True)
    stray.write_text("half")
    assert main(arguments) == 0
    assert not stray.exists()
    assert any(folder.index.rglob("*.npz"))
