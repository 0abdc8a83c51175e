"""What a source of builds brings to the job; all else is the job's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cube.engine_choice import EngineChoice
from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger, Problem
from cube.job.parts import Part
from cube.job.run import Run

__all__ = ["Inspection", "Manner", "Planned", "Source", "Split", "Splittable"]


@dataclass(frozen=True)
class Manner:
    """How a run goes, which changes nothing of what it makes."""

    engine: str | EngineChoice | None = None
    """Where tasks run: by default on the ranks of mpirun or srun, or on this machine."""
    workers: int = 1
    retries: int = 2
    task_minutes: float = 60.0
    """After which a task that does not end is given up."""
    overwrite: bool = False
    plan_only: bool = False
    allow_missing: bool = False
    """Problems of kind ``missing`` were expected."""
    shard: str | None = None
    """Which part of a planned build to make, as :meth:`cube.job.parts.Part.parse` reads it."""
    publish_only: bool = False
    """Build nothing; describe what the jobs of all parts have made."""

    @property
    def standing(self) -> tuple[str, ...]:
        """Which last words on a task let it be: what is partial or failed is tried again, but to be published."""
        return ("done", "partial", "failed") if self.publish_only else ("done",)


@dataclass(frozen=True)
class Planned:
    """What a plan holds."""

    tasks: int
    """How many products the ledger is to know as done."""
    words: str
    """The same in words: ``12 tiles in 3 shards``."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What else to say of it."""


class Source(Protocol):
    """One build of one source: its configuration, and the five steps where they are its own.

    A step is called in every run. What it makes it keeps by :meth:`~cube.job.run.Run.keep`, which passes over what is
    there already, as it was written.
    """

    @property
    def folder(self) -> BuildFolder:
        """Where the build lies."""
        ...

    @property
    def manner(self) -> Manner:
        """How the run goes."""
        ...

    @property
    def modules(self) -> Sequence[str]:
        """Modules of the functions that workers run."""
        ...

    @property
    def problem_columns(self) -> Mapping[str, str]:
        """Columns of ``errors.csv``: fields of :class:`~cube.job.ledger.Problem` and what users know them as."""
        ...

    def described(self) -> dict[str, Any]:
        """What determines the products, as plain values."""
        ...

    def digest(self) -> str:
        """Hash of that."""
        ...

    def estimate(self) -> Iterator[tuple[str, str]]:
        """Say what would be read, written and taken; nothing is written, and no pixel read."""
        ...

    def find(self, run: Run) -> None:
        """List the sources."""
        ...

    def plan(self, run: Run) -> Planned:
        """Choose what to make."""
        ...

    def build(self, run: Run) -> None:
        """Bring files where they must come, and make all that the ledger does not know as done."""
        ...

    def problems(self, run: Run) -> Iterable[Problem]:
        """What was lacking or went wrong, besides what the ledger's entries say."""
        ...

    def publish(self, run: Run, problems: Sequence[Problem]) -> None:
        """Describe what was made."""
        ...


@runtime_checkable
class Splittable(Source, Protocol):
    """A source of builds that jobs of an array make in parts; see :mod:`cube.job.split`."""

    def describe(self, run: Run) -> None:
        """Write the metadata of the arrays, of which no part is made yet; ``plan_only`` ends with it."""
        ...

    def build_part(self, run: Run, part: Part) -> str:
        """Make a part's share of what was planned; return in words how much that is.

        Other jobs are at work in the folder: nothing is touched but what the share's tasks write.
        """
        ...


class Inspection(Protocol):
    """What is particular to looking at the builds of one source."""

    @property
    def folder(self) -> type[BuildFolder]:
        """Kind of the folder."""
        ...

    @property
    def tasks(self) -> str:
        """How the keys of the tasks begin that a build is made of."""
        ...

    def title(self, config: Mapping[str, Any]) -> str:
        """Say what a configuration makes."""
        ...

    def planned(self, folder: BuildFolder) -> Planned:
        """Read what was planned, in a folder whose ledger does not tell."""
        ...

    def faults(self, folder: BuildFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
        """Say what is wrong with the products, by what they hold."""
        ...

    def expected(self, folder: BuildFolder, config: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Files that a task must have written, where the ledger of 0.1.0 does not tell."""
        ...


@runtime_checkable
class Split(Protocol):
    """What is particular to looking at builds that jobs make in parts, besides :class:`Inspection`."""

    def keys(self, folder: BuildFolder) -> Sequence[str]:
        """Keys of all tasks that were planned, in the order in which parts share them."""
        ...

    def joined(self, there: Entry, new: Entry) -> Entry:
        """Return the entry that stands where a part tells of a key that others, or the build, have told of."""
        ...
