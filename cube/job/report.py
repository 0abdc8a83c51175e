"""The report of a build: what was asked, what was made, what is missing and how to open it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cube.job.ledger import Problem
from stratacube.files import write_text

__all__ = ["Report", "markdown_table", "reason_table", "write_report"]

MOST_ROWS = 20
"""Of a table of reasons; the files named below it hold the rest."""


@dataclass(frozen=True)
class Report:
    """What a source has to tell of a build; Markdown, where it is text."""

    title: str
    summary: str
    asked: Sequence[tuple[str, object]]
    """Settings and their values."""
    made: str
    sources: str
    left_out: str
    """What was not chosen, and why."""
    opening: str
    """Code that opens what was made."""
    picture: Path | None = None
    """Relative to the folder of the build."""


def write_report(
    path: Path, report: Report, problems: Sequence[Problem], laps: Mapping[str, float], created: datetime, digest: str
) -> None:
    """Write ``report.md``.

    Parameters
    ----------
    path
        Where.
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
    avoided = [p for p in problems if p.kind == "avoided"]
    lacks = [p for p in problems if p.kind != "avoided"]
    parts = [
        f"# {report.title}",
        report.summary + (f" Errors: {len(lacks)}, counted below." if lacks else ""),
        f"Built with stratacube, begun {created:%Y-%m-%d %H:%M} UTC, configuration {digest}.",
        "## Asked",
        markdown_table(["Setting", "Value"], report.asked) + "\n\nEvery setting is in config.yaml.",
        "## Made",
        report.made,
        "" if report.picture is None else f"![Contact sheet]({report.picture.as_posix()})",
        "## Sources",
        report.sources,
        "## Errors",
        reason_table("Error", _by_reason(lacks), "None.", "errors.csv"),
        *(
            ["Avoided, and others taken:", reason_table("Reason", _by_reason(avoided), "", "errors.csv")]
            * bool(avoided)
        ),
        "## Left out",
        report.left_out,
        "## How to open",
        report.opening,
        "## Time taken",
        markdown_table(["Step", "Seconds"], [(name, f"{seconds:.1f}") for name, seconds in laps.items()]),
    ]
    write_text(path, "\n\n".join(part.strip() for part in parts if part) + "\n")


def _by_reason(problems: Sequence[Problem]) -> list[tuple[str, int]]:
    """Count problems by reason, the most frequent first, then by name."""
    return sorted(Counter(p.reason for p in problems).items(), key=lambda r: (-r[1], r[0]))


def reason_table(what: str, counted: Sequence[tuple[str, int]], none: str, file: str) -> str:
    """Return a table of counted reasons; of long ones, the head."""
    if not counted:
        return none
    table = markdown_table([what, "Count"], counted[:MOST_ROWS])
    rest = len(counted) - MOST_ROWS
    return f"{table}\n\n{rest} more are in {file}." if rest > 0 else table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers to the right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    numeric = [all(row[i].replace(".", "", 1).isdigit() for row in cells) for i in range(len(header))]
    lines = [list(header), ["---:" if right else "---" for right in numeric], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
