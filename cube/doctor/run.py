"""The command: all that is tried, in groups, and what came of it in words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cube.doctor.engines import engines
from cube.doctor.machine import machine
from cube.doctor.software import software
from cube.plug import imported_of_plug
from cube.registry import SOURCES
from stratacube.checks import Check, Checks, OfflineError, State
from stratacube.choices import many, nearest, one_of
from stratacube.colours import painted
from stratacube.command import Answer
from stratacube.errors import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["doctor"]

_COLOURS: Mapping[State, str] = {"works": "green", "lacks": "yellow", "broken": "red"}


def doctor(folder: Path = Path(), *, live: bool = False, services: Mapping[str, str] | None = None) -> Answer:
    """Try what builds and training need, or the services that they ask.

    Parameters
    ----------
    folder
        Where builds are to lie.
    live
        Ask the services: a search, a token and less than a megabyte of files.
    services
        Addresses to ask in place of the services' own, by name.

    Returns
    -------
    Answer
        Code 1 if something is broken, or no network is there to ask by.

    Raises
    ------
    UsageError
        If a service has no such name.
    """
    sources = dict(_sources())
    known = [name for checks in sources.values() for name in checks.services]
    wrong = next((name for name in services or {} if name not in known), None)
    if wrong is not None:
        raise UsageError(f"`service` names {wrong!r}: give {one_of(known)}{nearest(wrong, known)}")
    groups: list[tuple[str, Iterable[Check]]]
    if live:
        groups, offline = _live(sources, services or {})
        if len(offline) == len(groups):
            told = f"no network: {'; '.join(offline)}; check the network and its proxy"
            return Answer(1, [told], [{"group": "network", **vars(Check("network", "broken", told))}])
    else:
        groups = [("software", software()), ("machine", machine(folder)), ("engines", engines())]
        groups += [(checks.title, checks.here()) for checks in sources.values()]
    found = [(title, check) for title, checks in groups for check in checks]
    data = [{"group": title, **vars(check)} for title, check in found]
    return Answer(int(any(c.state == "broken" for _, c in found)), [*_lines(found)], data)


def run_doctor(options: argparse.Namespace) -> Answer:
    """Do what the command line asks for."""
    pairs = [text.partition("=") for text in options.service or ()]
    wrong = next((name for name, equals, address in pairs if not (name and equals and address)), None)
    if wrong is not None:
        raise UsageError(f"`service` is {wrong!r}: give names and addresses such as stac=http://localhost:8080")
    return doctor(options.folder, live=options.live, services={name: address for name, _, address in pairs})


def _sources() -> Iterator[tuple[str, Checks]]:
    for name, plug in SOURCES.all().items():
        place = getattr(plug, "checks", "")
        if place:
            with SOURCES.blamed(name):
                yield name, imported_of_plug(place)


def _live(
    sources: Mapping[str, Checks], services: Mapping[str, str]
) -> tuple[list[tuple[str, Iterable[Check]]], list[str]]:
    """Ask all services; return what was found, and of those that are not reached why."""
    groups, offline = list[tuple[str, Iterable[Check]]](), list[str]()
    for checks in sources.values():
        own = {name: address for name, address in services.items() if name in checks.services}
        found = list[Check]()
        try:
            found.extend(checks.live(own))
        except OfflineError as error:
            offline.append(str(error))
            found.append(Check("network", "broken", str(error), "check the network and its proxy"))
        groups.append((checks.title, found))
    return groups, offline


def _lines(found: Iterable[tuple[str, Check]]) -> Iterator[str]:
    """Say what was found, by groups; at the end, how much of it works."""
    found, before = list(found), ""
    for title, check in found:
        if title != before:
            yield painted(title, "bold", sys.stdout)
        before = title
        state = painted(f"{check.state:<7}", _COLOURS[check.state], sys.stdout)
        yield f"  {state} {check.what}: {check.told}"
        if check.remedy and check.state != "works":
            yield f"          to mend it: {check.remedy}"
    states = [check.state for _, check in found]
    parts = [f"{states.count('works')} of {many(len(found), 'check')} work"]
    parts += [f"{states.count('lacks')} lack something that some builds need"] * ("lacks" in states)
    parts += [f"{states.count('broken')} broken"] * ("broken" in states)
    yield ", ".join(parts)
