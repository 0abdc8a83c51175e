"""Builds that jobs of an array make in parts: the same files, whoever makes what, dies in it, or comes twice."""

from __future__ import annotations

import io
import random
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest

from cube.build import main
from cube.job.inspect import status, verify
from cube.job.ledger import Entry
from cube.job.parts import Part
from cube.sentinel2.record import joined_scene
from stratacube.errors import UsageError
from tests.ground.processes import wait_for
from tests.job.racing import Command, Race, Starter, assert_as_undisturbed

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

MORE = {
    "abi": ("--shard-mb", "0.004"),  # a tile each
    "sentinel2": (),
    "shared": ("--tr", "30", "30"),  # cells that are no whole number of pixels: each lies in several shards
}
PARTS = {"abi": 5, "sentinel2": 3, "shared": 3}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sentinel2", "shared")]


@pytest.fixture(scope="session")
def split_of(
    starter: Starter, commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Command, Path, Path]]:
    """By kind of build: its command, the folder of one that was made in one, and of one that was planned."""
    made: dict[str, tuple[Command, Path, Path]] = {}

    def of(source: str) -> tuple[Command, Path, Path]:
        if source not in made:
            known = commands["sentinel2" if source == "shared" else source]
            command = replace(known, flags=(*known.flags, *MORE[source]))
            folders = []
            for more in ((), ("--plan-only",)):
                one = Race(starter, command, tmp_path_factory.mktemp(f"split-{source}"))
                assert one.begin(*more).wait() == 0, one.builds[0].said.read_text()
                folders.append(one.folder)
            made[source] = command, folders[0], folders[1]
        return made[source]

    return of


@pytest.fixture
def planned(
    split_of: Callable[[str], tuple[Command, Path, Path]], starter: Starter, source: str, tmp_path: Path
) -> Race:
    """Jobs at a build that was planned."""
    command, _, folder = split_of(source)
    race = Race(starter, command, tmp_path)
    shutil.copytree(folder, race.folder, symlinks=True)
    return race


@pytest.fixture
def whole(split_of: Callable[[str], tuple[Command, Path, Path]], source: str) -> Path:
    """Folder of the same build, made in one."""
    return split_of(source)[1]


def make(race: Race, *parts: str) -> None:
    """Make parts, all at once."""
    jobs = [race.begin("--shard", part) for part in parts]
    for job in jobs:
        assert job.wait() == 0, job.said.read_text()


def publish(folder: Path) -> int:
    return main(["publish", str(folder), "--workers", "1"])


def refused(race: Race, *flags: str, code: int = 2) -> str:
    """What a command says that is refused, in one sentence."""
    said = io.StringIO()
    with redirect_stderr(said):
        assert main(race.command.arguments(race.folder, *flags, "--workers", "1")) == code, said.getvalue()
    assert said.getvalue().startswith("error: "), said.getvalue()
    assert said.getvalue().count("\n") == 1
    return said.getvalue()


@pytest.mark.parametrize("source", ["abi", *SLOW])
def test_parts_made_at_once_are_what_one_run_makes(planned: Race, whole: Path, source: str) -> None:
    of = PARTS[source]
    parts = [f"{number}/{of}" for number in range(1, of + 1)]
    random.Random(source).shuffle(parts)
    make(planned, *parts)
    assert (status(planned.folder).code, (planned.folder / "catalog.json").exists()) == (1, False)
    if source == "shared":
        assert status(planned.folder).data["begun"] > 0
        assert list((planned.folder / "tmp" / "cells").iterdir())
    assert publish(planned.folder) == 0
    assert_as_undisturbed(planned.folder, whole)
    assert status(planned.folder).code == 0
    assert not (planned.folder / "tmp").exists()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["abi", "sentinel2", "shared"])
