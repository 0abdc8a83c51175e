"""Many processes at once on one folder: started, killed, stopped and woken by chance, and what must be true of it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cube.job.inspect import verify
from stratacube.files import is_stray
from tests.ground.processes import wait_for
from tests.job.starter import tell

ROOT = Path(__file__).resolve().parents[2]
STARTER = Path(__file__).with_name("starter.py")

SETTINGS = {"HEARTBEAT": 0.25, "LIMIT": 3.0}
"""Of the claims: long enough that a process which waits for the processor does not look gone."""
SIZES = (2, 3, 10)
PATIENCE = 300.0
"""Seconds for anything to end, on a machine that does much else."""

REFUSED = re.compile(
    r"(?:the claim \S+ looks old; [^\n]*\n)?"
    rf"error: \S+ is being written by process \d+ on {re.escape(socket.gethostname())}, "
    r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC[^\n]*\n"
)
LOST = re.compile(r"error: \S+ is no longer this run's: [^\n]*; nothing more was written to it,[^\n]*\n")
ENDS = {signal.SIGINT: (130, "Ctrl-C"), signal.SIGTERM: (143, "SIGTERM")}
TIMED = re.compile(rb'<section id="time-taken".*?</section>', re.S)
SECONDS = re.compile(r"^\| \w+ \| [\d.]+ \|$", re.M)


@dataclass(frozen=True)
class Command:
    """What is built, by whatever process."""

    name: str
    flags: tuple[str, ...]
    where: str

    def arguments(self, folder: Path, *more: str) -> list[str]:
        return [self.name, self.where, str(folder), *self.flags, *more]


class Build:
    """One process that runs a command."""

    def __init__(self, starter: Starter, order: dict[str, Any], *, shell: bool, launcher: Sequence[str] = ()) -> None:
        self.said = Path(order["said"])
        self._starter, self._code = starter, None
        self._shell: subprocess.Popen[bytes] | None = None
        if shell or launcher:
            words = [*(launcher or ("sh", "-c", 'exec "$0" "$@"')), sys.executable, str(STARTER), json.dumps(order)]
            with self.said.open("wb") as said:
                self._shell = subprocess.Popen(
                    words, cwd=ROOT, stdout=said, stderr=said, env=starter.environment, start_new_session=True
                )
        self.pid = self._shell.pid if self._shell else int(starter.ask(order))

    def code(self) -> int | None:
        """Exit code, None while it runs."""
        if self._code is None:
            self._code = self._shell.poll() if self._shell else self._starter.ask({"ended": self.pid})
        return self._code

    def wait(self) -> int:
        wait_for(lambda: self.code() is not None, PATIENCE)
        assert self._code is not None
        return self._code

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] in "TZX", PATIENCE)

    def end(self) -> None:
        if self.code() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


class Starter:
    """The process that starts builds."""

    def __init__(self) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(STARTER)], cwd=ROOT, env=self.environment, stdin=-1, stdout=-1, text=True
        )

    def ask(self, order: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.poll() is None, f"the starter of builds ended with {self.process.returncode}"
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate()


class Race:
    """Processes on one folder.

    Parameters
    ----------
    starter
        Who starts them.
    command
        What they all run.
    aside
        Where the folder lies, and what the test keeps beside it.
    """

    def __init__(self, starter: Starter, command: Command, aside: Path) -> None:
        self.starter, self.command = starter, command
        self.folder, self.log = aside / "work", aside / "log"
        self.aside, self.settings = aside, SETTINGS
        self.log.touch()
        self.builds: list[Build] = []
        self.killed: set[int] = set()
        self.interrupted: dict[int, tuple[int, str]] = {}
        """Those that were sent a signal, the code with which they may end, and how they say it."""
        self.lost: dict[int, bool] = {}
        """Those that lost their claim; whether all had been written by then."""

    def begin(
        self,
        *more: str,
        workers: int = 1,
        shell: bool = False,
        held: tuple[str, Path] | None = None,
        launcher: Sequence[str] = (),
    ) -> Build:
        order = {
            "arguments": self.command.arguments(self.folder, *more, "--workers", str(workers)),
            "settings": self.settings,
            "log": str(self.log),
            "said": str(self.aside / f"said-{len(self.builds)}"),
            "held": held and [self.command.name, held[0], str(held[1])],
        }
        self.builds.append(Build(self.starter, order, shell=shell, launcher=launcher))
        return self.builds[-1]

    def inside(self) -> Build | None:
        """Who is past its claim."""
        there: dict[int, None] = {}
        for word, _, pid in self._told():
            there.pop(pid, None)
            if word == "enter":
                there[pid] = None
        return next((b for b in self.builds if b.pid in there), None)

    def running(self) -> list[Build]:
        return [b for b in self.builds if b.code() is None]

    def kill(self, build: Build) -> None:
        """As the kernel does that is out of memory, or a scheduler whose patience is at an end."""
        if build.code() is None:
            tell(str(self.log), "gone", 0, build.pid)
            self.killed.add(build.pid)
            os.kill(build.pid, signal.SIGKILL)
            build.wait()

    def interrupt(self, build: Build, number: signal.Signals, *, all_of_it: bool) -> None:
        """As by Ctrl-C, which comes to all processes of a terminal, or by ``kill``."""
        if build.code() is None and build.pid not in self.interrupted:  # a second one ends what does not stop
            self.interrupted[build.pid] = ENDS[number]
            (os.killpg if all_of_it else os.kill)(build.pid, number)

    def stop_until_lost(self, build: Build) -> Build | None:
        """Stop the owner until another has taken the folder over; the other, or None if it was out already."""
        build.stop()
        if self.inside() is not build:
            os.kill(build.pid, signal.SIGCONT)
            return None
        self.lost[build.pid] = _is_finished(self.folder)
        tell(str(self.log), "gone", 0, build.pid)
        time.sleep(self.settings["LIMIT"])
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            other = self.begin()
            wait_for(lambda other=other: self.inside() is other or other.code() is not None, PATIENCE)
            if other.code() != 2:
                return other
        raise AssertionError("nobody could take over")

    def wake(self, build: Build, *, alone: bool) -> None:
        """Have one that lost its claim go on; where it is alone, all that changes is its doing: nothing may."""
        before = stamps(self.folder) if alone else {}
        os.kill(build.pid, signal.SIGCONT)
        if alone:
            build.wait()
            assert stamps(self.folder) == before

    def judge(self) -> None:
        """Every process ended as it must, and at no time were two past their claims."""
        silent = set[int]()
        for build in self.builds:
            code, said = build.wait(), build.said.read_text()
            if build.pid in self.killed:
                assert code in (-signal.SIGKILL, 0, 2), said
            elif build.pid in self.interrupted and code > 2:
                expected, word = self.interrupted[build.pid]
                assert code == expected, (code, said)
                last = f"stopped by {word}; run the same command again to go on from here\n"
                assert said.endswith(last), said
                assert said.count("\n") == said.count("\n", 0, said.index(last)) + 1
            elif build.pid in self.lost:
                assert code == 1 or (code == 0 and self.lost[build.pid]), (code, said)
                assert code == 0 or LOST.search(said), said
            elif code == 1 and LOST.search(said):  # nobody stopped it: it could not write its ticket for so long
                silent.add(build.pid)
            elif code == 2:
                assert REFUSED.fullmatch(said), said
            else:
                assert code == 0, (code, said)
            assert "Traceback" not in said, said
        inside, last, gone = 0, 0, set(silent)
        for word, number, pid in self._told():
            if word == "gone":
                gone.add(pid)
            elif word == "leave":
                assert pid == inside or pid in gone, f"{pid} left, and {inside} was in"
                inside = 0 if pid == inside else inside
            else:
                assert not inside or inside in gone, f"{pid} came in beside {inside}"
                assert number > last, f"number {number} came after {last}"
                assert pid not in gone or pid in silent
                inside, last = pid, number

    def _told(self) -> list[tuple[str, int, int]]:
        lines = map(str.split, self.log.read_text().splitlines())
        return [(word, int(number), int(pid)) for word, number, pid in lines]

    def end(self) -> None:
        for build in self.builds:
            build.end()


def run_round(race: Race, seed: int) -> None:
    """One round of chance: who starts, who is killed, stopped, woken, and when."""
    rng = random.Random(f"{race.command.name} {seed}")
    for _ in range(SIZES[seed % len(SIZES)]):
        more = ["--overwrite"] if rng.random() < 0.2 else []
        race.begin(*more, workers=rng.choice((1, 1, 1, 2)), shell=rng.random() < 0.15)
    left, until = rng.randint(1, 4), time.monotonic() + PATIENCE
    while race.running():
        assert time.monotonic() < until, "the builds do not end"
        time.sleep(rng.uniform(0, 0.7))
        inside = race.inside()
        if left and inside is not None and inside.code() is None:
            left -= 1
            _disturb(race, inside, rng)
    assert race.begin().wait() == 0, race.builds[-1].said.read_text()


def _disturb(race: Race, inside: Build, rng: random.Random) -> None:
    what = rng.choice(("kill", "kill any", "interrupt", "stop", "stop", "beside"))
    if what == "kill":
        race.kill(inside)
        race.begin()
    elif what == "kill any":
        race.kill(rng.choice(race.running() or [inside]))
        race.begin()
    elif what == "interrupt":
        race.interrupt(inside, rng.choice(list(ENDS)), all_of_it=rng.random() < 0.5)
    elif what == "beside" or race.lost:
        race.begin(*rng.choice((["--overwrite"], [])))
    elif race.stop_until_lost(inside) is not None:
        alone = rng.random() < 0.5
        if alone:
            for build in race.builds:
                if build is not inside:
                    build.wait()
        else:
            time.sleep(rng.uniform(0, 1))
        race.wake(inside, alone=alone)


def assert_as_undisturbed(folder: Path, undisturbed: Path) -> None:
    there, expected = contents(folder), contents(undisturbed)
    assert sorted(there.keys() ^ expected.keys()) == []
    assert [name for name in there if there[name] != expected[name]] == []
    assert verify(folder).data["faults"] == []


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a build but those that say when and by whom it was made."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = {name: path.read_bytes() for name, path in files.items() if _is_lasting(name)}
    found["report.md"] = SECONDS.sub("", found["report.md"].decode()).encode()
    found["report.html"] = TIMED.sub(b"", found["report.html"])
    found.pop("previews/run.svg", None)
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Which files are there, and when they were written. What is not yet whole is nobody's: it comes and goes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        stray = any(map(is_stray, Path(name).parts))
        if not stray and path.is_file() and (_is_lasting(name) or name == "ledger.jsonl"):
            status = path.stat()
            found[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


def _is_lasting(name: str) -> bool:
    return name != "ledger.jsonl" and name.partition("/")[0] not in (".claim", "logs")


def _is_finished(folder: Path) -> bool:
    try:
        return '"outcome"' in (folder / "ledger.jsonl").read_text()
    except FileNotFoundError:
        return False
