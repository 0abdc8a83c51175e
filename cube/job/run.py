"""One run: the folder it owns, its workers, and the ledger by which it passes over what is done."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cube.job.engine import Outcome, Task, Workers, run_tasks
from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger, Problem
from cube.job.listing import Listing
from stratacube.errors import PlugError, StratacubeError
from stratacube.files import Written, check_guards, digest_of, remove, remove_strays

__all__ = ["Run"]

_log = logging.getLogger(__name__)

T = TypeVar("T", bound=Task)
R = TypeVar("R")

_NO_SPACE = "No space left on device"
"""How the system words a full disk."""
_TOLD = 5
"""Losses named one by one: where a whole array is gone, there are as many as shards."""
_ROOM = 1 << 25
"""Bytes that a disk must take to be not full: one that failed may have removed its file, of about this size."""

Expected = Callable[[Entry], Iterable[str]]


class Run:
    """What the steps of a source are given.

    Parameters
    ----------
    folder
        Of the build; the caller holds its claim.
    workers
        Where tasks run.
    retries
        How often a task is tried again after an error of the machine.
    expected
        Files that a task must have written, where a ledger of 0.1.0 does not tell.
    ledger
        Where it tells what it has done, if not in the folder's: then other jobs are at work in the folder too.
    """

    def __init__(
        self,
        folder: BuildFolder,
        workers: Workers,
        retries: int,
        expected: Expected,
        ledger: Ledger | None = None,
    ) -> None:
        self.folder, self.workers, self.retries = folder, workers, retries
        self.ledger = Ledger(folder.ledger) if ledger is None else ledger
        self.alone = ledger is None
        """Whether what lies half-written in the folder is a killed run's, and not another job's that lives."""
        self.changed = False
        """Whether this run has made anything."""
        self._expected = expected
        self._warned: set[str] = set()
        self._listing: Listing | None = None

    def keep(
        self,
        step: str,
        make: Callable[[], None],
        parts: Callable[[], Iterable[Path]],
        *,
        mark: Path | None = None,
        anew: bool = False,
        fixed: bool = False,
    ) -> bool:
        """Make what a step makes, unless it is there as it was written.

        Parameters
        ----------
        step
            Its name in the ledger.
        make
            Makes it.
        parts
            Tells the files and folders it consists of, once it is made.
        mark
            The file that is written last: where it is, and the ledger does not know the step (it was killed between
            the two, or is of 0.1.0), the step is taken as it is.
        anew
            Make it in any case.
        fixed
            What was made of it stands or falls with it: made once more, it must be what it was.

        Returns
        -------
        bool
            Whether it was made.

        Raises
        ------
        StratacubeError
            If it is ``fixed`` and came out otherwise.
        """
        entry = self.ledger.entries.get(step)
        if entry is not None and not anew:
            if self.holds([step]):
                return False
            self.clear([step])
        begun = time.monotonic()
        found = entry is None and not anew and mark is not None and mark.exists() and all(p.exists() for p in parts())
        if not found:
            make()
        self._listing = None
        written = tuple(sorted(self._told(parts())))
        _, before = next(iter(self.ledger.files_of([step])), (step, None))
        if fixed and entry is not None and written != before:
            for file in written:
                remove(self.folder.root / file.path)
            lost = ", ".join(f.path for f in before or ())
            raise StratacubeError(
                f"the {step} of {self.folder.root} is lost or damaged ({lost}), and made anew it is another, for what "
                "it is made from has changed since; restore it from a copy, or build anew with `overwrite`"
            )
        if entry is None or written != before:  # the same once more: what the ledger says of it stands, its time too
            self.ledger.record(Entry(step, "done", (), {"seconds": time.monotonic() - begun}, files=written))
        self.changed |= not found
        return not found

    def clear(self, keys: Iterable[str]) -> None:
        """Remove what tasks wrote and what is not as it was written: damaged, it would be read as if it were whole."""
        listing = self._listed()
        for _, files in self.ledger.files_of(keys):
            for file in files or ():
                if listing.size(file.path) is not None and not listing.holds([file], small=True):
                    self._listing = None
                    check_guards(self.folder.root / file.path)
                    with suppress(OSError):  # what cannot be removed will not be replaced either, and that is told
                        (self.folder.root / file.path).unlink()

    def _listed(self) -> Listing:
        """What lies in the folder, listed once until something is written or removed."""
        if self._listing is None:
            self._listing = Listing(self.folder.root, tidy=self.alone)
        return self._listing

    def _told(self, parts: Iterable[Path]) -> Iterator[Written]:
        for part in parts:
            remove_strays(part)  # of a killed run, which did not come to tell what it wrote
            for path in sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part]:
                yield Written(path.relative_to(self.folder.root).as_posix(), path.stat().st_size, digest_of(path))

    def say(self, text: str, *values: object) -> None:
        """Tell the user something of the run."""
        _log.info(text, *values)

    def seconds(self, step: str) -> float | None:
        """How long a step took, when it was last made."""
        entry = self.ledger.entries.get(step)
        return None if entry is None else entry.figures.get("seconds")

    def holds(self, keys: Iterable[str]) -> bool:
        """Whether some tasks are done and all that they wrote is there as it was written.

        A ledger of 0.1.0, which has no word on the configuration either, knew no steps: they are taken as done.
        """
        keys = list(keys)
        unknown = [k for k in keys if k not in self.ledger.entries]
        return not (unknown and "config" in self.ledger.entries) and not self._lost(keys, small=True)

    def require(self, step: str, told: Path) -> None:
        """Refuse to go on without what a step wrote, which is not this job's to write.

        Raises
        ------
        StratacubeError
            If it is not there as it was written.
        """
        _, files = next(iter(self.ledger.files_of([step])), (step, None))
        if files is None or not self._listed().holds(files):
            raise StratacubeError(
                f"{told} is missing or damaged, and a job of one part may not write it; "
                "run the same command with `plan_only` instead of `shard`"
            )

    def done(self, keys: Iterable[str], statuses: Iterable[str] = ("done",)) -> set[str]:
        """Return those of some tasks that need no second run.

        A partial one is tried again, for its inputs may have been mended; one whose products are not there any more,
        or not as they were written, is made anew, and what is damaged of them is removed.
        """
        allowed = set(statuses)
        known = {k: self.ledger.entries[k] for k in keys if k in self.ledger.entries}
        there = [k for k, entry in known.items() if entry.status in allowed]
        whole = set(there) - self._lost(there)
        self.clear(known.keys() - whole)
        return whole

    def _lost(self, keys: Iterable[str], *, small: bool = False) -> set[str]:
        """Tasks whose files are not as they were written; of steps, which are few, all small files are read."""
        listing, lost, news = self._listed(), set[str](), list[str]()
        for key, files in self.ledger.files_of(keys):
            if files is None:
                paths = self._expected(self.ledger.entries[key])
                fault = next((f"{p} is missing" for p in paths if listing.size(p) is None), None)
            else:
                fault = next(iter(listing.faults(files, small=small)), None)
            if fault is not None:
                lost.add(key)
                news += [f"{fault}; {key} is made again"] * (key not in self._warned)
        for text in news[:_TOLD]:
            _log.warning("%s", text)
        if len(news) > _TOLD:
            _log.warning("%d more are not as they were written, and are made again", len(news) - _TOLD)
        self._warned |= lost
        return lost

    def do(
        self, tasks: Iterable[T], function: Callable[[T], R], label: str, total: int | None = None, retries: int = -1
    ) -> Iterator[Outcome[T, R]]:
        """Run tasks and yield their outcomes; see :func:`~cube.job.engine.run_tasks`.

        Raises
        ------
        StratacubeError
            If the disk is full: every task that follows would fail for it.
        """
        retries = self.retries if retries < 0 else retries
        replaced = self.workers.replaced
        for outcome in run_tasks(tasks, function, self.workers, total=total, retries=retries, label=label):
            if outcome.error is not None and (_NO_SPACE in outcome.error or self.is_full()):
                raise StratacubeError(
                    f"the disk under {self.folder.root} is full; free some and run the same command again to go on"
                )
            if isinstance(outcome.fault, PlugError) and outcome.error not in self._warned:
                self._warned.add(str(outcome.error))
                _log.info("the traceback of what follows: %s", outcome.error, exc_info=outcome.fault)
            yield outcome
        self._listing = None
        if self.alone and self.workers.replaced > replaced:
            self._tidy()

    def _tidy(self) -> None:
        """Remove what workers that were ended at their tasks left not yet whole."""
        listing = Listing(self.folder.root, tidy=True)
        for _, files in self.ledger.files_of(self.ledger.entries):
            for file in files or ():
                listing.size(file.path)

    def record(
        self,
        key: str,
        status: str,
        problems: Iterable[Problem] = (),
        figures: Mapping[str, float] | None = None,
        empty: Iterable[str] = (),
        files: Iterable[Written] = (),
    ) -> None:
        """Put the last word on a task into the ledger."""
        ended = {**(figures or {}), "ended": round(time.time(), 3)}
        latest = {file.path: file for file in files}  # what was written twice is as it was written last
        self.ledger.record(Entry(key, status, tuple(problems), ended, tuple(empty), files=tuple(latest.values())))
        self.changed = True

    def is_full(self) -> bool:
        """Whether the disk takes no more. Only trying tells: libraries word a full disk in many ways, or not at all."""
        probe = self.folder.root / ".room.part"
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _ROOM)
        except OSError as error:
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        finally:
            probe.unlink(missing_ok=True)
        return False
