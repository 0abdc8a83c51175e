"""What went wrong in a build: its errors, counted."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from cube.job.folder import BuildFolder
from cube.job.split import ledger_of
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.errors import UsageError

__all__ = ["errors"]


def errors(root: Path) -> Answer:
    """Count what ``errors.csv`` of a build lists; of a build that has none yet, what its ledger does.

    Returns
    -------
    Answer
        A line for each kind and reason, the most frequent first; as data, those ``problems`` and all ``rows``.

    Raises
    ------
    UsageError
        If there is no build in the folder, or its ``errors.csv`` is not one.
    """
    folder = BuildFolder(root)
    folder.described()
    if folder.errors.exists():
        rows = _read(folder.errors)
    else:
        rows = [{k: str(v) for k, v in asdict(p).items()} for p in ledger_of(folder).problems()]
    inside = f"{folder.root.absolute()}/"
    counted = Counter((row["kind"], row["reason"].replace(inside, "")) for row in rows)
    lines = [f"{count:6d} x {kind}: {reason}" for (kind, reason), count in counted.most_common()]
    data = {"problems": [{"kind": k, "reason": r, "count": n} for (k, r), n in counted.most_common()], "rows": rows}
    return Answer(0, (*lines, f"{root}: {many(len(rows), 'error')}"), data)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, str]] = list(csv.DictReader(file, strict=True))
        whole = bool(rows) and all(
            {"kind", "reason"} <= row.keys() and None not in row and None not in row.values() for row in rows
        )
    except (csv.Error, UnicodeDecodeError):
        whole = False
    if not whole:
        raise UsageError(
            f"{path} is damaged: it is not a table with the columns kind and reason; run the same command again"
        )
    return rows