def test_jobs_that_are_killed_and_sent_again_make_what_one_run_makes(planned: Race, whole: Path, source: str) -> None:
    of, rng = PARTS[source], random.Random(f"killed {source}")
    jobs = {f"{number}/{of}": planned.begin("--shard", f"{number}/{of}") for number in range(1, of + 1)}
    dying = rng.sample(sorted(jobs), -(-of // 3))
    for part in dying:
        time.sleep(rng.uniform(0, 0.5))
        planned.kill(jobs[part])
    for part, job in jobs.items():
        assert part in dying or job.wait() == 0, job.said.read_text()
    make(planned, *dying)
    assert publish(planned.folder) == 0
    assert_as_undisturbed(planned.folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["abi", "shared"])
def test_what_parts_left_undone_one_run_makes(planned: Race, whole: Path, source: str) -> None:
    make(planned, f"2/{PARTS[source]}")
    assert planned.begin().wait() == 0
    assert_as_undisturbed(planned.folder, whole)
    assert not (planned.folder / "shards").exists()


@pytest.mark.slow
def test_a_split_build_is_published_when_nothing_is_missing(planned: Race, capsys: pytest.CaptureFixture[str]) -> None:
    make(planned, "1/5", "3/5", "4/5")
    capsys.readouterr()
    assert publish(planned.folder) == 1
    assert capsys.readouterr().err == (
        f"error: of 6 tasks of {planned.folder}, 3 are missing (shard-000001, shard-000004, shard-000005); "
        "run shard=2/5, shard=5/5 again, or the build's command without shard\n"
    )
    assert not (planned.folder / "catalog.json").exists()
    make(planned, "2/5", "5/5")
    lost = next((planned.folder / "tiles.zarr" / "C13" / "c").iterdir())
    shutil.rmtree(lost)
    assert publish(planned.folder) == 1
    assert "1 are missing" in capsys.readouterr().err
    make(planned, "1/5", "2/5", "3/5", "4/5", "5/5")
    assert publish(planned.folder) == 0
    assert publish(planned.folder) == 0
    assert verify(planned.folder).data["faults"] == []


def test_a_part_has_one_owner_and_the_whole_is_free_of_them(planned: Race, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    first = planned.begin("--shard", "2/5", held=("building", hold))
    wait_for((tmp_path / f"hold.{first.pid}").exists)
    told = rf"/shards/2-of-5 is being written by process {first.pid} on {re.escape(socket.gethostname())}, started 2"
    for flags in (["--shard", "2/5"], [], ["--overwrite"]):
        assert re.search(told, refused(planned, *flags))
    assert f"part 2/5: 0 of 1 made, process {first.pid}" in "\n".join(status(planned.folder).lines)
    hold.unlink()
    assert first.wait() == 0


@pytest.mark.slow
def test_a_run_of_the_whole_is_free_of_parts(planned: Race, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    run = planned.begin(held=("building", hold))
    wait_for((tmp_path / f"hold.{run.pid}").exists)
    assert f"is being written by process {run.pid}" in refused(planned, "--shard", "3/5")
    hold.unlink()
    assert run.wait() == 0


def test_what_is_no_part_is_refused_in_one_sentence(planned: Race, tmp_path: Path) -> None:
    Part.parse("1/5").folder(planned.folder).mkdir(parents=True)
    assert "there is no part 6 of 5; give K/N with K from 1 to N" in refused(planned, "--shard", "6/5")
    assert "there is no part 0 of 5" in refused(planned, "--shard", "0/5")
    assert "--shard is 'five': give K/N" in refused(planned, "--shard", "five")
    assert "is split into 5 parts, and --shard asks for one of 4; give --shard K/5" in refused(
        planned, "--shard", "1/4"
    )
    assert "not together with --overwrite" in refused(planned, "--shard", "1/5", "--overwrite")
    assert "the plan has fewer tiles than --num-tiles" in refused(planned, "--shard", "1/5", "--num-tiles", "7")
    assert "this is not a task of a job array" in refused(planned, "--shard", "array")
    shutil.rmtree(planned.folder)
    assert "holds no plan" in refused(planned, "--shard", "1/5")
    assert not planned.folder.exists()


@pytest.mark.slow
def test_a_part_does_not_write_what_is_the_planners(planned: Race) -> None:
    (planned.folder / "tiles.zarr" / "C13" / "zarr.json").unlink()
    assert "run the same command with --plan-only instead of --shard" in refused(planned, "--shard", "1/5", code=1)
    assert planned.begin("--plan-only").wait() == 0
    make(planned, "1/5")


@pytest.mark.slow
def test_what_another_job_has_not_yet_written_whole_is_left_alone(planned: Race) -> None:
    part = planned.folder / "tiles.zarr" / "C13" / "c" / "0" / ".0.01234567.part"
    part.parent.mkdir(parents=True)
    part.write_text("half")
    make(planned, "5/5")
    assert part.exists()
    assert planned.begin().wait() == 0
    assert not part.exists()


@pytest.mark.slow
def test_a_job_reads_the_headers_of_its_own_scans_alone(planned: Race) -> None:
    before = {p.name for p in (planned.folder / "index").iterdir()}
    for path in (planned.folder / "index").iterdir():
        path.unlink()
    make(planned, "1/5")
    assert 0 < len(list((planned.folder / "index").iterdir())) < len(before)


ARRAY = {"TASK_ID": "7", "TASK_MIN": "3", "TASK_MAX": "11", "TASK_COUNT": "5", "TASK_STEP": "2"}


@pytest.mark.parametrize(
    ("text", "changes", "wanted"),
    [
        ("array", {}, "3/5"),
        ("array", {"TASK_STEP": "1", "TASK_MIN": "0", "TASK_MAX": "8", "TASK_COUNT": "9"}, "8/9"),
        ("array/9", {}, "7/9"),
        ("array/7", {"TASK_COUNT": "2"}, "7/7"),
        ("array", {"TASK_COUNT": "4"}, "do not follow one another: give array/N"),
        ("array", {"TASK_COUNT": ""}, "do not follow one another"),
        ("array/6", {}, "there is no part 7 of 6"),
        ("array", {"TASK_ID": ""}, "this is not a task of a job array"),
    ],
)
def test_tasks_of_an_array_are_parts(text: str, changes: dict[str, str], wanted: str) -> None:
    environment = {f"SLURM_ARRAY_{name}": value for name, value in {**ARRAY, **changes}.items()}
    if len(wanted) < 4:
        assert str(Part.parse(text, environment)) == wanted
    else:
        with pytest.raises(UsageError, match=re.escape(wanted)):
            Part.parse(text, environment)


@pytest.mark.parametrize(("of", "count"), [(1, 7), (5, 7), (7, 7), (9, 7), (3, 0)])
def test_parts_share_all_tasks_and_none_twice(of: int, count: int) -> None:
    shares = [Part(of, number).share(range(count)) for number in range(1, of + 1)]
    assert [task for share in shares for task in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_of_what_parts_tell_of_one_scene_the_gravest_stands(caplog: pytest.LogCaptureFixture) -> None:
    used, refused = (Entry("verdict S2", "done", facts={"decision": d, "reason": d}) for d in ("used", "refused"))
    assert joined_scene(used, refused) == joined_scene(refused, used) == refused
    assert caplog.text.count("S2 was refused for some cells and used for others") == 2
    folder = [Entry("digests f", "done", facts={name: "1"}) for name in "ab"]
    assert joined_scene(*folder).facts == {"a": "1", "b": "1"}
    cells = Entry("cell a", "begun"), Entry("cell a", "done")
    assert joined_scene(*cells) == cells[1]
