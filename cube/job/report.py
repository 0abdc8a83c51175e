"""The report of a build: what was asked, what was made, what is missing and how to open it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from catalog.publish.public import without_folders
from cube.job.ledger import Problem
from stratacube.files import write_text
from stratacube.page import Block, Facts, Page, Section, Shown, Table, as_markdown, html_of

__all__ = ["Report", "reason_table", "write_report"]

MOST_ROWS = 20
"""Of a table of reasons; the files named below it hold the rest."""
_SOFTWARE = ("stratacube", "zarr", "xarray", "numpy", "pystac")
"""What a reader must have in a like version to open what was made as it was meant."""


@dataclass(frozen=True)
class Report:
    """What a source has to tell of a build."""

    title: str
    summary: str
    asked: Sequence[tuple[str, object]]
    """Settings and their values."""
    made: Sequence[Block]
    sources: Sequence[Block]
    left_out: Sequence[Block]
    """What was not chosen, and why."""
    opening: Sequence[Block]
    """Code that opens what was made."""
    picture: Shown | None = None
    """What Markdown shows of it."""
    kicker: str = "Build"
    """What kind of build it is, in two or three words."""
    facts: Sequence[tuple[str, str, str]] = ()
    """Figures to see first: what, how much, and what to add."""
    timed: Sequence[Block] = ()
    """What else there is to say of the time that it took."""


def write_report(
    path: Path, report: Report, problems: Sequence[Problem], laps: Mapping[str, float], created: datetime, digest: str
) -> None:
    """Write ``report.md`` and, beside it, ``report.html``, which holds all that it shows.

    Parameters
    ----------
    path
        Of the Markdown.
    report
        What the source has to tell.
    problems
        What could not be read or made.
    laps
        Seconds of each step.
    created
        When the build was begun, naive UTC.
    digest
        Of its configuration.
    """
    lacks = [p for p in problems if p.kind != "avoided"]
    summary = report.summary + (f" Errors: {len(lacks)}, counted below." if lacks else "")
    begun = f"Built with stratacube, begun {created:%Y-%m-%d %H:%M} UTC, configuration {digest}."
    sections = [replace(s, blocks=[*map(_public, s.blocks)]) for s in _sections(report, problems, laps)]
    parts = [f"# {report.title}", summary, begun]
    for section in sections:
        parts += [f"## {section.title}", as_markdown(section.blocks)]
    write_text(path, "\n\n".join(part.strip() for part in parts if part) + "\n")
    page = Page(
        report.title,
        report.kicker,
        [summary, *([Facts(report.facts)] if report.facts else [])],
        [
            *(s if s.title != "Made" else replace(s, blocks=[*map(_public, report.made)]) for s in sections),
            _provenance(created, digest),
        ],
        begun,
    )
    write_text(path.with_suffix(".html"), html_of(page))


def _public(block: Block) -> Block:
    """Return what a report says without folders of the machine; code is made to be copied, and names none."""
    if isinstance(block, str):
        return without_folders(block)
    if isinstance(block, Table):
        return replace(block, rows=[[without_folders(cell) for cell in row] for row in block.cells])
    return block


def _sections(report: Report, problems: Sequence[Problem], laps: Mapping[str, float]) -> Iterator[Section]:
    avoided = [p for p in problems if p.kind == "avoided"]
    lacks = [p for p in problems if p.kind != "avoided"]
    errors = [*reason_table("Error", _by_reason(lacks), "None.", "errors.csv")]
    if avoided:
        errors += ["Avoided, and others taken:", *reason_table("Reason", _by_reason(avoided), "", "errors.csv")]
    yield Section("Asked", [Table.of(["Setting", "Value"], report.asked), "Every setting is in config.yaml."])
    yield Section("Made", [*report.made, *([report.picture] if report.picture else [])])
    yield Section("Sources", report.sources)
    yield Section("Errors", errors)
    yield Section("Left out", report.left_out)
    yield Section("How to open", report.opening)
    seconds = Table.of(["Step", "Seconds"], [(name, f"{seconds:.1f}") for name, seconds in laps.items()])
    yield Section("Time taken", [seconds, *report.timed])


def _provenance(created: datetime, digest: str) -> Section:
    software = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SOFTWARE)
    rows = [
        ("Begun", f"{created:%Y-%m-%d %H:%M} UTC"),
        ("Configuration", digest),
        ("Software", f"{software}, Python {platform.python_version()}"),
        ("Each product's sources", "the items of catalog.json, as links of the relation derived_from"),
        ("Size and digest of each file", "ledger.jsonl, one line a task"),
        ("What the runs said", "logs/pipeline.log"),
    ]
    return Section("Provenance", [Table.of(["What", "Value"], rows)])


def _by_reason(problems: Sequence[Problem]) -> list[tuple[str, int]]:
    """Count problems by reason, the most frequent first, then by name."""
    return sorted(Counter(p.reason for p in problems).items(), key=lambda r: (-r[1], r[0]))


def reason_table(what: str, counted: Sequence[tuple[str, int]], none: str, file: str) -> list[Block]:
    """Return a table of counted reasons; of long ones, the head."""
    if not counted:
        return [none] if none else []
    table = Table.of([what, "Count"], counted[:MOST_ROWS])
    rest = len(counted) - MOST_ROWS
    return [table, f"{rest} more are in {file}."] if rest > 0 else [table]
