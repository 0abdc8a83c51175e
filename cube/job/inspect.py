"""Looking at a build: how far it is, and whether it holds all that it should."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from cube.job.folder import BuildFolder
from cube.job.listing import Listing
from cube.job.outcome import is_lack
from cube.job.source import Inspection, Planned
from cube.job.split import ledger_of, part_states
from cube.plug import imported_of_plug
from cube.registry import SOURCES
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.errors import StratacubeError, UsageError
from stratacube.guard import guarded, named
from stratacube.progress import iterate

__all__ = ["inspection_of", "status", "verify"]

_PARTS_NAMED = 20
"""Unfinished parts of a split build that ``status`` names."""


def inspection_of(folder: BuildFolder) -> Inspection:
    """What is particular to the builds of the source of a folder.

    Raises
    ------
    UsageError
        If there is no build in it, or one of a source that is not known here.
    """
    source = folder.source()
    if source not in SOURCES.names():
        raise UsageError(
            f"{folder.config} is of the source {source!r}, which is not known here "
            f"({', '.join(SOURCES.names())}); use the version that made it, or install what it came from"
        )
    found: Inspection = imported_of_plug(SOURCES.load(source).inspection)
    return found


class _Build:
    """A build as the ledger knows it."""

    def __init__(self, root: Path, *, brief: bool = False) -> None:
        plain = BuildFolder(root)
        self.config = plain.described()
        self.inspection = inspection_of(plain)
        self.folder = self.inspection.folder(root)
        self.title = self._title(plain.source())
        self.ledger = ledger_of(self.folder, self.inspection.tasks if brief else None)
        self.parts = part_states(self.folder, self.inspection, self.ledger)
        self.planned = self._planned()
        self.states = Counter(
            entry.status for key, entry in self.ledger.entries.items() if key.startswith(self.inspection.tasks)
        )

    def _title(self, source: str) -> str:
        """What the build makes, in words; a configuration that was altered is told here."""
        config, remedy = self.folder.config, "restore it from a copy, or run the build's command again"
        with guarded(f"{config} is damaged", remedy), named(str(config)), SOURCES.blamed(source):
            return self.inspection.title(self.config)

    def _planned(self) -> Planned | None:
        entry = self.ledger.entries.get("planned")
        if entry is not None:
            with suppress(KeyError, ValueError):  # damaged: a run writes it anew
                return Planned(int(entry.facts["tasks"]), str(entry.facts["words"]))
        return self.inspection.planned(self.folder) if self.folder.plan.exists() else None  # of 0.1.0

    @property
    def published(self) -> bool:
        """Whether the catalog was written, of all that was made."""
        return not self.parts and self._described

    @property
    def _described(self) -> bool:
        return "publish" in self.ledger.entries or (
            "planned" not in self.ledger.entries and self.folder.catalog.exists()
        )

    def lacks(self) -> dict[str, int]:
        """What is missing, counted by kind and reason, as the last run said."""
        entry = self.ledger.entries.get("outcome")
        if entry is not None:
            return {w: int(n) for w, n in entry.figures.items() if isinstance(n, int | float) and math.isfinite(n)}
        return dict(Counter(f"{p.kind}: {p.reason}" for p in self.ledger.problems()))

    def is_whole(self) -> bool:
        """Whether the last run ended with nothing lacking."""
        entry = self.ledger.entries.get("outcome")
        done = self.planned is not None and self.states["done"] == self.planned.tasks and self.published
        lacking = entry.status != "done" if entry else any(is_lack(p) for p in self.ledger.problems())
        return done and not lacking


def _named(look: Callable[[Path], Answer]) -> Callable[[Path], Answer]:
    """Name the source where what looks at its builds fails."""

    @wraps(look)
    def looked(root: Path) -> Answer:
        source = ""
        with suppress(StratacubeError):  # which the look will say
            source = BuildFolder(root).source()
        with SOURCES.blamed(source):
            return look(root)

    return looked


@_named
def status(root: Path) -> Answer:
    """Tell how far a build is, by its ledger alone: what was written is not looked at.

    Returns
    -------
    Answer
        Code 0 when all tasks are done and nothing is lacking, 1 otherwise.

    Raises
    ------
    UsageError
        If there is no build in the folder.
    """
    build = _Build(root, brief=True)
    lines = [f"{root}: {build.title}"]
    data: dict[str, Any] = {"folder": str(root), "title": build.title}
    if build.planned is None:
        return Answer(1, [*lines, "planned    not yet"], {**data, "planned": None})
    states = {name: build.states[name] for name in ("done", "partial", "failed", "begun")}
    states["to do"] = build.planned.tasks - sum(states.values())
    lacks = build.lacks()
    lines.append(f"planned    {build.planned.words}")
    lines += [f"{name:10} {number}" for name, number in states.items() if number]
    lines += _told_parts(build)
    lines.append(f"published  {'yes' if build.published else 'not yet'}")
    lines += [f"{number:6d} x {what}" for what, number in lacks.items()]
    lines.append("(by the ledger; verify looks at the files)")
    code = 0 if build.is_whole() else 1
    data |= {"planned": build.planned.words, "tasks": build.planned.tasks, **states, "published": build.published}
    parts = [(*what.partition(": "), n) for what, n in lacks.items()]
    problems = [{"kind": kind, "reason": reason, "count": n} for kind, _, reason, n in parts]
    if build.parts:
        data["parts"] = [
            {"part": str(p.part), "tasks": p.tasks, "made": p.made, "at_work": p.owner or None} for p in build.parts
        ]
    return Answer(code, lines, {**data, "problems": problems, "whole": code == 0})


def _told_parts(build: _Build) -> list[str]:
    """Say how far the parts of a split build are, the unfinished ones by name."""
    open_parts = [p for p in build.parts if p.made < p.tasks or p.owner]
    lines = [f"parts      {len(build.parts)}, {len(build.parts) - len(open_parts)} of them done"] * bool(build.parts)
    for one in open_parts[:_PARTS_NAMED]:
        lines.append(f"  part {one.part}: {one.made} of {one.tasks} made, " + (one.owner or "nobody is at it"))
    more = len(open_parts) - _PARTS_NAMED
    return [*lines, f"  and {more} more"] if more > 0 else lines


@_named
def verify(root: Path) -> Answer:
    """Read all that was written, and compare it with what the ledger says of it and with what the plan asks for.

    Returns
    -------
    Answer
        Code 0 when nothing is wrong, 1 otherwise; each fault is a line.

    Raises
    ------
    UsageError
        If there is no build in the folder.
    """
    build = _Build(root)
    faults, notes = list(_faults(build)), _notes(build)
    lines = [*(f"fault: {fault}" for fault in faults), *notes, f"{root}: {many(len(faults), 'fault')}"]
    return Answer(
        int(bool(faults)), lines, {"folder": str(root), "faults": faults, "notes": notes, "whole": not faults}
    )


def _notes(build: _Build) -> list[str]:
    files = build.ledger.files_of(build.ledger.entries)
    unknown = sum(written is None for _, written in files)
    return [f"no digests recorded for {unknown} tasks, which 0.1.0 made: they were decoded instead"] if unknown else []


def _faults(build: _Build) -> Iterator[str]:
    folder, ledger = build.folder, build.ledger
    if build.planned is None:
        yield f"{folder.plan} is missing: the build has not been planned"
        return
    to_do = build.planned.tasks
    for key, entry in ledger.entries.items():
        if key.startswith(build.inspection.tasks):
            to_do -= 1
            if entry.status != "done":
                reason = next((p.reason for p in entry.problems), "its last step is to do")
                yield f"{key} is {entry.status}: {reason}"
    if to_do > 0:
        yield f"{to_do} of {build.planned.tasks} tasks have not been built"
    if "outcome" in ledger.entries and not build.is_whole() and not any(p for p in ledger.problems() if is_lack(p)):
        yield from (f"{what} ({number})" for what, number in build.lacks().items() if not what.startswith("avoided"))
    yield from _written_faults(build)
    if folder.plan.exists():
        yield from _product_faults(build)
    else:
        yield f"{folder.plan} is missing; run the same command again"
    yield from _link_faults(folder)


def _written_faults(build: _Build) -> Iterator[str]:
    """Every byte is the one that was written."""
    listing = Listing(build.folder.root)
    again = "run the same command again"
    keys = list(build.ledger.entries)
    for key, files in iterate(build.ledger.files_of(keys), "verifying", len(keys)):
        if build.ledger.entries[key].status != "begun":  # what those list is scratch
            for fault in listing.faults(files or (), thorough=True):
                yield f"{fault} ({key}); {again if fault.endswith('is missing') else f'remove it and {again}'}"


def _product_faults(build: _Build) -> Iterator[str]:
    """By what the products hold; what describes them may be damaged in any way."""
    try:
        yield from build.inspection.faults(build.folder, build.config, build.ledger)
    except Exception as error:  # noqa: BLE001  (zarr raises whatever its metadata trips it into)
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        yield f"the products in {build.folder.root} cannot be read ({told}); run the same command again"


def _link_faults(folder: BuildFolder) -> Iterator[str]:
    """Every relative link and asset of the catalog leads to something; sources need not be there any more."""
    if not folder.catalog.exists():
        yield f"{folder.catalog} is missing: the build has not been published"
        return
    waiting, seen = [folder.catalog], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        try:
            described = json.loads(path.read_text())
            links: list[Mapping[str, str]] = described.get("links", [])
            hrefs = [(link["href"], link["rel"]) for link in links if link["rel"] != "derived_from"]
            hrefs += [(asset["href"], "asset") for asset in described.get("assets", {}).values()]
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            yield f"{path} cannot be read ({error})"
            continue
        for href, rel in hrefs:
            if "://" in href:
                continue
            target = (path.parent / href).resolve()
            if not target.exists():
                yield f"{path} leads to {href}, which is not there"
            elif rel in ("child", "item") and target not in seen:
                waiting.append(target)
