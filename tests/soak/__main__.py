"""Builds of all kinds, one after another, hurt every minute: ``python -m tests.soak --minutes 60``.

Each build is of ABI, of ABI on S3 or of Sentinel-2; by a driver that lives through the whole soak, on workers of its
own or of a scheduler of Dask that does so too; by a command of its own; or by ranks of mpirun. What a fault ended is
begun by the same command again, until it is done: then it must be, to the bit, what one makes that nobody disturbed.
After each, what driver and scheduler hold is measured: once each kind of build has gone by each engine, and libraries
are imported and caches full, it must be in the last quarter what it was in the second.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.cube.test_abi_run import put_in_bucket
from tests.job.hurting import Trouble, small_disk
from tests.job.racing import Command, Race, Starter, assert_as_undisturbed
from tests.job.small import of_abi, of_bucket, of_sentinel2
from tests.job.test_ranks import outside
from tests.s3_server import running_s3
from tests.soak.builds import Driver, Running, scheduler, tell
from tests.soak.faults import Faults

ENGINES = ("driver, local", "driver, dask", "command", "mpi")
DISK = 200_000_000
PATIENCE = 600.0
"""Seconds in which an attempt must come to an end by itself."""
GROWTH = {"MiB": 1.05, "files": 1.0, "threads": 1.0}
"""What may be held in the last quarter, of what was in the second; of files and threads two more, of memory 5 MiB."""
SPARE = {"MiB": 5, "files": 2, "threads": 2}


class Soak:
    """All that lives through it."""

    def __init__(self, scratch: Path, stack: ExitStack, asked: argparse.Namespace) -> None:
        self.asked, self.scratch, self.rng = asked, scratch, random.Random(asked.seed)
        self.starter = Starter()
        self.starter.environment.update({k: v for k, v in outside().items() if k.startswith("OMPI_ALLOW")})
        stack.callback(self.starter.end)
        self.trouble = Trouble(stack.enter_context(running_s3()))
        endpoint = stack.enter_context(self.trouble.serving())
        self.commands = self._commands(scratch, endpoint)
        self.undisturbed = {name: self._whole(name) for name in self.commands}
        self.address, self.scheduler, workers = stack.enter_context(scheduler(scratch))
        self.driver = Driver(self.starter)
        stack.callback(self.driver.end)
        self.disk: Path | None = None
        with suppress(pytest.skip.Exception):
            self.disk = stack.enter_context(small_disk(scratch / "disk", DISK))
        self.faults = Faults(self.rng, self.trouble, self.disk, workers)
        self.rows: list[dict[str, float]] = []
        self.first = [(name, engine) for name in self.commands for engine in ENGINES]
        self.rng.shuffle(self.first)
        self.last, self.tries = time.monotonic(), Counter[str]()

    def _commands(self, scratch: Path, endpoint: str) -> dict[str, Command]:
        made = {"abi": of_abi(scratch / "abi"), "sentinel2": of_sentinel2(scratch / "sentinel2")}
        made["abi on S3"] = of_bucket(scratch / "bucket", endpoint)
        put_in_bucket(self.trouble.upstream, scratch / "bucket")
        return made

    def _whole(self, name: str) -> Path:
        aside = self.scratch / f"undisturbed {name}".replace(" ", "-")
        aside.mkdir()
        one = Race(self.starter, self.commands[name], aside)
        assert one.begin().wait() == 0, one.builds[0].said.read_text()
        return one.folder

    def build(self, number: int) -> None:
        """Begin a build, hurt it when it is time, begin it again until it is done, and judge it."""
        warm = not self.first
        name, engine = (self.rng.choice([*self.commands]), self.rng.choice(ENGINES)) if warm else self.first.pop()
        aside = self.scratch / f"build-{number}"
        aside.mkdir()
        race = Race(self.starter, self.commands[name], aside)
        race.folder = (self.disk or aside) / f"work-{number}"
        begun, tries = time.monotonic(), 0
        while (code := self._attempt(race, engine)) != 0:
            tries += 1
            assert tries < 20, f"{name} by {engine} does not come to an end: {code}"
        self.faults.mend(all_of_it=True)
        assert_as_undisturbed(race.folder, self.undisturbed[name])
        shutil.rmtree(race.folder)
        shutil.rmtree(aside)
        self.tries[engine] += 1
        row = self._held()
        self.rows += [row] * warm
        told = f"{number:4d} {name} by {engine}: {time.monotonic() - begun:.1f} s, begun {tries + 1} times;"
        tell(told, " ".join(f"{name} {value:.0f};" for name, value in row.items()))

    def _attempt(self, race: Race, engine: str) -> int:
        running = Running(race, self.driver, engine, self.address)
        begun = time.monotonic()
        while (code := running.code()) is None:
            self.faults.mend()
            now = time.monotonic()
            if now - self.last > self.asked.every and now - begun > self.rng.uniform(0, 4):
                self.last = now
                self.faults.inject(running)
            assert now - begun < PATIENCE, f"{engine} does not end: {running.said.read_text()}"
            time.sleep(0.05)
        said = running.said.read_text()
        assert "Traceback" not in said, said
        if code:
            tell(f"    ended with {code}: {(said.splitlines() or [''])[-1]}")
        return code

    def _held(self) -> dict[str, float]:
        one = psutil.Process(self.scheduler)
        ours = {"MiB": one.memory_full_info().uss / 2**20, "files": one.num_fds(), "threads": one.num_threads()}
        row = {f"driver, {name}": value for name, value in self.driver.held.items()}
        return row | {f"scheduler, {name}": value for name, value in ours.items()}


def quarters(rows: list[dict[str, float]]) -> Iterator[tuple[str, float, float, bool]]:
    """Name of what was measured, its median in the second quarter and in the last, and whether it is flat."""
    part = max(1, len(rows) // 4)
    for name in rows[-1] if rows else ():
        before = median(row[name] for row in rows[part : 2 * part] or rows)
        after = median(row[name] for row in rows[-part:])
        unit = name.rpartition(" ")[2]
        yield name, before, after, after <= max(before * GROWTH[unit], before + SPARE[unit])


def main() -> int:
    """Exit code 1 where something grows; an error where a build was not made good."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch, ExitStack() as stack:
        soak, begun, number = Soak(Path(scratch), stack, asked), time.monotonic(), 0
        while time.monotonic() - begun < 60 * asked.minutes:
            number += 1
            soak.build(number)
    tell(f"\n{number} builds in {asked.minutes:g} minutes, seed {asked.seed}, none of them other than undisturbed")
    tell("by " + ", ".join(f"{engine}: {count}" for engine, count in sorted(soak.tries.items())))
    tell("faults: " + ", ".join(f"{kind}: {count}" for kind, count in sorted(Counter(soak.faults.done).items())))
    found = [*quarters(soak.rows)]
    if len(soak.rows) < 4:
        tell("too short to tell whether anything grows; give it more `minutes`")
    for name, before, after, flat in found:
        tell(f"{name}: {before:.1f} in the second quarter, {after:.1f} in the last{'' if flat else ': it grows'}")
    return int(len(soak.rows) < 4 or not all(flat for *_, flat in found))


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
