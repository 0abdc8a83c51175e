"""How a run went: ``errors.csv``, the counted table, and the one law of exit codes.

0: all done. 1: a product lacks something that was asked for, or a source that would have been used cannot be read. An
input that another one replaced by rule is a row of kind ``avoided``, and lacks nobody.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cube.job.ledger import Problem
from stratacube.files import remove, write_text

__all__ = ["code_of", "counted", "is_lack", "write_errors"]

MOST_ROWS = 10


def is_lack(problem: Problem) -> bool:
    """Whether something is missing for a problem."""
    return problem.kind != "avoided"


def code_of(problems: Iterable[Problem]) -> int:
    """Exit code of a build of which this is all that went wrong."""
    return int(any(is_lack(p) for p in problems))


def counted(problems: Iterable[Problem]) -> list[tuple[str, str, int]]:
    """Kind, reason and number of problems, the most frequent first."""
    counts = Counter((p.kind, p.reason) for p in problems)
    return [(*what, n) for what, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]


def write_errors(path: Path, problems: Sequence[Problem], columns: Mapping[str, str]) -> None:
    """Write ``errors.csv``, or remove it where there is nothing to say.

    Parameters
    ----------
    path
        The file.
    problems
        Its rows; paths in the folder of the build are told from there.
    columns
        Fields to write and what users know them as.
    """
    if not problems:
        remove(path)
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns.values())
    inside = f"{path.parent}/"
    rows.writerows([getattr(p, name).replace(inside, "") for name in columns] for p in problems)
    write_text(path, text.getvalue())
