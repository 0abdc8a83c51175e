"""A build that is split: each part is made by a job of its own, and a run of the whole takes in what they made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger
from cube.job.listing import Listing
from cube.job.parts import SHARDS, Part, refuse_other_split
from cube.job.source import Inspection, Split
from stratacube.choices import many
from stratacube.claim import CLAIM, Fence, claimed, holder_of, refuse_claimed
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import remove

__all__ = ["PartState", "ledger_of", "opened_part", "part_states", "refuse_missing", "take_in"]

_NAMED = 5
"""Missing tasks and parts that are named one by one."""
_AT_ONCE = 1000
"""Entries that are taken in with one flush to the disk."""


def ledger_of(folder: BuildFolder, brief: str | None = None) -> Ledger:
    """Ledger of a build and of its parts, for looking at it; see :class:`~cube.job.ledger.Ledger`."""
    ledger = Ledger(folder.ledger, brief=brief)
    for part in Part.there(folder.root):
        ledger.overlay(part.ledger(folder.root))
    return ledger


@contextmanager
def opened_part(
    folder: BuildFolder, part: Part, described: Mapping[str, Any], digest: str
) -> Iterator[tuple[Fence, Ledger]]:
    """Own a part of a planned build within the block.

    Yields
    ------
    fence : Fence
        Of the part; what is written below the build's folder is recorded.
    ledger : Ledger
        Its own, over the build's.

    Raises
    ------
    ClaimedError
        If another job is at this part, or a run at the whole.
    UsageError
        If there is no such build, it is not planned, or was split otherwise.
    """
    root = folder.root
    if not folder.plan.exists() or "planned" not in Ledger(folder.ledger).entries:
        raise UsageError(
            f"{root} holds no plan of which `shard={part}` could be made; run the same command with `plan_only` "
            "instead of `shard` first"
        )
    folder.described()
    folder.refuse_other(described, digest)
    refuse_other_split(root, part)
    home = part.folder(root)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{home} cannot be made ({error.strerror}); give permission or room there") from error
    with claimed(root, home / CLAIM, told=home) as fence:
        refuse_claimed(root)
        refuse_other_split(root, part)
        yield fence, Ledger(part.ledger(root), [folder.ledger])


def split_of(inspection: Inspection) -> Split:
    """What is particular to split builds of a source.

    Raises
    ------
    UsageError
        If its builds cannot be split.
    """
    if not isinstance(inspection, Split):
        raise UsageError(
            f"builds of the source {inspection.folder.SOURCE!r} cannot be split; run the command without `shard`"
        )
    return inspection


def take_in(folder: BuildFolder, inspection: Inspection) -> bool:
    """Have the build's own ledger know what the parts made, and put the parts away; the caller owns the folder.

    Returns
    -------
    bool
        Whether there was anything.
    """
    parts = Part.there(folder.root)
    if not parts:
        return False
    ledger, joined = Ledger(folder.ledger), split_of(inspection).joined
    for part in parts:
        batch: list[Entry] = []
        of_part = Ledger(part.ledger(folder.root))
        for key, files in of_part.files_of(of_part.entries):
            new, there = replace(of_part.entries[key], files=files), ledger.entries.get(key)
            batch.append(new if there is None else joined(there, new))
            if len(batch) == _AT_ONCE:
                ledger.record(*batch)
                batch = []
        if batch:
            ledger.record(*batch)
    remove(folder.root / SHARDS)
    return True


def refuse_missing(folder: BuildFolder, inspection: Inspection) -> None:
    """Refuse to publish a build of which something was not made, or is lost since.

    Raises
    ------
    StratacubeError
        If so: which tasks, and which parts make them.
    """
    keys, ledger, listing = split_of(inspection).keys(folder), ledger_of(folder), Listing(folder.root)
    lost = {key for key in keys if key not in ledger.entries}
    lost |= {key for key, files in ledger.files_of(keys) if not listing.holds(files or ())}
    if not lost:
        return
    names = [key for key in keys if key in lost]
    there = Part.there(folder.root)
    remedy = "run the build's command to make them"
    if there:
        of = there[0].of
        lacking = [p for p in (Part(of, number) for number in range(1, of + 1)) if not lost.isdisjoint(p.share(keys))]
        remedy = f"run {_listed([f'`shard={p}`' for p in lacking])} again, or the build's command without `shard`"
    raise StratacubeError(
        f"of {many(len(keys), 'task')} of {folder.root}, {len(names)} are missing ({_listed(names)}); {remedy}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True)
class PartState:
    """How far one part is."""

    part: Part
    tasks: int
    made: int
    """Of them, those that its job has ended, well or not."""
    owner: str
    """Who is at it, in words; empty if nobody is."""


def part_states(folder: BuildFolder, inspection: Inspection, ledger: Ledger) -> list[PartState]:
    """Tell how far each part of a split build is; none of a build that is not split."""
    there = Part.there(folder.root)
    if not there or not isinstance(inspection, Split):
        return []
    keys, states = inspection.keys(folder), []
    for number in range(1, there[0].of + 1):
        part = Part(there[0].of, number)
        share = part.share(keys)
        owner = holder_of(part.folder(folder.root))
        made = sum(key in ledger.entries for key in share)
        states.append(PartState(part, len(share), made, owner.told() if owner else ""))
    return states
