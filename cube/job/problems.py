"""What went wrong in a build: its errors, counted."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from cube.job.folder import BuildFolder
from cube.job.ledger import Ledger
from stratacube.command import Answer

__all__ = ["errors"]


def errors(root: Path) -> Answer:
    """Count what ``errors.csv`` of a build lists; of a build that has none yet, what its ledger does.

    Returns
    -------
    Answer
        A line for each kind and reason, the most frequent first; as data, ``counts`` and all ``rows``.

    Raises
    ------
    UsageError
        If there is no build in the folder.
    """
    folder = BuildFolder(root)
    folder.described()
    if folder.errors.exists():
        with folder.errors.open(newline="") as file:
            rows: list[dict[str, str]] = list(csv.DictReader(file))
    else:
        rows = [{k: str(v) for k, v in asdict(p).items()} for p in Ledger(folder.ledger).problems()]
    inside = f"{folder.root.absolute()}/"
    counted = Counter((row["kind"], row["reason"].replace(inside, "")) for row in rows)
    lines = [f"{count:6d} x {kind}: {reason}" for (kind, reason), count in counted.most_common()]
    data = {"counts": [{"kind": k, "reason": r, "count": n} for (k, r), n in counted.most_common()], "rows": rows}
    return Answer(0, (*lines, f"{root}: {len(rows)} errors"), data)
