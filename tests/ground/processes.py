"""Processes that claim folders at a test's command, and crowds of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from stratacube.claim import CLAIM

PLAYER = Path(__file__).with_name("player.py")


class Player:
    """Another process: each method is one of ``player.py``'s orders."""

    def __init__(self, *before: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, str(PLAYER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def send(self, order: str, **values: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([order, values]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"player {self.pid} ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __getattr__(self, order: str) -> Callable[..., Any]:
        def do(**values: Any) -> Any:
            self.send(order, **values)
            answer = self.answer()
            assert "error" not in answer, answer
            return answer["value"]

        return do

    def refused(self, error: str, order: str, **values: Any) -> str:
        """Sentence of the error that an order must end in."""
        self.send(order, **values)
        answer = self.answer()
        assert answer.get("error") == error, answer
        assert "\n" not in answer["text"]
        return str(answer["text"])

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as the kernel does that is out of memory; its remains stay until they are asked for."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


def ticket_of(folder: Path, number: int) -> Path:
    return folder / CLAIM / f"{number:08d}"


def age(ticket: Path, seconds: float) -> None:
    """Have a ticket's last sign of life lie back, by the clock that writes it."""
    then = ticket.stat().st_mtime - seconds
    os.utime(ticket, (then, then))


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def writes_nothing(one: Player, folder: Path, seen: Path | None = None) -> str:
    """Have a process try all ways of writing to a folder, by the name it sees it by; all files stay as they are."""
    (folder / "kept").mkdir(exist_ok=True)
    for name in ("kept/inner", "file"):
        (folder / name).write_text("before")
    before, text = sorted(folder.rglob("*")), ""
    for how, name in (("file", "file"), ("bytes", "file"), ("folder", "kept"), ("bytes", "new"), ("folder", "fresh")):
        text = one.refused("ClaimLostError", "write", path=str((seen or folder) / name), text="after", how=how)
    assert sorted(folder.rglob("*")) == before
    assert (folder / "kept" / "inner").read_text() == (folder / "file").read_text() == "before"
    return text


CROWD = """
import os, random, sys, time
from pathlib import Path
from stratacube.claim import claimed
from stratacube.errors import ClaimedError
folder, log, go, rounds = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
def say(word, number):
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{word} {number} {os.getpid()}\\n".encode())
    os.close(handle)
while not go.exists():
    time.sleep(0.002)
while rounds:
    try:
        with claimed(folder) as fence:
            say("enter", fence.number)
            time.sleep(random.uniform(0, 0.02))
            fence.check()
            say("leave", fence.number)
            rounds -= 1
    except ClaimedError as error:
        assert "process" in str(error), error
        time.sleep(random.uniform(0, 0.05))
"""


def crowd(folders: list[Path], aside: Path, size: int, rounds: int, kill: int = 0) -> list[list[str]]:
    """Let many processes have a folder, by its different names, in turn; kill some. Log of who was in when."""
    log, go = aside / "log", aside / "go"
    log.touch()
    people = {}
    for folder, _ in zip(cycle(folders), range(size), strict=False):
        one = subprocess.Popen([sys.executable, "-c", CROWD, str(folder), str(log), str(go), str(rounds)])
        people[one.pid] = one
    killed: set[int] = set()
    try:
        go.touch()
        for _ in range(kill):
            time.sleep(0.1)
            inside = [int(line.split()[2]) for line in log.read_text().splitlines()[-1:] if line.startswith("enter")]
            victim = random.choice([pid for pid in inside or people if pid not in killed] or [0])
            if victim and people[victim].poll() is None:
                people[victim].kill()
                killed.add(victim)
        for pid, one in people.items():
            assert one.wait(60) == (-signal.SIGKILL if pid in killed else 0)
    finally:
        for one in people.values():
            one.kill()
            one.wait()
    lines = [line.split() for line in log.read_text().splitlines()]
    inside = None
    for word, number, pid in lines:
        if word == "leave":
            assert inside == (number, pid)
            inside = None
        else:
            assert inside is None or int(inside[1]) in killed, f"{pid} came in beside {inside}"
            inside = (number, pid)
    numbers = [int(number) for word, number, _ in lines if word == "enter"]
    assert all(a < b for a, b in pairwise(numbers))
    return lines
