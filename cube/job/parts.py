"""Parts of a build that jobs of an array make at once: which share each has, where it is kept, and who is at it.

A part has a folder of its own below ``shards/`` in the build's: its claim, and its ledger, whose entries stand over
those of the build until a run that owns the whole folder takes them in. Of two that want the folder, as a part and as a
whole, each claims what it wants first and then looks at the other's claim: one of them at least sees the other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from stratacube.claim import refuse_claimed
from stratacube.errors import UsageError

__all__ = ["SHARDS", "TOLD", "Part", "Shard", "refuse_living_parts", "refuse_other_split"]

SHARDS = "shards"
"""Folder of the parts, in that of the build."""

_FORM = re.compile(r"(\d{1,7})/(\d{1,7})")
_OF_ARRAY = re.compile(r"array(?:/(\d{1,7}))?")
_KEPT = re.compile(r"(\d{1,7})-of-(\d{1,7})")
_GIVE = "give K/N with K from 1 to N, such as 2/5, or in a job array of Slurm array, or array/N"

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Part:
    """One part of a build that is split."""

    of: int
    """Into how many it is split."""
    number: int
    """Which one, from 1."""

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] | None = None) -> Part:
        """Read what a user gives: ``2/5``, or which task of Slurm's array this process is.

        Parameters
        ----------
        text
            ``K/N``; ``array``, where the array's tasks are all N parts in their order; ``array/N``, where the numbers
            of its tasks are those of the parts, of which some may be left out.
        environment
            Of the process by default.

        Raises
        ------
        UsageError
            If it is none of these, or there is no such part.
        """
        of_array = _OF_ARRAY.fullmatch(text)
        if of_array:
            values = os.environ if environment is None else environment
            return _of_array(text, of_array[1], values)
        return cls._checked(text)

    @classmethod
    def _checked(cls, text: str) -> Part:
        found = _FORM.fullmatch(text)
        if not found:
            raise UsageError(f"`shard` is {text!r}: {_GIVE}")
        number, of = int(found[1]), int(found[2])
        if not 1 <= number <= of:
            raise UsageError(f"`shard` is {text!r}: there is no part {number} of {of}; {_GIVE}")
        return cls(of, number)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.number}-of-{self.of}"

    def folder(self, root: Path) -> Path:
        """Where its claim and its ledger lie."""
        return root / SHARDS / self.name

    def ledger(self, root: Path) -> Path:
        """What it has done."""
        return self.folder(root) / "ledger.jsonl"

    def share(self, tasks: Sequence[T]) -> Sequence[T]:
        """Return its tasks: those that follow one another, for they share their sources."""
        count = len(tasks)
        return tasks[(self.number - 1) * count // self.of : self.number * count // self.of]

    @classmethod
    def there(cls, root: Path) -> list[Part]:
        """Parts that jobs have begun in a folder, and that no run has taken in."""
        try:
            names = os.listdir(root / SHARDS)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (_KEPT.fullmatch(name) for name in names)
        return sorted(cls(int(one[2]), int(one[1])) for one in found if one)


def _of_array(text: str, of: str | None, values: Mapping[str, str]) -> Part:
    """Part of a task of Slurm's array; see *Job array support* in its documentation for the variables."""
    names = ("TASK_ID", "TASK_MIN", "TASK_MAX", "TASK_COUNT")
    given = [values.get(f"SLURM_ARRAY_{name}", "") for name in names]
    task, low, high, count = (int(one) if one.isdecimal() else -1 for one in given)
    if task < 0:
        raise UsageError(
            f"`shard` is {text!r}, and this is not a task of a job array (SLURM_ARRAY_TASK_ID is not set): "
            "submit it by sbatch --array=1-N, or give K/N"
        )
    if of is not None:
        return Part._checked(f"{task}/{of}")
    step = values.get("SLURM_ARRAY_TASK_STEP", "")
    step_size = max(1, int(step) if step.isdecimal() else 1)
    if min(low, high, count) < 0 or (high - low) % step_size or (high - low) // step_size + 1 != count:
        raise UsageError(
            f"`shard` is 'array', and the {count} tasks of this array from {low} to {high} do not follow one another: "
            "give array/N, where the numbers of the tasks are those of the parts"
        )
    return Part(count, (task - low) // step_size + 1)


def _form(text: str) -> str:
    if not _OF_ARRAY.fullmatch(text):
        try:
            Part.parse(text)
        except UsageError as error:
            raise ValueError(str(error).partition(": ")[2]) from None
    return text


Shard = Annotated[str, AfterValidator(_form)]
"""Which part a job makes, in a configuration."""

TOLD = "make part K/N of a planned build beside other jobs; in a job array: array, or array/N"
"""What help says of it."""


def refuse_living_parts(root: Path) -> None:
    """Refuse to own a folder while jobs are at parts of it.

    Raises
    ------
    ClaimedError
        If one is.
    """
    for part in Part.there(root):
        refuse_claimed(part.folder(root))


def refuse_other_split(root: Path, part: Part) -> None:
    """Refuse to make a part of another split than the one that was begun: two jobs would have tasks in common.

    Raises
    ------
    UsageError
        If there is another.
    """
    other = next((p for p in Part.there(root) if p.of != part.of), None)
    if other is not None:
        raise UsageError(
            f"{root} is split into {other.of} parts, and `shard` asks for one of {part.of}; give `shard=K/{other.of}` "
            "as the other jobs, or make what is left in one by the same command without `shard`"
        )
